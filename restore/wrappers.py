"""Denoise -> Denoise: change what the network says, and every algorithm follows."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from restore.errors import InputError
from restore.levels import Level
from restore.operators import Linear
from restore.prior import Denoise, Pred, clipped
from restore.tiling import blended

LogProb = Callable[[Tensor, Level], Tensor]


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clamp x0 to [low, high], with eps made to agree: the `clip_denoised` of guided-diffusion."""
    return lambda x, level: clipped(x, denoise(x, level), level, low, high)


def gradient(log_prob: LogProb) -> Callable[[Tensor, Level], Tensor]:
    """(x, level) -> the gradient of `log_prob` (B,) by x, (B,C,H,W)."""

    def grad(x: Tensor, level: Level) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(log_prob(x, level).sum(), x)[0]

    return grad


def classifier_guided(denoise: Denoise, log_prob: LogProb, scale: float = 1.0) -> Denoise:
    """eps - scale * sigma * grad log p(y | x_t): Dhariwal and Nichol 2021, algorithm 2.

    log_prob: (x (B,C,H,W), level) -> (B,), differentiable. The mean-shift form (algorithm 1) is
    `steps.ancestral(..., shift=...)` with `gradient(log_prob)`."""
    grad = gradient(log_prob)

    def guided(x: Tensor, level: Level) -> Pred:
        pred = denoise(x, level)
        if not level.alpha:  # pure noise says nothing of y
            return pred
        push = scale * grad(x, level)
        return pred._replace(x0=pred.x0 + level.sigma**2 / level.alpha * push, eps=pred.eps - level.sigma * push)

    return guided


def classifier_free(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """unconditional + scale * (conditional - unconditional): Ho and Salimans 2022, where scale 1 is no guidance."""

    def guided(x: Tensor, level: Level) -> Pred:
        yes, no = conditional(x, level), unconditional(x, level)
        return yes._replace(x0=torch.lerp(no.x0, yes.x0, scale), eps=torch.lerp(no.eps, yes.eps, scale))

    return guided


def consistent(denoise: Denoise, op: Linear, y: Tensor) -> Denoise:
    """x0 brought into agreement with y = A x: x0 + A^+ (y - A x0), and eps with it (DDNM: Wang et al. 2023, eq. 7).

    y: a measurement without noise, in model space. What the operator does not see stays as the network says it."""

    def projected(x: Tensor, level: Level) -> Pred:
        pred = denoise(x, level)
        x0 = pred.x0 + op.pinv(y - op.A(pred.x0))
        return pred._replace(x0=x0, eps=(x - level.alpha * x0) / level.sigma)

    return projected


def turned(x: Tensor, k: int, back: bool = False) -> Tensor:
    """The k-th of the eight orientations of x (B,C,H,W): mirrored where k is odd, then k // 2 quarter turns."""
    if back:
        x = torch.rot90(x, -(k // 2), (-2, -1))
        return x.flip(-1) if k % 2 else x
    return torch.rot90(x.flip(-1) if k % 2 else x, k // 2, (-2, -1))


def _oriented(denoise: Denoise, x: Tensor, level: Level, k: int) -> Pred:
    found = denoise(turned(x, k).contiguous(), level)
    return Pred(*(None if part is None else turned(part, k, back=True) for part in found))


def alternate(denoise: Denoise, count: int = 8) -> Denoise:
    """Another orientation at each call, of the first `count`: the periodical self-ensemble of DPIR (Zhang et al. 2021).

    It has a state: take a new one for each chain. count: 2 for priors of mirrored pictures, 8 if turned too."""
    calls = itertools.count()
    return lambda x, level: _oriented(denoise, x, level, next(calls) % count)


def ensemble(denoise: Denoise, count: int = 8) -> Denoise:
    """The mean over the first `count` orientations, at as many calls: the self-ensemble of EDSR (Lim et al. 2017)."""

    def mean(x: Tensor, level: Level) -> Pred:
        found = zip(*(_oriented(denoise, x, level, k) for k in range(count)), strict=True)
        return Pred(*(None if parts[0] is None else sum(parts) / count for parts in found))

    return mean


def tiles(denoise: Denoise, size: int, overlap: int = 64, grid: int = 8) -> Denoise:
    """Ask for tiles of `size` pixels, one after the other, and blend what overlaps: memory stays that of one tile.

    size, overlap: model pixels, size > 2 * overlap (InputError otherwise). grid: what the network wants sides divisible
    by; size is rounded down to a multiple of it, and tiles begin at multiples."""
    size = size // grid * grid
    if size < 2 * grid or size <= 2 * overlap or overlap < 1:
        raise InputError(
            f"tiles of {size} with an overlap of {overlap} do not work: take a size from {2 * grid}, over twice the "
            "overlap"
        )

    def tiled(x: Tensor, level: Level) -> Pred:
        if max(x.shape[-2:]) <= size:
            return denoise(x, level)
        return Pred(*blended(lambda tile: denoise(tile, level), x, size, overlap, grid=grid))

    return tiled
