"""One picture in memory, and the samples that go in and out of it."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import DivergedError, InputError

_TOP = {torch.uint8: 255, torch.uint16: 65535}


@dataclass
class Picture:
    """One picture or a batch in memory, upright, with all that must survive a restoration."""

    rgb: Tensor  # (B,3,H,W) float32 in [0,1], on the CPU
    alpha: Tensor | None = None  # (B,1,H,W) float32 in [0,1]
    depth: int = 8  # bits per sample in a file: 8 or 16; 8 for arrays of floats
    gray: bool = False  # one channel came in, so one goes out
    format: str | None = None  # PIL's name of the file format
    exif: bytes | None = None  # starts with b"Exif\0\0"; orientation 1, no thumbnail
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    jpeg: dict[str, Any] | None = None  # the tables and the chroma sampling of a JPEG of quality 90 or better
    turned: bool = False  # EXIF turned it by 90 degrees: the file stores (W,H)
    name: str = "the picture"  # for messages
    kind: str = "picture"  # what came in: path, bytes, pil, numpy, torch or picture
    source: Any = None  # numpy and torch: what came in; pil: its mode

    @classmethod
    def of(cls, x: Tensor, name: str, **fields: Any) -> Self:
        """From (B,1|2|3|4,H,W) of uint8, uint16 or floats in [0,1]; InputError for anything else."""
        if x.dtype in _TOP:
            x = x.to(torch.float32) / _TOP[x.dtype]
        elif x.is_floating_point():
            low, high = (float(v) for v in x.aminmax())
            if not (low >= 0 and high <= 1):
                raise InputError(f"{name}: floats must lie in [0, 1] without NaN, got {low:g} to {high:g}")
            x = x.to(torch.float32, copy=True)
        else:
            got = str(x.dtype).removeprefix("torch.")
            raise InputError(f"{name}: expected uint8, uint16 or floats in [0, 1], got {got}")
        c = x.shape[1]
        rgb = (x[:, :3] if c > 2 else x[:, :1].expand(-1, 3, -1, -1)).contiguous()
        return cls(rgb, x[:, -1:].contiguous() if c in (2, 4) else None, gray=c < 3, name=name, **fields)

    def with_rgb(self, rgb: Tensor) -> Self:
        """This picture with other colours: `rgb` (B,3,H',W') in [0,1], clipped; of another size, alpha is resized too.

        Raises InputError for another shape, DivergedError for NaN or infinity.
        """
        if rgb.ndim != 4 or rgb.shape[:2] != self.rgb.shape[:2]:
            raise InputError(f"{self.name}: expected rgb of shape {shape_of(self.rgb)}, got {shape_of(rgb)}")
        rgb = rgb.detach().to("cpu", torch.float32)
        if not rgb.isfinite().all():
            raise DivergedError(f"{self.name}: the result holds NaN or infinity")
        alpha = self.alpha
        if alpha is not None and alpha.shape[2:] != rgb.shape[2:]:
            alpha = interpolate(alpha, rgb.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
        return replace(self, rgb=rgb.clamp(0, 1), alpha=alpha)

    def samples(self, dtype: torch.dtype) -> Tensor:
        """(B,C,H,W) in `dtype`, integers over their full range: gray, gray + alpha, RGB or RGBA."""
        x = luma(self.rgb) if self.gray else self.rgb
        x = x if self.alpha is None else torch.cat([x, self.alpha], dim=1)
        return (x * _TOP[dtype]).round().to(dtype) if dtype in _TOP else x.to(dtype)

    def pixels(self) -> np.ndarray:
        """The first picture as (H,W) or (H,W,2|3|4) of uint8 or uint16, by depth."""
        deep = self.depth == 16
        # 16-bit gray with alpha is beyond PIL and OpenCV
        held = replace(self, gray=False) if deep and self.alpha is not None else self
        x = held.samples(torch.uint16 if deep else torch.uint8)[0].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(x[..., 0] if x.shape[-1] == 1 else x)


def luma(rgb: Tensor) -> Tensor:
    """(B,3,H,W) -> (B,1,H,W): Rec. 601, and exact where the channels agree."""
    r, g, b = rgb.split(1, dim=1)
    return torch.where((r == g) & (g == b), g, 0.299 * r + 0.587 * g + 0.114 * b)


def shape_of(x: Tensor | np.ndarray) -> str:
    """For messages: (1, 3, 37, 53)."""
    return f"({', '.join(map(str, x.shape))})"


def one_line(e: Exception) -> str:
    """The message of an error of another library, for ours."""
    return " ".join(str(e).split()) or type(e).__name__
