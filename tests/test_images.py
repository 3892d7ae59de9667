"""Files made by PIL, OpenCV and tifffile, read back by the same: what came in must come out."""

import io
import os
import stat
import struct
import threading
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps

from restore import files, images
from restore.errors import DivergedError, InputError
from restore.images import Picture, check_output, encode, like, read, write

H, W = 37, 53
PILLOW = int(PIL.__version__.split(".")[0])  # older ones know less of XMP
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:li tiff:Orientation="6">a caption</rdf:li></x:xmpmeta>'


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(*shape):
    return cv2.GaussianBlur(noise(*shape), (0, 0), 3)


def file_of(im, format, **options):
    file = io.BytesIO()
    if "exif" in options:
        options["exif"] = bytes_of_exif(options["exif"])
    im.save(file, format, **options)
    return file.getvalue()


def bytes_of_exif(exif):  # PIL cannot save nested directories that are not bytes yet in a TIFF
    return exif if isinstance(exif, bytes) else exif.tobytes()


def opened(data):
    im = Image.open(io.BytesIO(data))
    im.load()
    return im


def tiff_of(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16(array, colour_type, extra=b""):  # what neither PIL nor OpenCV writes
    h, w = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def camera(orientation=1):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Model] = "Model 1"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "2024:01:02 03:04:05",
        ExifTags.Base.ExposureTime: 0.004,
        ExifTags.Base.MakerNote: bytes(range(64)),
    }
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (51.0, 30.0, 12.5)}
    return exif


