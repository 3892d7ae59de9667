"""The tasks by conditional priors, on priors whose answers are known."""

import numpy as np
import pytest
import torch
from conditioned import GAIN, SHIFT, exact
from tasking import colours
from torch.nn.functional import interpolate

import restore
from restore.degrade import shrunk
from restore.errors import InputError
from restore.operators import downscale
from restore.picture import luma


def answer(seen):
    """The mean of the closed form, in [0, 1], of what is seen in [0, 1]."""
    return ((GAIN * (2 * seen - 1) + SHIFT) + 1) / 2


def mean(found):
    return torch.stack(list(found)).mean(0)


def enlarged(y):
    return (interpolate(2 * y - 1, scale_factor=4, mode="bicubic").clamp(-1, 1) + 1) / 2


@pytest.mark.parametrize(
    "options",
    [
        {"method": "ddim", "steps": 40},
        {"method": "ddpm", "steps": 200},
        {"method": "heun", "steps": 20},
        {"method": "dpm++", "steps": 20},
        {"method": "ddim", "steps": 40, "eta": 0.5},
        {"tile": 128, "steps": 20},
    ],
    ids=str,
)
def test_upscale_samples_the_answers(options):
    y = colours()
    prior = exact()
    found = restore.upscale(y, prior=prior, samples=12, **options)
    assert all(one.shape == (*y.shape[:2], 4 * y.shape[2], 4 * y.shape[3]) for one in found)
    assert (mean(found) - answer(enlarged(y))).abs().mean() < 0.035  # 0.1 of noise over the root of twelve
    assert (mean(found) - answer(enlarged(y))).mean().abs() < 0.005
    assert torch.equal(found[1], restore.upscale(y, prior=prior, seed=1, **options))
    assert not torch.equal(found[0], found[1])


