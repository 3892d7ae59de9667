"""Periodic and mirrored convolutions against scipy."""

import numpy as np
import pytest
import torch
from conftest import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, ndimage
from test_operators import Identities, close, each

from restore.errors import InputError
from restore.kernels import gaussian, motion
from restore.operators import Cosine, Fourier, blur, separable_blur
from restore.operators.fourier import dct, idct

F64 = torch.float64
few = settings(max_examples=25, deadline=None, derandomize=True)


def mirrored(h, w, seed=0):
    """A random kernel (h,w) that equals its mirror images."""
    k = normal(h, w, seed=seed)
    k = k + k.flip(0)
    return k + k.flip(1)


UNIFORM = torch.full((3, 3), 1 / 9, dtype=F64)  # loses every third frequency of a side that is a multiple of 3


class TestFourier(Identities):
    case = each(
        {
            "odd": (Fourier(normal(3, 5), (5, 7)), (2, 5, 7)),
            "even": (Fourier(normal(2, 4), (4, 6)), (3, 4, 6)),
            "mixed": (Fourier(normal(4, 3), (6, 5)), (1, 6, 5)),
            "as large as the image": (Fourier(normal(5, 6), (5, 6)), (1, 5, 6)),
            "one pixel": (Fourier(torch.tensor([[-2.0]]).double(), (3, 4)), (1, 3, 4)),
            "a row": (Fourier(normal(1, 4), (1, 7)), (2, 1, 7)),
            "rank": (Fourier(UNIFORM, (6, 9)), (1, 6, 9)),
            "motion": (Fourier(motion(3, 30), (7, 6)), (1, 7, 6)),
        }
    )


class TestCosine(Identities):
    case = each(
        {
            "odd": (Cosine(mirrored(3, 5), (5, 7)), (2, 5, 7)),
            "even": (Cosine(mirrored(3, 1), (4, 6)), (3, 4, 6)),
            "mixed": (Cosine(mirrored(5, 3), (6, 5)), (1, 6, 5)),
            "as large as the image": (Cosine(mirrored(5, 5), (5, 5)), (1, 5, 5)),
            "one pixel": (Cosine(torch.tensor([[-2.0]]).double(), (3, 4)), (1, 3, 4)),
            "a row": (Cosine(mirrored(1, 3), (1, 7)), (2, 1, 7)),
            "rank": (Cosine(UNIFORM, (6, 9)), (1, 6, 9)),
        }
    )


sides = st.integers(1, 9)


@few
@given(st.data(), sides, sides)
def test_fourier_is_scipys_wrap(data, h, w):
    kernel = normal(data.draw(st.integers(1, h)), data.draw(st.integers(1, w)), seed=h * w)
    x = normal(2, 3, h, w, seed=1)
    expected = ndimage.convolve(x.numpy(), kernel.numpy()[None, None], mode="wrap")
    assert np.abs(Fourier(kernel, (h, w)).A(x).numpy() - expected).max() < 1e-12


