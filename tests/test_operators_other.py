"""Compressed sensing and dense matrices against scipy and numpy."""

import numpy as np
import pytest
import torch
from conftest import normal
from scipy import linalg
from test_operators import Identities, close, each, matrix

from restore.errors import InputError
from restore.operators import Dense, Hadamard
from restore.operators.hadamard import walsh

F64 = torch.float64


def hadamard(*args, **options):
    return Hadamard(*args, dtype=F64, **options)


class TestHadamard(Identities):
    case = each(
        {
            "a power of two": (hadamard((4, 8), 10), (3, 4, 8)),
            "any number": (hadamard((5, 7), 0.4, seed=3), (2, 5, 7)),
            "one": (hadamard((3, 5), 1), (1, 3, 5)),
            "all": (hadamard((3, 5), 1.0), (1, 3, 5)),
            "one pixel": (hadamard((1, 1), 1), (2, 1, 1)),
        }
    )


class TestDense(Identities):
    case = each(
        {
            "wide": (Dense(normal(7, 12), (3, 2, 2)), (3, 2, 2)),
            "tall": (Dense(normal(15, 6), (1, 2, 3)), (1, 2, 3)),
            "square": (Dense(normal(12, 12), (1, 3, 4)), (1, 3, 4)),
            "rank": (Dense(normal(8, 3) @ normal(3, 12, seed=1), (2, 3, 2)), (2, 3, 2)),
            "tall, rank": (Dense(normal(14, 3) @ normal(3, 12, seed=1), (2, 3, 2)), (2, 3, 2)),
            "zero": (Dense(torch.zeros(2, 6, dtype=F64), (1, 2, 3)), (1, 2, 3)),
        }
    )


# ---------------------------------------------------------------- Hadamard


@pytest.mark.parametrize("radix", [2, 6])
@pytest.mark.parametrize("n", [1, 2, 4, 32, 64, 128, 1024])
def test_walsh_is_scipys(n, radix, monkeypatch):
    monkeypatch.setattr("restore.operators.hadamard.RADIX", radix)
    x = normal(2, n)
    close(walsh(x), x @ torch.from_numpy(linalg.hadamard(n)).double() / n**0.5, 1e-11)


def test_rows_are_signs_of_all_pixels():
    a = matrix(hadamard((8, 8), 20).A, 1, 8, 8)
    close(a.abs(), torch.full((20, 64), 1 / 8, dtype=F64), 1e-14)
    assert len(a.unique(dim=0)) == 20


def test_blocks_are_the_binary_digits():
    """35 = 32 + 2 + 1 pixels."""
    a = matrix(hadamard((5, 7), 1.0).A, 1, 5, 7)
    sizes = (a.abs() > 1e-12).sum(1)
    assert sizes.tolist() == [32] * 32 + [2] * 2 + [1]


def test_channels_are_measured_alike():
    op, x = hadamard((5, 6), 9), normal(2, 3, 5, 6)
    assert op.A(x).shape == (2, 3, 9)
    for c in range(3):
        close(op.A(x)[:, c : c + 1], op.A(x[:, c : c + 1]), 1e-14)


def test_seeds():
    x = normal(1, 1, 6, 6)
    a, b, c = (hadamard((6, 6), 12, seed=seed).A(x) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert (a - c).abs().max() > 0.1


@pytest.mark.parametrize(("measured", "count"), [(7, 7), (0.25, 9), (1.0, 36), (1, 1), (1e-9, 1), (np.int64(36), 36)])
def test_counts_and_shares(measured, count):
    op = Hadamard((6, 6), measured)
    assert op.A(torch.rand(1, 2, 6, 6)).shape == (1, 2, count)
    assert int(op.s.sum()) == count


@pytest.mark.parametrize("measured", [0, 37, -1, 0.0, 1.5, -0.1, float("nan"), True])
def test_bad_counts(measured):
    with pytest.raises(InputError, match="of 36 pixels: give a count of them, or a share"):
        Hadamard((6, 6), measured)


# ---------------------------------------------------------------- Dense


def test_dense_is_the_matrix():
    a, x = normal(5, 24), normal(2, 2, 3, 4)
    close(Dense(a, (2, 3, 4)).A(x), x.flatten(1) @ a.T, 1e-13)


@pytest.mark.parametrize("shape", [(10, 24), (30, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_rank_is_numpys(shape, dtype):
    """A matrix of rank 4, rounded in its own precision."""
    a = (normal(shape[0], 4) @ normal(4, shape[1], seed=1)).to(dtype)
    op = Dense(a, (2, 3, 4))
    assert int((op.s > 0).sum()) == np.linalg.matrix_rank(a.numpy()) == 4
    assert op.s.dtype == dtype
    y = normal(1, shape[0]).to(dtype)
    close(op.pinv(y).flatten(1), y @ torch.linalg.pinv(a.double(), rtol=1e-5).T.to(dtype), 1e-4)


def test_large_images_are_refused():
    with pytest.raises(InputError, match=r"3x64x64 values is too large for Dense.*Mask, Kron, Fourier"):
        Dense(torch.ones(1, 3 * 64 * 64), (3, 64, 64))


@pytest.mark.parametrize("a", [torch.ones(3, 11), torch.ones(12), torch.ones(1, 3, 12)])
def test_matrices_that_do_not_fit_are_refused(a):
    with pytest.raises(InputError, match="does not fit an image of 1x3x4 values"):
        Dense(a, (1, 3, 4))
