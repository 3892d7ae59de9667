"""SR3's U-Net against the public re-implementation's numbers, and against the same written plainly."""

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
from torch.nn import functional as F

from restore.errors import InputError
from restore.levels import cosine, from_betas, linear, scaled_linear
from restore.sr3 import SR3UNet

VECTORS = Path(os.environ.get("RESTORE_GOLDEN", "/nowhere"))
away = pytest.mark.skipif(not VECTORS.is_dir(), reason="RESTORE_GOLDEN names no folder of reference vectors")
SMALL = {
    "base_channels": 8, "channel_mults": (1, 2), "norm_groups": 4, "attn_res": (8,), "res_blocks": 1, "sample_size": 16
}  # fmt: skip


def plain(w, x, level, groups):
    """What the weights `w`, by the names of the original, make of x and sqrt(alpha-bar): one operation a line."""
    width = w["noise_level_mlp.1.weight"].shape[1]
    angles = level[:, None] * 10000.0 ** -(torch.arange(width // 2) / (width // 2))
    told = torch.cat([torch.sin(angles), torch.cos(angles)], 1)
    told = F.linear(told, w["noise_level_mlp.1.weight"], w["noise_level_mlp.1.bias"])
    told = F.linear(told * told.sigmoid(), w["noise_level_mlp.3.weight"], w["noise_level_mlp.3.bias"])

    def norm(x, name):
        b, c = x.shape[:2]
        parts = x.reshape(b, groups, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return parts.reshape(x.shape) * w[f"{name}.weight"].view(1, c, 1, 1) + w[f"{name}.bias"].view(1, c, 1, 1)

    def conv(x, name, **options):
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2, **options)

    def block(x, name):
        x = norm(x, f"{name}.block.0")
        return conv(x * x.sigmoid(), f"{name}.block.3")

    def stage(x, name):
        h = block(x, f"{name}.res_block.block1")
        place = f"{name}.res_block.noise_func.noise_func.0"
        h = h + F.linear(told, w[f"{place}.weight"], w[f"{place}.bias"])[:, :, None, None]
        h = block(h, f"{name}.res_block.block2")
        x = h + (conv(x, f"{name}.res_block.res_conv") if f"{name}.res_block.res_conv.weight" in w else x)
        if f"{name}.attn.qkv.weight" not in w:
            return x
        q, k, v = conv(norm(x, f"{name}.attn.norm"), f"{name}.attn.qkv").flatten(2).chunk(3, 1)  # (B,C,HW)
        fit = torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(q.shape[1])
        seen = torch.einsum("bnm,bcm->bcn", fit.softmax(-1), v).reshape(x.shape)
        return x + conv(seen, f"{name}.attn.out")

    x = conv(x, "downs.0")
    kept = [x]
    for i in range(1, count(w, "downs")):
        x = conv(x, f"downs.{i}.conv", stride=2) if f"downs.{i}.conv.weight" in w else stage(x, f"downs.{i}")
        kept.append(x)
    x = stage(stage(x, "mid.0"), "mid.1")
    for i in range(count(w, "ups")):
        if f"ups.{i}.conv.weight" in w:
            x = conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), f"ups.{i}.conv")
        else:
            x = stage(torch.cat([x, kept.pop()], 1), f"ups.{i}")
    assert not kept
    return block(x, "final_conv")


def count(w, part):
    return 1 + max(int(name.split(".")[1]) for name in w if name.startswith(f"{part}."))


def attending(net):
    return [name.removesuffix(".attn.qkv.weight") for name in net.state_dict() if name.endswith("attn.qkv.weight")]


def close(out, expected):
    return (out - expected).abs().max() < 2e-5 * max(1.0, float(expected.abs().max()))


def given(net, height=16, width=16):
    x = torch.randn(2, net.config.in_channels, height, width, generator=seeded(1))
    return x, torch.tensor([0.2, 0.97])


# ---------------------------------------------------------------- reference vectors


@away
@torch.no_grad()
def test_the_public_code():
    tensors = load_file(VECTORS / "sr3/unet_a.safetensors")
    config = json.loads((VECTORS / "sr3/unet_a.json").read_text())["config"]
    own = {"in_channel": "in_channels", "out_channel": "out_channels", "inner_channel": "base_channels"}
    own["image_size"] = "sample_size"
    net = SR3UNet(**{own.get(name, name): value for name, value in config.items()}).eval()
    state = {name[3:]: value.float() for name, value in tensors.items() if name.startswith("sd.")}
    net.load_state_dict(state)
    level = tensors["noise_level"][:, 0]
    encoded = net.noise_level_mlp[0](level)
    assert (encoded - tensors["pos_enc"][:, 0]).abs().max() < 1e-6
    assert (net.noise_level_mlp(level) - tensors["noise_mlp"][:, 0]).abs().max() < 1e-6
    assert (net(tensors["x"], level).sample - tensors["output"]).abs().max() < 2e-5
    assert (plain(state, tensors["x"], level, config["norm_groups"]) - tensors["output"]).abs().max() < 2e-5


SCHEDULES = json.loads((DATA / "golden/sr3/schedules.json").read_text())
T, LOW, HIGH = 2000, 1e-6, 1e-2


def warmup(share):
    rising = int(T * share)
    return from_betas([*np.linspace(LOW, HIGH, rising), *[HIGH] * (T - rising)])


