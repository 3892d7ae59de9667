"""Pictures for the tests of restore.images, made by PIL, OpenCV, tifffile or by hand, and checks of what comes back."""

import io
import struct
import zlib

import cv2
import numpy as np
import PIL
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms

from restore.errors import InputError
from restore.images import read

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
