"""DDIB: dual diffusion implicit bridges, image-to-image translation by two ODEs (Su et al. 2023, ICLR)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from restore.errors import InputError
from restore.levels import Level
from restore.prior import Denoise
from restore.steps import Move, State, heun, sample


@torch.no_grad()
def ddib(
    source: Denoise,
    target: Denoise,
    x: Tensor,
    up: list[Level],
    down: list[Level],
    *,
    step: Move = heun,
) -> Iterator[State]:
    """DDIB, algorithm 1: the probability-flow ODE up to noise with one prior, and down again with another.

    x: (B,C,H,W) at up[0], in model space; a clean image is taken for one at a low level (the released code starts at
    the table's first time). up rises; the latent that it ends in is taken to stand at down[0], and is rescaled where
    that is the same ratio on another schedule. step: `heun`, or `once(ddim)` as in the paper. No noise is drawn. The
    round trip returns x where `down` ends at up[0], up to the solver's error. Raises InputError for levels that do not
    rise, or fall."""
    rises = all(a.ratio < b.ratio for a, b in pairwise(up))
    falls = all(a.ratio > b.ratio for a, b in pairwise(down))
    if min(len(up), len(down)) < 2 or not rises or not falls:
        raise InputError("DDIB goes up and then down: give at least two rising levels, and two falling ones")
    for state in sample(source, x, up, move=step):
        yield state
    top, first = up[-1], down[0]
    scale = first.alpha / top.alpha if top.alpha and math.isclose(top.ratio, first.ratio, rel_tol=1e-6) else 1.0
    yield from sample(target, scale * state.x, down, move=step)
