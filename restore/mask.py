"""Masks: white (1) = repaint here. Reading them, fitting them to a picture, keeping the pixels outside them."""

import os
import warnings
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import InputError
from .images import Picture, luma, read


def read_mask(mask: Any, picture: Picture, *, name: str | None = None) -> Tensor:
    """The mask for `picture`, (1,1,H,W) or (B,1,H,W) float32 of 0 and 1; 1 = repaint here.

    `None` takes the picture's alpha: below half = repaint. Files, bytes, PIL images and Pictures: half brightness or
    more = repaint, seen on black where they are transparent, so that white strokes on nothing are repainted. Arrays
    (H,W), (H,W,1|3|4), (B,H,W), (B,H,W,1|3|4) and tensors (H,W), (1|B|3,H,W), (1|B,1|3,H,W): bool; integers of 0 and 1,
    up to 255, or up to 65535; floats in [0,1] or of 0 and 255. Of another size but the picture's aspect, to within a
    pixel of the smaller: resized by nearest neighbour with a warning. Raises InputError.
    """
    if mask is None:
        if picture.alpha is None:
            raise InputError(f"{picture.name} has no transparency to take the mask from: give a mask")
        return (picture.alpha < 0.5).float()
    if isinstance(mask, np.ndarray | Tensor):
        name = name or "the mask"
        x, alpha = _from_values(mask, len(picture.rgb), name), None
        shade = x if x.shape[1] == 1 else luma(x[:, :3])  # (N,1,H,W)
        alpha = x[:, 3:] if x.shape[1] == 4 else None
    else:
        source = read(mask, name=name or (None if isinstance(mask, str | os.PathLike) else "the mask"))
        name, shade, alpha = source.name, luma(source.rgb), source.alpha
    if len(shade) not in (1, len(picture.rgb)):
        raise InputError(
            f"{name} is a batch of {len(shade)} masks for {len(picture.rgb)} pictures: give one or one each"
        )
    shade = shade if alpha is None else shade * alpha
    hole = (shade >= 0.5).float()
    if not hole.any() and (shade.any() or (alpha is not None and alpha.any() and (alpha < 1).any())):
        brightest = f"its brightest is {float(shade.max()) * 255:.0f} of 255"
        warnings.warn(f"{name} repaints nothing, as white = repaint and {brightest}", stacklevel=2)
    return _fit(hole, picture, name)


def composite(original: Tensor, restored: Tensor, mask: Tensor, feather: int = 0) -> Tensor:
    """`restored` inside the mask, `original` outside, bit by bit; rgb (B,3,H,W), mask (1|B,1,H,W) of 0 and 1.

    The outermost `feather` pixels inside the mask fade from one to the other; the edge of the picture is no edge of the
    mask. Leave feather at 0 where the original under the mask is rubbish. Raises InputError if feather is negative.
    """
    if feather < 0:
        raise InputError(f"feather must be 0 or more pixels, got {feather}")
    mask = mask.to(original.device)
    if not feather:
        return torch.where(mask > 0, restored, original)
    holes = (mask[:, 0] > 0).to("cpu", torch.uint8).numpy()  # (1|B,H,W)
    depth = [cv2.distanceTransform(hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for hole in holes]  # 1 at the inner edge
    weight = torch.from_numpy(np.stack(depth))[:, None].to(original) / (feather + 1)  # (1|B,1,H,W)
    blend = torch.lerp(original, restored, weight.clamp(0, 1))
    return torch.where(mask > 0, torch.where(weight < 1, blend, restored), original)


def opaque_where(picture: Picture, mask: Tensor) -> Picture:
    """`picture` with its alpha, if it has one, set to 1 in the mask (1|B,1,H,W), so that what was repainted shows."""
    if picture.alpha is None:
        return picture
    return replace(picture, alpha=torch.where(mask > 0, 1.0, picture.alpha))


def _from_values(mask: np.ndarray | Tensor, batch: int, name: str) -> Tensor:  # (N,1|3|4,H,W) float32 in [0,1]
    shape = tuple(mask.shape)
    wanted = InputError(
        f"{name}: cannot take a mask from shape ({', '.join(map(str, shape))}): expected (H,W) or (B,H,W)"
    )
    if 0 in shape or len(shape) not in (2, 3, 4):
        raise wanted
    if isinstance(mask, np.ndarray):
        if mask.dtype.kind not in "buif" or mask.dtype.itemsize > 8:
            raise InputError(f"{name}: expected bool, integers or floats in [0, 1], got {mask.dtype}")
        x = torch.from_numpy(np.array(mask, dtype=mask.dtype.newbyteorder("="), order="C"))
        if len(shape) > 2 and shape[-1] in (1, 3, 4):
            x = x.movedim(-1, -3)
            x = x if x.ndim == 4 else x[None]
    else:
        x = mask.detach().cpu()
        if len(shape) == 3 and shape[0] == 3 != batch:
            x = x[None]
    x = x[None, None] if x.ndim == 2 else x[:, None] if x.ndim == 3 else x
    if x.shape[1] not in (1, 3, 4):
        raise wanted
    if x.dtype == torch.bool:
        return x.float()
    if x.is_complex():
        raise InputError(f"{name}: expected bool, integers or floats in [0, 1], got {x.dtype}")
    whole = not x.is_floating_point()
    x = x.double()
    low, high = (float(v) for v in x.aminmax())
    top = 1 if high <= 1 else 255 if high <= 255 else 65535
    if not (low >= 0 and high <= top) or (top > 1 and not whole and not ((x == 0) | (x == 255)).all()):
        raise InputError(f"{name}: expected bool, 0 to 255, or floats in [0, 1] without NaN, got {low:g} to {high:g}")
    return (x / top).float()


def _fit(hole: Tensor, picture: Picture, name: str) -> Tensor:  # (N,1,h,w) -> (N,1,H,W)
    (h, w), (H, W) = hole.shape[2:], picture.rgb.shape[2:]
    if (h, w) == (H, W):
        return hole
    sizes = f"{name} is {w} x {h}, {picture.name} is {W} x {H}"
    if not _same_aspect(h, w, H, W):
        hint = ""
        if picture.turned and _same_aspect(w, h, H, W):
            hint = ": the mask fits the file as stored, but EXIF turns the picture: turn the mask too"
        raise InputError(f"{sizes}{hint or ', of another shape: draw the mask on the picture itself'}")
    warnings.warn(f"{sizes}: the mask was resized", stacklevel=3)
    return interpolate(hole, (H, W), mode="nearest-exact")


def _same_aspect(h: int, w: int, H: int, W: int) -> bool:  # within one pixel of the smaller, as rounding leaves it
    if h * w > H * W:
        h, w, H, W = H, W, h, w
    return abs(h - w * H / W) <= 1 or abs(w - h * W / H) <= 1
