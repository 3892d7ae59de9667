"""SRDiff's two stages: an encoder that learns alone, and a network that learns with it as it then is."""

import json
from itertools import pairwise

import pytest
import torch
from gaussian_pairs import Pairs, config, task_of
from training import losses, state

from restore.train.conditional_config import Encoder
from restore.train.loop import Loop

NETWORK = {"kind": "srdiff", "channels": 8, "dim_mults": [1, 2], "rrdb_blocks": 2, "rrdb_features": 4}
PAIRS = Pairs(gain=0.9, shift=0.02, std=0.1, scale=2)
STEPS, SWITCH = 10, 5  # the encoder learns alone until then


def begun(output, pretrain=0.5, freeze=True, **keys):
    """A loop that is ready to run, or to go on."""
    plan = {"steps": STEPS, "batch": 4, "warmup": 2, "schedule": {"num_train_timesteps": 100}} | keys
    settings = config(
        NETWORK, scale=2, condition={"residual": 2.0}, encoder=Encoder(pretrain, freeze), output=output, **plan
    )
    return Loop(task_of(settings, PAIRS), PAIRS, settings, device="cpu", quiet=True)


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def watched(loop, stop=None):
    """The weights before the first step, and after each; stop: the step after which it is interrupted."""
    found, plain = [copied(loop.net)], loop._step

    def step(batch, size):
        out = plain(batch, size)
        found.append(copied(loop.net))
        loop.stop = len(found) - 1 + begin == stop
        return out

    begin, loop._step = loop.step, step
    if stop is None:
        loop.run()
    else:
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    return found


def changed(before, after, part):
    """The names of the tensors of a part that differ in any bit."""
    return {name for name in before if name.startswith(part) and not torch.equal(before[name], after[name])}


def of(weights, part):
    return {name for name in weights if name.startswith(part)}


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"checkpointing": True}, {"weight_decay": 0.1}])
def test_the_encoder_learns_alone_and_is_then_bit_identical(tmp_path, options):
    """Li et al. 2022, section 3.3. In the first half the encoder alone changes, in the second the U-Net alone: no decay
    of weights and no momentum moves what stands still. The released code has the condition inverted."""
    loop = begun(tmp_path, **options)
    found = watched(loop)
    assert len(found) == STEPS + 1
    for step, (before, after) in enumerate(pairwise(found)):
        encoder, unet = changed(before, after, "rrdb."), changed(before, after, "unet.")
        if step < SWITCH:
            assert len(encoder) > 0.9 * len(of(before, "rrdb."))  # a weight may round to itself
            assert not unet
        else:
            assert not encoder
            assert unet
    assert len(changed(found[SWITCH], found[-1], "unet.")) > 0.9 * len(of(found[0], "unet."))
    kept = state(tmp_path)
    for name in of(found[0], "rrdb."):
        assert torch.equal(kept[f"net.{name}"], found[SWITCH][name])
    for name in of(found[0], "unet."):
        assert int(kept[f"step.{name}"]) == STEPS - SWITCH  # of the optimiser


def test_what_is_exported_is_the_encoder_that_the_network_learnt_with(tmp_path):
    """Once it is frozen its average is itself, as diffusers' EMAModel has it, and lags behind no longer."""
    found, kept = watched(begun(tmp_path)), state(tmp_path)
    for name in of(found[0], "rrdb."):
        assert torch.equal(kept[f"ema.{name}"], found[SWITCH][name])


def test_without_a_freeze_the_encoder_learns_on(tmp_path):
    found = watched(begun(tmp_path, freeze=False))
    for step, (before, after) in enumerate(pairwise(found)):
        assert changed(before, after, "rrdb.")
        assert bool(changed(before, after, "unet.")) == (step >= SWITCH)


@pytest.mark.parametrize("freeze", [True, False])
def test_without_pretraining_all_learns_together(tmp_path, freeze):
    """There is nothing to freeze then: an encoder of random weights would stay one."""
    found = watched(begun(tmp_path, pretrain=0.0, freeze=freeze, steps=3))
    for before, after in pairwise(found):
        assert changed(before, after, "rrdb.")
        assert changed(before, after, "unet.")


def test_what_the_encoder_learns_alone_is_to_enlarge(tmp_path):
    """The first losses are the mean absolute error of its picture, whatever the loss of the network is."""
    loop = begun(tmp_path, loss="l2")
    enlarged = []
    plain = loop.task.loss

    def loss(model, batch, rng):
        if loop.task.progress < 0.5:
            image, y = (batch[name].permute(0, 3, 1, 2).float() / 127.5 - 1 for name in ("image", "condition"))
            enlarged.append(float((loop.net.upscaled(y) - image).detach().abs().mean()))
        return plain(model, batch, rng)

    loop.task.loss = loss
    loop.run()
    assert len(enlarged) == SWITCH
    assert losses(tmp_path)[:SWITCH] == pytest.approx(enlarged, rel=1e-3)


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("stop", [3, SWITCH, 7])
def test_a_resumed_run_is_bit_identical(tmp_path, stop, freeze):
    """Interrupted before the switch, at it and after it."""
    whole = watched(begun(tmp_path / "whole", freeze=freeze))
    first = watched(begun(tmp_path / "halves", freeze=freeze), stop=stop)
    again = begun(tmp_path / "halves", freeze=freeze)
    assert again.step == stop
    halves = [*first, *watched(again)[1:]]
    assert len(halves) == len(whole)
    for mine, theirs in zip(whole, halves, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    mine, theirs = state(tmp_path / "whole"), state(tmp_path / "halves")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    weights = [
        tmp_path / name / "prior" / "unet" / "diffusion_pytorch_model.safetensors" for name in ("whole", "halves")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_interruption_keeps_what_was_learnt_until_then(tmp_path):
    """A checkpoint of the first stage alone: a prior can be loaded, its U-Net as it began."""
    begin = begun(tmp_path / "a")
    found = watched(begin, stop=3)
    assert json.loads((tmp_path / "a" / "prior" / "condition.json").read_text())["low_res"]
    kept = state(tmp_path / "a")
    assert all(torch.equal(kept[f"net.{name}"], found[0][name]) for name in of(found[0], "unet."))
    assert not any(key.startswith("exp_avg.unet") for key in kept)
