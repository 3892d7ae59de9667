"""Files that are damaged, missing, huge or no pictures: refused in one line, and nothing else is raised."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import H, W, chunk, file_of, noise, refused, smooth, tiff_of
from PIL import Image, ImageFile

from restore import files
from restore.errors import InputError
from restore.images import encode, read, write


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
