"""SDEdit against its algorithm box and the closed forms of Gaussian priors; masks, repeats, strengths."""

from itertools import pairwise

import pytest
import torch
from affine import pushed, spectral
from conftest import normal, seeded

from restore.algorithms import sdedit
from restore.errors import InputError
from restore.levels import CLEAN, Flow, Karras, linear
from restore.steps import ddim, last

TABLE = linear()
SCHEDULES = {"vp": TABLE, "ve": Karras(), "flow": Flow()}
GUIDE = normal(1, 1, 4, 4, seed=2) / 2
KEEP = torch.zeros(1, 1, 4, 4)
KEEP[..., :2] = 1
KEPT = KEEP > 0


def down(name, high, steps, low=0.01):
    """`steps` ratios from `high` to `low`, then CLEAN."""
    return [*(SCHEDULES[name].at_ratio(level.sigma) for level in Karras(low, high).levels(steps)[:-1]), CLEAN]


def answers(prior, levels, eta, guide=GUIDE):
    """Exact mean and covariance of the answers."""
    return pushed(lambda n: last(sdedit(prior, guide.expand(n, -1, -1, -1), levels, eta=eta)))


# --- the algorithms, line by line ---


def by_hand(denoise, guide, levels, mask, eta, repeats, rng):
    """Meng et al. 2022, algorithms 1 and 3: the kept part is the guide with fresh noise of the level reached."""

    def draw():
        return torch.randn(guide.shape, generator=rng, dtype=guide.dtype)

    for _ in range(repeats):
        x = levels[0].alpha * guide + levels[0].sigma * draw()
        for now, then in pairwise(levels):
            x = ddim(x, denoise(x, now), now, then, eta=eta, rng=rng)
            if mask is not None:
                kept = then.alpha * guide + (then.sigma * draw() if then.sigma else 0)
                x = mask * kept + (1 - mask) * x
            yield x
        guide = x


@pytest.mark.parametrize("mask", [None, KEEP], ids=["all", "mask"])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_algorithms_1_and_3(correlated, name, eta, repeats, mask):
    levels = SCHEDULES[name].levels(6, 0.5)
    expected = by_hand(correlated, GUIDE, levels, mask, eta, repeats, seeded())
    states = list(sdedit(correlated, GUIDE, levels, mask=mask, eta=eta, repeats=repeats, rng=seeded()))
    assert [state.level for state in states] == levels[1:] * repeats
    for state, x in zip(states, expected, strict=True):
        assert (state.x - x).abs().max() < 1e-12 * (1 + x.abs().max())


# --- strength ---


@pytest.mark.parametrize("mask", [None, KEEP], ids=["all", "mask"])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("as_released", [False, True])
def test_strength_0_gives_the_guide_back(mask, repeats, as_released):
    options = {"mask": mask, "repeats": repeats, "as_released": as_released}
    states = list(sdedit(None, GUIDE, [CLEAN], rng=seeded(), **options))
    assert all(torch.equal(state.x, GUIDE) for state in states)
    assert all(torch.equal(state.x0, GUIDE) for state in states)
    assert [state.level for state in states] == [CLEAN]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_full_strength_without_any_signal_forgets_the_guide(correlated, eta):
    levels = Flow().levels(10)
    assert levels[0].alpha == 0
    a, b = (last(sdedit(correlated, guide, levels, eta=eta, rng=seeded())) for guide in (GUIDE, 5 - GUIDE))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_full_strength_samples_the_prior(correlated, name, eta):
    (found, coarse), (_, finer) = (answers(correlated, down(name, 500.0, steps), eta) for steps in (40, 80))
    assert (found - correlated.mean).abs().max() < 0.01  # what is left of the guide, and of the solver
    assert (2 * finer - coarse - correlated.cov).norm() < 0.03 * correlated.cov.norm()  # to order 2
    other, same = answers(correlated, down(name, 500.0, 40), eta, GUIDE + 1)
    assert (other - found).abs().max() < 0.01
    assert (same - coarse).abs().max() < 1e-10


