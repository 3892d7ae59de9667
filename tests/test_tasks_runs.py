"""Every task of a picture: what decides the answer, progress, reports, tiles, and what is refused."""

import inspect
from itertools import pairwise

import numpy as np
import pytest
import torch
from tasking import INVERSE, PICTURES, RANDOM, TABLE, colours, grown, made, methods, request, result, white

import restore
from restore import jobs
from restore.errors import DivergedError, InputError
from restore.levels import Flow, Karras
from restore.prior import Prior

VARIED = [pair for pair in methods(PICTURES, RANDOM) if pair != ("denoise", "ddrm")]
STRONG = [pair for pair in methods(INVERSE) if pair not in (("denoise", "mmse"), ("denoise", "ddpm"))]


@pytest.mark.parametrize(("task", "method"), VARIED)
def test_seeds(task, method):
    def of(seed):
        return made(task, colours(), white(), method=method, seed=seed)

    assert torch.equal(of(0), of(0))
    assert torch.equal(made(task, colours(), white(), method=method), of(0))
    answers = result(task, colours(), white(), method=method, seed=4, samples=3).images
    assert [torch.equal(answer, of(4 + k)) for k, answer in enumerate(answers)] == [True] * 3
    assert not torch.allclose(of(4), of(5), atol=0.02)


@pytest.mark.parametrize("task", INVERSE)
def test_one_answer_or_a_list(task):
    function, own = getattr(restore, task), request(task)
    given = {name: getattr(own, name) for name in ("scale", "kernel") if hasattr(own, name)}
    assert function(colours(), prior=white(), steps=None if task == "denoise" else 2, **given).ndim == 4
    several = function(colours(), prior=white(), steps=2, samples=2, **given)
    assert [one.shape for one in several] == [(1, 3, *grown(task))] * 2


@pytest.mark.parametrize("task", [task for task in INVERSE if task != "colorize"])
def test_the_default_draws_no_noise(task):
    """The seed does not matter; for several samples another method is chosen."""
    method, other = {"denoise": ("mmse", "ddpm")}.get(task, ("dpir", "ddrm"))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one = result(task, colours(), white(), seed=1)
    assert one.info.method == method
    assert torch.equal(one.images[0], made(task, colours(), white(), seed=2))
    several = result(task, colours(), white(), samples=2)
    assert several.info.method == other
    assert torch.equal(torch.get_rng_state(), state)
    for options in ({"samples": 2}, {"eta": 0.5}):
        with pytest.raises(InputError, match=f"{method} draws no noise"):
            request(task, method=method, **options)


@pytest.mark.parametrize(("task", "method"), STRONG)
def test_strength_1_ignores_the_first_guess(task, method, monkeypatch):
    blind = {"kernel": "uniform:4"} if task == "deblur" else {}  # to some waves

    def of(strength):
        return made(task, colours((24, 28)), white(), method=method, strength=strength, **blind)

    kind = type(request(task))
    whole, part, problem = of(1), of(0.3), kind.problem

    def other(self, rgb, multiple):
        found = problem(self, rgb, multiple)
        return found._replace(guess=1 - found.guess.flip(-1))

    monkeypatch.setattr(kind, "problem", other)
    assert torch.equal(of(1), whole)
    if task != "denoise":  # every pixel is measured there, so that the guess is used nowhere
        assert not torch.allclose(of(0.3), part, atol=1e-3)
        assert not torch.allclose(whole, part, atol=1e-3)


@pytest.mark.parametrize(("task", "method"), STRONG)
def test_where_a_chain_begins_and_ends(task, method):
    """At the share of the schedule that is asked for; and at the noise of the measurement, or at a ratio of 0.02."""
    reach = type(request(task)).METHODS[method].reach

    def ends(**options):
        prior = white()
        made(task, colours(), prior, method=method, steps=6, **options)
        told = prior.net.told
        assert all(a > b for a, b in pairwise(told))
        return len(told), TABLE.at(told[0]).ratio, TABLE.at(told[-1]).ratio

    # noise is twice as much on the scale [-1, 1]
    assert ends(strength=0.4, noise_std=0.05) == pytest.approx((6, TABLE.at(399).ratio, 0.1), rel=1e-4)
    assert ends(noise_std=0.05) == pytest.approx((6, reach, 0.1), rel=1e-4)
    assert ends(noise_std=0.0 if task == "deblur" else 0.001) == pytest.approx((6, reach, 0.02), rel=1e-4)
    assert ends(noise_std=0.6) == pytest.approx((6, max(reach, 1.8), 1.2), rel=1e-4)


