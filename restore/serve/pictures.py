"""Pictures in requests and answers: base64 and bytes, checked before they are decoded."""

from __future__ import annotations

import base64
import binascii
import re

from restore.errors import InputError
from restore.files import dimensions
from restore.images import Picture, encode, read

SIDE = 65_535  # as a JPEG has: networks see a strip of some width, however narrow the picture
_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII | re.IGNORECASE)


class TooLarge(InputError):  # noqa: N818 - as HTTP calls it
    """More bytes or pixels than this server takes."""


def from_base64(text: str, name: str) -> bytes:
    """The bytes of a data-URI, or of bare base64; paths and addresses are neither. Raises InputError."""
    head = _URI.match(text[:200])
    try:
        found = base64.b64decode(re.sub(r"\s+", "", text[head.end() if head else 0 :]), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{name} is no picture in base64, bare or as a data: URI") from None
    if not found:
        raise InputError(f"{name} is empty: send a picture in base64")
    return found


def check_size(data: bytes, name: str, most: int) -> tuple[int, int]:
    """(width, height) as the header has them. Raises InputError for what is no picture, TooLarge for too many pixels:
    so nothing is decoded that would not fit into memory."""
    width, height = dimensions(data, name)
    check_pixels(width, height, name, most)
    return width, height


def check_pixels(width: int, height: int, name: str, most: int) -> None:
    """Refuse what is too large to be made. Raises TooLarge."""
    if width * height > most:
        raise TooLarge(f"{name} has {width} x {height} pixels, and this server takes {most / 1e6:g} million")
    if max(width, height) > SIDE:
        raise TooLarge(f"{name} has {width} x {height} pixels, and this server takes at most {SIDE} a side")


def picture_of(data: bytes, name: str) -> Picture:
    """Decoded, to be answered by a Picture. Raises InputError."""
    return read(read(data, name=name))


def to_base64(picture: Picture, format: str = "PNG", text: str | None = None) -> str:
    """Encoded, without a data: prefix; text: what A1111 keeps in a picture as its `parameters`."""
    return base64.b64encode(to_bytes(picture, format, text)).decode("ascii")


def to_bytes(picture: Picture, format: str = "PNG", text: str | None = None) -> bytes:
    """A file of this format, or PNG where it cannot hold the picture."""
    if picture.alpha is not None and format in ("JPEG", "BMP") and (picture.alpha < 1).any():
        format = "PNG"
    return encode(picture, format, {"parameters": text} if text and format == "PNG" else None)
