"""Writing: whole files or none, and never over a file that is somebody's."""

import os
import stat

import numpy as np
import pytest
from pictures import H, W, noise, opened
from PIL import Image

from restore import images
from restore.errors import InputError
from restore.images import check_output, encode, read, write


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
