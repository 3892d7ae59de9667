"""What travels beside the pixels of a file: orientation, EXIF, ICC, XMP, resolution, the tables of a JPEG."""

import re
import struct
import warnings
from collections.abc import Iterator
from typing import Any

from PIL import Image, JpegImagePlugin

from .picture import Picture, one_line

_FINE = 740  # sum of a luminance table: that of libjpeg's quality 90; coarser tables are not used again
_ORIENTATION, _EXIF, _GPS, _INTEROP = 0x112, 0x8769, 0x8825, 0xA005
_BASELINE_KEPT = {269, 270, 271, 272, 274, 282, 283, 285, 296, 305, 306, 315, 316, 318, 319}
_LAYOUT = {700, 34377, 34675, 37724}  # XMP and ICC travel apart; Photoshop's layers are of the old pixels


def fields(im: Image.Image, name: str) -> dict[str, Any]:
    """The fields of a Picture that are metadata; damaged EXIF is dropped with a warning."""
    return {
        "exif": _exif(im, name),
        "icc": _icc(im),
        "xmp": _xmp(im),
        "dpi": _dpi(im),
        "jpeg": _jpeg(im),
    }


def info(picture: Picture) -> dict[str, Any]:
    """What the picture has of these, under the names of PIL's `info` and `save`."""
    values = {"exif": picture.exif, "icc_profile": picture.icc, "xmp": picture.xmp, "dpi": picture.dpi}
    return {key: value for key, value in values.items() if value}


def orientation_of(im: Image.Image) -> int:
    """EXIF's 1 to 8; 1 where there is none, or a wrong one."""
    try:
        value = im.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged block: _exif warns
        return 1
    return value if value in range(1, 9) else 1


def descriptive(tags: Image.Exif) -> Image.Exif:
    """Without the tags that say how a TIFF stores its pixels."""
    kept = Image.Exif()
    kept.endian = "<"
    for tag, value in tags.items():
        if tag in (_EXIF, _GPS):
            value = dict(tags.get_ifd(tag))
            if _INTEROP in value:
                value[_INTEROP] = tags.get_ifd(_INTEROP)
        if tag in _BASELINE_KEPT or (tag > 532 and tag not in _LAYOUT):
            kept[tag] = value
    return kept


def _exif(im: Image.Image, name: str) -> bytes | None:
    raw = im.info.get("exif")
    try:
        if not raw:
            tags = descriptive(im.getexif())
            raw = tags.tobytes() if len(tags) else b""
        raw = re.sub(rb"^(Exif\0\0)+", b"", raw)
        Image.Exif().load(raw)  # complains where it is damaged
        return b"Exif\0\0" + _upright(raw) if raw else None
    except Exception as e:
        warnings.warn(f"{name}: its EXIF is damaged and was dropped ({one_line(e)})", stacklevel=6)
        return None


def _entries(tiff: bytes, order: str, at: int) -> Iterator[tuple[int, int]]:  # (tag, where) of the directory at `at`
    for i in range(struct.unpack_from(order + "H", tiff, at)[0]):
        yield struct.unpack_from(order + "H", tiff, at + 2 + 12 * i)[0], at + 2 + 12 * i


def resized(exif: bytes, height: int, width: int) -> bytes:
    """The EXIF of a picture that is enlarged: where it names a size, the new one."""
    head, out = exif[:6], bytearray(exif[6:])
    order = "<" if out[:2] == b"II" else ">"
    try:
        places = dict(_entries(out, order, struct.unpack_from(order + "I", out, 4)[0]))
        if 0x8769 in places:  # the EXIF directory
            places |= dict(_entries(out, order, struct.unpack_from(order + "I", out, places[0x8769] + 8)[0]))
        for tag, value in ((0x100, width), (0x101, height), (0xA002, width), (0xA003, height)):
            if tag in places:
                struct.pack_into(order + "HII", out, places[tag] + 2, 4, 1, value)  # one LONG
    except struct.error:  # cut short after what PIL could read
        pass
    return head + bytes(out)


def _upright(tiff: bytes) -> bytes:
    # patched in place, so that maker notes keep their offsets; the thumbnail shows the old pixels, so it goes
    out = bytearray(tiff)
    order = "<" if out[:2] == b"II" else ">"
    try:
        first = struct.unpack_from(order + "I", out, 4)[0]
        link = first + 2
        for tag, where in _entries(out, order, first):
            link = where + 12
            if tag == _ORIENTATION:
                struct.pack_into(order + "HIHH", out, where + 2, 3, 1, 1, 0)
        second = struct.unpack_from(order + "I", out, link)[0]
        if 0 < second < len(out):
            places = _entries(out, order, second)
            found = {tag: struct.unpack_from(order + "I", out, where + 8)[0] for tag, where in places}
            start, size = found.get(0x201, 0), found.get(0x202, 0)
            out[start : start + size] = bytes(len(out[start : start + size]))
            struct.pack_into(order + "I", out, link, 0)
    except struct.error:  # cut short after what PIL could read
        pass
    return bytes(out)


def _icc(im: Image.Image) -> bytes | None:
    icc = im.info.get("icc_profile") if im.mode != "CMYK" else None
    return icc if isinstance(icc, bytes) else None  # a TIFF may have numbers there


def _xmp(im: Image.Image) -> bytes | None:
    xmp = im.info.get("xmp") or im.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    if not xmp or not isinstance(xmp, bytes):  # a TIFF may have numbers there
        return None
    return re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", xmp)


def _dpi(im: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(v) for v in im.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def _jpeg(im: Image.Image) -> dict[str, Any] | None:
    tables = getattr(im, "quantization", None)
    if not tables or im.mode not in ("L", "RGB") or sum(tables.get(0, [_FINE + 1])) > _FINE:
        return None
    sampling = max(JpegImagePlugin.get_sampling(im), 0)
    return {"qtables": [list(tables[key]) for key in sorted(tables)], "subsampling": sampling}
