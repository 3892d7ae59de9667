"""Editing: SDEdit (`edit`), ILVR (`refine`), DDIB (`translate`) and plain sampling (`generate`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from restore import images
from restore.algorithms import ddib, ilvr, low_pass, sdedit
from restore.algorithms.ilvr import LowPass
from restore.errors import InputError
from restore.jobs import Report, Result
from restore.levels import Level
from restore.load import load_prior
from restore.mask import composite, read_mask
from restore.picture import Picture
from restore.prior import Denoise, Prior
from restore.regions import Box, boxes, pad
from restore.steps import State, ddim, heun, once
from restore.tasks.common import (
    Options,
    Preset,
    cells,
    check_prior,
    check_share,
    image_space,
    model_space,
    one_or_all,
    top_ratio,
    walk,
    with_options,
)
from restore.tasks.conditions import conditioned
from restore.tasks.inpainting import MARGIN

# ---------------------------------------------------------------- SDEdit


@dataclass(frozen=True, kw_only=True)
class Edit(Options):
    """The options of `edit`; making one refuses, with InputError, what does not go together."""

    METHODS: ClassVar = {"sdedit": Preset(steps=30, eta=1.0)}

    strength: float = 0.5
    repeats: int = 1
    feather: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("strength", self.strength, zero=True)
        self._whole(repeats=1, feather=0)

    def run(self, picture: Picture, mask: Any, prior: Prior, progress: Report | None = None) -> Result:
        """`edit` on a Picture, with how it was done; mask None edits all of it."""
        job = self.start(prior, progress)
        height, width = picture.rgb.shape[-2:]
        holes = torch.ones(1, 1, height, width) if mask is None else read_mask(mask, picture)
        if not self.strength or not holes.any():
            note = "the mask is empty" if self.strength else "a strength of 0 changes nothing"
            copies = [images.like(picture, picture.rgb) for _ in range(self.samples)]
            return job.done(copies, f"{note}: the picture is given back as it was")
        regions = [Box(0, height, 0, width)] if mask is None else boxes(holes, MARGIN, prior.picture_size or 0)
        levels = walk(prior, self.count, top_ratio(prior, self.strength))
        job.expect(*[levels] * int(self.repeats) * len(regions))
        answers = []
        for rng in self.rngs():
            rgb = picture.rgb.clone()
            for box in regions:
                x = model_space(prior, box.cut(picture.rgb))
                keep = None if mask is None else 1 - cells(prior, box.cut(holes))
                options = {"mask": keep, "eta": self.noise_share, "repeats": int(self.repeats), "rng": rng}

                def chain(denoise: Denoise, x: Tensor = x, options: dict[str, Any] = options) -> Iterator[State]:
                    return sdedit(denoise, x, levels, **options)

                part = box.cut(rgb)
                found = image_space(prior, job.drain(chain, max(x.shape[-2:]), rng), part.shape[-2:])
                part.copy_(composite(part, found, box.cut(holes), self.feather))
            answers.append(images.like(picture, rgb))
        return job.done(answers)


@with_options(Edit)
def edit(
    image: Any,
    mask: Any = None,
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Make a picture, a sketch or a collage look like one of the prior's (SDEdit), in the white part of `mask` or all.

    strength: the share of the noise schedule in [0, 1] to go up; 0 changes nothing, 1 keeps nothing. repeats: run so
    many times, each from the answer before. eta: fresh noise in [0, 1]. feather: pixels to fade over inside the mask.
    The other arguments, the kinds that go in and come back, and what is raised: as `restore.inpaint`. Pixels outside
    the mask stay bit-identical. Source: `restore.algorithms.sdedit`."""
    request = Edit(**options)
    picture = images.read(image)
    holes = None if mask is None else read_mask(mask, picture)
    source = load_prior(prior, device=device, dtype=dtype)
    return one_or_all(request, request.run(picture, holes, source, progress))


# ---------------------------------------------------------------- ILVR


