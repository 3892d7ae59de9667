"""Convolutions, diagonal in a fast transform: periodic in the Hartley basis, mirrored in the cosine basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from restore.errors import InputError
from restore.operators.base import Operator
from restore.operators.kron import checked, resolved


class Fourier(Operator):
    """Circular convolution by any real kernel (kh,kw), its centre at (kh // 2, kw // 2): O(n log n), O(n) memory.

    Equals scipy.ndimage.convolve(mode="wrap") on images of `size` (H,W) with any channels. V is the orthonormal 2-D
    Hartley transform, the real form of Fourier's; s = |transfer function|; its phase is in U. In the precision of the
    kernel. Raises InputError for a kernel that is not (kh,kw), larger than the image, not finite, or sums to 0."""

    def __init__(self, kernel: Tensor, size: tuple[int, int]) -> None:
        kernel = _fitting(kernel, size)
        h, w = kernel.shape
        whole = torch.zeros(size, dtype=torch.float64, device=kernel.device)
        whole[:h, :w] = kernel
        transfer = torch.fft.rfft2(whole.roll((-(h // 2), -(w // 2)), (0, 1)))  # (H,W // 2 + 1)
        size_of = transfer.abs()
        s = resolved(_joined(size_of, size_of, size[1]).to(kernel))
        self.s = s * (_negated(s) > 0)  # (H,W); conjugates fall to rounding errors together
        self.phase = torch.view_as_real(transfer.sgn() * (self.s > 0)[:, : size[1] // 2 + 1]).to(kernel)  # e^{i phi}

    def vt(self, x: Tensor) -> Tensor:
        return _hartley(torch.fft.rfft2(x, norm="ortho"), x.shape[-1])

    def v(self, z: Tensor) -> Tensor:
        return self.vt(z)  # the Hartley transform is its own inverse

    def ut(self, y: Tensor) -> Tensor:
        turned = torch.view_as_complex(self.phase).conj() * torch.fft.rfft2(y, norm="ortho")
        return _hartley(turned, y.shape[-1])

    def u(self, z: Tensor) -> Tensor:
        turned = torch.view_as_complex(self.phase) * _fourier(z)
        return torch.fft.irfft2(turned, s=z.shape[-2:], norm="ortho")


def _negated(z: Tensor) -> Tensor:
    """z at the negated frequencies -k mod (H,W)."""
    return z.flip((-2, -1)).roll((1, 1), (-2, -1))


def _joined(here: Tensor, there: Tensor, width: int) -> Tensor:
    """(...,H,W) from its left half (...,H,W // 2 + 1) and the values at the negated frequencies of that half."""
    return torch.cat([here, there[..., 1 : (width + 1) // 2].flip((-2, -1)).roll(1, -2)], -1)


def _hartley(f: Tensor, width: int) -> Tensor:
    """Re - Im of a spectrum of real values, from its half (...,H,W // 2 + 1): (...,H,W)."""
    return _joined(f.real - f.imag, f.real + f.imag, width)


def _fourier(z: Tensor) -> Tensor:
    """The half (...,H,W // 2 + 1) of the spectrum whose Hartley coefficients are z (...,H,W)."""
    half = z.shape[-1] // 2 + 1
    here, there = z[..., :half], _negated(z)[..., :half]
    return torch.complex((here + there) / 2, (there - here) / 2)


class Cosine(Operator):
    """Convolution with the boundary that scipy.ndimage calls "reflect" (a b c | c b a), by a kernel that equals its
    mirror images: diagonal in the orthonormal 2-D cosine transform (DCT-II), O(n log n), O(n) memory.

    Equals scipy.ndimage.convolve(mode="reflect") on images of `size` (H,W) with any channels. s = |eigenvalue|; its
    sign is in U. In the precision of the kernel (kh,kw), whose sides are odd. Raises InputError for other kernels."""

    def __init__(self, kernel: Tensor, size: tuple[int, int]) -> None:
        kernel = _fitting(kernel, size)
        slack = 8 * torch.finfo(kernel.dtype).eps * kernel.abs().max()
        mirrored = all((kernel - kernel.flip(dim)).abs().max() <= slack for dim in (0, 1))
        if not mirrored or not kernel.shape[0] % 2 or not kernel.shape[1] % 2:
            raise InputError(
                "a blur with the boundary reflect needs a kernel of odd sides that equals its mirror images: "
                "take the boundary wrap (Fourier), or separable_blur if it is a product of two"
            )
        rows, cols = (_cosines(side, k).to(kernel.device) for side, k in zip(size, kernel.shape, strict=True))
        eigenvalues = (rows @ kernel.double() @ cols.mT).to(kernel)  # (H,W)
        self.s = resolved(eigenvalues.abs())
        self.sign = eigenvalues.sign() * (self.s > 0)

    def vt(self, x: Tensor) -> Tensor:
        return dct(dct(x).mT).mT

    def v(self, z: Tensor) -> Tensor:
        return idct(idct(z).mT).mT

    def ut(self, y: Tensor) -> Tensor:
        return self.sign * self.vt(y)

    def u(self, z: Tensor) -> Tensor:
        return self.v(self.sign * z)


def _cosines(n: int, taps: int) -> Tensor:
    """cos(pi k i / n) of the frequencies k < n at the offsets i of the taps from their centre: (n,taps) float64."""
    k, i = torch.arange(n, dtype=torch.float64), torch.arange(taps, dtype=torch.float64) - taps // 2
    return torch.cos(math.pi / n * k[:, None] * i)


def _twiddle(n: int, like: Tensor) -> Tensor:
    """sqrt(2) e^{-i pi k / 2n}, 1 at k = 0: (n // 2 + 1,), complex in the precision of `like`."""
    k = torch.arange(n // 2 + 1, dtype=torch.float64)
    scale = torch.full_like(k, math.sqrt(2))
    scale[0] = 1
    return torch.polar(scale, -math.pi / (2 * n) * k).to(like.device, like.dtype.to_complex())


def dct(x: Tensor) -> Tensor:
    """The orthonormal DCT-II along the last dimension (...,n), by one FFT of n values: Makhoul 1980."""
    n = x.shape[-1]
    f = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1), norm="ortho")
    f = f * _twiddle(n, x)
    return torch.cat([f.real, -f.imag[..., 1 : (n + 1) // 2].flip(-1)], -1)


def idct(z: Tensor) -> Tensor:
    """The inverse of `dct`: the orthonormal DCT-III along the last dimension (...,n)."""
    n = z.shape[-1]
    mirrored = pad(z.flip(-1)[..., : n // 2], (1, 0))  # z[n - k], 0 at k = 0
    f = torch.complex(z[..., : n // 2 + 1], -mirrored) / _twiddle(n, z)
    folded = torch.fft.irfft(f, n=n, norm="ortho")
    x = torch.empty_like(folded)
    x[..., ::2], x[..., 1::2] = folded[..., : (n + 1) // 2], folded[..., (n + 1) // 2 :].flip(-1)
    return x


def blur(
    kernel: Tensor,
    size: tuple[int, int],
    boundary: str = "wrap",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Fourier | Cosine:
    """Convolve images of `size` (H,W) with a kernel (kh,kw), which is not normalised.

    boundary: "wrap" (periodic, any kernel) or "reflect" (mirrored, for kernels that equal their mirror images), as
    scipy.ndimage names them. Raises InputError for another boundary, or a kernel that does not do."""
    if boundary not in ("wrap", "reflect"):
        raise InputError(f"unknown boundary {boundary!r} of a blur: choose wrap or reflect, or take separable_blur")
    return (Fourier if boundary == "wrap" else Cosine)(kernel.to("cpu", dtype), size).to(device)


def _fitting(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """The kernel, checked; InputError where it is not (kh,kw) or larger than the image (H,W)."""
    if kernel.ndim != 2:
        raise InputError(f"a blur takes a kernel (kh,kw), not one of shape {tuple(kernel.shape)}: see separable_blur")
    if kernel.shape[0] > size[0] or kernel.shape[1] > size[1]:
        shown = f"a blur kernel of {kernel.shape[0]}x{kernel.shape[1]} pixels"
        raise InputError(f"{shown} is larger than the image of {size[0]}x{size[1]}: take a smaller one")
    return checked(kernel)
