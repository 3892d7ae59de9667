"""DPIR: plug-and-play restoration with a denoiser for a prior (Zhang et al. 2021, TPAMI)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from restore.levels import Level
from restore.operators import Linear
from restore.prior import Denoise
from restore.steps import State


@torch.no_grad()
def dpir(
    denoise: Denoise,
    op: Linear,
    y: Tensor,
    noise_std: float,
    levels: list[Level],
    *,
    start: Tensor | None = None,
    weight: float = 0.23,
    relaxation: float = 1.0,
) -> Iterator[State]:
    """Half-quadratic splitting, algorithm 1: denoise at a falling level, then pull towards the measurement; no noise.

    y: the measurement A(x0) + noise_std * n, in model space. start: a first guess (B,C,H,W); none takes A^+ y. weight:
    the lambda of the prior term. relaxation: how far to go towards what the denoiser says, 1 in the paper; up to 2
    (over-relaxation: Eckstein and Bertsekas 1992) large holes close in fewer calls. The answer is one most plausible
    picture: smoother than a sample of DDRM or RePaint, and closer to the truth on average. With noise_std 0 it
    satisfies A(x) = y."""

    def data_step(z: Tensor, sigma: float) -> Tensor:
        """argmin |A x - y|^2 / noise_std^2 + weight / sigma^2 |x - z|^2: the data subproblem."""
        if noise_std and not sigma:
            return z
        return op.proximal(z, y, weight * (noise_std / sigma) ** 2 if noise_std else 0.0)

    x = data_step(op.pinv(y) if start is None else start, levels[0].ratio)
    for now, then in pairwise(levels):
        x0 = denoise(now.alpha * x, now).x0  # the prior subproblem: a Gaussian denoiser
        far = relaxation if then.ratio else 1.0  # the last word is the denoiser's
        x = data_step(torch.lerp(x, x0, far), then.ratio)
        yield State(x, x0, then)
