"""The public codes' own numbers: guided-diffusion and RePaint, replayed with their noise."""

import json
from itertools import pairwise

import pytest
import torch
from conftest import DATA, closed_form, golden

from restore.algorithms.repaint import repaint_as_released
from restore.levels import Level, linear, sections, travel
from restore.prior import coefficients
from restore.steps import ancestral, ddim, learned, once, sample, small
from restore.train.bound import tanh_cdf, variational_bound
from restore.wrappers import classifier_guided, clip, gradient

TOL = 2e-5


def guide(x, level):
    """log p whose gradient is 1.5 (0.5 - x) (1 - t/1000)."""
    return -0.75 * (0.5 - x).pow(2).sum((1, 2, 3)) * (1 - level.t / 1000)


RUNS = {
    "ddim25_eta0": ("learned", lambda d: clip(d), once(ddim)),
    "ddim25_eta0_guided": ("learned", lambda d: classifier_guided(clip(d), guide), once(ddim)),
    "ddpm_small_25": ("plain", clip, lambda rng: once(ancestral, variance=small)),
    "ddpm_ls_50_guided": ("learned", clip, lambda rng: once(ancestral, variance=learned, shift=gradient(guide))),
}


@pytest.mark.parametrize("name", RUNS)
def test_guided_diffusion_chains(name, gaussian_prior, learned_prior, replay):
    tensors, facts = golden(f"gd_algo/{name}")
    kind, wrap, move = RUNS[name]
    prior = wrap(learned_prior if kind == "learned" else gaussian_prior)
    levels = linear(1000).levels(facts["respacing"])
    assert [int(level.t) for level in levels[:-1]] == tensors["timestep_map"].flip(0).tolist()
    stochastic = name.startswith("ddpm")
    left = replay(tensors["noise"] if stochastic else [])
    states = list(sample(prior, tensors["xs"][0], levels, move=move(None) if stochastic else move))
    assert len(left) == stochastic  # the original draws for the last step too, and multiplies by 0
    for state, expected in zip(states, tensors["xs"][1:], strict=True):
        assert (state.x - expected).abs().max() < TOL


def test_training_loss(learned_prior):
    tensors, _ = golden("gd_algo/loss_mse")
    level = linear(1000).at(tensors["t"])
    x = level.alpha * tensors["x0"] + level.sigma * tensors["noise"]
    assert (x - tensors["x_t"]).abs().max() < TOL
    p, q = coefficients("eps", level)
    target = p * tensors["x0"] + q * tensors["noise"]
    loss = (closed_form(x, tensors["t"]) - target).pow(2).mean((1, 2, 3))
    assert (loss - tensors["loss.mse"]).abs().max() < TOL
    pred = learned_prior(x, Level(tensors["t"], level.alpha, level.sigma))
    bound = variational_bound(linear(1000), tensors["t"], tensors["x0"], x, pred, cdf=tanh_cdf)
    assert (bound - tensors["loss.vb"]).abs().max() < TOL
    assert (loss + bound - tensors["loss.loss"]).abs().max() < TOL
    exact = variational_bound(linear(1000), tensors["t"], tensors["x0"], x, pred)
    assert torch.equal(exact[1:], bound[1:])  # only L_0 needs the distribution function
    assert 1e-4 < (exact[0] - bound[0]).abs() < 1e-2


@pytest.mark.parametrize("key", ["linear", "cosine"])
def test_tables_of_guided_diffusion(key):
    from restore import levels

    facts = json.loads((DATA / "golden/respacing.json").read_text())[f"schedule_{key}"]
    table = getattr(levels, key)(1000).abar
    assert abs(table[0] - facts["abar"][0]) < 1e-9
    assert set(facts["abar"]) <= {min(table, key=lambda v: abs(v - a)) for a in facts["abar"]} or all(
        min(abs(table - a)) < 1e-9 for a in facts["abar"]
    )


def respacings():
    facts = json.loads((DATA / "golden/respacing.json").read_text())
    return {k.removeprefix("1000/"): v for k, v in facts.items() if k.startswith("1000/") and isinstance(v, dict)}


@pytest.mark.parametrize("text", respacings())
def test_section_strings(text):
    facts = respacings()[text]
    assert sections(1000, text) == facts["timesteps"]
    levels = linear(1000).levels(text)[:-1][::-1]
    abar = [1.0, *(level.alpha**2 for level in levels)]
    betas = [1 - now / before for before, now in pairwise(abar)]
    assert max(abs(a - b) for a, b in zip(betas, facts["betas"], strict=True)) < 1e-9


SCHEDULES = json.loads((DATA / "golden/repaint/schedules.json").read_text())


@pytest.mark.parametrize("name", SCHEDULES)
def test_repaint_time_travel(name):
    facts = SCHEDULES[name]
    p = facts.get("params", {"t_T": 250, "jump_length": 10, "jump_n_sample": 10})
    levels = [Level(t, (1 - t / 999) ** 0.5, (t / 999) ** 0.5) for t in range(p["t_T"] - 1, -2, -1)]
    walked = travel(
        levels,
        p["jump_length"],
        p["jump_n_sample"],
        repeats=p.get("n_sample", 1),
        below=p.get("start_resampling"),
    )
    assert [level.t for level in walked] == facts["times"]


def test_repaint_as_released(learned_prior, replay):
    tensors, facts = golden("repaint/run_t20_j5_n3")
    levels = travel(linear(1000).levels("20"), 5, 3)
    assert [int(level.t) for level in linear(1000).levels("20")[:-1]] == tensors["timestep_map"].flip(0).tolist()
    noise, order, first = list(tensors["noise"]), [], True
    for kind, t, _ in facts["events"]:  # the original draws a step's own noise before that of the known region
        if kind != "reverse":
            order.append(noise.pop(0))
            continue
        step = noise.pop(0)
        order += [] if first else [noise.pop(0)]
        order += [step] if t > 0 else []
        first = False
    assert not noise
    left = replay(order)
    states = repaint_as_released(
        clip(learned_prior), tensors["gt"], tensors["gt_keep_mask"], levels, x=tensors["xs"][0]
    )
    for state, expected in zip(states, tensors["xs"][1:], strict=True):
        assert (state.x - expected).abs().max() < TOL
    assert not left
