"""Linear inverse problems: a picture that was shrunk, blurred, made noisy or lost its colours, and what it was."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from restore import images
from restore.algorithms import ddrm, dpir
from restore.errors import InputError
from restore.jobs import Job, Report, Result
from restore.kernels import read_kernel
from restore.levels import Level
from restore.load import load_prior
from restore.metadata import resized
from restore.noise import estimate_noise, shared_noise
from restore.operators import Composed, Linear, Mask, blur, downscale, grayscale
from restore.picture import Picture, luma
from restore.prior import Denoise as Denoiser
from restore.prior import Prior
from restore.regions import mirrored, pad
from restore.steps import Rng, State
from restore.tasks.common import (
    MAX_RATIO,
    Options,
    Preset,
    check_noise,
    check_pixels,
    check_share,
    image_space,
    one_or_all,
    top_ratio,
    walk,
    with_options,
)


class Problem(NamedTuple):
    """What was measured, in [0, 1]."""

    op: Linear
    y: Tensor  # the measurement: A(x) + noise, with rows of A that sum to one
    guess: Tensor  # (B,3,H,W) a cheap restoration
    size: tuple[int, int]  # of the answer, (height, width)
    corner: tuple[int, int] = (0, 0)  # where the answer begins in what the operator works on


@dataclass(frozen=True, kw_only=True)
class Inverse(Options, ABC):
    """The options of a linear inverse problem; making one refuses, with InputError, what does not go together."""

    strength: float | None = None
    noise_std: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise_std)
        if self.strength is not None:
            check_share("strength", self.strength)

    def start(self, prior: Prior, progress: Report | None) -> Job:
        """As every task; but a latent prior is refused."""
        check_pixels(prior, self.chosen)
        return super().start(prior, progress)

    @abstractmethod
    def problem(self, rgb: Tensor, multiple: int) -> Problem:
        """The measurement in rgb (B,3,h,w) in [0, 1], for a network that wants multiples of `multiple`."""

    def noise(self, rgb: Tensor) -> float:
        """The noise to assume in the measurement, a standard deviation on the [0, 1] scale."""
        return self.noise_std or 0.0

    def finished(self, picture: Picture) -> Picture:
        """The picture that the answer replaces the colours of."""
        return picture

    def last(self, found: Tensor, rgb: Tensor) -> Tensor:
        """What is done to an answer (B,3,H,W) in [0, 1], which was found in the picture rgb."""
        return found

    def levels(self, prior: Prior, std: float) -> list[Level]:
        """The walk; std in model units. It ends at the noise of the measurement, where the network can tell it."""
        high = max(self.preset.reach, 1.5 * std) if self.strength is None else top_ratio(prior, self.strength)
        return walk(prior, self.count, high, max(self.preset.low, std))

    def chain(
        self, denoise: Denoiser, op: Linear, y: Tensor, std: float, levels: list[Level], guess: Tensor, rng: Rng
    ) -> Iterator[State]:
        """The method at work, in model space."""
        start = None if self.strength == 1 else guess
        if self.chosen == "dpir":
            relaxation = 1.0 if std else self.preset.relaxation
            return dpir(denoise, op, y, std, levels, start=start, relaxation=relaxation)
        return ddrm(denoise, op, y, std, levels, eta=self.noise_share, start=start, rng=rng)

    def run(self, picture: Picture, prior: Prior, progress: Report | None = None) -> Result:
        """The task on a Picture, with how it was done; the answers are of the kind that the Picture was read from."""
        job = self.start(prior, progress)
        op, y, guess, size, (top, left) = self.problem(picture.rgb, prior.picture_multiple)
        std = prior.codec.std(self.noise(picture.rgb)) * shared_noise(y)
        levels = self.levels(prior, std)
        job.expect(levels)
        op = op.to(prior.device)
        y, guess = (prior.codec.encode(part.to(prior.device)) for part in (y, guess))
        answers, finished = [], self.finished(picture)
        for rng in self.rngs():
            given = (op, y, std, levels, guess, rng)
            found = job.drain(lambda denoise, given=given: self.chain(denoise, *given), max(guess.shape[-2:]), rng)
            found = self.last(image_space(prior, found[..., top:, left:], size), picture.rgb)
            answers.append(images.like(finished, found))
        return job.done(answers)


# ---------------------------------------------------------------- upscale


@dataclass(frozen=True, kw_only=True)
class Upscale(Inverse):
    """The options of `upscale`."""

    METHODS: ClassVar = {
        "dpir": Preset(steps=12, reach=0.4, relaxation=1.75, turning=True),
        "ddrm": Preset(steps=20, reach=0.4, eta=1.0),
    }

    scale: int = 4
    shrunk: str = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.scale, bool) or not isinstance(self.scale, Integral) or self.scale not in range(2, 17):
            raise InputError(f"scale is {self.scale!r}: give a whole number from 2 to 16")
        if self.shrunk not in ("bicubic", "average"):
            raise InputError(f"shrunk is {self.shrunk!r}: choose bicubic or average")

    def problem(self, rgb: Tensor, multiple: int) -> Problem:
        height, width = rgb.shape[-2:]
        y = pad(rgb, multiple // math.gcd(multiple, self.scale))
        large = (self.scale * y.shape[-2], self.scale * y.shape[-1])
        guess = interpolate(y, large, mode="bicubic").clamp(0, 1)
        size = (self.scale * height, self.scale * width)
        return Problem(downscale(self.scale, large, method=self.shrunk), y, guess, size)

    def finished(self, picture: Picture) -> Picture:
        height, width = (self.scale * side for side in picture.rgb.shape[-2:])
        return replace(picture, exif=picture.exif and resized(picture.exif, height, width))


# ---------------------------------------------------------------- deblur


@dataclass(frozen=True, kw_only=True)
class Deblur(Inverse):
    """The options of `deblur`."""

    METHODS: ClassVar = {
        "dpir": Preset(steps=12, reach=0.4, turning=True),
        "ddrm": Preset(steps=20, reach=0.4, eta=1.0),
    }

    kernel: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kernel", read_kernel(self.kernel).float())

    def noise(self, rgb: Tensor) -> float:
        """At least half a step of 8 bits: a blur without noise would be undone by division by next to nothing."""
        return max(estimate_noise(rgb) if self.noise_std is None else self.noise_std, 0.5 / 255)

    def problem(self, rgb: Tensor, multiple: int) -> Problem:
        """The picture as a window on a larger blurred one: nothing is assumed beyond its borders, so nothing rings.

        Where a method needs singular values, what lies beyond is filled in from a classical restoration first."""
        (height, width), (tall, wide) = rgb.shape[-2:], self.kernel.shape
        if tall > height or wide > width:
            raise InputError(f"the kernel is {wide} x {tall}, and the picture {width} x {height}: it has to be smaller")
        top, left = tall // 2, wide // 2
        large = [side + 2 * edge for side, edge in ((height, top), (width, left))]
        bottom, right = (edge + -side % multiple for edge, side in ((top, large[0]), (left, large[1])))
        y = mirrored(rgb, left, right, top, bottom)
        window = torch.zeros(y.shape[-2:])
        window[top : top + height, left : left + width] = 1
        full = blur(self.kernel, y.shape[-2:])
        seen = Composed(Mask(window), full, tolerance=0.01)
        if self.chosen == "dpir":
            return Problem(seen, seen.last.A(y), y, (height, width), (top, left))
        sharp = seen.proximal(y, seen.last.A(y), 0.02)
        return Problem(full, torch.where(window > 0, y, full.A(sharp)), sharp, (height, width), (top, left))


# ---------------------------------------------------------------- colorize


@dataclass(frozen=True, kw_only=True)
class Colorize(Inverse):
    """The options of `colorize`."""

    METHODS: ClassVar = {
        "ddrm": Preset(steps=20, reach=MAX_RATIO, eta=1.0),
        "dpir": Preset(steps=12, reach=2.0, turning=True),  # more noise: greener, not truer
    }

    def problem(self, rgb: Tensor, multiple: int) -> Problem:
        gray = pad(luma(rgb), multiple)
        return Problem(grayscale(), gray, gray.expand(-1, 3, -1, -1), rgb.shape[-2:])

    def finished(self, picture: Picture) -> Picture:
        if not picture.gray:
            return picture
        source = None if picture.kind == "pil" else picture.source  # PIL's mode
        return replace(picture, gray=False, icc=None, jpeg=None, source=source)  # those were for gray


# ---------------------------------------------------------------- the functions


def restored(
    request: Inverse, image: Any, prior: str | Path | Prior, device: str, dtype: str, progress: Report | None
) -> Any:
    """The request carried out on a picture of any kind: one answer of that kind, or a list of them."""
    picture = images.read(image)
    return one_or_all(request, request.run(picture, load_prior(prior, device=device, dtype=dtype), progress))


@with_options(Upscale)
def upscale(
    image: Any,
    scale: int = 4,
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Enlarge a picture `scale` times, a whole number from 2 to 16, so that shrinking the answer gives it back.

    shrunk: how it was made smaller: "bicubic" (antialiased, as PIL and the literature do) or "average". noise_std: of
    the picture, on the [0, 1] scale; 0 by default. method: "dpir" (one answer, closest to the truth) or "ddrm" (a
    random one; the default for several samples). steps: noise levels. strength: the share of the noise schedule in
    (0, 1] to start from; below 1 the chain begins with a bicubic enlargement. eta: fresh noise of ddrm, in [0, 1].

    The other arguments, the kinds that go in and come back, and what is raised: as `restore.inpaint`.
    Sources: `restore.algorithms.dpir`, `.ddrm`."""
    return restored(Upscale(scale=scale, **options), image, prior, device, dtype, progress)


@with_options(Deblur)
def deblur(
    image: Any,
    kernel: Any,
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Undo a blur by a known kernel, without rings at the borders.

    kernel: "gaussian:SIGMA", "motion:LENGTH,ANGLE", "disk:RADIUS", "uniform:SIDE" (pixels, degrees), a picture of it,
    or an array (kh,kw). noise_std: of the picture, on the [0, 1] scale; estimated by default, and at least half a step
    of 8 bits. The rest as `restore.upscale`; below strength 1 the chain begins with the blurred picture.
    Sources: `restore.algorithms.dpir`, `.ddrm`."""
    return restored(Deblur(kernel=kernel, **options), image, prior, device, dtype, progress)


@with_options(Colorize)
def colorize(
    image: Any,
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Give a gray picture colours; its brightness (Rec. 601 luma) stays. Of a colour picture only that is looked at.

    The answer has three channels. method: "ddrm", a random answer, or "dpir", the same always and paler. The rest as
    `restore.upscale`.
    Sources: `restore.algorithms.ddrm`, `.dpir`."""
    return restored(Colorize(**options), image, prior, device, dtype, progress)
