"""Inpainting: the holes of a mask, each with its surroundings, by DPIR, DDRM or RePaint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from restore import images
from restore.algorithms import ddrm, dpir, repaint
from restore.conditional import ConditionalPrior, check_task
from restore.errors import InputError
from restore.jobs import Report, Result, whole_side
from restore.levels import Level, travel
from restore.load import load_prior
from restore.mask import composite, opaque_where, read_mask
from restore.noise import shared_noise
from restore.operators import Mask
from restore.picture import Picture
from restore.prior import Denoise, Prior
from restore.regions import Box, boxes, hole_radius, pad, resized, rough_fill
from restore.steps import Rng, State, gaussian
from restore.tasks.common import (
    Options,
    Preset,
    cells,
    check_noise,
    check_pixels,
    check_share,
    image_space,
    model_space,
    one_or_all,
    top_ratio,
    walk,
    with_options,
)
from restore.tasks.conditional import SAMPLERS, Sampling, Shown, check_condition

INPAINT_METHODS = {
    "dpir": Preset(steps=20, reach=0.1, relaxation=2.0, turning=True),
    "ddrm": Preset(steps=20, reach=0.2, eta=1.0),
    "repaint": Preset(steps=12, reach=0.2, eta=1.0, resamplings=4),
}
MARGIN = 48  # pixels of surroundings that a hole is seen with
CROPS = ("auto", "always", "never")


class Region(NamedTuple):
    """A part of the picture at work, at the size that the network sees it in."""

    box: Box  # in the picture
    rgb: Tensor  # (B,3,h,w) in [0, 1]
    holes: Tensor  # (B,1,h,w) of 0 and 1
    rough: Tensor  # (B,3,h,w) with the holes closed by a rough fill

    def at(self, size: tuple[int, int]) -> Region:
        """The same at another (height, width): what a hole touches is hole, and its known pixels are those around."""
        holes = F.adaptive_max_pool2d(self.holes, size)
        if min(size[0] / self.holes.shape[-2], size[1] / self.holes.shape[-1]) > 1:
            holes = F.interpolate(self.holes, size, mode="bilinear").gt(0).float()
        return Region(self.box, resized(self.rough, size), holes, resized(self.rough, size))


@dataclass(frozen=True, kw_only=True)
class Inpaint(Options):
    """The options of `inpaint`; making one refuses, with InputError, what does not go together."""

    METHODS: ClassVar = INPAINT_METHODS
    SAMPLERS: ClassVar = SAMPLERS

    strength: float | None = None
    jump: int | None = None
    resamplings: int | None = None
    noise_std: float = 0.0
    feather: int = 0
    crop_to_mask: str = "auto"
    consistent: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole(jump=1, resamplings=1, feather=0)
        if self.crop_to_mask not in CROPS:
            raise InputError(f"crop_to_mask is {self.crop_to_mask!r}: choose one of {', '.join(CROPS)}")
        if self.noise_std is None:
            raise InputError("noise_std is None: inpainting does not estimate it, so give a standard deviation")
        check_noise(self.noise_std)
        if self.strength is not None:
            check_share("strength", self.strength)
        method, travels = self.chosen, self.jump is not None or self.resamplings is not None
        if method != "repaint" and travels:
            raise InputError(f"jump and resamplings belong to repaint, not to {method}")
        if travels and self._walks > 1 and self._jump >= self.count:
            shown = f"a jump of {self._jump} levels does not fit into {self.count} steps"
            raise InputError(f"{shown}: take more steps or a shorter jump")
        if method == "repaint" and self.noise_std:
            raise InputError("repaint takes the known pixels as exact: leave their noise out, or choose dpir or ddrm")

    @property
    def _jump(self) -> int:
        return self.jump or self.preset.jump

    @property
    def _walks(self) -> int:
        return self.resamplings or self.preset.resamplings

    def levels(self, prior: Prior, radius: float) -> list[Level]:
        """The walk for a hole of this half-width (pixels): wide holes start noisier. It ends at the pixels' noise."""
        reach = self.preset.reach * max(radius, 3.0)
        high = reach if self.strength is None else top_ratio(prior, self.strength)
        levels = walk(prior, self.count, high, max(self.preset.low, prior.codec.std(self.noise_std)))
        fits = self._jump < self.count  # a preset's travel in too short a chain was asked for by nobody
        return travel(levels, self._jump, self._walks if fits else 1)

    def chain(
        self, denoise: Denoise, x: Tensor, known: Tensor, levels: list[Level], guess: Tensor, std: float, rng: Rng
    ) -> Iterator[State]:
        """The method at work on x (B,C,H,W) in model space; known broadcasts to it, 1 = known; std in model units."""
        start = None if self.strength == 1 else guess
        if self.chosen == "repaint":
            return repaint(denoise, x, known, levels, eta=self.noise_share, start=start, rng=rng)
        op = Mask(known)
        if self.chosen == "dpir":
            relaxation = 1.0 if std else self.preset.relaxation
            return dpir(denoise, op, op.A(x), std, levels, start=start, relaxation=relaxation)
        return ddrm(denoise, op, op.A(x), std, levels, eta=self.noise_share, start=start, rng=rng)

    def suited(self, prior: Prior) -> Inpaint:
        """The same request with the method that the prior takes: on latents, where pixels are not measured, repaint."""
        if not prior.latent:
            return self
        if self.method is None:
            return replace(self, method="repaint")
        if self.method != "repaint":
            check_pixels(prior, self.method)
        return self

    def regions(self, picture: Picture, holes: Tensor, prior: Prior) -> list[Region]:
        """What is worked on, each by itself: boxes around the holes, shrunk to the network's size where that is asked
        for, or where a network that attends would see too little around a hole in one of its tiles."""
        size, found = prior.picture_size, []
        if self.crop_to_mask == "always" and not size:
            raise InputError(f"crop_to_mask: the prior {prior.name!r} works at any size: leave it out")
        for box in boxes(holes, MARGIN, size or 0):
            rgb, mask = box.cut(picture.rgb), box.cut(holes)
            region = Region(box, rgb, mask, rough_fill(rgb, mask))
            side = max(rgb.shape[-2:])
            tiled = prior.window and side > whole_side(prior)
            wide = tiled and 2 * (hole_radius(mask) + MARGIN) > prior.window
            if self.crop_to_mask == "always" or (self.crop_to_mask == "auto" and wide):
                region = region.at(tuple(max(1, round(length * size / side)) for length in rgb.shape[-2:]))
            found.append(region)
        return found

    def run(self, picture: Picture, mask: Any, prior: Prior, progress: Report | None = None) -> Result:
        """`inpaint` on a Picture, with how it was done; the answers are of the kind that the Picture was read from."""
        if prior.condition is not None:
            return self._told(picture, mask, prior, progress)
        return self.suited(prior)._run(picture, mask, prior, progress)

    def _run(self, picture: Picture, mask: Any, prior: Prior, progress: Report | None) -> Result:
        holes = read_mask(mask, picture)  # (1 or B,1,H,W)
        check_condition(prior.condition, self)
        job = self.start(prior, progress)
        if not holes.any():
            copies = [images.like(picture, picture.rgb) for _ in range(self.samples)]
            return job.done(copies, "the mask is empty: the picture is given back as it was")
        regions = self.regions(picture, holes, prior)
        walks = [self.levels(prior, hole_radius(region.holes)) for region in regions]
        job.expect(*walks)
        finished = opaque_where(picture, holes) if mask is None else picture
        std, answers = prior.codec.std(self.noise_std) * shared_noise(picture.rgb), []
        for rng in self.rngs():
            rgb = picture.rgb.clone()
            for region, levels in zip(regions, walks, strict=True):
                guess = model_space(prior, region.rough)
                # an autoencoder looks beyond the cell: what lies in the hole must not shine through
                x = guess if prior.latent else model_space(prior, region.rgb)
                given = (x, 1 - cells(prior, region.holes), levels, guess, std, rng)
                found = job.drain(lambda denoise, given=given: self.chain(denoise, *given), max(x.shape[-2:]), rng)
                found = image_space(prior, found, region.rgb.shape[-2:])
                part = region.box.cut(rgb)
                found = found if found.shape[-2:] == part.shape[-2:] else resized(found, part.shape[-2:])
                part.copy_(composite(part, found, region.box.cut(holes), self.feather))
            answers.append(images.like(finished, rgb))
        return job.done(answers)

    def _told(self, picture: Picture, mask: Any, prior: ConditionalPrior, progress: Report | None) -> Result:
        """By a conditional prior, which sees noise in the holes (Palette: Saharia et al. 2022, section 4.2)."""
        check_task(prior, "inpaint")
        holes, sampling = read_mask(mask, picture), Sampling.of(self)
        regions = self.regions(picture, holes, prior) if holes.any() else []
        job = sampling.start(prior, progress, regions[1:])
        if not regions:
            copies = [images.like(picture, picture.rgb) for _ in range(self.samples)]
            return job.done(copies, "the mask is empty: the picture is given back as it was")
        finished, answers = opaque_where(picture, holes) if mask is None else picture, []
        for rng in self.rngs():
            rgb = picture.rgb.clone()
            for region in regions:
                given, hole, rough = (pad(part, prior.picture_multiple) for part in region[1:])
                noise = prior.codec.decode(gaussian(given, rng))
                known = 1 - hole
                shown = Shown(torch.where(hole > 0, noise, given), Mask(known), known * given, rough)
                found = sampling.drawn(job, prior, shown, rng)
                found = found[..., : region.rgb.shape[-2], : region.rgb.shape[-1]]
                part = region.box.cut(rgb)
                found = found if found.shape[-2:] == part.shape[-2:] else resized(found, part.shape[-2:])
                part.copy_(composite(part, found, region.box.cut(holes), self.feather))
            answers.append(images.like(finished, rgb))
        return job.done(answers)


