"""Pairs to learn from: crops, and the same degraded on the fly or prepared; pair n is a function of (seed, n)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from restore.degrade import blurred, compressed, shrunk
from restore.errors import InputError
from restore.kernels import read_kernel
from restore.picture import luma
from restore.train.conditional_config import Condition, ConditionalConfig, Degradation
from restore.train.data import Item, Pictures, find, listing, window


class Pair(NamedTuple):
    """A crop and what is shown of it."""

    image: np.ndarray  # (H,W,3) uint8
    condition: np.ndarray  # (H/scale,W/scale,3) uint8
    hole: np.ndarray  # (H,W) bool: destroyed; nowhere but of inpaint and uncrop


def degraded(crop: np.ndarray, told: Condition, how: Degradation, rng: np.random.Generator, edge: int = 0) -> Pair:
    """A crop (H,W,3) uint8 and its condition: blurred, shrunk, made gray, noisy, compressed or holed as `how` says.

    As `restore degrade` does it, to whole steps of 8 bits, as the pictures that people have. edge: pixels, a multiple
    of the scale, that are cut off on all sides once it is blurred and shrunk: JPEG's blocks begin with the crop."""
    draws = {name: rng.uniform(*getattr(how, name)) for name in STAGES if getattr(how, name)}
    height, width = crop.shape[:2]
    hole = np.zeros((height, width), bool)
    if how.kind in HOLES:
        hole = HOLES[how.kind](height, width, draws["hole"], rng)
        return Pair(crop, np.where(hole[..., None], np.uint8(128), crop), hole)
    x = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255  # (1,3,H,W)
    if draws.get("blur", 0) > 0.1:  # less is none
        x = blurred(x, read_kernel(f"gaussian:{draws['blur']}").float())
    if draws.get("motion", 0) > 1:
        x = blurred(x, read_kernel(f"motion:{draws['motion']},{rng.uniform(0, 180)}").float())
    if told.scale > 1:
        x = shrunk(x, told.scale, told.shrunk, "the crop")
    if how.kind == "colorize":
        x = luma(x).expand(-1, 3, -1, -1)
    if edge:
        near = edge // told.scale
        crop, hole = (part[edge:-edge, edge:-edge] for part in (crop, hole))
        x = x[..., near:-near, near:-near]
    if draws.get("noise"):
        gray = (1, 1, *x.shape[-2:]) if how.kind == "colorize" else x.shape
        x = x + draws["noise"] / 255 * torch.from_numpy(rng.standard_normal(gray, np.float32))
    if draws.get("jpeg"):
        x = compressed(x, round(draws["jpeg"]))
    return Pair(crop, to_bytes(x), hole)


STAGES = ("blur", "motion", "noise", "jpeg", "hole")


