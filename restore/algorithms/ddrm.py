"""DDRM: denoising diffusion restoration models (Kawar et al. 2022, NeurIPS)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from restore.errors import InputError
from restore.levels import Level
from restore.operators import Linear, decomposed, inverse
from restore.prior import Denoise
from restore.steps import Rng, State, gaussian


@torch.no_grad()
def ddrm(
    denoise: Denoise,
    op: Linear,
    y: Tensor,
    noise_std: float,
    levels: list[Level],
    *,
    eta: float = 0.85,
    eta_b: float = 1.0,
    start: Tensor | None = None,
    as_released: bool = False,
    x: Tensor | None = None,
    rng: Rng = None,
) -> Iterator[State]:
    """DDRM, eqs. 4-8: a chain in the spectral basis of A, where each coefficient meets its measurement when it should.

    y: the measurement A(x0) + noise_std * n, in model space. start: a first guess (B,C,H,W) for the coefficients that
    are noisier than levels[0] (CCDF). x: (B,C,H,W) the state at levels[0], in place of eq. 7.
    as_released: follow the authors' code where it leaves the paper: x_T is divided by sigma_T, and a noise-free
    measurement is not imposed at the last step. levels must fall. With noise_std 0 and eta_b 1 the answer satisfies
    A(x) = y. With noise, a level whose ratio is noise_std lets the network see the measurement as it is; without one
    the last prediction is made from the nearest noisier level, and much of a small noise's advantage is lost.
    Raises InputError for levels that rise, eta or eta_b outside [0, 1], a negative noise_std, or an operator without
    singular values.
    """
    if any(then.ratio >= now.ratio for now, then in pairwise(levels)):
        raise InputError("DDRM's levels must fall: it has no time travel")
    if not 0 <= eta <= 1 or not 0 <= eta_b <= 1:
        raise InputError(f"eta is {eta:g} and eta_b {eta_b:g}: both lie in [0, 1]")
    if not 0 <= noise_std < math.inf:
        raise InputError(f"noise_std is {noise_std:g}: give a standard deviation of at least 0")
    op = decomposed(op, "DDRM")
    s = op.s
    y_bar = inverse(s) * op.ut(y)  # Sigma^+ U^T y
    spread = torch.where(s > 0, noise_std * inverse(s), math.inf)  # sigma_y / s_i: the noise of y_bar

    def combine(mean: Tensor, std: Tensor) -> Tensor:
        return mean + std * gaussian(mean, rng)

    first = levels[0]
    if x is None:
        seen = (s > 0) & (spread <= first.ratio)
        mean = torch.where(seen, y_bar, torch.zeros_like(y_bar) if start is None else op.vt(start))
        var = torch.where(seen, first.sigma**2 - (first.alpha * spread) ** 2, first.sigma**2)
        z = combine(first.alpha * mean, var.clamp(min=0).sqrt())  # eq. 7
        x = op.v(z) * (1 / first.sigma if as_released else 1)
    for now, then in pairwise(levels):
        pred = denoise(x, now)
        x0, eps, r_next = op.vt(pred.x0), op.vt(pred.eps), then.ratio
        drift, fresh = math.sqrt(1 - eta**2), eta * r_next
        # eq. 8, by coefficient: not measured; its measurement noisier than the chain; its measurement cleaner
        unmeasured = x0 + drift * r_next * eps
        noisier = x0 + drift * r_next * inverse(spread) * (y_bar - x0)
        cleaner = (1 - eta_b) * x0 + eta_b * y_bar
        clean = spread < r_next if as_released else spread <= r_next
        mean = torch.where(clean, cleaner, torch.where(s > 0, noisier, unmeasured))
        var = torch.where(clean, r_next**2 - (eta_b * spread) ** 2, fresh**2)
        z = combine(mean, var.clamp(min=0).sqrt()) if r_next else mean
        x = then.alpha * op.v(z)
        yield State(x, pred.x0, then)
