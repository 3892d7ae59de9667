"""Enlarging: by an unconditional prior as an inverse problem, by a conditional one, or by a cascade of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import interpolate

from restore import images
from restore.conditional import ConditionalPrior, check_task
from restore.errors import InputError
from restore.jobs import Job, Report, Result
from restore.metadata import resized
from restore.operators import downscale
from restore.picture import Picture
from restore.prior import Prior
from restore.regions import pad
from restore.steps import Rng
from restore.tasks.common import Preset, with_options
from restore.tasks.conditional import Sampling, Shown, Stages
from restore.tasks.inverse import Inverse, Problem, restored


@dataclass(frozen=True, kw_only=True)
class Upscale(Inverse):
    """The options of `upscale`."""

    METHODS: ClassVar = {
        "dpir": Preset(steps=12, reach=0.4, relaxation=1.75, turning=True),
        "ddrm": Preset(steps=20, reach=0.4, eta=1.0),
    }
    TASK: ClassVar = "upscale"

    scale: int | None = None
    shrunk: str | None = None
    then: Any = ()
    augment: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.then, Stages):
            object.__setattr__(self, "then", Stages(self.then))
        whole, most = isinstance(self.scale, Integral) and not isinstance(self.scale, bool), 256 if self.then else 16
        if self.scale is not None and not (whole and 2 <= self.scale <= most):
            raise InputError(f"scale is {self.scale!r}: give a whole number from 2 to {most}")
        if self.shrunk not in ("bicubic", "average", None):
            raise InputError(f"shrunk is {self.shrunk!r}: choose bicubic or average")
        self._real("augment", self.augment, 0, 1, "a standard deviation on the [0, 1] scale")
        if self.augment and self.noise_std:
            raise InputError("augment adds noise to the picture, and noise_std says that it is there: leave one out")

    @property
    def factor(self) -> int:
        """Pixels of the answer for one of the picture, where no prior says it."""
        return self.scale or 4

    def problem(self, rgb: Tensor, multiple: int) -> Problem:
        height, width = rgb.shape[-2:]
        y = pad(rgb, multiple // math.gcd(multiple, self.factor))
        large = (self.factor * y.shape[-2], self.factor * y.shape[-1])
        guess = interpolate(y, large, mode="bicubic").clamp(0, 1)
        size = (self.factor * height, self.factor * width)
        return Problem(downscale(self.factor, large, method=self.shrunk or "bicubic"), y, guess, size)

    def finished(self, picture: Picture) -> Picture:
        height, width = (self.factor * side for side in picture.rgb.shape[-2:])
        return replace(picture, exif=picture.exif and resized(picture.exif, height, width))

    def shown(self, rgb: Tensor, prior: ConditionalPrior) -> tuple[Shown, tuple[int, int]]:
        op, y, _, size, _ = self.problem(rgb, prior.picture_multiple)
        return Shown(y, op, y), size

    def told(self, picture: Picture, prior: ConditionalPrior, progress: Report | None) -> Result:
        """By a conditional prior, or by a cascade of them: each stage enlarges the answer of the one before."""
        stages = [prior, *self.then.beside(prior)]
        for stage in stages:
            check_task(stage, self.TASK)
        scale = math.prod(stage.condition.scale for stage in stages)
        if self.scale not in (None, scale):
            names = " and ".join(repr(stage.name) for stage in stages)
            raise InputError(f"scale is {self.scale}, and {names} enlarge{'s' * (len(stages) == 1)} {scale} times")
        made = {stage.condition.shrunk for stage in stages}
        if self.shrunk is not None and made != {self.shrunk}:
            raise InputError(f"shrunk is {self.shrunk}, and {prior.name!r} was trained on {min(made)}: leave it out")
        sampling = Sampling.of(self)
        job = sampling.start(prior, progress, stages[1:])
        above, own = replace(sampling, noise_std=None), 0.0 if self.then else self.augment or 0.0
        finished, answers = replace(self, scale=scale).finished(picture), []
        for rng in self.rngs():
            first = enlarged(sampling, job, stages[:1], picture.rgb, rng, own)
            found = enlarged(above, job, stages[1:], first, rng, self.augment)
            answers.append(images.like(finished, found))
        return job.done(answers)


def enlarged(
    sampling: Sampling, job: Job, stages: Sequence[ConditionalPrior], rgb: Tensor, rng: Rng, augment: float | None
) -> Tensor:
    """rgb (B,3,h,w) in [0, 1] through the stages of a cascade (Ho et al. 2022, algorithm 1, without its base).

    augment: of the noise added to what each stage sees, on [0, 1]; by default a quarter of what it was trained on."""
    for stage in stages:
        most = stage.condition.augment / 2
        std = most / 4 if augment is None else augment
        shown, size = Upscale(scale=stage.condition.scale, shrunk=stage.condition.shrunk).shown(rgb, stage)
        sampling.check(shown, stage.name)
        rgb = sampling.drawn(job, stage, shown, rng, std)[..., : size[0], : size[1]]
    return rgb


@with_options(Upscale)
def upscale(
    image: Any,
    scale: int | None = None,
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Enlarge a picture `scale` times, a whole number from 2 to 16, by default 4, so that shrinking the answer gives it
    back. A conditional prior that was trained to upscale has a scale of its own.

    shrunk: how it was made smaller: "bicubic" (antialiased, as PIL and the literature do) or "average". noise_std: of
    the picture, on the [0, 1] scale; 0 by default. method: "dpir" (one answer, closest to the truth) or "ddrm" (a
    random one; the default for several samples). steps: noise levels. strength: the share of the noise schedule in
    (0, 1] to start from; below 1 the chain begins with a bicubic enlargement. eta: fresh noise of ddrm, in [0, 1].

    Of a conditional prior: method: "ddim", "ddpm", "heun" or "dpm++". guidance: away from what it says without the
    picture, where it was trained to do without. consistent: bring each estimate into agreement with the picture, as
    "dpir" and "ddrm" always do. then: further conditional priors, which enlarge the answer of the one before (a
    cascade); augment: noise added to what those see, or of no cascade to the picture, where they were trained on it, on
    the [0, 1] scale.

    The other arguments, the kinds that go in and come back, and what is raised: as `restore.inpaint`.
    Sources: `restore.algorithms.dpir`, `.ddrm`; `restore.conditional`."""
    return restored(Upscale(scale=scale, **options), image, prior, device, dtype, progress)
