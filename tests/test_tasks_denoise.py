"""denoise against its closed forms: posterior mean, samples, clipped noise, no noise."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tasking import KINDS, TABLE, chained, colours, ddpm, drawn, made, result, smooth, spectrum, waves, white

from restore import images
from restore.errors import InputError
from restore.levels import Flow, Karras
from restore.load import load_prior
from restore.noise import estimate_noise, unclip
from restore.picture import luma
from restore.tasks import denoising, inverse
from restore.tasks.common import walk


def noised(x, std):
    return x + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))


def flat(value, side):
    """One colour, nearly gray: the channels of a gray picture would share their noise."""
    return (value + torch.tensor([0.0, 1e-4, -1e-4]).reshape(1, 3, 1, 1)).expand(1, 3, side, side)


def wiener(y, noise, mean=0.2, std=0.5):
    """E[x | y] in [0, 1] of the prior N(mean, std^2) on [-1, 1]."""
    var, mean = (std / 2) ** 2, (mean + 1) / 2
    return mean + var / (var + noise**2) * (y - mean)


@pytest.mark.parametrize("noise", [0.004, 0.1, 0.5])
@pytest.mark.parametrize("schedule", [TABLE, Karras(), Flow()], ids=["vp", "ve", "flow"])
def test_mmse_is_the_posterior_mean(noise, schedule):
    y = colours()
    out = made("denoise", y, white(schedule=schedule, multiple=4), noise_std=noise)
    assert (out - wiener(y, noise)).abs().max() < 3e-5


def test_mmse_of_a_smooth_prior_is_its_wiener_filter():
    truth = drawn((40, 48))
    y = noised(truth, 0.1).clamp(0.001, 0.999)
    var = torch.from_numpy(spectrum((40, 48))) / 4
    wanted = 0.5 + waves(y - 0.5, var / (var + 0.01))
    out = made("denoise", y, smooth())
    assert (out - wanted).abs().max() < 1e-4
    assert (out - truth).norm() < 0.4 * (y - truth).norm()


@pytest.mark.parametrize("eta", [None, 0.5])
def test_ddpm_draws_from_the_posterior(eta):
    """Mean and spread over pixels and seeds, as the recursion of its steps has them; with many steps it is exact."""
    noise, prior, options = 0.1, white(0.1, 0.25), {"method": "ddpm", "eta": eta, "samples": 4, "steps": 20}
    answers = torch.cat(result("denoise", flat(0.45, 32), prior, noise_std=noise, **options).images)
    _, spread = ends = chained(0.25, walk(prior, 20, 2 * noise), lambda a, b: ddpm(a, b, eta or 1.0))
    assert float(answers.mean()) == pytest.approx(0.55 - ends[0] * 0.1, abs=0.003)
    own = math.sqrt(max(spread**2 - (ends[0] * 2 * noise) ** 2, 0))  # the picture brings its noise with it
    assert float(answers.std()) == pytest.approx(own / 2, rel=0.05)
    assert abs(np.corrcoef(answers[0].flatten(), answers[1].flatten())[0, 1]) < 0.06
    if eta is None:
        assert ends[0] == pytest.approx(0.25**2 / (0.25**2 + 0.2**2), rel=0.02)
        assert own == pytest.approx(1 / math.sqrt(1 / 0.25**2 + 1 / 0.2**2), rel=0.15)


@pytest.mark.parametrize("dark", [True, False])
def test_noise_that_was_cut_off_leaves_no_bias(dark, monkeypatch):
    """A flat picture near black or white, its noise clipped as a file clips it."""
    level, noise = 0.04 if dark else 0.96, 0.1
    noisy = (noised(torch.full((1, 3, 64, 64), level), noise).clamp(0, 1) * 255).round() / 255
    sure = smooth(reach=30.0, std=1.0)  # it averages over many pixels
    biased = abs(float(noisy.mean()) - level)
    assert biased > 0.02
    assert abs(float(made("denoise", noisy, sure).mean()) - level) < 0.1 * biased
    monkeypatch.setattr(denoising, "unclip", lambda mean, *_: mean)
    assert abs(float(made("denoise", noisy, sure).mean()) - level) > 0.8 * biased


def test_values_that_were_not_cut_off_are_left_alone():
    """A dark picture of floats that never touches black: nothing was clipped, and nothing is made darker."""
    y = flat(0.03, 16)
    assert (made("denoise", y, white(-0.9, 0.1)) - wiener(y, 0.1, -0.9, 0.1)).abs().max() < 3e-5


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4])
@pytest.mark.parametrize(("low", "high"), [(True, True), (True, False), (False, True), (False, False)])
def test_unclip_inverts_the_mean_of_clipped_noise(noise, low, high):
    x = torch.tensor([0.0, 0.02, 0.2, 0.5, 0.8, 0.97, 1.0], dtype=torch.float64)
    n = noise * torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = (x + torch.cat([n, -n])).clamp(0 if low else None, 1 if high else None) if low or high else x + 0 * n
    found = unclip(seen.mean(0), noise, low, high)
    assert (found - x).abs().max() < 0.01 * noise + 1e-6


@pytest.mark.parametrize("method", ["mmse", "ddpm", "ddrm"])
def test_the_noise_is_estimated_where_it_is_not_given(method):
    noisy = noised(drawn((64, 64), std=0.15), 0.06).clamp(0, 1)
    estimated = estimate_noise(noisy)
    assert estimated == pytest.approx(0.06, rel=0.1)
    free, told = (made("denoise", noisy, smooth(), method=method, noise_std=n) for n in (None, estimated))
    assert torch.equal(free, told)


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_there_is_nothing_to_do(kind, no_network):
    """A copy, bit for bit, with a note."""
    source, told = KINDS[kind](), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = result("denoise", source, white(), told.append, noise_std=0.0, method="ddpm", samples=2)
    for out in found.images:
        assert torch.equal(images.read(out).rgb, images.read(source).rgb)
        assert out is not source
    assert (found.info.calls, told) == (0, [])
    assert "no noise" in found.info.note


def test_a_picture_without_noise_is_found_out(no_network):
    flat = np.full((40, 40, 3), 77, np.uint8)
    found = result("denoise", flat, white(), noise_std=None)
    assert (found.images[0] == flat).all()
    assert "no noise" in found.info.note


def test_ddrm_comes_to_the_mean():
    """Its chain ends at the noise of the picture, where the network sees the picture as it is."""
    mean = made("denoise", colours(), white())
    for options in ({}, {"seed": 1}, {"steps": 7}):
        torch.testing.assert_close(made("denoise", colours(), white(), method="ddrm", **options), mean)
    for options in ({"eta": 0.0}, {"samples": 2}):
        with pytest.raises(InputError, match="ddrm draws no noise"):
            made("denoise", colours(), white(), method="ddrm", **options)


def test_gray_noise_is_one_draw_for_three_channels(monkeypatch):
    """A gray photograph, as one channel and as three that agree: the same answer, and far better than as if colour."""
    sample = Path(__file__).parent.parent / "assets/images/colosseum.png"
    truth = luma(images.read(sample).rgb)[..., 40:136, 60:156]
    noisy = noised(truth, 25 / 255).clamp(0, 1)
    prior = load_prior("photo", device="cpu", dtype="float32")

    def error(y):
        out = made("denoise", y, prior, noise_std=25 / 255)
        assert (out == out[:, :1]).all()
        return float((out[:, :1] - truth).square().mean())

    one, three = error(noisy), error(noisy.expand(-1, 3, -1, -1).contiguous())
    assert one == pytest.approx(three, rel=1e-3)
    for module in (inverse, denoising):
        monkeypatch.setattr(module, "shared_noise", lambda y: 1.0)
    assert one < 0.5 * error(noisy)
