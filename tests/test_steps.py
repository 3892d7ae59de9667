"""Moves between levels: moments, diffusers' steps one by one, measured orders of convergence, seeds."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import normal, push, seeded
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler
from torch import nn

from restore.errors import DivergedError, InputError
from restore.levels import CLEAN, Flow, Karras, linear
from restore.prior import Pred, Prior
from restore.steps import (
    ancestral,
    checked,
    ddim,
    gaussian,
    heun,
    large,
    last,
    learned,
    noised,
    once,
    posterior_mean,
    renoise,
    sample,
    small,
)
from restore.wrappers import clip

TABLE = linear()
SCHEDULES = {"vp": TABLE, "ve": Karras(), "flow": Flow()}
MANY = 200_000


def moments(x, mean, var):
    """The sample's mean and variance lie within 4.5 standard errors of the given ones."""
    count = x.numel()
    assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(var / count)
    assert abs(float(x.var()) / var - 1) < 4.5 * math.sqrt(2 / count)


@pytest.mark.parametrize("name", SCHEDULES)
def test_forward_noising(name):
    for level in SCHEDULES[name].levels(5)[:-1]:
        x = noised(torch.full((MANY, 1, 1, 1), 1.5).double(), level, seeded())
        moments(x, level.alpha * 1.5, level.sigma**2)


def test_noising_to_clean_is_exact():
    x, rng = normal(2, 3, 4, 4), seeded()
    before = rng.get_state()
    assert torch.equal(noised(x, CLEAN, rng), x)
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize("name", SCHEDULES)
def test_renoising_gives_the_marginal(name):
    """q(x_b | x_a) after q(x_a | x_0) is q(x_b | x_0), and it keeps what is left of x_a."""
    levels = SCHEDULES[name].levels(6)
    for b, a in [(levels[0], levels[1]), (levels[1], levels[4]), (levels[2], CLEAN)]:
        rng = seeded()
        x_a = noised(torch.full((MANY, 1, 1, 1), 1.5).double(), a, rng)
        x_b = renoise(x_a, a, b, rng)
        moments(x_b, b.alpha * 1.5, b.sigma**2)
        kept = b.alpha / a.alpha * a.sigma**2  # Cov(x_a, x_b)
        found = float(((x_a - x_a.mean()) * (x_b - x_b.mean())).mean())
        assert abs(found - kept) <= 4.5 * math.sqrt((a.sigma**2 * b.sigma**2 + kept**2) / MANY)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("move", [ancestral, ddim, "half"])
def test_stochastic_steps_keep_the_marginals(name, move):
    """With the true x0 as prediction, q(x_s | x_t, x0) after q(x_t | x0) is q(x_s | x0): Ho et al. 2020, eq. 6."""
    rng, x0 = seeded(), torch.full((MANY, 1, 1, 1), 1.5).double()
    options = {ancestral: {}, ddim: {"eta": 1.0}, "half": {"eta": 0.5}}[move]
    for now, then in pairwise(SCHEDULES[name].levels(6)[:-1]):
        x = noised(x0, now, rng)
        pred = Pred(x0, (x - now.alpha * x0) / now.sigma)
        x = (ddim if move == "half" else move)(x, pred, now, then, **options, rng=rng)
        moments(x, then.alpha * 1.5, then.sigma**2)


# --- diffusers, step by step ---


@pytest.fixture(scope="module")
def prior():
    """A small random network with learned variance; what it says depends on the time too."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 6, 3, padding=1)).double()

    def net(x, t):
        with torch.no_grad():
            return body(x + torch.sin(t / 200).reshape(-1, 1, 1, 1))

    return Prior(net, predicts="eps", schedule=TABLE)


def same_table(scheduler):
    """The scheduler on our float64 table; that the tables agree is tested with the levels."""
    scheduler.alphas_cumprod = torch.from_numpy(TABLE.abar)
    return scheduler


def chain(scheduler, prior, steps, **options):
    """All states of diffusers' loop, with the noise of seed 7."""
    scheduler.set_timesteps(steps)
    x, rng = normal(2, 3, 6, 6), seeded(7)
    for t in scheduler.timesteps:
        out = prior.net(x, t.expand(2))
        if not scheduler.config.get("variance_type", "").startswith("learned"):
            out = out[:, :3]
        x = scheduler.step(out, t, x, generator=rng, **options).prev_sample
        yield x


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [7, 20])
def test_ddim_equals_diffusers(prior, eta, steps, clipped):
    theirs = same_table(DDIMScheduler(clip_sample=clipped, set_alpha_to_one=True, timestep_spacing="leading"))
    expected = list(chain(theirs, prior, steps, eta=eta, use_clipped_model_output=clipped))
    denoise, move = clip(prior) if clipped else prior, once(ddim, eta=eta, rng=seeded(7))
    ours = list(sample(denoise, normal(2, 3, 6, 6), TABLE.levels(steps), move=move))
    assert expected[-1].abs().max() > 0.1
    for state, x in zip(ours, expected, strict=True):
        assert (state.x - x).abs().max() < 1e-9


