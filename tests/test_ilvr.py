"""ILVR against its algorithm box, with a low-pass that is a projection and with the paper's, and on Gaussian priors."""

import operator
from itertools import pairwise

import pytest
import torch
from affine import pushed
from conftest import Gaussian, normal, seeded
from torch.nn.functional import avg_pool2d, interpolate

from restore.algorithms import ilvr, ilvr_as_released, low_pass
from restore.errors import InputError
from restore.levels import CLEAN, Flow, Karras, linear
from restore.steps import ancestral, ddim, large, last, noised, once, sample, small

TABLE = linear()
SCHEDULES = {"vp": TABLE, "ve": Karras(), "flow": Flow()}
REFERENCE = normal(1, 1, 4, 4, seed=2) / 2


def average(x):
    """The mean of every 2x2 block, in its place: an exact projection."""
    return interpolate(avg_pool2d(x, 2), scale_factor=2)


def fine(name="vp", steps=120):
    """Ratios from 200 to 0.01: where the ODE and the SDE come out near their limits."""
    return [*(SCHEDULES[name].at_ratio(level.sigma) for level in Karras(0.01, 200.0).levels(steps)[:-1]), CLEAN]


# --- the low-pass ---


@pytest.mark.parametrize("size", [(8, 8), (64, 48), (37, 53), (5, 3), (1, 1), (2, 70)])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8, 32])
def test_low_pass_keeps_size_constants_and_sums(size, factor):
    phi, x, y = low_pass(factor), normal(2, 3, *size), normal(2, 3, *size, seed=1)
    assert phi(x).shape == x.shape
    assert phi(x).dtype == x.dtype
    flat = torch.full_like(x, 0.7)
    assert (phi(flat) - flat).abs().max() < 1e-12
    assert (phi(2 * x - 3 * y) - (2 * phi(x) - 3 * phi(y))).abs().max() < 1e-12


def test_low_pass_of_factor_1_is_nothing():
    x = normal(1, 3, 7, 5)
    assert torch.equal(low_pass(1)(x), x)
    assert torch.equal(low_pass(1.0)(x), x)


@pytest.mark.parametrize("size", [(32, 32), (37, 53)])
def test_low_pass_keeps_low_frequencies_and_loses_high_ones(size):
    """Waves of 32 pixels pass factor 4, and waves of 3 do not."""
    rows, columns = (torch.arange(side).double() for side in size)
    for period, kept in ((32, (0.95, 1.01)), (3, (0.0, 0.12))):
        wave = (2 * torch.pi * rows / period).cos()[:, None] + (2 * torch.pi * columns / period).cos()
        inner = low_pass(4)(wave[None, None])[..., 8:-8, 8:-8]
        assert kept[0] < inner.std() / wave[8:-8, 8:-8].std() < kept[1]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_low_pass_commutes_with_mirrors_and_block_shifts(factor):
    """Neither side of the picture is favoured, and no half pixel is lost."""
    phi, x = low_pass(factor), normal(1, 2, 12 * factor, 12 * factor)
    for dims in ((-1,), (-2,), (-2, -1)):
        assert (phi(x.flip(dims)) - phi(x).flip(dims)).abs().max() < 1e-12
    assert (phi(x.mT) - phi(x).mT).abs().max() < 1e-12
    inner, shift = slice(5 * factor, -5 * factor), phi(x.roll(factor, -1)).roll(-factor, -1)
    assert (shift - phi(x))[..., inner].abs().max() < 1e-12


@pytest.mark.parametrize("factor", [2, 4, 16])
def test_low_pass_is_nearly_a_projection(factor):
    """On one axis: its eigenvalues lie in [0, 1], so that phi - phi phi is at most a quarter."""
    rows = torch.eye(64).double()[:, None, None].expand(64, 1, 64, 64)
    phi = low_pass(factor)(rows)[:, 0, 0].T
    values = torch.linalg.eigvals(phi)
    assert values.imag.abs().max() < 1e-9
    assert -1e-9 < values.real.min() < values.real.max() < 1 + 1e-9
    assert int((values.real > 1e-6).sum()) == 64 // factor
    assert 0.2 < torch.linalg.matrix_norm(phi - phi @ phi, 2) < 0.26


@pytest.mark.parametrize("factor", [0, -2, 1.5, True, False])
def test_low_pass_factors_are_refused(factor):
    with pytest.raises(InputError, match="low-pass factor"):
        low_pass(factor)


