"""The noise of a picture from the picture alone: flat, smooth, textured, clipped, small, and the bundled photograph."""

from importlib.resources import files

import pytest
import torch
from conftest import seeded

from restore import assets, images
from restore.noise import estimate_noise

H, W = 120, 160
DOWN, ACROSS = torch.meshgrid(torch.linspace(0, 1, H), torch.linspace(0, 1, W), indexing="ij")
WEAVE = 0.2 * torch.sin(400 * ACROSS) * torch.sin(390 * DOWN)  # as fine as noise
CLEAN = {
    "flat": 0.5 + 0 * DOWN,
    "gradient": 0.25 + 0.25 * (DOWN + ACROSS),
    "edges": 0.3 + 0.4 * ((ACROSS * 5).floor() % 2),
    "waves": 0.5 + 0.2 * torch.sin(40 * ACROSS),
    "texture on one half": 0.5 + WEAVE * (ACROSS > 0.5),
    "black on one half": 0.5 * (ACROSS > 0.5),
    "white on one half": 0.5 + 0.5 * (DOWN > 0.5),
}


def rgb(grey, count=1):
    return grey.expand(count, 3, -1, -1)


def noisy(picture, sigma, seed=0):
    """With noise of sigma on the 0-255 scale, kept in 8 bit."""
    x = picture + sigma / 255 * torch.randn(picture.shape, generator=seeded(seed))
    return (x.clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("sigma", [3, 5, 15, 25, 50])
@pytest.mark.parametrize("name", CLEAN)
def test_pictures_whose_quiet_parts_are_known(name, sigma):
    assert 255 * estimate_noise(noisy(rgb(CLEAN[name]), sigma)) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("name", CLEAN)
def test_without_noise_there_is_next_to_none(name):
    assert estimate_noise(rgb(CLEAN[name])) < 1e-5


def test_the_quietest_tenth_is_made_free_of_bias():
    """Of noise alone it would be 6 % too low."""
    found = [estimate_noise(0.5 + 0.1 * torch.randn(1, 3, 256, 256, generator=seeded(k))) for k in range(10)]
    assert sum(found) / 10 == pytest.approx(0.1, rel=0.015)


def test_texture_everywhere_is_taken_for_noise():
    """It cannot be told apart; the estimate is never too low for it."""
    for sigma in (5, 25, 50):
        assert 255 * estimate_noise(noisy(rgb(0.5 + WEAVE), sigma)) > sigma


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
def test_the_bundled_photograph(photograph, sigma):
    assert 255 * estimate_noise(noisy(photograph, sigma)) == pytest.approx(sigma, rel=0.15)


def test_the_bundled_photograph_itself_is_quiet(photograph):
    assert 0.2 < 255 * estimate_noise(photograph) < 2


@pytest.fixture(scope="module")
def photograph():
    return images.read(files(assets) / "images/kitten-scratched.png").rgb


def test_what_is_clipped_everywhere_loses_noise():
    """Half of it is gone from a black picture: the rest is still a number."""
    assert estimate_noise(rgb(0 * DOWN)) == 0
    found = 255 * estimate_noise(noisy(rgb(0 * DOWN), 20))
    assert 0.4 * 20 < found < 20


def test_brightness_and_contrast():
    x = 0.5 + 0.02 * torch.randn(1, 3, 64, 64, generator=seeded())
    assert estimate_noise(x + 0.2) == pytest.approx(estimate_noise(x), rel=1e-4)
    assert estimate_noise(2 * x - 0.5) == pytest.approx(2 * estimate_noise(x), rel=1e-4)


@pytest.mark.parametrize("size", [(12, 12), (13, 31), (16, 200), (31, 31), (33, 34), (65, 47), (200, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_and_odd_pictures(size, channels):
    found = [estimate_noise(0.5 + 0.1 * torch.randn(1, channels, *size, generator=seeded(k))) for k in range(30)]
    assert sum(found) / 30 == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_a_picture_of_one_line_tells_nothing(size):
    assert estimate_noise(torch.rand(1, 3, *size)) == 0


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (2, 100), (5, 5)])
def test_tiny_pictures_give_a_number(size):
    for x in (torch.rand(1, 3, *size, generator=seeded()), torch.zeros(1, 3, *size), torch.ones(2, 1, *size)):
        assert 0 <= estimate_noise(x) < 10


def test_a_batch_has_one_number():
    x = noisy(rgb(CLEAN["texture on one half"], 6), 15)
    found = [estimate_noise(x), *(estimate_noise(x[i : i + 1]) for i in range(6))]
    assert [255 * sigma for sigma in found] == pytest.approx([15] * 7, rel=0.1)
    assert isinstance(found[0], float)
