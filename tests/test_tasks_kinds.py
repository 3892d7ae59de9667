"""Every task of a picture: kinds in and kinds out, bits, metadata, transparency, sizes, batches."""

import io
import math
import warnings

import numpy as np
import pytest
import torch
from pictures import ICC, assert_camera, camera, file_of, png16
from PIL import Image
from tasking import (
    INVERSE,
    KINDS,
    PICTURES,
    SIZE,
    colours,
    drawn,
    grown,
    made,
    methods,
    smooth,
    values,
    white,
)  # fmt: skip

from restore import images
from restore.picture import Picture, luma


def look(source):
    """Type, dtype or mode or format, whether it is gray, bits, and shape."""
    picture = images.read(source)
    held = [picture.depth, picture.alpha is not None, tuple(picture.rgb.shape[-2:])]
    if isinstance(source, Image.Image):
        return [Image.Image, source.mode, picture.gray, *held]
    if isinstance(source, bytes):
        return [bytes, Image.open(io.BytesIO(source)).format, picture.gray, *held]
    if isinstance(source, Picture):
        return [Picture, None, picture.gray, *held]
    return [type(source), source.dtype, picture.gray, *held, source.ndim, len(picture.rgb)]


def wanted(source, task):
    """The look of the answer: larger, or in colour."""
    kind, dtype, gray, *held = look(source)
    if task == "upscale":
        held[2] = grown(task, held[2])
    if task == "colorize" and gray:
        gray = False
        if kind is Image.Image:
            dtype, held[0] = {"L": "RGB", "LA": "RGBA", "I;16": "RGB", "I": "RGB"}[dtype], 8
        if kind is np.ndarray:
            held[3] = max(held[3], 3)  # (H,W) becomes (H,W,3)
    return [kind, dtype, gray, *held]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", PICTURES)
def test_the_answer_is_of_the_kind_that_went_in(task, kind):
    """And holds what the answer to a Picture holds, to the rounding of its kind."""
    source, prior = KINDS[kind](), white(mean=(0.3, 0.0, -0.3), multiple=4)
    before = source.copy() if isinstance(source, np.ndarray) else source
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the PIL image: a PIL image holds 8 bits")
        out = made(task, source, prior)
    assert look(out) == wanted(source, task)
    found, same = images.read(out), made(task, images.read(source), prior)
    assert (found.rgb - (luma(same.rgb) if same.gray else same.rgb)).abs().max() < 0.51 / 255
    assert found.alpha is None or (found.alpha - 0.5).abs().max() < 0.01
    assert not isinstance(source, np.ndarray | torch.Tensor) or (source == before).all()


@pytest.mark.parametrize("task", PICTURES)
def test_sixteen_bits_are_not_eight(task):
    prior = white(mean=(0.3, 0.0, -0.3))
    for source in (values(3, np.uint16), png16(values(3, np.uint16), 2)):
        found = images.read(made(task, source, prior)).samples(torch.uint16).int()
        assert (found - made(task, images.read(source), prior).samples(torch.uint16).int()).abs().max() <= 1
        assert (found[(found > 0) & (found < 65535)] % 257 != 0).float().mean() > 0.95


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("task", PICTURES)
def test_metadata_stay(task, mode, format, tmp_path):
    """EXIF and the resolution; the ICC profile too, but where gray became colour: it was a profile of gray."""
    image = Image.fromarray(values(3)).convert(mode)
    data = file_of(image, format, exif=camera(6), icc_profile=ICC, dpi=(150, 150))
    (tmp_path / "photo").write_bytes(data)
    for source in (data, tmp_path / "photo", str(tmp_path / "photo")):
        out = made(task, source, white())
        out = Image.open(io.BytesIO(out)) if isinstance(out, bytes) else out
        assert out.size == grown(task)  # turned: (W,H) of the stored file is (H,W)
        assert_camera(out)
        assert ("icc_profile" in out.info) == (task != "colorize" or mode == "RGB")
        assert out.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert out.mode == ("RGB" if task == "colorize" else mode)


def test_transparency_is_enlarged_with_the_picture():
    rgba = values(4)
    rgba[..., 3] = 0
    rgba[:, 13:, 3] = 255
    out = made("upscale", rgba, white())[..., 3]
    assert (out[:, :22] == 0).all()
    assert (out[:, 30:] == 255).all()
    assert (np.diff(out[:, 22:30].astype(int)) >= 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (37, 5), (8, 8), (3, 60)])
@pytest.mark.parametrize(("task", "method"), methods(PICTURES))
def test_any_size(task, method, size):
    prior = white(multiple=8)
    fitting = {"deblur": {"kernel": np.ones((1, 1))}, "refine": {"factor": min(4, *size)}}.get(task, {})
    out = made(task, colours(size), prior, method=method, **fitting)
    assert out.shape == (1, 3, *grown(task, size))
    assert out.isfinite().all()
    assert all(h % 8 == 0 and w % 8 == 0 for h, w in prior.net.shapes)


@pytest.mark.parametrize("scale", [2, 3, 5, 16, np.int64(3)])
@pytest.mark.parametrize("multiple", [1, 4, 6])
def test_scales(scale, multiple):
    """And no more pixels than the network needs."""
    prior = white(multiple=multiple)
    out = made("upscale", colours((5, 7)), prior, scale=scale)
    assert out.shape == (1, 3, 5 * scale, 7 * scale)
    step = math.lcm(multiple, int(scale))
    assert prior.net.shapes[0] == tuple(-(-side * int(scale) // step) * step for side in (5, 7))


@pytest.mark.parametrize("task", [*INVERSE, "translate"])
def test_a_batch_is_its_pictures_one_by_one(task):
    batch, options = drawn(SIZE, batch=3), {"method": "dpir"} if task == "colorize" else {}
    out = made(task, batch, smooth(multiple=4), **options)
    assert not torch.allclose(out[0], out[1], atol=0.05)
    for one, together in zip(batch, out, strict=True):
        torch.testing.assert_close(made(task, one, smooth(multiple=4), **options), together, atol=2e-4, rtol=0)


def test_exif_of_an_enlarged_picture_names_its_new_size():
    tags = Image.Exif()
    tags[0x10F] = "a camera"
    tags.get_ifd(0x8769).update({0xA002: 30, 0xA003: 20, 0x9003: "2020:01:01 00:00:00"})
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (90, 120, 60)).save(file, "JPEG", exif=tags)
    out = Image.open(io.BytesIO(made("upscale", file.getvalue(), white(), scale=2)))
    found = out.getexif()
    assert (out.size, found[0x10F], found.get_ifd(0x8769)[0x9003]) == ((60, 40), "a camera", "2020:01:01 00:00:00")
    assert (found.get_ifd(0x8769)[0xA002], found.get_ifd(0x8769)[0xA003]) == (60, 40)
