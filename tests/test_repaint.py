"""RePaint against exact conditionals and diffusers' scheduler; known pixels, masks, starts, seeds."""

from itertools import pairwise

import pytest
import torch
from conftest import Gaussian, normal, seeded
from diffusers import RePaintScheduler

from restore.algorithms.repaint import repaint, repaint_as_released
from restore.levels import Flow, Karras, calls, linear, travel
from restore.steps import large, last, learned, noised

TABLE = linear()
LEFT = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
LEFT[..., :2] = True
VALUES = torch.tensor([0.6, -0.4, 0.2, 0.7, 0.1, -0.5, 0.3, 0.4]).double()
KNOWN = torch.zeros(1, 1, 4, 4).double().masked_scatter(LEFT, VALUES)


def unknown(x):
    """The unknown half of each image, (B,8)."""
    return x.reshape(-1, 16)[:, ~LEFT.reshape(-1)]


def test_resampling_approaches_the_exact_conditional(correlated):
    mean, cov = correlated.conditional(LEFT.reshape(-1), VALUES)
    off_mean, off_cov = [], []
    for resamplings in (1, 10):
        levels = travel(Karras(0.05, 10.0).levels(40), 1, resamplings)
        x = unknown(last(repaint(correlated, KNOWN.expand(3000, -1, -1, -1), LEFT, levels, rng=seeded())))
        off_mean.append(float((x.mean(0) - mean).norm()))
        off_cov.append(float((x.T.cov() - cov).norm()))
    assert off_mean[1] < 0.8 * off_mean[0]
    assert off_cov[1] < 0.5 * off_cov[0]


def test_the_mean_approaches_the_exact_one_with_resampling(correlated, monkeypatch):
    """The chain is affine in its noise, so that the run with all noise zero is the mean: no sampling error."""
    monkeypatch.setattr(torch, "randn", lambda shape, **kwargs: torch.zeros(shape, dtype=kwargs["dtype"]))
    mean, _ = correlated.conditional(LEFT.reshape(-1), VALUES)
    walks = [travel(Karras(0.05, 10.0).levels(40), 1, resamplings) for resamplings in (1, 3, 10, 40)]
    errors = [float((unknown(last(repaint(correlated, KNOWN, LEFT, walk))) - mean).norm()) for walk in walks]
    assert all(b < a for a, b in pairwise(errors))
    assert errors[-1] < 0.3 * errors[0]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steps_equal_diffusers(gaussian_prior, replay, eta):
    """diffusers uses one draw for both regions; ours, replayed twice, must then be the same."""
    theirs = RePaintScheduler(eta=eta, clip_sample=False)
    theirs.alphas_cumprod = torch.from_numpy(TABLE.abar)
    theirs.set_timesteps(20, jump_length=1, jump_n_sample=1)
    known, mask = normal(2, 3, 6, 6), (normal(1, 1, 6, 6, seed=1) > 0).double()
    states, draws = [normal(2, 3, 6, 6, seed=2)], []
    for t in theirs.timesteps:
        rng, pred = seeded(int(t)), gaussian_prior(states[-1], TABLE.at(int(t)))
        states.append(theirs.step(pred.eps, int(t), states[-1], known, mask, generator=rng).prev_sample)
        draws.append(torch.randn(known.shape, generator=seeded(int(t)), dtype=torch.float64))
    levels = TABLE.levels(20)
    order = [states[0] / levels[0].sigma, *(z for z in draws[:-1] for _ in range(2 if eta else 1))]
    left = replay(order)
    for state, expected in zip(repaint(gaussian_prior, known, mask, levels, eta=eta), states[1:], strict=True):
        assert (state.x - expected).abs().max() < 1e-6
    assert not left


@pytest.mark.parametrize("schedule", [TABLE, Karras(), Flow(shift=3.0)])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("resamplings", [1, 2])
def test_known_pixels_are_exact(correlated, schedule, eta, resamplings):
    levels = schedule.levels(10)
    levels = levels[1:] if not levels[0].alpha else levels  # the closed form needs some signal
    walk = travel(levels, 3, resamplings)
    x = last(repaint(correlated, KNOWN, LEFT, walk, eta=eta, rng=seeded()))
    assert torch.equal(x[LEFT], KNOWN[LEFT])
    assert torch.isfinite(x).all()
    assert not torch.equal(x[~LEFT], KNOWN[~LEFT])


def test_values_under_the_unknown_pixels_are_ignored(correlated):
    levels = TABLE.levels(5)
    garbage = torch.where(LEFT, KNOWN, torch.nan)
    a, b = (last(repaint(correlated, known, LEFT, levels, rng=seeded())) for known in (KNOWN, garbage))
    assert torch.equal(a, b)


