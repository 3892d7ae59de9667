"""PSNR and SSIM against scikit-image, LPIPS against its formula, and scores of pictures of every kind."""

import math
import re

import numpy as np
import pytest
import torch
from conftest import normal, seeded
from pictures import noise, png16
from PIL import Image
from safetensors.torch import save_file
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from restore.errors import InputError
from restore.metrics import LPIPS, luma_y, psnr, score, ssim


def pair(*shape, seed=0, dtype=torch.float32):
    """A smooth picture, and the same with noise; (B,3,H,W)."""
    rows, cols = torch.linspace(0, 3, shape[-2])[:, None], torch.linspace(0, 5, shape[-1])
    base = 0.5 + 0.3 * torch.sin(rows + torch.arange(3.0)[:, None, None]) * torch.cos(cols)
    a = base.expand(shape).to(dtype)
    return a, (a + 0.08 * normal(*shape, seed=seed).to(dtype)).clamp(0, 1)


def theirs(a, b):
    """scikit-image's SSIM of (C,H,W)."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    return structural_similarity(a.double().numpy(), b.double().numpy(), channel_axis=0, **options)


# ---------------------------------------------------------------- PSNR and SSIM


@pytest.mark.parametrize("size", [(37, 53), (11, 11), (64, 12)])
def test_psnr_and_ssim_are_those_of_skimage(size):
    a, b = pair(2, 3, *size)
    for k, (p, s) in enumerate(zip(psnr(a, b), ssim(a, b), strict=True)):
        want = peak_signal_noise_ratio(a[k].double().numpy(), b[k].double().numpy(), data_range=1)
        assert float(p) == pytest.approx(want, abs=1e-9)
        assert float(s) == pytest.approx(theirs(a[k], b[k]), abs=1e-12)
    assert psnr(a, b)[0] != psnr(a, b)[1]
    assert ssim(a, b)[0] != ssim(a, b)[1]


def test_ssim_of_nearly_equal_flat_pictures_keeps_its_digits():
    a = torch.full((1, 3, 24, 24), 0.7)
    b = a + 1e-4 * normal(*a.shape).float()
    assert float(ssim(a, b)) == pytest.approx(theirs(a[0], b[0]), abs=1e-12)


def test_crop_leaves_the_border_out():
    a, b = pair(1, 3, 30, 41)
    b[..., :4, :], b[..., -4:, :], b[..., :4], b[..., -4:] = 0, 1, 0, 1
    inner = a[..., 4:-4, 4:-4], b[..., 4:-4, 4:-4]
    assert torch.equal(psnr(a, b, crop=4), psnr(*inner))
    assert torch.equal(ssim(a, b, crop=4), ssim(*inner))
    assert float(psnr(a, b, crop=4)) > float(psnr(a, b)) + 3


def test_luma_is_that_of_matlab():
    a, b = pair(1, 3, 20, 24, dtype=torch.float64)
    y, other = (luma_y(x)[0] for x in (a, b))
    assert np.allclose(y[0] * 255, rgb2ycbcr(a[0].permute(1, 2, 0).numpy())[..., 0], atol=1e-9)
    assert float(y.min()) >= 16 / 255
    assert float(luma_y(torch.ones(1, 3, 1, 1))) == pytest.approx(235 / 255)
    assert float(psnr(a, b, y_only=True)) == pytest.approx(-10 * math.log10(float((y - other).square().mean())))
    assert float(ssim(a, b, y_only=True)) == pytest.approx(theirs(y, other), abs=1e-12)


def test_equal_pictures():
    a, _ = pair(2, 3, 16, 16)
    assert psnr(a, a).tolist() == [math.inf] * 2
    assert ssim(a, a).tolist() == [1, 1]


def rand(*shape):
    return torch.rand(*shape, generator=seeded())


BAD = {  # name: (a, b, options, words)
    "sizes": (rand(1, 3, 16, 16), rand(1, 3, 16, 17), {}, ["(1, 3, 16, 16)", "(1, 3, 16, 17)"]),
    "batches": (rand(1, 3, 16, 16), rand(2, 3, 16, 16), {}, ["(1, 3, 16, 16)", "(2, 3, 16, 16)"]),
    "no batch": (rand(3, 16, 16), rand(3, 16, 16), {}, ["(B,3,H,W)"]),
    "one channel": (rand(1, 1, 16, 16), rand(1, 1, 16, 16), {}, ["(B,3,H,W)"]),
    "integers": (rand(1, 3, 16, 16).byte(), rand(1, 3, 16, 16).byte(), {}, ["floats", "uint8"]),
    "negative crop": (rand(1, 3, 16, 16), rand(1, 3, 16, 16), {"crop": -1}, ["-1"]),
    "all cropped": (rand(1, 3, 16, 30), rand(1, 3, 16, 30), {"crop": 8}, ["crop 8", "30 x 16"]),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("metric", [psnr, ssim, lambda a, b, **o: LPIPS("AlexNet")(a, b, **o)])
def test_bad_pairs_are_refused(name, metric):
    a, b, options, words = BAD[name]
    with pytest.raises(InputError) as caught:
        metric(a, b, **options)
    assert all(word in str(caught.value) for word in words)


def test_a_window_larger_than_the_picture_is_refused():
    a = rand(1, 3, 10, 40)
    assert psnr(a, a).isinf()
    with pytest.raises(InputError, match="11 x 11 pixels, and there are 40 x 10"):
        ssim(a, a)
    with pytest.raises(InputError, match="there are 10 x 10"):
        ssim(rand(1, 3, 12, 12), rand(1, 3, 12, 12), crop=1)


# ---------------------------------------------------------------- LPIPS


def torchvision_alexnet():
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )  # fmt: skip


def torchvision_vgg16():
    layers, channels = [], 3
    for v in [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]:
        layers += [nn.MaxPool2d(2, 2)] if v == "M" else [nn.Conv2d(channels, v, 3, padding=1), nn.ReLU()]
        channels = channels if v == "M" else v
    return nn.Sequential(*layers)


KINDS = {"AlexNet": (torchvision_alexnet, (1, 4, 7, 9, 11)), "VGG16": (torchvision_vgg16, (3, 8, 15, 22, 29))}


@pytest.fixture(scope="module")
def weights():
    """{kind: (features, linear layers)} with random weights."""
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for kind, (make, taps) in KINDS.items():
            features = make().requires_grad_(False)
            widths = [features[tap - 1].out_channels for tap in taps]
            found[kind] = features, {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1) for k, c in enumerate(widths)}
    return found


def formula(features, linear, taps, a, b):
    """Eq. 1 of the paper, in float64 and layer by layer; input scaled as the released code does."""

    def activations(x):
        shift, scale = (
            torch.tensor(v).double().view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
        )
        x = (x.double() * 2 - 1 - shift) / scale
        for k, layer in enumerate(features[: taps[-1] + 1]):
            x = layer(x)
            if k in taps:
                yield x

    total = 0
    for k, (y, y0) in enumerate(zip(activations(a), activations(b), strict=True)):
        w = linear[f"lin{k}.model.1.weight"].double().flatten()
        y, y0 = (torch.nn.functional.normalize(v, dim=1, eps=1e-10) for v in (y, y0))
        per_pixel = torch.einsum("c,bchw->bhw", w, (y - y0) ** 2)
        total = total + per_pixel.sum((1, 2)) / (y.shape[2] * y.shape[3])
    return total


def save_pair(folder, weights, kind="AlexNet", ending="pth"):
    """The two files as torchvision and lpips name what is in them."""
    features, linear = weights[kind]
    body = {f"features.{name}": value for name, value in features.state_dict().items()}
    paths = folder / f"backbone.{ending}", folder / f"linear.{ending}"
    for path, held in zip(paths, (body | {"classifier.1.weight": torch.zeros(2, 2)}, linear), strict=True):
        (save_file if ending == "safetensors" else torch.save)(held, path)
    return paths


@pytest.mark.parametrize(("kind", "ending"), [("AlexNet", "pth"), ("AlexNet", "safetensors"), ("VGG16", "safetensors")])
def test_lpips_is_its_formula(kind, ending, weights, tmp_path):
    a, b = pair(2, 3, 47, 39)
    model = LPIPS.from_files(*save_pair(tmp_path, weights, kind, ending))
    features, linear = weights[kind]
    want = formula(features.double(), linear, KINDS[kind][1], a, b)
    features.float()
    assert model.name == kind
    assert model(a, b).tolist() == pytest.approx(want.tolist(), rel=1e-4)
    assert want[0] != want[1]
    assert model(a, a).tolist() == [0, 0]
    assert torch.equal(model(a, b, crop=4), model(a[..., 4:-4, 4:-4], b[..., 4:-4, 4:-4]))


@pytest.mark.parametrize(("kind", "least"), [("AlexNet", 31), ("VGG16", 16)])
def test_the_smallest_picture_of_lpips(kind, least):
    model = LPIPS(kind)
    assert model(rand(1, 3, least, least), rand(1, 3, least, least)).shape == (1,)
    with pytest.raises(InputError, match=f"{least} x {least} pixels, and there are 80 x {least - 1}"):
        model(rand(1, 3, least - 1, 80), rand(1, 3, least - 1, 80))


def spoil(name, body, linear):
    if name == "no backbone":
        body.unlink()
    elif name == "a folder":
        body.unlink()
        body.mkdir()
    elif name == "cut":
        body.write_bytes(body.read_bytes()[:1000])
    elif name == "text":
        linear.write_text("hello")
    elif name == "empty":
        linear.write_bytes(b"")
    elif name == "code":
        torch.save(nn.Linear(2, 2), body)
    elif name == "a list":
        torch.save([torch.zeros(2)], linear)
    elif name == "swapped":
        swap = body.read_bytes()
        body.write_bytes(linear.read_bytes())
        linear.write_bytes(swap)
    elif name == "a layer is missing":
        held = torch.load(body)
        del held["features.8.bias"]
        torch.save(held, body)
    elif name == "another network's":
        held = torch.load(linear)
        torch.save({**held, "lin1.model.1.weight": torch.zeros(1, 128, 1, 1)}, linear)
    elif name == "VGG of another depth":
        torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, body)


WRONG = {
    "no backbone": ["backbone.pth", "No such file"],
    "a folder": ["backbone.pth", "directory"],
    "cut": ["backbone.pth", "weights"],
    "text": ["linear.pth", "weights"],
    "empty": ["linear.pth", "weights"],
    "code": ["backbone.pth", "more than weights"],
    "a list": ["linear.pth", "state dict"],
    "swapped": ["backbone.pth", "AlexNet or VGG16", "missing features.0.weight, features.0.bias", "and 23 more"],
    "a layer is missing": ["backbone.pth", "AlexNet", "missing features.8.bias"],
    "another network's": ["linear.pth", "AlexNet", "lin1.model.1.weight is (1, 128, 1, 1), not (1, 192, 1, 1)"],
    "VGG of another depth": ["backbone.pth", "VGG16", "missing features.0.bias, features.2.weight"],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights_are_refused(name, weights, tmp_path):
    paths = save_pair(tmp_path, weights)
    spoil(name, *paths)
    with pytest.raises(InputError) as caught:
        LPIPS.from_files(*paths)
    assert all(word in str(caught.value) for word in WRONG[name]), caught.value
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- pictures


def test_score_takes_every_kind(tmp_path):
    a, b = noise(20, 31, 3), noise(20, 31, 3, seed=1)
    Image.fromarray(a).save(tmp_path / "a.png")
    found = score(tmp_path / "a.png", b)
    x, y = (torch.from_numpy(v).permute(2, 0, 1)[None] / 255 for v in (a, b))
    assert torch.allclose(found.psnr, psnr(x, y))
    assert torch.allclose(found.ssim, ssim(x, y))
    assert found.lpips is None
    cropped = score(Image.fromarray(a), (tmp_path / "a.png").read_bytes(), crop=3, y_only=True)
    assert (float(cropped.psnr), float(cropped.ssim)) == (math.inf, 1)
    assert torch.equal(score(x, y, crop=3, y_only=True).ssim, ssim(x, y, crop=3, y_only=True))


def test_score_keeps_sixteen_bits():
    a = noise(20, 31, 3, dtype=np.uint16) // 2
    found = score(png16(a, 2), png16(a + 1, 2))
    assert float(found.psnr) == pytest.approx(20 * math.log10(65535), abs=1e-3)


def test_score_with_lpips(weights, tmp_path):
    a, b = pair(2, 3, 33, 35)
    model = LPIPS.from_files(*save_pair(tmp_path, weights))
    assert torch.equal(score(a, b, lpips=model, crop=1).lpips, model(a, b, crop=1))


def test_transparency_is_left_out(recwarn):
    rgb, alpha = noise(12, 13, 3), noise(12, 13, 1)
    opaque = np.full_like(alpha, 255)
    assert score(np.dstack([rgb, opaque]), rgb).psnr.isinf()
    assert score(np.dstack([rgb, alpha]), np.dstack([rgb, alpha]).astype(np.uint16) * 257).psnr.isinf()
    assert not recwarn
    with pytest.warns(UserWarning, match="differ in transparency"):
        assert score(np.dstack([rgb, alpha]), rgb).psnr.isinf()


def test_score_names_what_does_not_fit(tmp_path):
    Image.new("RGB", (36, 28)).save(tmp_path / "a.png")
    cases = [
        ((np.zeros((14, 18, 3), np.uint8),), {}, "a.png is 36 x 28, the array is 18 x 14: "),
        ((torch.zeros(2, 3, 28, 36),), {}, "a.png is 36 x 28 in 1 pictures, the tensor is 36 x 28 in 2 pictures"),
        ((tmp_path / "a.png",), {"crop": 14}, "a.png: cannot crop 14 pixels"),
        ((tmp_path / "a.png",), {"crop": 9}, "a.png: SSIM needs"),
        ((tmp_path / "a.png",), {"lpips": LPIPS("AlexNet")}, "a.png: LPIPS of AlexNet needs"),
        (("nope.png",), {}, "nope.png does not exist"),
    ]
    for args, options, words in cases:
        with pytest.raises(InputError, match=re.escape(words)):
            score(tmp_path / "a.png", *args, **options)
