"""Kronecker products against torch's resizing, scipy's convolutions and dense algebra."""

import numpy as np
import pytest
import torch
from conftest import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from test_operators import Identities, close, each, matrix
from torch.nn.functional import avg_pool2d, interpolate

from restore.errors import InputError
from restore.operators import Composed, Kron, Mask, downscale, grayscale, inverse, separable_blur
from restore.operators.kron import Block

F64 = torch.float64
TAPS = torch.tensor([0.1, 0.35, 0.4, 0.15], dtype=F64)
BOUNDARIES = ["reflect", "wrap", "nearest", "constant"]
few = settings(max_examples=25, deadline=None, derandomize=True)


def shrink(*args, **options):
    return downscale(*args, dtype=F64, **options)


def deficient(m, n, rank):
    return normal(m, rank) @ normal(rank, n, seed=1)


class TestKron(Identities):
    case = each(
        {
            "wide": (Kron(normal(2, 3), normal(3, 5), normal(4, 7)), (3, 5, 7)),
            "tall": (Kron(normal(4, 2), normal(6, 4), normal(7, 5)), (2, 4, 5)),
            "both": (Kron(normal(1, 3), normal(6, 4), normal(2, 5)), (3, 4, 5)),
            "square": (Kron(rows=normal(5, 5), cols=normal(5, 5)), (1, 5, 5)),
            "rank": (Kron(deficient(4, 3, 1), deficient(3, 5, 2), deficient(6, 4, 3)), (3, 5, 4)),
            "channels": (Kron(normal(2, 4)), (4, 2, 3)),
            "rows": (Kron(rows=normal(3, 5)), (2, 5, 4)),
            "columns": (Kron(cols=normal(6, 5)), (2, 3, 5)),
            "zero": (Kron(rows=torch.zeros(3, 5, dtype=F64)), (1, 5, 3)),
            "identity": (Kron().to(F64), (2, 3, 4)),
        }
    )


class TestDegradations(Identities):
    case = each(
        {
            "average": (shrink(2, (4, 6), method="average"), (3, 4, 6)),
            "average, pixels left over": (shrink(3, (7, 8), method="average"), (2, 7, 8)),
            "average of all": (shrink(5, (5, 9), method="average"), (1, 5, 9)),
            "bicubic": (shrink(4, (8, 12)), (2, 8, 12)),
            "bicubic, odd": (shrink(2, (7, 9)), (1, 7, 9)),
            "bicubic to one": (shrink(5, (5, 6)), (1, 5, 6)),
            "grayscale": (grayscale(F64), (3, 4, 3)),
            "gray and small": (grayscale(F64) @ shrink(2, (5, 6), method="average"), (3, 5, 6)),
            "small and blurred": (shrink(2, (6, 7)) @ separable_blur(TAPS, (6, 7)), (1, 6, 7)),
            "twice": (shrink(2, (3, 4), method="average") @ shrink(2, (7, 8), method="average"), (1, 7, 8)),
            "blur, reflect": (separable_blur(TAPS, (5, 7)), (1, 5, 7)),
            "blur, wrap": (separable_blur(TAPS[:3], (6, 5), "wrap"), (2, 6, 5)),
            "blur, nearest": (separable_blur(TAPS, (5, 5), "nearest"), (1, 5, 5)),
            "blur, constant": (separable_blur(torch.tensor([0.2, 0.7, 0.1], dtype=F64), (4, 7), "constant"), (1, 4, 7)),
        }
    )


# ---------------------------------------------------------------- the libraries' own


def test_averages_along_one_side():
    x = normal(2, 3, 7, 5)
    close(Kron(rows=Block(7, 3, F64)).A(x), avg_pool2d(x, (3, 1)), 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("factor", "size"), [(2, (8, 6)), (3, (10, 11)), (4, (37, 53)), (5, (5, 64))])
