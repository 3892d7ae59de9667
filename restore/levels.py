"""Noise levels and the schedules that list them, noisy to clean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from restore.errors import InputError


class Level(NamedTuple):
    """One noise level: x = alpha * x0 + sigma * z with z ~ N(0, I)."""

    t: float  # the time that the network is told
    alpha: float  # floats while sampling, (B,1,1,1) tensors while training
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise-to-signal ratio sigma / alpha: the sigma of a variance-exploding process."""
        return self.sigma / self.alpha if self.alpha else math.inf


CLEAN = Level(0.0, 1.0, 0.0)


class Schedule(Protocol):
    """Where a prior can stand between noise and image, and the order in which a sampler visits it."""

    def at(self, t: float | Tensor) -> Level:
        """The level at time `t`; a (B,) tensor gives (B,1,1,1) alpha and sigma."""

    def at_ratio(self, ratio: float) -> Level:
        """The level whose sigma/alpha is `ratio`, at the (fractional) time that the network was trained on."""

    def top(self, start: float | None = None) -> Level:
        """The noisiest level of the share `start` in (0, 1] of the time axis."""

    def levels(self, steps: int | str, start: float | None = None, spacing: str | None = None) -> list[Level]:
        """`steps` levels, noisy to clean, then CLEAN; `start` in (0, 1] is the share of the time axis to begin at."""


def _column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def _check(steps: int, start: float | None) -> float:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise InputError(f"steps is {steps!r}: give a whole number of at least 1")
    start = 1.0 if start is None else float(start)
    if not 0 < start <= 1:
        raise InputError(f"start is {start:g}: give a share of the schedule in (0, 1]")
    return start


SPACINGS = ("leading", "trailing", "linspace", "quadratic")


@dataclass(frozen=True, eq=False)
class Table(Schedule):
    """A variance-preserving table: alpha^2 = abar[t], sigma^2 = 1 - abar[t], t = 0 ... T-1 (Ho et al. 2020)."""

    abar: np.ndarray  # (T,) float64, falling
    spacing: str = "leading"
    offset: int = 0  # added to every time of the leading spacing (Stable Diffusion uses 1)
    _angle: np.ndarray = field(init=False, repr=False, compare=False)  # atan(sigma/alpha), (T,)

    def __post_init__(self) -> None:
        abar = np.asarray(self.abar, dtype=np.float64)
        if abar.ndim != 1 or not len(abar) or not ((abar >= 0) & (abar <= 1)).all() or (np.diff(abar) > 0).any():
            raise InputError("a noise table needs alpha-bar values in [0, 1] that never rise")
        if self.spacing not in SPACINGS:
            raise InputError(f"unknown spacing {self.spacing!r}: choose one of {', '.join(SPACINGS)}")
        object.__setattr__(self, "abar", abar)
        object.__setattr__(self, "_angle", np.arctan2(np.sqrt(1 - abar), np.sqrt(abar)))

    def __len__(self) -> int:
        return len(self.abar)

    def at(self, t: float | Tensor) -> Level:
        if isinstance(t, Tensor):
            angle = np.interp(t.detach().double().cpu().numpy(), np.arange(len(self)), self._angle)
            angle = _column(torch.as_tensor(angle))
            return Level(t, angle.cos().to(t.device, torch.float32), angle.sin().to(t.device, torch.float32))
        if not 0 <= t <= len(self) - 1:
            raise InputError(f"time {t:g} lies outside the table, 0 to {len(self) - 1}")
        if float(t).is_integer():
            return Level(float(t), math.sqrt(self.abar[int(t)]), math.sqrt(1 - self.abar[int(t)]))
        angle = np.interp(t, np.arange(len(self)), self._angle)
        return Level(float(t), math.cos(angle), math.sin(angle))

    def at_ratio(self, ratio: float) -> Level:
        angle = math.atan(ratio)
        t = np.interp(angle, self._angle, np.arange(len(self)))
        return Level(float(t), 1 / math.hypot(1, ratio), math.sin(angle))

    def top(self, start: float | None = None) -> Level:
        return self.at(max(1, round(_check(1, start) * len(self))) - 1)

    def times(self, steps: int | str, start: float | None = None, spacing: str | None = None) -> list[int]:
        """The visited times, falling; `steps` may be a section string of guided-diffusion (`ddim25`, `10,10,5`)."""
        if isinstance(steps, str):
            if start is not None or spacing is not None:
                raise InputError(f"the section string {steps!r} fixes all times: leave start and spacing out")
            return sections(len(self), steps)[::-1]
        start = _check(steps, start)
        total = max(1, round(start * len(self)))
        if steps > total:
            raise InputError(f"{steps} steps asked of {total} noise levels: take at most {total}")
        spacing = spacing or self.spacing
        if spacing == "leading":  # DDIM and DDRM: the last time is never visited
            times = np.arange(steps) * (total // steps) + min(self.offset, total - 1 - (steps - 1) * (total // steps))
        elif spacing == "trailing":  # Lin et al. 2024, table 2
            times = np.round(np.arange(total, 0, -total / steps))[:steps][::-1] - 1
        elif spacing == "linspace":
            times = np.linspace(0, total - 1, steps).round() if steps > 1 else np.array([total - 1])
        elif spacing == "quadratic":  # Song et al. 2021, appendix D.2; times that it repeats move up to the next free
            times, order = np.floor(np.linspace(0, math.sqrt(total * 0.8), steps) ** 2), np.arange(steps)
            times = np.maximum.accumulate(times - order) + order
        else:
            raise InputError(f"unknown spacing {spacing!r}: choose one of {', '.join(SPACINGS)}")
        return [int(t) for t in times[::-1]]

    def levels(self, steps: int | str, start: float | None = None, spacing: str | None = None) -> list[Level]:
        return [self.at(t) for t in self.times(steps, start, spacing)] + [CLEAN]


def sections(total: int, text: str) -> list[int]:
    """Times by section counts, rising (guided-diffusion's `space_timesteps`): `ddimN` strides, `a,b,c` counts."""
    if text.startswith("ddim"):
        wanted = text.removeprefix("ddim")
        for stride in range(1, total):
            if wanted.isdecimal() and len(range(0, total, stride)) == int(wanted):
                return list(range(0, total, stride))
        raise InputError(f"no whole stride gives {wanted or 'zero'} steps of {total}")
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"cannot read {text!r} as steps: give a number, ddimN or counts such as 10,10,5") from None
    size, extra = divmod(total, len(counts))
    times: list[int] = []
    begin = 0
    for i, count in enumerate(counts):
        length = size + (i < extra)
        if not 1 <= count <= length:
            raise InputError(f"section {i + 1} of {text!r} has {length} times: give a count from 1 to {length}")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        times += [begin + round(k * stride) for k in range(count)]
        begin += length
    return times


