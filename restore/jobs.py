"""What every task shares: progress, the report, and chains that survive running out of memory."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restore.codec import Codec
from restore.errors import InputError, OutOfMemory, out_of_memory
from restore.levels import Level, calls
from restore.prior import Denoise, Pred, Prior
from restore.steps import State, last
from restore.wrappers import alternate, tiles

TILES = (1024, 512, 256, 128)  # pixels: the sides of tiles to try, in turn, as memory runs out
WINDOWS = 1.5  # a network that attends is asked for regions up to so many times its own size as a whole


class Progress(NamedTuple):
    """What a progress callback is told after each network call."""

    done: int  # calls of the prior's network made, over all samples and regions
    total: int
    x0: Tensor  # (B,C,H,W) in model space: the newest estimate of the region at work
    codec: Codec

    @property
    def preview(self) -> Tensor:
        """(B,3,H,W) in [0, 1]: `x0` as a picture, made when it is asked for: the latents of a prior take long."""
        return self.codec.decode(self.x0).clamp(0, 1)


Report = Callable[[Progress], None]


@dataclass
class Info:
    """How an answer was made."""

    method: str
    prior: str
    steps: int
    seed: int
    samples: int
    calls: int = 0  # of the prior's network; those of a classifier are not counted
    seconds: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    classifier: str | None = None
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {k: v for k, v in asdict(self).items() if v is not None}


class Result(NamedTuple):
    """The answers, each in the kind that went in, and how they were made."""

    images: list[Any]
    info: Info


def tile_sizes(tile: int | str | None) -> list[int | None]:
    """Tile sizes to try, in turn, as memory runs out; None is the whole region at once. InputError for bad ones."""
    if tile == "auto":
        return [None, *TILES]
    if tile in (None, "none", 0, "0"):
        return [None]
    if not str(tile).isdecimal() or int(tile) < TILES[-1] or int(tile) % 8:
        raise InputError(f"tile {tile!r}: give auto, none, or a multiple of 8 from {TILES[-1]} up")
    return [int(tile), *(size for size in TILES if size < int(tile))]


def whole_side(prior: Prior) -> int:
    """The longer side, in pixels, of the largest pictures that a prior is asked for as a whole, where nobody says."""
    if prior.window is None:
        return TILES[0]
    return prior.window if prior.fixed else int(WINDOWS * prior.window)


class Job:
    """One request: runs chains, counts their network calls, and shrinks its tiles when memory runs out."""

    def __init__(
        self,
        prior: Prior,
        info: Info,
        tile: int | str | None,
        report: Report | None,
        denoise: Denoise | None = None,
        cost: int = 1,
        orientations: int = 1,
    ) -> None:
        """denoise: what the chains ask, the prior itself or a wrapper round it; cost: its network calls for one;
        orientations: in how many the calls of a chain see the picture by turns."""
        self.prior, self.info, self.report, self.denoise, self.cost = prior, info, report, denoise or prior, cost
        self.orientations = orientations
        self.ladder, self.total, self.begin = tile_sizes(tile), 0, time.perf_counter()
        if self.ladder[0] and self.ladder[0] % prior.picture_multiple:
            raise InputError(f"tile {tile!r}: the prior {prior.name!r} needs a multiple of {prior.picture_multiple}")
        if prior.fixed and tile != "auto":
            raise InputError(f"tile {tile!r}: the prior {prior.name!r} takes {prior.window} pixels alone: leave it out")
        self.size = self.ladder[0]  # of the tiles at work, in pixels of the picture; None is the whole region
        self.room = math.inf  # memory ran out at this size
        info.device, info.dtype = str(prior.device), str(prior.dtype).removeprefix("torch.")

    def counted(self, denoise: Denoise, cost: int = 1, orientations: int = 1) -> Denoise:
        """`denoise`, asked in tiles where the memory wants it, by turns in so many orientations, its calls counted and
        reported."""

        def tiled(x: Tensor, level: Level) -> Pred:
            if self.size is None:
                return denoise(x, level)
            size, grid = self.size // self.prior.codec.factor, self.prior.multiple
            return tiles(denoise, size, max(1, min(64, size // 4)), grid)(x, level)

        oriented = tiled if orientations == 1 else alternate(tiled, orientations)

        def asked(x: Tensor, level: Level) -> Pred:
            pred = oriented(x, level)
            self.info.calls += cost
            if self.report:
                self.report(Progress(self.info.calls, self.total, pred.x0, self.prior.codec))
            return pred

        return asked

    def sizes(self, side: int) -> list[int | None]:
        """Tile sizes to try, in turn, on a region of this longer side; all in pixels of the picture.

        What was asked for comes first. `auto` is the whole region, up to TILES[0], or up to 1.5 times the size of a
        network that attends; then tiles of that size; then smaller ones, for when memory runs out. A network of a fixed
        size is asked for that alone."""
        if len(self.ladder) == 1:
            return self.ladder
        window, unit = self.prior.window, self.prior.picture_multiple
        auto, rest = self.ladder[0] is None, self.ladder[1:]
        if auto and window:
            rest = [window, *(size for size in rest if size < window)]
        rest = [size for size in rest if size < min(side, self.room) and not size % unit and size >= 2 * unit]
        if not auto:
            return [self.ladder[0], *rest]
        if self.prior.fixed:
            return [window if side > window else None]
        whole = side <= whole_side(self.prior) and side < self.room
        return [None, *rest] if whole or not rest else rest

    def drain(self, chain: Callable[[Denoise], Iterator[State]], side: int, rng: torch.Generator) -> Tensor:
        """The final x of `chain(denoise)`, on the CPU; starts over with smaller tiles when memory runs out.

        side: the longer side of what the chain works on, in model pixels. rng: what the chain draws from, set back when
        it starts over."""
        state, side = rng.get_state(), side * self.prior.codec.factor
        failed = None
        for size in self.sizes(side):
            self.size = size
            if failed is not None:
                if self.prior.device.type == "cuda":
                    torch.cuda.empty_cache()
                warnings.warn(f"out of memory: going on with tiles of {self.size} pixels", stacklevel=2)
            before = self.info.calls
            try:
                return last(chain(self.counted(self.denoise, self.cost, self.orientations))).cpu()
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not out_of_memory(error):
                    raise
            rng.set_state(state)
            self.info.calls, failed = before, min(self.size or side, side)
            self.room = min(self.room, failed)
        raise OutOfMemory(f"out of memory, even for {failed} pixels at a time: free some, or change --device")

    def expect(self, *walks: list[Level]) -> None:
        """Tell the progress how many calls these walks will take, for all answers together."""
        self.total = self.info.samples * self.cost * sum(calls(levels) for levels in walks)

    def done(self, images: list[Any], note: str | None = None) -> Result:
        """The answers with the finished report."""
        self.info.note, self.info.seconds = note, round(time.perf_counter() - self.begin, 2)
        return Result(images, self.info)
