"""Schedules against diffusers', their inverses, and what they refuse."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from restore import levels as module
from restore.errors import InputError
from restore.levels import (
    CLEAN,
    Flow,
    Karras,
    Level,
    Table,
    between,
    calls,
    from_betas,
    from_config,
    linear,
    scaled_linear,
    sections,
    travel,
)

BETAS = {
    "linear": ("linear", {}),
    "cosine": ("squaredcos_cap_v2", {}),
    "scaled_linear": ("scaled_linear", {"beta_start": 0.00085, "beta_end": 0.012}),
    "sigmoid": ("sigmoid", {}),
}
TABLES = list(BETAS)
COUNTS = (2, 7, 30, 50, 333, 999)


def zero_snr(**options):
    """Stable Diffusion's betas, rescaled by diffusers to alpha-bar = 0 at the last time."""
    betas = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).betas
    return from_betas(rescale_zero_terminal_snr(betas).tolist(), **options)


SCHEDULES = {**{name: getattr(module, name)() for name in TABLES}, "karras": Karras(), "flow": Flow(shift=3.0)}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("T", [50, 1000])
def test_tables_equal_diffusers(name, T):
    schedule, options = BETAS[name]
    theirs = DDPMScheduler(num_train_timesteps=T, beta_schedule=schedule, **options).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(getattr(module, name)(T).abar, theirs, rtol=1e-4, atol=1e-7)  # theirs is float32


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_times_equal_diffusers(scheduler, spacing, offset):
    theirs = scheduler(timestep_spacing=spacing, steps_offset=offset)
    for steps in COUNTS:
        theirs.set_timesteps(steps)
        assert linear(spacing=spacing, offset=offset).times(steps) == theirs.timesteps.tolist()
        assert linear(offset=offset).times(steps, spacing=spacing) == theirs.timesteps.tolist()


def test_the_offset_never_leaves_the_table():
    """diffusers asks for time 1000 of 1000 here."""
    assert linear(offset=1).times(1000) == list(range(999, -1, -1))


def quadratic(steps):
    """The released runners/diffusion.py of DDIM."""
    return [int(s) for s in np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2]


@pytest.mark.parametrize("steps", [2, 10, 29])
def test_quadratic_times_are_those_of_ddim(steps):
    assert linear(spacing="quadratic").times(steps) == quadratic(steps)[::-1]


@pytest.mark.parametrize("steps", [30, 50, 100])
def test_quadratic_times_that_ddim_repeats_move_apart(steps):
    theirs, ours = quadratic(steps), linear(spacing="quadratic").times(steps)[::-1]
    assert len(set(theirs)) < steps == len(set(ours))
    assert max(abs(np.array(theirs) - ours)) <= steps // 4
    assert ours[-1] == theirs[-1]
    assert linear(spacing="quadratic").times(1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 999])
def test_karras_equals_diffusers(steps):
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    theirs.set_timesteps(steps)
    ours = [level.ratio for level in Karras().levels(steps)]
    np.testing.assert_allclose(ours, theirs.sigmas.double().numpy(), rtol=1e-5)


def test_karras_by_hand():
    """Karras et al. 2022, eq. 5, with rho 2: square roots fall evenly."""
    assert [level.sigma for level in Karras(1.0, 16.0, 2.0).levels(4)] == pytest.approx([16.0, 9.0, 4.0, 1.0, 0.0])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 7, 28])
def test_flow_equals_diffusers_with_the_sigmas_of_flux(shift, steps):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    ours = Flow(shift=shift).levels(steps)
    np.testing.assert_allclose([level.sigma for level in ours], theirs.sigmas.numpy(), rtol=1e-6)
    np.testing.assert_allclose([level.t for level in ours[:-1]], theirs.timesteps.numpy(), rtol=1e-6)
    assert all(level.alpha + level.sigma == pytest.approx(1.0) for level in ours)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("start", [None, 0.37])
@pytest.mark.parametrize("steps", [1, 20])
def test_levels_fall_to_clean(name, start, steps):
    levels = SCHEDULES[name].levels(steps, start)
    assert len(levels) == steps + 1
    assert levels[-1] == CLEAN == Level(0.0, 1.0, 0.0)
    assert all(now.ratio > then.ratio for now, then in pairwise(levels))


@pytest.mark.parametrize("name", TABLES)
def test_tables_preserve_variance(name):
    assert all(level.alpha**2 + level.sigma**2 == pytest.approx(1.0) for level in SCHEDULES[name].levels(30))


@pytest.mark.parametrize("name", SCHEDULES)
def test_at_ratio_inverts_at(name):
    schedule = SCHEDULES[name]
    for t in (0.01, 0.5, 1, 37, 37.25, 499.9, 998, 999):
        level = schedule.at(t) if name != "karras" else schedule.at(t / 20)
        back = schedule.at_ratio(level.ratio)
        assert back == pytest.approx(level, rel=1e-6, abs=1e-9)


