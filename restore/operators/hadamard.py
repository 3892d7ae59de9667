"""Compressed sensing by the fast Walsh-Hadamard transform."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from restore.errors import InputError
from restore.operators.base import Operator

RADIX = 6  # log2 of the side of the small matrices that the transform is made of


class Hadamard(Operator):
    """Random +-1 measurements: permute the pixels, Walsh-Hadamard transform, keep `measured` random rows; (B,C,m).

    size: (H,W); the same permutation and rows serve each of any number of channels. measured: a count of pixels, or a
    share in (0,1] of them. Rows are orthonormal, so that s is 1 where it is measured. Any number of pixels: the
    permuted ones are split into blocks of powers of two, each with a transform of its own. O(n log n), O(n) memory.
    Differs from the compressed sensing of Kawar et al. 2022, which takes square powers of two only, and does not
    permute the pixels before the transform, so that its rows are Walsh functions of the image as it lies there.
    Raises InputError for a count or a share out of range."""

    def __init__(
        self, size: tuple[int, int], measured: int | float, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        n = size[0] * size[1]
        count = measured if isinstance(measured, Integral) else max(1, round(measured * n)) if 0 < measured <= 1 else 0
        if isinstance(measured, bool) or not 1 <= count <= n:
            raise InputError(f"cannot measure {measured!r} of {n} pixels: give a count of them, or a share in (0, 1]")
        rng = torch.Generator().manual_seed(seed)
        self.size = tuple(size)
        self.order = torch.randperm(n, generator=rng)
        self.rows = torch.randperm(n, generator=rng)[: int(count)].sort().values  # (m,)
        self.s = torch.zeros(n, dtype=dtype)
        self.s[self.rows] = 1

    def vt(self, x: Tensor) -> Tensor:
        return _blocks(x.flatten(-2)[..., self.order])  # (B,C,n)

    def v(self, z: Tensor) -> Tensor:
        return torch.empty_like(z).index_copy_(-1, self.order, _blocks(z)).unflatten(-1, self.size)

    def ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(*y.shape[:-1], len(self.s))
        z[..., self.rows] = y
        return z

    def u(self, z: Tensor) -> Tensor:
        return z[..., self.rows]


def _blocks(x: Tensor) -> Tensor:
    """The Walsh-Hadamard transform of each of the blocks that the binary digits of n give; its own inverse. (...,n)"""
    n = x.shape[-1]
    sizes = [1 << bit for bit in reversed(range(n.bit_length())) if n >> bit & 1]
    return torch.cat([walsh(part) for part in x.split(sizes, -1)], -1)


def walsh(x: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform along the last dimension, a power of two, in the order of Sylvester.

    H_n is a Kronecker product of small ones: each pass transforms the last digit of the index and moves it to the
    front, so that after all of them the digits stand as they stood."""
    n = x.shape[-1]
    bits = n.bit_length() - 1
    while bits:
        side = 1 << min(bits, RADIX)
        bits -= min(bits, RADIX)
        x = (x.unflatten(-1, (n // side, side)) @ _sylvester(side, x)).mT.flatten(-2)
    return x


def _sylvester(n: int, like: Tensor) -> Tensor:
    """The orthonormal Hadamard matrix (n,n)."""
    k = torch.arange(n)
    common = k[:, None] & k
    odd = sum((common >> bit) & 1 for bit in range(n.bit_length())) % 2
    return ((1.0 - 2 * odd).to(like)) / n**0.5