# --- the algorithm ---


def by_hand(denoise, reference, phi, levels, eta, rng):
    """Choi et al. 2021, algorithm 1, line by line: x' ~ p(x'|x), y ~ q(y|reference), x = phi(y) + (I - phi)(x')."""
    x = levels[0].sigma * torch.randn(reference.shape, generator=rng, dtype=reference.dtype)
    for now, then in pairwise(levels):
        pred = denoise(x, now)
        proposal = ddim(x, pred, now, then, eta=eta, rng=rng)
        y = then.alpha * reference
        if then.sigma:
            y = y + then.sigma * torch.randn(reference.shape, generator=rng, dtype=reference.dtype)
        x = phi(y) + proposal - phi(proposal)
        yield x


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_algorithm_1(correlated, name, eta):
    levels, phi = SCHEDULES[name].levels(8), low_pass(2)
    expected = by_hand(correlated, REFERENCE, phi, levels, eta, seeded())
    states = list(ilvr(correlated, REFERENCE, phi, levels, eta=eta, rng=seeded()))
    assert [state.level for state in states] == levels[1:]
    for state, x in zip(states, expected, strict=True):
        assert (state.x - x).abs().max() < 1e-12 * (1 + x.abs().max())


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_projection_keeps_the_low_frequencies_of_the_reference(correlated, name, eta):
    x = last(ilvr(correlated, REFERENCE, average, SCHEDULES[name].levels(8), eta=eta, rng=seeded()))
    assert (average(x) - average(REFERENCE)).abs().max() < 1e-14
    assert (x - average(x)).abs().max() > 0.01


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_low_frequencies_miss_by_what_phi_misses_of_a_projection(gaussian_prior, factor, eta):
    """phi(x) - phi(y) = (phi - phi phi)(x' - y) with x' before the merge: of the last step, its estimate of x0."""
    reference, phi = normal(2, 3, 24, 24, seed=5) / 3, low_pass(factor)
    *_, end = ilvr(gaussian_prior, reference, phi, TABLE.levels(8), eta=eta, rng=seeded())
    gap = end.x0 - reference
    missed = phi(end.x) - phi(reference)
    assert (missed - (phi(gap) - phi(phi(gap)))).abs().max() < 1e-12
    assert 0 < missed.norm() < 0.26 * gap.norm()


def test_low_pass_of_nothing_is_ddpm(correlated, replay):
    """With phi = 0 the draws for the reference are made, and not used."""
    levels, (first, *draws) = TABLE.levels(8), normal(15, 1, 1, 4, 4)
    unspent = replay([first, *draws])
    states = list(ilvr(correlated, REFERENCE, torch.zeros_like, levels))
    assert not unspent
    left = replay(draws[::2])
    free = sample(correlated, levels[0].sigma * first, levels, move=once(ancestral))
    for state, expected in zip(states, free, strict=True):
        assert (state.x - expected.x).abs().max() < 1e-10
    assert not left


def test_low_pass_of_everything_gives_the_reference(correlated):
    x = last(ilvr(correlated, REFERENCE, lambda x: x, TABLE.levels(8), rng=seeded()))
    assert (x - REFERENCE).abs().max() < 1e-14
    assert (last(ilvr(correlated, REFERENCE, low_pass(1), TABLE.levels(8), rng=seeded())) - x).abs().max() == 0


# --- stop ---


@pytest.mark.parametrize("run", [ilvr, ilvr_as_released])
def test_below_stop_the_chain_runs_free(correlated, run):
    """The paper conditions a step that reaches `stop`; the released code only above it, so never the last."""
    options = {"variance": small} if run is ilvr_as_released else {}
    levels, count = TABLE.levels(10), [0]

    def phi(x):
        count[0] += 1
        return average(x)

    calls, inside = (2, operator.gt) if run is ilvr_as_released else (1, operator.ge)
    for stop in (0.0, levels[7].ratio, levels[4].ratio, levels[4].ratio * 1.01, 1e9):
        counts = []
        for _ in run(correlated, REFERENCE, phi, levels, stop=stop, rng=seeded(), **options):
            counts.append(count[0])
            count[0] = 0
        assert counts == [calls * inside(then.ratio, stop) for then in levels[1:]]


