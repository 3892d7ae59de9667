"""Test inputs: pictures blurred, shrunk, made gray, noisy, holed or compressed, as the restoring tasks assume it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from io import BytesIO
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from restore import images
from restore.errors import InputError
from restore.kernels import read_kernel
from restore.mask import read_mask
from restore.operators import blur
from restore.picture import Picture, luma

HOLE = 0.5  # what masked pixels become: mid gray, the 0 of model space, where the mask operator is a product
JPEG_SIDE = 65500  # pixels, at most


@dataclass
class Info:
    """What was done to a picture."""

    options: dict[str, Any]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.options, "seconds": self.seconds}


class Result(NamedTuple):
    """The degraded picture alone in a list, in the kind that went in, and what was done."""

    images: list[Any]
    info: Info


@dataclass(frozen=True, kw_only=True)
class Degrade:
    """The options of `degrade`; making one refuses, with InputError, what does not go together."""

    kernel: Any = None
    scale: int | None = None
    method: str = "bicubic"
    gray: bool = False
    noise_std: float = 0.0
    mask: Any = None
    jpeg: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kernel is not None:
            read_kernel(self.kernel)
        if self.method not in ("bicubic", "average"):
            raise InputError(f"unknown method {self.method!r} of shrinking: choose bicubic or average")
        if self.scale is None and self.method != "bicubic":
            raise InputError(f"{self.method} is a method of shrinking: give a scale too")
        for name, low, high in (("scale", 2, 16), ("jpeg", 1, 100), ("seed", 0, 2**63 - 1)):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if not (whole and low <= value <= high) and not (value is None and name != "seed"):
                limit = f"from {low} to {high}" if name != "seed" else "of at least 0"
                raise InputError(f"{name} is {value!r}: give a whole number {limit}")
        if not isinstance(self.noise_std, Real) or not 0 <= self.noise_std < 1:
            number = isinstance(self.noise_std, Real)
            shown = f"{self.noise_std:g} (sigma {255 * self.noise_std:g})" if number else repr(self.noise_std)
            raise InputError(f"noise of {shown}: give at least 0, and less than 1 (255)")
        if not (
            self.gray or self.noise_std or any(x is not None for x in (self.kernel, self.scale, self.mask, self.jpeg))
        ):
            raise InputError("nothing to do: give one or more of kernel, scale, gray, sigma (noise), mask and jpeg")

    def run(self, picture: Picture) -> Result:
        """`degrade` on a Picture, with what was done; the answer is of the kind that the Picture was read from."""
        begin = time.perf_counter()
        rgb = picture.rgb  # (B,3,H,W)
        if self.kernel is not None:
            rgb = blurred(rgb, read_kernel(self.kernel))
        if self.scale is not None:
            h, w = (side // self.scale * self.scale for side in rgb.shape[2:])
            alpha = None if picture.alpha is None else picture.alpha[..., :h, :w]
            picture = replace(picture, rgb=picture.rgb[..., :h, :w], alpha=alpha)
            rgb = shrunk(rgb[..., :h, :w], self.scale, self.method, picture.name)
            picture = replace(picture, name=f"{picture.name} at 1/{self.scale}")
        channels = 1 if self.gray or picture.gray else 3
        rgb = luma(rgb) if channels == 1 else rgb  # (B,1 or 3,h,w)
        if self.noise_std:
            rng = torch.Generator().manual_seed(int(self.seed))
            rgb = rgb + self.noise_std * torch.randn(rgb.shape, generator=rng)
        if self.mask is not None:
            hole = read_mask(self.mask, picture.with_rgb(rgb.expand(-1, 3, -1, -1)))  # (1 or B,1,h,w)
            rgb = torch.where(hole > 0, HOLE, rgb)
        if self.jpeg is not None:
            rgb = compressed(rgb, int(self.jpeg))
            if picture.kind == "bytes":  # of a JPEG, they are a JPEG of this quality
                picture = replace(picture, jpeg={"quality": int(self.jpeg)})
        answer = images.like(picture, rgb.expand(-1, 3, -1, -1))
        return Result([answer], Info(self._facts(), round(time.perf_counter() - begin, 2)))

    def _facts(self) -> dict[str, Any]:
        """The options that had an effect, for a report."""
        used = vars(self) | {
            "method": self.scale and self.method,
            "noise_std": self.noise_std or None,
            "gray": self.gray or None,
        }
        used["seed"] = self.seed if self.noise_std else None
        for name in ("kernel", "mask"):
            if not isinstance(used[name], str | os.PathLike | None):
                used[name] = type(used[name]).__name__
        return {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in used.items() if v is not None}


def blurred(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (B,C,H,W) with any kernel (kh,kw), as scipy.ndimage.convolve(mode="reflect"): a b c | c b a."""
    (h, w), (top, left) = x.shape[2:], (side // 2 for side in kernel.shape)
    x = x[..., _mirrored(h, top), :][..., _mirrored(w, left)]  # (B,C,H+2top,W+2left)
    return blur(kernel, x.shape[2:]).A(x)[..., top : top + h, left : left + w]


def _mirrored(n: int, reach: int) -> Tensor:  # (n+2reach,) the index that lies at -reach, ..., n-1+reach
    at = torch.arange(-reach, n + reach) % (2 * n)
    return torch.minimum(at, 2 * n - 1 - at)


def shrunk(x: Tensor, scale: int, method: str, name: str) -> Tensor:
    """(B,C,H,W) -> (B,C,H/scale,W/scale): the operator `restore.operators.downscale`, without decomposing it."""
    h, w = (side // scale for side in x.shape[2:])
    if min(h, w) < 1:
        raise InputError(f"{name} is too small to be shrunk by {scale}: each side needs {scale} pixels")
    return avg_pool2d(x, scale) if method == "average" else interpolate(x, (h, w), mode="bicubic", antialias=True)


def compressed(x: Tensor, quality: int) -> Tensor:
    """(B,1 or 3,H,W) in [0, 1], through JPEG at PIL's `quality` (1 to 100) and its chroma sampling, 4:2:0."""
    if max(x.shape[2:]) > JPEG_SIDE:
        raise InputError(f"JPEG holds at most {JPEG_SIDE} pixels a side, and there are {max(x.shape[2:])}")
    found = []
    for pixels in (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():  # (H,W,C)
        file = BytesIO()
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
        found.append(np.atleast_3d(np.asarray(Image.open(file))))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255


def degrade(
    image: Any,
    *,
    kernel: Any = None,
    scale: int | None = None,
    method: str = "bicubic",
    gray: bool = False,
    noise_std: float = 0.0,
    mask: Any = None,
    jpeg: int | None = None,
    seed: int = 0,
) -> Any:
    """Damage `image` in this order: blur, shrink, make gray, add noise, destroy what is masked, compress; then clip.

    image: any kind that `restore.images.read` takes; the answer is of the same kind, with its depth, transparency and
    metadata. kernel: what `restore.kernels.read_kernel` takes, mirrored at the borders. scale: 2 to 16, by method:
    "bicubic" or "average"; rows and columns over a multiple of it are cut off first, at the bottom and right. gray: to
    three equal channels, of which noise is then added once. noise_std: of white Gaussian noise, on the [0, 1] scale.
    mask: white = destroyed, which is set to mid gray; it fits the shrunk picture, or is resized to it. jpeg: quality, 1
    to 100. seed: of the noise. Raises InputError where none of these is given, and for what does not fit."""
    request = Degrade(
        kernel=kernel, scale=scale, method=method, gray=gray, noise_std=noise_std, mask=mask, jpeg=jpeg, seed=seed
    )
    return request.run(images.read(image)).images[0]
