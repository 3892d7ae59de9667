"""Guidance against exact posteriors, and tiles against the whole picture."""

from itertools import pairwise

import pytest
import torch
from conftest import normal, push, seeded

from restore.errors import InputError
from restore.levels import CLEAN, Flow, Karras, linear
from restore.prior import Pred
from restore.steps import last, sample
from restore.tiling import spans
from restore.wrappers import classifier_free, classifier_guided, clip, gradient, tiles

LEVEL = linear().at(500)


# --- guidance ---


class Measured:
    """y = H x0 + N(0, std^2) of a Gaussian prior: log p(y | x_t) at any level, and the exact posterior."""

    def __init__(self, prior, std=0.3):
        self.prior, self.std = prior, std
        self.H, self.y = normal(3, 16, seed=4) / 4, torch.tensor([0.9, -0.5, 0.4]).double()

    def log_prob(self, x, level):
        """y | x_t is Gaussian about H E[x0 | x_t], with what is uncertain of x0 added to the noise."""
        ratio2 = (level.sigma / level.alpha) ** 2
        left = self.prior.cov - self.prior.cov @ torch.linalg.solve(
            self.prior.cov + ratio2 * torch.eye(16), self.prior.cov
        )  # Cov(x0 | x_t)
        cov = self.H @ left @ self.H.T + self.std**2 * torch.eye(3)
        gap = self.y - self.prior(x, level).x0.flatten(1) @ self.H.T
        return -0.5 * (gap * torch.linalg.solve(cov, gap.T).T).sum(1)

    def posterior(self):
        """Mean and covariance of x0 given y, by precisions."""
        cov = torch.linalg.inv(torch.linalg.inv(self.prior.cov) + self.H.T @ self.H / self.std**2)
        return cov @ (torch.linalg.solve(self.prior.cov, self.prior.mean) + self.H.T @ self.y / self.std**2), cov


SCHEDULES = {"vp": linear(), "ve": Karras(), "flow": Flow()}


@pytest.mark.parametrize("name", SCHEDULES)
def test_classifier_guidance_samples_the_posterior(correlated, name):
    """The ODE of the exact posterior score is affine here: no sampling error."""
    measured = Measured(correlated)
    mean, cov = measured.posterior()
    assert (mean - correlated.mean).abs().max() > 0.1  # the measurement matters
    ratios = [level.sigma for level in Karras(0.01, 500.0).levels(120)[:-1]]
    levels = [*(SCHEDULES[name].at_ratio(ratio) for ratio in ratios), CLEAN]
    guided = classifier_guided(correlated, measured.log_prob)
    found, columns = push(lambda x: last(sample(guided, x, levels)), *correlated.marginal(levels[0]))
    assert (found - mean).abs().max() < 5e-3
    assert (columns.T @ columns - cov).abs().max() < 5e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_classifier_guidance_keeps_x0_and_eps_together(correlated, name):
    level = SCHEDULES[name].at_ratio(1.5)
    x = normal(2, 1, 4, 4)
    for scale in (0.0, 1.0, 3.0):
        pred = classifier_guided(correlated, Measured(correlated).log_prob, scale)(x, level)
        assert (level.alpha * pred.x0 + level.sigma * pred.eps - x).abs().max() < 1e-12


def test_classifier_guidance_by_hand(correlated):
    """eps - scale * sigma * gradient: Dhariwal and Nichol 2021, algorithm 2."""
    x, plain = normal(2, 1, 4, 4), correlated(normal(2, 1, 4, 4), LEVEL)
    pred = classifier_guided(correlated, lambda x, level: (3 * x).sum((1, 2, 3)), 2.0)(x, LEVEL)
    assert (pred.eps - (plain.eps - 2 * LEVEL.sigma * 3)).abs().max() < 1e-12
    none = classifier_guided(correlated, lambda x, level: (3 * x).sum((1, 2, 3)), 0.0)(x, LEVEL)
    assert torch.equal(none.eps, plain.eps)