@dataclass(frozen=True, kw_only=True)
class Refine(Options):
    """The options of `refine`; making one refuses, with InputError, what does not go together."""

    METHODS: ClassVar = {"ilvr": Preset(steps=50, eta=1.0)}

    factor: int | None = None
    stop: float = 0.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(factor=1)
        check_share("strength", self.strength)
        check_share("stop", self.stop, zero=True)
        if self.stop >= self.strength:
            raise InputError(f"stop is {self.stop:g}, and the chain begins at {self.strength:g}: stop below it")

    def low_pass(self, prior: Prior, size: tuple[int, int]) -> LowPass:
        """The filter in model space, for pictures of `size`. Raises InputError for a factor that does not fit.

        Both defaults are 1/32 of the side that the prior was trained on: of 256 pixels, or of 64 cells."""
        unit = prior.codec.factor
        factor = self.factor or (2 * unit if prior.latent else 8)
        if factor > min(size):
            raise InputError(f"a low-pass factor of {factor} is more than the {size[1]} x {size[0]} picture")
        if factor % unit:
            raise InputError(
                f"factor is {factor}: {prior.name!r} sees cells of {unit} pixels, so give a multiple of it"
            )
        return low_pass(int(factor) // unit)

    def run(self, picture: Picture, prior: Prior, progress: Report | None = None) -> Result:
        """`refine` on a Picture, with how it was done."""
        job = self.start(prior, progress)
        size = picture.rgb.shape[-2:]
        phi = self.low_pass(prior, size)
        x = model_space(prior, picture.rgb)
        levels = walk(prior, self.count, top_ratio(prior, self.strength))
        stop = top_ratio(prior, self.stop) if self.stop else 0.0
        job.expect(levels)
        answers = []
        for rng in self.rngs():
            options = {
                "stop": stop, "eta": self.noise_share, "start": None if self.strength == 1 else x, "rng": rng
            }  # fmt: skip

            def chain(denoise: Denoise, options: dict[str, Any] = options) -> Iterator[State]:
                return ilvr(denoise, x, phi, levels, **options)

            found = job.drain(chain, max(x.shape[-2:]), rng)
            answers.append(images.like(picture, image_space(prior, found, size)))
        return job.done(answers)


@with_options(Refine)
def refine(
    image: Any,
    *,
    prior: str | Path | Prior = "photo",
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """A new picture of the prior with the low frequencies of `image` (ILVR): details are invented, layout is kept.

    factor: the low-pass factor N in pixels, 8 by default; the larger, the freer. For a latent prior it is a multiple of
    the pixels of a cell, by default two cells. stop: the share of the noise schedule in [0, 1) below which
    the chain runs free. strength: the share in (0, 1] to start from; below 1 the chain begins with `image`, noised.
    eta: fresh noise in [0, 1]. The other arguments, the kinds that go in and come back, and what is raised: as
    `restore.inpaint`. Source: `restore.algorithms.ilvr`."""
    request = Refine(**options)
    picture = images.read(image)
    return one_or_all(request, request.run(picture, load_prior(prior, device=device, dtype=dtype), progress))


# ---------------------------------------------------------------- DDIB


@dataclass(frozen=True, kw_only=True)
class Translate(Options):
    """The options of `translate`; making one refuses, with InputError, what does not go together."""

    METHODS: ClassVar = {"heun": Preset(steps=40, low=0.01), "ddim": Preset(steps=80, low=0.01)}

    from_label: str | int | None = None
    from_prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.from_prompt, str | None):
            raise InputError(f"from_prompt is {self.from_prompt!r}: give a text")
        if self.from_prompt is not None and self.from_label is not None:
            raise InputError("from_label is for priors of classes, and from_prompt for those that read text: give one")

    def walks(self, source: Prior, target: Prior) -> tuple[list[Level], list[Level]]:
        """The same noise-to-signal ratios on both schedules, up and down, without CLEAN: the ODE has no end there."""
        high = min(top_ratio(source, 1), top_ratio(target, 1))
        up, down = (walk(prior, self.count + 1, high, self.preset.low)[:-1] for prior in (source, target))
        return up[::-1], down

    def run(self, picture: Picture, source: Prior, target: Prior, progress: Report | None = None) -> Result:
        """`translate` on a Picture, with how it was done."""
        check_prior(source)
        pair = (source, target)
        sizes = {prior.picture_size for prior in pair if prior.picture_size}
        if len({(prior.channels, prior.codec.factor) for prior in pair}) > 1 or len(sizes) > 1:
            shapes = (f"{prior.name!r} has {prior.channels} channels and size {prior.picture_size}" for prior in pair)
            raise InputError(f"the two priors are of different shapes: {', '.join(shapes)}")
        if not source.codec.agrees(target.codec):
            names = f"{source.name!r} and {target.name!r}"
            raise InputError(f"{names} have different autoencoders: what is a picture to one is none to the other")
        job = self.start(target, progress)
        guidance = None if self.from_prompt is None else 1
        going, cost = conditioned(source, self.from_label, guidance, prompt=self.from_prompt)
        up, down = self.walks(source, target)
        job.total = (2 if self.chosen == "heun" else 1) * self.count * (cost + job.cost)
        unit = math.lcm(source.picture_multiple, target.picture_multiple)
        padded = pad(picture.rgb, unit, least=max(source.least, target.least))
        x = source.codec.encode(padded.to(target.device))
        step = heun if self.chosen == "heun" else once(ddim)

        def chain(arriving: Denoise) -> Iterator[State]:
            return ddib(job.counted(going, cost), arriving, up[0].alpha * x, up, down, step=step)

        found = job.drain(chain, max(x.shape[-2:]), torch.Generator()) / down[-1].alpha
        return job.done([images.like(picture, image_space(target, found, picture.rgb.shape[-2:]))])


@with_options(Translate)
def translate(
    image: Any,
    *,
    prior: str | Path | Prior = "photo",
    to: str | Path | Prior | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Translate a picture from one prior, or class of it, to another by two ODEs (DDIB): no noise, always one answer.

    prior, to: where the picture comes from and where it goes, the same prior by default. from_label, label: the classes
    likewise, or from_prompt, prompt: the texts; guidance and classifier are for the way to `label` or `prompt`. method:
    "heun" or "ddim"; steps: levels each way. To where it came from, a picture comes back as it was, up to the solver's
    error. The other arguments, the kinds that go in and come back, and what is raised: as `restore.inpaint`.
    Source: `restore.algorithms.ddib`."""
    request = Translate(**options)
    picture = images.read(image)
    source = load_prior(prior, device=device, dtype=dtype)
    target = source if to is None else load_prior(to, device=device, dtype=dtype)
    return one_or_all(request, request.run(picture, source, target, progress))
