"""Conditional priors trained by two processes, on gloo: the losses and the weights of one."""

import dataclasses

import pytest
import torch
from conditionals import KINDS, PALETTE, blurred_noise, config, run
from training import launched, losses, state

CASES = {
    "palette": {"kinds": PALETTE, "condition": {"dropout": 0.3, "augment": 20.0}, "accumulate": 2},
    "srdiff": KINDS["srdiff x2"],  # its encoder learns alone first, then it is frozen
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_the_same_as_one(tmp_path, name):
    (tmp_path / "pictures").mkdir()
    settings = config(blurred_noise(tmp_path / "pictures"), **{"batch": 8, **CASES[name]})
    run(settings, tmp_path / "one")
    done = launched(tmp_path / "two", dataclasses.replace(settings, output=str(tmp_path / "two")), "conditional")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one if key.startswith(("net.", "ema.")))
