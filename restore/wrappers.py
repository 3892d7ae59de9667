"""Denoise -> Denoise: change what the network says, and every algorithm follows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from restore.errors import InputError
from restore.levels import Level
from restore.prior import Denoise, Pred, clipped

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


def _spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Spans of `size` that cover `length` with at least `overlap` in common, evenly placed on multiples of 8."""
    room, stride = max(length - size, 0), (size - overlap) // 8 * 8
    count = -(-room // stride)
    starts = [0, *(min(-(-i * room // (8 * count)) * 8, room) for i in range(1, count + 1))]
    return [(a, min(a + size, length)) for a in starts]


def _ramp(length: int, overlap: int, first: bool, last: bool, like: Tensor) -> Tensor:
    """Weights of one tile along one side: 1 inside, falling to the edge over the overlap, except at the border."""
    ramp = torch.ones(length, dtype=like.dtype, device=like.device)
    rise = (torch.arange(overlap, dtype=like.dtype, device=like.device) + 0.5) / overlap
    if not first:
        ramp[:overlap] = rise
    if not last:
        ramp[-overlap:] = torch.minimum(ramp[-overlap:], rise.flip(0))
    return ramp


def tiles(denoise: Denoise, size: int, overlap: int = 64) -> Denoise:
    """Ask for tiles of `size` pixels, one after the other, and blend what overlaps: memory stays that of one tile.

    size, overlap: model pixels, size > 2 * overlap (InputError otherwise); size is rounded down to a multiple of 8."""
    size = size // 8 * 8
    if size < 16 or size <= 2 * overlap or overlap < 1:
        raise InputError(
            f"tiles of {size} with an overlap of {overlap} do not work: take a size from 16, over twice the overlap"
        )

    def windows(height: int, width: int, like: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        for top, bottom in _spans(height, size, overlap):
            column = _ramp(bottom - top, overlap, top == 0, bottom == height, like) if height > size else None
            for left, right in _spans(width, size, overlap):
                row = _ramp(right - left, overlap, left == 0, right == width, like) if width > size else None
                weight = torch.ones(bottom - top, right - left, dtype=like.dtype, device=like.device)
                weight = weight if column is None else weight * column[:, None]
                weight = weight if row is None else weight * row[None, :]
                yield slice(top, bottom), slice(left, right), weight

    def tiled(x: Tensor, level: Level) -> Pred:
        height, width = x.shape[-2:]
        if max(height, width) <= size:
            return denoise(x, level)
        sums, total = None, torch.zeros(height, width, dtype=x.dtype, device=x.device)
        for rows, columns, weight in windows(height, width, x):
            parts = denoise(x[..., rows, columns].contiguous(), level)
            if sums is None:
                sums = [None if part is None else torch.zeros_like(x) for part in parts]
            for acc, part in zip(sums, parts, strict=True):
                if part is not None:
                    acc[..., rows, columns] += weight * part
            total[rows, columns] += weight
        return Pred(*[None if acc is None else acc / total for acc in sums])

    return tiled
