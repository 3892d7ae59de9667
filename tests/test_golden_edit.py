"""The released ILVR, SDEdit and DDIB: their own numbers, replayed with their noise."""

from itertools import chain

import pytest
import torch
from conftest import ABAR, closed_form, golden

from restore.algorithms import ddib, ilvr_as_released, low_pass, sdedit
from restore.levels import Level, linear
from restore.prior import Prior
from restore.steps import ddim, last, once, sample
from restore.wrappers import clip

TOL = 2e-5
TABLE = linear(1000)


def near(states, expected):
    """Every state x is the stored one."""
    for state, x in zip(states, expected, strict=True):
        assert (state.x - x).abs().max() < TOL


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_low_pass_of_ilvr(factor):
    tensors, _ = golden("ilvr/lowpass_64")
    assert (low_pass(factor)(tensors["img"]) - tensors[f"lowpass_{factor}"]).abs().max() < TOL


def test_ilvr_as_released(learned_prior, replay):
    tensors, facts = golden("ilvr/run_N4_r0")
    levels, (first, *rest) = TABLE.levels(facts["respacing"]), tensors["xs"]
    assert [level.t for level in levels[:-1]] == tensors["timestep_map"].flip(0).tolist()
    left = replay(tensors["noise"])
    phi = low_pass(facts["down_N"])
    near(ilvr_as_released(clip(learned_prior), tensors["ref"], phi, levels, x=first), rest)
    assert len(left) == 1  # the original draws for the last step too, and multiplies by 0


@pytest.mark.parametrize(("name", "masked"), [("t60_nomask_1", False), ("t60_mask_2", True)])
def test_sdedit_as_released(gaussian_prior, replay, name, masked):
    tensors, facts = golden(f"sdedit/{name}")
    steps, repeats = facts["t"], facts["sample_step"]
    guide, mask = (tensors["img01"][None] - 0.5) * 2, tensors["mask"] if masked else None
    assert tensors["mask"].any() == masked
    runs = tensors["noise"].split(steps + 1)
    left = replay(chain.from_iterable(run[:-1] for run in runs))  # the draw of the last step is multiplied by 0
    fed = []

    def spy(x, level):
        fed.append(x)
        return gaussian_prior(x, level)

    levels = TABLE.levels(steps, steps / 1000)
    states = list(sdedit(spy, guide, levels, mask=mask, repeats=repeats, as_released=True))
    assert not left
    near(states[steps - 1 :: steps], tensors["samples"])
    for x, state, before, after in zip(fed, states, tensors["step_in"], tensors["step_out"], strict=True):
        assert (x - before).abs().max() < TOL
        assert ((state.x - after) * (1 - tensors["mask"])).abs().max() < TOL  # stored before the kept part joins


def target_network(x, t):
    """eps of N(-0.3, 0.25^2)."""
    a = ABAR[t.long()].reshape(-1, 1, 1, 1)
    return (1 - a).sqrt() * (x + a.sqrt() * 0.3) / (a * 0.0625 + 1 - a)


def test_ddib_as_released(gaussian_prior):
    """The original encodes up to alpha 0, and takes the latent for one at the table's last level."""
    tensors, facts = golden("ddib/ddim25")
    down = TABLE.levels(facts["respacing"])
    assert [level.t for level in down[:-1]] == tensors["timestep_map"].flip(0).tolist()
    up = [*down[-2::-1], Level(1000.0, 0.0, 1.0)]
    (source, *encode), (latent, *decode) = tensors["encode"], tensors["decode"]
    assert torch.equal(source, tensors["img"])
    assert torch.equal(latent, tensors["latent"])
    back = list(ddib(gaussian_prior, gaussian_prior, source, up, down, step=once(ddim)))
    near(back[:25], encode)
    assert (back[-1].x - tensors["recon"]).abs().max() < TOL
    target = Prior(target_network, predicts="eps", schedule=TABLE)
    states = list(ddib(gaussian_prior, target, source, up, down, step=once(ddim)))
    near(states, [*encode, *decode])
    answer = states[-1].x
    assert (answer - tensors["target"]).abs().max() < TOL
    exact = tensors["exact_gaussian_map"]
    assert (exact - (-0.3 + 0.25 / 0.5 * (source - 0.2))).abs().max() < 1e-6
    theirs = (tensors["target"] - exact).abs().max()
    assert abs((answer - exact).abs().max() - theirs) < TOL
    assert 0.01 < theirs < 0.3  # what 25 Euler steps lose


@pytest.mark.parametrize("top", [[], [Level(1000.0, 0.0, 1.0)]])
def test_a_thousand_encoding_steps_in_single_precision(top):
    up = [*TABLE.levels(1000)[-2::-1], *top]
    x = golden("ddib/ddim25")[0]["img"]
    prior = Prior(closed_form, predicts="eps", schedule=TABLE)
    single, double = (last(sample(prior, x.to(kind), up, move=once(ddim))) for kind in (torch.float32, torch.float64))
    assert (single - double).abs().max() < TOL
