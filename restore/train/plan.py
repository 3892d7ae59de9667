"""What a step of a training is to be: its random numbers, learning rate, crops, and whether a report is due."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from restore.errors import InputError
from restore.train.config import Recipe, interval


class Rows:
    """Random numbers of the global batch, of which a process sees its rows: any split into processes draws the same."""

    def __init__(self, seed: int, step: int, total: int, rows: slice, device: torch.device) -> None:
        self.total, self.rows = total, rows
        state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
        self.generator = torch.Generator(device).manual_seed(int(state[0]))

    def normal(self, *shape: int) -> Tensor:
        """(b,*shape) standard normal."""
        return torch.randn(self.total, *shape, generator=self.generator, device=self.generator.device)[self.rows]

    def uniform(self) -> Tensor:
        """(b,) in [0, 1)."""
        return torch.rand(self.total, generator=self.generator, device=self.generator.device)[self.rows]

    def stratified(self) -> Tensor:
        """(b,) in [0, 1): row i of B is uniform in [i/B, (i+1)/B)."""
        rows = torch.arange(self.total, device=self.generator.device)[self.rows]
        return ((rows + self.uniform()) / self.total).clamp(max=1 - 2**-24)


def learning_rate(train: Recipe, step: int, progress: float) -> float:
    """Linear warm-up over `warmup` steps, flat until decay.start, then cosine or linear to decay.end * lr."""
    rate = train.lr * min(1.0, (step + 1) / train.warmup) if train.warmup else train.lr
    decay = train.decay
    along = min(1.0, max(0.0, (progress - decay.start) / (1 - decay.start)))
    fall = {"cosine": (1 + math.cos(math.pi * along)) / 2, "linear": 1 - along, "none": 1.0}[decay.kind]
    return rate * (decay.end + (1 - decay.end) * fall)


def phase(train: Recipe, crop: int, progress: float) -> tuple[int, int]:
    """(side, batch) at a share of the training."""
    batch = train.batch
    for entry in train.phases:
        if progress >= entry.start:
            crop, batch = entry.crop or crop, entry.batch or batch
    return crop, batch


def check_batches(train: Recipe, shards: int, processes: int) -> None:
    """Refuse batches, of any phase, that do not divide into micro-batches, processes and shards. Raises InputError."""
    if shards > 1 and shards % processes:
        raise InputError(f"data.shards is {shards}: {processes} processes need a multiple of {processes}")
    parts = train.accumulate * processes
    for size in (train.batch, *(entry.batch or train.batch for entry in train.phases)):
        if size % parts:
            raise InputError(f"the batch {size} does not divide into {parts} parts (accumulate x processes)")
        if size // train.accumulate % shards:
            micro = size // train.accumulate
            raise InputError(f"data.shards is {shards}: it does not divide {micro}, the batch / accumulate")


class Due:
    """Says when an interval has passed."""

    def __init__(self, every: int | str, seconds: float) -> None:
        self.steps, self.pause = interval(every)
        self.last = seconds

    def __call__(self, step: int, seconds: float) -> bool:
        if self.pause and seconds - self.last >= self.pause:
            self.last = seconds
            return True
        return bool(self.steps) and step % self.steps == 0
