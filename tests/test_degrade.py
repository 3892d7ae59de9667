"""Degrading pictures, against scipy, torch, PIL and the restoring operators; every kind of picture; what is refused."""

import json

import numpy as np
import pytest
import torch
from conftest import seeded
from pictures import ICC, assert_camera, camera, file_of, noise, opened, png16, smooth
from PIL import Image
from scipy import ndimage
from torch.nn.functional import avg_pool2d, interpolate

from restore import images
from restore.degrade import Degrade, degrade
from restore.errors import InputError
from restore.kernels import read_kernel
from restore.operators import downscale, grayscale
from restore.picture import luma


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed)) * 0.8 + 0.1


def lopsided(kh, kw):
    """A kernel without any symmetry."""
    return torch.rand(kh, kw, generator=seeded(1)) + torch.arange(kw) / kw


# ---------------------------------------------------------------- blur

KERNELS = {
    "gaussian": "gaussian:1.3",
    "motion": "motion:7,30",
    "uniform": "uniform:5",
    "lopsided": lopsided(5, 3),
    "even": lopsided(4, 6),
    "larger than the picture": lopsided(41, 35),
}


@pytest.mark.parametrize("name", KERNELS)
def test_blur_is_that_of_scipy(name):
    x, kernel = rand(2, 3, 17, 14), read_kernel(KERNELS[name])
    want = ndimage.convolve(x.double().numpy(), kernel[None, None].double().numpy(), mode="reflect")
    assert np.allclose(degrade(x, kernel=KERNELS[name]), want, atol=2e-6)


def test_kernel_from_a_picture(tmp_path):
    weights = (lopsided(5, 7) * 100).byte().numpy()
    Image.fromarray(weights).save(tmp_path / "k.png")
    x = rand(1, 3, 12, 15)
    want = ndimage.convolve(x.numpy(), weights[None, None] / weights.sum(), mode="reflect")
    assert np.allclose(degrade(x, kernel=tmp_path / "k.png"), want, atol=2e-6)


# ---------------------------------------------------------------- scale and gray


