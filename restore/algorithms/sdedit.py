"""SDEdit: edit a picture by noising it part of the way and denoising it again (Meng et al. 2022, ICLR)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from restore.errors import InputError
from restore.levels import Level
from restore.prior import Denoise
from restore.steps import Rng, State, ddim, gaussian, noised


@torch.no_grad()
def sdedit(
    denoise: Denoise,
    guide: Tensor,
    levels: list[Level],
    *,
    mask: Tensor | None = None,
    eta: float = 1.0,
    repeats: int = 1,
    as_released: bool = False,
    rng: Rng = None,
) -> Iterator[State]:
    """SDEdit, algorithm 1, and with a mask algorithm 3 of its appendix; levels[0] is the strength t0.

    guide: (B,C,H,W) in model space, the picture or a sketch on it. mask: broadcasts to it, 1 = keep: the answer equals
    the guide there. eta: 1 is the paper's SDE, 0 the ODE. repeats: K, each from the answer of the one before.
    as_released: the authors' code, where the kept region is set to the level that the step left, with one noise for all
    steps, so that noise remains in it. levels of CLEAN alone are strength 0, and give the guide back.
    Raises InputError for repeats below 1, and for no levels at all."""
    if repeats < 1:
        raise InputError(f"repeats is {repeats}: give at least 1")
    if not levels:
        raise InputError("SDEdit needs at least one level: CLEAN alone is strength 0")
    if len(levels) == 1:
        yield State(noised(guide, levels[0], rng), guide, levels[0])
    for _ in range(repeats):
        z = gaussian(guide, rng)
        x = levels[0].alpha * guide + levels[0].sigma * z
        for now, then in pairwise(levels):
            pred = denoise(x, now)
            x = ddim(x, pred, now, then, eta=eta, rng=rng)
            x0 = pred.x0
            if mask is not None:
                kept = now.alpha * guide + now.sigma * z if as_released else noised(guide, then, rng)
                x, x0 = torch.where(mask > 0, kept, x), torch.where(mask > 0, guide, x0)
            yield State(x, x0, then)
        guide = x if mask is None else torch.where(mask > 0, guide, x)
