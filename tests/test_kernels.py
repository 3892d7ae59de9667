"""Blur kernels against scipy, areas and moments; what they are read from."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from restore.errors import InputError
from restore.kernels import disk, gaussian, motion, read_kernel, uniform

few = settings(max_examples=25, deadline=None, derandomize=True)


def grid(kernel):
    """Offsets from the centre: x to the right, y up, as seen."""
    h, w = kernel.shape
    return torch.arange(w) - w // 2, -(torch.arange(h)[:, None] - h // 2)


def moments(kernel, degrees):
    """Variances along a direction and across it."""
    x, y = grid(kernel)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return float((kernel * (c * x + s * y) ** 2).sum()), float((kernel * (c * y - s * x) ** 2).sum())


KERNELS = {
    "gaussian": gaussian(1.7),
    "tiny gaussian": gaussian(0.05),
    "motion": motion(7.3, 20),
    "short motion": motion(1, 45),
    "disk": disk(4.4),
    "tiny disk": disk(0.1),
    "uniform": uniform(4),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_weights(name):
    kernel = KERNELS[name]
    assert kernel.dtype == torch.float64
    assert kernel.ndim == 2
    assert (kernel >= 0).all()
    assert abs(float(kernel.sum()) - 1) < 1e-12
    assert kernel[0].any()  # no empty borders
    assert kernel[:, 0].any()
    assert (kernel - kernel.flip(0, 1)).abs().max() < 1e-15


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 2.37, 5])
def test_gaussian_is_scipys(sigma):
    kernel = gaussian(sigma)
    side = len(kernel)
    point = np.zeros((3 * side, 3 * side))
    point[point.shape[0] // 2, point.shape[1] // 2] = 1
    spread = ndimage.gaussian_filter(point, sigma)  # truncate=4
    assert np.abs(spread[side : 2 * side, side : 2 * side] - kernel.numpy()).max() < 1e-15
    assert abs(spread[side : 2 * side, side : 2 * side].sum() - 1) < 1e-12


# ---------------------------------------------------------------- disk


@few
@given(st.floats(0.6, 30))
def test_disk_pixels_weigh_their_area(radius):
    kernel = disk(radius)
    x, y = grid(kernel)
    area = kernel * math.pi * radius**2
    inside = torch.hypot(x.abs() + 0.5, y.abs() + 0.5) <= radius
    outside = torch.hypot((x.abs() - 0.5).clamp(min=0), (y.abs() - 0.5).clamp(min=0)) >= radius
    assert ((area - 1)[inside].abs() < 1e-10).all()
    assert (area[outside] < 1e-10).all()
    assert ((area >= 0) & (area < 1 + 1e-10)).all()
    assert (kernel - kernel.T).abs().max() < 1e-14
    assert (kernel - kernel.flip(0)).abs().max() < 1e-14


@pytest.mark.parametrize("radius", [0.8, 1.5, 3.2])
def test_disk_edges_are_antialiased(radius):
    """Against 400 x 400 points in each pixel."""
    kernel, parts = disk(radius), 400
    fine = (torch.arange(len(kernel) * parts).double() + 0.5) / parts - len(kernel) / 2
    hit = (fine**2 + fine[:, None] ** 2 <= radius**2).double()
    shares = hit.unflatten(0, (-1, parts)).unflatten(2, (-1, parts)).mean((1, 3))
    assert (kernel * math.pi * radius**2 - shares).abs().max() < 1e-3


# ---------------------------------------------------------------- motion


@pytest.mark.parametrize("length", [1, 3, 9, 15])
def test_level_motion_is_a_mean(length):
    for degrees in (0, 180, -360):
        assert torch.allclose(motion(length, degrees), torch.full((1, length), 1 / length).double())
    for degrees in (90, -90, 270):
        assert torch.allclose(motion(length, degrees), torch.full((length, 1), 1 / length).double())


def test_lengths_between():
    assert torch.allclose(motion(4, 0), torch.tensor([[0.5, 1, 1, 1, 0.5]]).double() / 4)
    assert torch.allclose(motion(3.5, 0), torch.tensor([[0.25, 1, 1, 1, 0.25]]).double() / 3.5)


@few
@given(st.floats(6, 40), st.floats(-200, 200))
def test_motion_has_its_length_and_its_angle(length, degrees):
    """The variance of a line of that length, and of a pixel across it; an unlike one at any other angle."""
    kernel = motion(length, degrees)
    along, across = moments(kernel, degrees)
    assert abs(along - length**2 / 12) < 0.03 * length**2 / 12 + 0.2
    assert across < 0.3
    x, y = grid(kernel)
    skew = math.atan2(2 * float((kernel * x * y).sum()), float((kernel * (x**2 - y**2)).sum()))  # twice the angle
    assert abs(math.remainder(skew - math.radians(2 * degrees), math.tau)) < math.radians(4)


def test_angles_turn_counter_clockwise():
    kernel = motion(9, 30)
    assert kernel[0, -1] + kernel[0, -2] > 0  # up on the right
    assert kernel[0, 0] == kernel[-1, -1] == 0
    assert torch.allclose(motion(9, 120), kernel.rot90())
    assert torch.allclose(motion(9, -30), kernel.flip(0))


def test_motion_changes_with_every_angle():
    """Antialiased: no two degrees give the same kernel."""
    for a, b in pairwise(motion(15, degrees) for degrees in range(46)):
        assert a.shape != b.shape or 1e-3 < (a - b).abs().max() < 0.07


# ---------------------------------------------------------------- read_kernel


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gaussian:3", gaussian(3)),
        ("gaussian:0.5", gaussian(0.5)),
        ("motion:15,30", motion(15, 30)),
        ("motion: 15 , -30.5", motion(15, -30.5)),
        ("disk:5", disk(5)),
        ("uniform:9", uniform(9)),
        ("uniform:4.0", uniform(4)),
    ],
)
def test_texts(text, expected):
    assert torch.equal(read_kernel(text), expected)


def test_pictures(tmp_path):
    weights = np.random.default_rng(0).integers(0, 65536, (5, 8)).astype(np.uint16)
    expected = torch.from_numpy(weights / weights.sum(dtype=np.float64))
    path = tmp_path / "disk 16.png"
    cv2.imwrite(str(path), weights)
    for source in (path, str(path), path.read_bytes()):
        assert (read_kernel(source) - expected).abs().max() < 1e-8  # 16 bits kept
    Image.fromarray(np.full((2, 3, 3), [255, 0, 0], np.uint8)).save(tmp_path / "red.bmp")
    assert torch.allclose(read_kernel(tmp_path / "red.bmp"), torch.full((2, 3), 1 / 6).double())
    seen = np.full((1, 4, 4), 255, np.uint8)
    seen[0, 1:, 3] = 0
    assert read_kernel(Image.fromarray(seen)).tolist() == [[1, 0, 0, 0]]  # white strokes on nothing


def test_a_file_may_be_named_like_a_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((1, 2), 9, np.uint8)).save("disk", "PNG")
    assert read_kernel("disk").tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8, np.int64])
def test_arrays(kind):
    values = np.array([[1, 2], [3, 4]], kind)
    for source in (values, torch.from_numpy(values)):
        assert torch.allclose(read_kernel(source), torch.tensor([[0.1, 0.2], [0.3, 0.4]]).double())
    sharpen = torch.tensor([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]])
    assert torch.equal(read_kernel(2 * sharpen), sharpen.double())
    kernel = motion(5, 20)
    assert torch.allclose(read_kernel(kernel), kernel)


FORMS = r"gaussian:SIGMA, motion:LENGTH,DEGREES, disk:RADIUS, uniform:SIDE or a picture file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("box:3", "box:3 is neither a known blur kernel nor a file"),
        ("missing.png", "missing.png is neither"),
        ("", "neither"),
        ("Gaussian:3", "neither"),
        ("gaussian", "gaussian takes 1 number "),
        ("gaussian:", "gaussian takes 1 number "),
        ("gaussian:3,4", "gaussian takes 1 number "),
        ("gaussian:three", "gaussian takes 1 number "),
        ("motion:15", "motion takes 2 numbers "),
        ("motion:15,30,45", "motion takes 2 numbers "),
        ("motion:15,", "motion takes 2 numbers "),
        ("gaussian:0", "sigma is 0: give a number above 0"),
        ("gaussian:-1", "sigma is -1"),
        ("gaussian:nan", "sigma is nan"),
        ("gaussian:inf", "sigma is inf"),
        ("gaussian:1e308", "larger than 4096 pixels"),
        ("motion:0.5,0", "the length is 0.5: give a number of at least 1"),
        ("motion:1e308,0", "larger than 4096 pixels"),
        ("motion:5,nan", "the angle is nan"),
        ("disk:0", "the radius is 0"),
        ("disk:-2", "the radius is -2"),
        ("disk:1e308", "larger than 4096 pixels"),
        ("uniform:0", "the side is 0"),
        ("uniform:2.5", "the side is 2.5: give a whole number"),
        ("uniform:1e308", "larger than 4096 pixels"),
    ],
)
def test_bad_texts(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as e:
        read_kernel(text)
    assert FORMS in str(e.value)
    assert "\n" not in str(e.value)


def test_bad_pictures_and_arrays(tmp_path):
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"black.png has no brightness to spread.*" + FORMS):
        read_kernel(tmp_path / "black.png")
    with pytest.raises(InputError, match="neither"):
        read_kernel(tmp_path)
    with pytest.raises(InputError, match=r"text.png"):
        read_kernel(tmp_path / "text.png")
    for bad in (torch.zeros(3, 3), torch.tensor([[1.0, -1.0]]), np.array([[np.nan, 1]]), torch.tensor([[math.inf]])):
        with pytest.raises(InputError, match="the blur kernel has no brightness to spread"):
            read_kernel(bad)
    with pytest.raises(InputError, match="larger than 4096 pixels"):
        read_kernel(np.ones((1, 5000)))
    for bad in (3, None, np.zeros((2, 2, 2, 2, 2)), np.zeros((0, 3))):
        with pytest.raises(InputError):
            read_kernel(bad)


@pytest.mark.parametrize("value", ["3", None, True, torch.tensor(3.0)])
def test_parameters_are_numbers(value):
    for make in (gaussian, disk, uniform, lambda length: motion(length, 0)):
        with pytest.raises(InputError, match="give a number"):
            make(value)
