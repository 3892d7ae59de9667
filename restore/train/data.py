"""Training crops from folders and tars of pictures: crop number n is a pure function of (seed, n)."""

from __future__ import annotations

import hashlib
import io
import signal
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from restore.errors import InputError, RestoreError
from restore.train.config import Crops

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Item(NamedTuple):
    """One encoded picture: a stretch of a file."""

    name: str  # path within its source, with forward slashes
    file: str
    offset: int = 0
    size: int = -1  # bytes; -1 is the rest of the file

    @property
    def label(self) -> str:
        """The name of the folder that the picture lies in; empty at the top."""
        return self.name.split("/")[-2] if "/" in self.name else ""


def find(path: str, folders: Iterable[Path]) -> Path:
    """Where a path of a configuration lies: in the first of `folders` that has it. Raises InputError."""
    tried = [Path(folder) / path for folder in folders]
    for candidate in tried:
        if candidate.exists():
            return candidate
    raise InputError(f"there is no {path}: looked in {', '.join(str(p.parent) for p in tried)}")


def listing(path: Path) -> list[Item]:
    """All pictures of a folder (recursive) or an uncompressed tar, sorted by name. Raises InputError."""
    if path.is_dir():
        files = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        return sorted(Item(p.relative_to(path).as_posix(), str(p)) for p in files)
    try:
        with tarfile.open(path, "r:") as tar:
            members = [m for m in tar if m.isfile() and Path(m.name).suffix.lower() in SUFFIXES]
    except (OSError, tarfile.TarError):
        raise InputError(f"{path} is neither a folder nor an uncompressed tar") from None
    return sorted(Item(m.name.removeprefix("./"), str(path), m.offset_data, m.size) for m in members)


