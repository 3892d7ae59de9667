"""What every task shares: progress, the report, and chains that survive running out of memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restore.errors import InputError, OutOfMemory
from restore.levels import Level, calls
from restore.prior import Denoise, Pred, Prior
from restore.steps import State, last
from restore.wrappers import alternate, tiles

TILES = (1024, 512, 256, 128)


class Progress(NamedTuple):
    """What a progress callback is told after each network call."""

    done: int  # calls of the prior's network made, over all samples and regions
    total: int
    preview: Tensor  # (B,3,H,W) in [0, 1]: the newest estimate of the region at work


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


def _out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out; torch has a class of its own for it on GPUs alone."""
    texts = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)


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
        self.sizes, self.total, self.begin = tile_sizes(tile), 0, time.perf_counter()
        if self.sizes[0] and self.sizes[0] % prior.multiple:
            raise InputError(f"tile {tile!r}: the prior {prior.name!r} needs a multiple of {prior.multiple}")
        info.device, info.dtype = str(prior.device), str(prior.dtype).removeprefix("torch.")

    def counted(self, denoise: Denoise, cost: int = 1, orientations: int = 1) -> Denoise:
        """`denoise`, asked in tiles where the memory wants it, by turns in so many orientations, its calls counted and
        reported."""

        def tiled(x: Tensor, level: Level) -> Pred:
            size = self.sizes[0]
            return (denoise if size is None else tiles(denoise, size, overlap=min(64, size // 4)))(x, level)

        oriented = tiled if orientations == 1 else alternate(tiled, orientations)

        def asked(x: Tensor, level: Level) -> Pred:
            pred = oriented(x, level)
            self.info.calls += cost
            if self.report:
                preview = self.prior.codec.decode(pred.x0).clamp(0, 1)
                self.report(Progress(self.info.calls, self.total, preview))
            return pred

        return asked

    def drain(self, chain: Callable[[Denoise], Iterator[State]], side: int, rng: torch.Generator) -> Tensor:
        """The final x of `chain(denoise)`, on the CPU; starts over with smaller tiles when memory runs out.

        side: the longer side of what the chain works on, in pixels; over TILES[0] it is worked on in tiles. rng: what
        the chain draws from, set back when it starts over."""
        state = rng.get_state()
        if self.sizes[0] is None and len(self.sizes) > 1 and side > TILES[0]:
            self.sizes = self.sizes[1:]
        while True:
            before = self.info.calls
            try:
                return last(chain(self.counted(self.denoise, self.cost, self.orientations))).cpu()
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not _out_of_memory(error):
                    raise
            rng.set_state(state)
            self.info.calls, failed = before, min(self.sizes[0] or side, side)
            smaller = [size for size in self.sizes[1:] if size < side]
            if not smaller:
                raise OutOfMemory(f"out of memory, even for {failed} pixels at a time: free some, or change --device")
            self.sizes = smaller
            if self.prior.device.type == "cuda":
                torch.cuda.empty_cache()
            warnings.warn(f"out of memory: going on with tiles of {self.sizes[0]} pixels", stacklevel=2)

    def expect(self, *walks: list[Level]) -> None:
        """Tell the progress how many calls these walks will take, for all answers together."""
        self.total = self.info.samples * self.cost * sum(calls(levels) for levels in walks)

    def done(self, images: list[Any], note: str | None = None) -> Result:
        """The answers with the finished report."""
        self.info.note, self.info.seconds = note, round(time.perf_counter() - self.begin, 2)
        return Result(images, self.info)
