"""Between images in [0, 1] and the space that a network lives in."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Codec(Protocol):
    """A pair of maps between images in [0, 1] and model space, and what they do to sizes and to noise."""

    factor: int  # image pixels per model pixel, along each side
    channels: int  # of model space
    latent: bool  # whether model space is a learnt code: not linear in the image, its pixels not those of the image

    def encode(self, image: Tensor) -> Tensor:
        """(B,3,H,W) in [0, 1] -> (B,C,H/factor,W/factor) in model space."""

    def decode(self, x: Tensor) -> Tensor:
        """The inverse of `encode`, as well as it goes; not clamped."""

    def std(self, noise_std: float) -> float:
        """A standard deviation on the [0, 1] scale -> model units. The one place where they are turned."""

    def agrees(self, other: Codec) -> bool:
        """Whether the two have one model space in common."""

    def to(self, device: torch.device) -> None:
        """Move to a device."""


class Pixels:
    """Model space is the image itself on the scale [-1, 1]."""

    factor = 1
    channels = 3
    latent = False

    def encode(self, image: Tensor) -> Tensor:
        return image * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        return (x + 1) / 2

    def std(self, noise_std: float) -> float:
        return 2 * noise_std

    def agrees(self, other: Codec) -> bool:
        return isinstance(other, Pixels)

    def to(self, device: torch.device) -> None:
        """Nothing to move."""
