"""Plain sampling: pictures from noise, of a class if the prior has them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import torch

from restore import images
from restore.errors import InputError
from restore.files import MAX_PIXELS
from restore.jobs import Report, Result
from restore.load import load_prior
from restore.picture import Picture
from restore.prior import Prior
from restore.steps import begin, ddim, heun, once, sample
from restore.tasks.common import MAX_RATIO, Options, Preset, image_space, one_or_all, walk, with_options


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

    def run(self, prior: Prior, progress: Report | None = None) -> Result:
        """`generate` with how it was done."""
        job = self.start(prior, progress)
        size = self.size or prior.picture_size or 256
        size = (size, size) if isinstance(size, Integral) else tuple(size)
        blank = Picture.of(torch.zeros(1, 3, *size), "the sample", kind="pil")
        levels = walk(prior, self.count, MAX_RATIO)
        shape = [-(-max(side, prior.least) // prior.picture_multiple) * prior.multiple for side in size]
        like = torch.zeros(1, prior.channels, *shape, device=prior.device)
        job.expect(levels)
        if self.chosen == "heun":  # two calls a step, but for the last
            job.total = 2 * job.total - job.cost * self.samples
        answers = []
        for rng in self.rngs():
            x = begin(like, levels[0], rng=rng)
            move = heun if self.chosen == "heun" else once(ddim, eta=self.noise_share, rng=rng)
            found = job.drain(lambda denoise, x=x, move=move: sample(denoise, x, levels, move=move), max(shape), rng)
            answers.append(images.like(blank, image_space(prior, found, size)))
        return job.done(answers)


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
    2022), "ddim" or "ddpm" (eta 1); steps: noise levels; eta: fresh noise in [0, 1] of ddim and ddpm. The other
    arguments, a classifier among them, and what is raised: as `restore.inpaint`."""
    request = Generate(**options)
    return one_or_all(request, request.run(load_prior(prior, device=device, dtype=dtype), progress))
