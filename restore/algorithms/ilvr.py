"""ILVR: iterative latent variable refinement, sampling with the low frequencies of a reference (Choi et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from restore.errors import InputError
from restore.levels import Level
from restore.prior import Denoise
from restore.regions import mirrored
from restore.steps import Rng, State, Variance, ancestral, begin, ddim, learned, noised

LowPass = Callable[[Tensor], Tensor]


def low_pass(factor: int) -> LowPass:
    """phi_N of section 3.2: bicubic down by `factor`, antialiased, and up again; (B,C,H,W) -> (B,C,H,W), any size.

    Beyond its border the picture is mirrored, as in the released code. Nearly, and not quite, a projection. Raises
    InputError for a factor that is no whole number of at least 1."""
    if isinstance(factor, bool) or not isinstance(factor, Real) or not float(factor).is_integer() or factor < 1:
        raise InputError(f"a low-pass factor of {factor}: give a whole number of at least 1")
    factor = int(factor)

    def phi(x: Tensor) -> Tensor:
        if factor == 1:
            return x
        (height, width), reach = x.shape[-2:], 2 * factor  # the cubic reaches two samples of the small picture
        wide = mirrored(x, reach, reach + -width % factor, reach, reach + -height % factor)
        small = interpolate(wide, scale_factor=1 / factor, mode="bicubic", antialias=True)[..., 2:-2, 2:-2]
        large = interpolate(mirrored(small, 3, 3, 3, 3), scale_factor=factor, mode="bicubic", antialias=True)
        return large[..., 3 * factor :, 3 * factor :][..., :height, :width]

    return phi


@torch.no_grad()
def ilvr(
    denoise: Denoise,
    reference: Tensor,
    low_pass: LowPass,
    levels: list[Level],
    *,
    stop: float = 0.0,
    eta: float = 1.0,
    start: Tensor | None = None,
    rng: Rng = None,
) -> Iterator[State]:
    """ILVR, algorithm 1: after each step the low frequencies are those of the reference, noised to the same level.

    reference: (B,C,H,W) in model space. low_pass: a linear filter of images, such as `low_pass(N)`. stop: the
    noise-to-signal ratio below which the chain runs free (the paper's range of conditioning steps); 0 conditions every
    step, the last too. eta: 1 is the paper's DDPM. start: a first guess, noised to levels[0] (CCDF)."""
    x = begin(reference, levels[0], start, rng)
    for now, then in pairwise(levels):
        pred = denoise(x, now)
        x = ddim(x, pred, now, then, eta=eta, rng=rng)
        if then.ratio >= stop:
            x = x + low_pass(noised(reference, then, rng) - x)
        yield State(x, pred.x0, then)


@torch.no_grad()
def ilvr_as_released(
    denoise: Denoise,
    reference: Tensor,
    low_pass: LowPass,
    levels: list[Level],
    *,
    stop: float = 0.0,
    variance: Variance = learned,
    x: Tensor | None = None,
    rng: Rng = None,
) -> Iterator[State]:
    """ILVR as its released code runs it: the reference carries the noise of the level that the step left, not reached.

    Steps are conditioned while the ratio they reach is above `stop`, so never the last. The network must have a learned
    variance unless another is named. x: (B,C,H,W) the state at levels[0]; none draws noise."""
    x = begin(reference, levels[0], None, rng) if x is None else x
    for now, then in pairwise(levels):
        pred = denoise(x, now)
        x = ancestral(x, pred, now, then, variance=variance, rng=rng)
        if then.ratio > stop:
            x = x + low_pass(noised(reference, now, rng)) - low_pass(x)
        yield State(x, pred.x0, then)
