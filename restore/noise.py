"""How noisy a picture is, from the picture alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SIDE = 16  # of a block, in samples of the detail band
QUIET = 0.1  # the quantile of the blocks that is taken for noise alone


def estimate_noise(rgb: Tensor) -> float:
    """The standard deviation of white noise in rgb (B,C,H,W) in [0, 1]; its quiet parts tell, for texture adds to it.

    The diagonal detail band of a Haar transform (Donoho and Johnstone 1994) by blocks of 32 pixels: the quantile 0.1 of
    their standard deviations, made free of bias. Blocks that clip at black or white are left out where there are
    others. A picture narrower than a block is one block, with all its channels."""
    height, width = (side // 2 * 2 for side in rgb.shape[-2:])
    if not height or not width:
        return 0.0
    cells = rgb[..., :height, :width].unfold(-2, 2, 2).unfold(-2, 2, 2)  # (B,C,H/2,W/2,2,2)
    band = (cells[..., 0, 0] - cells[..., 0, 1] - cells[..., 1, 0] + cells[..., 1, 1]) / 2
    clips = ((cells <= 0) | (cells >= 1)).float().mean((-2, -1))

    def blocks(x: Tensor) -> Tensor:  # (blocks, samples)
        if min(x.shape[-2:]) < SIDE:
            return x.reshape(1, -1)
        return x.unfold(-2, SIDE, SIDE).unfold(-2, SIDE, SIDE).reshape(-1, SIDE * SIDE)

    energy, clipped = blocks(band).square(), blocks(clips).mean(1) > 0.02
    spread = (energy[~clipped] if not clipped.all() else energy).mean(1).sqrt()
    bias = 1 - 1.2816 / math.sqrt(2 * energy.shape[1]) if len(spread) > 1 else 1.0  # the quantile 0.1 of a chi
    return float(torch.quantile(spread, QUIET)) / bias


def unclip(mean: Tensor, noise_std: float, low: bool = True, high: bool = True) -> Tensor:
    """The values x in [0, 1] behind the means of x + noise that was clipped to [0, 1] (Foi 2009, sect. 3 and 4).

    A noisy picture of 8 bits is never below black nor above white, so its local mean is too bright in the shadows and
    too dark in the highlights, by up to 0.4 noise_std. mean: what a denoiser of it found, any shape. low, high: whether
    black and white clipped."""
    x = torch.linspace(0, 1, 1025, dtype=torch.float64)
    normal = torch.distributions.Normal(x, noise_std)
    clipped = x.clone()
    bell = noise_std**2 * torch.stack([normal.log_prob(torch.tensor(edge).double()).exp() for edge in (0, 1)])
    under, over = normal.cdf(torch.tensor(0.0).double()), 1 - normal.cdf(torch.tensor(1.0).double())
    if low:
        clipped += bell[0] - x * under  # E max(x + n, 0) - x
    if high:
        clipped += (1 - x) * over - bell[1]
    found = np.interp(mean.double().cpu().numpy(), clipped.numpy(), x.numpy())
    return torch.from_numpy(found).to(mean)


def shared_noise(y: Tensor) -> float:
    """sqrt(3) where the three channels of y (B,3,H,W) agree, else 1: how much more noise gray is than it seems.

    The same noise in three channels is one draw along (1,1,1), where independent ones would be a third as strong."""
    return math.sqrt(3) if y.shape[1] == 3 and bool((y == y[:, :1]).all()) else 1.0
