"""Plain sampling: pictures from noise, of a class if the prior has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from restore import images
from restore.conditional import ConditionalPrior
from restore.errors import InputError
from restore.files import MAX_PIXELS
from restore.jobs import Job, Report, Result
from restore.load import load_prior
from restore.picture import Picture
from restore.prior import Prior
from restore.steps import Rng, begin, ddim, heun, once, sample
from restore.tasks.common import MAX_RATIO, Options, Preset, image_space, one_or_all, walk, with_options
from restore.tasks.conditional import Sampling, Stages
from restore.tasks.upscaling import enlarged


def read_size(text: str | None) -> int | tuple[int, int] | None:
    """`256`, or `WIDTHxHEIGHT` as (height, width). Raises InputError for anything else."""
    if text is None:
        return None
    sides = [int(part) for part in text.lower().split("x") if part.isdecimal()]
    if len(sides) != text.lower().count("x") + 1 or len(sides) > 2:
        raise InputError(f"cannot read the size {text!r}: give a side in pixels, or WIDTHxHEIGHT")
    return sides[0] if len(sides) == 1 else (sides[1], sides[0])


@dataclass(frozen=True, kw_only=True)
class Generate(Options):
    """The options of `generate`; making one refuses, with InputError, what does not go together."""

    METHODS: ClassVar = {
        "heun": Preset(steps=25, eta=0.0),
        "ddim": Preset(steps=50, eta=0.0),
        "ddpm": Preset(steps=250, eta=1.0),
    }

    size: int | tuple[int, int] | None = None
    then: Any = ()
    augment: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = self.size if isinstance(self.size, tuple | list) else (self.size, self.size)
        whole = all(isinstance(side, Integral) and not isinstance(side, bool) and side >= 8 for side in sides)
        if self.size is not None and (len(sides) != 2 or not whole):
            raise InputError(f"size is {self.size!r}: give one side, or (height, width), of at least 8 pixels")
        if self.size is not None and math.prod(sides) > MAX_PIXELS:
            raise InputError(f"size is {self.size!r}: give at most {MAX_PIXELS // 10**6} million pixels")
        if self.eta is not None and self.chosen == "heun":
            raise InputError("heun solves the ODE, without fresh noise: leave eta out, or choose ddim or ddpm")
        self._real("augment", self.augment, 0, 1, "a standard deviation on the [0, 1] scale")
        if not isinstance(self.then, Stages):
            object.__setattr__(self, "then", Stages(self.then))
        if self.augment is not None and not self.then:
            raise InputError("augment is noise in what the further stages of a cascade see: give them, with then")

    def run(self, prior: Prior, progress: Report | None = None) -> Result:
        """`generate` with how it was done."""
        job = self.start(prior, progress)
        stages = self.then.beside(prior)
        size = self.size or prior.picture_size or 256
        size = (size, size) if isinstance(size, Integral) else tuple(size)
        blank = Picture.of(torch.zeros(1, 3, *size), "the sample", kind="pil")
        levels = walk(prior, self.count, MAX_RATIO)
        shape = [-(-max(side, prior.least) // prior.picture_multiple) * prior.multiple for side in size]
        like = torch.zeros(1, prior.channels, *shape, device=prior.device)
        job.expect(levels)
        if self.chosen == "heun":  # two calls a step, but for the last
            job.total = 2 * job.total - job.cost * self.samples
        cascade = Cascade(stages, self, job) if stages else None
        answers = []
        for rng in self.rngs():
            x = begin(like, levels[0], rng=rng)
            move = heun if self.chosen == "heun" else once(ddim, eta=self.noise_share, rng=rng)
            found = job.drain(lambda denoise, x=x, move=move: sample(denoise, x, levels, move=move), max(shape), rng)
            found = image_space(prior, found, size)
            answers.append(images.like(blank, cascade(found, rng) if cascade else found))
        return job.done(answers)


class Cascade:
    """The further stages of a cascade, as one function of what its base gives (Ho et al. 2022, algorithm 1)."""

    def __init__(self, stages: list[ConditionalPrior], request: Generate, job: Job) -> None:
        self.stages, self.augment, self.below = stages, request.augment, job
        self.sampling = Sampling(quality=request.quality, tile=request.tile, samples=request.samples)
        self.job = self.sampling.start(stages[0], job.report, stages[1:])
        self.job.info = job.info
        self.job.total = job.total = job.total + self.job.total

    def __call__(self, found: Tensor, rng: Rng) -> Tensor:
        return enlarged(self.sampling, self.job, self.stages, found, rng, self.augment)


@with_options(Generate)
def generate(
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Sample pictures from a prior: PIL images, a list where `samples` is more than 1, made with seed, seed + 1, ...

    size: one side or (height, width), by default what the prior was trained on, else 256. label or prompt, guidance: a
    class or a text, and the scale of classifier-free guidance to it, where 1 is none. method: "heun" (Karras et al.
    2022), "ddim" or "ddpm" (eta 1); steps: noise levels; eta: fresh noise in [0, 1] of ddim and ddpm. then: conditional
    priors that enlarge what the one before gives (a cascade); augment: noise added to what they see, where they were
    trained on it, on the [0, 1] scale. The other arguments, a classifier among them, and what is raised: as
    `restore.inpaint`."""
    request = Generate(**options)
    return one_or_all(request, request.run(load_prior(prior, device=device, dtype=dtype), progress))