@few
@given(st.data(), sides, sides)
def test_cosine_is_scipys_reflect(data, h, w):
    kernel = mirrored(*(data.draw(st.integers(0, (side - 1) // 2)) * 2 + 1 for side in (h, w)), seed=h * w)
    x = normal(2, 3, h, w, seed=1)
    expected = ndimage.convolve(x.numpy(), kernel.numpy()[None, None], mode="reflect")
    assert np.abs(Cosine(kernel, (h, w)).A(x).numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 30, 31])
def test_cosine_transform(n):
    x = normal(2, n)
    close(dct(x), torch.from_numpy(fft.dct(x.numpy(), norm="ortho")), 1e-13)
    close(idct(x), torch.from_numpy(fft.idct(x.numpy(), norm="ortho")), 1e-13)


def test_convolution_and_not_correlation():
    """A point becomes the kernel as it is, about its centre."""
    point = torch.zeros(1, 1, 8, 9, dtype=F64)
    point[..., 4, 4] = 1
    for shape in ((3, 3), (2, 5), (4, 4)):
        kernel, (h, w) = normal(*shape), shape
        spread = Fourier(kernel, (8, 9)).A(point)[0, 0]
        close(spread[4 - h // 2 :, 4 - w // 2 :][:h, :w], kernel, 1e-14)


def test_periodic_and_mirrored_agree_with_the_separable_ones():
    kernel, size = gaussian(0.6), (9, 8)
    taps = kernel.sum(0)
    x = normal(1, 2, *size)
    close(blur(kernel, size, dtype=F64).A(x), separable_blur(taps, size, "wrap").A(x), 1e-13)
    close(blur(kernel, size, "reflect", F64).A(x), separable_blur(taps, size, "reflect").A(x), 1e-13)


def test_lost_frequencies_are_exactly_0():
    for op, zeros in ((Fourier(UNIFORM, (6, 9)), 2 * 9 + 2 * 6 - 4), (Cosine(UNIFORM, (6, 9)), 9 + 6 - 1)):
        assert int((op.s == 0).sum()) == zeros
        assert op.s[op.s > 0].min() > 0.01
        assert op.to(torch.float32).s.count_nonzero() == op.s.count_nonzero()
    single = blur(UNIFORM, (6, 9))  # the kernel rounded to float32: zeros up to its rounding errors
    assert int((single.s == 0).sum()) == 2 * 9 + 2 * 6 - 4


def test_a_strong_blur_in_float32():
    """What drowns in rounding errors is given up, so that the pseudo-inverse stays finite and consistent."""
    x = torch.rand(1, 3, 32, 32)
    for boundary in ("wrap", "reflect"):
        op = blur(gaussian(3), (32, 32), boundary)
        assert op.s.dtype == torch.float32
        assert 0 < int((op.s == 0).sum()) < 32 * 32
        close(op.A(op.pinv(op.A(x))), op.A(x), 1e-5)
        lost = (op.s == 0).expand_as(x)
        assert (op.ut(x)[lost] == 0).all()
        assert (op.u(lost * x) == 0).all()


def test_real_coefficients_of_white_noise_are_white():
    """Orthonormal and real: n independent values, none of them twice."""
    op = Fourier(normal(3, 3), (4, 5))
    v = op.v(torch.eye(20, dtype=F64).reshape(20, 1, 4, 5)).flatten(1)
    close(v @ v.T, torch.eye(20, dtype=F64), 1e-13)


def test_setup_takes_memory_of_the_size_of_the_image():
    for op in (blur(gaussian(2), (256, 300)), blur(gaussian(2), (256, 300), "reflect")):
        held = sum(value.numel() for value in vars(op).values() if isinstance(value, torch.Tensor))
        assert held <= 2.1 * 256 * 300


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("boundary", ["wrap", "reflect"])
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (torch.zeros(3, 3), "sums to 0"),
        (torch.tensor([[1.0, -1.0, 0.0]]), "sums to 0"),
        (torch.tensor([[1.0, float("nan"), 1.0]]), "NaN or infinity"),
        (torch.tensor([[float("inf")]]), "NaN or infinity"),
        (torch.ones(9, 3), "9x3 pixels is larger than the image of 8x7"),
        (torch.ones(3, 8), "larger than the image"),
        (torch.ones(3), r"not one of shape \(3,\): see separable_blur"),
        (torch.ones(1, 1, 3, 3), "takes a kernel"),
    ],
)
def test_bad_kernels(kernel, message, boundary):
    with pytest.raises(InputError, match=message) as e:
        blur(kernel, (8, 7), boundary)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kernel", [torch.ones(2, 3), torch.ones(3, 4), torch.tensor([[1.0, 2, 3]]), motion(5, 30)])
def test_mirrored_blurs_need_mirrored_kernels(kernel):
    with pytest.raises(InputError, match="take the boundary wrap"):
        blur(kernel, (8, 7), "reflect")


def test_level_and_upright_motions_are_mirrored():
    for degrees in (0, 90, 180, 270, -90):
        assert type(blur(motion(5, degrees), (8, 7), "reflect")) is Cosine


def test_unknown_boundaries():
    with pytest.raises(InputError, match="choose wrap or reflect"):
        blur(UNIFORM, (8, 7), "constant")


def test_kernels_are_not_normalised_and_may_be_integers():
    x = torch.ones(1, 1, 5, 6)
    for boundary in ("wrap", "reflect"):
        close(blur(torch.ones(3, 3, dtype=torch.int64), (5, 6), boundary).A(x), 9 * x, 1e-5)