def test_a_sample_is_the_same_in_tiles_and_batches():
    y = torch.cat([colours(), colours().flip(-1)])
    whole = restore.upscale(y, prior=exact(), steps=5)
    assert torch.allclose(restore.upscale(y, prior=exact(), steps=5, tile=128), whole, atol=1e-5)
    assert whole.shape[0] == 2
    large = torch.nn.functional.interpolate(colours(), (72, 80), mode="bilinear")
    whole = restore.upscale(large, prior=exact(), steps=5, tile=None)
    assert (restore.upscale(large, prior=exact(), steps=5, tile=128) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("residual", [0.0, 2.0])
@pytest.mark.parametrize("method", ["ddim", "ddpm", "heun", "dpm++"])
def test_consistent_answers_shrink_to_the_picture(method, residual):
    truth = interpolate(colours(), scale_factor=4, mode="bicubic").clamp(0, 1) / 3 + 0.35
    y = shrunk(truth, 4, "bicubic", "it")
    out = restore.upscale(y, prior=exact(residual=residual), method=method, steps=8, consistent=True)
    again = downscale(4, tuple(out.shape[-2:])).A(out)
    assert (again - y).abs().mean() < 1e-4  # but for the rare pixel that is clamped to [0, 1]
    assert (again - y).abs().max() < 0.02
    loose = restore.upscale(y, prior=exact(residual=residual), method=method, steps=8)
    assert (downscale(4, tuple(loose.shape[-2:])).A(loose) - y).abs().mean() > 0.01


def test_odd_sizes_and_kinds():
    y = colours()[..., :13, :11]
    assert restore.upscale(y, prior=exact(), steps=2).shape[-2:] == (52, 44)
    array = (y[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    out = restore.upscale(array, prior=exact(), steps=2)
    assert out.dtype == np.uint8
    assert out.shape == (52, 44, 3)
    assert restore.upscale(array, 4, prior=exact(), steps=2).shape == (52, 44, 3)


def test_colours_agree_with_the_brightness():
    y = colours()
    prior = exact(tasks=("colorize",), scale=1)
    out = restore.colorize(y, prior=prior, steps=10, consistent=True)
    assert (luma(out) - luma(y)).abs().max() < 0.02  # clamped at the ends
    free = restore.colorize(y, prior=prior, steps=10, samples=12)
    assert (mean(free) - answer(luma(y).expand(-1, 3, -1, -1))).abs().mean() < 0.035


def test_known_pixels_stay_and_holes_are_answers():
    y = colours()
    mask = torch.zeros(1, 1, *y.shape[-2:])
    mask[..., 8:24, 8:24] = 1
    prior = exact(tasks=("inpaint",), scale=1)
    seen = []
    forward = prior.net.forward
    prior.net.forward = lambda joined, t: seen.append(joined) or forward(joined, t)
    out = restore.inpaint(y, mask, prior=prior, steps=10)
    hole = mask.expand_as(y) > 0
    assert torch.equal(out[~hole], y[~hole])
    assert not torch.equal(out[hole], y[hole])
    shown = seen[0][:, 3:]
    assert shown[hole].std() == pytest.approx(1, rel=0.15)  # noise in the hole, the picture around it
    assert torch.allclose(shown[~hole], 2 * y[~hole] - 1, atol=1e-6)
    assert restore.inpaint(y, torch.zeros_like(mask), prior=prior).equal(y)


@pytest.mark.parametrize("task", ["deblur", "denoise", "repair"])
def test_damage_that_is_not_known(task):
    y = colours()
    prior = exact(tasks=(task,), scale=1)
    found = getattr(restore, task)(y, prior=prior, method="ddim", steps=10, samples=12)
    assert (mean(found) - answer(y)).abs().mean() < 0.035
    with pytest.raises(InputError, match="not known exactly"):
        getattr(restore, task)(y, prior=prior, method="ddim", consistent=True)


def test_guidance_goes_away_from_what_is_said_without_the_picture():
    y = colours()
    prior = exact(dropout=True)
    with_it, without = (restore.upscale(y, prior=prior, steps=40, guidance=g, seed=3) for g in (1, 0))
    assert (mean([with_it]) - answer(enlarged(y))).mean().abs() < 0.01
    assert without.mean() == pytest.approx(float(answer(torch.tensor(0.5))), abs=0.01)
    twice = restore.upscale(y, prior=prior, steps=40, guidance=2, seed=3)
    wanted = (2 * with_it - without).clamp(0, 1)  # Gaussians of one deviation: their means are extrapolated
    assert (twice - wanted).abs().mean() < 0.01
    tiled = restore.upscale(y, prior=prior, steps=40, guidance=2, seed=3, tile=128)
    assert torch.allclose(tiled, twice, atol=1e-5)


# ---------------------------------------------------------------- cascades


def test_a_cascade_enlarges_step_by_step():
    y = colours()[..., :8, :8]
    first, second = exact(), exact(scale=2, augment=0.4)
    calls = []
    out = restore.upscale(y, 8, prior=first, then=[second], steps=30, progress=calls.append)
    assert out.shape[-2:] == (64, 64)
    assert [call.done for call in calls] == list(range(1, 61))
    assert {call.total for call in calls} == {60}
    assert calls[-1].preview.shape[-2:] == (64, 64)
    assert calls[29].preview.shape[-2:] == (32, 32)
    told = second.net.asked[-1][:, 6]
    assert told.unique().tolist() == pytest.approx([0.1])  # a quarter of what it was trained on
    assert first.net.asked[0].shape[1] == 6
    louder = restore.upscale(y, prior=first, then=second, steps=30, augment=0.15)
    assert louder.shape[-2:] == (64, 64)


def test_noise_in_the_picture_is_told_to_the_first_stage():
    first, second = exact(scale=2, augment=0.4), exact(scale=2, augment=0.4)
    restore.upscale(colours(), prior=first, then=[second], steps=2, noise_std=0.05)
    assert first.net.asked[0][:, 6].unique().tolist() == pytest.approx([0.1])
    enlarged_twice = interpolate(2 * colours() - 1, scale_factor=2, mode="bicubic").clamp(-1, 1)
    shown = first.net.asked[0][:, 3:6]
    assert torch.allclose(shown[..., :42, :54], enlarged_twice[..., :42, :54], atol=1e-6)  # none is added
    assert second.net.asked[0][:, 6].unique().tolist() == pytest.approx([0.1])  # a quarter of 0.4


def test_generate_begins_a_cascade():
    base = restore.Prior(lambda x, t: x * 0 + x, schedule=restore.linear(1000), size=16)
    out = restore.generate(prior=base, then=[exact(scale=2), exact(scale=4)], method="ddim", steps=5, samples=2)
    assert [one.size for one in out] == [(128, 128)] * 2
    assert out[0].tobytes() != out[1].tobytes()


# ---------------------------------------------------------------- what is refused

REFUSED = {
    "another task": (lambda y: restore.colorize(y, prior=exact()), "trained to upscale: it cannot colorize"),
    "another scale": (lambda y: restore.upscale(y, 2, prior=exact()), "scale is 2, and 'exact' enlarges 4 times"),
    "another shrinking": (lambda y: restore.upscale(y, prior=exact(), shrunk="average"), "trained on bicubic"),
    "a method of others": (lambda y: restore.upscale(y, prior=exact(), method="dpir"), "for unconditional priors"),
    "a method of these": (lambda y: restore.upscale(y, method="ddim"), "is for conditional priors, and 'photo'"),
    "consistent of others": (lambda y: restore.upscale(y, consistent=True), "consistent is for conditional"),
    "then of others": (lambda y: restore.upscale(y, then=[exact()]), "then is for conditional"),
    "augment of others": (lambda y: restore.upscale(y, augment=0.1), "augment is for conditional"),
    "too much augment": (lambda y: restore.upscale(y, prior=exact(), augment=0.1), "trained on none"),
    "a label": (lambda y: restore.upscale(y, prior=exact(), label=3), "no classes"),
    "a prompt": (lambda y: restore.upscale(y, prior=exact(), prompt="x"), "prompt: a conditional prior"),
    "guidance": (lambda y: restore.upscale(y, prior=exact(), guidance=2), "nothing to go by"),
    "noise": (lambda y: restore.upscale(y, prior=exact(), noise_std=0.1), "trained on none in the picture"),
    "eta of heun": (lambda y: restore.upscale(y, prior=exact(), method="heun", eta=0.5), "without noise"),
    "editing": (lambda y: restore.edit(y, prior=exact()), "is conditional: it was trained to upscale"),
    "generating": (lambda y: restore.generate(prior=exact()), "is conditional"),
    "a stage that is none": (lambda y: restore.upscale(y, prior=exact(), then=["photo"]), "trained to no such thing"),
    "a stage of words": (lambda y: restore.upscale(y, prior=exact(), then=[3]), "then is 3"),
    "repair by others": (lambda y: restore.repair(y, prior="photo"), "'photo' is not conditional"),
    "noise that is exact": (
        lambda y: restore.upscale(y, prior=exact(augment=0.5), noise_std=0.1, consistent=True),
        "as exact",
    ),
    "noise twice": (lambda y: restore.upscale(y, prior=exact(augment=0.5), noise_std=0.1, augment=0.1), "leave one"),
    "a kernel": (
        lambda y: restore.deblur(y, "gaussian:2", prior=exact(tasks=("deblur",), scale=1)),
        "leave the kernel out",
    ),
    "no kernel": (lambda y: restore.deblur(y), "needs the --kernel"),
    "augment of nothing": (lambda y: restore.generate(augment=0.1), "give them, with then"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    call, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        call(colours())
    assert "\n" not in str(caught.value)


def test_a_picture_keeps_its_transparency():
    rgba = np.full((12, 10, 4), 90, np.uint8)
    rgba[:6, :, 3] = 255
    out = restore.upscale(rgba, prior=exact(), steps=2)
    assert out.shape == (48, 40, 4)
    assert (out[:20, :, 3] == 255).all()
    assert (out[30:, :, 3] == 90).all()
