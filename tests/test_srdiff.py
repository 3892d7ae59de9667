"""SRDiff's networks against the public code's numbers, and against the same written plainly."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, seeded
from safetensors.torch import load_file
from test_guided import lively
from test_sr3 import close
from torch.nn import functional as F

from restore.errors import InputError
from restore.levels import cosine
from restore.prior import Prior
from restore.srdiff import SRDiff
from restore.steps import ancestral, once, sample

VECTORS = Path(os.environ.get("RESTORE_GOLDEN", "/nowhere"))
away = pytest.mark.skipif(not VECTORS.is_dir(), reason="RESTORE_GOLDEN names no folder of reference vectors")
SMALL = {"channels": 8, "dim_mults": (1, 2), "rrdb_blocks": 2, "rrdb_features": 4, "scale": 4}


def plain_encoder(w, y, scale):
    """(the encoder's picture, what it says to the U-Net), by the names of the original: one operation a line."""

    def conv(x, name):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    first = conv((y + 1) / 2, "rrdb.conv_first")
    x, found = first, []
    for i in range(len({name.split(".")[2] for name in w if name.startswith("rrdb.RRDB_trunk.")})):
        whole = x
        for j in (1, 2, 3):
            place = f"rrdb.RRDB_trunk.{i}.RDB{j}"
            x1 = leaky(conv(x, f"{place}.conv1"))
            x2 = leaky(conv(torch.cat([x, x1], 1), f"{place}.conv2"))
            x3 = leaky(conv(torch.cat([x, x1, x2], 1), f"{place}.conv3"))
            x4 = leaky(conv(torch.cat([x, x1, x2, x3], 1), f"{place}.conv4"))
            x = conv(torch.cat([x, x1, x2, x3, x4], 1), f"{place}.conv5") * 0.2 + x
        x = x * 0.2 + whole
        found.append(x)
    x = first + conv(x, "rrdb.trunk_conv")
    found.append(x)
    for i in range(int(math.log2(scale))):
        x = leaky(conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), f"rrdb.upconv{i + 1}"))
    picture = conv(leaky(conv(x, "rrdb.HRconv")), "rrdb.conv_last").clamp(0, 1) * 2 - 1
    return picture, torch.cat([found[i] for i in range(2, len(found), 3)], 1)


