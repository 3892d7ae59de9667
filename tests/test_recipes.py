"""The recipes that ship: each is read, builds its network, and learns on small pictures with small networks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import restore
from restore.sr3 import SR3UNet
from restore.srdiff import SRDiff
from restore.train.conditional import ConditionalTask, train_conditional
from restore.train.conditional_config import ConditionalConfig, PairedSource
from restore.train.config import PriorConfig
from restore.train.degradations import Pairs
from restore.train.prior import train_prior
from restore.train.toml import read

FOLDER = Path(__file__).parent.parent / "assets/recipes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
SMALL = {
    "unet": {"channels": [8, 16], "layers": 1},
    "sr3": {"base_channels": 8, "channel_mults": [1, 2], "norm_groups": 4, "res_blocks": 1, "attn_res": [8]},
    "srdiff": {"channels": 8, "dim_mults": [1, 2], "rrdb_blocks": 2, "rrdb_features": 4},
    "UNet2DModel": {"block_out_channels": [32, 32, 32]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def small(name, folder):
    """The recipe with a tiny network, for a few steps on 16 px crops."""
    config = read(FOLDER / f"{name}.toml", PriorConfig if name == "cascade-base" else ConditionalConfig)
    sources = [dataclasses.replace(source, path=str(folder)) for source in config.data.sources[:1]]
    kind = config.network.get("kind", "unet")
    network = {**config.network, **SMALL[kind]}
    train = dataclasses.replace(
        config.train, steps=4, minutes=None, batch=4, accumulate=1, warmup=1, precision="no", tensorboard=False,
        sample_every=0, phases=[], **({} if name == "cascade-base" else {"init": None}),
    )  # fmt: skip
    data = dataclasses.replace(config.data, sources=sources, crop=16, holdout=0.3, workers=0)
    validate = dataclasses.replace(config.validate, pictures=1, size=16)
    return dataclasses.replace(config, data=data, network=network, train=train, validate=validate)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_learns_and_its_prior_loads(name, folder, tmp_path):
    work = train_prior if name == "cascade-base" else train_conditional
    report = work(small(name, folder), output=tmp_path, device="cpu", quiet=True)
    prior = restore.load_prior(report["prior"], dtype="float32")
    assert report["step"] == 4
    if name == "cascade-base":
        assert restore.generate(prior=prior, steps=2).size == (16, 16)
        return
    config = read(FOLDER / f"{name}.toml", ConditionalConfig)
    assert list(prior.condition.tasks) == config.condition.tasks
    assert prior.condition.scale == config.condition.scale
    assert (prior.condition.dropout, prior.condition.augment > 0) == (
        config.condition.dropout > 0, config.condition.augment > 0
    )  # fmt: skip
    picture = np.zeros((12, 8, 3), np.uint8) + 99
    for task in prior.condition.tasks:
        mask = (np.eye(12, 8) * 255).astype(np.uint8)
        given = [picture, mask] if task == "inpaint" else [picture]
        out = getattr(restore, task)(*given, prior=prior, method="ddim", steps=2)
        assert out.shape == (12 * config.condition.scale, 8 * config.condition.scale, 3)


def test_a_cascade_of_recipes_is_one_pipeline(folder, tmp_path):
    made = {}
    for name in ("cascade-base", "cascade-256", "cascade-1024"):
        work = train_prior if name == "cascade-base" else train_conditional
        made[name] = work(small(name, folder), output=tmp_path / name, device="cpu", quiet=True)["prior"]
    out = restore.generate(prior=made["cascade-base"], then=[made["cascade-256"], made["cascade-1024"]], steps=2)
    assert out.size == (256, 256)


def test_each_recipe_says_how_to_run_it():
    assert NAMES == ["cascade-1024", "cascade-256", "cascade-base", "palette", "quick-x4", "sr3-x4", "srdiff-x4"]
    for name in NAMES:
        assert f"{name}.toml --data" in (FOLDER / f"{name}.toml").read_text()


def test_the_networks_of_the_recipes_are_those_of_the_papers(folder):
    """SR3's has 98 M parameters at 64 channels; SRDiff's U-Net and encoder together 11.7 M (the paper: 12 M)."""
    counts = {}
    for name in ("sr3-x4", "srdiff-x4"):
        config = read(FOLDER / f"{name}.toml", ConditionalConfig)
        data = dataclasses.replace(config.data, sources=[PairedSource(str(folder))], holdout=0.0)
        config = dataclasses.replace(config, data=data)
        counts[name] = sum(p.numel() for p in ConditionalTask(config, Pairs(config, [Path()], True)).net.parameters())
    assert counts["sr3-x4"] == pytest.approx(98e6, rel=0.02)
    assert counts["srdiff-x4"] == pytest.approx(12e6, rel=0.1)


@pytest.mark.parametrize("name", ["sr3", "srdiff"])
def test_activations_that_are_recomputed_give_the_same_gradients(name):
    net = {"sr3": SR3UNet, "srdiff": SRDiff}[name](**SMALL[name], **({"sample_size": 16} if name == "sr3" else {}))
    more = [] if name == "sr3" else [torch.randn(2, 3, 4, 4)]
    given = [torch.randn(2, net.config.in_channels, 16, 16), torch.tensor([0.2, 0.9]), *more]
    found = []
    for _ in range(2):
        net.eval().zero_grad()
        net(*given, return_dict=False)[0].square().sum().backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        net.enable_gradient_checkpointing()
    assert len(found[0]) > 100
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
