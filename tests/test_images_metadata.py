"""Orientation, EXIF, ICC profiles, XMP and resolution, in files made by PIL and by hand."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from pictures import (
    ICC,
    PILLOW,
    XMP,
    H,
    W,
    assert_camera,
    bytes_of,
    camera,
    chunk,
    file_of,
    noise,
    opened,
    png16,
    smooth,
    tiff_of,
)
from PIL import ExifTags, Image, ImageOps

from restore.images import encode, read, write


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
