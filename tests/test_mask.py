"""Masks of every kind against plain numpy, and composites against the pixels they must not touch."""

import io
import warnings

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from scipy.ndimage import distance_transform_edt

from restore.errors import InputError
from restore.images import encode, like, read, write
from restore.mask import composite, opaque_where, read_mask

H, W = 37, 53
HOLE = np.zeros((H, W), bool)
HOLE[5:20, 8:30] = True
HOLE[30, 50] = True


def photo(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape or (H, W, 3), np.uint8)


PICTURE = read(photo())
BATCH = read(photo(2, H, W, 3))


def png(array, mode=None):
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, "PNG") if mode else Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def assert_hole(mask, hole=HOLE, batch=1):
    assert mask.shape == (batch, 1, *hole.shape[-2:])
    assert mask.dtype == torch.float32
    assert (mask[:, 0].numpy() == hole.astype(np.float32)).all()


BYTE = HOLE.astype(np.uint8) * 255
ARRAYS = {
    "bool": HOLE,
    "0 and 1": HOLE.astype(np.uint8),
    "0 and 255": BYTE,
    "int64 0 and 1": HOLE.astype(np.int64),
    "int64 0 and 255": BYTE.astype(np.int64),
    "uint16": HOLE.astype(np.uint16) * 65535,
    "big-endian": (HOLE.astype(np.uint16) * 65535).astype(">u2"),
    "float": HOLE.astype(np.float32),
    "double": HOLE.astype(np.float64),
    "half": HOLE.astype(np.float16),
    "soft": np.where(HOLE, 0.5, 0.49),
    "soft bytes": np.where(HOLE, 128, 127).astype(np.uint8),
    "float 0 and 255": BYTE.astype(np.float32),
    "(H,W,1)": BYTE[..., None],
    "(H,W,3)": np.repeat(BYTE[..., None], 3, 2),
    "(H,W,4)": np.dstack([np.full((H, W, 3), 255, np.uint8), BYTE]),
    "(1,H,W)": HOLE[None],
    "(1,H,W,1)": HOLE[None, ..., None],
    "(1,1,H,W)": HOLE[None, None],
    "reversed": BYTE[::-1, ::-1][::-1, ::-1],
}


@pytest.mark.parametrize("mask", ARRAYS.values(), ids=ARRAYS)
def test_arrays(mask):
    assert_hole(read_mask(mask, PICTURE))
    assert_hole(read_mask(mask, BATCH))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64, torch.bfloat16])
def test_tensors(dtype):
    mask = torch.from_numpy(HOLE).to(dtype)
    for shaped in (mask, mask[None], mask[None, None]):
        assert_hole(read_mask(shaped, PICTURE))
        if dtype in (torch.uint8, torch.int64):
            assert_hole(read_mask(shaped * 255, PICTURE))
    if dtype != torch.bool:
        assert_hole(read_mask(mask.expand(3, H, W), PICTURE))
        assert_hole(read_mask(mask.expand(1, 3, H, W), PICTURE))
    assert_hole(read_mask(mask[None].expand(2, H, W), BATCH), batch=2)


def test_one_mask_each():
    holes = np.stack([HOLE, ~HOLE])
    for mask in (holes, holes[..., None], holes[:, None], torch.from_numpy(holes), torch.from_numpy(holes)[:, None]):
        assert_hole(read_mask(mask, BATCH), holes, batch=2)
        with pytest.raises(InputError, match="2 masks for 1 pictures"):
            read_mask(mask, PICTURE)
    three = np.stack([HOLE, ~HOLE, HOLE])
    for mask in (three, torch.from_numpy(three)):
        assert_hole(read_mask(mask, read(photo(3, H, W, 3))), three, batch=3)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P"])
