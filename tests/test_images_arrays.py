"""Arrays, tensors and PIL images: what came in must come out."""

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import ICC, XMP, H, W, assert_camera, bytes_of, camera, file_of, noise, opened, refused, smooth
from PIL import ExifTags, Image, ImageOps

from restore.errors import DivergedError, InputError
from restore.images import Picture, like, read

# ---------------------------------------------------------------- arrays and tensors


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
def test_every_integer_comes_back(dtype):
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype).reshape(-1, 16)
    picture = read(values)
    out = like(picture, picture.rgb)
    assert out.dtype == values.dtype
    assert (out == values).all()
    colour = np.stack([values, values[::-1], values.T.reshape(values.shape)], axis=-1)
    picture = read(colour)
    assert picture.rgb.min() == 0
    assert picture.rgb.max() == 1
    assert (like(picture, picture.rgb) == colour).all()


SHAPES = [(H, W), (H, W, 1), (H, W, 3), (H, W, 4), (2, H, W, 3), (3, H, W, 4), (1, 1), (1, 1, 3), (2, H, W, 1)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_keep_shape_and_dtype_bit_by_bit(shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.random(shape).astype(dtype) if np.dtype(dtype).kind == "f" else noise(*shape, dtype=dtype)
    before = x.copy()
    picture = read(x)
    channels = shape[-1] if len(shape) > 2 else 1
    assert picture.rgb.shape == (shape[0] if len(shape) == 4 else 1, 3, *(shape[-3:-1] if len(shape) > 2 else shape))
    assert picture.rgb.dtype == torch.float32
    assert picture.gray == (channels == 1)
    assert (picture.alpha is not None) == (channels == 4)
    assert picture.depth == (16 if dtype == np.uint16 else 8)
    out = like(picture, picture.rgb)
    assert out.dtype == x.dtype
    assert out.shape == x.shape
    assert (out == before).all()
    picture.rgb.zero_()
    assert (x == before).all()  # no memory is shared


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, H, W), (1, H, W), (2, 3, H, W), (2, 1, H, W), (3, 1, 1)])
def test_tensors_keep_shape_and_dtype_bit_by_bit(shape, dtype):
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=rng, dtype=torch.float64)
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    x = (x * top).to(dtype)
    picture = read(x)
    out = like(picture, picture.rgb)
    assert out.dtype == dtype
    assert out.shape == shape
    assert torch.equal(out, x)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 3, 4]),
    st.sampled_from(["u1", "u2", "f4", "f8"]),
    st.integers(0, 2**32 - 1),
)
def test_any_array_comes_back(h, w, channels, dtype, seed):
    x = np.frombuffer(np.random.default_rng(seed).bytes(h * w * channels * 8), "u8").reshape(h, w, channels)
    x = x.astype(dtype) if dtype[0] == "u" else (x / 2.0**64).astype(dtype)
    picture = read(x[:, ::-1])
    assert np.array_equal(like(picture, picture.rgb), x[:, ::-1])


def test_only_changed_samples_change_in_double():
    x = np.random.default_rng(0).random((H, W, 3))
    picture = read(x)
    rgb = picture.rgb.clone()
    rgb[..., :5, :] = 0.25
    out = like(picture, rgb)
    assert (out[:5] == 0.25).all()
    assert (out[5:] == x[5:]).all()


def test_gray_stays_gray_and_colour_is_mixed_by_luma():
    x = noise(H, W)
    picture = read(x)
    rgb = picture.rgb.clone()
    rgb[:, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    out = like(picture, rgb)
    assert out[0, 0] == round(0.299 * 255)
    assert (out.ravel()[1:] == x.ravel()[1:]).all()


def test_tensor_with_gradient_and_transposed_array():
    x = torch.rand(3, H, W, requires_grad=True)
    picture = read(x)
    assert torch.equal(like(picture, picture.rgb), x.detach())
    y = noise(W, H, 3).swapaxes(0, 1)
    picture = read(y)
    assert (like(picture, picture.rgb) == y).all()


def test_restored_values_are_clipped_and_a_new_size_is_taken():
    x = noise(H, W, 4)
    x[..., 3] = 255
    picture = read(x)
    out = like(picture, torch.full((1, 3, 2 * H, 2 * W), 1.5))
    assert out.shape == (2 * H, 2 * W, 4)
    assert (out == 255).all()
    assert like(read(np.zeros((H, W))), torch.full((1, 3, 9, 9), -0.5)).tolist() == np.zeros((9, 9)).tolist()


def test_results_that_do_not_fit():
    picture = read(noise(H, W, 3))
    with pytest.raises(DivergedError):
        like(picture, picture.rgb * float("nan"))
    with pytest.raises(InputError, match=r"\(1, 3, 37, 53\).*\(2, 3, 37, 53\)"):
        like(picture, picture.rgb.repeat(2, 1, 1, 1))
    with pytest.raises(InputError):
        like(picture, picture.rgb[0])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.full((H, W, 3), 1.01), ["[0, 1]", "1.01"]),
        (np.full((H, W, 3), -0.1, np.float32), ["[0, 1]", "-0.1"]),
        (np.full((H, W), np.nan), ["NaN"]),
        (np.full((H, W), np.inf), ["inf"]),
        (np.where(np.arange(6).reshape(2, 3) == 4, np.nan, 0.5), ["NaN"]),
        (np.zeros((3, H, W)), ["(3, 37, 53)", "(H,W,3)"]),
        (np.zeros((H, W, 2)), ["(37, 53, 2)"]),
        (np.zeros(7), ["(7)"]),
        (np.zeros((0, W, 3)), ["(0, 53, 3)"]),
        (np.zeros((H, W), np.int64), ["int64", "uint8"]),
        (np.zeros((H, W), bool), ["bool"]),
        (np.zeros((H, W), complex), ["complex"]),
        (np.zeros((H, W), object), ["object"]),
        (torch.zeros(H, W, 3), ["(37, 53, 3)", "(3,H,W)"]),
        (torch.zeros(H, W), ["(37, 53)"]),
        (torch.zeros(3, 0, W), ["(3, 0, 53)"]),
        (torch.zeros(3, H, W, dtype=torch.int64), ["int64"]),
        (torch.zeros(3, H, W, dtype=torch.bool), ["bool"]),
        (torch.zeros(3, H, W, dtype=torch.complex64), ["complex64"]),
        (torch.full((3, H, W), 255.0), ["255"]),
        (None, ["NoneType", "numpy"]),
        (["a.png"], ["list"]),
        (3, ["int"]),
    ],
)
def test_bad_arrays_are_refused(x, words):
    refused(x, *words)


