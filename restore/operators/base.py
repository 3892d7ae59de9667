"""What an operator is: a linear map with its adjoint; with a singular value decomposition, where that is cheap."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from restore.errors import InputError


class Linear(ABC):
    """A linear map A and its adjoint; what needs more is found by conjugate gradients.

    Calls in the tensor's own precision: float32 or float64, as that of the map."""

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """The measurement of an image (B,C,H,W), without noise."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: measurement -> image."""

    def pinv(self, y: Tensor) -> Tensor:
        """The pseudo-inverse A^+ y: the least-squares image of smallest norm."""
        return conjugate_gradients(self.A, self.adjoint, y)

    def proximal(self, z: Tensor, y: Tensor, weight: float) -> Tensor:
        """argmin_x |A x - y|^2 + weight |x - z|^2 (B,C,H,W); at weight 0 the point of {A x = y} nearest to z."""
        return z + conjugate_gradients(self.A, self.adjoint, y - self.A(z), weight)

    def __matmul__(self, first: Linear) -> Linear:
        """The composition: (self @ first).A(x) = self.A(first.A(x))."""
        return Composed(self, first)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """A copy on another device or in another precision: the arguments of `torch.Tensor.to`."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Linear) or (isinstance(value, Tensor) and value.is_floating_point()):
                setattr(other, name, value.to(*args, **kwargs))
            elif isinstance(value, Tensor):  # indices: their type stays
                setattr(other, name, value.to(value.new_empty(0, dtype=torch.float32).to(*args, **kwargs).device))
        return other


class Operator(Linear):
    """A linear map by its singular value decomposition A = U S V^T: A(x) = u(s * vt(x)).

    s broadcasts against vt(x), is never negative, and is 0 on the null space; ut(y) is zero-padded to the shape of
    vt(x), so that every algorithm in the spectral basis is element-wise. vt is orthogonal: v is its inverse."""

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
        return self.u(self.s * self.vt(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.v(self.s * self.ut(y))

    def pinv(self, y: Tensor) -> Tensor:
        return self.v(inverse(self.s) * self.ut(y))

    def proximal(self, z: Tensor, y: Tensor, weight: float) -> Tensor:
        z_bar, seen = self.vt(z), self.s > 0
        solved = (self.s * self.ut(y) + weight * z_bar) / torch.where(seen, self.s**2 + weight, 1)
        return self.v(torch.where(seen, solved, z_bar))


def inverse(s: Tensor) -> Tensor:
    """1 / s, and 0 where s is 0."""
    return torch.where(s > 0, 1 / torch.where(s > 0, s, 1), 0)


def decomposed(op: Linear, who: str) -> Operator:
    """`op`, if it knows its singular values; InputError, saying that the algorithm `who` needs them, if not."""
    if not isinstance(op, Operator):
        raise InputError(f"{who} needs the singular values of its operator, and {type(op).__name__} has none: use dpir")
    return op


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


class Composed(Linear):
    """`last` after `first`: what has no cheap singular value decomposition of its own.

    `Mask(window) @ Fourier(kernel, size)` is a blur seen in a window: nothing is assumed of what lies beyond it.
    tolerance: at what share of its first gradient `proximal` is content, where `first` preconditions it."""

    def __init__(self, last: Linear, first: Linear, tolerance: float | None = None) -> None:
        self.last, self.first, self.tolerance = last, first, tolerance

    def A(self, x: Tensor) -> Tensor:
        return self.last.A(self.first.A(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.first.adjoint(self.last.adjoint(y))

    def proximal(self, z: Tensor, y: Tensor, weight: float) -> Tensor:
        first = self.first
        if not isinstance(first, Operator) or not weight:
            return super().proximal(z, y, weight)
        filtered = 1 / (first.s**2 + weight)  # what the inverse would be, were `last` the identity
        return z + preconditioned(
            lambda d: self.adjoint(self.A(d)) + weight * d,
            self.adjoint(y - self.A(z)),
            lambda g: first.v(filtered * first.vt(g)),
            self.tolerance,
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:  # (B,)
    return (a * b).flatten(1).sum(1)


def _each(scale: Tensor, a: Tensor) -> Tensor:
    return scale.reshape(-1, *(1,) * (a.ndim - 1)) * a


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), 0)


def preconditioned(
    H: Callable[[Tensor], Tensor],
    b: Tensor,
    nearly: Callable[[Tensor], Tensor],
    tolerance: float | None = None,
    steps: int = 300,
) -> Tensor:
    """The solution of H x = b, H symmetric and positive, by conjugate gradients (Saad 2003, algorithm 9.1).

    nearly: an approximation of H^-1, symmetric and positive too. Each member of the batch goes by itself, and ends
    where its gradient has fallen to `tolerance` of the first (by default to b's rounding errors)."""
    gradient, q = b, nearly(b)
    x, p, size = torch.zeros_like(b), q, _dot(b, q)
    least = size * (tolerance or 4 * torch.finfo(b.dtype).eps) ** 2
    for _ in range(steps):
        if (size <= least).all():
            break
        q = H(p)
        step = torch.where(size > least, _ratio(size, _dot(p, q)), 0)
        x, gradient = x + _each(step, p), gradient - _each(step, q)
        q = nearly(gradient)
        size, before = _dot(gradient, q), size
        p = q + _each(_ratio(size, before), p)
    return x


def conjugate_gradients(
    A: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    weight: float = 0.0,
    steps: int = 300,
) -> Tensor:
    """argmin_x |A x - y|^2 + weight |x|^2, each member of the batch by itself (CGLS: Paige and Saunders 1982, sect. 5).

    At weight 0 it goes to the solution of smallest norm. Ends after `steps`, or where the gradient has fallen to the
    rounding errors of y's precision."""
    residual, gradient = y, adjoint(y)
    x, p, size = torch.zeros_like(gradient), gradient, _dot(gradient, gradient)
    least = size * (4 * torch.finfo(y.dtype).eps) ** 2
    for _ in range(steps):
        if (size <= least).all():
            break
        q = A(p)
        step = torch.where(size > least, _ratio(size, _dot(q, q) + weight * _dot(p, p)), 0)
        x, residual = x + _each(step, p), residual - _each(step, q)
        gradient = adjoint(residual) - weight * x
        size, before = _dot(gradient, gradient), size
        p = gradient + _each(_ratio(size, before), p)
    return x
