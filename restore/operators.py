"""Linear operators A = U S V^T that know their SVD."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from restore.errors import InputError


class Operator(ABC):
    """A linear map by its singular value decomposition: A(x) = u(s * vt(x)).

    s broadcasts against vt(x) and is 0 on the null space; ut(y) is zero-padded to the shape of vt(x), so that every
    algorithm in the spectral basis is element-wise."""

    s: Tensor

    @abstractmethod
    def vt(self, x: Tensor) -> Tensor:
        """V^T x: image (B,C,H,W) -> spectral coefficients."""

    @abstractmethod
    def v(self, z: Tensor) -> Tensor:
        """V z: spectral coefficients -> image (B,C,H,W)."""

    @abstractmethod
    def ut(self, y: Tensor) -> Tensor:
        """U^T y: measurement -> spectral coefficients, 0 where there is no singular vector."""

    @abstractmethod
    def u(self, z: Tensor) -> Tensor:
        """U z: spectral coefficients -> measurement."""

    def A(self, x: Tensor) -> Tensor:
        """The measurement of an image, without noise."""
        return self.u(self.s * self.vt(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""
        return self.v(self.s * self.ut(y))

    def pinv(self, y: Tensor) -> Tensor:
        """The Moore-Penrose pseudo-inverse A^+ y: the least-squares image of smallest norm."""
        return self.v(inverse(self.s) * self.ut(y))


def inverse(s: Tensor) -> Tensor:
    """1 / s, and 0 where s is 0."""
    return torch.where(s > 0, 1 / torch.where(s > 0, s, 1), 0)


class Mask(Operator):
    """Keep the pixels where the mask is 1: A(x) = mask * x, in the pixels' own basis; measurements are image-shaped.

    known: (H,W), (C,H,W) or (B,C or 1,H,W) of 0 and 1, or of booleans; 1 = measured. A mask of ones is the identity,
    whose inverse problem is denoising. Raises InputError for other values."""

    def __init__(self, known: Tensor) -> None:
        known = known if known.is_floating_point() else known.float()
        if not ((known == 0) | (known == 1)).all():
            raise InputError("a mask operator takes 0 (unknown) and 1 (measured) only: threshold the mask first")
        self.s = known.reshape((1,) * (4 - known.ndim) + tuple(known.shape)) if known.ndim < 4 else known

    def vt(self, x: Tensor) -> Tensor:
        return x

    def v(self, z: Tensor) -> Tensor:
        return z

    def ut(self, y: Tensor) -> Tensor:
        return self.s * y

    def u(self, z: Tensor) -> Tensor:
        return self.s * z