def test_everything_known(correlated):
    known = normal(2, 1, 4, 4)
    states = list(repaint(correlated, known, torch.ones(1, 1, 4, 4), TABLE.levels(5), rng=seeded()))
    assert torch.equal(states[-1].x, known)
    assert all(torch.equal(state.x0, known) for state in states)


def test_nothing_known_samples_the_prior(correlated):
    levels = [TABLE.at_ratio(level.sigma) for level in Karras(0.02, 50.0).levels(150)[:-1]]
    levels.append(TABLE.levels(1)[-1])
    blank = torch.zeros(4000, 1, 4, 4).double()
    x = last(repaint(correlated, blank, torch.zeros(1, 1, 4, 4), levels, rng=seeded())).reshape(-1, 16)
    assert (x.mean(0) - correlated.mean).abs().max() < 0.04
    assert (x.T.cov() - correlated.cov).abs().max() < 0.04


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.uint8])
def test_kinds_of_masks_agree(correlated, kind):
    levels = TABLE.levels(5)
    a, b = (last(repaint(correlated, KNOWN, mask, levels, rng=seeded())) for mask in (LEFT, LEFT.to(kind)))
    assert torch.equal(a, b)


def test_a_mask_for_each_image(correlated):
    """A batch is what its images are one by one, each with its own mask and noise."""
    known, levels = normal(3, 1, 4, 4), travel(TABLE.levels(8), 2, 2)
    masks = torch.stack([LEFT[0], ~LEFT[0], torch.zeros_like(LEFT[0])])
    x = last(repaint(correlated, known, masks, levels, rng=seeded()))
    for i in range(3):
        assert torch.equal(x[i][masks[i]], known[i][masks[i]])
    assert torch.isfinite(x).all()


def test_a_mask_of_one_channel_serves_all(gaussian_prior):
    known, mask = normal(2, 3, 4, 4), LEFT.expand(2, 1, 4, 4)
    x = last(repaint(gaussian_prior, known, mask, TABLE.levels(5), rng=seeded()))
    assert torch.equal(x[mask.expand_as(x)], known[mask.expand_as(x)])


def test_a_start_is_noised_to_the_first_level():
    """Little noise leaves the first guess in place; the answer of a sharp denoiser follows it."""
    seen, guess = [], normal(2, 1, 4, 4)
    sharp = Gaussian(torch.zeros(16).double(), 100.0 * torch.eye(16).double(), (1, 4, 4))

    def spy(x, level):
        seen.append(x)
        return sharp(x, level)

    levels = TABLE.levels(10, 0.1)
    x = last(repaint(spy, KNOWN, LEFT, levels, start=guess, rng=seeded()))
    assert torch.equal(seen[0], noised(guess, levels[0], seeded()))
    assert (unknown(x) - unknown(guess)).abs().max() < 8 * levels[0].ratio
    assert torch.equal(x[LEFT.expand_as(x)], KNOWN.expand_as(x)[LEFT.expand_as(x)])


def test_travel_from_a_start(correlated):
    """Time travel stays within the levels from the start on."""
    levels = TABLE.levels(20, 0.4)
    walk = travel(levels, 5, 3)
    count, told = [0], []

    def counting(x, level):
        count[0] += 1
        told.append(level.t)
        return correlated(x, level)

    x = last(repaint(counting, KNOWN, LEFT, walk, start=normal(1, 1, 4, 4), rng=seeded()))
    assert torch.equal(x[LEFT], KNOWN[LEFT])
    assert count[0] == calls(walk) > 20
    assert max(told) == levels[0].t == 380


def test_states_follow_the_walk(correlated):
    walk = travel(TABLE.levels(8), 2, 2)
    states = list(repaint(correlated, KNOWN, LEFT, walk, rng=seeded()))
    assert [state.level for state in states] == walk[1:]
    for state in states[:-1]:
        assert torch.equal(state.x0[LEFT], KNOWN[LEFT])


def test_seeds(correlated):
    levels, found = travel(TABLE.levels(8), 2, 2), []
    for world, seed in ((3, 0), (4, 0), (3, 1)):
        torch.manual_seed(world)
        before = torch.get_rng_state()
        found.append(last(repaint(correlated, KNOWN, LEFT, levels, rng=seeded(seed))))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_as_released_leaves_known_pixels_near(gaussian_prior, learned_prior):
    """Two kinds of variance; the answer is near the known pixels, and differs from them."""
    known, mask = 0.2 + 0.3 * normal(2, 3, 4, 4), LEFT.double().expand(2, 1, 4, 4)
    for prior, variance in ((gaussian_prior, large), (learned_prior, learned)):
        x = last(repaint_as_released(prior, known, mask, TABLE.levels(50), variance=variance, rng=seeded()))
        off = (x - known).abs()[mask.expand_as(x) > 0]
        assert 0 < off.max() < 0.1
