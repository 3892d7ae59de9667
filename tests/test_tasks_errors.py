"""restore.inpaint: what is refused, and how."""

import pytest
import torch
from conftest import closed_form
from inpainting import METHODS, colours, hole, restored

import restore
from restore import tasks
from restore.errors import DivergedError, InputError, OutOfMemory, PriorError, RestoreError
from restore.levels import linear
from restore.prior import Prior

REFUSED = [
    {"method": "magic"},
    {"steps": 0},
    {"steps": 2.5},
    {"steps": True},
    {"samples": 0},
    {"samples": None},
    {"seed": -1},
    {"seed": 0.5},
    {"seed": None},
    {"feather": -1},
    {"feather": 1.5},
    {"strength": 0},
    {"strength": 1.0001},
    {"strength": float("nan")},
    {"method": "ddrm", "eta": -0.1},
    {"method": "ddrm", "eta": 1.1},
    {"method": "ddrm", "eta": float("nan")},
    {"method": "ddrm", "jump": 2},
    {"method": "ddrm", "resamplings": 2},
    {"method": "repaint", "jump": 0},
    {"method": "repaint", "resamplings": 0},
    {"method": "repaint", "steps": 5, "jump": 5},
    {"method": "repaint", "steps": 1, "resamplings": 2},
    {"method": "repaint", "noise_std": 0.1},
    {"method": "ddrm", "noise_std": -0.1},
    {"method": "ddrm", "noise_std": 1.0},
    {"tile": "big"},
    {"tile": 8},
    {"tile": 130},
    {"tile": -128},
    {"tile": "²"},
    {"device": "toaster"},
    {"dtype": "int8"},
    {"device": "cpu", "dtype": "float16"},
]


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_bad_options_are_refused_before_any_work(options, tiny_folder, monkeypatch):
    def stop(self, x, level):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(Prior, "__call__", stop)
    with pytest.raises(InputError) as error:
        restore.inpaint(colours(), hole(), prior=tiny_folder, **options)
    assert "\n" not in str(error.value)
    if options.get("method") != "magic" and not {"device", "dtype"} & set(options):
        with pytest.raises(InputError):
            tasks.Inpaint(**options)


def test_options_of_a_ready_prior_are_refused_rather_than_ignored(tiny):
    for options in ({"device": "cpu"}, {"dtype": "bfloat16"}):
        with pytest.raises(InputError, match="load_prior"):
            restored(colours(), hole(), tiny, **options)


def test_unknown_options_are_named(tiny):
    with pytest.raises(TypeError, match="stepps"):
        restore.inpaint(colours(), hole(), prior=tiny, stepps=3)


def test_masks_that_do_not_fit(tiny):
    with pytest.raises(InputError, match="100 x 20"):
        restored(colours(), torch.ones(20, 100), tiny)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_named_with_its_step(method, bad):
    count = []

    def net(x, t):
        count.append(t)
        return closed_form(x, t) * (bad if len(count) == 2 else 1)

    options = {"resamplings": 1} if method == "repaint" else {}
    with pytest.raises(DivergedError, match="step 2"):
        restored(colours(), hole(), Prior(net, schedule=linear(1000)), steps=5, method=method, **options)
    assert len(count) == 2


def test_errors_are_what_python_programs_expect():
    for kind, base, code in (
        (InputError, ValueError, 2),
        (DivergedError, FloatingPointError, 1),
        (PriorError, RestoreError, 4),
        (OutOfMemory, RestoreError, 5),
    ):
        assert issubclass(kind, base)
        assert issubclass(kind, RestoreError)
        assert kind.exit_code == code
    with pytest.raises(ValueError, match="magic"):
        restore.inpaint(colours(), hole(), method="magic")
    with pytest.raises(PriorError, match="nowhere"):
        restore.inpaint(colours(), hole(), prior="nowhere")
