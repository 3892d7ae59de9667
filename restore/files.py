"""The bytes of image files, and PIL images, to a `Picture` and back to bytes; 16 bits and all metadata survive."""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from . import metadata
from .errors import InputError
from .picture import Picture, one_line

MAX_PIXELS = 300_000_000  # a file whose header declares more is refused before any pixel is decoded
FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP"}
READABLE = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")

_DAMAGED = "cannot be decoded, as it is damaged, cut short or of a rare kind: get a fresh copy"
_pillow_globals = threading.RLock()


# ---------------------------------------------------------------- reading


def decode(data: bytes, name: str, kind: str) -> Picture:
    """The bytes of an image file -> Picture, of its first frame or page; `kind` is what the caller was given."""
    with _opened(data, name) as im:
        try:
            if im.format == "PNG":  # the checksums and the end, which load() does not look at
                Image.open(BytesIO(data), formats=["PNG"]).verify()
                if b"IEND\xaeB`\x82" not in data:
                    raise SyntaxError("no IEND chunk")
            several = im.format != "MPO" and getattr(im, "is_animated", False)  # a phone's MPO: previews, gain maps
        except Exception as e:
            raise InputError(f"{name} {_DAMAGED} ({one_line(e)})") from e
        if im.width * im.height > MAX_PIXELS:
            limit = f"at most {MAX_PIXELS // 10**6} million are read"
            raise InputError(f"{name} declares {im.width} x {im.height} pixels, {limit}: crop or shrink it first")
        if several:
            warnings.warn(f"{name} has several frames or pages: only the first is used", stacklevel=3)
        return from_pil(im, name, kind, data)


def dimensions(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) as the header declares them: nothing is decoded. Raises InputError for what is no picture."""
    with _opened(data, name) as im:
        return im.width, im.height


def texts(data: bytes, name: str) -> dict[str, str]:
    """What a file says of itself in words, by keyword: nothing is decoded. Raises InputError for no picture."""
    with _opened(data, name) as im:
        return {str(key): value for key, value in im.info.items() if isinstance(value, str)}


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    if not data:
        raise InputError(f"{name} is empty: get a fresh copy")
    Image.init()
    formats = [f for f in READABLE if f in Image.OPEN]
    with _pillow():
        try:
            im = Image.open(BytesIO(data), formats=formats)
        except UnidentifiedImageError:
            known = ", ".join(f for f in formats if f != "MPO")
            raise InputError(f"{name} is not an image that can be read: give one of {known}") from None
        except Exception as e:
            raise InputError(f"{name} {_DAMAGED} ({one_line(e)})") from e
        with im:
            yield im


def from_pil(im: Image.Image, name: str, kind: str, data: bytes = b"") -> Picture:
    """A PIL image -> Picture, upright; `data` is the file that it was opened from, where 16 bits are sought."""
    turned = metadata.orientation_of(im) > 4  # asked before loading, which turns a TIFF by itself
    try:
        im.load()
        x = _deep(im, data, name) if data and _bits(im, data) == 16 and not im.mode.startswith("I") else None
        x = _shallow(im, name) if x is None else x  # (H,W,C)
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"{name} {_DAMAGED} ({one_line(e)})") from e
    orientation = metadata.orientation_of(im)
    x = x.swapaxes(0, 1) if orientation > 4 else x
    x = x[:, ::-1] if orientation in (2, 3, 6, 7) else x
    x = x[::-1] if orientation in (3, 4, 7, 8) else x
    if not x.size:
        raise InputError(f"{name} has no pixels: its size is {im.width} x {im.height}")
    return Picture.of(
        torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None],
        name,
        depth=16 if x.dtype == np.uint16 else 8,
        format="JPEG" if im.format == "MPO" else im.format,
        turned=turned,
        kind=kind,
        source=im.mode if kind == "pil" else None,
        **metadata.fields(im, name),
    )


@contextmanager
def _pillow() -> Iterator[None]:  # our own limit on pixels in place of Pillow's, and never half a picture
    with _pillow_globals:
        saved = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = saved


def _shallow(im: Image.Image, name: str) -> np.ndarray:  # (H,W,C) with 1 to 4 channels
    if im.mode == "F":
        raise InputError(f"{name} holds floating-point samples: save it with 8 or 16 bits, or pass an array in [0, 1]")
    if im.mode.startswith("I"):
        x = np.asarray(im)
        if x.size and (x.min() < 0 or x.max() > 65535):
            raise InputError(f"{name} holds samples beyond 16 bits: save it with 8 or 16 bits")
        x = x.astype(np.uint16)[..., None]
        key = im.info.get("transparency")
        return x if key is None else np.concatenate([x, np.where(x == key, 0, 65535).astype(np.uint16)], axis=2)
    if im.mode == "CMYK" and im.info.get("icc_profile"):
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(im.info["icc_profile"]))
            im = ImageCms.profileToProfile(im, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            warnings.warn(f"{name}: its CMYK profile is damaged and was not used", stacklevel=5)
    plain = "L" if im.mode in ("1", "L", "LA", "La") else "RGB"
    x = np.array(im.convert(plain + "A" if im.has_transparency_data else plain))
    return x[..., None] if x.ndim == 2 else x


def _bits(im: Image.Image, data: bytes) -> int:
    return data[24] if im.format == "PNG" else max(im.tag_v2.get(258, (8,))) if im.format == "TIFF" else 8


def _deep(im: Image.Image, data: bytes, name: str) -> np.ndarray | None:
    # 16-bit colour, of which PIL reads the high bytes, by OpenCV; none where the two do not agree
    x = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    high = np.asarray(im.convert("RGB")).astype(np.int16)
    if x is not None and x.dtype == np.uint16 and x.ndim == 3 and x.shape[:2] == high.shape[:2]:
        x = x[..., [2, 1, 0, 3][: x.shape[2]]]
        if (np.abs((x[..., :3] >> 8).astype(np.int16) - high) <= 1).all():
            gray = im.format == "PNG" and data[25] == 4
            return x[..., [0, 3]] if gray else x[..., :3] if im.mode == "RGBX" else x
    why = "its planes are separate, or its alpha is premultiplied"
    warnings.warn(f"{name}: 16 bits cannot be read ({why}): 8 bits are used", stacklevel=5)
    return None


# ---------------------------------------------------------------- writing


def format_of(extension: str, what: str | Path = "output") -> str:
    """PIL's name of the format that an extension (with or without the dot) stands for; InputError lists the known."""
    try:
        return FORMATS[extension.lower().lstrip(".")]
    except KeyError:
        known = " ".join(f".{known}" for known in FORMATS)
        raise InputError(f"{what}: cannot write the format {extension!r}: use one of {known}") from None


