"""Blur kernels by formula, from a picture or an array: (kh,kw) float64 that sum to 1, their centre at side // 2."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kornia.filters import get_gaussian_kernel2d
from torch import Tensor

from restore.errors import InputError
from restore.images import luma, read

FORMS = "gaussian:SIGMA, motion:LENGTH,DEGREES, disk:RADIUS, uniform:SIDE or a picture file"
MAX_SIDE = 4096  # pixels


def gaussian(sigma: float) -> Tensor:
    """The kernel of scipy.ndimage.gaussian_filter: both sides are 2 round(4 sigma) + 1. InputError if not sigma > 0."""
    _check("sigma", sigma, above=0)
    side = _fitting(2 * int(min(4 * sigma + 0.5, MAX_SIDE)) + 1)
    return get_gaussian_kernel2d((side, side), (float(sigma), float(sigma)), dtype=torch.float64)[0]


def motion(length: float, degrees: float) -> Tensor:
    """A line through the centre, `length` pixels long, at an angle counter-clockwise from the horizontal, as seen.

    A pixel weighs as much of its width along the line as the line covers, times 1 - its distance from the line: at 0
    and 90 degrees the plain mean of an odd number of pixels. Raises InputError for a length below 1."""
    _check("the length", length, least=1)
    _check("the angle", degrees)
    reach = math.ceil(length / 2) + 1
    _fitting(2 * reach - 1)
    turn = math.radians(math.remainder(degrees, 180))
    right, up = math.cos(turn), math.sin(turn)
    x = torch.arange(-reach, reach + 1, dtype=torch.float64)
    y = -x[:, None]  # upwards
    along, off = right * x + up * y, right * y - up * x
    covered = (along + 0.5).clamp(max=length / 2) - (along - 0.5).clamp(min=-length / 2)
    weights = covered.clamp(0, 1) * (1 - off.abs()).clamp(min=0)
    used = weights > 1e-12  # not the rounding errors at 90 degrees
    rows, cols = (int(x.abs()[used.any(dim)].max()) for dim in (1, 0))
    weights = weights[reach - rows : reach + rows + 1, reach - cols : reach + cols + 1]
    return weights / weights.sum()


def disk(radius: float) -> Tensor:
    """A disk, the blur of a lens out of focus: each pixel weighs its area inside. InputError if not radius > 0."""
    _check("the radius", radius, above=0)
    side = _fitting(2 * math.ceil(radius - 0.5) + 1)
    edge = torch.arange(side + 1, dtype=torch.float64) - side / 2  # between pixels

    def under(t: Tensor) -> Tensor:  # the area under the circle from 0 to t
        return (t * (radius**2 - t**2).clamp(min=0).sqrt() + radius**2 * (t / radius).asin()) / 2

    x, y = edge.abs().clamp(max=radius)[None], edge.abs().clamp(max=radius)[:, None]
    bend = (radius**2 - x**2).clamp(min=0).sqrt()  # where the circle is x wide
    inside = x * torch.minimum(y, bend) + (under(y) - under(bend)).clamp(min=0)  # of the rectangle from 0 to (x,y)
    area = (edge.sign() * edge.sign()[:, None] * inside).diff(dim=0).diff(dim=1)
    area = torch.where(area > 1e-12, area, 0)  # without rounding errors
    return area / area.sum()


def uniform(side: int) -> Tensor:
    """The mean of side x side pixels. Raises InputError if side is not a whole number of at least 1."""
    _check("the side", side, least=1)
    if not float(side).is_integer():
        raise InputError(f"the side is {side:g}: give a whole number of pixels")
    side = _fitting(int(side))
    return torch.full((side, side), 1 / side**2, dtype=torch.float64)


KINDS: dict[str, tuple[Callable[..., Tensor], int]] = {  # with the count of parameters
    "gaussian": (gaussian, 1),
    "motion": (motion, 2),
    "disk": (disk, 1),
    "uniform": (uniform, 1),
}


def read_kernel(source: Any) -> Tensor:
    """A kernel from gaussian:3, motion:15,30, disk:5, uniform:9, a picture of any kind that `read` takes, or an array.

    A picture weighs by its brightness, seen on black where it is transparent; an array or tensor (kh,kw) by its values,
    of either sign. Both are divided by their sum. Raises InputError, naming the forms, for anything else."""
    if isinstance(source, str):
        kind, colon, text = source.partition(":")
        if kind in KINDS and (colon or not os.path.isfile(source)):
            return _parsed(source, kind, text)
    if isinstance(source, str | os.PathLike) and not Path(source).is_file():
        raise InputError(f"{os.fspath(source)} is neither a known blur kernel nor a file: give {FORMS}")
    if isinstance(source, np.ndarray | Tensor) and source.ndim == 2:
        weights, name = torch.as_tensor(source).detach().to("cpu", torch.float64), "the blur kernel"
    else:
        picture = read(source)
        name, weights = picture.name, luma(picture.rgb)[0, 0].double()
        weights = weights if picture.alpha is None else weights * picture.alpha[0, 0]
    _fitting(max(weights.shape))
    total = weights.sum()
    if not total.abs() > 1e-12 * weights.abs().sum() or not total.isfinite():
        raise InputError(f"{name} has no brightness to spread, as its sum is {float(total):g}: give {FORMS}")
    return weights / total


def _parsed(source: str, kind: str, text: str) -> Tensor:
    make, count = KINDS[kind]
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InputError(f"blur kernel {source}: {kind} takes {count} number{'s' * (count > 1)} ({FORMS})")
    try:
        return make(*numbers)
    except InputError as e:
        raise InputError(f"blur kernel {source}: {e} ({FORMS})") from None


def _check(what: str, value: float, above: float = -math.inf, least: float = -math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not (above < value < math.inf and value >= least):
        shown = f"{value:g}" if isinstance(value, Real) else repr(value)
        limit = f" above {above:g}" if above > -math.inf else f" of at least {least:g}" if least > -math.inf else ""
        raise InputError(f"{what} is {shown}: give a number{limit}")


def _fitting(side: int) -> int:
    if side > MAX_SIDE:
        raise InputError(f"the kernel would be larger than {MAX_SIDE} pixels: give a smaller one")
    return side
