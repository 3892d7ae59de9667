"""Moves between two noise levels, and the loop that strings them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from restore.errors import DivergedError, InputError
from restore.levels import Level
from restore.prior import Denoise, Pred

Rng = torch.Generator | None


class State(NamedTuple):
    """What every algorithm yields after each step, in model space."""

    x: Tensor  # (B,C,H,W) the chain's state, at `level`
    x0: Tensor  # (B,C,H,W) the newest estimate of the clean image: what a preview shows
    level: Level


def gaussian(like: Tensor, rng: Rng = None) -> Tensor:
    """Standard normal noise of the shape of `like`: the only place where noise is drawn.

    Drawn on the generator's own device, so that a CPU generator gives the same picture on every machine."""
    device = like.device if rng is None else rng.device
    return torch.randn(like.shape, generator=rng, device=device, dtype=like.dtype).to(like.device)


def noised(x0: Tensor, level: Level, rng: Rng = None) -> Tensor:
    """Forward noising q(x_t | x_0): Ho et al. 2020, eq. 4."""
    return level.alpha * x0 + level.sigma * gaussian(x0, rng) if level.sigma else level.alpha * x0


def begin(like: Tensor, level: Level, start: Tensor | None = None, rng: Rng = None) -> Tensor:
    """Where a chain begins: noise (B,C,H,W) at `level`, or a first guess noised to it (CCDF: Chung et al. 2022)."""
    return level.sigma * gaussian(like, rng) if start is None else noised(start, level, rng)


def renoise(x: Tensor, now: Level, then: Level, rng: Rng = None) -> Tensor:
    """From `now` up to the noisier `then`, q(x_t | x_s): Lugmayr et al. 2022, algorithm 1, line 10."""
    scale = then.alpha / now.alpha
    return scale * x + math.sqrt(max(then.sigma**2 - (scale * now.sigma) ** 2, 0.0)) * gaussian(x, rng)


# --- variances of p(x_s | x_t), as functions (now, then, pred) -> variance ---


def _between(now: Level, then: Level) -> float:
    """sigma^2_{t|s}: beta_t of the (re-spaced) chain."""
    return max(now.sigma**2 - (now.alpha / then.alpha * then.sigma) ** 2, 0.0)


def small(now: Level, then: Level, pred: Pred | None = None) -> float:
    """The posterior variance beta~_t: Ho et al. 2020, eq. 7."""
    return _between(now, then) * (then.sigma / now.sigma) ** 2


def large(now: Level, then: Level, pred: Pred | None = None) -> float:
    """The forward variance beta_t: Ho et al. 2020, section 3.2."""
    return _between(now, then)


def learned(now: Level, then: Level, pred: Pred) -> Tensor:
    """exp(f log beta_t + (1-f) log beta~_t), f = (frac+1)/2: Nichol and Dhariwal 2021, eq. 15. (B,C,H,W)

    Into CLEAN, where beta~ is 0, it is beta_t; the released code takes the next step's beta~, which is close to it."""
    if pred.frac is None:
        raise InputError("the network has no learned variance: use the variance `small` or `large`")
    high = math.log(large(now, then))
    low = math.log(small(now, then)) if then.sigma else high
    return torch.exp(low + (pred.frac + 1) / 2 * (high - low))


Variance = Callable[[Level, Level, Pred], float | Tensor]

# --- steps: (x, pred, now, then) -> x at `then` ---


def ddim(x: Tensor, pred: Pred, now: Level, then: Level, *, eta: float = 0.0, rng: Rng = None) -> Tensor:
    """Song et al. 2021, eq. 12: eta 0 is the probability-flow ODE by Euler, eta 1 is DDPM with its small variance."""
    if not 0 <= eta <= 1:
        raise InputError(f"eta is {eta:g}: give a share of DDPM's noise in [0, 1]")
    var = eta**2 * small(now, then) if eta else 0.0
    mean = then.alpha * pred.x0 + math.sqrt(max(then.sigma**2 - var, 0.0)) * pred.eps
    return mean + math.sqrt(var) * gaussian(x, rng) if var > 0 else mean


def posterior_mean(x: Tensor, pred: Pred, now: Level, then: Level) -> Tensor:
    """Mean of q(x_s | x_t, x_0): Ho et al. 2020, eq. 7."""
    keep = now.alpha / then.alpha * (then.sigma / now.sigma) ** 2
    return keep * x + then.alpha * _between(now, then) / now.sigma**2 * pred.x0