def to_bytes(x: Tensor) -> np.ndarray:
    """(1,3,H,W) in [0, 1] -> (H,W,3) uint8."""
    return x[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()


def _inpaint(height: int, width: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Boxes, or strokes of a brush, until about this share is destroyed (Palette: Saharia et al. 2022, section 4.2)."""
    canvas, side = np.zeros((height, width), np.uint8), min(height, width)
    brush = rng.uniform() < 0.5
    for _ in range(64):
        if (canvas > 0).mean() >= share:
            break
        if brush:
            points = np.cumsum(rng.normal(0, side / 6, (6, 2)), 0) + rng.uniform((0, 0), (width, height))
            most = max(3, min(side // 6, round(share * side)))  # a stroke is about a side long
            thick = int(rng.integers(2, most + 1))
            cv2.polylines(canvas, [points.astype(np.int32)], False, 255, thick)
        else:
            h, w = (max(2, round(length * (share * rng.uniform(0.3, 1.2)) ** 0.5)) for length in (height, width))
            top, left = (int(rng.integers(0, max(1, n - k + 1))) for n, k in ((height, h), (width, w)))
            canvas[top : top + h, left : left + w] = 255
    return canvas > 0


def _uncrop(height: int, width: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """The border of one side, of two opposite ones, or all around."""
    hole, sides = np.zeros((height, width), bool), [(0,), (1,), (2,), (3,), (0, 1), (2, 3), (0, 1, 2, 3)]
    chosen = sides[int(rng.integers(len(sides)))]
    depth = share / len(chosen) if len(chosen) < 4 else (1 - (1 - share) ** 0.5) / 2
    rows, columns = (max(1, round(depth * length)) for length in (height, width))
    spans = (np.s_[:rows], np.s_[-rows:], np.s_[:, :columns], np.s_[:, -columns:])
    for side in chosen:
        hole[spans[side]] = True
    return hole


HOLES = {"inpaint": _inpaint, "uncrop": _uncrop}


class Pairs(Pictures):
    """The pairs of a configuration; indexed as `Pictures`, it gives "image", "condition" and "hole" beside.

    Pictures smaller than the crop are skipped as damaged ones are; a crop is degraded with a margin around it, where
    the picture has one, so that its borders are like its middle. Raises InputError as `Pictures`."""

    unusable = "damaged or too small"

    def __init__(self, config: ConditionalConfig, folders: Iterable[Path], quiet: bool = False) -> None:
        self.told, folders = config.condition, list(folders)
        self.least = max(config.data.crop, *(phase.crop or 0 for phase in config.train.phases), 1)
        weights = np.cumsum([how.weight for how in self.told.degradations])
        self.share = weights / weights[-1]
        self.halves = self._halves(config, folders)
        self.lost: set[int] = set()  # of the held-out pictures, those that cannot be used
        super().__init__(config.data, config.seed, folders, quiet)

    @classmethod
    def of(cls, config: ConditionalConfig, folders: Iterable[Path], quiet: bool) -> Pairs:
        return cls(config, folders, quiet)

    def _halves(self, config: ConditionalConfig, folders: list[Path]) -> dict[tuple[str, str], Item]:
        """(file, name) of each picture of prepared pairs -> its other half."""
        found = {}
        for source in config.data.sources:
            if source.condition is not None:
                root = find(source.condition, folders)
                others: dict[str, list[Item]] = {}
                for item in listing(root):
                    others.setdefault(_stem(item.name), []).append(item)
                for item in listing(find(source.path, folders)):
                    named = others.get(_stem(item.name), [])
                    named = [other for other in named if other.name == item.name] or named
                    if len(named) != 1:
                        count = "two pictures" if named else "no picture"
                        raise InputError(f"{source.condition} holds {count} named {_stem(item.name)}.*")
                    found[item.file, item.name] = named[0]._replace(name=str(root / named[0].name))
        return found

    def decode(self, item: Item) -> np.ndarray | None:
        """(H,W,3) uint8; of a pair (H,W,6), the other half enlarged by repetition. None for what cannot be used."""
        picture = super().decode(item)
        if picture is None:
            return None
        reason = None
        if min(picture.shape[:2]) < self.least:
            reason = f"{picture.shape[1]} x {picture.shape[0]} is smaller than the crop of {self.least}"
        half = self.halves.get((item.file, item.name))
        if half is not None and reason is None:
            other, scale = super().decode(half), self.told.scale
            if other is None:
                return None
            height, width = (side * scale for side in other.shape[:2])
            if (height, width) != picture.shape[:2]:
                sizes = f"{other.shape[1]} x {other.shape[0]} and {picture.shape[1]} x {picture.shape[0]}"
                reason = f"the pair has sizes {sizes}, not 1 : {scale}"
            else:
                picture = np.concatenate([picture, other.repeat(scale, 0).repeat(scale, 1)], 2)
        if reason is None:
            return picture
        if not self.quiet:
            print(f"skipped {item.name}: {reason}", file=sys.stderr)
        return None

    def sample(self, number: int, picture: np.ndarray, side: int, rng: np.random.Generator) -> dict[str, Any]:
        how = self.told.degradations[int(np.searchsorted(self.share, rng.uniform(), side="right"))]
        top, left, scale, mirror, turn = rng.uniform(size=5)
        if picture.shape[2] == 6:
            pair = self._cut_pair(picture, side, top, left)
        else:
            low, high = self.data.shrink
            edge = self._margin(how, picture, side)
            crop = window(picture, side + 2 * edge, low + scale * (high - low), top, left)
            pair = degraded(crop, self.told, how, rng, edge)
        mirror, turn = self.data.flip and mirror < 0.5, int(4 * turn) if self.data.rotate else 0
        image, condition, hole = (_turned(part, mirror, turn) for part in pair)
        return {"image": image, "condition": condition, "hole": hole}

    def _margin(self, how: Degradation, picture: np.ndarray, side: int) -> int:
        """Pixels around a crop that its blur and shrinking reach, as far as there is room: a multiple of the scale."""
        scale = self.told.scale
        reach = 2 * scale if scale > 1 else 0
        reach += int(4 * how.blur[1] + 0.5) if how.blur else 0
        reach += math.ceil(how.motion[1] / 2) if how.motion else 0
        room = min(side // 2, (min(picture.shape[:2]) - side) // 2)
        return min(-(-reach // scale), room // scale) * scale

    def _cut_pair(self, picture: np.ndarray, side: int, top: float, left: float) -> Pair:
        """A crop of a prepared pair, at a multiple of the scale."""
        scale = self.told.scale
        y, x = (
            int(at * ((n - side) // scale + 1)) * scale for at, n in ((top, picture.shape[0]), (left, picture.shape[1]))
        )
        crop = picture[y : y + side, x : x + side]
        return Pair(crop[..., :3], crop[::scale, ::scale, 3:], np.zeros((side, side), bool))

    def held_pairs(self, count: int, size: int, multiple: int) -> Iterator[tuple[str, Pair]]:
        """(name, pair) of the first `count` held-out pictures: centre crops of at most `size`, their degradations by
        turns, drawn from a seed of their own."""
        multiple = int(np.lcm(multiple, self.told.scale))
        for i, item in enumerate(self.held[:count]):
            picture = None if i in self.lost else self.decode(item)
            if picture is None:
                self.lost.add(i)
                continue
            height, width = (min(side, size) // multiple * multiple for side in picture.shape[:2])
            if picture.shape[2] == 6:
                scale = self.told.scale
                top, left = (
                    (a - b) // 2 // scale * scale for a, b in zip(picture.shape, (height, width), strict=False)
                )
                crop = picture[top : top + height, left : left + width]
                yield item.name, Pair(crop[..., :3], crop[::scale, ::scale, 3:], np.zeros((height, width), bool))
                continue
            top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
            crop = np.ascontiguousarray(picture[top : top + height, left : left + width])
            how = self.told.degradations[i % len(self.told.degradations)]
            yield item.name, degraded(crop, self.told, how, np.random.default_rng((0, i)))


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _turned(part: np.ndarray, mirror: bool, turn: int) -> Tensor:
    part = np.rot90(part, turn)
    return torch.from_numpy(np.ascontiguousarray(part[:, ::-1] if mirror else part))