def chain_of_one(value, ratios, eta):
    """Slope and variance of x_end - mean in x_start - mean, for one eigenvalue of the covariance: Song et al. 2021.

    On the scale of the image, x/alpha: x0 = mean + gain (x - mean), and eps = (x - x0) / ratio."""
    slope, variance = 1.0, ratios[0] ** 2
    for now, then in pairwise(ratios):
        gain, fresh = value / (value + now**2), (eta * then / now) ** 2 * (now**2 - then**2)
        step = gain + (1 - gain) * (then**2 - fresh) ** 0.5 / now
        slope, variance = slope * step, variance * step**2 + fresh
    return slope, variance


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("high", [0.3, 1.5])
def test_in_between_by_the_recursion_of_ddim(correlated, name, eta, high):
    levels = down(name, high, 9)
    slopes, variances = (
        torch.tensor(
            [chain_of_one(float(value), [level.ratio for level in levels], eta) for value in correlated.values]
        )
        .double()
        .T
    )
    found, spread = answers(correlated, levels, eta)
    mean = correlated.mean + spectral(correlated, slopes) @ (GUIDE.flatten() - correlated.mean)
    assert (found - mean).abs().max() < 1e-6
    assert (spread - spectral(correlated, variances)).abs().max() < 1e-6


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("high", [0.3, 1.5])
def test_in_between_the_guide_is_shrunk_to_the_prior(correlated, eta, high):
    """Many steps from the ratio r: the ODE shrinks the guide by sqrt(c / (c + r^2)) along an eigenvector of variance c
    (the flow of a Gaussian), the SDE by c / (c + r^2), as the posterior mean does; both add noise of their own."""
    c, r2 = correlated.values, high**2
    shrink = c / (c + r2)
    slopes, variances = (shrink, shrink**2 * r2 + shrink * r2) if eta else (shrink.sqrt(), shrink * r2)
    mean = correlated.mean + spectral(correlated, slopes) @ (GUIDE.flatten() - correlated.mean)
    cov = spectral(correlated, variances)
    (a, b), (finer, narrower) = (answers(correlated, down("vp", high, steps), eta) for steps in (30, 60))
    if eta:  # the mean of a posterior mean is the posterior mean: exact in any number of steps
        assert (a - mean).abs().max() < 1e-12
    else:
        assert 0 < (finer - mean).norm() < 0.6 * (a - mean).norm()  # the solver's own error, of order 1:
    assert 0 < (narrower - cov).norm() < 0.6 * (b - cov).norm()
    assert (2 * finer - a - mean).norm() < 0.01 * (mean - correlated.mean).norm()  # its limit by extrapolation
    assert (2 * narrower - b - cov).norm() < 0.03 * cov.norm()


def test_stronger_is_further(correlated):
    """The same noise at rising strengths: further from the guide."""
    found = [last(sdedit(correlated, GUIDE, TABLE.levels(10, s), rng=seeded())) for s in (0.02, 0.1, 0.3, 0.8)]
    gaps = [float((x - GUIDE).norm()) for x in found]
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.3 * gaps[-1]


# --- masks ---


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("repeats", [1, 3])
def test_kept_pixels_are_exact(correlated, name, eta, repeats):
    levels = SCHEDULES[name].levels(6)
    states = list(sdedit(correlated, GUIDE, levels, mask=KEEP, eta=eta, repeats=repeats, rng=seeded()))
    for end in states[len(levels) - 2 :: len(levels) - 1]:
        assert torch.equal(end.x[KEPT], GUIDE[KEPT])
        assert (end.x - GUIDE)[~KEPT].abs().min() > 0
    assert all(torch.equal(state.x0[KEPT], GUIDE[KEPT]) for state in states)


def test_as_released_keeps_noise_in_them(correlated):
    """That of the last level before CLEAN, by the one draw of the run."""
    levels = TABLE.levels(6)
    x = last(sdedit(correlated, GUIDE, levels, mask=KEEP, as_released=True, rng=seeded()))
    z = torch.randn(GUIDE.shape, generator=seeded(), dtype=torch.float64)
    assert torch.equal(x[KEPT], (levels[-2].alpha * GUIDE + levels[-2].sigma * z)[KEPT])
    assert (x - GUIDE)[KEPT].abs().min() > 0