def test_downscale_is_torchs(factor, size, dtype):
    x, small = torch.rand(2, 3, *size, dtype=dtype), (size[0] // factor, size[1] // factor)
    tol = 1e-6 if dtype == torch.float32 else 1e-14
    close(downscale(factor, size, "average", dtype).A(x), avg_pool2d(x, factor), tol)
    close(downscale(factor, size, dtype=dtype).A(x), interpolate(x, small, mode="bicubic", antialias=True), tol)


def test_grayscale_is_rec_601():
    x = torch.rand(2, 3, 5, 4, dtype=F64)
    close(grayscale(F64).A(x)[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2], 1e-15)
    assert grayscale().A(x.float()).dtype == torch.float32


@few
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.sampled_from(BOUNDARIES))
def test_separable_blur_is_scipys(h, w, taps, boundary):
    kernel, x = torch.rand(taps, dtype=F64), normal(1, 2, h, w)
    found = separable_blur(kernel, (h, w), boundary).A(x).numpy()
    for dim in (2, 3):
        x = ndimage.convolve1d(x, kernel.numpy(), dim, mode=boundary)
    assert np.abs(found - x).max() < 1e-12


def test_a_kron_is_the_kronecker_product():
    c, h, w = normal(2, 3), normal(3, 4), normal(6, 5)
    close(matrix(Kron(c, h, w).A, 3, 4, 5), torch.kron(torch.kron(c, h), w), 1e-12)


# ---------------------------------------------------------------- products


def test_products_of_krons_are_krons():
    x, first, last = normal(2, 3, 9, 8), shrink(2, (9, 8), method="average"), Kron(normal(2, 3), None, normal(5, 4))
    for product in (last @ first, last @ (first @ Kron())):
        assert type(product) is Kron
        close(product.A(x), last.A(first.A(x)))
    close((last @ first).rows.s, first.rows.s)  # taken over, not decomposed again


def test_other_products_are_compositions():
    assert type(shrink(2, (4, 4)) @ Mask(torch.ones(4, 4))) is Composed
    assert type(Mask(torch.ones(2, 2)) @ shrink(2, (4, 4))) is Composed


def test_products_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="first gives 4 values along a side, the last takes 5"):
        shrink(2, (5, 6)) @ shrink(2, (8, 12))


def test_precisions_meet_at_the_higher_one():
    op = Kron(normal(1, 3).float(), normal(2, 4))
    assert op.s.dtype == F64
    assert op.A(normal(1, 3, 4, 5)).dtype == F64
    assert (downscale(2, (4, 6)) @ shrink(2, (8, 12))).s.dtype == F64
    close(Kron(rows=torch.tensor([[1, 1]])).A(torch.ones(1, 1, 2, 2)), torch.full((1, 1, 1, 2), 2.0))


# ---------------------------------------------------------------- cost and accuracy


def test_equal_factors_are_decomposed_once(monkeypatch):
    calls = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: calls.append(1) or svd(*args, **kwargs))
    a = normal(3, 6)
    for make in (lambda: Kron(None, a, a.clone()), lambda: downscale(2, (8, 8)), lambda: separable_blur(TAPS, (6, 6))):
        op = make()
        assert calls.pop() == 1
        assert not calls
        assert op.rows.right.data_ptr() == op.cols.right.data_ptr()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_ill_conditioned_factors(shape):
    """Small singular values to the accuracy of numpy's, and none of the null space's that is not 0."""
    s = 10.0 ** -torch.arange(6, dtype=F64) * torch.tensor([1, 1, 1, 1e-2, 1e-5, 0])
    left, right = (torch.linalg.qr(normal(n, n, seed=n)).Q for n in shape)
    op = Kron(rows=left[:, :6] * s @ right[:, :6].T)
    found = op.s.flatten().sort(descending=True).values
    close(found[:6], s, 1e-15)
    assert (found[5:] == 0).all()
    x = normal(1, 1, shape[1], 3)
    close(op.v(op.vt(x)), x, 1e-13)


def test_products_of_small_singular_values_are_0():
    """1e-10 alone is well above the rounding errors of float64, its square is not."""
    a = torch.tensor([1, 1e-10], dtype=F64).diag()
    op = Kron(None, a, a)
    assert torch.equal(op.s > 0, torch.tensor([[True, True], [True, False]]))
    ones = torch.ones(1, 1, 2, 2, dtype=F64)
    assert op.ut(ones)[0, 0, 1, 1] == op.u(ones)[0, 0, 1, 1] == 0
    assert inverse(op.s).max() < 2e10


