"""Jointly Gaussian pairs, of which all is known: conditions to see, pictures to answer with, exact networks."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import nn

from restore.conditional import Condition as Told
from restore.levels import Level
from restore.prior import coefficients
from restore.train.conditional import ConditionalTask
from restore.train.conditional_config import (
    Condition,
    ConditionalConfig,
    ConditionalData,
    ConditionalTrain,
    ConditionalValidate,
    Degradation,
    PairedSource,
)

SPREAD = (25**2 + 1 / 12) ** 0.5 / 127.5  # of a condition's pixels, about 0 in model units; rounded to bytes
ROUNDING = 1 / 12 / 127.5**2  # the variance that rounding to bytes adds


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pixels of the picture are N(gain * enlarged + shift, std^2), given the condition, pixels of N(0, SPREAD^2).

    In model units; next to none is clipped to bytes. Indexed as the pictures of a training are; nothing is held out.
    holed: the left half of the picture is a hole."""

    gain: float = 0.7
    shift: float = 0.05
    std: float = 0.2
    scale: int = 1
    holed: bool = False

    def mean(self, y):
        """Of the pictures of conditions y (B,3,h,w) in model space: (B,3,H,W)."""
        return self.gain * Told(("upscale",) if self.scale > 1 else ("repair",), self.scale).enlarged(y) + self.shift

    @property
    def var(self):
        """Of a pixel, given its condition."""
        return self.std**2 + ROUNDING

    def condition(self, count, side, rng):
        """(count,3,h,w) of whole bytes, in model space."""
        side = side // self.scale
        return (127.5 + 25 * torch.randn(count, 3, side, side, generator=rng)).round().clamp(0, 255) / 127.5 - 1

    def drawn(self, count, side, seed=0):
        """A batch of pairs."""
        rng = torch.Generator().manual_seed(seed)
        y = self.condition(count, side, rng)
        mean = self.mean(y)
        x = mean + self.std * torch.randn(mean.shape, generator=rng)
        image, condition = ((127.5 * (part + 1)).round().clamp(0, 255).byte().permute(0, 2, 3, 1) for part in (x, y))
        hole = torch.zeros(count, side, side, dtype=torch.bool)
        hole[:, :, : side // 2] = self.holed
        return {"image": image, "condition": condition, "hole": hole}

    @functools.cache  # noqa: B019
    def bank(self, side, count=4096):
        """So many pairs, by which the others repeat."""
        return self.drawn(count, side)

    def __getitem__(self, index):
        number, side, *_ = index
        bank = self.bank(side)
        return {name: part[number % len(part)] for name, part in bank.items()} | {"item": number}

    def held_pairs(self, *_):
        return iter(())


class Exact(nn.Module):
    """The best of all networks for such pairs, at any noise level: E[x0|x], turned into what the task predicts.

    moments: what is seen (B,C,H,W) -> mean and variance of x0. It remembers the levels and what it saw."""

    def __init__(self, task, moments):
        super().__init__()
        self.task, self.moments, self.channels = task, moments, 3

    def forward(self, joined, t, return_dict=True):
        x, self.seen = joined.double().tensor_split([3], 1)
        self.level = self.back(t.double())
        a, s = self.level.alpha, self.level.sigma
        mean, var = self.moments(self.seen)
        x0 = mean + a * var / (a**2 * var + s**2) * (x - a * mean)
        eps = s / (a**2 * var + s**2) * (x - a * mean)
        p, q = coefficients(self.task.predicts, self.level)
        return (p * x0 + q * eps,)

    def back(self, t):
        """The level that the network is told the time of: by the table, or because the time is sqrt(alpha-bar)."""
        scale = self.task.told.noise_level
        if scale:
            alpha = (t / scale).reshape(-1, 1, 1, 1)
        else:
            table = getattr(self.task.schedule, "table", self.task.schedule)
            alpha = torch.from_numpy(table.abar).sqrt()[t.long()].reshape(-1, 1, 1, 1)
        return Level(t, alpha, (1 - alpha**2).clamp(min=0).sqrt())


def spread(predicts, level, var):
    """Standard deviation of p x0 + q z, given x = alpha x0 + sigma z, where x0 has the variance `var`.

    Given x, z = (x - alpha x0) / sigma, and x0 has the variance var sigma^2 / (alpha^2 var + sigma^2)."""
    p, q = coefficients(predicts, level)
    return abs(p * level.sigma - q * level.alpha) * (var / (level.alpha**2 * var + level.sigma**2)) ** 0.5


def config(network=None, crop=8, scale=1, condition=None, kinds=None, data=None, output="runs", seed=0, **keys):
    """A configuration of a few CPU seconds; keys: of [train], [schedule] and [sampling]."""
    plan = {"steps": 400, "batch": 32, "precision": "no", "warmup": 20, "lr": 5e-3, "ema": 0.98, "channels_last": False}
    plan |= {"save_every": 0, "sample_every": 0, "log_every": 1}
    sections = {name: keys.pop(name) for name in ("schedule", "sampling") if name in keys}
    kinds = [Degradation(kind) for kind in kinds or (["upscale"] if scale > 1 else ["deblur"])]
    return ConditionalConfig(
        ConditionalData([PairedSource("nowhere")], crop=crop, **data or {}),
        ConditionalTrain(**plan | keys),
        condition=Condition(scale, degradations=kinds, **condition or {}),
        network=network or {"kind": "unet", "channels": [16], "layers": 1, "time_channels": 32},
        validate=ConditionalValidate(every=0),
        output=str(output),
        seed=seed,
        **sections,
    )


def task_of(settings, pairs):
    return ConditionalTask(settings, pairs)