def encode(picture: Picture, format: str = "PNG", texts: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an image file: PNG, TIFF (16 bits where the picture has them), lossless WebP, JPEG or BMP.

    JPEG has quality 95 and 4:4:4, or the input's own tables and sampling where those are of quality 90 or better. BMP
    drops EXIF and ICC; 16-bit gray with alpha becomes RGBA. Raises InputError for transparency in JPEG or
    BMP, for a batch, and for what the format cannot hold. texts: what a PNG is to say of itself, by keyword.
    """
    format = format_of(format)
    if len(picture.rgb) != 1:
        raise InputError(f"{picture.name} is a batch of {len(picture.rgb)}: write its pictures one by one")
    if format in ("JPEG", "BMP") and picture.alpha is not None:
        if (picture.alpha < 1).any():
            raise InputError(f"{picture.name}: {format} cannot hold transparency: write PNG, TIFF or WebP")
        picture = replace(picture, alpha=None)
    if picture.depth == 16 and format not in ("PNG", "TIFF"):
        warnings.warn(f"{picture.name}: {format} holds 8 bits, not 16: write PNG or TIFF to keep them", stacklevel=2)
        picture = replace(picture, depth=8)
    if format == "BMP" and (picture.exif or picture.icc):
        warnings.warn(f"{picture.name}: BMP cannot hold EXIF or ICC: PNG, TIFF and JPEG can", stacklevel=2)
    for field, limit in (("exif", 65533), ("xmp", 65504)):
        if format == "JPEG" and len(getattr(picture, field) or b"") > limit:
            warnings.warn(f"{picture.name}: its {field.upper()} is too long for JPEG and was left out", stacklevel=2)
            picture = replace(picture, **{field: None})
    try:
        if format == "TIFF":
            return _tiff(picture)
        if format == "PNG":
            return _png(picture, texts or {})
        options = metadata.info(picture)
        if max(options.get("dpi", (0,))) >= 65535:
            del options["dpi"]
        if format == "JPEG":
            options |= picture.jpeg or {"quality": 95, "subsampling": 0}
        if format == "WEBP":
            options |= {"lossless": True, "exact": True, "quality": 20}  # quality: the effort, and 20 is as small as 80
        file = BytesIO()
        Image.fromarray(picture.pixels()).save(file, format, **options)
        return file.getvalue()
    except (OSError, ValueError, struct.error, cv2.error) as e:
        raise InputError(f"{picture.name} cannot be written as {format}: {one_line(e)}") from e


def _png(picture: Picture, texts: Mapping[str, str]) -> bytes:
    x = picture.pixels()
    if x.dtype == np.uint16:
        if x.ndim == 3:
            x = np.ascontiguousarray(x[..., [2, 1, 0, 3][: x.shape[2]]])
        png = cv2.imencode(".png", x)[1].tobytes()
    else:
        file = BytesIO()
        Image.fromarray(x).save(file, "PNG")
        png = file.getvalue()
    extra = b""
    if picture.icc:
        extra += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc))
    if picture.dpi:
        extra += _chunk(b"pHYs", struct.pack(">IIB", *(round(d / 0.0254) for d in picture.dpi), 1))
    if picture.exif:
        extra += _chunk(b"eXIf", picture.exif[6:])
    if picture.xmp:
        extra += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp)
    for keyword, text in texts.items():
        extra += _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode(errors="replace"))
    return png[:33] + extra + png[33:]  # after the signature and IHDR


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _tiff(picture: Picture) -> bytes:
    # the tags, then one deflated strip with horizontal differences; PIL writes no 16-bit colour, OpenCV no metadata
    x = picture.pixels()
    x = x[..., None] if x.ndim == 2 else x
    h, w, c = x.shape
    strip = zlib.compress(np.diff(x, axis=1, prepend=x.dtype.type(0)).astype(x.dtype.newbyteorder("<")).tobytes())
    tags = Image.Exif()
    if picture.exif:
        tags.load(picture.exif)
    tags = metadata.descriptive(tags)
    layout = {256: w, 257: h, 258: (picture.depth,) * c, 259: 8, 262: 1 if c < 3 else 2, 273: 0, 277: c, 278: h}
    layout |= {279: len(strip), 284: 1, 317: 2}
    if picture.alpha is not None:
        layout[338] = 2
    if picture.dpi:
        layout |= {282: picture.dpi[0], 283: picture.dpi[1], 296: 2}
    if picture.icc:
        layout[34675] = picture.icc
    if picture.xmp:
        layout[700] = picture.xmp
    for tag, value in layout.items():
        tags[tag] = value
    return tags.tobytes()[6:] + strip  # PIL moves the strip's offset, given as 0, to the end of the tags
