"""The variational bound, the loss that trains a learned variance (Nichol and Dhariwal 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restore.levels import Table
from restore.prior import Pred

Cdf = Callable[[Tensor], Tensor]


def tanh_cdf(x: Tensor) -> Tensor:
    """The approximation of the standard normal distribution function that the released code uses (Page 1977)."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def variational_bound(
    table: Table, t: Tensor, x0: Tensor, x: Tensor, pred: Pred, *, cdf: Cdf = torch.special.ndtr
) -> Tensor:
    """L_{t-1} = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) and L_0 = -log p(x0 | x_1): eqs. 4-6. (B,) bits per dim.

    t: (B,) whole times of the table; x0, x: (B,C,H,W) clean on [-1, 1], and noisy. The variance is learned (eq. 15),
    with beta~_0, which is 0, replaced by beta~_1 as in the released code; cdf=tanh_cdf follows it in L_0 too. For the
    hybrid loss (eq. 16) detach pred's x0."""
    now, then = ((1 - table.abar[i], table.abar[i]) for i in (_index(t), (_index(t) - 1).clip(0)))
    first = (t == 0).reshape(-1, 1, 1, 1)
    sigma2, abar = (_column(v, t) for v in now)
    sigma2_then, abar_then = (torch.where(first, end, _column(v, t)) for v, end in zip(then, (0.0, 1.0), strict=True))
    beta = 1 - abar / abar_then
    small = beta * sigma2_then / sigma2  # beta~_t
    abar1 = table.abar[:2]
    floor = (1 - abar1[1] / abar1[0]) * (1 - abar1[0]) / (1 - abar1[1])
    log_small = torch.where(first, math.log(floor), small.clamp(min=1e-300).log())
    truth = _mean(x0, x, abar, abar_then, sigma2, sigma2_then, beta)
    mean = _mean(pred.x0, x, abar, abar_then, sigma2, sigma2_then, beta)
    fraction = (pred.frac.double() + 1) / 2
    log_var = fraction * beta.log() + (1 - fraction) * log_small
    kl = 0.5 * (log_var - log_small - 1 + torch.exp(log_small - log_var) + (truth - mean) ** 2 * torch.exp(-log_var))
    bound = torch.where(first, -_log_likelihood(x0.double(), mean, torch.exp(0.5 * log_var), cdf), kl)
    return (bound.mean((1, 2, 3)) / math.log(2)).to(x.dtype)


def _index(t: Tensor) -> np.ndarray:
    return t.detach().cpu().numpy().astype(int)


def _column(values: Any, t: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device=t.device).reshape(-1, 1, 1, 1)


def _mean(
    x0: Tensor, x: Tensor, abar: Tensor, abar_then: Tensor, sigma2: Tensor, sigma2_then: Tensor, beta: Tensor
) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x0): Ho et al. 2020, eq. 7."""
    keep = (abar / abar_then).sqrt() * sigma2_then / sigma2
    return keep * x.double() + abar_then.sqrt() * beta / sigma2 * x0.double()


def _log_likelihood(x0: Tensor, mean: Tensor, std: Tensor, cdf: Cdf) -> Tensor:
    """log of the Gaussian's mass in the bin of width 2/255 about x0; the outer bins reach to infinity (Ho et al. 2020,
    eq. 13)."""
    upper, lower = ((x0 - mean + side / 255) / std for side in (1, -1))
    high, low = cdf(upper), cdf(lower)
    mass = torch.where(x0 < -0.999, high, torch.where(x0 > 0.999, 1 - low, high - low))
    return mass.clamp(min=1e-12).log()