def decode(item: Item) -> np.ndarray:
    """(H,W,3) uint8 RGB, EXIF orientation applied; raises whatever PIL raises on damage."""
    with open(item.file, "rb") as file:
        file.seek(item.offset)
        data = file.read(item.size)
    with Image.open(io.BytesIO(data)) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def share(name: str) -> float:
    """A number in [0, 1) from a name, the same everywhere: pictures below `holdout` are held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class Cut:
    """How a crop is taken: side in pixels, range of scales, mirror, quarter turns."""

    side: int
    shrink: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    rotate: bool = False


def cut(picture: np.ndarray, how: Cut, rng: np.random.Generator) -> np.ndarray:
    """A random crop, (side,side,3) uint8: a window of side / scale, area-averaged down to side.

    A window that does not fit is made smaller; a picture smaller than the crop is mirrored at its borders."""
    scale, top, left, mirror, turn = rng.uniform(size=5)
    scale = how.shrink[0] + scale * (how.shrink[1] - how.shrink[0])
    crop = window(picture, how.side, scale, top, left)
    crop = np.rot90(crop, int(4 * turn)) if how.rotate else crop
    crop = crop[:, ::-1] if how.flip and mirror < 0.5 else crop
    return np.ascontiguousarray(crop)


def window(picture: np.ndarray, side: int, scale: float, top: float = 0.5, left: float = 0.5) -> np.ndarray:
    """The window of side / scale at the share `top`, `left` of the room there is, area-averaged: (side,side,3)."""
    height, width = picture.shape[:2]
    if min(height, width) < side:
        picture = np.pad(picture, ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0)), mode="symmetric")
        height, width = picture.shape[:2]
    size = min(round(side / scale), height, width)
    y, x = int(top * (height - size + 1)), int(left * (width - size + 1))
    crop = picture[y : y + size, x : x + size]
    return crop if size == side else cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)


class Pictures(torch.utils.data.Dataset):
    """The pictures of a [data] section; indexed by (n, side) or (n, side, shard) it gives crop n of that side.

    A crop's source is drawn by weight, then one of its pictures uniformly; shard k of n holds pictures k, k + n, ... of
    each source. Damaged pictures are skipped, named once on stderr and counted in `bad`, whichever worker meets them.
    folders: where relative paths are looked for, in this order. Raises InputError where no usable picture is left.
    """

    unusable = "damaged"  # pictures that are skipped are, in words

    def __init__(self, data: Crops, seed: int, folders: Iterable[Path] = (Path(),), quiet: bool = False) -> None:
        self.data, self.seed, self.quiet = data, seed, quiet
        folders = list(folders)
        sources = [listing(find(source.path, folders)) for source in data.sources]
        self.held = self._hold_out(sources, folders)
        held = {item.name for item in self.held}
        sources = [[item for item in source if item.name not in held] for source in sources]
        for source, items in zip(data.sources, sources, strict=True):
            if not items:
                raise InputError(f"no usable picture in {source.path}")
            if len(items) < data.shards:
                raise InputError(
                    f"{source.path} has {len(items)} pictures to train on: too few for {data.shards} shards"
                )
        self.items = [item for source in sources for item in source]
        self.labels = sorted({item.label for item in self.items}) if data.labels else None
        if self.labels and "" in self.labels:
            raise InputError("labels = true needs every picture in a folder that is named after its label")
        self.first = np.cumsum([0, *map(len, sources)])  # (S+1,) where each source begins in items
        self.chance = np.cumsum([source.weight for source in data.sources])
        self.damaged = torch.zeros(len(self.items), dtype=torch.bool).share_memory_()  # the workers' too
        self.cache: dict[int, np.ndarray] = {}
        self.room = data.cache_gb * 2**30

    @classmethod
    def of(cls, config: Any, folders: Iterable[Path], quiet: bool) -> Pictures:
        """The pictures of a whole configuration."""
        return cls(config.data, config.seed, folders, quiet)

    def _hold_out(self, sources: list[list[Item]], folders: list[Path]) -> list[Item]:
        holdout, every = self.data.holdout, [item for source in sources for item in source]
        if isinstance(holdout, str):
            return listing(find(holdout, folders))
        if isinstance(holdout, list):
            missing = set(holdout) - {item.name for item in every}
            if missing:
                raise InputError(f"no source holds the picture {min(missing)!r} of holdout")
            return [item for item in every if item.name in holdout]
        return sorted((item for item in every if share(item.name) < holdout), key=lambda item: share(item.name))

    @property
    def bad(self) -> set[int]:
        """The pictures that were found to be damaged."""
        return set(self.damaged.nonzero()[:, 0].tolist())

    def names(self, numbers: Iterable[int]) -> list[str]:
        """Of pictures, by their place in `items`."""
        return [self.items[number].name for number in numbers]

    def __getitem__(self, index: tuple[int, int] | tuple[int, int, int]) -> dict[str, Any]:
        n, side, *shard = index
        rng = np.random.default_rng((self.seed, n))
        number, picture = self._draw(rng, *shard)
        return {**self.sample(number, picture, side, rng), "item": number}

    def sample(self, number: int, picture: np.ndarray, side: int, rng: np.random.Generator) -> dict[str, Any]:
        """What is learnt from: a random crop of a picture, and its label."""
        crop = cut(picture, Cut(side, self.data.shrink, self.data.flip, self.data.rotate), rng)
        label = self.labels.index(self.items[number].label) if self.labels else 0
        return {"image": torch.from_numpy(crop), "label": label}

    def _draw(self, rng: np.random.Generator, shard: int | None = None) -> tuple[int, np.ndarray]:
        while True:
            source = int(np.searchsorted(self.chance, rng.uniform() * self.chance[-1], side="right"))
            among = self._among(source, shard)
            number = among[int(rng.integers(len(among)))]
            picture = self.picture(number)
            if picture is not None:
                return number, picture
            if self.damaged[among.start : among.stop : among.step].all():
                part = "" if shard is None else f", shard {shard} of {self.data.shards}"
                where = f"{self.data.sources[source].path}{part}"
                raise InputError(f"no usable picture in {where}: all are {self.unusable}")

    def _among(self, source: int, shard: int | None) -> range:
        """The pictures of a source, or those of them that are in a shard."""
        first, end = int(self.first[source]), int(self.first[source + 1])
        return range(first, end) if shard is None else range(first + shard, end, self.data.shards)

    def picture(self, number: int) -> np.ndarray | None:
        """(H,W,3) uint8, from memory if it is kept there; None for a damaged one."""
        if number in self.cache or self.damaged[number]:
            return self.cache.get(number)
        picture = self.decode(self.items[number])
        if picture is None:
            self.damaged[number] = True
        elif picture.nbytes <= self.room:
            self.room -= picture.nbytes
            self.cache[number] = picture
        return picture

    def decode(self, item: Item) -> np.ndarray | None:
        """(H,W,3) uint8; None, with a word on stderr, for a damaged picture."""
        try:
            return decode(item)
        except Exception as error:  # PIL raises nearly anything on damaged files
            if not self.quiet:
                print(f"skipped {item.name}: {error}", file=sys.stderr)
            return None

    def preload(self, shards: Iterable[int] | None = None) -> None:
        """Decode all, or all of these shards, that fits in memory, before worker processes are forked."""
        parts = [None] if shards is None else list(shards)
        for number in sorted(
            i for part in parts for source in range(len(self.chance)) for i in self._among(source, part)
        ):
            if self.room <= 0:
                break
            self.picture(number)

    def held_out(self, count: int, size: int, multiple: int = 8) -> Iterator[tuple[str, Tensor]]:
        """(name, (1,3,H,W) in [0, 1]) of the first `count` held-out pictures, centre crops of at most `size`."""
        for item in self.held[:count]:
            picture = self.decode(item)
            if picture is not None and min(picture.shape[:2]) >= multiple:
                height, width = (min(side, size) // multiple * multiple for side in picture.shape[:2])
                top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
                crop = picture[top : top + height, left : left + width].copy()
                yield item.name, torch.from_numpy(crop).permute(2, 0, 1)[None] / 255

    def held_out_crops(self, side: int) -> tuple[Tensor, Tensor]:
        """((N,3,side,side) uint8, (N,) labels) of all held-out pictures: centre crops at the smallest scale of the
        training's, which see most of a picture."""
        crops, labels = [torch.empty(0, side, side, 3, dtype=torch.uint8)], []
        for item in self.held:
            picture = self.decode(item)
            if picture is not None:
                crops.append(torch.from_numpy(window(picture, side, self.data.shrink[0]).copy())[None])
                labels.append(self.labels.index(item.label))
        return torch.cat(crops).permute(0, 3, 1, 2), torch.tensor(labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": {}, "room": self.data.cache_gb * 2**30}  # what a spawned worker starts with


def _begin_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)


