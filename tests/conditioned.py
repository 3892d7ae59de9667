"""Conditional priors in closed form: each pixel of the answer is Gaussian, given that pixel of what is seen."""

import torch
from torch import nn

from restore.conditional import Condition, ConditionalPrior
from restore.continuous import Continuous
from restore.levels import linear

GAIN, SHIFT, STD = 0.7, 0.1, 0.2  # x0 ~ N(GAIN * seen + SHIFT, STD^2)


class Exact(nn.Module):
    """eps of that Gaussian, from (B,3+C,H,W) and the step, or sqrt(alpha-bar) * scale; without a picture, of 0."""

    def __init__(self, table, scale=0.0, residual=False):
        super().__init__()
        self.table, self.scale, self.residual, self.asked = table, scale, residual, []

    def forward(self, joined, t):
        self.asked.append(joined)
        x, seen = joined[:, :3], joined[:, 3:6]
        level = self.table.at(t) if not self.scale else None
        alpha = (t / self.scale).reshape(-1, 1, 1, 1) if self.scale else level.alpha
        sigma = (1 - alpha**2).sqrt()
        mean = torch.full_like(x, SHIFT) if self.residual else GAIN * seen + SHIFT
        return sigma * (x - alpha * mean) / (alpha**2 * STD**2 + sigma**2)


def exact(noise_level=0.0, name="exact", clip=False, **keys):
    """A ConditionalPrior of it; keys: of its Condition."""
    keys = {"tasks": ("upscale",), "scale": 4} | keys
    table = linear(1000)
    net = Exact(table, noise_level, bool(keys.get("residual")))
    schedule = Continuous(table, noise_level) if noise_level else table
    told = Condition(**keys, noise_level=noise_level)
    return ConditionalPrior(net, told, schedule=schedule, multiple=keys["scale"], clip=clip, name=name)
