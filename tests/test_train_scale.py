"""What makes a training larger changes nothing that is learnt: recomputation, compilation, shards, processes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters
from training import launched, losses, noise_pictures, settings, state, train

from restore import load_prior
from restore.encoder import Encoder
from restore.errors import InputError
from restore.train import toml
from restore.train.config import Phase, Train
from restore.train.data import Pictures
from restore.train.loop import Loop
from restore.train.prior import PriorTask
from restore.train.runtime import accelerator, ease
from restore.unet import UNet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return noise_pictures(tmp_path_factory.mktemp("pictures"), 12)


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain")
    train(settings(folder), output)
    return output


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- less memory, less time ---


def test_checkpointing_is_bit_equal(folder, plain, tmp_path):
    train(settings(folder, checkpointing=True), tmp_path)
    assert losses(tmp_path) == losses(plain)
    assert same(state(tmp_path), state(plain))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_checkpointing_keeps_fewer_activations(dtype):
    def kept(checkpointing):
        torch.manual_seed(0)
        net, count = UNet(channels=(8, 16), layers=4), []
        if checkpointing:
            ease(net, Train(steps=1, checkpointing=True))
        x = torch.randn(2, 3, 16, 16)

        def pack(tensor):
            count.append(tensor.numel())
            return tensor

        kept = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with kept, torch.autocast("cpu", dtype, enabled=dtype is not None):
            out = net(x, torch.tensor([3.0, 5.0])).sample
        out.float().square().mean().backward()
        return sum(count), out, [p.grad for p in net.parameters()]

    (much, a, grads), (little, b, again) = kept(False), kept(True)
    assert little < 0.5 * much
    assert torch.equal(a, b)
    assert all(torch.equal(g, h) for g, h in zip(grads, again, strict=True))


def test_networks_without_checkpointing_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"train\.checkpointing: a Encoder has none"):
        ease(Encoder(), Train(steps=1, checkpointing=True))
    with pytest.raises(InputError, match=r"train\.checkpointing: a Linear has none"):
        ease(torch.nn.Linear(1, 1), Train(steps=1, checkpointing=True))


def test_diffusers_networks_recompute_too(folder, tmp_path):
    network = {"kind": "UNet2DModel", "block_out_channels": [8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    network |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    for name, checkpointing in (("a", False), ("b", True)):
        config = settings(folder, steps=3, checkpointing=checkpointing)
        train(dataclasses.replace(config, network=network), tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"phases": [Phase(0.5, crop=16)]}, 1e-4), ({"precision": "bf16", "checkpointing": True}, 1e-2)],
)
def test_compiled_networks_learn_the_same(folder, tmp_path, options, tolerance):
    counters.clear()
    train(settings(folder, **options, steps=6), tmp_path / "plain")
    assert not counters["frames"]
    train(settings(folder, **options, steps=6, compile=True), tmp_path / "compiled")
    assert counters["frames"]["ok"] == counters["frames"]["total"] == 1 + ("phases" in options)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=tolerance)
    assert state(tmp_path / "compiled").keys() == state(tmp_path / "plain").keys()
    assert load_prior(str(tmp_path / "compiled" / "prior"), device="cpu").net is not None
    train(settings(folder, **options, steps=7), tmp_path / "compiled")  # goes on without


@pytest.mark.slow
def test_where_compilation_cannot_work_is_an_input_error(folder, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(toml.write(dataclasses.asdict(settings(folder, compile=True))))
    line = [sys.executable, "-m", "restore.cli", "train", "prior", str(config), "-o", str(tmp_path / "run")]
    broken = {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    told = subprocess.run([*line, "-q"], capture_output=True, text=True, env=os.environ | broken, timeout=600)
    assert told.returncode == 2
    assert told.stderr.startswith("restore: error: train.compile does not work here, leave it out: ")
    assert told.stderr.count("\n") == 1


# --- shards ---


def test_rows_of_a_run_draw_from_their_shards(folder, tmp_path, monkeypatch):
    items, plain = [], Loop._step

    def listening(self, batch, size):
        items.append((batch["item"] % 2).tolist())
        return plain(self, batch, size)

    monkeypatch.setattr(Loop, "_step", listening)
    train(settings(folder, {"shards": 2}, batch=8, accumulate=2), tmp_path)
    assert items == [[0, 0, 1, 1, 0, 0, 1, 1]] * 12


def test_shards_that_do_not_fit_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"data\.shards is 3: it does not divide 4, the batch / accumulate"):
        train(settings(folder, {"shards": 3}), tmp_path)
    with pytest.raises(InputError, match=r"data\.shards is 2: it does not divide 3, the batch / accumulate"):
        train(settings(folder, {"shards": 2}, batch=8, phases=[Phase(0.9, batch=3)]), tmp_path)
    with pytest.raises(InputError, match="shards is 0"):
        settings(folder, {"shards": 0})
    train(settings(folder, steps=1), tmp_path)
    with pytest.raises(InputError, match=r"another configuration: data.shards \(1 there, 2 here\)"):
        train(settings(folder, {"shards": 2}), tmp_path)


# --- processes ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "options"),
    [
        ({}, {}),
        ({"shards": 2}, {"accumulate": 2}),
        ({"shards": 4, "workers": 1}, {"checkpointing": True, "phases": [Phase(0.5, batch=4)]}),
    ],
)
def test_processes_under_accelerate_learn_the_same_as_one(folder, tmp_path, data, options):
    config = settings(folder, data, **{"steps": 6, "batch": 8} | options)
    train(config, tmp_path / "one")
    done = launched(tmp_path / "two", config)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one if key.startswith(("net.", "ema.")))


@pytest.mark.slow
def test_processes_tell_of_all_their_pictures(folder, tmp_path):
    """Damaged pictures that any process met are counted, and a loss that is not finite names the files of all."""
    pictures = tmp_path / "pictures"
    shutil.copytree(folder, pictures)
    for name in ("a.png", "b.png"):  # of one shard each
        (pictures / name).write_bytes(b"no picture")
    config = settings(pictures, {"shards": 2, "holdout": 0.0}, steps=20)
    done = launched(tmp_path / "run", config)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["skipped"] == 2
    diverging = settings(pictures, {"shards": 2, "holdout": 0.0}, steps=50, lr=1e30, clip_grad=0.0)
    done = launched(tmp_path / "diverging", diverging)
    assert done.returncode != 0
    told = next(line for line in done.stderr.splitlines() if "restore: error: the loss of step" in line)
    step = int(told.partition("of step ")[2].split()[0])
    crops = Pictures(diverging.data, 0, quiet=True)
    seen = {crops.names([crops[4 * (step - 1) + row, 8, row // 2]["item"]])[0] for row in range(4)}
    assert set(told.partition(" on ")[2].partition(": lower lr")[0].split(", ")) == seen


def test_processes_need_shards_of_their_own(folder, tmp_path, monkeypatch):
    config = dataclasses.replace(settings(folder, {"shards": 2}, batch=12), output=str(tmp_path))
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
    with pytest.raises(InputError, match=r"data\.shards is 2: 3 processes need a multiple of 3"):
        Loop(PriorTask(config, Pictures(config.data, 0)), None, config, device="cpu")


def test_networks_that_are_used_in_part_are_told_to_accelerate():
    def told(partial):
        return accelerator(Train(steps=1, precision="no"), "cpu", partial).ddp_handler

    assert told(False) is None
    assert told(True).find_unused_parameters