class _Told(torch.utils.data.Dataset):
    """A dataset whose errors for the user are given back: raised in a worker, torch would wrap them in a traceback."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitems__(self, indices: list[tuple[int, ...]]) -> list[dict[str, Any]] | RestoreError:
        try:
            return [self.data[index] for index in indices]
        except RestoreError as error:
            return error


def _collate(samples: list[dict[str, Any]] | RestoreError) -> dict[str, Tensor] | RestoreError:
    return samples if isinstance(samples, RestoreError) else torch.utils.data.default_collate(samples)


class Loader:
    """Batches of one process: those of its share of crops `start`, `start` + 1, ..., `batch` a step, for ever.

    The crop with number start + step * batch + row belongs to the process whose `rows` hold the row; shards: that each
    of these rows draws from, of a dataset that is cut into them."""

    def __init__(
        self,
        data: Any,
        start: int,
        batch: int,
        side: int,
        rows: list[int],
        workers: int = 0,
        shards: list[int] | None = None,
    ) -> None:
        if workers and hasattr(data, "preload"):
            data.preload(*([] if shards is None else [sorted(set(shards))]))
        self.loader = torch.utils.data.DataLoader(
            _Told(data),
            batch_sampler=self._indices(start, batch, side, rows, shards),
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_begin_worker,
        )

    @staticmethod
    def _indices(
        start: int, batch: int, side: int, rows: list[int], shards: list[int] | None
    ) -> Iterator[list[tuple[int, ...]]]:
        ends = [(side,) for _ in rows] if shards is None else [(side, shard) for shard in shards]
        while True:
            yield [(start + row, *end) for row, end in zip(rows, ends, strict=True)]
            start += batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.loader:
            if isinstance(batch, RestoreError):
                raise batch
            yield batch