def test_files_bytes_and_pil(mode, tmp_path):
    im = Image.fromarray(BYTE).convert(mode)
    im.save(tmp_path / "mask.png")
    for mask in (tmp_path / "mask.png", str(tmp_path / "mask.png"), (tmp_path / "mask.png").read_bytes(), im, read(im)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_hole(read_mask(mask, PICTURE))
            assert_hole(read_mask(mask, BATCH))


def test_files_of_16_bits_and_jpeg(tmp_path):
    cv2.imwrite(str(tmp_path / "m.png"), np.where(HOLE, 32768, 32767).astype(np.uint16))
    assert_hole(read_mask(tmp_path / "m.png", PICTURE))
    cv2.imwrite(str(tmp_path / "m.jpg"), BYTE)
    assert_hole(read_mask(tmp_path / "m.jpg", PICTURE))


def test_white_strokes_on_nothing():
    strokes = np.dstack([np.full((H, W, 3), 255, np.uint8), BYTE])
    assert_hole(read_mask(png(strokes), PICTURE))
    strokes[..., :3][~HOLE] = 0
    assert_hole(read_mask(png(strokes), PICTURE))
    soft = np.dstack([np.full((H, W, 3), 255, np.uint8), np.where(HOLE, 128, 127).astype(np.uint8)])
    assert_hole(read_mask(png(soft), PICTURE))
    assert_hole(read_mask(png(np.dstack([np.full((H, W), 255, np.uint8), BYTE]), "LA"), PICTURE))


def test_masks_that_repaint_nothing_by_mistake():
    black = np.dstack([np.zeros((H, W, 3), np.uint8), BYTE])  # black strokes on nothing
    for mask in (png(black), png(HOLE.astype(np.uint8)), HOLE.astype(np.uint8) * 100):
        with pytest.warns(UserWarning, match="repaints nothing.*white = repaint"):
            assert not read_mask(mask, PICTURE).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not read_mask(np.zeros((H, W), np.uint8), PICTURE).any()
        assert not read_mask(png(np.zeros((H, W, 3), np.uint8)), PICTURE).any()
        assert not read_mask(png(np.zeros((H, W, 3), np.uint8), "RGBA"), PICTURE).any()


def test_own_alpha():
    x = np.dstack([photo(), np.where(HOLE, 127, 128).astype(np.uint8)])
    assert_hole(read_mask(None, read(x)))
    assert_hole(read_mask(None, read(png(x))))
    batch = np.stack([x, x[::-1]])
    assert_hole(read_mask(None, read(batch)), np.stack([HOLE, HOLE[::-1]]), batch=2)
    with pytest.raises(InputError, match="no transparency"):
        read_mask(None, PICTURE)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.full((H, W), np.nan), "NaN"),
        (np.full((H, W), -0.1), "-0.1"),
        (np.full((H, W), 1.5), "1.5"),
        (np.full((H, W), 254.0), "254"),
        (np.full((H, W), -1), "-1"),
        (np.full((H, W), 70000), "70000"),
        (np.zeros((H, W), complex), "complex"),
        (np.zeros((H, W), object), "object"),
        (torch.zeros(H, W, dtype=torch.complex64), "complex64"),
        (np.zeros((0, W)), "(0, 53)"),
        (np.zeros(5), "(5)"),
        (np.zeros((H, W, 2)), "37 masks"),
        (np.zeros((1, H, W, 2)), "(1, 37, 53, 2)"),
        (torch.zeros(1, 2, H, W), "(1, 2, 37, 53)"),
        (torch.zeros(2, H, W), "2 masks"),
        (7, "int"),
        ("no.png", "does not exist"),
        (b"not an image", "the mask"),
    ],
)
def test_bad_masks(mask, words):
    with pytest.raises(InputError) as caught:
        read_mask(mask, PICTURE)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_name_stands_in_messages():
    with pytest.raises(InputError, match="brush"):
        read_mask(np.zeros(3), PICTURE, name="brush")
    with pytest.raises(InputError, match="brush"):
        read_mask(b"", PICTURE, name="brush")


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    "size", [(2 * H, 2 * W), (18, 26), (19, 27), (18, 25), (36, 53), (37, 52), (370, 530), (11, 16)]
)
def test_same_aspect_is_resized_with_a_warning(size):
    h, w = size
    mask = np.zeros(size, np.uint8)
    mask[: h // 2] = 255
    with pytest.warns(UserWarning, match=rf"{w} x {h}.*53 x 37.*resized"):
        made = read_mask(mask, PICTURE)
    assert made.shape == (1, 1, H, W)
    assert set(made.unique().tolist()) == {0, 1}
    assert abs(float(made.mean()) - mask.mean() / 255) < 1 / H
    rows = ((np.arange(H) + 0.5) * h / H).astype(int)
    assert (made[0, 0, :, 0].numpy() == mask[rows, 0] / 255).all()


@pytest.mark.parametrize("size", [(W, H), (H, H), (H, W + 2), (H - 2, W), (H + 2, W), (2 * H, W), (100, 100)])
def test_another_aspect_is_refused(size):
    with pytest.raises(InputError, match=rf"{size[1]} x {size[0]}.*53 x 37") as caught:
        read_mask(np.zeros(size), PICTURE)
    assert "EXIF" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.integers(40, 8000), st.integers(40, 8000), st.floats(0.02, 1), st.sampled_from([round, int]))
def test_any_rounding_of_a_scaled_size_fits(h, w, scale, rounding):
    from restore.mask import _same_aspect

    small = max(1, rounding(h * scale)), max(1, rounding(w * scale))
    assert _same_aspect(*small, h, w)
    assert _same_aspect(h, w, *small)