VARIANCES = {"fixed_small": small, "fixed_large": large, "learned_range": learned}


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("kind", VARIANCES)
@pytest.mark.parametrize("steps", [7, 200])
def test_ddpm_equals_diffusers(prior, kind, steps, clipped):
    theirs = same_table(DDPMScheduler(clip_sample=clipped, variance_type=kind, timestep_spacing="leading"))
    expected = list(chain(theirs, prior, steps))
    denoise, move = clip(prior) if clipped else prior, once(ancestral, variance=VARIANCES[kind], rng=seeded(7))
    ours = list(sample(denoise, normal(2, 3, 6, 6), TABLE.levels(steps), move=move))
    for state, x in zip(ours, expected, strict=True):
        assert (state.x - x).abs().max() < 1e-6 * (1 + x.abs().max())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own numpy calls
def test_heun_equals_diffusers(prior):
    theirs = same_table(HeunDiscreteScheduler(timestep_spacing="linspace", beta_start=1e-4, beta_end=0.02))
    theirs.set_timesteps(28)  # 999 / 27 is whole, so that no time lies between two of the table
    x = normal(2, 3, 6, 6)
    levels = TABLE.levels(28, spacing="linspace")
    x_ve = x / levels[0].alpha
    expected = []
    for i, t in enumerate(theirs.timesteps):
        out = prior.net(theirs.scale_model_input(x_ve, t), t.expand(2))[:, :3]
        x_ve = theirs.step(out, t, x_ve).prev_sample
        expected += [x_ve] if i % 2 or i == 54 else []  # two calls a step, one at the last
    for state, reference in zip(sample(prior, x, levels), expected, strict=True):
        assert (state.x / state.level.alpha - reference).abs().max() < 1e-4 * reference.abs().max()


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_with_eta_1_is_ddpm(mixture, name):
    for now, then in pairwise(SCHEDULES[name].levels(8)):
        if not now.alpha:
            continue
        x = normal(4, 1, 2, 2) * now.sigma
        pred = mixture(x, now)
        a = ddim(x, pred, now, then, eta=1.0, rng=seeded())
        b = ancestral(x, pred, now, then, rng=seeded())
        assert (a - b).abs().max() < 1e-10 * (1 + now.sigma)


def test_posterior_mean_by_bayes():
    """q(x_s | x_t, x0) as a product of two Gaussians, in precisions."""
    now, then, x, x0 = TABLE.at(600), TABLE.at(400), normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1)
    scale = now.alpha / then.alpha
    beta = now.sigma**2 - scale**2 * then.sigma**2
    precision = 1 / then.sigma**2 + scale**2 / beta
    mean = (then.alpha * x0 / then.sigma**2 + scale * x / beta) / precision
    assert (posterior_mean(x, Pred(x0, x), now, then) - mean).abs().max() < 1e-12
    assert small(now, then) == pytest.approx(1 / precision)
    assert large(now, then) == pytest.approx(beta)


def test_learned_variance_lies_between_the_two():
    now, then, ones = TABLE.at(600), TABLE.at(400), torch.ones(1, 1, 2, 2)
    low, high = (learned(now, then, Pred(ones, ones)._replace(frac=f * ones)) for f in (-1, 1))
    assert float(low[0, 0, 0, 0]) == pytest.approx(small(now, then))
    assert float(high[0, 0, 0, 0]) == pytest.approx(large(now, then))
    with pytest.raises(InputError, match="small"):
        learned(now, then, Pred(ones, ones))


def test_the_shift_moves_the_mean_by_variance_times_gradient(mixture):
    now, then, x = TABLE.at(600), TABLE.at(400), normal(1, 1, 2, 2)
    pred = mixture(x, now)
    plain, moved = (
        ancestral(x, pred, now, then, variance=large, shift=shift, rng=seeded())
        for shift in (None, lambda x, level: 3 * x + level.t)
    )
    assert (moved - plain - large(now, then) * (3 * x + 600)).abs().max() < 1e-10


