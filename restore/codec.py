"""Between images in [0, 1] and the space that a network lives in."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """A pair of maps between images in [0, 1] and model space, and what they do to sizes and to noise."""

    factor: int  # image pixels per model pixel, along each side

    def encode(self, image: Tensor) -> Tensor:
        """(B,3,H,W) in [0, 1] -> (B,C,H/factor,W/factor) in model space."""

    def decode(self, x: Tensor) -> Tensor:
        """The inverse of `encode`, not clamped."""

    def std(self, noise_std: float) -> float:
        """A standard deviation on the [0, 1] scale -> model units. The one place where they are turned."""


class Pixels:
    """Model space is the image itself on the scale [-1, 1]."""

    factor = 1

    def encode(self, image: Tensor) -> Tensor:
        return image * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        return (x + 1) / 2

    def std(self, noise_std: float) -> float:
        return 2 * noise_std
