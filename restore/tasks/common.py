"""What every task shares: its options and their checks, and the way from a picture to model space and back."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from restore.classifier import Classifier
from restore.errors import InputError
from restore.jobs import Info, Job, Report, Result, tile_sizes
from restore.levels import Level, between
from restore.prior import Prior
from restore.regions import pad
from restore.tasks.conditions import Guide, conditioned

QUALITIES = {"draft": 0.5, "normal": 1.0, "best": 2.0}  # the steps of a method, by those of its preset
MIN_RATIO, MAX_RATIO = 0.02, 80.0  # noise-to-signal ratios: where a chain ends before CLEAN, and begins at most


@dataclass(frozen=True)
class Preset:
    """What a method of a task does where the user says nothing; measured by the benchmarks."""

    steps: int
    reach: float = MAX_RATIO  # noise-to-signal ratio to start from; when inpainting, by pixel of a hole's half-width
    low: float = MIN_RATIO  # the last one before CLEAN
    eta: float | None = None  # None: the method draws no noise, and has one answer
    jump: int = 1
    resamplings: int = 1
    relaxation: float = 1.0  # of dpir, where the data are exact
    turning: bool = False  # each call sees the picture in another orientation


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a task; making one refuses, with InputError, what does not go together."""

    METHODS: ClassVar[dict[str, Preset]]
    SAMPLERS: ClassVar[dict[str, Preset]] = {}  # of a conditional prior, where the task takes one

    method: str | None = None
    quality: str | None = None
    steps: int | None = None
    eta: float | None = None
    label: str | int | None = None
    guidance: float | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    classifier: str | Path | Classifier | Guide | None = None
    classifier_scale: float | None = None
    seed: int = 0
    samples: int = 1
    tile: int | str | None = "auto"

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in {**self.METHODS, **self.SAMPLERS}:
            others = f"; of a conditional prior {', '.join(self.SAMPLERS)}" if self.SAMPLERS else ""
            raise InputError(f"unknown method {self.method!r}: choose one of {', '.join(self.METHODS)}{others}")
        if self.quality is not None and self.quality not in QUALITIES:
            raise InputError(f"unknown quality {self.quality!r}: choose one of {', '.join(QUALITIES)}")
        if self.quality is not None and self.steps is not None:
            raise InputError("quality and steps both say how many calls to make: leave one out")
        self._whole(steps=1, seed=0, samples=1)
        self._real("eta", self.eta, 0, 1, "a number from 0 (no fresh noise) to 1 (all of it)")
        self._real("guidance", self.guidance, 0, 1000, "a scale of at least 0; 1 is none")
        self._check_prompts()
        self._check_classifier()
        tile_sizes(self.tile)
        self._check_noise()

    def _whole(self, **least: int) -> None:
        """Refuse what is not a whole number of at least so much; a None by default is left to the preset."""
        for name, low in least.items():
            value = getattr(self, name)
            if value is None and getattr(type(self), name) is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value < 2**63:
                raise InputError(f"{name} is {value!r}: give a whole number of at least {low}")

    @staticmethod
    def _real(name: str, value: float | None, low: float, high: float, wanted: str) -> None:
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high):
            shown = f"{value:g}" if isinstance(value, Real) else repr(value)
            raise InputError(f"{name} is {shown}: give {wanted}")

    def _check_prompts(self) -> None:
        for name in ("prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str | None):
                raise InputError(f"{name} is {getattr(self, name)!r}: give a text")
        if self.prompt is not None and self.label is not None:
            raise InputError("a label is for priors of classes, and a prompt for those that read text: give one")
        if self.negative_prompt is not None and self.prompt is None:
            raise InputError("negative_prompt says what a prompt pulls away from: give a prompt too")
        if self.negative_prompt is not None and self.guidance == 1:
            raise InputError("negative_prompt works by guidance, and a guidance of 1 is none: leave one out")

    def _check_classifier(self) -> None:
        self._real(
            "classifier_scale", self.classifier_scale, 0, 1000, "a scale of at least 0; 1 is the classifier's own"
        )
        if self.classifier is None and self.classifier_scale is not None:
            raise InputError("classifier_scale is for a classifier: give one")
        if self.classifier is not None and self.label is None:
            raise InputError("a classifier pulls towards a label: give one")
        if self.classifier is not None and not isinstance(self.classifier, Guide):
            object.__setattr__(self, "classifier", Guide(self.classifier))

    def _check_noise(self) -> None:
        if self.preset.eta is None and (self.eta is not None or self.samples > 1):
            others = " or ".join(name for name, preset in self.METHODS.items() if preset.eta is not None)
            choose = f", or choose {others}" if others else ""
            raise InputError(f"{self.chosen} draws no noise and has one answer: leave eta and samples out{choose}")

    @property
    def chosen(self) -> str:
        """The method: the first of METHODS; where several answers are wanted, the first that has several."""
        several = (name for name, preset in self.METHODS.items() if preset.eta is not None)
        first = next(iter(self.METHODS))
        return self.method or (first if self.samples == 1 else next(several, first))

    @property
    def preset(self) -> Preset:
        return {**self.SAMPLERS, **self.METHODS}[self.chosen]

    @property
    def count(self) -> int:
        """Noise levels to walk."""
        return int(self.steps or math.ceil(self.preset.steps * QUALITIES[self.quality or "normal"]))

    @property
    def noise_share(self) -> float:
        """eta: the fresh noise of the chain."""
        return (self.preset.eta or 0.0) if self.eta is None else float(self.eta)

    def start(self, prior: Prior, progress: Report | None) -> Job:
        """The request at work: the prior, conditioned and guided as asked, checked and counted."""
        if self.chosen not in self.METHODS:
            choose = " or ".join(self.METHODS)
            raise InputError(f"{self.chosen} is for conditional priors, and {prior.name!r} is none: choose {choose}")
        if self.guidance is not None and self.label is None and self.prompt is None:
            raise InputError("guidance pulls towards a label: give one, or a prompt")
        check_prior(prior)
        guide = None if self.classifier is None else self.classifier.beside(prior)
        scale = 1.0 if self.classifier_scale is None else float(self.classifier_scale)
        texts = {"prompt": self.prompt, "negative_prompt": self.negative_prompt}
        denoise, cost = conditioned(prior, self.label, self.guidance, guide, scale, **texts)
        info = Info(self.chosen, prior.name, self.count, int(self.seed), int(self.samples))
        info.classifier = guide and guide.name
        return Job(prior, info, self.tile, progress, denoise, cost, prior.orientations if self.preset.turning else 1)

    def rngs(self) -> Iterator[torch.Generator]:
        """One generator for each answer: seed, seed + 1, ..."""
        for k in range(self.samples):
            yield torch.Generator().manual_seed(int(self.seed) + k)


@dataclass(frozen=True, kw_only=True)
class Restoring(Options):
    """The options of what undoes damage; making one refuses, with InputError, what does not go together."""

    strength: float | None = None
    noise_std: float | None = None
    consistent: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise_std)
        if self.strength is not None:
            check_share("strength", self.strength)