@pytest.mark.parametrize(("task", "method"), methods([*INVERSE, "refine", "translate"]))
@pytest.mark.parametrize("schedule", [Karras(), Flow()], ids=["ve", "flow"])
def test_other_schedules_agree(task, method, schedule):
    """The same ratios and the same noise, so the same answer."""
    a, b = (made(task, colours(), white(schedule=s), method=method) for s in (TABLE, schedule))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("task", "method"), [pair for pair in methods(INVERSE) if pair != ("denoise", "ddrm")])
def test_every_option_changes_the_answer(task, method):
    prior, eta = white(), {"eta": 0.3} if (task, method) in RANDOM else {}
    usual = made(task, colours(), prior, method=method)
    more = {"upscale": [{"shrunk": "average"}], "deblur": [{"kernel": "uniform:3"}]}.get(task, [])
    more += [] if method == "mmse" else [{"steps": 5}]
    for options in [{"noise_std": 0.07}, eta, *more]:
        assert not options or not torch.equal(made(task, colours(), prior, method=method, **options), usual), options


# ---------------------------------------------------------------- progress, report, tiles


@pytest.mark.parametrize(
    ("task", "method", "samples"),
    [*((*pair, 1) for pair in methods(PICTURES)), *((*pair, 2) for pair in methods(PICTURES, RANDOM))],
)
def test_progress_reaches_its_total(task, method, samples):
    prior, told = white(), []
    info = result(task, colours(), prior, told.append, method=method, samples=samples).info
    assert [p.done for p in told] == list(range(1, len(told) + 1))
    assert {p.total for p in told} == {len(told)} == {info.calls} == {len(prior.net.told)}
    steps = {"mmse": 1}.get(method, 3)
    assert (info.method, info.steps, info.samples, info.prior) == (method, steps, samples, "white")
    assert info.calls == samples * steps * {"heun": 4, "ddim": 2}.get(method, 1)
    assert all(p.preview.shape[:2] == (1, 3) and 0 <= p.preview.min() <= p.preview.max() <= 1 for p in told)


@pytest.mark.parametrize(
    "options",
    [
        ("upscale", {"strength": 0.001}),
        ("upscale", {"method": "ddrm", "strength": 0.001}),
        ("upscale", {"noise_std": 0.3}),
        ("upscale", {"method": "ddrm", "noise_std": 0.3}),
        ("deblur", {"method": "ddrm", "noise_std": 0.3}),
        ("denoise", {"method": "ddpm", "noise_std": 0.005}),
        ("denoise", {"method": "ddrm", "noise_std": 0.6}),
        ("colorize", {"method": "ddrm", "strength": 0.001}),
        ("inpaint", {"method": "ddrm", "strength": 0.001}),
        ("edit", {"strength": 0.001}),
        ("refine", {"strength": 0.001}),
    ],
    ids=str,
)
def test_a_chain_with_no_way_to_go(options):
    """Where it would begin below its end, or at more noise than it begins with otherwise."""
    (task, more), told = options, []
    found = result(task, colours(), white(), told.append, **more)
    assert found.images[0].isfinite().all()
    assert told[-1].done == told[-1].total == found.info.calls


@pytest.mark.parametrize("task", INVERSE)
def test_tiles(task):
    """White noise is local, so that tiles change nothing but rounding."""
    image = colours((10, 90 if task == "upscale" else 180))
    prior, whole = white(multiple=4), made(task, image, white(multiple=4))
    assert torch.allclose(made(task, image, prior, tile=128), whole, atol=1e-5)
    assert max(max(shape) for shape in prior.net.shapes) == 128
    with pytest.raises(InputError, match="multiple of 48"):
        made(task, image, white(multiple=48), tile=128)


def test_a_large_answer_is_worked_on_in_tiles():
    prior = white()
    made("upscale", colours((4, 520)), prior, steps=1)
    assert max(max(shape) for shape in prior.net.shapes) <= jobs.TILES[0]


@pytest.mark.parametrize(("task", "method"), methods([*INVERSE, "edit", "refine"]))
def test_smaller_tiles_when_memory_runs_out(task, method):
    """From the beginning, with the same noise, and calls are counted once."""
    prior, image = white(), colours((10, 140 if task == "upscale" else 280))
    network, told, asked = prior.net, [], []

    def net(x, t):
        asked.append(t)
        if x.shape[-1] > 256 and len(asked) == (1 if method == "mmse" else 2):  # in the middle
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(x, t)

    prior.net = net
    with pytest.warns(UserWarning, match="tiles of 256 pixels"):
        found = result(task, image, prior, told.append, method=method)
    assert found.info.calls == told[-1].done == told[-1].total
    assert torch.equal(found.images[0], made(task, image, white(), method=method, tile=256))


