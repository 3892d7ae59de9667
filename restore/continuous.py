"""Continuous noise levels: the network is told sqrt(alpha-bar) itself, so it can be sampled on any schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from restore.levels import Level, Schedule, Table


@dataclass(frozen=True)
class Continuous(Schedule):
    """The levels of a table; t is `scale` * sqrt(alpha-bar) (WaveGrad: Chen et al. 2021; SR3, section 2.2)."""

    table: Table
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.table)

    def told(self, level: Level) -> Level:
        """The same level, as this network is told it."""
        return level._replace(t=self.scale * level.alpha)

    def drawn(self, u: Tensor) -> Level:
        """(B,) in [0, 1) -> levels for training: a step uniformly, then sqrt(alpha-bar) uniformly within the step."""
        roots = np.sqrt(np.concatenate([[1.0], self.table.abar]))  # (T+1,) falling
        place = u.detach().double().cpu().numpy() * len(self.table)
        alpha = torch.as_tensor(np.interp(place, np.arange(len(roots)), roots)).reshape(-1, 1, 1, 1)
        alpha, sigma = (part.to(u.device, torch.float32) for part in (alpha, (1 - alpha**2).clamp(min=0).sqrt()))
        return Level(self.scale * alpha.flatten(), alpha, sigma)

    def at(self, t: float | Tensor) -> Level:
        """The level at the told time."""
        alpha = t / self.scale
        if isinstance(t, Tensor):
            alpha = alpha.reshape(-1, 1, 1, 1)
            return Level(t, alpha, (1 - alpha**2).clamp(min=0).sqrt())
        return Level(float(t), float(alpha), max(0.0, 1 - alpha**2) ** 0.5)

    def at_ratio(self, ratio: float) -> Level:
        return self.told(self.table.at_ratio(ratio))

    def top(self, start: float | None = None) -> Level:
        return self.told(self.table.top(start))

    def levels(self, steps: int | str, start: float | None = None, spacing: str | None = None) -> list[Level]:
        *levels, clean = self.table.levels(steps, start, spacing)
        return [*map(self.told, levels), clean]
