"""Denoising: the posterior mean in one network call, or a sample of the posterior in many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from restore import images
from restore.errors import InputError
from restore.jobs import Job, Report, Result
from restore.levels import Level
from restore.noise import estimate_noise, shared_noise, unclip
from restore.operators import Linear, Mask
from restore.picture import Picture, luma
from restore.prior import Denoise as Denoiser
from restore.prior import Prior
from restore.regions import pad
from restore.steps import Rng, State, ddim, gaussian, once, sample
from restore.tasks.common import MIN_RATIO, Preset, walk, with_options
from restore.tasks.inverse import Inverse, Problem, restored
from restore.wrappers import ensemble


@dataclass(frozen=True, kw_only=True)
class Denoise(Inverse):
    """The options of `denoise`."""

    METHODS: ClassVar = {
        "mmse": Preset(steps=1),
        "ddpm": Preset(steps=20, eta=1.0),
        "ddrm": Preset(steps=20, reach=1.0),  # its chain ends at the noise of the picture, in the mean
    }

    TASK: ClassVar = "denoise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chosen == "mmse" and self.steps not in (None, 1):
            raise InputError("mmse asks the network once: leave steps out, or choose ddpm or ddrm")
        if self.chosen != "ddrm" and self.strength is not None:
            raise InputError(f"{self.chosen} begins at the picture's own noise: leave strength out, or choose ddrm")

    @property
    def count(self) -> int:
        return 1 if self.chosen == "mmse" else super().count

    def start(self, prior: Prior, progress: Report | None) -> Job:
        """The best quality of `mmse` is the mean over all orientations that the prior has seen pictures in."""
        job = super().start(prior, progress)
        if self.chosen == "mmse" and self.quality == "best" and prior.orientations > 1:
            job.denoise, job.cost = ensemble(job.denoise, prior.orientations), job.cost * prior.orientations
        return job

    def noise(self, rgb: Tensor) -> float:
        return estimate_noise(rgb) if self.noise_std is None else self.noise_std

    def problem(self, rgb: Tensor, multiple: int) -> Problem:
        y = pad(rgb, multiple)
        return Problem(Mask(torch.ones(1, 1, 1, 1)), y, y, rgb.shape[-2:])

    def chromatic(self, y: Tensor, std: float) -> Tensor:
        """A gray y in model space with the colour noise that makes its noise independent, std in each channel."""
        z = gaussian(y, torch.Generator().manual_seed(0))
        return y + std * (z - z.mean(1, keepdim=True))

    def levels(self, prior: Prior, std: float) -> list[Level]:
        if self.chosen == "ddrm":
            return super().levels(prior, std)
        return walk(prior, self.count, std, min(MIN_RATIO, std))

    def chain(
        self, denoise: Denoiser, op: Linear, y: Tensor, std: float, levels: list[Level], guess: Tensor, rng: Rng
    ) -> Iterator[State]:
        """From the picture at its own noise level down: in one step the posterior mean (Tweedie), in many a sample."""
        if self.chosen == "ddrm":
            return super().chain(denoise, op, y, std, levels, guess, rng)
        y = self.chromatic(y, std) if shared_noise(y) > 1 else y
        return sample(denoise, levels[0].alpha * y, levels, move=once(ddim, eta=self.noise_share, rng=rng))

    def last(self, found: Tensor, rgb: Tensor) -> Tensor:
        """Noise that was cut off at black and white left the shadows too bright and the highlights too dark."""
        low, high = (float(cut.float().mean()) > 1e-4 for cut in (rgb <= 0, rgb >= 1))
        found = luma(found).expand(-1, 3, -1, -1) if shared_noise(rgb) > 1 else found
        return unclip(found, self.noise(rgb), low, high)

    def run(self, picture: Picture, prior: Prior, progress: Report | None = None) -> Result:
        if prior.condition is not None:
            return self.told(picture, prior, progress)
        known = replace(self, noise_std=self.noise(picture.rgb))  # estimated once
        if not known.noise_std:
            copies = [images.like(picture, picture.rgb) for _ in range(self.samples)]
            return self.start(prior, progress).done(copies, "there is no noise: the picture is given back as it was")
        return super(Denoise, known).run(picture, prior, progress)


@with_options(Denoise)
def denoise(
    image: Any,
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Remove white noise from a picture.

    noise_std: on the [0, 1] scale (sigma 25 of 255 is 25 / 255); estimated by default. method: "mmse" (the posterior
    mean by Tweedie's formula, one network call), "ddpm" (a posterior sample: down from the picture's own noise level)
    or "ddrm". The rest as `restore.upscale`. Source: Efron 2011; `restore.algorithms.ddrm`."""
    return restored(Denoise(**options), image, prior, device, dtype, progress)
