"""Identities of the singular value decomposition, the adjoint and the pseudo-inverse."""

import pytest
import torch
from conftest import normal

from restore.errors import InputError
from restore.operators import Mask, inverse


def zeros_and_ones(*shape, seed=5):
    return (normal(*shape, seed=seed) > 0).double()


OPERATORS = {
    "mask (H,W)": Mask(zeros_and_ones(5, 7)),
    "mask (C,H,W)": Mask(zeros_and_ones(3, 5, 7)),
    "mask (1,1,H,W)": Mask(zeros_and_ones(1, 1, 5, 7)),
    "mask (B,1,H,W)": Mask(zeros_and_ones(2, 1, 5, 7)),
    "mask (B,C,H,W)": Mask(zeros_and_ones(2, 3, 5, 7)),
    "mask of booleans": Mask(zeros_and_ones(5, 7).bool()),
    "mask of integers": Mask(zeros_and_ones(5, 7).long()),
    "identity": Mask(torch.ones(5, 7)),
    "nothing": Mask(torch.zeros(5, 7)),
}
TOL = 1e-12


@pytest.fixture(params=OPERATORS)
def op(request):
    return OPERATORS[request.param]


@pytest.fixture
def x():
    return normal(2, 3, 5, 7, seed=1)


def inner(a, b):
    return (a * b).sum((1, 2, 3))


def test_v_is_orthogonal(op, x):
    z = op.vt(x)
    assert (op.v(z) - x).abs().max() < TOL
    assert torch.allclose(z.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=TOL)


def test_u_is_orthogonal_on_the_range(op, x):
    y = op.A(x)
    assert (op.u(op.ut(y)) - y).abs().max() < TOL
    assert op.ut(y).shape == op.vt(x).shape
    anything, z = normal(*y.shape, seed=2), normal(*op.vt(x).shape, seed=3)
    assert (op.ut(anything)[(op.s == 0).expand_as(x)] == 0).all()  # zero-padded
    assert (inner(op.u(z), anything) - inner(z, op.ut(anything))).abs().max() < 1e-10
    assert (op.ut(y) - op.s * op.vt(x)).abs().max() < TOL  # U^T A = S V^T


def test_adjoint(op, x):
    y = normal(*op.A(x).shape, seed=2)
    assert (inner(op.A(x), y) - inner(x, op.adjoint(y))).abs().max() < 1e-10


def test_pseudo_inverse(op, x):
    """The four conditions of Moore and Penrose."""
    y = normal(*op.A(x).shape, seed=2)
    x2, y2 = normal(*x.shape, seed=3), normal(*y.shape, seed=4)
    assert (op.A(op.pinv(op.A(x))) - op.A(x)).abs().max() < TOL
    assert (op.pinv(op.A(op.pinv(y))) - op.pinv(y)).abs().max() < TOL
    assert (inner(op.A(op.pinv(y)), y2) - inner(y, op.A(op.pinv(y2)))).abs().max() < 1e-10
    assert (inner(op.pinv(op.A(x)), x2) - inner(x, op.pinv(op.A(x2)))).abs().max() < 1e-10


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (1, 1, 5, 7), (2, 1, 5, 7), (2, 3, 5, 7)])
def test_mask_keeps_the_measured_pixels(shape, x):
    known = zeros_and_ones(*shape)
    y = Mask(known).A(x)
    wide = known.expand_as(x).bool()
    assert torch.equal(y[wide], x[wide])
    assert (y[~wide] == 0).all()


def test_kinds_of_masks_agree(x):
    known = zeros_and_ones(5, 7)
    for other in (known.bool(), known.long(), known.float(), known.byte(), known[None], known[None, None]):
        assert torch.equal(Mask(other).A(x), Mask(known).A(x))


@pytest.mark.parametrize("value", [0.5, -1.0, 255.0, float("nan")])
def test_gray_masks_are_refused(value):
    known = torch.ones(5, 7)
    known[2, 3] = value
    with pytest.raises(InputError, match="threshold the mask"):
        Mask(known)


def test_inverse_of_singular_values():
    assert inverse(torch.tensor([4.0, 0.0, 0.5])).tolist() == [0.25, 0.0, 2.0]
