"""Identities of the singular value decomposition, the adjoint and the pseudo-inverse; masks and compositions."""

import copy

import pytest
import torch
from conftest import normal

from restore.errors import InputError
from restore.operators import Composed, Fourier, Hadamard, Kron, Linear, Mask, decomposed, downscale, inverse
from restore.operators.base import conjugate_gradients

TOL = 1e-10


def matrix(apply, *shape):
    """The matrix of a linear map on images, by its columns."""
    basis = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).unflatten(1, shape)
    return apply(basis).flatten(1).T


def close(a, b, tol=TOL):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert (a - b).abs().max() < tol


class Identities:
    """What holds for every operator with singular values: a subclass says `case = each({name: (op, (C,H,W))})`."""

    @pytest.fixture
    def op(self, case):
        return case[0]

    @pytest.fixture
    def x(self, case):
        return normal(2, *case[1], seed=1)

    @pytest.fixture
    def y(self, op, x):
        return normal(*op.A(x).shape, seed=2)

    @pytest.fixture
    def z(self, op, x):
        return normal(*op.vt(x).shape, seed=3)

    @pytest.fixture
    def dense(self, op, case):
        return matrix(op.A, *case[1])

    def test_v_is_orthogonal(self, op, x, z):
        close(op.v(op.vt(x)), x)
        close(op.vt(op.v(z)), z)
        close(op.vt(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))

    def test_u_is_orthogonal_on_the_range(self, op, y, z):
        seen = (op.s > 0).expand_as(z)
        close(op.ut(op.u(z)), torch.where(seen, z, 0))
        assert (op.ut(y)[~seen] == 0).all()  # zero-padded
        assert op.ut(y).shape == z.shape
        close((op.u(z) * y).flatten(1).sum(1), (z * op.ut(y)).flatten(1).sum(1))

    def test_s_are_the_singular_values(self, op, z, dense):
        expected = torch.linalg.svdvals(dense)
        found = op.s.expand(z.shape)[0].flatten().sort(descending=True).values
        assert (op.s >= 0).all()
        close(found[: len(expected)], expected[: len(found)])
        assert (found[len(expected) :] == 0).all()
        assert int((found > 0).sum()) == torch.linalg.matrix_rank(dense)

    def test_a_and_its_adjoint(self, op, x, y, dense):
        close(op.u(op.s * op.vt(x)), op.A(x))
        close(op.A(x).flatten(1), x.flatten(1) @ dense.T)
        close(op.adjoint(y).flatten(1), y.flatten(1) @ dense)
        close(op.v(op.s * op.ut(y)), op.adjoint(y))

    def test_pseudo_inverse(self, op, y, dense):
        """The four conditions of Moore and Penrose."""
        p = matrix(op.pinv, *y.shape[1:])
        close(dense @ p @ dense, dense)
        close(p @ dense @ p, p)
        close((dense @ p).T, dense @ p)
        close((p @ dense).T, p @ dense)

    @pytest.mark.parametrize("weight", [0.0, 0.3, 7.0])
    def test_proximal(self, op, x, y, dense, weight):
        solved = op.proximal(x, y, weight).flatten(1)
        z, data = x.flatten(1), y.flatten(1)
        if weight:
            normal_matrix = dense.T @ dense + weight * torch.eye(dense.shape[1]).double()
            close(solved, torch.linalg.solve(normal_matrix, (data @ dense + weight * z).T).T)
        else:
            close(solved, z + op.pinv((data - z @ dense.T).unflatten(1, y.shape[1:])).flatten(1))

    def test_float32(self, op, x, y):
        single = op.to(torch.float32)
        for name, given in (("vt", x), ("v", op.vt(x)), ("A", x), ("adjoint", y), ("ut", y)):
            close(getattr(single, name)(given.float()), getattr(op, name)(given).float(), 1e-4)
        assert op.s.dtype == torch.float64

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_cuda(self, op, x, y):
        there = op.to("cuda")
        for name, given in (("vt", x), ("v", op.vt(x)), ("A", x), ("adjoint", y), ("ut", y), ("pinv", y)):
            close(getattr(there, name)(given.cuda()).cpu(), getattr(op, name)(given))


def each(cases):
    """The fixture `case` of a class, which goes through {name: (op, (C,H,W))}."""
    return pytest.fixture(params=cases.values(), ids=cases.keys())(lambda self, request: request.param)


def zeros_and_ones(*shape, seed=5):
    return (normal(*shape, seed=seed) > 0).double()


IMAGE = (3, 5, 7)


class TestMask(Identities):
    case = each(
        {
            "(H,W)": (Mask(zeros_and_ones(5, 7)), IMAGE),
            "(C,H,W)": (Mask(zeros_and_ones(3, 5, 7)), IMAGE),
            "(1,1,H,W)": (Mask(zeros_and_ones(1, 1, 5, 7)), IMAGE),
            "booleans": (Mask(zeros_and_ones(5, 7).bool()).to(torch.float64), IMAGE),
            "integers": (Mask(zeros_and_ones(5, 7).long()).to(torch.float64), IMAGE),
            "identity": (Mask(torch.ones(5, 7).double()), IMAGE),
            "nothing": (Mask(torch.zeros(5, 7).double()), IMAGE),
        }
    )


