"""Which parts of a picture need work: boxes around the holes of a mask, padded to what a network takes."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Box(NamedTuple):
    """Rows top:bottom and columns left:right of a picture."""

    top: int
    bottom: int
    left: int
    right: int

    def touches(self, other: Box) -> bool:
        """Whether the two have pixels in common."""
        rows = self.top < other.bottom and other.top < self.bottom
        return rows and self.left < other.right and other.left < self.right

    def cut(self, x: Tensor) -> Tensor:
        """The part of x (..., H, W) inside the box, a view."""
        return x[..., self.top : self.bottom, self.left : self.right]


def _grown(begin: int, end: int, least: int, length: int) -> tuple[int, int]:
    """The span made `least` long about its middle, and moved to lie within 0 ... length."""
    short = max(0, min(least, length) - (end - begin))
    begin = max(0, min(begin - short // 2, length - (end - begin) - short))
    return begin, max(end, min(begin + least, length))


def boxes(mask: Tensor, margin: int, least: int = 0) -> list[Box]:
    """Disjoint boxes that hold every hole of mask (B,1,H,W) with `margin` pixels of surroundings.

    Holes whose surroundings touch share a box, so that each hole is seen once and whole. least: sides that boxes have
    at least, where the picture does: the size that a network was trained on."""
    holes = mask.amax((0, 1)).gt(0).numpy().astype(np.uint8)
    near = cv2.dilate(holes, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    found: list[Box] = []
    for x, y, w, h, _ in stats[1:].tolist():
        box = Box(*_grown(y, y + h, least, holes.shape[0]), *_grown(x, x + w, least, holes.shape[1]))
        while touching := [other for other in found if box.touches(other)]:
            found = [other for other in found if other not in touching]
            box = Box(
                *(f(side) for f, side in zip((min, max, min, max), zip(box, *touching, strict=True), strict=True))
            )
        found.append(box)
    return found


def pad(x: Tensor, multiple: int, mode: str = "reflect", least: int = 0) -> Tensor:
    """Extend x (B,C,H,W) to the right and below, to sides divisible by `multiple`; by reflection, or repeating its
    edge where it is too small to reflect. Sides shorter than `least`, such a multiple, are mirrored up to it."""
    short = [max(0, least - side) for side in x.shape[-2:]]
    if any(short):
        x = mirrored(x, 0, short[1], 0, short[0])
    down, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not (down or right):
        return x
    if mode == "reflect" and (down >= x.shape[-2] or right >= x.shape[-1]):
        mode = "replicate"
    return F.pad(x, (0, right, 0, down), mode=mode)


def mirrored(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Extend x (B,C,H,W) by its mirror image, the edge pixels repeated; by any number of pixels."""
    for dim, before, after in ((-2, top, bottom), (-1, left, right)):
        n = x.shape[dim]
        i = torch.arange(-before, n + after, device=x.device) % (2 * n)
        x = x.index_select(dim, torch.minimum(i, 2 * n - 1 - i))
    return x


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """x (B,C,H,W) in [0, 1] at another (height, width): bicubic, antialiased, clamped."""
    return F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)


def hole_radius(mask: Tensor) -> float:
    """Half the width, in pixels, of the widest hole of mask (B,1,H,W): how far it reaches from known pixels."""
    holes = mask.amax((0, 1)).gt(0).numpy().astype(np.uint8)
    if holes.all():
        return float(max(holes.shape))
    return float(cv2.distanceTransform(holes, cv2.DIST_L2, 5).max())


def rough_fill(rgb: Tensor, mask: Tensor) -> Tensor:
    """A cheap first guess: rgb (B,3,H,W) in [0, 1] with the holes closed by Telea's method (8 bit inside the holes).

    What lay in the holes is wiped out first: at the edges of the picture OpenCV would let it shine through."""
    out = rgb.clone()
    for i in range(len(rgb)):
        hole = mask[i % len(mask), 0].gt(0).numpy().astype(np.uint8)
        if hole.all():
            out[i] = 0.5
            continue
        image = (rgb[i].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        image = np.ascontiguousarray(image)
        image[hole > 0] = image[hole == 0].mean(0).round()
        filled = cv2.inpaint(image, hole, 3, cv2.INPAINT_TELEA)
        close = out.new_tensor(filled).permute(2, 0, 1) / 255
        out[i] = close.where(mask[i % len(mask)] > 0, out[i])
    return out
