"""Kronecker products: what acts on the channels, the rows and the columns of an image apart from one another."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from restore.errors import InputError
from restore.operators.base import Linear, Operator

LUMA = (0.299, 0.587, 0.114)  # Rec. 601


class Matrix(Operator):
    """A matrix (m,n) along the last dimension: (...,n) -> (...,m). Set-up O(n^2 min(m,n)), memory O(n^2 + mn).

    Computed in float64, then in the matrix's own precision; singular values below numpy.linalg.matrix_rank's
    tolerance for it are 0. Raises InputError for what is no finite matrix."""

    def __init__(self, matrix: Tensor) -> None:
        matrix = matrix if matrix.is_floating_point() else matrix.float()
        if matrix.ndim != 2 or not matrix.numel() or not matrix.isfinite().all():
            raise InputError(f"an operator's matrix is (outputs,inputs) and finite, not of shape {tuple(matrix.shape)}")
        a = matrix.double()
        m, n = a.shape
        if m < n:  # A = (Q R)^T: the small R^T = U S W^T has U and S of A, and V is [Q W, the rest of the complete Q]
            q, r = torch.linalg.qr(a.mT, mode="complete")  # (n,n), (n,m)
            u, s, wt = torch.linalg.svd(r[:m].mT)
            v = torch.cat([q[:, :m] @ wt.mT, q[:, m:]], 1)
        else:
            u, s, vt = torch.linalg.svd(a, full_matrices=False)
            v = vt.mT
        s = torch.where(s > s.max() * max(m, n) * torch.finfo(matrix.dtype).eps, s, 0)
        self.matrix = matrix
        self.s = pad(s, (0, n - len(s))).to(matrix)  # (n,)
        bases = (torch.where(basis.abs() > 1e-20, basis, 0) for basis in (u * (s > 0), v))  # no slow subnormal numbers
        u, v = (basis.to(matrix) for basis in bases)
        self.left, self.right = u, v  # (m,min(m,n)), 0 where there is no singular vector; (n,n)

    def A(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix

    def vt(self, x: Tensor) -> Tensor:
        return x @ self.right

    def v(self, z: Tensor) -> Tensor:
        return z @ self.right.mT

    def ut(self, y: Tensor) -> Tensor:
        return pad(y @ self.left, (0, len(self.s) - self.left.shape[1]))

    def u(self, z: Tensor) -> Tensor:
        return z[..., : self.left.shape[1]] @ self.left.mT


class Block(Operator):
    """The mean of every k neighbours along the last dimension: (...,n) -> (...,n // k), without what is left over.

    V is one Householder reflection in each block, which takes e_1 to (1,...,1) / sqrt(k): O(1) per pixel."""

    def __init__(self, n: int, k: int, dtype: torch.dtype = torch.float32) -> None:
        self.k, self.m = k, n // k
        self.s = torch.zeros(n, dtype=dtype)
        self.s[: self.m * k : k] = k**-0.5
        normal = torch.full((k,), k**-0.5, dtype=torch.float64)
        normal[0] -= 1
        self.normal = (normal / normal.norm()).to(dtype)  # (k,), equal but for the first

    def vt(self, x: Tensor) -> Tensor:
        z = x.clone()
        blocks = z[..., : self.m * self.k].unflatten(-1, (self.m, self.k))
        first, other = self.normal[0], self.normal[-1]
        dots = other * blocks.sum(-1, keepdim=True) + (first - other) * blocks[..., :1]
        blocks.addcmul_(dots, self.normal, value=-2)
        return z

    def v(self, z: Tensor) -> Tensor:
        return self.vt(z)  # a reflection is its own inverse

    def ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(*y.shape[:-1], len(self.s))
        z[..., : self.m * self.k : self.k] = y
        return z

    def u(self, z: Tensor) -> Tensor:
        return z[..., : self.m * self.k : self.k]


Axis = Matrix | Block


class Kron(Operator):
    """channels (x) rows (x) cols, each a matrix (out,in) or None, the identity of any size: (B,C,H,W) -> (B,C',H',W').

    Its singular vectors are the products of theirs; products of singular values that drown in rounding errors are 0.
    Equal factors are decomposed once. The composition of two of these is a third one."""

    def __init__(
        self,
        channels: Tensor | Axis | None = None,
        rows: Tensor | Axis | None = None,
        cols: Tensor | Axis | None = None,
    ) -> None:
        same = isinstance(rows, Tensor) and isinstance(cols, Tensor) and torch.equal(rows, cols)
        channels, rows = (Matrix(a) if isinstance(a, Tensor) else a for a in (channels, rows))
        cols = rows if same else Matrix(cols) if isinstance(cols, Tensor) else cols
        s = torch.ones(())
        for axis, shape in ((channels, (-1, 1, 1)), (rows, (-1, 1)), (cols, (-1,))):
            s = s if axis is None else s * axis.s.reshape(shape)
        self.s = resolved(s)  # broadcasts to (C,H,W)
        self.channels, self.rows, self.cols = (a and a.to(s.dtype) for a in (channels, rows, cols))
        seen = self.s[self.s > 0]
        self.even = not seen.numel() or float(seen.min()) > 0.01 * float(seen.max())  # well-conditioned

    def _along(self, what: str, x: Tensor) -> Tensor:
        """One of the methods of each factor, along its own dimension."""
        for dim, axis in ((-3, self.channels), (-2, self.rows), (-1, self.cols)):
            if axis is not None:
                x = getattr(axis, what)(x.movedim(dim, -1)).movedim(-1, dim)
        return x

    def A(self, x: Tensor) -> Tensor:
        return self._along("A", x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._along("adjoint", y)

    def vt(self, x: Tensor) -> Tensor:
        return self._along("vt", x)

    def v(self, z: Tensor) -> Tensor:
        return self._along("v", z)

    def ut(self, y: Tensor) -> Tensor:
        return (self.s > 0) * self._along("ut", y)

    def u(self, z: Tensor) -> Tensor:
        return self._along("u", (self.s > 0) * z)

    def proximal(self, z: Tensor, y: Tensor, weight: float) -> Tensor:
        """By U alone, which is small where A shrinks: x = z + A^T U (S^2 + weight)^-1 U^T (y - A z)."""
        if not self.even:  # rounding errors would grow by 1 / s
            return super().proximal(z, y, weight)
        gain = torch.where(self.s > 0, 1 / torch.where(self.s > 0, self.s**2 + weight, 1), 0)
        return z + self.adjoint(self.u(gain * self.ut(y - self.A(z))))

    def __matmul__(self, first: Linear) -> Linear:
        if not isinstance(first, Kron):
            return super().__matmul__(first)
        pairs = ((self.channels, first.channels), (self.rows, first.rows), (self.cols, first.cols))
        return Kron(*(_product(a, b) for a, b in pairs))


def _product(last: Axis | None, first: Axis | None) -> Tensor | Axis | None:
    """The matrix of `last` after `first`."""
    if last is None or first is None:
        return first if last is None else last
    columns = first.A(torch.eye(len(first.s)).to(first.s))  # (n,m): the transposed matrix of `first`
    if columns.shape[1] != len(last.s):
        given, taken = columns.shape[1], len(last.s)
        raise InputError(f"operators do not fit: the first gives {given} values along a side, the last takes {taken}")
    dtype = torch.promote_types(first.s.dtype, last.s.dtype)
    return last.to(dtype).A(columns.to(dtype)).mT


def resolved(s: Tensor) -> Tensor:
    """Singular values with those set to 0 that drown in the rounding errors of their precision."""
    return torch.where(s > 16 * torch.finfo(s.dtype).eps * s.max(), s, 0)


# ---------------------------------------------------------------- degradations


def downscale(
    factor: int,
    size: tuple[int, int],
    method: str = "bicubic",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Kron:
    """Shrink images of `size` (H,W) by a whole factor to (H // factor, W // factor).

    method: "bicubic" is torch's interpolate(mode="bicubic", antialias=True), close to Matlab's imresize; "average" is
    avg_pool2d, which leaves pixels that fill no block unmeasured. Raises InputError for another method, a factor that
    is not a whole number of at least 2, or a side that is shorter than it."""
    if isinstance(factor, bool) or not isinstance(factor, Integral) or factor < 2:
        raise InputError(f"cannot shrink by {factor!r}: give a whole number of at least 2")
    factor = int(factor)
    if min(size) < factor:
        raise InputError(f"an image of {size[0]}x{size[1]} pixels (HxW) cannot be shrunk by {factor}: it is too small")
    if method not in ("bicubic", "average"):
        raise InputError(f"unknown method {method!r} of shrinking: choose bicubic or average")
    axes = {
        side: Block(side, factor, dtype) if method == "average" else Matrix(_bicubic(side, factor)).to(dtype)
        for side in set(size)
    }
    return Kron(None, *(axes[side] for side in size)).to(device)


def _bicubic(n: int, factor: int) -> Tensor:
    """The matrix (n // factor,n) of torch's interpolate along one dimension."""
    eye = torch.eye(n, dtype=torch.float64)[None, None]
    return interpolate(eye, size=(n // factor, n), mode="bicubic", antialias=True)[0, 0]


def grayscale(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Kron:
    """The luma of Rec. 601 as the only channel of an RGB image of any size: (B,3,H,W) -> (B,1,H,W)."""
    return Kron(Matrix(torch.tensor([LUMA], dtype=torch.float64)).to(dtype)).to(device)


def separable_blur(kernel: Tensor, size: tuple[int, int], boundary: str = "reflect") -> Kron:
    """Convolve rows and columns of images of `size` (H,W) with one kernel (k,), whose centre is at k // 2.

    boundary: "reflect", "wrap", "nearest" or "constant" (zeros), as in scipy.ndimage. In the precision of the kernel.
    Set-up is O(side^3): where `blur` knows the kernel and the boundary it is much cheaper. Raises InputError for
    another boundary, or a kernel that is not (k,), not finite or sums to 0."""
    if boundary not in ("reflect", "wrap", "nearest", "constant"):
        raise InputError(f"unknown boundary {boundary!r}: choose reflect, wrap, nearest or constant")
    if kernel.ndim != 1:
        raise InputError(f"a separable blur takes a kernel (k,), not one of shape {tuple(kernel.shape)}: see blur")
    kernel = checked(kernel)
    return Kron(None, *(_convolution(kernel, side, boundary) for side in size))


def _convolution(kernel: Tensor, n: int, boundary: str) -> Tensor:
    """The matrix (n,n) of a convolution along one dimension."""
    k = len(kernel)
    at = torch.arange(n)[:, None] + k // 2 - torch.arange(k)  # (n,k) the pixel that each tap sees
    weight = kernel.cpu().expand(n, k)
    if boundary == "constant":
        weight = weight * ((at >= 0) & (at < n))
    if boundary == "wrap":
        at = at % n
    elif boundary == "reflect":  # ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
        at = torch.minimum(at % (2 * n), 2 * n - 1 - at % (2 * n))
    return torch.zeros(n, n, dtype=kernel.dtype).scatter_add_(1, at.clamp(0, n - 1), weight).to(kernel.device)


def checked(kernel: Tensor) -> Tensor:
    """A blur kernel in floating point; InputError where it sums to 0 or is not finite."""
    kernel = kernel if kernel.is_floating_point() else kernel.float()
    if not kernel.isfinite().all():
        raise InputError("the blur kernel holds NaN or infinity: give finite weights")
    if not kernel.sum().abs() > torch.finfo(kernel.dtype).eps * kernel.abs().sum():
        raise InputError("the blur kernel sums to 0, so that it loses the brightness of the image: give another one")
    return kernel
