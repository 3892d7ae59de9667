"""What a user asks for: a picture in, the restored picture out, with defaults that were measured."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restore import images
from restore.algorithms import ddrm, dpir, repaint
from restore.errors import InputError
from restore.jobs import Info, Job, Report, Result, tile_sizes
from restore.levels import Level, between, calls, travel
from restore.load import load_prior
from restore.mask import composite, opaque_where, read_mask
from restore.operators import Mask
from restore.picture import Picture
from restore.prior import Denoise, Prior
from restore.regions import boxes, hole_radius, pad, rough_fill
from restore.steps import State


@dataclass(frozen=True)
class Preset:
    """What a method of a task does where the user says nothing; measured by `benchmarks/inpaint.py`."""

    steps: int
    reach: float  # noise-to-signal ratio to start from, by pixel of a hole's half-width
    eta: float = 0.0
    jump: int = 1
    resamplings: int = 1


INPAINT_METHODS = {
    "dpir": Preset(steps=20, reach=0.1),
    "ddrm": Preset(steps=20, reach=0.2, eta=1.0),
    "repaint": Preset(steps=12, reach=0.2, eta=1.0, resamplings=4),
}
MARGIN = 48  # pixels of surroundings that a hole is seen with
MIN_RATIO, MAX_RATIO = 0.02, 80.0  # where a chain ends before CLEAN, and begins at most


@dataclass(frozen=True, kw_only=True)
class Inpaint:
    """The options of `inpaint`; making one refuses, with InputError, what does not go together."""

    method: str | None = None
    steps: int | None = None
    strength: float | None = None
    eta: float | None = None
    jump: int | None = None
    resamplings: int | None = None
    noise_std: float = 0.0
    feather: int = 0
    seed: int = 0
    samples: int = 1
    tile: int | str | None = "auto"

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in INPAINT_METHODS:
            raise InputError(f"unknown method {self.method!r}: choose one of {', '.join(INPAINT_METHODS)}")
        least = {"steps": 1, "jump": 1, "resamplings": 1, "samples": 1, "feather": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is None and name in ("steps", "jump", "resamplings"):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value < 2**63:
                raise InputError(f"{name} is {value!r}: give a whole number of at least {low}")
        if not 0 <= self.noise_std < 1:
            shown = f"noise of {self.noise_std:g} (sigma {255 * self.noise_std:g})"
            raise InputError(f"{shown}: give at least 0, and less than 1 (255)")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise InputError(f"strength is {self.strength:g}: give a share of the noise schedule in (0, 1]")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise InputError(f"eta is {self.eta:g}: give a number from 0 (no fresh noise) to 1 (all of it)")
        self._check_method()
        tile_sizes(self.tile)

    def _check_method(self) -> None:
        method, travels = self.chosen, self.jump is not None or self.resamplings is not None
        if method != "repaint" and travels:
            raise InputError(f"jump and resamplings belong to repaint, not to {method}")
        if travels and self._walks > 1 and self._jump >= self.count:
            shown = f"a jump of {self._jump} levels does not fit into {self.count} steps"
            raise InputError(f"{shown}: take more steps or a shorter jump")
        if method == "repaint" and self.noise_std:
            raise InputError("repaint takes the known pixels as exact: leave their noise out, or choose dpir or ddrm")
        if method == "dpir" and (self.eta is not None or self.samples > 1):
            raise InputError(
                "dpir draws no noise and has one answer: leave eta and samples out, or choose ddrm or repaint"
            )

    @property
    def chosen(self) -> str:
        """The method: DPIR for the one most plausible answer, DDRM where several different ones are wanted."""
        return self.method or ("dpir" if self.samples == 1 else "ddrm")

    @property
    def preset(self) -> Preset:
        return INPAINT_METHODS[self.chosen]

    @property
    def count(self) -> int:
        """Noise levels to walk."""
        return int(self.steps or self.preset.steps)

    @property
    def _jump(self) -> int:
        return self.jump or self.preset.jump

    @property
    def _walks(self) -> int:
        return self.resamplings or self.preset.resamplings

    def levels(self, prior: Prior, radius: float) -> list[Level]:
        """The walk for a hole of this half-width (pixels): wide holes start noisier."""
        top = self.preset.reach * max(radius, 3.0)
        if self.strength is not None:
            top = prior.schedule.top(self.strength).ratio
        high = min(top, MAX_RATIO)
        levels = between(prior.schedule, self.count, high, min(MIN_RATIO, high))
        fits = self._jump < self.count  # a preset's travel in too short a chain was asked for by nobody
        return travel(levels, self._jump, self._walks if fits else 1)

    def chain(
        self, denoise: Denoise, x: Tensor, known: Tensor, levels: list[Level], guess: Tensor, std: float, rng: Any
    ) -> Iterator[State]:
        """The method at work on x (B,C,H,W) in model space; known broadcasts to it, 1 = known; std in model units."""
        start = None if self.strength == 1 else guess
        eta = self.preset.eta if self.eta is None else self.eta
        if self.chosen == "repaint":
            return repaint(denoise, x, known, levels, eta=eta, start=start, rng=rng)
        op = Mask(known)
        if self.chosen == "dpir":
            return dpir(denoise, op, op.A(x), std, levels, start=start)
        return ddrm(denoise, op, op.A(x), std, levels, eta=eta, start=start, rng=rng)

    def run(self, picture: Picture, mask: Any, prior: Prior, progress: Report | None = None) -> Result:
        """`inpaint` on a Picture, with how it was done; the answers are of the kind that the Picture was read from."""
        holes = read_mask(mask, picture)  # (1 or B,1,H,W)
        info = Info(self.chosen, prior.name, self.count, int(self.seed), int(self.samples))
        job = Job(prior, info, self.tile, progress)
        if not holes.any():
            copies = [images.like(picture, picture.rgb) for _ in range(self.samples)]
            return job.done(copies, "the mask is empty: the picture is given back as it was")
        _check_prior(prior)
        regions = boxes(holes, MARGIN, prior.size or 0)
        walks = [self.levels(prior, hole_radius(box.cut(holes))) for box in regions]
        guesses = [rough_fill(box.cut(picture.rgb), box.cut(holes)) for box in regions]
        job.total = int(self.samples) * sum(calls(levels) for levels in walks)
        finished = opaque_where(picture, holes) if mask is None else picture
        std, answers = prior.codec.std(self.noise_std), []
        for k in range(self.samples):
            rng = torch.Generator().manual_seed(int(self.seed) + k)
            rgb = picture.rgb.clone()
            for box, levels, rough in zip(regions, walks, guesses, strict=True):
                x, guess = (_model_space(prior, part) for part in (box.cut(picture.rgb), rough))
                known = 1 - pad(box.cut(holes), prior.multiple).to(x)
                given = (x, known, levels, guess, std, rng)
                found = job.drain(lambda denoise, given=given: self.chain(denoise, *given), max(x.shape[-2:]), rng)
                part = box.cut(rgb)
                found = prior.codec.decode(found).clamp(0, 1)[..., : part.shape[-2], : part.shape[-1]]
                part.copy_(composite(part, found, box.cut(holes), self.feather))
            answers.append(images.like(finished, rgb))
        return job.done(answers)


def _check_prior(prior: Prior) -> None:
    if prior.channels != 3:
        raise InputError(f"the prior {prior.name!r} works on {prior.channels} channels, and pictures have 3")
    if prior.labels is not None and "class_labels" not in prior.given:
        raise InputError(f"the prior {prior.name!r} has classes: choose one, as in load_prior(...).labelled(0)")


def _model_space(prior: Prior, image: Tensor) -> Tensor:
    """(B,3,h,w) in [0, 1] -> padded, encoded, on the prior's device."""
    return prior.codec.encode(pad(image, prior.multiple).to(prior.device))