def turned(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def test_mask_drawn_on_the_stored_pixels(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png", exif=turned(6))
    picture = read(tmp_path / "a.png")
    assert picture.rgb.shape[2:] == (W, H)
    with pytest.raises(InputError, match=r"53 x 37.*a\.png is 37 x 53.*EXIF"):
        read_mask(BYTE, picture)
    Image.fromarray(BYTE).save(tmp_path / "m.png", exif=turned(6))  # a mask that is turned like its picture fits
    assert_hole(read_mask(tmp_path / "m.png", picture), np.rot90(HOLE, -1))
    assert_hole(read_mask(np.rot90(HOLE, -1), picture), np.rot90(HOLE, -1))


# ---------------------------------------------------------------- composite


def pair(batch=1):
    rng = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, 3, H, W, generator=rng).unbind()


@pytest.mark.parametrize("feather", [0, 1, 5, 100])
def test_outside_the_mask_every_bit_stays(feather):
    original, restored = pair()
    original[..., 0, 0] = -0.0
    restored[:, :, ~torch.from_numpy(HOLE)] = float("nan")  # never looked at
    mask = read_mask(HOLE, PICTURE)
    out = composite(original, restored, mask, feather)
    outside = (mask == 0).expand_as(out)
    assert torch.equal(out[outside].view(torch.int32), original[outside].view(torch.int32))
    assert out.isfinite().all()


def test_inside_without_feather_it_is_the_restored():
    original, restored = pair(2)
    original[:, :, torch.from_numpy(HOLE)] = float("nan")
    mask = read_mask(HOLE, BATCH)
    out = composite(original, restored, mask)
    assert torch.equal(out, torch.where(mask > 0, restored, original))


@pytest.mark.parametrize("feather", [1, 3, 6])
def test_feather_blends_by_distance(feather):
    original, restored = torch.zeros(1, 3, H, W), torch.ones(1, 3, H, W)
    out = composite(original, restored, read_mask(HOLE, PICTURE), feather)
    depth = distance_transform_edt(HOLE)
    wanted = np.minimum(depth / (feather + 1), 1)
    assert np.allclose(out[0].numpy(), wanted, atol=1e-5)
    assert (out[0, 0].numpy()[depth > feather] == 1).all()
    assert (out[0, 0].numpy()[(depth > 0) & (depth <= feather)] < 1).all()


def test_feather_deep_inside_is_exact_and_borders_are_no_edges():
    original, restored = pair()
    mask = read_mask(np.ones((H, W), bool), PICTURE)
    assert torch.equal(composite(original, restored, mask, 10), restored)
    half = np.zeros((H, W), bool)
    half[:, :20] = True
    out = composite(original, restored, read_mask(half, PICTURE), 4)
    assert torch.equal(out[..., :16], restored[..., :16])
    assert torch.equal(out[..., 20:], original[..., 20:])


def test_composite_of_a_batch():
    original, restored = pair(2)
    masks = read_mask(np.stack([HOLE, ~HOLE]), BATCH)
    for feather in (0, 3):
        out = composite(original, restored, masks, feather)
        for i in range(2):
            one = composite(original[i : i + 1], restored[i : i + 1], masks[i : i + 1], feather)
            assert torch.equal(out[i : i + 1], one)
    shared = composite(original, restored, masks[:1], 3)
    assert torch.equal(shared[1:], composite(original[1:], restored[1:], masks[:1], 3))


def test_empty_mask_gives_the_original_back():
    original, restored = pair()
    for feather in (0, 3):
        assert torch.equal(composite(original, restored, torch.zeros(1, 1, H, W), feather), original)
    with pytest.raises(InputError, match="-1"):
        composite(original, restored, torch.zeros(1, 1, H, W), -1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_the_whole_way_keeps_what_is_outside(dtype, tmp_path):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    x = (rng.random((H, W, 3)) * top).astype(dtype)
    picture = read(x)
    out = like(picture, composite(picture.rgb, torch.rand(1, 3, H, W), read_mask(HOLE, picture), 2))
    assert (out[~HOLE] == x[~HOLE]).all()
    assert (out[HOLE] != x[HOLE]).any()
    if top > 1:
        write(out, tmp_path / "a.tif")
        assert (cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_UNCHANGED)[~HOLE][:, ::-1] == x[~HOLE]).all()


# ---------------------------------------------------------------- alpha


def test_opaque_where():
    x = np.dstack([photo(), np.where(HOLE, 3, 200).astype(np.uint8)])
    picture = read(x)
    mask = read_mask(None, picture)
    done = opaque_where(picture, mask)
    out = like(done, done.rgb)
    assert (out[..., 3] == np.where(HOLE, 255, 200)).all()
    assert (out[..., :3] == x[..., :3]).all()
    assert float(picture.alpha.min()) == pytest.approx(3 / 255)  # the picture itself is not changed
    assert opaque_where(PICTURE, mask).alpha is None
    assert Image.open(io.BytesIO(encode(done))).mode == "RGBA"
    batch = read(np.stack([x, x]))
    assert opaque_where(batch, mask).alpha.shape == (2, 1, H, W)
    double = np.random.default_rng(0).random((H, W, 4))
    done = opaque_where(read(double), mask)
    out = like(done, done.rgb)
    assert (out[HOLE, 3] == 1).all()
    assert (out[~HOLE] == double[~HOLE]).all()
