"""DDRM against its paper's update in scalars, and against exact posteriors of independent Gaussian pixels."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import Gaussian, normal, seeded

from restore.algorithms.ddrm import ddrm
from restore.errors import InputError
from restore.levels import CLEAN, Flow, Karras, linear, travel
from restore.operators import Mask
from restore.steps import last

TABLE = linear()
SCHEDULES = {"vp": TABLE, "ve": Karras(), "flow": Flow()}
MEAN = torch.linspace(-0.3, 0.4, 16).double()
VAR = torch.linspace(0.05, 0.6, 16).double()
PRIOR = Gaussian(MEAN, VAR.diag(), (1, 4, 4))
LEFT = torch.zeros(4, 4)
LEFT[:, :2] = 1
K = LEFT.reshape(-1).bool()
TRUTH = (MEAN + VAR.sqrt() * torch.linspace(-1, 1, 16).double().roll(5)).reshape(1, 1, 4, 4)


def measured(noise_std, count=1, seed=3):
    """The left half, with one draw of noise, for a batch."""
    return (LEFT * (TRUTH + noise_std * normal(1, 1, 4, 4, seed=seed))).expand(count, -1, -1, -1)


def posterior(y, noise_std):
    """Exact mean and standard deviation of each pixel, (16,)."""
    precision = torch.where(K, 1 / noise_std**2, 0.0) + 1 / VAR
    mean = (torch.where(K, y[0].reshape(-1) / noise_std**2, 0.0) + MEAN / VAR) / precision
    return mean, precision.rsqrt()


def run(noise_std, levels, count=4000, **options):
    return last(ddrm(PRIOR, Mask(LEFT), measured(noise_std, count), noise_std, levels, rng=seeded(), **options))


# --- the paper's equations, one coefficient at a time ---


def scalar_chain(y, known, noise_std, mean, var, ratios, eta, eta_b):
    """Mean and variance of one pixel at the end: Kawar et al. 2022, eqs. 7 and 8, for a Gaussian prior."""
    first = ratios[0]
    seen = known and noise_std <= first
    m, v = (y, first**2 - noise_std**2) if seen else (0.0, first**2)  # of x_T, on the scale of the image
    for now, then in pairwise(ratios):
        gain = var / (var + now**2)  # x0 = mean + gain (x - mean)
        x0 = mean + gain * (m - mean)
        if known and noise_std <= then:
            m, slope, fresh = (1 - eta_b) * x0 + eta_b * y, (1 - eta_b) * gain, then**2 - (eta_b * noise_std) ** 2
        elif known:
            pull = math.sqrt(1 - eta**2) * then / noise_std
            m, slope, fresh = x0 + pull * (y - x0), (1 - pull) * gain, (eta * then) ** 2
        else:
            keep = math.sqrt(1 - eta**2) * then / now
            m, slope, fresh = x0 + keep * (m - x0), gain + keep * (1 - gain), (eta * then) ** 2
        v = slope**2 * v + fresh
    return m, v


@pytest.mark.parametrize("noise_std", [0.05, 0.4])
@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (1.0, 1.0), (0.0, 1.0), (0.85, 0.0), (0.5, 0.3)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_moments_are_those_of_the_paper(name, noise_std, eta, eta_b):
    count = 4000
    levels = [SCHEDULES[name].at_ratio(level.sigma) for level in Karras(0.01, 20.0).levels(15)[:-1]] + [CLEAN]
    x = run(noise_std, levels, count, eta=eta, eta_b=eta_b).reshape(count, 16)
    y = measured(noise_std)[0].reshape(-1)
    for i in range(16):
        m, v = scalar_chain(
            float(y[i]), bool(K[i]), noise_std, float(MEAN[i]), float(VAR[i]), [at.ratio for at in levels], eta, eta_b
        )
        assert abs(float(x[:, i].mean()) - m) <= 5 * math.sqrt(v / count) + 1e-9
        assert abs(float(x[:, i].var()) - v) <= 5 * v * math.sqrt(2 / count) + 1e-9


# --- noise-free ---


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_noise_free_data_are_met(name, eta):
    levels = SCHEDULES[name].levels(10)
    levels = levels[1:] if not levels[0].alpha else levels  # the closed form needs some signal
    x = run(0.0, levels, 8, eta=eta)
    assert (LEFT * (x - measured(0.0, 8))).abs().max() == 0
    assert torch.isfinite(x).all()
    assert x[..., 2:].std(0).min() > 0.01


def test_noise_free_inpainting_is_the_posterior():
    """Independent pixels: what is unknown follows the prior. DDIM's eta 0 keeps its spread, as the ODE does."""
    x = run(0.0, [TABLE.at_ratio(r.sigma) for r in Karras(0.01, 80.0).levels(150)[:-1]] + [CLEAN], eta=0.0)
    x = x.reshape(-1, 16)[:, ~K]
    assert ((x.mean(0) - MEAN[~K]).abs() / VAR[~K].sqrt()).max() < 0.08
    assert (x.std(0) / VAR[~K].sqrt() - 1).abs().max() < 0.06