def test_as_released_differs_in_masks_alone(correlated):
    levels = TABLE.levels(6, 0.4)
    a, b = (last(sdedit(correlated, GUIDE, levels, as_released=kind, rng=seeded())) for kind in (False, True))
    assert torch.equal(a, b)


def test_the_edited_part_hears_of_the_kept_one(correlated):
    """A sketch on one half: what is kept of the other pulls it, as the prior is correlated."""
    found = [
        answers_with(correlated, torch.where(KEPT, GUIDE + shift, GUIDE))[(~KEPT).flatten()] for shift in (0.0, 1.0)
    ]
    assert (found[1] - found[0]).min() > 0.02


def answers_with(prior, guide):
    levels = down("vp", 2.0, 10)
    return pushed(lambda n: last(sdedit(prior, guide.expand(n, -1, -1, -1), levels, mask=KEEP)))[0]


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.uint8])
def test_kinds_of_masks_agree(correlated, kind):
    levels = TABLE.levels(5, 0.5)
    a, b = (last(sdedit(correlated, GUIDE, levels, mask=mask, rng=seeded())) for mask in (KEEP, KEEP.to(kind)))
    assert torch.equal(a, b)


def test_a_mask_for_each_image(gaussian_prior):
    guide, masks = normal(3, 3, 4, 4), torch.stack([KEPT[0], ~KEPT[0], torch.zeros_like(KEPT[0])])
    x = last(sdedit(gaussian_prior, guide, TABLE.levels(5), mask=masks, rng=seeded()))
    masks = masks.expand_as(x)
    assert torch.equal(x[masks], guide[masks])
    assert (x - guide)[~masks].abs().min() > 0


@pytest.mark.parametrize("as_released", [False, True])
def test_nothing_kept_is_no_mask_but_for_its_draws(correlated, as_released):
    """With eta 0 the released code draws once a run, with a mask or without."""
    levels = TABLE.levels(5, 0.5)
    options = {"eta": 0.0, "as_released": as_released}
    a = last(sdedit(correlated, GUIDE, levels, mask=torch.zeros(1, 1, 4, 4), rng=seeded(), **options))
    assert torch.equal(a, last(sdedit(correlated, GUIDE, levels, rng=seeded(), **options)))


# --- repeats ---


@pytest.mark.parametrize("mask", [None, KEEP], ids=["all", "mask"])
@pytest.mark.parametrize("as_released", [False, True])
def test_a_repeat_starts_from_the_answer_before(correlated, replay, mask, as_released):
    """Noised with a draw of its own, the kept part as it was given."""
    seen, levels = [], TABLE.levels(5, 0.4)

    def spy(x, level):
        seen.append(x)
        return correlated(x, level)

    each = 5 if mask is not None and not as_released else 1  # eta 0: the noise of the run, and of the kept part
    draws = normal(3 * each, 1, 1, 4, 4)
    left = replay(draws)
    states = list(sdedit(spy, GUIDE, levels, mask=mask, eta=0.0, repeats=3, as_released=as_released))
    assert not left
    for run, start in enumerate([GUIDE, states[4].x, states[9].x]):
        start = start if mask is None else torch.where(mask > 0, GUIDE, start)
        assert torch.equal(seen[5 * run], levels[0].alpha * start + levels[0].sigma * draws[run * each])


# --- refused, seeds ---


@pytest.mark.parametrize("repeats", [0, -1])
def test_repeats_are_refused(correlated, repeats):
    with pytest.raises(InputError, match=f"repeats is {repeats}"):
        last(sdedit(correlated, GUIDE, TABLE.levels(3), repeats=repeats))


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_is_a_share(correlated, eta):
    with pytest.raises(InputError, match="eta"):
        last(sdedit(correlated, GUIDE, TABLE.levels(3), eta=eta))


@pytest.mark.parametrize("as_released", [False, True])
def test_seeds(correlated, as_released):
    found, options = [], {"mask": KEEP, "repeats": 2, "as_released": as_released}
    for world, seed in ((3, 0), (4, 0), (3, 1)):
        torch.manual_seed(world)
        before = torch.get_rng_state()
        found.append(last(sdedit(correlated, GUIDE, TABLE.levels(5, 0.5), rng=seeded(seed), **options)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