def test_at_ratio_beyond_the_table_keeps_the_ratio():
    for ratio, t in ((1e-6, 0), (1e6, 999)):
        level = linear().at_ratio(ratio)
        assert level.ratio == pytest.approx(ratio, rel=1e-9)
        assert level.t == t


@pytest.mark.parametrize("name", TABLES)
def test_fractional_times_interpolate(name):
    table = SCHEDULES[name]
    for t in (0, 3, 500, 998):
        steps = [table.at(t + part).ratio for part in np.linspace(0, 1, 9)]
        assert all(b > a for a, b in pairwise(steps))
        assert steps[0] == pytest.approx(table.at(t).ratio)
        assert steps[-1] == pytest.approx(table.at(t + 1).ratio)


@pytest.mark.parametrize("name", SCHEDULES)
def test_training_levels_are_columns(name):
    times = torch.tensor([1.0, 7.5, 700.0])
    many = SCHEDULES[name].at(times)
    assert many.alpha.shape == many.sigma.shape == (3, 1, 1, 1)
    for i, t in enumerate(times.tolist()):
        one = SCHEDULES[name].at(t)
        assert many.alpha[i].item() == pytest.approx(one.alpha, abs=1e-6)
        assert many.sigma[i].item() == pytest.approx(one.sigma, rel=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_start_is_a_share_of_the_times(spacing):
    times = linear().times(10, 0.5, spacing)
    assert len(times) == 10
    assert max(times) == {"leading": 450, "trailing": 499, "linspace": 499}[spacing]
    assert Flow().levels(4, 0.5)[0].sigma == 0.5
    root = (0.002 ** (1 / 7) + 80 ** (1 / 7)) / 2
    assert Karras().levels(4, 0.5)[0].sigma == pytest.approx(root**7)


def test_zero_terminal_snr():
    """alpha-bar = 0 at the last time: Lin et al. 2024."""
    table = zero_snr(spacing="trailing")
    assert table.abar[-1] == 0
    levels = table.levels(10)
    assert levels[0] == Level(999.0, 0.0, 1.0)
    assert levels[0].ratio == math.inf
    assert all(now.ratio > then.ratio for now, then in pairwise(levels))
    assert table.at_ratio(math.inf) == pytest.approx(levels[0])
    assert table.at_ratio(math.inf).alpha == 0
    assert table.at(998.5).alpha > 0
    assert table.at(torch.tensor([999])).sigma.item() == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_between_two_ratios(name):
    """The ratios of Karras et al. 2022, eq. 5, on any schedule."""
    levels = between(SCHEDULES[name], 12, 40.0, 0.02)
    expected = [level.sigma for level in Karras(0.02, 40.0).levels(12)]
    assert [level.ratio for level in levels] == pytest.approx(expected)
    assert levels[5] == pytest.approx(SCHEDULES[name].at_ratio(expected[5]))
    assert [level.ratio for level in between(SCHEDULES[name], 1, 3.0)] == pytest.approx([3.0, 0.0])


@pytest.mark.parametrize("schedule", [Flow(shift=3.0), zero_snr()])
def test_between_where_there_is_no_signal(schedule):
    assert schedule.top().ratio == math.inf
    levels = between(schedule, 5, schedule.top().ratio)
    assert all(now.ratio > then.ratio for now, then in pairwise(levels))
    assert 100 < levels[0].ratio < 1000


@pytest.mark.parametrize("name", SCHEDULES)
def test_top_is_where_the_levels_begin(name):
    spacing = "linspace" if name in TABLES else None
    for start in (None, 0.37):
        assert SCHEDULES[name].top(start) == SCHEDULES[name].levels(7, start, spacing)[0]


@pytest.mark.parametrize("name", TABLES)
def test_tables_from_the_config_of_diffusers(name):
    schedule, options = BETAS[name]
    config = DDPMScheduler(beta_schedule=schedule, steps_offset=1, timestep_spacing="trailing", **options).config
    table = from_config({**config, "_class_name": "DDPMScheduler"})
    np.testing.assert_allclose(table.abar, SCHEDULES[name].abar, rtol=1e-4, atol=1e-7)
    assert (table.spacing, table.offset) == ("trailing", 1)


def test_other_configs_of_diffusers():
    assert from_config({**EDMEulerScheduler(sigma_max=50.0).config, "_class_name": "EDMEulerScheduler"}) == Karras(
        sigma_max=50.0
    )
    flow = {**FlowMatchEulerDiscreteScheduler(shift=3.0).config, "_class_name": "FlowMatchEulerDiscreteScheduler"}
    assert from_config(flow) == Flow(shift=3.0)


def test_travel_of_the_paper():
    """250 levels, jump 10, 10 resamplings: Lugmayr et al. 2022 (the released code counts one move more)."""
    walk = travel(linear().levels(250), 10, 10)
    assert (len(walk) - 1, calls(walk)) == (4570, 2410)
    assert walk[-1] == CLEAN


def test_travel_by_hand():
    levels = linear().levels(4)
    a, b, c, d, clean = levels
    assert travel(levels, 2, 1) == levels
    assert travel(levels, 1, 2) == [a, b, a, b, c, b, c, d, c, d, clean]
    assert travel(levels, 2, 2) == [a, b, c, d, c, b, c, d, clean]
    assert travel(levels, 5, 1) == levels


LINEAR = linear()
BAD = {
    "a jump longer than the chain": (lambda: travel(LINEAR.levels(4), 4, 2), "shorter jump"),
    "no steps": (lambda: LINEAR.levels(0), "at least 1"),
    "negative steps": (lambda: LINEAR.levels(-3), "at least 1"),
    "a fraction of a step": (lambda: LINEAR.levels(2.5), "whole number"),
    "a boolean": (lambda: LINEAR.levels(True), "whole number"),
    "more steps than levels": (lambda: LINEAR.levels(1001), "at most 1000"),
    "more steps than the share": (lambda: LINEAR.levels(600, 0.5), "at most 500"),
    "unknown spacing": (lambda: LINEAR.levels(10, spacing="log"), "leading, trailing, linspace, quadratic"),
    "unknown spacing of a table": (lambda: linear(spacing="log"), "leading, trailing"),
    "start 0": (lambda: LINEAR.levels(10, 0.0), r"\(0, 1\]"),
    "start below": (lambda: LINEAR.levels(10, -0.1), r"\(0, 1\]"),
    "start above": (lambda: LINEAR.levels(10, 1.5), r"\(0, 1\]"),
    "start nan": (lambda: LINEAR.levels(10, math.nan), r"\(0, 1\]"),
    "ddim without a stride": (lambda: LINEAR.levels("ddim999"), "999 steps"),
    "ddim without a number": (lambda: LINEAR.levels("ddim"), "stride"),
    "ddim none": (lambda: LINEAR.levels("ddim0"), "stride"),
    "ddim superscript": (lambda: LINEAR.levels("ddim²"), "stride"),
    "sections too dense": (lambda: LINEAR.levels("600,10"), "section 1 .* 1 to 500"),
    "section of none": (lambda: LINEAR.levels("10,0"), "section 2"),
    "section below none": (lambda: LINEAR.levels("-3"), "section 1"),
    "garbage": (lambda: LINEAR.levels("many"), "10,10,5"),
    "nothing": (lambda: LINEAR.levels(""), "10,10,5"),
    "an empty section": (lambda: LINEAR.levels("10,,5"), "10,10,5"),
    "sections and a start": (lambda: LINEAR.levels("10,10", 0.5), "start"),
    "sections and a spacing": (lambda: LINEAR.levels("10,10", spacing="leading"), "spacing"),
    "sections of karras": (lambda: Karras().levels("10,10"), "whole number"),
    "spacing of karras": (lambda: Karras().levels(10, spacing="leading"), "rho"),
    "start of karras": (lambda: Karras().levels(10, 0.0), r"\(0, 1\]"),
    "no steps of karras": (lambda: Karras().levels(0), "at least 1"),
    "karras upside down": (lambda: Karras(80.0, 0.002), "sigma_min < sigma_max"),
    "spacing of flow": (lambda: Flow().levels(10, spacing="leading"), "shift"),
    "no steps of flow": (lambda: Flow().levels(0), "at least 1"),
    "shift 0": (lambda: Flow(shift=0.0), "shift > 0"),
    "an empty table": (lambda: Table(np.array([])), "alpha-bar"),
    "a rising table": (lambda: Table(np.array([0.5, 0.6])), "never rise"),
    "a table above 1": (lambda: Table(np.array([1.5, 0.6])), "alpha-bar"),
    "a table of nan": (lambda: Table(np.array([0.9, math.nan])), "alpha-bar"),
    "before the table": (lambda: LINEAR.at(-1), "0 to 999"),
    "past the table": (lambda: LINEAR.at(1000), "0 to 999"),
    "ratios that rise": (lambda: between(LINEAR, 5, 0.1, 0.2), "fall"),
    "a ratio of 0": (lambda: between(LINEAR, 5, 0.1, 0.0), "positive"),
    "no steps between": (lambda: between(LINEAR, 0, 10.0), "at least 1"),
    "a scheduler without a table": (lambda: from_config({"_class_name": "KarrasVeScheduler"}), "no table"),
    "dynamic shifting": (
        lambda: from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}),
        "shift=",
    ),
    "jump 0": (lambda: travel(LINEAR.levels(10), 0, 2), "jump"),
    "no resampling": (lambda: travel(LINEAR.levels(10), 2, 0), "resamplings"),
    "no repeat": (lambda: travel(LINEAR.levels(10), 2, 2, repeats=0), "repeats"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    make, hint = BAD[name]
    with pytest.raises(InputError, match=hint) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


def test_sections_reach_both_ends():
    times = sections(100, "3,1,2")
    assert times == [0, 16, 33, 34, 67, 99]


def test_scaled_linear_is_not_linear():
    assert scaled_linear(10).abar[5] != linear(10, 0.00085, 0.012).abar[5]