@pytest.mark.parametrize("scale", [2, 3, 5])
def test_scale_is_that_of_torch_and_of_the_operator(scale):
    x = rand(1, 3, 30, 45)
    size = (30 // scale, 45 // scale)
    kept = x[..., : size[0] * scale, : size[1] * scale]
    small = degrade(x, scale=scale)
    assert torch.equal(small, interpolate(kept, size, mode="bicubic", antialias=True).clamp(0, 1))
    assert torch.allclose(small, downscale(scale, kept.shape[2:]).A(kept).clamp(0, 1), atol=1e-6)
    small = degrade(x, scale=scale, method="average")
    assert torch.equal(small, avg_pool2d(kept, scale))
    assert torch.allclose(small, downscale(scale, kept.shape[2:], method="average").A(kept), atol=1e-6)


def test_scale_cuts_what_is_over_at_the_bottom_and_right():
    x = rand(1, 3, 15, 14)
    assert torch.equal(degrade(x, scale=4), degrade(x[..., :12, :12], scale=4))
    rgba = noise(15, 14, 4)
    found, want = degrade(rgba, scale=4), degrade(np.ascontiguousarray(rgba[:12, :12]), scale=4)
    assert found.shape == (3, 3, 4)
    assert (found == want).all()


def test_gray_is_the_operator_on_equal_channels():
    x = rand(2, 3, 9, 8)
    assert torch.allclose(degrade(x, gray=True), grayscale().A(x).expand(-1, 3, -1, -1), atol=1e-6)
    assert torch.equal(degrade(x, gray=True), luma(x).expand(-1, 3, -1, -1))


# ---------------------------------------------------------------- noise


def test_noise_has_its_deviation_and_no_pattern():
    x = torch.full((2, 3, 150, 170), 0.5)
    found = degrade(x, noise_std=0.08) - 0.5
    assert float(found.std()) == pytest.approx(0.08, rel=0.01)
    assert abs(float(found.mean())) < 0.001
    flat = found.flatten(2).flatten(0, 1)  # (6,HW)
    assert (torch.corrcoef(flat) - torch.eye(6)).abs().max() < 0.03
    assert abs(float(torch.corrcoef(torch.stack([flat[:, 1:].ravel(), flat[:, :-1].ravel()]))[0, 1])) < 0.01


@pytest.mark.parametrize("make", ["gray option", "gray picture", "one channel"])
def test_noise_of_a_gray_picture_keeps_its_deviation(make):
    if make == "gray option":
        found = degrade(torch.full((1, 3, 150, 150), 0.5), gray=True, noise_std=0.08)
        assert torch.equal(found[:, 0], found[:, 1])
        assert torch.equal(found[:, 0], found[:, 2])
    elif make == "gray picture":
        found = torch.from_numpy(degrade(np.full((150, 150), 32768, np.uint16), noise_std=0.08) / 65535)
    else:
        found = degrade(torch.full((1, 1, 150, 150), 0.5), noise_std=0.08)
    assert float(found.std()) == pytest.approx(0.08, rel=0.02)


def test_same_seed_same_noise():
    x = rand(1, 3, 8, 9)
    zero = degrade(x, noise_std=0.05)
    assert torch.equal(zero, degrade(x, noise_std=0.05, seed=0))
    assert not torch.equal(zero, degrade(x, noise_std=0.05, seed=1))
    before = torch.random.get_rng_state()
    degrade(x, noise_std=0.05)
    assert torch.equal(before, torch.random.get_rng_state())


def test_noise_is_clipped():
    found = degrade(torch.ones(1, 3, 30, 30), noise_std=0.5)
    assert float(found.max()) == 1
    assert float(found.min()) >= 0


# ---------------------------------------------------------------- mask and JPEG


def test_white_of_the_mask_becomes_mid_gray():
    x, mask = noise(12, 15, 3), np.zeros((12, 15), np.uint8)
    mask[3:7, 4:9] = 255
    found = degrade(x, mask=mask)
    assert (found[mask > 0] == 128).all()
    assert (found[mask == 0] == x[mask == 0]).all()


def test_the_mask_is_for_the_small_picture():
    x, small, large = rand(1, 3, 24, 32), torch.zeros(12, 16), torch.zeros(24, 32)
    small[2:5, 3:9], large[4:10, 6:18] = 1, 1
    found = degrade(x, scale=2, mask=small)
    want = torch.where(small > 0, 0.5, degrade(x, scale=2))
    assert torch.equal(found, want)
    with pytest.warns(UserWarning, match="the tensor at 1/2 is 16 x 12: the mask was resized"):
        assert torch.equal(degrade(x, scale=2, mask=large), want)


def test_masks_of_a_batch():
    x, masks = rand(2, 3, 8, 9), torch.zeros(2, 1, 8, 9)
    masks[1, :, 2:4] = 1
    found = degrade(x, mask=masks)
    assert torch.equal(found[0], x[0])
    assert (found[1][:, 2:4] == 0.5).all()
    assert torch.equal(found[1][:, 4:], x[1][:, 4:])


@pytest.mark.parametrize("quality", [5, 60, 100])
@pytest.mark.parametrize("shape", [(37, 53, 3), (37, 53)])
def test_jpeg_is_that_of_pil(quality, shape):
    x = smooth(*shape)
    want = np.asarray(opened(file_of(Image.fromarray(x), "JPEG", quality=quality)))
    assert (degrade(x, jpeg=quality) == want).all()


def test_jpeg_rounds_to_eight_bits_first():
    x = smooth(24, 32, 3)
    want = np.asarray(opened(file_of(Image.fromarray(x), "JPEG", quality=100)))
    found = degrade(np.clip((x - 0.4) / 255, 0, 1), jpeg=100)
    assert (np.round(found * 255) == want).all()


def test_jpeg_of_a_batch():
    x = torch.from_numpy(np.stack([smooth(24, 20, 3), noise(24, 20, 3)])).permute(0, 3, 1, 2)
    both = degrade(x, jpeg=30)
    assert torch.equal(both[0], degrade(x[:1], jpeg=30)[0])
    assert torch.equal(both[1], degrade(x[1:], jpeg=30)[0])


# ---------------------------------------------------------------- all together, and every kind


def test_the_order_of_what_is_done():
    x = rand(1, 3, 22, 27)
    mask = torch.zeros(7, 9)
    mask[2:4, 3:6] = 1
    steps = [{"kernel": "motion:5,20"}, {"scale": 3}, {"gray": True}, {"noise_std": 0.02}, {"mask": mask}, {"jpeg": 40}]
    together = degrade(x, seed=4, **{name: value for step in steps for name, value in step.items()})
    y = degrade(x, kernel="motion:5,20")
    y = degrade(y, scale=3)
    y = degrade(y, gray=True)[:, :1]
    y = degrade(y, noise_std=0.02, seed=4)
    y = degrade(y, mask=mask)
    y = degrade(y, jpeg=40)
    assert torch.equal(together, y.expand(-1, 3, -1, -1))


def test_every_kind_comes_back(tmp_path):
    x = smooth(21, 26, 3)
    want = degrade(x, scale=2, noise_std=0.05)
    assert (want.dtype, want.shape) == (np.uint8, (10, 13, 3))
    Image.fromarray(x).save(tmp_path / "x.png")
    tensor = degrade(torch.from_numpy(x).permute(2, 0, 1), scale=2, noise_std=0.05)
    assert (tensor.permute(1, 2, 0).numpy() == want).all()
    for source in (tmp_path / "x.png", Image.fromarray(x)):
        found = degrade(source, scale=2, noise_std=0.05)
        assert isinstance(found, Image.Image)
        assert (np.asarray(found) == want).all()
    data = degrade((tmp_path / "x.png").read_bytes(), scale=2, noise_std=0.05)
    assert (np.asarray(opened(data)) == want).all()
    picture = degrade(images.read(images.read(tmp_path / "x.png")), scale=2, noise_std=0.05)
    assert (picture.pixels() == want).all()


def test_what_a_file_has_besides_pixels_is_kept():
    rgba = np.dstack([smooth(36, 52, 3), noise(36, 52, 1)])
    data = file_of(Image.fromarray(rgba), "PNG", exif=camera(6), icc_profile=ICC)
    done = opened(degrade(data, kernel="disk:2", gray=True, noise_std=0.02))
    assert (done.mode, done.size, done.info["icc_profile"]) == ("RGBA", (36, 52), ICC)
    assert_camera(done)
    assert (np.asarray(done)[..., 3] == np.rot90(rgba[..., 3], -1)).all()
    assert opened(degrade(data, scale=4)).size == (9, 13)


def test_sixteen_bits_are_kept():
    x = noise(20, 31, 3, dtype=np.uint16)
    done = images.read(degrade(png16(x, 2), kernel="gaussian:0.5"))
    assert done.depth == 16
    assert (done.rgb * 65535 % 257 > 1).any()


def test_the_bytes_of_a_jpeg_are_compressed_as_asked():
    data = file_of(Image.fromarray(smooth(64, 64, 3)), "JPEG", quality=95)
    done = degrade(data, jpeg=10)
    assert opened(done).quantization == opened(file_of(opened(data), "JPEG", quality=10)).quantization


def test_the_report_names_what_was_done():
    picture = images.read(noise(16, 16, 3))
    info = Degrade(kernel="disk:2", scale=2, noise_std=0.1, jpeg=9, mask=np.ones((8, 8)), seed=3).run(picture).info
    facts = json.loads(json.dumps(info.as_dict()))
    assert facts.pop("seconds") >= 0
    assert facts == {
        "kernel": "disk:2", "scale": 2, "method": "bicubic", "noise_std": 0.1, "mask": "ndarray", "jpeg": 9, "seed": 3,
    }  # fmt: skip
    info = Degrade(kernel=torch.ones(2, 2), gray=True).run(picture).info
    assert {**info.as_dict(), "seconds": 0} == {"kernel": "Tensor", "gray": True, "seconds": 0}


# ---------------------------------------------------------------- what is refused

BAD = {  # name: (options, words)
    "nothing": ({}, ["nothing to do", "kernel", "jpeg"]),
    "nothing but zero": ({"noise_std": 0.0, "seed": 3}, ["nothing to do"]),
    "unknown kernel": ({"kernel": "magic:3"}, ["magic:3", "gaussian"]),
    "scale 1": ({"scale": 1}, ["scale is 1", "from 2 to 16"]),
    "scale 17": ({"scale": 17}, ["scale is 17"]),
    "half a scale": ({"scale": 2.5}, ["scale is 2.5"]),
    "scale true": ({"scale": True}, ["scale is True"]),
    "scale over the picture": ({"scale": 9}, ["the array", "shrunk by 9"]),
    "method": ({"scale": 2, "method": "nearest"}, ["'nearest'", "bicubic or average"]),
    "method without scale": ({"gray": True, "method": "average"}, ["average", "scale"]),
    "noise of 1": ({"noise_std": 1.0}, ["noise of 1 (sigma 255)"]),
    "negative noise": ({"noise_std": -0.1}, ["noise of -0.1"]),
    "NaN as noise": ({"noise_std": float("nan")}, ["noise of nan"]),
    "text as noise": ({"noise_std": "much"}, ["'much'"]),
    "quality 0": ({"jpeg": 0}, ["jpeg is 0", "from 1 to 100"]),
    "quality 101": ({"jpeg": 101}, ["jpeg is 101"]),
    "negative seed": ({"gray": True, "seed": -1}, ["seed is -1"]),
    "huge seed": ({"gray": True, "seed": 2**63}, ["seed is"]),
    "no seed": ({"gray": True, "seed": None}, ["seed is None"]),
    "mask of another shape": ({"mask": np.ones((8, 30))}, ["30 x 8", "12 x 8"]),
    "missing mask": ({"mask": "nope.png"}, ["nope.png"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_refused(name):
    options, words = BAD[name]
    with pytest.raises(InputError) as caught:
        degrade(noise(8, 12, 3), **options)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_side_that_jpeg_cannot_hold():
    with pytest.raises(InputError, match="at most 65500 pixels a side, and there are 65501"):
        degrade(torch.zeros(1, 1, 1, 65501), jpeg=50)


def test_options_are_checked_before_a_picture_is_seen():
    late = {"scale over the picture", "mask of another shape", "missing mask"}
    for name in BAD.keys() - late:
        with pytest.raises(InputError):
            Degrade(**BAD[name][0])