@pytest.mark.parametrize(("task", "method"), methods(PICTURES))
def test_nan_is_named(task, method):
    prior = Prior(lambda x, t: x * float("nan"), schedule=TABLE)
    with pytest.raises(DivergedError, match="step 1"):
        made(task, colours(), prior, method=method)


@pytest.mark.parametrize("task", PICTURES)
def test_priors_of_other_channels_are_refused(task):
    latent = Prior(lambda x, t: x, schedule=TABLE, channels=4, name="latent")
    with pytest.raises(InputError, match=r"latent.*4 channels"):
        made(task, colours(), latent)


# ---------------------------------------------------------------- what is refused

BAD = [
    ("upscale", {"scale": 0}, "scale is 0"),
    ("upscale", {"scale": 1}, "scale is 1"),
    ("upscale", {"scale": 17}, "from 2 to 16"),
    ("upscale", {"scale": 1.5}, "scale is 1.5"),
    ("upscale", {"scale": 2.0}, "scale is 2.0"),
    ("upscale", {"scale": True}, "scale is True"),
    ("upscale", {"scale": "2"}, "scale is '2'"),
    ("upscale", {"scale": "4"}, "scale is '4'"),
    ("upscale", {"shrunk": "lanczos"}, "bicubic or average"),
    ("deblur", {"kernel": "gaussian:"}, "gaussian takes 1 number"),
    ("deblur", {"kernel": "gaussian:x"}, "gaussian takes 1 number"),
    ("deblur", {"kernel": "motion:5"}, "motion takes 2 numbers"),
    ("deblur", {"kernel": "disk:-1"}, "radius is -1"),
    ("deblur", {"kernel": "foo:3"}, "foo:3 is neither"),
    ("deblur", {"kernel": np.zeros((3, 3))}, "sum is 0"),
    ("deblur", {"kernel": np.array([[1.0, -1.0]])}, "sum is 0"),
    ("deblur", {"kernel": np.array([[float("nan")]])}, "nan"),
    ("denoise", {"steps": 2}, "mmse asks the network once"),
    ("denoise", {"strength": 0.5}, "leave strength out"),
    ("denoise", {"strength": 0.5, "method": "ddpm"}, "leave strength out"),
    *((task, {"noise_std": -1 / 255}, "sigma -1") for task in INVERSE),
    *((task, {"noise_std": 1.0}, "sigma 255") for task in INVERSE),
    *((task, {"noise_std": float("nan")}, "nan") for task in INVERSE),
    *((task, {"noise_std": "0.1"}, "noise") for task in INVERSE),
    *((task, {"strength": 0, "method": "ddrm"}, "strength is 0") for task in INVERSE),
    *((task, {"strength": 1.5, "method": "ddrm"}, "strength is 1.5") for task in INVERSE),
    *((task, {"method": "magic"}, "unknown method 'magic'") for task in PICTURES),
    *((task, {"method": "repaint"}, "unknown method") for task in INVERSE),
    *((task, {"steps": 0}, "steps is 0") for task in PICTURES),
    *((task, {"seed": -1}, "seed is -1") for task in PICTURES),
    *((task, {"samples": 0}, "samples is 0") for task in PICTURES),
    *((task, {"tile": 100}, "tile 100") for task in PICTURES),
    *((task, {"eta": 1.5, "method": "ddrm"}, "eta is 1.5") for task in INVERSE),
]


@pytest.mark.parametrize(("task", "options", "words"), BAD, ids=str)
def test_bad_options_are_refused_before_any_work(task, options, words, no_network):
    kind, own = type(request(task)), request(task)
    given = {name: getattr(own, name) for name in ("scale", "kernel") if hasattr(own, name)} | options
    with pytest.raises(InputError, match=words.replace("(", r"\(")) as error:
        kind(**given)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        getattr(restore, task)(colours(), prior=white(), **given)


def test_a_kernel_has_to_be_given():
    with pytest.raises(InputError, match="needs the --kernel"):
        restore.deblur(colours(), prior=white())


@pytest.mark.parametrize("task", [*PICTURES, "generate"])
def test_signatures_show_every_option(task):
    names = set(inspect.signature(getattr(restore, task)).parameters)
    assert {"prior", "method", "steps", "seed", "samples", "label", "guidance", "tile", "progress", "device"} <= names
    assert set(inspect.signature(type(request(task))).parameters) <= names
    given = {"kernel": "gaussian:1"} if task == "deblur" else {}
    given |= {} if task == "generate" else {"image": colours()}
    with pytest.raises(TypeError, match="stepps"):
        getattr(restore, task)(**given, prior=white(), stepps=3)
