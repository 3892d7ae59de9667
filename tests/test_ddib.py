"""DDIB between Gaussians, where the map is known at any two ratios; orders, cycles, schedules, refusals."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from affine import recoloured, spectral
from conftest import normal

from restore.algorithms import ddib
from restore.errors import InputError
from restore.levels import CLEAN, Flow, Karras, Level, linear
from restore.steps import ddim, heun, last, once, sample

TABLE = linear()
SCHEDULES = {"vp": TABLE, "ve": Karras(), "flow": Flow()}
MOVES = {"euler": once(ddim), "heun": heun}
LOW, HIGH = 0.02, 20.0
X = normal(4, 1, 4, 4)  # on the scale of the image, x / alpha


@pytest.fixture
def target(correlated):
    """Another mean, and other variances along the same eigenvectors: the two covariances commute."""
    return recoloured(correlated, torch.linspace(0.5, -0.2, 16).double(), torch.linspace(0.4, 0.05, 16).double())


def walk(name, steps, low=LOW, high=HIGH):
    """`steps` moves down the ratios, without CLEAN."""
    return [SCHEDULES[name].at_ratio(level.sigma) for level in Karras(low, high).levels(steps + 1)[:-1]]


def flow(prior, x, a, b):
    """The ODE of N(m, C) from ratio a to b, exactly: m + ((C + b^2) / (C + a^2))^(1/2) (x - m)."""
    root = ((prior.values + b**2) / (prior.values + a**2)).sqrt()
    return (prior.mean + (x.flatten(1) - prior.mean) @ spectral(prior, root)).reshape(x.shape)


def there(source, target, x, down, move, up=None):
    """DDIB on the scale of the image."""
    up = up or down[::-1]
    return last(ddib(source, target, up[0].alpha * x, up, down, step=move)) / down[-1].alpha


def order(counts, errors):
    """The slope in the logarithms, and that it holds between each two counts."""
    slopes = [-np.log(e / d) / np.log(n / m) for (m, d), (n, e) in pairwise(zip(counts, errors, strict=True))]
    assert max(slopes) - min(slopes) < 0.25
    return float(np.mean(slopes))


# --- the map ---


def test_the_exact_map_of_gaussians(correlated, target):
    """Between high and low enough ratios: m2 + C2^(1/2) C1^(-1/2) (x - m1), and another prior's picture."""
    exact = flow(target, flow(correlated, X, 1e-3, 1e5), 1e5, 1e-3)
    root = spectral(correlated, (target.values / correlated.values).sqrt())
    assert (exact - (target.mean + (X.flatten(1) - correlated.mean) @ root).reshape(X.shape)).abs().max() < 1e-4
    assert (root @ correlated.cov @ root.T - target.cov).abs().max() < 1e-12
    assert (exact - X).abs().max() > 0.5