def test_as_released_does_not_impose_the_data_at_the_end():
    off = LEFT * (run(0.0, TABLE.levels(10), 8, as_released=True) - measured(0.0, 8))
    assert 0 < off.abs().max() < 0.1


# --- noisy ---


@pytest.mark.parametrize("noise_std", [0.1, 0.3])
@pytest.mark.parametrize("eta", [0.0, 0.85])
def test_noisy_inpainting_has_the_mean_of_the_posterior(noise_std, eta):
    levels = sorted([*TABLE.levels(20), TABLE.at_ratio(noise_std)], key=lambda level: -level.ratio)
    mean, std = posterior(measured(noise_std), noise_std)
    x = run(noise_std, levels, eta=eta).reshape(-1, 16)
    assert ((x.mean(0) - mean).abs() / std).max() < 0.25
    assert (x.std(0)[K] < 1.05 * std[K]).all()  # never wider than it should be


@pytest.mark.parametrize("noise_std", [0.1, 0.3, 0.7])
def test_denoising_is_bayes_optimal_where_a_level_stands_at_the_noise(noise_std):
    """At ratio = noise_std the state is y itself (eq. 8 with no noise to add), and x0 its posterior mean."""
    x0 = MEAN + VAR.sqrt() * normal(4000, 16, seed=9)
    y = (x0 + noise_std * normal(4000, 16, seed=10)).reshape(-1, 1, 4, 4)
    levels = [*(level for level in TABLE.levels(20) if level.ratio > noise_std), TABLE.at_ratio(noise_std), CLEAN]
    x = last(ddrm(PRIOR, Mask(torch.ones(4, 4)), y, noise_std, levels, rng=seeded())).reshape(-1, 16)
    best = float((1 / (1 / noise_std**2 + 1 / VAR)).mean())
    assert abs(float((x - x0).pow(2).mean()) / best - 1) < 0.02


@pytest.mark.parametrize(("noise_std", "loss"), [(0.1, 1.6), (0.3, 1.5), (0.7, 1.5)])
def test_denoising_on_plain_levels_is_near_it(noise_std, loss):
    x0 = MEAN + VAR.sqrt() * normal(1000, 16, seed=9)
    y = (x0 + noise_std * normal(1000, 16, seed=10)).reshape(-1, 1, 4, 4)
    x = last(ddrm(PRIOR, Mask(torch.ones(4, 4)), y, noise_std, TABLE.levels(100), rng=seeded())).reshape(-1, 16)
    error = float((x - x0).pow(2).mean())
    best = float((1 / (1 / noise_std**2 + 1 / VAR)).mean())
    assert 0.95 * best < error < loss * best
    if noise_std > 0.1:
        assert error < 0.97 * noise_std**2  # better than y itself


def test_measurements_noisier_than_the_first_level():
    """They pull at every step, by how much they can be trusted, and never replace the state."""
    levels = TABLE.levels(20, 0.3)
    start, y = MEAN.reshape(1, 1, 4, 4).expand(2000, -1, -1, -1), LEFT * (MEAN.reshape(1, 1, 4, 4) + 3)
    assert levels[0].ratio < 3

    def answer(noise_std):
        x = last(ddrm(PRIOR, Mask(LEFT), y.expand(2000, -1, -1, -1), noise_std, levels, start=start, rng=seeded()))
        return x.mean(0).reshape(-1) - MEAN

    assert (answer(1e6) / VAR.sqrt()).abs().max() < 0.1  # worth nothing
    weak, strong = answer(30.0), answer(3.0)
    assert (weak[K] < strong[K]).all()
    assert (weak[K] > answer(1e6)[K]).all()
    assert (strong[K] < 3).all()
    assert (strong - weak)[~K].abs().max() < 1e-6  # pixels are independent