def from_betas(betas: Iterable[float], **options: Any) -> Table:
    """A table from its betas (Ho et al. 2020, eq. 4)."""
    return Table(np.cumprod(1 - np.asarray(list(betas), dtype=np.float64)), **options)


def linear(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, **options: Any) -> Table:
    """Betas rise linearly (Ho et al. 2020, section 4)."""
    return from_betas(np.linspace(beta_start, beta_end, T), **options)


def scaled_linear(T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, **options: Any) -> Table:
    """The square roots of beta rise linearly (Rombach et al. 2022, the Stable Diffusion table)."""
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, T) ** 2, **options)


def cosine(T: int = 1000, s: float = 0.008, max_beta: float = 0.999, **options: Any) -> Table:
    """abar = cos^2((t/T + s)/(1 + s) pi/2) with betas capped (Nichol and Dhariwal 2021, eq. 17)."""
    f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - f[1:] / f[:-1], max_beta), **options)


def sigmoid(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, **options: Any) -> Table:
    """Betas follow a sigmoid over [-6, 6] (GeoDiff; the `sigmoid` of diffusers and DDIM)."""
    return from_betas(beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, T))), **options)


@dataclass(frozen=True)
class Karras(Schedule):
    """Variance exploding: alpha = 1, sigma spaced by sigma^(1/rho) (Karras et al. 2022, eq. 5); t is sigma itself."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max or self.rho <= 0:
            raise InputError("a Karras schedule needs 0 < sigma_min < sigma_max and rho > 0")

    def at(self, t: float | Tensor) -> Level:
        return Level(t, torch.ones_like(_column(t)), _column(t)) if isinstance(t, Tensor) else Level(float(t), 1.0, t)

    def at_ratio(self, ratio: float) -> Level:
        return self.at(ratio)

    def top(self, start: float | None = None) -> Level:
        return self.levels(1, start)[0]

    def levels(self, steps: int | str, start: float | None = None, spacing: str | None = None) -> list[Level]:
        start = _check(steps, start)
        if spacing is not None:
            raise InputError("a Karras schedule has one spacing, set by rho: leave spacing out")
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return [self.at(float(s)) for s in np.linspace(low + start * (high - low), low, steps) ** self.rho] + [CLEAN]


@dataclass(frozen=True)
class Flow(Schedule):
    """Rectified flow: x = (1-s) x0 + s z, s in [0,1] (Liu et al. 2023); the network is told s * scale.

    `shift` bends the visited s towards noise (Esser et al. 2024, eq. 23). Before it, s falls in equal steps from 1 to 0
    (Flux; diffusers given `sigmas=linspace(1, 1/steps, steps)`). diffusers' own default ends at 1/1000 instead, and so
    spends its last call where next to no noise is left."""

    scale: float = 1000.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not self.shift > 0 or not self.scale > 0:
            raise InputError("a flow schedule needs shift > 0 and scale > 0")

    def at(self, t: float | Tensor) -> Level:
        if isinstance(t, Tensor):
            return Level(t, 1 - _column(t) / self.scale, _column(t) / self.scale)
        return Level(float(t), 1 - t / self.scale, t / self.scale)

    def at_ratio(self, ratio: float) -> Level:
        s = 1.0 if math.isinf(ratio) else ratio / (1 + ratio)
        return Level(s * self.scale, 1 - s, s)

    def top(self, start: float | None = None) -> Level:
        return self.levels(1, start)[0]

    def levels(self, steps: int | str, start: float | None = None, spacing: str | None = None) -> list[Level]:
        start = _check(steps, start)
        if spacing is not None:
            raise InputError("a flow schedule has one spacing, set by shift: leave spacing out")
        s = np.linspace(start, 0, steps + 1)[:-1]
        s = self.shift * s / (1 + (self.shift - 1) * s)
        return [Level(float(v) * self.scale, 1 - float(v), float(v)) for v in s] + [CLEAN]


def from_config(config: dict[str, Any]) -> Schedule:
    """The schedule of a diffusers scheduler config: any variance-preserving table, EDM or flow matching.

    The table itself is taken from diffusers. InputError for schedulers that have none (Karras-VE, SDE-VP ...)."""
    import diffusers

    name = config.get("_class_name", "DDPMScheduler")
    if name.startswith("EDM"):
        return Karras(config.get("sigma_min", 0.002), config.get("sigma_max", 80.0), config.get("rho", 7.0))
    if name.startswith("FlowMatch"):
        if config.get("use_dynamic_shifting"):
            raise InputError(f"{name} with use_dynamic_shifting: pass schedule=Flow(shift=...) for your image size")
        return Flow(config.get("num_train_timesteps", 1000), config.get("shift", 1.0))
    kind = getattr(diffusers, name, None)
    scheduler = kind.from_config(config) if hasattr(kind, "from_config") else None
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(f"the scheduler {name} has no table of alphas: pass schedule= yourself")
    abar = scheduler.alphas_cumprod.double().clamp(0, 1).numpy()
    spacing, offset = (scheduler.config.get(name) for name in ("timestep_spacing", "steps_offset"))
    return Table(abar, spacing=spacing if spacing in SPACINGS else "leading", offset=offset or 0)


def between(schedule: Schedule, steps: int, high: float, low: float = 0.01, rho: float = 7.0) -> list[Level]:
    """`steps` levels of any schedule, ratios falling from `high` to `low` as in Karras et al. 2022, eq. 5; then CLEAN.

    The levels lie between a table's times where they must, at the fractional time that has that ratio. An infinite
    `high`, where a schedule begins without any signal, stands for 157, where the linear table begins."""
    _check(steps, None)
    high = 157.0 if math.isinf(high) else high
    if not 0 < low <= high:
        raise InputError(f"ratios from {high:g} to {low:g}: they are positive and fall")
    ramp = np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho
    return [schedule.at_ratio(float(ratio)) for ratio in ramp] + [CLEAN]


def travel(
    levels: list[Level], jump: int = 10, resamplings: int = 10, *, repeats: int = 1, below: int | None = None
) -> list[Level]:
    """Insert RePaint's time travel (Lugmayr et al. 2022, algorithm 1 and the released `get_schedule_jump`).

    Every `jump` levels the chain goes `jump` levels back up, until each stretch was walked `resamplings` times.
    `repeats` walks each single step that often; `below` travels only at times under that index. The paper: 250
    levels, jump 10, 10 resamplings, which is 4570 moves, 2410 of them network calls.
    """
    if min(jump, resamplings, repeats) < 1:
        raise InputError("jump, resamplings and repeats of a time travel are whole numbers of at least 1")
    count = len(levels) - 1  # without CLEAN; index t stands for levels[count - 1 - t]
    if resamplings > 1 and jump >= count:
        raise InputError(f"a jump of {jump} levels does not fit a chain of {count}: take a shorter jump or more steps")
    below = count if below is None else below
    left = dict.fromkeys(range(0, count - jump, jump), resamplings - 1)
    t, path = count, []
    while t >= 1:
        t -= 1
        path.append(t)
        if t + 1 < count - 1 and t <= below:
            path += [t + 1, t] * (repeats - 1)
        if left.get(t, 0) > 0 and t <= below - jump:
            left[t] -= 1
            path += range(t + 1, t + jump + 1)
            t += jump
    return [levels[count - 1 - t] for t in [*path, -1]]


def calls(levels: list[Level]) -> int:
    """How many moves of a trajectory go towards the image: its network calls, for one call a step."""
    return sum(then.ratio < now.ratio for now, then in pairwise(levels))