@pytest.mark.parametrize(("kind", "expected", "slack"), [("euler", 1, 0.1), ("heun", 2, 0.15)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_map_is_reached_with_the_order_of_the_solver(correlated, target, name, kind, expected, slack):
    exact = flow(target, flow(correlated, X, LOW, HIGH), HIGH, LOW)
    counts = (100, 200, 400)
    errors = [
        float((there(correlated, target, X, walk(name, n), MOVES[kind]) - exact).norm() / exact.norm()) for n in counts
    ]
    assert order(counts, errors) == pytest.approx(expected, abs=slack)
    assert errors[-1] < (0.05, 1e-4)[expected - 1]


def test_the_released_way_into_pure_noise(correlated, target):
    """Up to alpha 0, the latent taken for one at the first level down, and down to CLEAN: to the same map."""
    root = spectral(correlated, (target.values / correlated.values).sqrt())
    exact, errors = (target.mean + (X.flatten(1) - correlated.mean) @ root).reshape(X.shape), []
    for n in (100, 400):
        down = [*walk("vp", n, 1e-3, 157.0), CLEAN]
        up = [*down[-2::-1], Level(1000.0, 0.0, 1.0)]
        errors.append(float((there(correlated, target, X, down, once(ddim), up) - exact).norm() / exact.norm()))
    assert errors[1] < 0.4 * errors[0]
    assert errors[1] < 0.05


# --- cycles ---


@pytest.mark.parametrize(("kind", "expected"), [("euler", 1), ("heun", 3)])
def test_there_and_back(correlated, target, kind, expected):
    """On the same levels a method of even order loses its leading error on the way back: Heun returns to order 3."""
    move, counts, errors, alone = MOVES[kind], (50, 100, 200), [], []
    for n in counts:
        levels = walk("vp", n)
        back = there(target, correlated, there(correlated, target, X, levels, move), levels, move)
        errors.append(float((back - X).norm() / X.norm()))
        alone.append(float((there(correlated, correlated, X, levels, move) - X).norm() / X.norm()))
    assert order(counts, errors) == pytest.approx(expected, abs=0.1)
    assert order(counts, alone) == pytest.approx(expected, abs=0.1)
    assert errors[-1] < (0.05, 1e-5)[kind == "heun"]


@pytest.mark.parametrize(("kind", "expected"), [("euler", 1), ("heun", 2)])
def test_there_and_back_on_other_levels(correlated, kind, expected):
    move, counts = MOVES[kind], (75, 150, 300)
    errors = [
        float((there(correlated, correlated, X, walk("vp", n * 2 // 3), move, walk("vp", n)[::-1]) - X).norm())
        for n in counts
    ]
    assert order(counts, errors) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(("kind", "expected"), [("euler", 1), ("heun", 3)])
def test_there_and_back_for_a_mixture(mixture, kind, expected):
    """Nothing here is affine."""
    x, counts = normal(16, 1, 2, 2), (100, 200, 400)
    errors = [float((there(mixture, mixture, x, walk("vp", n), MOVES[kind]) - x).norm()) for n in counts]
    assert order(counts, errors) == pytest.approx(expected, abs=0.3)


# --- schedules ---


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("up", SCHEDULES)
@pytest.mark.parametrize("down", SCHEDULES)
def test_the_latent_is_rescaled_between_schedules(correlated, target, kind, up, down):
    """The same ratios on two schedules are the same chain on the scale of the image."""
    expected = there(correlated, target, X, walk("ve", 20), MOVES[kind])
    found = there(correlated, target, X, walk(down, 20), MOVES[kind], walk(up, 20)[::-1])
    assert (found - expected).abs().max() < 1e-9


def test_a_latent_of_another_ratio_is_taken_as_it_is(correlated, target):
    """As the released code does at the top, where alpha is 0 or nearly so."""
    up, down = walk("vp", 5)[::-1], walk("vp", 5, high=21.0)
    states = list(ddib(correlated, target, X, up, down))
    expected = list(sample(target, states[4].x, down))
    assert torch.equal(states[-1].x, expected[-1].x)


# --- states, noise, refusals ---


@pytest.mark.parametrize("kind", MOVES)
def test_each_half_asks_its_own_prior(correlated, target, kind):
    up, down, asked = walk("vp", 4)[::-1], [*walk("vp", 3), CLEAN], []

    def spy(name, prior):
        def denoise(x, level):
            asked.append((name, level))
            return prior(x, level)

        return denoise

    states = list(ddib(spy("source", correlated), spy("target", target), X, up, down, step=MOVES[kind]))
    assert [state.level for state in states] == [*up[1:], *down[1:]]
    calls = {name: [level for who, level in asked if who == name] for name in ("source", "target")}
    assert [who for who, _ in asked] == ["source"] * len(calls["source"]) + ["target"] * len(calls["target"])
    if kind == "euler":
        assert calls == {"source": up[:-1], "target": down[:-1]}
    else:  # two calls a move, one into CLEAN
        assert calls["source"] == [level for pair in pairwise(up) for level in pair]
        assert calls["target"] == [level for pair in pairwise(down) for level in pair][:-1]


@pytest.mark.parametrize("kind", MOVES)
def test_no_noise_is_drawn(correlated, target, kind, monkeypatch):
    def stop(*args, **kwargs):
        raise AssertionError("noise was drawn")

    for draw in ("randn", "randn_like", "normal", "rand"):
        monkeypatch.setattr(torch, draw, stop)
    down = [*walk("vp", 6), CLEAN]
    a, b = (there(correlated, target, X, down, MOVES[kind], walk("vp", 6)[::-1]) for _ in range(2))
    assert torch.equal(a, b)


def test_a_batch_is_its_images_one_by_one(correlated, target):
    whole = there(correlated, target, X, walk("vp", 6), heun)
    for i, x in enumerate(X):
        assert (there(correlated, target, x[None], walk("vp", 6), heun)[0] - whole[i]).abs().max() < 1e-12


DOWN = walk("vp", 4)


@pytest.mark.parametrize(
    ("up", "down"),
    [
        (DOWN, DOWN),
        (DOWN[::-1], DOWN[::-1]),
        (DOWN[:1], DOWN),
        (DOWN[::-1], DOWN[:1]),
        ([], DOWN),
        (DOWN[::-1], []),
        ([DOWN[-1], *DOWN[::-1]], DOWN),
        (DOWN[::-1], [DOWN[0], *DOWN]),
        ([*DOWN[::-1], DOWN[1]], DOWN),
        (DOWN[::-1], [*DOWN, DOWN[1]]),
        ([DOWN[1], Level(1000.0, 0.0, 1.0), Level(1001.0, 0.0, 1.0)], DOWN),
    ],
)
def test_refused(correlated, up, down):
    def never(x, level):
        raise AssertionError("the network was asked")

    with pytest.raises(InputError, match="rising levels, and two falling") as caught:
        last(ddib(never, never, X, up, down))
    assert "\n" not in str(caught.value)