def test_name_stands_in_messages():
    assert refused(np.zeros(7), name="frame 12").startswith("frame 12")
    assert refused(b"", name="standard input").startswith("standard input")


def test_a_picture_passes_through():
    picture = read(cv2.imencode(".png", noise(H, W, 3, dtype=np.uint16))[1].tobytes())
    again = read(picture)
    out = like(again, again.rgb / 2)
    assert isinstance(out, Picture)
    assert out.depth == 16
    assert torch.equal(out.rgb, picture.rgb / 2)


# ---------------------------------------------------------------- PIL images


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pil_modes_stay(mode):
    im = Image.fromarray(noise(H, W, 4)).convert(mode)
    picture = read(im)
    out = like(picture, picture.rgb)
    assert isinstance(out, Image.Image)
    assert out.mode == mode
    assert (np.asarray(out) == np.asarray(im)).all()


@pytest.mark.parametrize(
    ("mode", "answer"),
    [("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("RGBX", "RGB"), ("RGBa", "RGBA")],
)
def test_other_pil_modes_become_plain(mode, answer):
    im = Image.fromarray(noise(H, W, 4)).convert("RGBA" if mode == "RGBa" else "RGB").convert(mode)
    picture = read(im)
    out = like(picture, picture.rgb)
    assert out.mode == answer
    assert (np.asarray(out) == np.asarray(im.convert(answer))).all()


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_pil_16_bit_gray(mode):
    x = noise(H, W, dtype=np.uint16)
    im = Image.fromarray(x if mode == "I;16" else x.astype(np.int32))
    assert im.mode == mode
    picture = read(im)
    assert picture.depth == 16
    out = like(picture, picture.rgb)
    assert out.mode == mode
    assert (np.asarray(out) == x).all()


def test_pil_images_beyond_16_bits_are_refused():
    refused(Image.fromarray(np.full((H, W), 70000, np.int32)), "16 bits")
    refused(Image.fromarray(np.full((H, W), -1, np.int32)), "16 bits")
    refused(Image.fromarray(np.full((H, W), 0.5, np.float32)), "floating-point")
    refused(Image.new("RGB", (0, 5)), "no pixels")


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_pil_image_opened_but_not_yet_loaded(format):
    data = file_of(Image.fromarray(smooth(H, W, 3)), format, exif=camera(6))
    picture = read(Image.open(io.BytesIO(data)))
    assert torch.equal(picture.rgb, read(data).rgb)
    out = like(picture, picture.rgb)
    assert out.size == (H, W)
    assert_camera(out)


def test_pil_image_opened_from_a_cut_file_is_refused():
    data = file_of(Image.fromarray(noise(H, W, 3)), "PNG")
    refused(Image.open(io.BytesIO(data[: len(data) // 2])), "damaged")


def test_pil_answer_carries_metadata(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth(H, W, 3)).save(path, exif=camera(6), icc_profile=ICC, dpi=(300, 300), xmp=XMP)
    picture = read(path)
    out = like(picture, picture.rgb)
    assert out.size == (H, W)
    assert out.info["icc_profile"] == ICC
    assert out.info["dpi"] == (300, 300)
    assert_camera(out)
    out.save(tmp_path / "b.jpg", exif=out.info["exif"])
    assert_camera(Image.open(tmp_path / "b.jpg"))


def test_the_users_pil_image_is_left_alone():
    data = file_of(Image.fromarray(smooth(H, W, 3)), "TIFF", exif=camera(6), icc_profile=ICC)
    im = opened(data)
    info, tags, pixels = dict(im.info), dict(im.getexif()), np.array(im)
    read(im)
    assert im.info == info
    assert dict(im.getexif()) == tags
    assert (np.asarray(im) == pixels).all()


def test_orientation_set_in_memory_counts():
    im = Image.fromarray(noise(H, W, 3))
    im.getexif()[ExifTags.Base.Orientation] = 8
    picture = read(im)
    assert (bytes_of(picture.rgb) == np.asarray(ImageOps.exif_transpose(im))).all()
    assert like(picture, picture.rgb).getexif()[ExifTags.Base.Orientation] == 1


def test_cmyk_with_a_profile_that_is_none():
    im = Image.new("CMYK", (W, H), (0, 128, 255, 0))
    im.info["icc_profile"] = b"rubbish"
    with pytest.warns(UserWarning, match="CMYK profile"):
        picture = read(im)
    assert picture.icc is None
    im.info["icc_profile"] = ICC  # a real profile, for other channels
    with pytest.warns(UserWarning, match="CMYK profile"):
        read(im)
