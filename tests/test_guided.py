"""guided-diffusion's networks against reference vectors, and as diffusers' UNet2DModel."""

import math
import zlib

import pytest
import torch
from conftest import DATA, seeded
from diffusers import UNet2DModel
from safetensors.torch import load_file

from restore.checkpoints import rename
from restore.checkpoints.plan import made
from restore.errors import InputError
from restore.guided import POOLS, RESAMPLES, GuidedEncoder, GuidedUNet, attend

SMALL = {"model_channels": 32, "channels": (32, 64), "attention": (False, True)}
UNET = {**SMALL, "out_channels": 6, "num_head_channels": 16}


def formula(net):
    """The weights of the reference vectors: sines, by the names that the original gives its tensors."""
    weights = {}
    for name, p in net.named_parameters():
        k = torch.arange(p.numel(), dtype=torch.float64)
        s = torch.sin(12.9898 * k + 78.233 * (zlib.crc32(name.encode()) % 1000)).reshape(p.shape)
        flat = 1 + 0.3 * s if name.endswith("weight") else 0.1 * s
        weights[name] = (flat if p.ndim == 1 else s * 1.4 / math.sqrt(p[0].numel())).half().float()
    net.load_state_dict(weights)
    return net.eval()


def lively(net, seed=0):
    """A network none of whose tensors is zero or one."""
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            rng = seeded(1000 * seed + i)
            noise = torch.randn(p.shape, generator=rng)
            p.copy_(
                1 + 0.2 * noise if p.ndim == 1 and i % 2 == 0 else noise / math.sqrt(p[0].numel() if p.ndim > 1 else 25)
            )
    return net.eval()


def given(size=32, batch=2, seed=0):
    return torch.randn(batch, 3, size, size, generator=seeded(seed)), torch.tensor([3.0, 871.5])[:batch]


# ---------------------------------------------------------------- reference vectors


@torch.no_grad()
def test_the_u_net_of_64_px():
    found = load_file(DATA / "golden/ckpt/unet64.safetensors")
    net = GuidedUNet(
        out_channels=6, model_channels=32, channels=(32, 64, 96, 128), layers=2, attention=(False, True, True, True),
        num_head_channels=16, new_order=True, num_class_embeds=1000,
    )  # fmt: skip
    out = formula(net)(found["x"], found["t"], found["y"])[..., ::4, ::4]
    assert found["output"].abs().max() > 10
    torch.testing.assert_close(out, found["output"], atol=4e-5, rtol=0)  # of 13, in float32
    other = made(UNet2DModel, rename.unet2d(dict(net.config)), rename.renamed(dict(net.config), net.state_dict()))
    out = other(found["x"], found["t"], found["y"]).sample[..., ::4, ::4]
    torch.testing.assert_close(out, found["output"], atol=4e-5, rtol=0)


def test_the_classifier_of_64_px_and_its_gradient():
    found = load_file(DATA / "golden/ckpt/classifier64.safetensors")
    net = GuidedEncoder(
        model_channels=64, channels=(64, 128, 192, 256), layers=1, attention=(False, True, True, True),
        num_head_channels=64, sample_size=64,
    )  # fmt: skip
    x = found["x"].requires_grad_()
    logits = formula(net)(x, found["t"])
    torch.testing.assert_close(logits, found["logits"], atol=2e-5, rtol=0)
    (grad,) = torch.autograd.grad(logits.log_softmax(1)[0, found["y"][0]], x)
    torch.testing.assert_close(grad[..., ::4, ::4], found["cond_grad"], atol=1e-8, rtol=0)
    assert found["cond_grad"].abs().max() > 1e-5


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("new_order", [True, False])
def test_attention_head_by_head(new_order):
    """Queries, keys and values of one head at a time, by loops."""
    heads, width, length = 3, 12, 5
    qkv = torch.randn(2, 3 * width, length, generator=seeded())
    each, out = width // heads, torch.zeros(2, width, length)
    for b in range(2):
        for h in range(heads):
            begins = [h * each + i * width for i in range(3)] if new_order else [(3 * h + i) * each for i in range(3)]
            q, k, v = (qkv[b, begin : begin + each] for begin in begins)  # (each,L)
            for at in range(length):
                weights = torch.softmax((q[:, at] @ k) / math.sqrt(each), 0)
                out[b, h * each : (h + 1) * each, at] = v @ weights
    torch.testing.assert_close(attend(qkv, heads, new_order), out)


