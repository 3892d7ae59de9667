"""Files, PIL images, arrays and tensors to a `Picture` and back; orientation, EXIF, ICC, alpha and 16 bits survive."""

import os
import secrets
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import metadata
from .errors import InputError
from .files import FORMATS, decode, encode, format_of, from_pil
from .picture import Picture, luma, shape_of

__all__ = ["Picture", "check_output", "encode", "format_of", "like", "luma", "read", "write"]

KINDS = "a path, the bytes of an image file, a PIL image, a numpy array, a torch tensor or a Picture"


def read(source: Any, *, name: str | None = None) -> Picture:
    """Read a picture of any accepted kind; `name` stands for it in messages.

    Paths (str, Path) and bytes of an image file; PIL images; numpy (H,W), (H,W,1|3|4), (B,H,W,1|3|4) of uint8, uint16
    or float in [0,1]; torch (1|3,H,W), (B,1|3,H,W) of uint8, uint16 or float in [0,1]; a Picture is passed on.
    16 bits per sample are read from PNG and TIFF. Palettes become RGB or RGBA, bilevel becomes gray, CMYK becomes
    sRGB by its profile. Of several frames or pages the first is taken, with a warning. Raises InputError.
    """
    if isinstance(source, Picture):
        return replace(source, kind="picture")
    if isinstance(source, str | os.PathLike):
        name = name or os.fspath(source)
        return decode(_load(Path(source), name), name, "path")
    if isinstance(source, bytes | bytearray | memoryview):
        return decode(bytes(source), name or "the image", "bytes")
    if isinstance(source, Image.Image):
        return from_pil(source, name or "the PIL image", "pil")
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "the array")
    if isinstance(source, Tensor):
        return _from_tensor(source, name or "the tensor")
    raise InputError(f"cannot read a picture from {type(source).__name__}: give {KINDS}")


def like(picture: Picture, rgb: Tensor) -> Any:
    """The restored `rgb` (B,3,H',W') in [0,1], as the kind that `picture` was read from.

    A path gives a PIL image with exif, icc_profile, xmp and dpi in `.info`; bytes give a file of the same format, or
    PNG where that cannot be written; a PIL image gives one of the same mode (see `read`); arrays and tensors keep
    dtype, layout and device; a Picture gives a Picture. PIL holds 16 bits in gray only: for colour, `read` the file
    and pass the Picture.
    """
    done = picture.with_rgb(rgb)
    if picture.kind == "picture":
        return done
    if picture.kind == "bytes":
        opaque = done.alpha is None or picture.format != "BMP"
        return encode(done, picture.format if picture.format in FORMATS.values() and opaque else "PNG")
    if picture.kind in ("path", "pil"):
        return _to_pil(done)
    source = picture.source
    if picture.kind == "torch":
        out = _like_tensor(done, source.detach() if source.ndim == 4 else source.detach()[None])
        return out if source.ndim == 4 else out[0]
    out = _like_tensor(done, _array_tensor(source)).permute(0, 2, 3, 1).numpy()  # (B,H,W,C)
    out = out if source.ndim == 4 else out[0]
    out = out[..., 0] if source.ndim == 2 and out.shape[-1] == 1 else out
    return np.ascontiguousarray(out, dtype=source.dtype)


def write(picture: Any, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a picture (any kind that `read` takes) to a file, whole or not at all; the extension gives the format.

    An existing file is left alone without `overwrite`, even one that appears meanwhile. Raises InputError.
    """
    path = check_output(path, overwrite=overwrite)
    data = encode(read(picture), path.suffix)
    path = Path(os.path.realpath(path))
    aside = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            with suppress(OSError):  # a new file, or a file system without modes
                os.chmod(aside, path.stat().st_mode & 0o777)
            os.replace(aside, path)
        else:
            _move_to_new(aside, path)
    except FileExistsError:
        raise InputError(f"{path} exists already: allow overwriting, or choose another name") from None
    except OSError as e:
        raise InputError(f"cannot write {path}: {e.strerror or e}") from e
    finally:
        aside.unlink(missing_ok=True)


def check_output(path: str | Path, *, overwrite: bool = False) -> Path:
    """Refuse with InputError, before any work is done, a path that `write` would refuse."""
    path = Path(path)
    format_of(path.suffix, path)
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} is not a file name")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: name a file in it")
    if not os.path.isdir(path.parent):
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist: create it first")
    if not overwrite and os.path.exists(path):
        raise InputError(f"{path} exists already: allow overwriting, or choose another name")
    return path


# ---------------------------------------------------------------- arrays, tensors and PIL images


def _from_tensor(source: Tensor, name: str) -> Picture:
    if source.ndim not in (3, 4) or source.shape[-3] not in (1, 3) or not source.numel():
        wanted = "(3,H,W), (1,H,W), (B,3,H,W) or (B,1,H,W)"
        raise InputError(f"{name}: expected a tensor of shape {wanted}, got {shape_of(source)}")
    x = source.detach().cpu()
    depth = 16 if source.dtype == torch.uint16 else 8
    return Picture.of(x if x.ndim == 4 else x[None], name, depth=depth, kind="torch", source=source)


def _from_array(source: np.ndarray, name: str) -> Picture:
    if source.ndim not in (2, 3, 4) or (source.ndim > 2 and source.shape[-1] not in (1, 3, 4)) or not source.size:
        wanted = "(H,W), (H,W,1), (H,W,3), (H,W,4) or (B,H,W,C)"
        raise InputError(f"{name}: expected an array of shape {wanted}, got {shape_of(source)}")
    if source.dtype.kind not in "uf" or source.dtype.itemsize > (8 if source.dtype.kind == "f" else 2):
        raise InputError(f"{name}: expected uint8, uint16 or floats in [0, 1], got {source.dtype}")
    x = _array_tensor(source)
    depth = 16 if x.dtype == torch.uint16 else 8
    return Picture.of(x, name, depth=depth, kind="numpy", source=source)


def _array_tensor(source: np.ndarray) -> Tensor:  # (B,C,H,W), a copy
    x = torch.from_numpy(np.array(source, dtype=source.dtype.newbyteorder("="), order="C"))
    x = x[None, ..., None] if x.ndim == 2 else x[None] if x.ndim == 3 else x  # (B,H,W,C)
    return x.permute(0, 3, 1, 2)


def _like_tensor(done: Picture, source: Tensor) -> Tensor:  # (B,C,H,W) in the dtype and on the device of `source`
    out = done.samples(source.dtype).to(source.device)
    if out.dtype == torch.float64 and out.shape == source.shape:  # what float32 could not hold, where untouched
        out = torch.where(source.to(torch.float32) == out, source, out)
    return out


def _to_pil(picture: Picture) -> Image.Image:
    if picture.depth == 16 and not (picture.gray and picture.alpha is None):
        hint = "read() it and pass the Picture to keep 16"
        warnings.warn(f"{picture.name}: a PIL image holds 8 bits per sample in colour: {hint}", stacklevel=3)
        picture = replace(picture, depth=8)
    x = picture.pixels()
    im = Image.fromarray(x.astype(np.int32) if picture.source == "I" else x)
    im.info.update(metadata.info(picture))
    return im


# ---------------------------------------------------------------- paths


def _load(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name} does not exist: check the name") from None
    except (OSError, ValueError) as e:
        if os.path.isdir(path):
            raise InputError(f"{name} is a folder: name an image file in it") from None
        raise InputError(f"{name} cannot be read: {getattr(e, 'strerror', None) or e}") from None


def _move_to_new(aside: Path, path: Path) -> None:  # FileExistsError where there is a file
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: claim the name first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(aside, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