def check_prior(prior: Prior) -> None:
    """Refuse a conditional prior, and one that works on other channels than its codec makes of a picture."""
    if prior.condition is not None:
        doing = " and ".join(prior.condition.tasks)
        raise InputError(f"the prior {prior.name!r} is conditional: it was trained to {doing}, and does nothing else")
    if prior.channels != prior.codec.channels:
        made = "its latents" if prior.latent else "pictures"
        shown = f"works on {prior.channels} channels, and {made} have {prior.codec.channels}"
        raise InputError(f"the prior {prior.name!r} {shown}")


def check_pixels(prior: Prior, what: str) -> None:
    """Refuse a latent prior for `what` measures pixels, with what works instead."""
    if prior.latent:
        reason = f"{what} measures pixels, and {prior.name!r} sees the latents of an autoencoder, no linear map of them"
        raise InputError(f"{reason}: take a prior of pixels, such as photo, or inpaint by repaint, edit or refine")


def check_share(name: str, value: float, *, zero: bool = False) -> None:
    """Refuse what is no share of the noise schedule, in (0, 1], or with `zero` in [0, 1]."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1 or (value == 0 and not zero):
        shown = f"{value:g}" if number else repr(value)
        raise InputError(f"{name} is {shown}: give a share of the noise schedule in {'[' if zero else '('}0, 1]")


def check_noise(noise_std: float | None) -> None:
    """Refuse what is no standard deviation on the [0, 1] scale."""
    if noise_std is not None and (isinstance(noise_std, bool) or not isinstance(noise_std, Real)):
        raise InputError(f"noise_std is {noise_std!r}: give a standard deviation on the [0, 1] scale")
    if noise_std is not None and not 0 <= noise_std < 1:
        shown = f"noise of {noise_std:g} (sigma {255 * noise_std:g})"
        raise InputError(f"{shown}: give at least 0, and less than 1 (255)")


def walk(prior: Prior, steps: int, high: float, low: float = MIN_RATIO) -> list[Level]:
    """`steps` levels from the ratio `high` to `low`, then CLEAN; one, where `high` is not above `low`.

    None is noisier than MAX_RATIO, or than what the network was trained on."""
    high = min(high, MAX_RATIO, top_ratio(prior, 1.0))
    return between(prior.schedule, steps if high > low else 1, high, min(low, high))


def top_ratio(prior: Prior, strength: float) -> float:
    """The noise-to-signal ratio at the share `strength` of the noise schedule."""
    ratio = prior.schedule.top(strength).ratio
    return MAX_RATIO if math.isinf(ratio) else ratio


def model_space(prior: Prior, image: Tensor) -> Tensor:
    """(B,3,h,w) in [0, 1] -> padded to what the network takes, encoded, on the prior's device.

    Here, in `cells` and in `image_space` pixels of the picture become model pixels, and nowhere else in the tasks."""
    return prior.codec.encode(pad(image, prior.picture_multiple, least=prior.least).to(prior.device))


def cells(prior: Prior, mask: Tensor) -> Tensor:
    """A mask (B,1,h,w) of 0 and 1, padded, in model pixels, on the prior's device: 1 where any pixel of a cell is 1."""
    return max_pool2d(pad(mask, prior.picture_multiple, least=prior.least), prior.codec.factor).to(prior.device)


def image_space(prior: Prior, x: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `model_space` for a picture of `size`, clamped: (B,3,h,w) in [0, 1]."""
    return prior.codec.decode(x).clamp(0, 1)[..., : size[0], : size[1]]


def one_or_all(request: Options, result: Result) -> Any:
    """The answer of a task function: a list where several were asked for."""
    return result.images if request.samples > 1 else result.images[0]


def with_options(options: type) -> Any:
    """Show the fields of an options class in a function's signature, for help() and completion."""

    def shown(function: Any) -> Any:
        own = inspect.signature(function).parameters
        named = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        more = [p for p in inspect.signature(options).parameters.values() if p.name not in own]
        function.__signature__ = inspect.signature(function).replace(parameters=[*named, *more])
        return function

    return shown