def test_guidance_works_where_gradients_are_off(correlated):
    x = normal(2, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(gradient(lambda x, level: (x**2).sum((1, 2, 3)))(x, LEVEL), 2 * x)
    assert not x.requires_grad


def test_guidance_without_signal_is_none(correlated):
    """At alpha = 0 the state says nothing of the image, and so nothing of y."""
    start = Flow().levels(3)[0]
    pred = Pred(normal(1, 1, 4, 4), normal(1, 1, 4, 4, seed=1))
    guided = classifier_guided(lambda x, level: pred, lambda x, level: (3 * x).sum((1, 2, 3)))
    assert torch.equal(guided(normal(1, 1, 4, 4), start).x0, pred.x0)


def test_classifier_free_guidance():
    x = normal(2, 3, 4, 4)
    yes, no = (Pred(*normal(2, 2, 3, 4, 4, seed=s)) for s in (1, 2))
    yes = yes._replace(frac=x)

    def at(scale):
        return classifier_free(lambda x, level: yes, lambda x, level: no, scale)(x, LEVEL)

    for part in ("x0", "eps"):
        assert torch.equal(getattr(at(1.0), part), getattr(yes, part))
        assert torch.equal(getattr(at(0.0), part), getattr(no, part))
        expected = getattr(no, part) + 4.0 * (getattr(yes, part) - getattr(no, part))
        assert (getattr(at(4.0), part) - expected).abs().max() < 1e-12
    assert torch.equal(at(4.0).frac, x)


def test_clip_wrapper(mixture):
    x = 4 * normal(8, 1, 2, 2)
    pred = clip(mixture, -0.3, 0.2)(x, LEVEL)
    assert torch.equal(pred.x0, mixture(x, LEVEL).x0.clamp(-0.3, 0.2))
    assert (LEVEL.alpha * pred.x0 + LEVEL.sigma * pred.eps - x).abs().max() < 1e-12


# --- tiles ---


def local(x, level):
    """A denoiser that looks at one pixel at a time."""
    return Pred(x.tanh(), x.sin() * level.sigma, x.cos())


SIZES = [(64, 64), (75, 53), (33, 64), (31, 100), (20, 20), (120, 17), (32, 32), (40, 200), (1, 70)]


@pytest.mark.parametrize("height_width", SIZES)
@pytest.mark.parametrize(("size", "overlap"), [(32, 8), (32, 1), (24, 11), (16, 7)])
def test_tiles_of_a_local_denoiser_are_the_whole(height_width, size, overlap):
    x = normal(2, 3, *height_width)
    whole, tiled = local(x, LEVEL), tiles(local, size, overlap)(x, LEVEL)
    for a, b in zip(whole, tiled, strict=True):
        assert (a - b).abs().max() < 1e-14


def test_tiles_without_learned_variance():
    assert tiles(lambda x, level: Pred(x, x), 32, 8)(normal(1, 3, 40, 40), LEVEL).frac is None


@pytest.mark.parametrize("height_width", SIZES)
@pytest.mark.parametrize(("size", "overlap"), [(32, 8), (24, 11), (39, 8)])
def test_tiles_are_small_and_aligned(height_width, size, overlap):
    shapes = []
    tiles(lambda x, level: shapes.append(x.shape[-2:]) or Pred(x, x), size, overlap)(normal(1, 3, *height_width), LEVEL)
    for shape in shapes:
        for side, full in zip(shape, height_width, strict=True):
            assert side <= size
            assert side % 8 == 0 or side == full
    if max(height_width) > size:
        assert len(shapes) > 1


def test_spans_cover_with_the_overlap():
    for size, overlap in ((16, 1), (16, 7), (24, 11), (32, 8), (64, 16), (64, 31), (256, 64)):
        for length in range(1, 500):
            found = spans(length, size, overlap)
            assert found[0][0] == 0
            assert found[-1][1] == length
            assert all(b - a == min(size, length) for a, b in found)
            assert all(a % 8 == 0 for a, _ in found[:-1])
            for (a, b), (c, d) in pairwise(found):
                assert a < c
                assert b < d
                assert b - c >= overlap


@pytest.mark.parametrize("axis", [2, 3])
def test_seams_are_blended(axis):
    """Tiles that disagree by 1 meet in a ramp over the middle quarter of the overlap, without a step."""
    values = iter(range(100))

    def moody(x, level):
        flat = torch.full_like(x, float(next(values)))
        return Pred(flat, flat)

    shape = [1, 1, 64, 64]
    shape[axis] = 264
    out = tiles(moody, 64, 24)(torch.zeros(shape).double(), LEVEL).x0
    assert out.min() == 0
    assert out.max() == next(values) - 1 > 3
    assert out.diff(dim=axis).abs().max() <= 1 / 6 + 1e-12
    assert out.diff(dim=axis).min() >= 0


def test_tiles_inside_a_sampler():
    """A tiled chain of a local denoiser is the chain of the whole picture."""
    x = torch.randn(1, 3, 40, 56, generator=seeded())
    prior = Independent()
    a = last(sample(prior, x, linear().levels(5)))
    b = last(sample(tiles(prior, 32, 8), x, linear().levels(5)))
    assert (a - b).abs().max() < 1e-5


class Independent:
    """Independent pixels N(0, 0.25)."""

    def __call__(self, x, level):
        gap = x / (level.alpha**2 * 0.25 + level.sigma**2)
        return Pred(level.alpha * 0.25 * gap, level.sigma * gap)


@pytest.mark.parametrize(("size", "overlap"), [(64, 32), (64, 40), (64, 0), (8, 2), (0, 8), (15, 3)])
def test_tiles_that_cannot_work_are_refused(size, overlap):
    with pytest.raises(InputError, match="over twice the overlap") as caught:
        tiles(local, size, overlap)
    assert "\n" not in str(caught.value)