def inpaint(
    image: Any,
    mask: Any = None,
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Repaint the white part of `mask` in `image`; every other pixel stays bit-identical.

    image: a path (a PIL image comes back), bytes of a file, PIL image, numpy array, tensor (B,3,H,W) in [0, 1], or a
    `restore.images.Picture`; the answer is of the same kind and size. mask: any of these, or None for the image's own
    transparency. With samples > 1 a list comes back, made with seed, seed + 1, ...

    prior: name, folder or Prior; device and dtype are for one that is not a Prior yet. progress: called with a
    `restore.jobs.Progress` after each network call.

    method: "dpir", "ddrm" or "repaint"; by default dpir, which draws no noise and has one answer whatever the seed, and
    ddrm for several samples. steps: noise levels. strength: the share of the noise schedule in (0, 1] to start from; 1
    ignores the rough fill that a chain begins with otherwise; by default wider holes start noisier. eta: the fresh
    noise of ddrm and repaint, in [0, 1]. jump, resamplings: time travel of repaint. noise_std: of the known pixels, on
    the [0, 1] scale, for dpir and ddrm. feather: pixels to fade over, inwards. tile: "auto", None or pixels.

    Raises InputError for what does not fit, PriorError where there is no such prior, DivergedError on NaN and
    OutOfMemory. Sources: `restore.algorithms.dpir`, `.ddrm`, `.repaint`.
    """
    request = Inpaint(**options)
    picture = images.read(image)
    holes = read_mask(mask, picture)  # what does not fit is said before a prior is loaded
    source = load_prior(prior, device=device, dtype=dtype)
    found = request.run(picture, None if mask is None else holes, source, progress).images
    return found if request.samples > 1 else found[0]


def _with_options(function: Any, options: type) -> None:
    """Show the fields of an options class in a function's signature, for help() and completion."""
    own = inspect.signature(function)
    named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = own.replace(parameters=[*named, *inspect.signature(options).parameters.values()])


_with_options(inpaint, Inpaint)
