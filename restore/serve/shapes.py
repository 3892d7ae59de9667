"""Pictures at the size and shape that a request asks for, and masks as plugins draw them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from restore.errors import InputError
from restore.mask import read_mask
from restore.metadata import resized as exif_resized
from restore.picture import Picture, luma
from restore.regions import Box, resized

STRETCH, CROP, FILL, LATENT = range(4)  # A1111's resize_mode; the last one stretches too
WASTE = 4, 2**24  # times the larger of two sizes, or pixels: what a picture may have before it is cropped


def fitted(picture: Picture, width: int, height: int, mode: int = STRETCH) -> Picture:
    """A picture at another size: stretched, cropped to the shape, or filled up with the colours of its edges."""
    h, w = picture.rgb.shape[-2:]
    if (h, w) == (height, width):
        return picture
    x = picture.rgb if picture.alpha is None else torch.cat([picture.rgb, picture.alpha], 1)
    if mode not in (CROP, FILL):
        x = resized(x, (height, width))
    else:
        scale = (max if mode == CROP else min)(width / w, height / h)
        keep = max if mode == CROP else min
        high, wide = max(1, keep(height, round(h * scale))), max(1, keep(width, round(w * scale)))
        if high * wide > max(WASTE[0] * max(h * w, height * width), WASTE[1]):
            raise InputError(f"{picture.name} is too narrow to be cropped to {width} x {height}: crop it first")
        x = resized(x, (high, wide))
        down, right = height - x.shape[-2], width - x.shape[-1]  # both at least 0, or both at most 0
        sides = (right // 2, right - right // 2, down // 2, down - down // 2)
        x = F.pad(x, sides, mode="replicate") if mode == FILL else F.pad(x, sides)
    exif = picture.exif and exif_resized(picture.exif, height, width)
    return replace(
        picture, rgb=x[:, :3].contiguous(), alpha=x[:, 3:].contiguous() if x.shape[1] > 3 else None, exif=exif
    )


def hole_of(mask: Picture, picture: Picture, *, invert: bool = False, name: str = "the mask") -> Tensor:
    """(1,1,H,W) of 0 and 1 for a mask as A1111 reads it: its transparency where it has some, else its brightness; 1 is
    repainted. Of another size but the same aspect it is resized. Raises InputError for another aspect."""
    transparent = mask.alpha is not None and bool((mask.alpha < 1).any())
    shade = mask.alpha if transparent else luma(mask.rgb)
    holes = read_mask((shade >= 0.5).float(), picture, name=name)
    return 1 - holes if invert else holes


def clear_of(mask: Picture, picture: Picture) -> Tensor:
    """(1,1,H,W) of 0 and 1 for a mask as OpenAI has it: 1, to be repainted, where it is transparent. Raises InputError
    for one without transparency."""
    if mask.alpha is None:
        raise InputError("the mask has no transparent part: what is transparent in it is repainted")
    return read_mask((mask.alpha < 0.5).float(), picture, name="the mask")


def around(holes: Tensor, margin: int) -> Box:
    """The part of a picture that holds every hole (1,1,H,W), with so many pixels of surroundings."""
    rows, columns = holes[0, 0].amax(1).nonzero(), holes[0, 0].amax(0).nonzero()
    height, width = holes.shape[-2:]
    return Box(
        max(0, int(rows[0]) - margin), min(height, int(rows[-1]) + 1 + margin),
        max(0, int(columns[0]) - margin), min(width, int(columns[-1]) + 1 + margin),
    )  # fmt: skip


def cut(picture: Picture, box: Box) -> Picture:
    """That part of a picture, a copy."""
    alpha = picture.alpha
    return replace(picture, rgb=box.cut(picture.rgb).clone(), alpha=None if alpha is None else box.cut(alpha).clone())


def pasted(picture: Picture, part: Picture, box: Box) -> Picture:
    """The picture with another one in place of that part."""
    rgb = picture.rgb.clone()
    box.cut(rgb).copy_(part.rgb)
    return replace(picture, rgb=rgb)