def test_bases_hold_no_subnormal_numbers():
    """Those of banded matrices decay so fast that products with them would take ten times as long."""
    right = downscale(4, (1024, 1024)).rows.right
    assert right[right != 0].abs().min() > 1e-21
    x = torch.rand(1, 1, 8, 1024)
    close(x @ right @ right.mT, x, 1e-5)


# ---------------------------------------------------------------- what the released code gets wrong


def released_deblurring(kernel, n, side_by_side):
    """(A, rows of the 1-D matrix) of the released DDRM's deblurring, from its description in DESIGN.md.

    Its coefficients hold the channels of a frequency next to each other, but its singular values are those of all
    frequencies, three times over (side_by_side: as they should be). The last tap of an odd kernel is left out."""
    half = len(kernel) // 2
    small = torch.zeros(n, n, dtype=F64)
    for i in range(n):
        for j in range(max(0, i - half), min(n, i + half)):
            small[i, j] = kernel[j - i + half]
    u, s, vt = torch.linalg.svd(small)
    s, order = torch.outer(s, s).flatten().sort(descending=True)
    s = s.repeat_interleave(3) if side_by_side else s.repeat(3)

    def A(x):
        z = (vt @ x @ vt.T).flatten(2)[..., order].mT.flatten(1)  # (B,3n^2)
        placed = torch.empty(len(x), 3, n * n, dtype=F64)
        placed[..., order] = (s * z).unflatten(1, (-1, 3)).mT
        return u @ placed.unflatten(-1, (n, n)) @ u.T

    return A, small


def test_released_deblurring_is_no_blur():
    n, kernel = 32, torch.tensor([1.0, 4, 6, 4, 1], dtype=F64) / 16
    x = normal(2, 3, n, n)
    ours = separable_blur(kernel, (n, n), "constant").A(x)
    blurred = ndimage.convolve1d(ndimage.convolve1d(x, kernel.numpy(), 2, mode="constant"), kernel, 3, mode="constant")
    close(ours, torch.from_numpy(blurred), 1e-13)

    wrong, small = released_deblurring(kernel, n, side_by_side=False)
    assert (wrong(x) - ours).norm() > 0.5 * ours.norm()  # not a blur, even of its own kernel
    right, _ = released_deblurring(kernel, n, side_by_side=True)
    close(right(x), small @ x @ small.T, 1e-12)
    assert abs(float(small[n // 2].sum()) - 15 / 16) < 1e-12  # the last tap is lost


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("factor", [0, 1, -2, 1.5, 2.0, True, "2", None])
def test_factors_that_do_not_shrink(factor):
    with pytest.raises(InputError, match="give a whole number of at least 2"):
        downscale(factor, (8, 8))


@pytest.mark.parametrize("method", ["average", "bicubic"])
def test_images_smaller_than_the_factor(method):
    with pytest.raises(InputError, match=r"5x9 pixels \(HxW\) cannot be shrunk by 6"):
        downscale(6, (5, 9), method)


def test_other_errors():
    with pytest.raises(InputError, match="choose bicubic or average"):
        downscale(2, (8, 8), "nearest")
    with pytest.raises(InputError, match="choose reflect, wrap, nearest or constant"):
        separable_blur(TAPS, (8, 8), "mirror")
    with pytest.raises(InputError, match="see blur"):
        separable_blur(torch.ones(3, 3), (8, 8))
    for kernel, message in (([1.0, -1.0], "sums to 0"), ([1.0, float("nan")], "NaN")):
        with pytest.raises(InputError, match=message):
            separable_blur(torch.tensor(kernel), (8, 8))
    for bad in (torch.ones(3), torch.ones(0, 3), torch.tensor([[float("inf")]])):
        with pytest.raises(InputError, match=r"\(outputs,inputs\) and finite"):
            Kron(rows=bad)