def test_below_stop_no_noise_is_drawn_for_the_reference(correlated):
    """With eta 0 a free chain is the ODE."""
    levels = TABLE.levels(10)
    states = list(ilvr(correlated, REFERENCE, average, levels, stop=levels[5].ratio, eta=0.0, rng=seeded()))
    free = list(sample(correlated, states[4].x, levels[5:], move=once(ddim)))
    for state, expected in zip(states[5:], free, strict=True):
        assert torch.equal(state.x, expected.x)
    assert (average(states[-1].x) - average(REFERENCE)).abs().max() > 0.01


# --- starts, schedules without signal, seeds ---


def test_a_start_is_noised_to_the_first_level(correlated):
    seen, guess, levels = [], normal(1, 1, 4, 4, seed=6), TABLE.levels(5, 0.3)

    def spy(x, level):
        seen.append(x)
        return correlated(x, level)

    last(ilvr(spy, REFERENCE, average, levels, start=guess, rng=seeded()))
    assert torch.equal(seen[0], noised(guess, levels[0], seeded()))
    last(ilvr(spy, REFERENCE, average, levels, rng=seeded()))
    assert torch.equal(seen[5], levels[0].sigma * torch.randn(1, 1, 4, 4, generator=seeded(), dtype=torch.float64))


@pytest.mark.parametrize("run", [ilvr, ilvr_as_released])
def test_seeds(correlated, run):
    options, found = {"variance": large} if run is ilvr_as_released else {}, []
    for world, seed in ((3, 0), (4, 0), (3, 1)):
        torch.manual_seed(world)
        before = torch.get_rng_state()
        found.append(last(run(correlated, REFERENCE, average, TABLE.levels(6), rng=seeded(seed), **options)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_is_a_share(correlated, eta):
    with pytest.raises(InputError, match="eta"):
        last(ilvr(correlated, REFERENCE, average, TABLE.levels(3), eta=eta))


# --- Gaussian priors, without sampling error ---


def split(prior):
    """The prior with low and high frequencies (of `average`) made independent, its mean kept."""
    p = average(torch.eye(16).double().reshape(16, 1, 4, 4)).reshape(16, 16)
    q = torch.eye(16).double() - p
    return Gaussian(prior.mean, p @ prior.cov @ p + q @ prior.cov @ q, prior.shape), p, q


def given_low_frequencies(prior, p, q):
    """Exact mean and covariance of the prior's pictures with the low frequencies of the reference."""
    gain = q @ prior.cov @ p @ torch.linalg.pinv(p @ prior.cov @ p)
    low = REFERENCE.flatten() - prior.mean
    return p @ REFERENCE.flatten() + q @ prior.mean + gain @ low, q @ prior.cov @ q - gain @ p @ prior.cov @ q


def answers(prior, steps, eta):
    return pushed(lambda n: last(ilvr(prior, REFERENCE.expand(n, -1, -1, -1), average, fine("vp", steps), eta=eta)))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_independent_frequencies_are_sampled_exactly(correlated, eta):
    """Where low and high are independent, ILVR is exact: the reference's low ones, the prior's high ones."""
    prior, p, q = split(correlated)
    mean, cov = given_low_frequencies(prior, p, q)
    assert (mean - p @ REFERENCE.flatten() - q @ prior.mean).abs().max() < 1e-12
    coarse, finer = (answers(prior, steps, eta) for steps in (40, 80))
    assert (finer[0] - mean).abs().max() < 1e-3
    assert (finer[1] - cov).norm() < 0.6 * (coarse[1] - cov).norm()  # the solver's own error, of order 1:
    assert (2 * finer[1] - coarse[1] - cov).norm() < 0.05 * cov.norm()  # its limit by extrapolation


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_correlated_frequencies_are_not(correlated, eta):
    """The high frequencies hear of the reference, and follow it part of the way: no number of steps closes the gap."""
    _, p, q = split(correlated)
    mean, _ = given_low_frequencies(correlated, p, q)
    deaf = float((p @ REFERENCE.flatten() + q @ correlated.mean - mean).norm())
    coarse, finer = (float((answers(correlated, steps, eta)[0] - mean).norm()) for steps in (40, 80))
    assert 0.2 * deaf < finer < 0.8 * deaf
    assert finer > 0.9 * coarse


@pytest.mark.parametrize("name", ["ve", "flow"])
def test_schedules_agree_on_the_scale_of_the_image(correlated, name):
    a, b = (last(ilvr(correlated, REFERENCE, average, fine(kind, 10), rng=seeded())) for kind in ("vp", name))
    assert (a - b).abs().max() < 1e-8