@pytest.fixture
def x():
    return normal(2, *IMAGE, seed=1)


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (1, 1, 5, 7), (2, 1, 5, 7), (2, 3, 5, 7)])
def test_mask_keeps_the_measured_pixels(shape, x):
    known = zeros_and_ones(*shape)
    y = Mask(known).A(x)
    wide = known.expand_as(x).bool()
    assert torch.equal(y[wide], x[wide])
    assert (y[~wide] == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_for_each_image(channels, x):
    known, y = zeros_and_ones(2, channels, 5, 7), normal(2, *IMAGE, seed=2)
    op, single = Mask(known), [Mask(k) for k in known]
    for b in range(2):
        assert torch.equal(op.pinv(y)[b], single[b].pinv(y[b : b + 1])[0])
        assert torch.equal(op.proximal(x, y, 0.3)[b], single[b].proximal(x[b : b + 1], y[b : b + 1], 0.3)[0])


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


# ---------------------------------------------------------------- to


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.float64,), {}),
        (("cpu", torch.float64), {}),
        ((torch.zeros(1).double(),), {}),
        ((), {"dtype": torch.float64}),
    ],
)
def test_to_takes_what_tensors_take_and_leaves_indices(args, kwargs):
    op = Hadamard((3, 5), 4)
    other = op.to(*args, **kwargs)
    assert (other.s.dtype, other.rows.dtype, op.s.dtype) == (torch.float64, torch.int64, torch.float32)
    assert other.A(normal(1, 1, 3, 5)).shape == (1, 1, 4)


def test_to_reaches_into_compositions(x):
    op = (Mask(zeros_and_ones(2, 3)) @ downscale(2, (5, 7), dtype=torch.float64)).to(torch.float32)
    assert op.A(x.float()).dtype == torch.float32


# ---------------------------------------------------------------- compositions


KERNEL = torch.tensor([[0.1, 0.05, 0], [0.1, 0.4, 0.05], [0, 0.1, 0.2]]).double()
BLUR = Fourier(KERNEL, (5, 7))
COMPOSED = {
    "shrink a blurred image": downscale(2, (5, 7), dtype=torch.float64) @ BLUR,
    "mask a blurred image": Mask(zeros_and_ones(5, 7)) @ BLUR,
    "blur a masked image": BLUR @ Mask(zeros_and_ones(3, 5, 7)),
    "three": Mask(zeros_and_ones(2, 3)) @ (downscale(2, (5, 7), "average", torch.float64) @ BLUR),
    "more outputs": Kron(rows=normal(8, 5)) @ BLUR,
    "nothing": Mask(torch.zeros(5, 7).double()) @ BLUR,
}


@pytest.fixture(params=COMPOSED)
def composed(request):
    return COMPOSED[request.param]


@pytest.fixture
def y(composed, x):
    return normal(*composed.A(x).shape, seed=2)


@pytest.fixture
def dense(composed):
    return matrix(composed.A, *IMAGE)


def test_composition(composed, x, y, dense):
    assert type(composed) is Composed
    close(composed.A(x), composed.last.A(composed.first.A(x)))
    close(composed.adjoint(y).flatten(1), y.flatten(1) @ dense)


def test_pseudo_inverse_of_a_composition(composed, y, dense):
    close(composed.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(dense, rtol=1e-12).T, 1e-9)


@pytest.mark.parametrize("weight", [0.0, 1e-4, 0.3, 7.0])
def test_proximal_of_a_composition(composed, x, y, dense, weight):
    wide = torch.cat([dense, weight**0.5 * torch.eye(dense.shape[1]).double()])
    off = torch.cat([y.flatten(1) - x.flatten(1) @ dense.T, torch.zeros_like(x.flatten(1))], 1)
    expected = x.flatten(1) + off @ torch.linalg.pinv(wide, rtol=1e-12).T
    close(composed.proximal(x, y, weight).flatten(1), expected, 1e-9)


def test_an_algorithm_that_needs_singular_values_refuses_a_composition():
    with pytest.raises(InputError, match="DDRM needs the singular values of its operator, and Composed has none"):
        decomposed(COMPOSED["three"], "DDRM")
    assert decomposed(BLUR, "DDRM") is BLUR


# ---------------------------------------------------------------- conjugate gradients


def dense_map(a):
    return (lambda x: x @ a.T), (lambda y: y @ a)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (6, 6)])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_conjugate_gradients_end_at_the_rounding_errors(shape, weight):
    a, y = normal(*shape), normal(3, shape[0], seed=1)
    wide = torch.cat([a, weight**0.5 * torch.eye(shape[1]).double()])
    expected = torch.linalg.pinv(wide) @ torch.cat([y.T, torch.zeros(shape[1], 3)])
    close(conjugate_gradients(*dense_map(a), y, weight), expected.T, 1e-9)


def test_conjugate_gradients_treat_each_image_by_itself():
    """Of very different sizes, one of them 0: each ends where it would have ended alone."""
    a = normal(5, 8)
    y = normal(3, 5, seed=1) * torch.tensor([[1e-9], [0.0], [1e9]])
    found = conjugate_gradients(*dense_map(a), y)
    expected = y @ torch.linalg.pinv(a).T
    assert ((found - expected).norm(dim=1) <= 1e-10 * expected.norm(dim=1)).all()


def test_conjugate_gradients_take_few_steps():
    """As many as there are different singular values: three."""
    calls = []
    basis = torch.linalg.qr(normal(40, 40)).Q
    a = basis * torch.tensor([1.0, 0.5, 0.1, 0.0]).repeat(10).double()
    conjugate_gradients(lambda x: (calls.append(1), x @ a.T)[1], lambda y: y @ a, normal(1, 40))
    assert len(calls) <= 6


def test_subclasses_may_give_less():
    """A map and its adjoint are enough: the rest follows."""

    class Shift(Linear):
        def A(self, x):
            return x.roll(1, -1)

        def adjoint(self, y):
            return y.roll(-1, -1)

    y = normal(2, *IMAGE)
    close(Shift().pinv(y), y.roll(-1, -1))
    close((Shift() @ copy.copy(BLUR)).A(y), BLUR.A(y).roll(1, -1))
