"""Training of conditional priors: what is learnt, from what it may begin, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from conditionals import (
    DIFFUSERS,
    PALETTE,
    SR3,
    SRDIFF,
    UNET,
    Seen,
    batch_of,
    blurred_noise,
    config,
    rows,
    run,
    task_of,
)
from torch.nn.functional import interpolate
from training import settings, state, train

from restore import load_prior
from restore.errors import InputError, PriorError
from restore.train.conditional import start_from
from restore.train.conditional_config import (
    ConditionalTrain,
    Encoder,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return blurred_noise(tmp_path_factory.mktemp("pictures"))


# ---------------------------------------------------------------- the loss, against its formula


def model_space(pictures):
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_the_loss_is_that_of_what_is_predicted(folder, predicts, loss):
    settings = config(folder, scale=2, predicts=predicts, loss=loss, channels_last=False)
    batch, net = batch_of(settings), Seen(0.1)
    found = task_of(settings).loss(net, batch, rows())
    rng = rows()
    t = (rng.stratified() * 1000).floor()
    z = rng.normal(3, 8, 8)
    abar = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[t.long()].float().reshape(-1, 1, 1, 1)
    x0, y = model_space(batch["image"]), model_space(batch["condition"])
    target = {"eps": z, "v": abar.sqrt() * z - (1 - abar).sqrt() * x0, "x0": x0}[predicts]
    error = 0.1 - target
    want = (error.abs() if loss == "l1" else error.square()).mean((1, 2, 3))
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.t, t)
    torch.testing.assert_close(net.x[:, :3], abar.sqrt() * x0 + (1 - abar).sqrt() * z, atol=1e-4, rtol=1e-4)
    up = interpolate(y, scale_factor=2, mode="bicubic").clamp(-1, 1)
    torch.testing.assert_close(net.x[:, 3:], up)


def test_noise_levels_are_told_where_they_are_asked_for(folder):
    """Saharia et al. 2021, section 2.2: sqrt(alpha-bar), uniform within a step, which is uniform."""
    settings = config(folder, scale=2, noise_level=1.0)
    task, net = task_of(settings), Seen()
    task.loss(net, batch_of(settings), rows())
    assert ((net.t > 0) & (net.t <= 1)).all()
    level = task.levels(rows(2000).stratified())
    roots = np.sqrt(np.concatenate([[1], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))]))
    place = np.searchsorted(-roots, -level.alpha.flatten().numpy())
    assert np.abs(np.histogram(place, 10, (0, 1000))[0] - 200).max() <= 2
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(2000, 1, 1, 1))
    torch.testing.assert_close(level.t, level.alpha.flatten())


def test_holes_are_noise_and_all_else_is_seen_as_it_is(folder):
    settings = config(folder, kinds=("inpaint", "uncrop"))
    batch, net = batch_of(settings, 16), Seen()
    task_of(settings).loss(net, batch, rows(16))
    hole = batch["hole"][:, None].expand(-1, 3, -1, -1)
    seen, y = net.x[:, 3:], model_space(batch["condition"])
    assert (seen[~hole] == y[~hole]).all()
    values = seen[hole]
    assert abs(values.mean()) < 4 / len(values) ** 0.5
    assert values.std() == pytest.approx(1, abs=0.1)


def test_the_difference_to_the_enlargement(folder):
    """Li et al. 2022, algorithm 1: x0 is the residual, times a factor, as far as samples are not clipped."""
    settings = config(folder, scale=2, condition={"residual": 2.0}, predicts="x0", channels_last=False)
    batch, net = batch_of(settings), Seen()
    found = task_of(settings).loss(net, batch, rows())
    y = model_space(batch["condition"])
    up = interpolate(y, scale_factor=2, mode="bicubic").clamp(-1, 1)
    x0 = (2 * (model_space(batch["image"]) - up)).clamp(-1, 1)
    torch.testing.assert_close(found, x0.square().mean((1, 2, 3)), atol=1e-5, rtol=1e-4)


def test_augmentation_adds_the_noise_that_it_tells(folder):
    """Ho et al. 2022, section 4.2: to the small picture, before it is enlarged."""
    settings = config(folder, scale=2, condition={"augment": 60.0})
    batch, net = batch_of(settings, 16), Seen()
    task_of(settings).loss(net, batch, rows(16))
    plane = net.x[:, 6]
    assert (plane == plane[:, :1, :1]).all()
    std = plane[:, 0, 0]
    assert 0 <= std.min() < 0.1 < 0.4 < std.max() <= 120 / 255
    rng = rows(16)
    rng.stratified(), rng.normal(3, 8, 8)
    drawn = 120 / 255 * rng.uniform()
    torch.testing.assert_close(std, drawn)
    y = model_space(batch["condition"]) + drawn[:, None, None, None] * rng.normal(3, 4, 4)
    torch.testing.assert_close(net.x[:, 3:6], interpolate(y, scale_factor=2, mode="bicubic").clamp(-1, 1))


def test_drop_out_leaves_the_condition_out(folder):
    settings = config(folder, scale=2, condition={"dropout": 0.25, "augment": 10.0})
    batch, net = batch_of(settings, 200), Seen()
    task_of(settings).loss(net, batch, rows(200))
    blind = (net.x[:, 3:] == 0).flatten(1).all(1)
    assert blind.float().mean() == pytest.approx(0.25, abs=0.09)
    assert (net.x[~blind, 3:] != 0).flatten(1).float().mean() > 0.98


# ---------------------------------------------------------------- from another prior


@pytest.fixture(scope="module")
def unconditional(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("unconditional")
    plain = dataclasses.replace(settings(folder, steps=4), network=dict(UNET))
    train(plain, output)
    return output / "prior"


@pytest.mark.parametrize("options", [{"scale": 2}, {"kinds": PALETTE}, {"scale": 2, "condition": {"augment": 9.0}}])
def test_it_begins_as_the_unconditional_prior(folder, unconditional, options):
    """The columns of the condition are zero: the answer is that of the prior, whatever is seen."""
    task = task_of(config(folder, init=str(unconditional), **options))
    net = load_prior(str(unconditional), device="cpu", dtype="float32").net
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    seen = 5 * torch.randn(2, task.told.channels, 8, 8)
    found = task.net(torch.cat([x, seen], 1), t, return_dict=False)[0]
    torch.testing.assert_close(found, net(x, t, return_dict=False)[0])
    assert found.std() > 0


def test_it_goes_on_from_a_prior(folder, unconditional, tmp_path):
    settings = config(folder, scale=2, init=str(unconditional))
    begin = task_of(settings).net.state_dict()
    run(settings, tmp_path / "a")
    moved = state(tmp_path / "a")["net.conv_in.weight"]
    assert (moved[:, 3:] != 0).any()  # the condition is looked at, by and by
    assert (begin["conv_in.weight"][:, 3:] == 0).all()
    again = config(folder, kinds=PALETTE, init=str(tmp_path / "a" / "prior"))  # from a conditional one, of another task
    net = load_prior(str(tmp_path / "a" / "prior"), device="cpu", dtype="float32").net.state_dict()
    assert all(torch.equal(net[name], value) for name, value in task_of(again).net.state_dict().items())
    assert "begins with the weights of the prior" in (tmp_path / "a" / "prior" / "README.md").read_text()


def test_priors_that_it_cannot_begin_with(folder, unconditional, tmp_path):
    for network, match in (
        ({**UNET, "channels": [8, 24]}, "has layers of other shapes"),
        ({**UNET, "channels": [8, 16, 16]}, "is another network, which differs first at"),
        (SR3, "is another network|other shapes"),
        (DIFFUSERS, "is another network|other shapes"),
    ):
        with pytest.raises(InputError, match=match) as caught:
            task_of(config(folder, network, scale=2, init=str(unconditional)))
        assert "\n" not in str(caught.value)
    with pytest.raises(PriorError):
        task_of(config(folder, scale=2, init=str(tmp_path / "none")))
    deeper = task_of(config(folder, {**UNET, "layers": 2}, scale=2, init=str(unconditional))).net
    x, t = torch.randn(1, 6, 8, 8), torch.tensor([300.0])
    net = load_prior(str(unconditional), device="cpu", dtype="float32").net
    torch.testing.assert_close(deeper(x, t).sample, net(x[:, :3], t).sample)
    with pytest.raises(InputError, match="another network"):
        start_from(torch.nn.Conv2d(3, 3, 3), str(unconditional))


# ---------------------------------------------------------------- mistakes

MISTAKES = {
    "in_channels": ({"network": {**UNET, "in_channels": 6}}, "in_channels follow from the condition"),
    "encoder": ({"encoder": Encoder(pretrain=0.5)}, "leave it out, or choose kind = 'srdiff'"),
    "augment": ({"network": SRDIFF, "condition": {"augment": 9.0}}, "is told no noise"),
    "crop": ({"data": {"crop": 9}}, "crop is 9: this network wants a multiple of 2"),
    "crop and scale": ({"scale": 3, "data": {"crop": 8}}, "crop is 8: this network wants a multiple of 6"),
    "sampling": ({"keys": {"sampling": {"beta_end": 0.1}}}, "set train.noise_level too"),
    "key of sampling": (
        {"keys": {"sampling": {"beta_ends": 0.1}}, "noise_level": 1.0},
        "[sampling] unknown key 'beta_ends' of DDPMScheduler: did you mean 'beta_end'",
    ),
    "flow": ({"keys": {"schedule": {"class": "FlowMatchEulerDiscreteScheduler"}}}, "[schedule]"),
    "size": ({"scale": 12, "data": {"crop": 24}, "network": {**UNET, "channels": [8] * 4}}, "validate.size is 16"),
    "srdiff x3": ({"network": SRDIFF, "scale": 3, "data": {"crop": 12}}, "SRDiff enlarges 2, 4 or 8 times, not 3"),
    "kind": ({"network": {"kind": "sr4"}}, "unknown kind 'sr4'"),
    "network": ({"network": {**UNET, "chanels": [8]}}, "did you mean 'channels'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(folder, name):
    options, words = MISTAKES[name]
    with pytest.raises(InputError) as caught:
        task_of(config(folder, **{"scale": 2} | options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_predictions_and_losses():
    for keys, words in (
        ({"predicts": "flow"}, "unknown predicts 'flow': eps, v or x0"),
        ({"loss": "l3"}, "unknown loss 'l3'"),
        ({"noise_level": -1.0}, "noise_level is -1"),
    ):
        with pytest.raises(InputError, match=words):
            ConditionalTrain(steps=1, **keys)
    with pytest.raises(InputError, match="pretrain is 1"):
        Encoder(1.0)