# --- orders of convergence ---


def smooth(name, steps):
    """Noise-to-signal ratios from 20 to 0.02 on the Karras spacing: the order shows where they vary smoothly."""
    ratios = [level.sigma for level in Karras(0.02, 20.0).levels(steps + 1)[:-1]]
    return [SCHEDULES[name].at_ratio(ratio) for ratio in ratios]


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize(("move", "order", "slack"), [(heun, 2, 0.2), (once(ddim), 1, 0.15)], ids=["heun", "euler"])
def test_order_of_convergence(mixture, name, move, order, slack):
    start = smooth(name, 1)[0].sigma * normal(64, 1, 2, 2)
    reference = last(sample(mixture, start, smooth(name, 1000)))
    counts, errors = (50, 100, 200), []
    for count in counts:
        x = last(sample(mixture, start, smooth(name, count), move=move))
        errors.append(float((x - reference).pow(2).mean().sqrt()))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=slack)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_ode_reaches_the_prior(correlated, name):
    """The flow of a Gaussian is affine: pushing a basis of the first marginal gives mean and covariance exactly."""
    levels = [*smooth(name, 200), CLEAN]
    mean, columns = push(lambda x: last(sample(correlated, x, levels)), *correlated.marginal(levels[0]))
    assert (mean - correlated.mean).abs().max() < 1e-3
    assert (columns.T @ columns - correlated.cov).abs().max() < 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_heun_up_and_down_returns(mixture, name):
    down = smooth(name, 200)
    x = normal(8, 1, 2, 2)
    up = last(sample(mixture, x, down[::-1]))
    assert (up - x).abs().max() > 0.5
    assert (last(sample(mixture, up, down)) - x).abs().max() < 1e-3


def test_heun_up_and_down_from_a_clean_image(gaussian_prior):
    levels = TABLE.levels(100)
    x = 0.5 * normal(2, 3, 4, 4)
    up = last(sample(gaussian_prior, x, levels[::-1]))
    assert (last(sample(gaussian_prior, up, levels)) - x).abs().max() < 5e-3


def test_network_calls(mixture):
    count = [0]

    def counting(x, level):
        count[0] += 1
        return mixture(x, level)

    levels = TABLE.levels(10)
    for move, calls in ((once(ddim), 10), (once(ancestral), 10), (heun, 19)):
        count[0] = 0
        last(sample(counting, normal(1, 1, 2, 2), levels, move=move))
        assert count[0] == calls


def test_states_carry_their_level(mixture):
    levels = TABLE.levels(5)
    states = list(sample(mixture, normal(1, 1, 2, 2), levels))
    assert [state.level for state in states] == levels[1:]
    assert torch.equal(states[-1].x, states[-1].x0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_names_the_step(mixture, value):
    levels = TABLE.levels(5)

    def broken(x, level):
        pred = mixture(x, level)
        return pred._replace(eps=pred.eps * value) if level == levels[2] else pred

    with pytest.raises(DivergedError, match=r"step 3.*t=200") as caught:
        last(sample(broken, normal(1, 1, 2, 2), levels, move=once(ddim)))
    assert "\n" not in str(caught.value)
    good = checked(sample(broken, normal(1, 1, 2, 2), levels, move=once(ddim)))
    assert [next(good).level, next(good).level] == levels[1:3]


def test_no_step_is_refused(mixture):
    with pytest.raises(InputError, match="two levels"):
        last(sample(mixture, normal(1, 1, 2, 2), [CLEAN]))


# --- seeds ---


def draw(mixture, rng):
    move = once(ddim, eta=1.0, rng=rng)
    return last(sample(mixture, noised(torch.zeros(2, 1, 2, 2), TABLE.at(999), rng), TABLE.levels(10), move=move))


def test_seeds(mixture):
    assert torch.equal(draw(mixture, seeded(0)), draw(mixture, seeded(0)))
    assert not torch.equal(draw(mixture, seeded(0)), draw(mixture, seeded(1)))


def test_the_global_generator_is_left_alone(mixture):
    found = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(draw(mixture, seeded(0)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


def test_noise_has_the_kind_of_its_image():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = gaussian(torch.zeros(1, 3, 4, 4, dtype=dtype), seeded())
        assert (z.dtype, z.shape) == (dtype, (1, 3, 4, 4))
    assert not torch.equal(*gaussian(torch.zeros(2, 3, 4, 4), seeded()))  # each image of a batch has its own
