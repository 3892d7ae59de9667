"""Self-ensembles over the eight orientations of a picture, and the qualities that ask for them."""

import json

import pytest
import torch
from command import photo, pixels, run
from tasking import TABLE, colours, made, request, result, white

import restore
from restore import tasks
from restore.errors import InputError
from restore.load import bundled
from restore.prior import Pred, Prior
from restore.wrappers import alternate, ensemble, turned

LEVEL = TABLE.at(300)


def ramp(height=3, width=5):
    """(1,1,H,W), all values different: no two orientations of it agree."""
    return torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width)


def skewed(x, level):
    """A denoiser that prefers the left: it moves the picture by a pixel and weighs its columns."""
    x0 = torch.roll(x, 1, -1) * torch.linspace(0.5, 1, x.shape[-1], dtype=x.dtype)
    return Pred(x0=x0, eps=(x - level.alpha * x0) / level.sigma)


class Leaning:
    """An eps-network that is not the same in all orientations; `seen` lists what it was asked of."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, t):
        self.seen.append(x.clone())
        return 0.3 * torch.roll(x, 1, -1)


def leaning(orientations=8):
    return Prior(Leaning(), schedule=TABLE, orientations=orientations, name="leaning")


# --- the wrappers ---


def test_the_orientations_are_the_eight_symmetries_of_a_square():
    x = ramp(4, 4)
    every = [turned(x, k) for k in range(8)]
    assert len({tuple(y.flatten().tolist()) for y in every}) == 8
    for again in (turned(y, k) for y in every for k in range(8)):  # two in a row are one of them: a group
        assert any(torch.equal(again, y) for y in every)
    assert torch.equal(turned(x, 0), x)
    assert torch.equal(turned(x, 1), x.flip(-1))  # so that the first two are those of mirrored pictures


@pytest.mark.parametrize("k", range(8))
def test_an_orientation_is_undone(k):
    x = ramp()
    assert torch.equal(turned(turned(x, k), k, back=True), x)
    assert turned(x, k).shape[-2:] == ((3, 5) if k // 2 % 2 == 0 else (5, 3))


def test_alternate_asks_in_one_orientation_after_the_other():
    asked = []
    denoise = alternate(lambda x, level: asked.append(x) or skewed(x, level), 8)
    x = ramp()
    for k in range(10):
        pred = denoise(x, LEVEL)
        assert torch.equal(asked[-1], turned(x, k % 8))
        assert torch.equal(pred.x0, turned(skewed(turned(x, k % 8), LEVEL).x0, k % 8, back=True))
        assert torch.allclose(LEVEL.alpha * pred.x0 + LEVEL.sigma * pred.eps, x)


@pytest.mark.parametrize("count", [2, 8])
def test_an_ensemble_commutes_with_its_orientations(count):
    denoise, x = ensemble(skewed, count), ramp()
    mean = sum(turned(skewed(turned(x, k), LEVEL).x0, k, back=True) for k in range(count)) / count
    assert torch.allclose(denoise(x, LEVEL).x0, mean)
    for k in range(count):
        assert torch.allclose(denoise(turned(x, k), LEVEL).x0, turned(mean, k))
    assert not torch.allclose(skewed(turned(x, 1), LEVEL).x0, turned(skewed(x, LEVEL).x0, 1))


def test_a_learned_variance_is_turned_too():
    def with_frac(x, level):
        return skewed(x, level)._replace(frac=skewed(x, level).x0 / 100)

    for wrap in (alternate, ensemble):
        pred = wrap(with_frac)(ramp(), LEVEL)
        assert torch.allclose(pred.frac, pred.x0 / 100)


# --- in the tasks ---


@pytest.mark.parametrize("task", ["upscale", "deblur", "inpaint", "colorize"])
@pytest.mark.parametrize("orientations", [1, 2, 8])
def test_dpir_turns_the_picture_from_call_to_call(task, orientations):
    prior = leaning(orientations)
    result(task, colours((16, 24)), prior, method="dpir", steps=4)
    shapes = [x.shape[-2:] for x in prior.net.seen]
    first = shapes[0]
    turns = [first, first, first[::-1], first[::-1]]
    assert shapes == (turns if orientations == 8 else [first] * 4)


def test_turning_leaves_a_prior_that_does_not_lean_alone():
    plain, turning = white(0.2), white(0.2, orientations=8)
    for task in ("upscale", "inpaint"):
        found = [made(task, colours(), prior, method="dpir", steps=5) for prior in (plain, turning)]
        assert torch.allclose(*found, atol=1e-6)


def test_previews_are_upright():
    """A deblurring by nothing at all: what the network answers is what the preview shows, the right way round."""
    shown, prior = [], leaning()
    tasks.Upscale(scale=2, method="dpir", steps=4).run(
        restore.images.read(colours((8, 12))), prior, progress=lambda p: shown.append(p.preview)
    )
    assert {tuple(preview.shape[-2:]) for preview in shown} == {(16, 24)}


def test_chains_with_noise_stay_upright():
    prior = leaning()
    result("upscale", colours((16, 24)), prior, method="ddrm", steps=4)
    assert len({x.shape[-2:] for x in prior.net.seen}) == 1


@pytest.mark.parametrize(("orientations", "calls"), [(1, 1), (2, 2), (8, 8)])
def test_the_best_denoising_is_the_mean_over_the_orientations(orientations, calls):
    prior, picture = leaning(orientations), colours((16, 24))
    found = result("denoise", picture, prior, noise_std=0.1, quality="best")
    assert (found.info.calls, len(prior.net.seen)) == (calls, calls)
    each = []
    for k in range(orientations):
        single = made("denoise", turned(picture, k), leaning(), noise_std=0.1)
        each.append(turned(single, k, back=True))
    assert torch.allclose(found.images[0], sum(each) / len(each), atol=1e-5)


# --- the option ---


@pytest.mark.parametrize(
    ("task", "method", "draft", "normal", "best"),
    [
        ("upscale", "dpir", 6, 12, 24),
        ("deblur", "ddrm", 10, 20, 40),
        ("denoise", "mmse", 1, 1, 1),
        ("denoise", "ddpm", 10, 20, 40),
        ("generate", "heun", 13, 25, 50),
    ],
)
def test_quality_sets_the_steps(task, method, draft, normal, best):
    kind = type(request(task))
    own = {"kernel": "gaussian:1"} if task == "deblur" else {}
    counts = {name: kind(method=method, quality=name, **own).count for name in ("draft", "normal", "best")}
    assert counts == {"draft": draft, "normal": normal, "best": best}
    assert kind(method=method, **own).count == normal


def test_bad_qualities_are_refused():
    with pytest.raises(InputError, match="unknown quality 'good': choose one of draft, normal, best"):
        tasks.Upscale(quality="good")
    with pytest.raises(InputError, match="quality and steps both say how many calls to make: leave one out"):
        tasks.Upscale(quality="best", steps=3)


def test_quality_on_the_command_line(tmp_path):
    source = photo(tmp_path / "a.png", size=(32, 24))
    found = {}
    for quality in ("draft", "best"):
        output = tmp_path / f"{quality}.png"
        told = json.loads(run("upscale", source, "--scale", 2, "--quality", quality, "-o", output, "--json").stdout)
        found[quality] = told["calls"], pixels(output).shape
    assert found == {"draft": (6, (48, 64, 3)), "best": (24, (48, 64, 3))}
    refused = run("denoise", source, "--quality", "good", code=2)
    assert "choose one of draft, normal, best" in refused.stderr
    refused = run("generate", "--quality", "best", "--steps", 3, "-o", tmp_path / "x.png", code=2)
    assert "leave one out" in refused.stderr


# --- what a folder says ---


def test_the_orientations_are_those_of_the_training(tmp_path):
    import shutil

    folder = tmp_path / "prior"
    shutil.copytree(bundled()["photo"], folder)
    assert restore.load_prior(folder).orientations == 8
    text = (folder / "train.toml").read_text()
    for rotate, flip, expected in (("false", "true", 2), ("true", "false", 1), ("false", "false", 1)):
        changed = text.replace("rotate = true", f"rotate = {rotate}").replace("flip = true", f"flip = {flip}")
        (folder / "train.toml").write_text(changed)
        assert restore.load_prior(folder).orientations == expected
    for text in ("no TOML", "data = 3"):
        (folder / "train.toml").write_text(text)
        assert restore.load_prior(folder).orientations == 1
    (folder / "train.toml").unlink()
    assert restore.load_prior(folder).orientations == 1