# ---------------------------------------------------------------- as UNet2DModel


@torch.no_grad()
@pytest.mark.parametrize("resample", ["updown", "conv"])
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("new_order", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_diffusers_says_the_same(resample, scale_shift, new_order, layers):
    options = {"resample": resample, "scale_shift": scale_shift, "new_order": new_order, "layers": layers}
    net = lively(GuidedUNet(**UNET, **options, num_class_embeds=7))
    config = dict(net.config)
    assert rename.expressible(config)
    other = made(UNet2DModel, rename.unet2d(config), rename.renamed(config, net.state_dict()))
    x, t = given()
    y = torch.tensor([2, 5])
    out = net(x, t, y)
    assert out.std() > 0.1
    torch.testing.assert_close(other(x, t, y).sample, out, atol=2e-5 * float(out.abs().max()), rtol=0)


@torch.no_grad()
def test_and_with_attention_everywhere_or_a_count_of_heads():
    for options in (
        {"channels": (32, 64, 64), "attention": (True, False, True), "num_head_channels": 8},
        {"channels": (32, 64, 64), "attention": (False, True, True), "num_heads": 4, "num_head_channels": None},
        {"channels": (32, 32), "attention": (True, True), "num_heads": 2, "num_head_channels": None},
    ):
        net = lively(GuidedUNet(**{**UNET, **options}))
        config = dict(net.config)
        other = made(UNet2DModel, rename.unet2d(config), rename.renamed(config, net.state_dict()))
        x, t = given()
        torch.testing.assert_close(other(x, t).sample, net(x, t), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": (16 * 2, 64), "model_channels": 64},  # 512 px: channel_mult begins with 0.5
        {"attention": (True, True), "num_heads": 2, "num_head_channels": None},  # heads of 16 and 32
        {"resample": "pool"},
        {"low_res": True},
        {"num_heads": 2, "num_head_channels": None, "num_heads_upsample": 4},
    ],
)
def test_what_diffusers_cannot_say_is_known(options):
    assert not rename.expressible(dict(GuidedUNet(**{**UNET, **options}).config))


# ---------------------------------------------------------------- the modules


@torch.no_grad()
@pytest.mark.parametrize("resample", RESAMPLES)
def test_shapes_and_saving(resample, tmp_path):
    net = lively(GuidedUNet(**UNET, resample=resample))
    x, t = given(16)
    net.save_pretrained(tmp_path)
    again = GuidedUNet.from_pretrained(tmp_path)
    assert torch.equal(again(x, t), net(x, t))
    assert net(x, t).shape == (2, 6, 16, 16)
    assert net.multiple == 2
    assert (net.conv_in.in_channels, net.conv_out.out_channels) == (3, 6)


@torch.no_grad()
def test_an_upsampler_sees_the_small_picture():
    net = lively(GuidedUNet(**UNET, low_res=True))
    (x, t), small = given(16), torch.randn(2, 3, 4, 4, generator=seeded(5))
    enlarged = torch.nn.functional.interpolate(small, (16, 16), mode="bilinear")
    assert torch.equal(net(x, t, low_res=small), net(x, t, low_res=enlarged))
    assert not torch.allclose(net(x, t, low_res=small), net(x, t, low_res=-small))
    with pytest.raises(InputError, match="given low_res"):
        net(x, t)
    with pytest.raises(InputError, match="given low_res"):
        GuidedUNet(**UNET)(x, t, low_res=small)


def test_classes_are_given_where_there_are_some():
    x, t = given(16)
    for classes, labels in ((5, None), (None, torch.tensor([0, 1]))):
        with pytest.raises(InputError, match="class_labels"):
            GuidedUNet(**UNET, num_class_embeds=classes)(x, t, labels)


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool(pool):
    net = lively(GuidedEncoder(**SMALL, classes=7, num_head_channels=16, pool=pool, sample_size=16))
    x, t = given(16)
    x.requires_grad_()
    logits = net(x, t)
    assert logits.shape == (2, 7)
    assert torch.autograd.grad(logits.sum(), x)[0].abs().min(0).values.max() > 0
    if pool == "attention":
        with pytest.raises(InputError, match="8 x 8 places, and these are 12 x 12"):
            net(given(24)[0], t)
    else:
        assert net(given(24)[0], t).shape == (2, 7)
