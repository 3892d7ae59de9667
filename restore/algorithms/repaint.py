"""RePaint: inpainting by denoising with time travel (Lugmayr et al. 2022, CVPR)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from restore.levels import Level
from restore.prior import Denoise
from restore.steps import Rng, State, Variance, ancestral, begin, ddim, learned, noised, renoise


@torch.no_grad()
def repaint(
    denoise: Denoise,
    known: Tensor,
    mask: Tensor,
    levels: list[Level],
    *,
    eta: float = 1.0,
    start: Tensor | None = None,
    rng: Rng = None,
) -> Iterator[State]:
    """RePaint, algorithm 1; the time travel is in `levels`, made by `restore.levels.travel`.

    known: (B,C,H,W) image in model space, its unknown pixels ignored. mask: broadcasts to it, 1 = known. eta: 1 is the
    paper's DDPM, 0 takes DDIM steps. start: a first guess (B,C,H,W), noised to levels[0] (CCDF: Chung et al. 2022);
    none starts from noise. The answer equals `known` exactly where mask is 1."""
    x = x0 = begin(known, levels[0], start, rng)
    for now, then in pairwise(levels):
        if then.ratio > now.ratio:
            x = renoise(x, now, then, rng)  # line 10
            yield State(x, x0, then)
            continue
        pred = denoise(x, now)
        x0 = torch.where(mask > 0, known, pred.x0)
        x = ddim(x, pred, now, then, eta=eta, rng=rng)  # lines 6-7: the unknown region
        x = torch.where(mask > 0, noised(known, then, rng), x)  # lines 4-5 and 8: the known region joins
        yield State(x, x0, then)


@torch.no_grad()
def repaint_as_released(
    denoise: Denoise,
    known: Tensor,
    mask: Tensor,
    levels: list[Level],
    *,
    variance: Variance = learned,
    x: Tensor | None = None,
    rng: Rng = None,
) -> Iterator[State]:
    """RePaint as its released code runs it: the known region joins the *input* of each step but the first.

    The output is never merged, so that known pixels of the answer are only near the given ones. The network must have
    a learned variance unless another is named. x: (B,C,H,W) the state at levels[0]; none draws noise."""
    mask = mask.to(known.dtype)
    x = x0 = begin(known, levels[0], None, rng) if x is None else x
    first = True
    for now, then in pairwise(levels):
        if then.ratio > now.ratio:
            x = renoise(x, now, then, rng)
            yield State(x, x0, then)
            continue
        if not first:
            x = mask * noised(known, now, rng) + (1 - mask) * x
        first = False
        pred = denoise(x, now)
        x, x0 = ancestral(x, pred, now, then, variance=variance, rng=rng), pred.x0
        yield State(x, x0, then)
