"""Any small matrix on the flattened image."""

from __future__ import annotations

from torch import Tensor

from restore.errors import InputError
from restore.operators.base import Operator
from restore.operators.kron import Matrix

LIMIT = 8192  # values of an image: V alone takes 8 LIMIT^2 bytes


class Dense(Operator):
    """A matrix (m,C*H*W) on the flattened image, by its full singular value decomposition: (B,C,H,W) -> (B,m).

    shape: (C,H,W). Coefficients are (B,C*H*W); m may be any number. Set-up O(n^2 min(m,n)), memory O(n^2) for n =
    C*H*W. Raises InputError for a matrix that does not fit the image, or for images of more than 8192 values."""

    def __init__(self, matrix: Tensor, shape: tuple[int, int, int]) -> None:
        c, h, w = shape
        if c * h * w > LIMIT:
            raise InputError(
                f"an image of {c}x{h}x{w} values is too large for Dense, which takes {LIMIT}: "
                "take Mask, Kron, Fourier, Cosine or Hadamard, or their compositions"
            )
        if matrix.ndim != 2 or matrix.shape[1] != c * h * w:
            raise InputError(f"a matrix of shape {tuple(matrix.shape)} does not fit an image of {c}x{h}x{w} values")
        self.axis, self.shape = Matrix(matrix), tuple(shape)
        self.s = self.axis.s  # (C*H*W,)

    def vt(self, x: Tensor) -> Tensor:
        return self.axis.vt(x.flatten(1))

    def v(self, z: Tensor) -> Tensor:
        return self.axis.v(z).unflatten(1, self.shape)

    def ut(self, y: Tensor) -> Tensor:
        return self.axis.ut(y)

    def u(self, z: Tensor) -> Tensor:
        return self.axis.u(z)
