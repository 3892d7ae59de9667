"""Linear inverse problems: a picture that was shrunk, blurred, made noisy or lost its colours, and what it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from restore import images
from restore.algorithms import ddrm, dpir
from restore.conditional import ConditionalPrior, check_task
from restore.errors import InputError
from restore.jobs import Job, Report, Result
from restore.kernels import read_kernel
from restore.levels import Level
from restore.load import load_prior
from restore.noise import estimate_noise, shared_noise
from restore.operators import Composed, Linear, Mask, blur, grayscale
from restore.picture import Picture, luma
from restore.prior import Denoise as Denoiser
from restore.prior import Prior
from restore.regions import mirrored, pad
from restore.steps import Rng, State
from restore.tasks.common import (
    MAX_RATIO,
    Preset,
    Restoring,
    check_pixels,
    image_space,
    one_or_all,
    top_ratio,
    walk,
    with_options,
)
from restore.tasks.conditional import SAMPLERS, Sampling, Shown, check_condition


class Problem(NamedTuple):
    """What was measured, in [0, 1]."""

    op: Linear
    y: Tensor  # the measurement: A(x) + noise, with rows of A that sum to one
    guess: Tensor  # (B,3,H,W) a cheap restoration
    size: tuple[int, int]  # of the answer, (height, width)
    corner: tuple[int, int] = (0, 0)  # where the answer begins in what the operator works on


@dataclass(frozen=True, kw_only=True)
class Inverse(Restoring, ABC):
    """The options of a linear inverse problem; making one refuses, with InputError, what does not go together."""

    SAMPLERS: ClassVar = SAMPLERS
    TASK: ClassVar[str]  # what a conditional prior has to be trained for

    def start(self, prior: Prior, progress: Report | None) -> Job:
        """As every task; but a latent prior is refused."""
        check_condition(prior.condition, self)
        check_pixels(prior, self.chosen)
        return super().start(prior, progress)

    @abstractmethod
    def problem(self, rgb: Tensor, multiple: int) -> Problem:
        """The measurement in rgb (B,3,h,w) in [0, 1], for a network that wants multiples of `multiple`."""

    def shown(self, rgb: Tensor, prior: ConditionalPrior) -> tuple[Shown, tuple[int, int]]:
        """What a conditional prior sees of rgb (B,3,h,w) in [0, 1], and the (height, width) of the answer."""
        return Shown(pad(rgb, prior.picture_multiple)), rgb.shape[-2:]

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
        if prior.condition is not None:
            return self.told(picture, prior, progress)
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

    def told(self, picture: Picture, prior: ConditionalPrior, progress: Report | None) -> Result:
        """The same by a conditional prior."""
        check_task(prior, self.TASK)
        sampling = Sampling.of(self)
        job = sampling.start(prior, progress)
        shown, (height, width) = self.shown(picture.rgb, prior)
        sampling.check(shown, self.TASK)
        answers, finished = [], self.finished(picture)
        for rng in self.rngs():
            found = sampling.drawn(job, prior, shown, rng)[..., :height, :width]
            answers.append(images.like(finished, found))
        return job.done(answers)


# ---------------------------------------------------------------- deblur


@dataclass(frozen=True, kw_only=True)
class Deblur(Inverse):
    """The options of `deblur`."""

    METHODS: ClassVar = {
        "dpir": Preset(steps=12, reach=0.4, turning=True),
        "ddrm": Preset(steps=20, reach=0.4, eta=1.0),
    }

    TASK: ClassVar = "deblur"

    kernel: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel is not None:
            object.__setattr__(self, "kernel", read_kernel(self.kernel).float())

    def start(self, prior: Prior, progress: Report | None) -> Job:
        if self.kernel is None:
            raise InputError("deblur needs the --kernel of the blur: only a conditional prior does without")
        return super().start(prior, progress)

    def told(self, picture: Picture, prior: ConditionalPrior, progress: Report | None) -> Result:
        if self.kernel is not None:
            raise InputError(f"the prior {prior.name!r} was trained on unknown blurs: leave the kernel out")
        return super().told(picture, prior, progress)

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

    TASK: ClassVar = "colorize"

    def shown(self, rgb: Tensor, prior: ConditionalPrior) -> tuple[Shown, tuple[int, int]]:
        op, y, guess, size, _ = self.problem(rgb, prior.picture_multiple)
        return Shown(guess, op, y), size

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


@with_options(Deblur)
def deblur(
    image: Any,
    kernel: Any = None,
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