@with_options(Inpaint)
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

    prior: name, folder or Prior; device and dtype are for one that is not a Prior yet. label, guidance: a class of the
    prior, and the scale of classifier-free guidance to it: 1 is none, 0 is no class. prompt, negative_prompt: texts to
    pull to and from, for a prior that reads them, with a guidance of 7.5 by default. classifier, classifier_scale: a
    name, folder or Classifier that pulls towards the label, and how hard, by default 1; then `label` is of its classes,
    and of the prior's if it has any. progress: called with a `restore.jobs.Progress` after each network call.

    method: "dpir", "ddrm" or "repaint"; by default dpir, which draws no noise and has one answer whatever the seed, and
    ddrm for several samples; of a latent prior repaint, the only one. steps: noise levels. strength: the share of the
    noise schedule in (0, 1] to start from; 1 ignores the rough fill that a chain begins with otherwise; by default
    wider holes start noisier. eta: the fresh noise of ddrm and repaint, in [0, 1]. jump, resamplings: time travel of
    repaint. noise_std: of the known pixels, on the [0, 1] scale, for dpir and ddrm. feather: pixels to fade over,
    inwards. tile: "auto", None or pixels.
    crop_to_mask: "always" shrinks the surroundings of the holes to the size that the prior was trained at, "never"
    works on them in tiles, "auto" shrinks where a prior with attention would not see around a hole otherwise.

    Raises InputError for what does not fit, PriorError where there is no such prior, DivergedError on NaN and
    OutOfMemory. Sources: `restore.algorithms.dpir`, `.ddrm`, `.repaint`.
    """
    request = Inpaint(**options)
    picture = images.read(image)
    holes = read_mask(mask, picture)  # what does not fit is said before a prior is loaded
    source = load_prior(prior, device=device, dtype=dtype)
    return one_or_all(request, request.run(picture, None if mask is None else holes, source, progress))