def ancestral(
    x: Tensor,
    pred: Pred,
    now: Level,
    then: Level,
    *,
    variance: Variance = small,
    shift: Callable[[Tensor, Level], Tensor] | None = None,
    rng: Rng = None,
) -> Tensor:
    """One step of DDPM: Ho et al. 2020, algorithm 2, with any of the three variances.

    shift: a gradient (x, level) -> (B,C,H,W) that moves the mean by variance * gradient, the classifier guidance of
    Dhariwal and Nichol 2021, algorithm 1. The step to CLEAN takes the mean, without noise."""
    mean = posterior_mean(x, pred, now, then)
    if not then.sigma and shift is None:
        return mean
    var = variance(now, then, pred)
    if shift is not None:
        mean = mean + var * shift(x, now)
    return mean + var**0.5 * gaussian(x, rng) if then.sigma else mean


def heun(denoise: Denoise, x: Tensor, now: Level, then: Level) -> tuple[Tensor, Pred]:
    """One step of Heun's method on d(x/alpha) = eps d(sigma/alpha): Karras et al. 2022, algorithm 1.

    Two network calls; one (Euler) into CLEAN and out of alpha = 0. Goes up as well as down."""
    pred = denoise(x, now)
    if not (then.sigma and then.alpha and now.alpha):
        return then.alpha * pred.x0 + then.sigma * pred.eps, pred
    euler = then.alpha / now.alpha * x + then.alpha * (then.ratio - now.ratio) * pred.eps
    ahead = denoise(euler, then)
    slope = (pred.eps + ahead.eps) / 2
    return then.alpha / now.alpha * x + then.alpha * (then.ratio - now.ratio) * slope, ahead


Move = Callable[[Denoise, Tensor, Level, Level], tuple[Tensor, Pred]]


def multistep() -> Move:
    """DPM-Solver++(2M): Lu et al. 2022, algorithm 2. One network call a step, of second order; Euler's into CLEAN.

    It remembers its last step: take a new one for each chain. Levels go down, and none has alpha = 0."""
    before: list[tuple[Tensor, Level]] = []

    def move(denoise: Denoise, x: Tensor, now: Level, then: Level) -> tuple[Tensor, Pred]:
        pred, x0 = denoise(x, now), None
        if not then.sigma:
            return then.alpha * pred.x0, pred
        h = math.log(now.ratio / then.ratio)  # a step of log(alpha / sigma)
        if before:
            older, level = before.pop()
            share = h / math.log(level.ratio / now.ratio) / 2
            x0 = (1 + share) * pred.x0 - share * older
        before.append((pred.x0, now))
        x0 = pred.x0 if x0 is None else x0
        return then.sigma / now.sigma * x - then.alpha * math.expm1(-h) * x0, pred

    return move


def once(step: Callable[..., Tensor], **options: object) -> Move:
    """A step that needs one prediction, as a move that asks for it: `sample(..., move=once(ddim, eta=1, rng=rng))`."""

    def move(denoise: Denoise, x: Tensor, now: Level, then: Level) -> tuple[Tensor, Pred]:
        pred = denoise(x, now)
        return step(x, pred, now, then, **options), pred

    return move


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, levels: list[Level], *, move: Move = heun) -> Iterator[State]:
    """Walk `levels` from x (B,C,H,W), which stands at levels[0]."""
    for now, then in pairwise(levels):
        x, pred = move(denoise, x, now, then)
        yield State(x, pred.x0, then)


def checked(states: Iterable[State]) -> Iterator[State]:
    """Pass the states on; stop with DivergedError, naming the step, when one is not finite."""
    for i, state in enumerate(states, 1):
        if not torch.isfinite(state.x).all():
            raise DivergedError(
                f"step {i}, at noise level t={state.level.t:g}: the network gave NaN or infinity; "
                "try --dtype float32, and check the prior's files"
            )
        yield state


def last(states: Iterable[State]) -> Tensor:
    """Drain an algorithm and return its final x (B,C,H,W); DivergedError, naming the step, on NaN."""
    x = None
    for state in checked(states):
        x = state.x
    if x is None:
        raise InputError("the algorithm took no step: it needs at least two levels")
    return x