TABLES = {
    "linear": lambda: linear(T, LOW, HIGH),
    "quad": lambda: scaled_linear(T, LOW, HIGH),
    "cosine": lambda: cosine(T),
    "warmup10": lambda: warmup(0.1),
    "warmup50": lambda: warmup(0.5),
    "const": lambda: from_betas([HIGH] * T),
    "jsd": lambda: from_betas(1 / np.arange(T, 0, -1)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_the_public_code(name):
    table, facts = TABLES[name](), SCHEDULES[name]
    betas = 1 - table.abar / np.concatenate([[1.0], table.abar[:-1]])
    np.testing.assert_allclose(betas[:4], facts["first"], rtol=1e-6)
    np.testing.assert_allclose(betas[-4:], facts["last"], rtol=1e-6)
    alphas = [table.at(t).alpha for t in (0, 1, 10, 100, 500, 1000, 1500, T - 2, T - 1)]
    np.testing.assert_allclose(alphas, facts["sqrt_abar"], rtol=1e-6)


# ---------------------------------------------------------------- the same, written plainly

NETWORKS = {
    "small": ({}, ["downs.3", "mid.0", "ups.0", "ups.1"]),
    "two blocks, three scales": (
        {"channel_mults": (1, 2, 3), "res_blocks": 2, "attn_res": (4,)},
        ["downs.7", "downs.8", "mid.0", "ups.0", "ups.1", "ups.2"],
    ),
    "attention at both scales": (
        {"attn_res": (16, 8), "dropout": 0.0},
        ["downs.1", "downs.3", "mid.0", "ups.0", "ups.1", "ups.3", "ups.4"],
    ),
    "attention at the finest": ({"attn_res": [16]}, ["downs.1", "mid.0", "ups.3", "ups.4"]),
    "attention in the middle alone": ({"attn_res": (), "channel_mults": (2, 1)}, ["mid.0"]),
    "one scale": ({"channel_mults": (1,), "attn_res": (8, 4)}, ["mid.0"]),
    "other channels": ({"in_channels": 7, "out_channels": 1, "norm_groups": 1, "base_channels": 6},
                       ["downs.3", "mid.0", "ups.0", "ups.1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_as_written_plainly(name):
    options, attends = NETWORKS[name]
    net = lively(SR3UNet(**{**SMALL, **options}))
    assert attending(net) == attends
    assert net.conv_in.in_channels == net.config.in_channels
    assert net.conv_out.out_channels == net.config.out_channels
    assert net.multiple == 2 ** (len(net.config.channel_mults) - 1)
    x, level = given(net, 16, 24)
    out = net(x, level).sample
    assert out.std() > 0.1
    assert close(out, plain(net.state_dict(), x, level, net.config.norm_groups))
    assert (out - net(x, level.flip(0)).sample).abs().max() > 1e-3


# ---------------------------------------------------------------- promises of the class


@torch.no_grad()
def test_saved_and_loaded_by_diffusers_machinery(tmp_path):
    net = lively(SR3UNet(**SMALL))
    x, level = given(net)
    net.save_pretrained(tmp_path)
    again = SR3UNet.from_pretrained(tmp_path)
    assert torch.equal(again(x, level).sample, net(x, level).sample)
    assert torch.equal(again(x, level, return_dict=False)[0], net(x, level).sample)
    assert torch.equal(again(x, 0.5).sample, net(x, torch.tensor([0.5, 0.5])).sample)


def test_drop_out_is_for_training():
    net = SR3UNet(**SMALL)
    x, level = given(net)
    assert not torch.equal(net.train()(x, level).sample, net(x, level).sample)
    assert torch.equal(net.eval()(x, level).sample, net(x, level).sample)


@torch.no_grad()
def test_in_double_precision():
    net = lively(SR3UNet(**SMALL))
    x, level = given(net)
    exact = net.double()(x.double(), level.double()).sample
    assert exact.dtype == torch.float64
    assert close(net.float()(x, level).sample, exact)


@torch.no_grad()
def test_levels_near_one_are_told_apart_in_bfloat16():
    net = lively(SR3UNet(**SMALL))
    levels = 1 - torch.tensor([2.0, 3.0, 5.0]) * 1e-4
    exact = net.noise_level_mlp(levels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.noise_level_mlp(levels), exact)
    assert (exact[1:] - exact[:-1]).abs().amax(1).min() > 1e-5
    x, level = given(net)
    out = net(x, level).sample
    with torch.autocast("cpu", torch.bfloat16):
        assert (net(x, level).sample - out).std() < 0.05 * out.std()


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 3, 16, 16), "takes (B,6,H,W), not (1, 3, 16, 16)"), ((6, 16, 16), "(B,6,H,W)"),
     ((1, 6, 16, 15), "sides divisible by 2, not (16, 15)")],
)  # fmt: skip
def test_wrong_shapes(shape, words):
    with pytest.raises(InputError) as caught:
        SR3UNet(**SMALL)(torch.zeros(shape), 0.5)
    assert words in str(caught.value)


def test_groups_that_do_not_divide():
    with pytest.raises(InputError, match="norm_groups = 32 does not divide 8"):
        SR3UNet(**{**SMALL, "norm_groups": 32})