def assert_camera(im):
    exif = im.getexif()
    assert exif.get(ExifTags.Base.Orientation, 1) == 1
    assert exif[ExifTags.Base.Make] == "Maker"
    assert exif[ExifTags.Base.Model] == "Model 1"
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    assert inner[ExifTags.Base.DateTimeOriginal] == "2024:01:02 03:04:05"
    assert float(inner[ExifTags.Base.ExposureTime]) == pytest.approx(0.004)
    assert inner[ExifTags.Base.MakerNote] == bytes(range(64))
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    assert gps[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert [float(v) for v in gps[ExifTags.GPS.GPSLatitude]] == [51.0, 30.0, 12.5]


def bytes_of(rgb):  # (1,3,H,W) -> (H,W,3) uint8
    return (rgb[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def refused(source, *words, **options):
    with pytest.raises(InputError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


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


# ---------------------------------------------------------------- orientation and metadata


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(format, orientation, tmp_path):
    options = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}, "TIFF": {}}[format]
    path = tmp_path / f"in.{format.lower()}"
    Image.fromarray(smooth(H, W, 3)).save(path, exif=camera(orientation).tobytes(), **options)
    with Image.open(path) as im:
        truth = np.asarray(ImageOps.exif_transpose(im))
    picture = read(path)
    assert (bytes_of(picture.rgb) == truth).all()
    assert picture.turned == (orientation > 4)
    for extension in ("png", "tiff", "webp", "jpg"):
        out = tmp_path / f"out.{extension}"
        write(picture, out)
        with Image.open(out) as im:
            assert_camera(im)
            im = ImageOps.exif_transpose(im)
            assert im.size == truth.shape[1::-1]
            if extension != "jpg":
                assert (np.asarray(im) == truth).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_16_bits(orientation, tmp_path):
    x = noise(H, W, 3, dtype=np.uint16)
    truth = np.asarray(x)
    if orientation > 4:
        truth = truth.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        truth = truth[:, ::-1]
    if orientation in (3, 4, 7, 8):
        truth = truth[::-1]
    tiff = tiff_of(x, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    big = tiff_of(x, photometric="rgb", bigtiff=True, extratags=[(274, "H", 1, orientation, True)])
    png = png16(x, 2, chunk(b"eXIf", camera(orientation).tobytes()[6:]))
    gray = png16(x[..., 0], 0, chunk(b"eXIf", camera(orientation).tobytes()[6:]))
    for data, answer in ((tiff, truth), (big, truth), (png, truth), (gray, truth[..., 0])):
        picture = read(data)
        assert picture.depth == 16
        assert picture.turned == (orientation > 4)
        (tmp_path / "a.tif").unlink(missing_ok=True)
        write(picture, tmp_path / "a.tif")
        assert (tifffile.imread(tmp_path / "a.tif") == answer).all()
    assert_camera(opened(encode(read(png), "tiff")))
    assert_camera(opened(encode(read(png), "png")))


@pytest.mark.parametrize("out", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_icc_xmp_and_dpi_survive(format, out):
    im = Image.fromarray(smooth(H, W, 3))
    exif = camera(1)
    options = {"exif": exif, "icc_profile": ICC, "dpi": (300, 150)}
    if format == "TIFF":
        exif[700] = XMP
    elif format != "PNG":
        options["xmp"] = XMP
    picture = read(file_of(im, format, **options))
    made = opened(encode(picture, out))
    assert_camera(made)
    assert made.info["icc_profile"] == ICC
    if "webp" not in (out, format.lower()):
        assert [float(v) for v in made.info["dpi"]] == pytest.approx([300, 150], abs=0.02)
    if format != "PNG" and PILLOW >= 12:
        xmp = made.info.get("xmp") or made.info["XML:com.adobe.xmp"].encode()
        assert xmp.rstrip(b"\0") == XMP.replace(b'="6"', b'="1"')


@pytest.mark.skipif(PILLOW < 12, reason="Pillow does not read XMP here")
def test_orientation_of_xmp_is_reset():
    data = file_of(Image.fromarray(smooth(H, W, 3)), "JPEG", xmp=XMP)
    assert opened(data).getexif()[ExifTags.Base.Orientation] == 6
    picture = read(data)
    assert picture.rgb.shape == (1, 3, W, H)
    assert opened(encode(picture, "jpg")).getexif().get(ExifTags.Base.Orientation, 1) == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_patched_in_place_and_its_thumbnail_goes(order):
    thumbnail = b"\xff\xd8THUMBNAIL\xff\xd9"

    def entry(tag, kind, count, value):
        return struct.pack(order + "HHI", tag, kind, count) + value

    short, long = (lambda v: struct.pack(order + "HH", v, 0)), (lambda v: struct.pack(order + "I", v))
    head = (b"II*\0" if order == "<" else b"MM\0*") + long(8)
    first = struct.pack(order + "H", 2) + entry(0x10F, 2, 4, b"Abc\0") + entry(0x112, 3, 1, short(6))
    second_at = 8 + len(first) + 4
    second = struct.pack(order + "H", 3) + entry(0x112, 3, 1, short(6))
    at = second_at + len(second) + 24 + 4
    second += entry(0x201, 4, 1, long(at)) + entry(0x202, 4, 1, long(len(thumbnail))) + long(0)
    exif = b"Exif\0\0" + head + first + long(second_at) + second + thumbnail
    picture = read(file_of(Image.fromarray(smooth(H, W, 3)), "JPEG", exif=exif))
    assert picture.rgb.shape == (1, 3, W, H)
    assert len(picture.exif) == len(exif)
    assert b"THUMB" not in picture.exif
    wanted = exif[: 14 + 2 + 12 + 8] + short(1) + long(0) + exif[14 + len(first) + 4 :].replace(thumbnail, bytes(13))
    assert picture.exif == wanted
    done = opened(encode(picture, "jpg")).getexif()
    assert done[0x10F] == "Abc"
    assert done.get_ifd(ExifTags.IFD.IFD1) == {}


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_do_not_exist_count_as_1(value):
    x = noise(H, W, 3)
    picture = read(file_of(Image.fromarray(x), "PNG", exif=camera(value)))
    assert (bytes_of(picture.rgb) == x).all()
    assert opened(encode(picture)).getexif()[ExifTags.Base.Orientation] == 1


@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01"])
def test_damaged_exif_does_not_stop_a_picture(exif):
    x = noise(H, W, 3)
    data = file_of(Image.fromarray(x), "PNG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = read(data)
        assert (bytes_of(picture.rgb) == x).all()
        for format in ("png", "jpg", "tiff", "webp"):
            opened(encode(picture, format))


def test_exif_too_long_for_jpeg():
    exif = camera()
    exif[ExifTags.Base.ImageDescription] = "x" * 70000
    picture = read(file_of(Image.fromarray(smooth(H, W, 3)), "PNG", exif=exif))
    with pytest.warns(UserWarning, match="too long"):
        encode(picture, "jpg")
    assert opened(encode(picture, "tif")).getexif()[ExifTags.Base.ImageDescription] == "x" * 70000


def test_xmp_too_long_for_jpeg():
    picture = read(file_of(Image.fromarray(smooth(H, W, 3)), "WEBP", xmp=XMP + b" " * 70000))
    with pytest.warns(UserWarning, match="XMP is too long"):
        encode(picture, "jpg")


def test_metadata_in_16_bits():
    exif = chunk(b"eXIf", camera(1).tobytes()[6:])
    icc = chunk(b"iCCP", b"x\0\0" + zlib.compress(ICC))
    dots = chunk(b"pHYs", struct.pack(">IIB", 11811, 5906, 1))
    picture = read(png16(noise(H, W, 3, dtype=np.uint16), 2, icc + dots + exif))
    for format in ("png", "tiff"):
        made = opened(encode(picture, format))
        assert_camera(made)
        assert made.info["icc_profile"] == ICC
        assert [float(v) for v in made.info["dpi"]] == pytest.approx([300, 150], abs=0.02)


# ---------------------------------------------------------------- formats, alpha, 16 bits


@pytest.mark.parametrize("format", ["png", "tif", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_lossless_formats_are_exact(format, mode, tmp_path):
    im = Image.fromarray(noise(H, W, 4)).convert(mode)
    write(im, tmp_path / f"a.{format}")
    with Image.open(tmp_path / f"a.{format}") as made:
        if format != "webp":
            assert made.mode == mode
        assert (np.asarray(made.convert(mode)) == np.asarray(im)).all()
    picture = read(tmp_path / f"a.{format}")
    assert torch.equal(picture.rgb, read(im).rgb)
    if format.startswith("tif"):
        assert (tifffile.imread(tmp_path / f"a.{format}") == np.asarray(im)).all()


def test_bmp(tmp_path):
    x = noise(H, W, 3)
    write(x, tmp_path / "a.bmp")
    assert (cv2.imread(str(tmp_path / "a.bmp"))[..., ::-1] == x).all()
    with pytest.raises(InputError, match="transparency"):
        write(noise(H, W, 4), tmp_path / "b.bmp")
    with pytest.warns(UserWarning, match="EXIF"):
        encode(read(file_of(Image.fromarray(x), "PNG", exif=camera())), "bmp")


def test_alpha_of_a_palette():
    im = Image.fromarray(noise(H, W, 3)).quantize(16)
    data = file_of(im, "PNG", transparency=bytes([0, 40, 128] + [255] * 13))
    truth = np.asarray(opened(data).convert("RGBA"))
    assert len(np.unique(truth[..., 3])) == 4
    picture = read(data)
    assert (np.asarray(opened(like(picture, picture.rgb))) == truth).all()


def test_colour_key_of_gray_and_rgb():
    x = noise(H, W)
    data = file_of(Image.fromarray(x), "PNG", transparency=int(x[0, 0]))
    assert ((read(data).alpha[0, 0] == 0).numpy() == (x == x[0, 0])).all()
    assert read(data).gray
    x = noise(H, W, dtype=np.uint16)
    picture = read(png16(x, 0, chunk(b"tRNS", struct.pack(">H", x[0, 0]))))
    assert ((picture.alpha[0, 0] == 0).numpy() == (x == x[0, 0])).all()
    x = noise(H, W, 3, dtype=np.uint16)
    picture = read(png16(x, 2, chunk(b"tRNS", struct.pack(">HHH", *x[0, 0]))))
    assert ((picture.alpha[0, 0] == 0).numpy() == (x == x[0, 0]).all(axis=2)).all()
    assert picture.depth == 16


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("maker", ["cv2.png", "cv2.tiff", "tifffile", "tifffile big-endian", "tifffile zlib tiles"])
def test_16_bits_survive(maker, channels, tmp_path):
    shape = (H, W) if channels == 1 else (H, W, channels)
    x = noise(*shape, dtype=np.uint16)
    bgr = x if channels == 1 else x[..., [2, 1, 0, 3][:channels]]
    if maker.startswith("cv2"):
        data = cv2.imencode(maker[3:], bgr)[1].tobytes()
    else:
        options = {"big-endian": {"byteorder": ">"}, "zlib tiles": {"compression": "zlib", "tile": (16, 16)}}
        kind = "minisblack" if channels == 1 else "rgb"
        data = tiff_of(x, photometric=kind, **options.get(maker.removeprefix("tifffile "), {}))
    picture = read(data)
    assert picture.depth == 16
    assert picture.gray == (channels == 1)
    write(picture, tmp_path / "a.png")
    write(picture, tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        made = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert made.dtype == np.uint16
        assert (made == bgr).all()
        again = read(tmp_path / name)
        assert torch.equal(again.rgb, picture.rgb)
        assert again.depth == 16
    assert (tifffile.imread(tmp_path / "a.tif") == x).all()
    out = like(picture, picture.rgb)  # bytes in, bytes out
    assert (cv2.imdecode(np.frombuffer(out, np.uint8), cv2.IMREAD_UNCHANGED) == bgr).all()


def test_16_bit_gray_with_alpha():
    x = noise(H, W, 2, dtype=np.uint16)
    picture = read(png16(x, 4))
    assert picture.gray
    assert picture.depth == 16
    assert ((picture.rgb[0, 0] * 65535).round().numpy() == x[..., 0]).all()
    assert ((picture.alpha[0, 0] * 65535).round().numpy() == x[..., 1]).all()
    for format in ("png", "tif"):
        again = read(encode(picture, format))
        assert torch.equal(again.rgb, picture.rgb)
        assert torch.equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("options", [{"planarconfig": "separate"}, {"extrasamples": ["assocalpha"]}])
def test_16_bits_that_cannot_be_read_are_said_to_be_8(options):
    x = noise(H, W, 4, dtype=np.uint16)
    array = np.moveaxis(x, -1, 0) if "planarconfig" in options else x
    data = tiff_of(array, photometric="rgb", **options)
    with pytest.warns(UserWarning, match="8 bits are used"):
        picture = read(data)
    assert picture.depth == 8
    assert (bytes_of(picture.rgb) == np.asarray(opened(data).convert("RGB"))).all()


def test_16_bit_colour_as_pil_and_as_jpeg(tmp_path):
    x = noise(H, W, 3, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), x[..., ::-1])
    picture = read(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="PIL image holds 8 bits"):
        out = like(picture, picture.rgb)
    assert (np.asarray(out) == np.rint(x / 257)).all()
    kept = like(read(picture), picture.rgb)
    assert kept.depth == 16
    for extension in ("jpg", "webp", "bmp"):
        with pytest.warns(UserWarning, match="8 bits, not 16"):
            write(kept, tmp_path / f"b.{extension}")
    assert (np.asarray(Image.open(tmp_path / "b.webp")) == np.rint(x / 257)).all()


def test_gray_16_bit_path_gives_gray_16_bit_pil(tmp_path):
    x = noise(H, W, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), x)
    picture = read(str(tmp_path / "a.png"))
    out = like(picture, picture.rgb)
    assert out.mode == "I;16"
    assert (np.asarray(out) == x).all()


def test_jpeg_holds_no_transparency(tmp_path):
    x = noise(H, W, 4)
    with pytest.raises(InputError, match="JPEG cannot hold transparency: write PNG, TIFF or WebP"):
        write(x, tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []
    x[..., 3] = 255
    write(x, tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").mode == "RGB"


def test_jpeg_tables_are_kept_if_they_are_fine():
    im = Image.fromarray(smooth(H, W, 3))
    for quality, sampling, kept in ((97, 2, True), (91, 1, True), (90, 0, True), (85, 2, False), (30, 2, False)):
        data = file_of(im, "JPEG", quality=quality, subsampling=sampling)
        picture = read(data)
        made = opened(like(picture, picture.rgb))
        truth = opened(data if kept else file_of(im, "JPEG", quality=95, subsampling=0))
        assert made.quantization == truth.quantization
        assert made.layer == truth.layer
    gray = read(file_of(im.convert("L"), "JPEG", quality=93))
    assert opened(like(gray, gray.rgb)).mode == "L"


def test_bytes_come_back_in_their_format():
    im = Image.fromarray(smooth(H, W, 3))
    wanted = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WEBP", "TIFF": "TIFF", "BMP": "BMP", "GIF": "PNG", "PPM": "PNG"}
    for format, answer in wanted.items():
        data = file_of(im, format)
        picture = read(bytearray(data))
        out = like(picture, picture.rgb)
        assert isinstance(out, bytes)
        made = opened(out)
        assert made.format == answer
        if format != "JPEG":
            assert (np.asarray(made.convert("RGB")) == np.asarray(opened(data).convert("RGB"))).all()
    x = noise(H, W, 4)
    picture = read(cv2.imencode(".bmp", x[..., [2, 1, 0, 3]])[1].tobytes())  # BMP with alpha, which PIL cannot write
    made = opened(like(picture, picture.rgb))
    if picture.alpha is not None:  # older ones of Pillow do not see it
        assert made.format == "PNG"
        assert (np.asarray(made) == x).all()


def test_cmyk_goes_by_its_profile():
    im = Image.new("CMYK", (W, H), (200, 100, 50, 30))
    picture = read(file_of(im, "JPEG", quality=95))
    assert not picture.gray
    assert picture.icc is None
    assert (bytes_of(picture.rgb) == np.asarray(opened(file_of(im, "JPEG", quality=95)).convert("RGB"))).all()


def cmyk_profile():  # the smallest there is: lightness falls with cyan and with black, everything is gray
    grid = np.indices((2, 2, 2, 2)).reshape(4, -1).T
    lab = np.full((16, 3), 128, np.uint8)
    lab[:, 0] = 255 * (1 - grid[:, 0] * 0.5) * (1 - grid[:, 3])
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + lab.tobytes() + ramp * 3
    head = struct.pack(">I4sI4s4s4s12x4s", 144 + len(table), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def test_cmyk_with_a_profile():
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)]
    im = Image.fromarray(np.array([inks], np.uint8), "CMYK")
    im.info["icc_profile"] = cmyk_profile()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = read(im)
    rgb = bytes_of(picture.rgb)[0].astype(int)
    assert np.abs(rgb - [[255] * 3, [119] * 3, [0] * 3]).max() <= 3  # L* of 50 is 119 in sRGB
    assert picture.icc is None


def test_first_frame_with_a_warning():
    frames = [Image.fromarray(noise(H, W, 3, seed=i)) for i in range(3)]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = file_of(frames[0], format, save_all=True, append_images=frames[1:], **options)
        with pytest.warns(UserWarning, match="only the first"):
            picture = read(data)
        if format != "GIF":
            assert (bytes_of(picture.rgb) == np.asarray(frames[0])).all()
    data = file_of(Image.fromarray(smooth(H, W, 3)), "MPO", save_all=True, append_images=[frames[1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(data).format == "JPEG"


# ---------------------------------------------------------------- bad files


def every_kind():
    x, soft = Image.fromarray(noise(H, W, 3)), Image.fromarray(smooth(H, W, 3))
    wide = noise(H, W, 3, dtype=np.uint16)
    return {
        "a.png": file_of(x, "PNG"),
        "a.jpg": file_of(soft, "JPEG"),
        "progressive.jpg": file_of(soft, "JPEG", progressive=True),
        "a.webp": file_of(x, "WEBP"),
        "lossless.webp": file_of(x, "WEBP", lossless=True),
        "a.tif": file_of(x, "TIFF"),
        "lzw.tif": file_of(x, "TIFF", compression="tiff_lzw"),
        "deflate.tif": file_of(x, "TIFF", compression="tiff_adobe_deflate"),
        "ours.tif": encode(read(x), "tif"),
        "wide.png": cv2.imencode(".png", wide)[1].tobytes(),
        "wide.tif": cv2.imencode(".tif", wide)[1].tobytes(),
        "ours wide.tif": encode(read(wide), "tif"),
    }


SAMPLES = every_kind()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAMPLES)
def test_cut_files_are_refused(name, tmp_path):
    data = SAMPLES[name]
    path = tmp_path / name
    cuts = {1, 4, 20, len(data) // 4, len(data) // 2, 3 * len(data) // 4, len(data) - 30, len(data) - 2, len(data) - 1}
    for cut in cuts:
        path.write_bytes(data[:cut])
        refused(path, str(path))
    path.write_bytes(data)
    read(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_files_raise_nothing_else(name):
    data = SAMPLES[name]
    rng, lines = np.random.default_rng(0), []
    for _ in range(40):
        bad = bytearray(data)
        for at in rng.integers(0, min(len(data), rng.choice([60, len(data)])), 3):
            bad[at] ^= 1 << rng.integers(0, 8)
        try:
            read(bytes(bad))
        except InputError as e:
            lines.append(str(e))
        else:
            assert not name.endswith(".png") or bytes(bad) == data  # PNG has checksums
    assert lines
    assert not any("\n" in line for line in lines)


def test_missing_folder_empty_and_other_files(tmp_path):
    refused(tmp_path / "no.png", "no.png", "does not exist")
    refused(tmp_path / "no" / "no.png", "does not exist")
    refused(tmp_path, str(tmp_path), "folder")
    refused("a\0b.png", "cannot be read")
    refused("x" * 300, "cannot be read")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty.png", "is empty")
    refused(b"", "is empty")
    (tmp_path / "text.jpg").write_text("this is not an image")
    refused(tmp_path / "text.jpg", "text.jpg", "PNG", "JPEG")
    (tmp_path / "a.eps").write_bytes(file_of(Image.new("RGB", (9, 9)), "EPS"))
    refused(tmp_path / "a.eps", "a.eps")  # never handed to an interpreter
    refused(tiff_of(np.zeros((H, W), np.float32)), "floating-point")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    write(noise(H, W), tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    refused(tmp_path / "a.png", "a.png", "ermission")


def test_unreadable_file_by_its_error(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    refused(tmp_path / "a.png", "a.png", "Permission denied")


def huge(extension, side=100_000):
    if extension == "png":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
        )
    if extension == "bmp":
        data = bytearray(file_of(Image.new("RGB", (4, 4)), "BMP"))
        struct.pack_into("<ii", data, 18, side, side)
        return bytes(data)
    data = bytearray(file_of(Image.new("RGB", (4, 4)), "TIFF"))
    at = struct.unpack_from("<I", data, 4)[0] + 2
    for entry in range(at, at + 24, 12):
        struct.pack_into("<HHII", data, entry, struct.unpack_from("<H", data, entry)[0], 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif"])
def test_huge_pictures_are_refused_before_decoding(extension, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    monkeypatch.setattr(cv2, "imdecode", never)
    path = tmp_path / f"huge.{extension}"
    path.write_bytes(huge(extension))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(path, path.name, "100000 x 100000", "300 million")


def test_large_pictures_are_read_without_a_word(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = file_of(Image.fromarray(noise(H, W, 3)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(data).rgb.shape == (1, 3, H, W)
        refused(data[: len(data) // 2], "damaged")
    assert Image.MAX_IMAGE_PIXELS == 100
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    monkeypatch.setattr(files, "MAX_PIXELS", H * W)
    read(data)
    monkeypatch.setattr(files, "MAX_PIXELS", H * W - 1)
    refused(data, "53 x 37")


# ---------------------------------------------------------------- writing


def test_unknown_extensions(tmp_path):
    for name in ("a.gif", "a", "a.png.exe", ".png"):
        with pytest.raises(InputError, match=r"\.png \.jpg \.jpeg \.webp \.tif \.tiff \.bmp"):
            write(noise(H, W), tmp_path / name)
    with pytest.raises(InputError, match="cannot write"):
        encode(read(noise(H, W)), "gif")
    assert opened(encode(read(noise(H, W)), ".PNG")).format == "PNG"
    write(noise(H, W), tmp_path / "A.PNG")
    assert list(tmp_path.iterdir()) == [tmp_path / "A.PNG"]


def test_existing_files_are_left_alone(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    for check in (lambda: write(noise(H, W), path), lambda: check_output(path)):
        with pytest.raises(InputError, match="exists already"):
            check()
    assert path.read_bytes() == b"mine"
    check_output(path, overwrite=True)
    write(noise(H, W), str(path), overwrite=True)
    assert (np.asarray(Image.open(path)) == noise(H, W)).all()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_left_alone(links, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    real = images.encode

    def slow(*args):
        path.write_bytes(b"theirs")
        return real(*args)

    monkeypatch.setattr(images, "encode", slow)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(InputError, match="exists already"):
        write(noise(H, W), path)
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def no_links(*_):
    raise PermissionError(1, "Operation not permitted")


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    write(noise(H, W), tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) == noise(H, W)).all()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


@pytest.mark.parametrize("where", ["replace", "fsync", "link"])
@pytest.mark.parametrize("what", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_crash_leaves_nothing(where, what, overwrite, tmp_path, monkeypatch):
    def crash(*_):
        raise what

    if not overwrite and where == "replace":
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, where, crash)
    if where == "link" and isinstance(what, OSError):
        monkeypatch.setattr(os, "open", crash)
    path = tmp_path / "a.png"
    if overwrite:
        path.write_bytes(b"old")
    if overwrite and where == "link":
        write(noise(H, W), path, overwrite=True)
        return
    expected = InputError if isinstance(what, OSError) else type(what)
    with pytest.raises(expected, match="a.png.*No space left" if expected is InputError else None):
        write(noise(H, W), path, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == (["a.png"] if overwrite else [])
    if overwrite:
        assert path.read_bytes() == b"old"


def test_missing_and_wrong_folders(tmp_path):
    with pytest.raises(InputError, match="does not exist: create it"):
        write(noise(H, W), tmp_path / "no" / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write(noise(H, W), tmp_path / "b.png", overwrite=True)
    with pytest.raises(InputError, match="not a file name"):
        write(noise(H, W), "a\0b.png")
    with pytest.raises(InputError, match="too long"):
        write(noise(H, W), tmp_path / f"{'x' * 300}.png")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="does not exist"):
        write(noise(H, W), tmp_path / "file" / "a.png")


def test_a_batch_is_not_written(tmp_path):
    with pytest.raises(InputError, match="batch of 2"):
        write(noise(2, H, W, 3), tmp_path / "a.png")


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_file_modes(tmp_path):
    path = tmp_path / "a.png"
    umask = os.umask(0o027)
    try:
        write(noise(H, W), path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    write(noise(H, W), path, overwrite=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_is_followed(tmp_path):
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    write(noise(H, W), tmp_path / "link.png", overwrite=True)
    assert (tmp_path / "link.png").is_symlink()
    assert (np.asarray(Image.open(tmp_path / "real.png")) == noise(H, W)).all()


def test_what_a_format_cannot_hold(tmp_path):
    with pytest.raises(InputError, match="WEBP"):
        write(np.zeros((1, 20000), np.uint8), tmp_path / "a.webp")
    with pytest.raises(InputError, match="JPEG"):
        write(np.zeros((1, 70000), np.uint8), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_many_threads():
    data = file_of(Image.fromarray(noise(H, W, 3)), "PNG")
    truth, wrong = read(data).rgb, []

    def work():
        for _ in range(20):
            wrong.append(not torch.equal(read(data).rgb, truth))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 80