def test_eta_b_0_ignores_what_is_cleaner_than_the_chain():
    """(1 - eta_b) x0 + eta_b y: with eta_b 0 such a coefficient never meets its measurement after x_T."""
    levels = TABLE.levels(20)
    x = normal(4, 1, 4, 4) * levels[0].sigma

    def chain(y, eta_b):
        return last(ddrm(PRIOR, Mask(LEFT), y, 1e-4, levels[:-1], eta_b=eta_b, x=x, rng=seeded()))

    y = measured(0.0, 4)
    assert torch.equal(chain(y, 0.0), chain(y + 1, 0.0))
    assert (chain(y, 1.0) - chain(y + 1, 1.0)).abs().max() > 0.9


# --- starts, shapes, seeds ---


def test_a_start_serves_the_unmeasured():
    seen, guess, levels = [], normal(4, 1, 4, 4), TABLE.levels(10, 0.2)

    def spy(x, level):
        seen.append(x)
        return PRIOR(x, level)

    x = last(ddrm(spy, Mask(LEFT), measured(0.0, 4), 0.0, levels, start=guess, rng=seeded()))
    expected = levels[0].alpha * torch.where(K.reshape(4, 4), measured(0.0, 4), guess)
    z = torch.randn(4, 1, 4, 4, generator=seeded(), dtype=torch.float64)
    assert (seen[0] - expected - levels[0].sigma * z).abs().max() < 1e-6  # eq. 7 about the guess
    assert (LEFT * (x - measured(0.0, 4))).abs().max() == 0


def test_schedules_without_signal_at_the_start():
    """alpha = 0 at the first level: flow, and zero terminal SNR."""
    level = Flow().levels(4)

    def velocity_network(x, at):
        if at.alpha:
            return PRIOR(x, at)
        return PRIOR(x, at)._replace(x0=MEAN.reshape(1, 1, 4, 4).expand_as(x), eps=x)

    x = last(ddrm(velocity_network, Mask(LEFT), measured(0.1, 4), 0.1, level, rng=seeded()))
    assert torch.isfinite(x).all()


def test_a_mask_for_each_image():
    y, known = normal(3, 1, 4, 4), (normal(3, 1, 4, 4, seed=8) > 0).double()
    x = last(ddrm(PRIOR, Mask(known), known * y, 0.0, TABLE.levels(10), rng=seeded()))
    assert torch.equal(x[known > 0], y[known > 0])


def test_values_under_unmeasured_pixels_are_ignored():
    levels, y = TABLE.levels(5), measured(0.0, 2)
    a, b = (last(ddrm(PRIOR, Mask(LEFT), y, 0.0, levels, rng=seeded())) for y in (y, y + 3 * (1 - LEFT)))
    assert torch.equal(a, b)


def test_all_and_nothing_measured():
    y, levels = normal(2, 1, 4, 4), TABLE.levels(5)
    assert torch.equal(last(ddrm(PRIOR, Mask(torch.ones(4, 4)), y, 0.0, levels, rng=seeded())), y)
    a, b = (last(ddrm(PRIOR, Mask(torch.zeros(4, 4)), y, std, levels, rng=seeded())) for std in (0.0, 0.5))
    assert torch.equal(a, b)
    assert torch.isfinite(a).all()


def test_states_follow_the_levels():
    levels = TABLE.levels(6)
    states = list(ddrm(PRIOR, Mask(LEFT), measured(0.1), 0.1, levels, rng=seeded()))
    assert [state.level for state in states] == levels[1:]


def test_seeds():
    found = []
    for world, seed in ((3, 0), (4, 0), (3, 1)):
        torch.manual_seed(world)
        before = torch.get_rng_state()
        found.append(last(ddrm(PRIOR, Mask(LEFT), measured(0.1), 0.1, TABLE.levels(6), rng=seeded(seed))))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("levels", "options", "hint"),
    [
        (travel(TABLE.levels(8), 2, 2), {}, "fall"),
        (TABLE.levels(8), {"eta": 1.5}, "eta"),
        (TABLE.levels(8), {"eta_b": -0.1}, "eta_b"),
        (TABLE.levels(8), {"noise_std": -0.1}, "noise_std"),
        (TABLE.levels(8), {"noise_std": math.nan}, "noise_std"),
    ],
)
def test_refused(levels, options, hint):
    options = {"noise_std": 0.1, **options}
    with pytest.raises(InputError, match=hint):
        last(ddrm(PRIOR, Mask(LEFT), measured(0.1), levels=levels, rng=seeded(), **options))
