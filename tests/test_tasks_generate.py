"""generate: sizes, closed forms on Gaussian priors, seeds, progress, and what is refused."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tasking import TABLE, chained, ddpm, smooth, spectrum, white

import restore
from restore import tasks
from restore.errors import InputError
from restore.levels import Flow, Karras
from restore.tasks.common import walk


@pytest.mark.parametrize(
    ("size", "shape"), [(24, (24, 24)), ((20, 33), (33, 20)), ([20, 33], (33, 20)), (np.int64(8), (8, 8))], ids=str
)
def test_sizes(size, shape):
    """(height, width) in; PIL's (width, height) out."""
    prior = white(multiple=16)
    out = restore.generate(prior=prior, size=size, steps=2)
    assert isinstance(out, Image.Image)
    assert (out.mode, out.size) == ("RGB", shape)
    assert all(h % 16 == 0 and w % 16 == 0 for h, w in prior.net.shapes)


def test_the_size_is_the_prior_s_or_256():
    assert restore.generate(prior=white(size=32), steps=1).size == (32, 32)
    assert restore.generate(prior=white(size=[24, 40]), steps=1).size == (40, 24)
    assert restore.generate(prior=white(), steps=1).size == (256, 256)


@pytest.mark.parametrize("size", [3, 0, -8, 16.0, "16", True, (16,), (16, 16, 16), (16, 3), (16, "16"), ()], ids=str)
def test_bad_sizes(size, no_network):
    with pytest.raises(InputError, match="size is"):
        restore.generate(prior=white(), size=size)


@pytest.mark.parametrize(("text", "size"), [("64", 64), ("64x48", (48, 64)), ("8X16", (16, 8)), (None, None)])
def test_sizes_in_words(text, size):
    assert tasks.read_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "axb", "64x", "x64", "64x48x3", "-64", "6.4", "64,48", "64 x 48", "²"])
def test_words_that_are_no_size(text):
    with pytest.raises(InputError, match="WIDTHxHEIGHT"):
        tasks.read_size(text)


def test_a_size_beyond_all_memory(no_network):
    with pytest.raises(InputError, match="million pixels"):
        restore.generate(prior=white(), size=10_000_000)


STEPS = {"heun": 30, "ddim": 60, "ddpm": 60}


@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("schedule", [TABLE, Karras(), Flow()], ids=["vp", "ve", "flow"])
def test_samples_have_the_prior_s_mean_and_spread(method, schedule):
    """By the recursion of DDIM's steps; of Heun's the prior's own."""
    prior = white((0.3, 0.1, -0.2), 0.25, schedule)
    x = np.asarray(restore.generate(prior=prior, size=64, method=method, steps=STEPS[method])) / 255
    levels, eta = walk(prior, STEPS[method], math.inf), {"ddpm": 1.0}.get(method, 0.0)
    spread = 0.25 if method == "heun" else chained(0.25, levels, lambda now, then: ddpm(now, then, eta))[1]
    assert x.mean((0, 1)) == pytest.approx([0.65, 0.55, 0.4], abs=0.008)
    assert x.std((0, 1)) == pytest.approx([spread / 2] * 3, rel=0.03)
    assert spread == pytest.approx(0.25, rel=0.15)


@pytest.mark.parametrize("method", STEPS)
def test_samples_have_the_prior_s_correlations(method):
    """Neighbours of a smooth Gaussian agree as its spectrum says."""
    side, prior = 48, smooth(reach=2.0)
    x = np.stack([np.asarray(image) for image in restore.generate(
        prior=prior, size=side, method=method, steps=2 * STEPS[method], samples=3
    )]) / 255 - 0.5  # fmt: skip
    var = spectrum((side, side), reach=2.0) / 4
    k = np.arange(side)
    lag = float((var * np.cos(np.pi * k / side)[None]).mean())  # of neighbours in a row, to the borders' share
    assert x.var() == pytest.approx(var.mean(), rel=0.15)
    assert (x[:, :, 1:] * x[:, :, :-1]).mean() == pytest.approx(lag, rel=0.15)
    assert 0.5 < lag / var.mean() < 0.98


@pytest.mark.parametrize("method", STEPS)
def test_seeds_and_samples(method):
    def of(**options):
        return restore.generate(prior=white(), size=16, method=method, steps=3, **options)

    torch.manual_seed(3)
    state = torch.get_rng_state()
    several = [image.tobytes() for image in of(samples=3, seed=5)]
    assert several == [of(seed=5 + k).tobytes() for k in range(3)]
    assert len(set(several)) == 3
    assert of().tobytes() == of(seed=0).tobytes()
    assert torch.equal(torch.get_rng_state(), state)


def test_eta():
    def of(**options):
        return np.asarray(restore.generate(prior=white(), size=16, steps=4, **options))

    assert (of(method="ddim", eta=1) == of(method="ddpm")).all()
    assert (of(method="ddpm", eta=0) == of(method="ddim")).all()
    assert not (of(method="ddpm", eta=0.5) == of(method="ddim")).all()
    with pytest.raises(InputError, match="heun solves the ODE"):
        of(eta=0.5)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize(("method", "steps", "calls"), [("heun", 4, 7), ("heun", 1, 1), ("ddim", 4, 4), ("ddpm", 4, 4)])
def test_progress_and_report(method, steps, calls, samples):
    prior, told = white(), []
    info = tasks.Generate(method=method, steps=steps, samples=samples, size=16).run(prior, told.append).info
    assert [p.done for p in told] == list(range(1, samples * calls + 1))
    assert {p.total for p in told} == {samples * calls} == {info.calls} == {len(prior.net.told)}
    assert (info.method, info.steps, info.samples, info.prior) == (method, steps, samples, "white")


def test_a_large_sample_is_made_in_tiles():
    prior = white()
    restore.generate(prior=prior, size=(8, 1200), steps=1)
    assert max(max(shape) for shape in prior.net.shapes) <= 1024
    whole, tiled = (np.asarray(restore.generate(prior=white(), size=(16, 200), steps=3, tile=t)) for t in (None, 128))
    assert np.abs(whole.astype(int) - tiled).max() <= 1


BAD = [
    ({"method": "ddrm"}, "unknown method 'ddrm': choose one of heun, ddim, ddpm"),
    ({"steps": 0}, "steps is 0"),
    ({"samples": 0}, "samples is 0"),
    ({"seed": -1}, "seed is -1"),
    ({"method": "ddim", "eta": 1.1}, "eta is 1.1"),
    ({"tile": 7}, "tile 7"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=str)
def test_bad_options_are_refused_before_any_work(options, words, no_network):
    with pytest.raises(InputError, match=words):
        tasks.Generate(**options)
    with pytest.raises(InputError, match=words):
        restore.generate(prior=white(), **options)