def plain_unet(w, x, t, told, scale, groups=0):
    def mish(x):
        return x * torch.tanh(torch.log1p(x.exp()))

    def linear(x, name):
        return F.linear(x, w[f"unet.{name}.weight"], w[f"unet.{name}.bias"])

    def conv(x, name, pad=0, **options):
        x = F.pad(x, (pad,) * 4, mode="reflect") if pad else x
        return F.conv2d(x, w[f"unet.{name}.weight"], w[f"unet.{name}.bias"], **options)

    def up(x, name, stride, padding):
        weight, bias = w[f"unet.{name}.weight"], w[f"unet.{name}.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=stride, padding=padding)

    def block(x, name):
        x = conv(x, f"{name}.block.1", pad=1)
        if groups:
            x = F.group_norm(x, groups, w[f"unet.{name}.block.2.weight"], w[f"unet.{name}.block.2.bias"])
        return mish(x)

    def resblock(x, name):
        h = block(x, f"{name}.block1") + linear(mish(emb), f"{name}.mlp.1")[:, :, None, None]
        h = block(h, f"{name}.block2")
        return h + (conv(x, f"{name}.res_conv") if f"unet.{name}.res_conv.weight" in w else x)

    half = w["unet.mlp.0.weight"].shape[1] // 2
    angles = t[:, None] * 10000.0 ** -(torch.arange(half) / (half - 1))
    emb = linear(torch.cat([angles.sin(), angles.cos()], 1), "mlp.0")
    emb = linear(mish(emb), "mlp.2")
    kept = []
    levels = len({name.split(".")[2] for name in w if name.startswith("unet.downs.")})
    for i in range(levels):
        x = resblock(resblock(x, f"downs.{i}.0"), f"downs.{i}.1")
        if i == 0:
            x = x + up(told, "cond_proj", scale, scale // 2)
        kept.append(x)
        if i < levels - 1:
            x = conv(x, f"downs.{i}.2.conv.1", pad=1, stride=2)
    x = resblock(resblock(x, "mid_block1"), "mid_block2")
    for i in range(levels - 1):
        x = resblock(torch.cat([x, kept.pop()], 1), f"ups.{i}.0")
        x = up(resblock(x, f"ups.{i}.1"), f"ups.{i}.2.conv.0", 2, 1)
    assert len(kept) == 1
    return conv(block(x, "final_conv.0"), "final_conv.1")


def given(net, height=16, width=16):
    """x, t and the small picture."""
    rng, scale = seeded(1), net.config.scale
    x = torch.randn(2, net.config.in_channels, height, width, generator=rng)
    y = 2 * torch.rand(2, net.config.in_channels, height // scale, width // scale, generator=rng) - 1
    return x, torch.tensor([3.0, 71.0]), y


# ---------------------------------------------------------------- reference vectors


@pytest.fixture
def reference():
    tensors = load_file(VECTORS / "srdiff/loss_sample.safetensors")
    told = json.loads((VECTORS / "srdiff/loss_sample.json").read_text())["hparams"]
    net = SRDiff(
        channels=told["hidden_size"],
        dim_mults=tuple(map(int, told["unet_dim_mults"].split("|"))),
        rrdb_blocks=told["rrdb_num_block"],
        rrdb_features=told["rrdb_num_feat"],
        scale=told["sr_scale"],
        groups=told["gn_groups"],
    ).eval()
    net.load_state_dict({name[3:]: value.float() for name, value in tensors.items() if name.startswith("sd.")})
    return net, tensors, told


@away
@torch.no_grad()
def test_loss_of_the_public_code(reference):
    net, tensors, told = reference
    table = cosine(told["timesteps"])
    betas = 1 - table.abar / np.concatenate([[1.0], table.abar[:-1]])
    np.testing.assert_allclose(betas, tensors["betas"], rtol=1e-6)
    x0 = ((tensors["hr"] - tensors["lr_up"]) * told["res_rescale"]).clamp(-1, 1)
    assert (x0 - tensors["res_input"]).abs().max() < 1e-6
    level, noise = table.at(tensors["t"]), tensors["noise_loss"]
    x = level.alpha * x0 + level.sigma * noise
    out = net(x, tensors["t"], tensors["lr"]).sample
    assert ((out - noise).abs().mean() - tensors["loss_q"]).abs() < 2e-5
    _, features = plain_encoder(net.state_dict(), tensors["lr"], told["sr_scale"])
    assert (plain_unet(net.state_dict(), x, tensors["t"], features, told["sr_scale"]) - out).abs().max() < 2e-5


@away
@torch.no_grad()
def test_chain_of_the_public_code(reference, replay):
    net, tensors, told = reference
    features = net.features(tensors["lr"])
    schedule = cosine(told["timesteps"])
    prior = Prior(lambda x, t: net(x, t, features=features), predicts="eps", schedule=schedule, clip=True)
    assert torch.equal(tensors["sample_xs"][0], tensors["sample_noise"][0])
    left = replay(tensors["sample_noise"][1:])
    states = list(sample(prior, tensors["sample_noise"][0], prior.levels(told["timesteps"]), move=once(ancestral)))
    assert len(left) == 1  # the original draws for the last step too, and multiplies by 0
    for state, expected in zip(states, tensors["sample_xs"][1:], strict=True):
        assert (state.x - expected).abs().max() < 2e-5
    out = states[-1].x.clamp(-1, 1) / told["res_rescale"] + tensors["lr_up"]
    assert (out - tensors["sample_out"]).abs().max() < 2e-5


def test_cosine_table_of_the_public_code():
    facts = json.loads((DATA / "golden/srdiff/cosine100.json").read_text())
    table = cosine(facts["T"])
    betas = 1 - table.abar / np.concatenate([[1.0], table.abar[:-1]])
    np.testing.assert_allclose(betas, facts["betas"], rtol=1e-6)


# ---------------------------------------------------------------- the same, written plainly

NETWORKS = {
    "small": {},
    "as released": {"dim_mults": (1, 2, 2, 4), "rrdb_blocks": 8},
    "groups": {"groups": 4, "dim_mults": (1, 3)},
    "twice": {"scale": 2, "dim_mults": (1, 2, 3), "rrdb_blocks": 5},
    "eight times": {"scale": 8, "rrdb_features": 6, "rrdb_blocks": 3},
    "one scale": {"dim_mults": (1,), "channels": 6},
    "gray": {"in_channels": 1, "out_channels": 1},
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_as_written_plainly(name):
    net = lively(SRDiff(**{**SMALL, **NETWORKS[name]}))
    x, t, y = given(net, 16, 24)
    w, scale, features = net.state_dict(), net.config.scale, net.features(y)
    picture, told = plain_encoder(w, y, scale)
    assert close(features, told)
    assert close(net.upscaled(y), picture)
    assert picture.shape == x.shape
    out = net(x, t, y).sample
    assert out.std() > 0.1
    assert close(out, plain_unet(w, x, t, told, scale, net.config.groups))
    assert torch.equal(net(x, t, features=features, return_dict=False)[0], out)
    assert (out - net(x, t, -y).sample).abs().max() > 1e-3
    assert net.conv_in.in_channels == net.config.in_channels
    assert net.conv_out.out_channels == net.config.out_channels


def test_released_names_and_widths():
    """x8 has a third upconv, the transposed convolution takes every third of the features."""
    net = SRDiff(**{**SMALL, "scale": 8, "rrdb_blocks": 8})
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes["unet.cond_proj.weight"] == (3 * 4, 8, 16, 16)
    assert shapes["rrdb.upconv3.weight"] == (4, 4, 3, 3)
    assert shapes["unet.ups.0.0.block1.block.1.weight"] == (8, 32, 3, 3)
    assert not any("upconv3" in name for name in SRDiff(**SMALL).state_dict())


# ---------------------------------------------------------------- promises of the class


@torch.no_grad()
def test_saved_and_loaded_by_diffusers_machinery(tmp_path):
    net = lively(SRDiff(**SMALL))
    x, t, y = given(net)
    net.save_pretrained(tmp_path)
    again = SRDiff.from_pretrained(tmp_path)
    assert torch.equal(again(x, t, y).sample, net(x, t, y).sample)
    assert torch.equal(again(x, 3.0, y).sample, net(x, torch.tensor([3.0, 3.0]), y).sample)


def test_pretraining_of_the_encoder():
    """Clamped in evaluation; in training gradients reach the encoder where its picture leaves [-1, 1], too."""
    net = lively(SRDiff(**SMALL))
    _, _, y = given(net)
    with torch.no_grad():
        net.rrdb.conv_last.bias += 5
    assert torch.equal(net.upscaled(y), torch.ones(2, 3, 16, 16))
    assert torch.equal(net(low_res=y, pretrain=True), net.upscaled(y))
    picture = net.train()(low_res=y, pretrain=True)
    assert picture.min() > 1
    picture.mean().backward()
    assert all(p.grad.abs().max() > 0 for p in net.rrdb.parameters())
    assert all(p.grad is None for p in net.unet.parameters())


@torch.no_grad()
def test_one_small_picture_for_several():
    net = lively(SRDiff(**SMALL))
    x, t, y = given(net)
    out = net(x, t, features=net.features(y[:1])).sample
    assert close(out, net(x, t, y[:1].expand(2, -1, -1, -1)).sample)


WRONG = {
    "no small picture": ({"x": (1, 3, 16, 16)}, "low_res, the small picture, or its features"),
    "both": ({"x": (1, 3, 16, 16), "low_res": (1, 3, 4, 4), "features": (1, 4, 4, 4)}, "not both"),
    "no time": ({"low_res": (1, 3, 4, 4)}, "takes x, the noisy picture, and t"),
    "another size": ({"x": (1, 3, 16, 24), "low_res": (1, 3, 4, 4)}, "the small picture is 4 x 6, not 4 x 4"),
    "features of another size": ({"x": (1, 3, 16, 16), "features": (1, 4, 2, 2)}, "is 4 x 4, not 2 x 2"),
    "gray": ({"x": (1, 3, 16, 16), "low_res": (1, 1, 4, 4)}, "low_res is (B,3,h,w), not (1, 1, 4, 4)"),
    "sides": ({"x": (1, 3, 16, 18), "low_res": (1, 3, 4, 4)}, "sides divisible by 4, from 4 on, not 16 x 18"),
    "channels": ({"x": (1, 6, 16, 16), "low_res": (1, 3, 4, 4)}, "takes (B,3,H,W), not (1, 6, 16, 16)"),
    "a plain picture": ({"x": (16,), "low_res": (1, 3, 4, 4)}, "takes (B,3,H,W), not (16,)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input(name):
    shapes, words = WRONG[name]
    args = {key: torch.zeros(shape) for key, shape in shapes.items()}
    with pytest.raises(InputError) as caught:
        SRDiff(**SMALL)(**args, **({"t": 3.0} if "x" in args else {}))
    assert words in str(caught.value)


def test_pictures_too_small_to_reflect():
    net = SRDiff(**{**SMALL, "scale": 2, "dim_mults": (1, 2, 2)})
    with pytest.raises(InputError, match="divisible by 4, from 8 on, not 4 x 8"):
        net(torch.zeros(1, 3, 4, 8), 1.0, torch.zeros(1, 3, 2, 4))
    assert net(torch.zeros(1, 3, 8, 8), 1.0, torch.zeros(1, 3, 4, 4)).sample.shape == (1, 3, 8, 8)


def test_pretraining_takes_the_small_picture_alone():
    net = SRDiff(**SMALL)
    for args in ({}, {"low_res": torch.zeros(1, 3, 4, 4), "x": torch.zeros(1, 3, 16, 16)}):
        with pytest.raises(InputError, match="takes low_res, the small picture, and nothing else"):
            net(**args, pretrain=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"scale": 3}, "2, 4 or 8 times, not 3"), ({"rrdb_blocks": 1}, "rrdb_blocks >= 2"),
     ({"dim_mults": (2, 4)}, "dim_mults from 1, not 2, 8, 4 and 2,4"), ({"groups": 3}, "groups = 3 does not divide 8")],
)  # fmt: skip
def test_options_that_cannot_be(options, words):
    with pytest.raises(InputError) as caught:
        SRDiff(**{**SMALL, **options})
    assert words in str(caught.value)
