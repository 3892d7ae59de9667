"""Every task on priors of every kind of folder: what applies runs, and what does not is refused."""

import json

import numpy as np
import pytest
import torch
from command import hole as hole_file
from command import photo, pixels, run
from tasking import REQUESTS, SIZE, colours, result, white
from test_latents import Shuffled
from tinypipes import KINDS, LATENTS, loaded, saved

from restore import images, tasks
from restore.errors import InputError
from restore.latents import Latents
from restore.levels import linear
from restore.prior import Prior
from restore.tasks.common import cells, image_space, model_space

pytest.importorskip("transformers")
TEXTS = ("text", "sd3")
EDITING = ("inpaint", "edit", "refine", "translate", "generate")
REFUSED = ("upscale", "deblur", "denoise", "colorize")


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    here = tmp_path_factory.mktemp("pipelines")
    return {kind: loaded(saved(kind, here / kind.replace(" ", "-"))) for kind in KINDS}


def wishes(kind, task):
    """A class or a prompt for a prior that has them."""
    name = "prompt" if kind in TEXTS else "label" if kind in ("classes", "dit") else None
    wish = {name: "dog" if kind != "dit" else 1} if name else {}
    return {**wish, **({f"from_{name}": wish[name]} if name and task == "translate" else {})}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", REQUESTS)
def test_every_task_on_every_kind(task, kind, priors):
    """Sizes that no network takes come back as they were, and nothing is NaN; tasks that measure pixels refuse."""
    image, options = colours(), {"steps": 2, **wishes(kind, task)}
    options.update({"factor": 4} if task == "refine" else {"steps": 1} if task == "denoise" else {})
    if kind in LATENTS and task in REFUSED:
        with pytest.raises(InputError, match="measures pixels") as error:
            result(task, image, priors[kind], **options)
        assert "repaint, edit or refine" in str(error.value)
        return
    told = []
    found = result(task, image, priors[kind], told.append, **options)
    shape = tuple(2 * side for side in SIZE) if task == "upscale" else SIZE
    (answer,) = found.images
    answer = torch.from_numpy(np.array(answer)).permute(2, 0, 1) if task == "generate" else answer
    assert answer.shape[-2:] == shape
    assert found.info.calls == told[-1].done == told[-1].total
    if task == "inpaint":
        assert found.info.method == ("repaint" if kind in LATENTS else "dpir")
        mask = torch.zeros(SIZE)
        mask[5:12, 6:15] = 1
        assert torch.equal(answer[..., mask == 0], image[..., mask == 0])
        assert (answer != image).any()


@pytest.mark.parametrize("kind", LATENTS)
@pytest.mark.parametrize("task", ["inpaint", "edit"])
def test_pixels_outside_the_mask_are_identical(task, kind, priors):
    """Of 16 bits, too, and although the autoencoder gives none of them back."""
    picture = images.read(np.random.default_rng(0).integers(0, 65535, (37, 45, 3), dtype=np.uint16))
    mask = torch.zeros(37, 45)
    mask[7:20, 11:30] = 1
    asked = REQUESTS[task][0](steps=2, samples=2, **wishes(kind, task))
    for answer in asked.run(picture, mask, priors[kind]).images:
        kept = mask.numpy() == 0
        assert (answer[kept] == picture.source[kept]).all()
        assert (answer[~kept] != picture.source[~kept]).any()


# ---------------------------------------------------------------- an autoencoder that loses nothing


def lossless(room=10**9, **options):
    """A white Gaussian over the cells of a lossless code."""
    codec = Latents(Shuffled(room), factor=2, channels=12)
    net = white(0.1, 0.5).net
    return Prior(net, schedule=linear(1000), codec=codec, channels=12, name="lossless", **options)


def test_model_space_and_back():
    prior, image = lossless(multiple=4), colours((21, 27))
    x = model_space(prior, image)
    assert x.shape == (1, 12, 12, 16)  # padded to multiples of 8 pixels
    torch.testing.assert_close(image_space(prior, x, (21, 27)), image)
    assert (prior.picture_multiple, prior.picture_size) == (8, None)
    assert lossless(size=16).picture_size == 32


def test_a_cell_that_the_mask_touches_is_repainted():
    prior, mask = lossless(), torch.zeros(1, 1, 8, 8)
    mask[..., 3, 3] = mask[..., 4, 6] = 1
    wanted = torch.zeros(1, 1, 4, 4)
    wanted[..., 1, 1] = wanted[..., 2, 3] = 1
    assert torch.equal(cells(prior, mask), wanted)
    assert torch.equal(cells(white(), mask), mask)


def test_a_lossless_code_gives_what_pixels_give():
    """`edit` to strength 0 noise aside: the chain of a white prior is the same in any order of its samples."""
    image, mask = colours((16, 24)), torch.zeros(16, 24)
    mask[4:12, 6:18] = 1  # whole cells
    options = {"method": "repaint", "steps": 30, "resamplings": 1, "seed": 3}
    found = [tasks.Inpaint(**options).run(images.read(image), mask, p).images[0] for p in (lossless(), white(0.1))]
    inside = mask > 0
    means = [answer[..., inside].mean() for answer in found]
    spreads = [answer[..., inside].std() for answer in found]
    assert abs(means[0] - means[1]) < 0.05
    assert abs(spreads[0] - spreads[1]) < 0.05


def test_what_lies_under_the_mask_does_not_matter(priors):
    """Although the autoencoder looks at more than the cell; the codes of a VQ would hide small differences."""
    image, mask = colours((36, 44)), torch.zeros(36, 44)
    mask[8:20, 10:30] = 1
    other = torch.where(mask > 0, torch.rand(36, 44), image)
    asked = tasks.Inpaint(steps=2, crop_to_mask="never")  # what is shrunk is filled before
    a, b = (asked.run(images.read(x), mask, priors["text"]).images[0] for x in (image, other))
    assert torch.equal(a[..., mask > 0], b[..., mask > 0])


def test_the_preview_is_decoded_when_it_is_asked_for():
    prior, told = lossless(), []
    tasks.Edit(steps=4).run(images.read(colours((8, 8))), None, prior, told.append)
    decodings = sum(sides == (8, 8) for sides in prior.codec.net.asked)
    assert decodings == 2  # one encoding, and the answer
    assert told[0].preview.shape == (1, 3, 8, 8)
    assert 0 <= told[0].preview.min() <= told[0].preview.max() <= 1
    assert len(prior.codec.net.asked) > 2


# ---------------------------------------------------------------- refine, translate


def test_refine_counts_in_pixels_of_the_picture():
    """Two cells by default; one is the picture itself, and half a one is nothing that the prior could see."""
    picture, prior = images.read(colours((24, 32))), lossless()
    assert tasks.Refine().low_pass(prior, (24, 32))(torch.ones(1, 12, 12, 16)).shape == (1, 12, 12, 16)
    (same,) = tasks.Refine(steps=3, factor=2).run(picture, prior).images
    torch.testing.assert_close(same, picture.rgb, atol=1e-5, rtol=0)
    for default, factor, p in ((None, 4, prior), (None, 8, white())):
        a, b = (tasks.Refine(steps=3, factor=f).run(picture, p).images[0] for f in (default, factor))
        assert torch.equal(a, b)
    with pytest.raises(InputError, match="cells of 2 pixels, so give a multiple"):
        tasks.Refine(steps=3, factor=3).run(picture, prior)
    with pytest.raises(InputError, match="more than the 32 x 24 picture"):
        tasks.Refine(steps=3, factor=26).run(picture, prior)


def test_translate_there_and_back():
    """The same prior both ways gives back what the autoencoder does."""
    picture, prior = images.read(colours((24, 32))), lossless()
    (same,) = tasks.Translate(steps=60).run(picture, prior, prior).images
    assert (same - picture.rgb).abs().max() < 0.02


def test_translate_wants_one_autoencoder(priors, tmp_path):
    asked, picture = tasks.Translate(steps=2), images.read(colours())
    with pytest.raises(InputError, match="different autoencoders"):
        asked.run(picture, priors["text"], loaded(saved("sd3", tmp_path)))
    with pytest.raises(InputError, match="different shapes"):
        asked.run(picture, priors["vq"], priors["pixel"])


# ---------------------------------------------------------------- methods and options that do not go together


def test_methods_that_measure_pixels_are_refused_in_inpainting(priors):
    for method in ("dpir", "ddrm"):
        with pytest.raises(InputError, match=f"{method} measures pixels.*inpaint by repaint"):
            result("inpaint", colours(), priors["vq"], method=method)
    with pytest.raises(InputError, match="repaint takes the known pixels as exact"):
        result("inpaint", colours(), priors["vq"], noise_std=0.1)


def test_tiles_of_latents_are_counted_in_pixels_of_the_picture():
    """And have to be a multiple of what the network takes."""
    shapes, prior = [], lossless(multiple=4)
    net = prior.net
    prior.net = lambda x, t: (shapes.append(tuple(x.shape[-2:])), net(x, t))[1]
    tasks.Edit(steps=1, tile=128).run(images.read(colours((40, 300))), None, prior)
    assert set(shapes) == {(20, 64)}
    with pytest.raises(InputError, match="needs a multiple of 24"):
        tasks.Edit(steps=1, tile=128).run(images.read(colours()), None, lossless(multiple=12))


BAD = {
    "a prompt for a prior of pixels": ("pixel", {"prompt": "dog"}, "takes no text: leave the prompt out"),
    "a prompt for classes": ("classes", {"prompt": "dog"}, "takes no text: leave the prompt out"),
    "a label for a text": ("text", {"label": "dog"}, "has no classes: leave the label out"),
    "both": ("text", {"label": "dog", "prompt": "dog"}, "give one"),
    "guidance to nothing": ("text", {"guidance": 3}, "guidance pulls towards a label: give one, or a prompt"),
    "no text": ("text", {"prompt": 3}, "prompt is 3: give a text"),
    "away from nothing": ("text", {"negative_prompt": "dog"}, "give a prompt too"),
    "away without guidance": ("text", {"prompt": "a", "negative_prompt": "dog", "guidance": 1}, "1 is none"),
}


@pytest.mark.parametrize("task", EDITING)
@pytest.mark.parametrize("name", BAD)
def test_conditions_that_do_not_go_together(task, name, priors, no_network):
    kind, options, words = BAD[name]
    with pytest.raises(InputError) as error:
        result(task, colours(), priors[kind], **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", EDITING)
def test_prompts_reach_the_network(task, priors):
    prior, more = priors["text"], {"from_prompt": "cat"} if task == "translate" else {}

    def answer(**options):
        found = result(task, colours(), prior, steps=2, **more, **options)
        return np.asarray(found.images[0], dtype=float), found.info.calls

    (plain, once), (dog, twice), (cat, _) = answer(), answer(prompt="a dog"), answer(prompt="a cat")
    (weak, single), (away, _) = answer(prompt="a dog", guidance=1), answer(prompt="a dog", negative_prompt="a cat")
    (default, _), (empty, one) = answer(prompt="a dog", guidance=7.5), answer(prompt="")
    everything = (plain, dog, cat, weak, away)
    assert all((a != b).any() for i, a in enumerate(everything) for b in everything[:i])
    assert (default == dog).all()
    assert (empty == plain).all()
    assert once == single == one < twice


# ---------------------------------------------------------------- the command line


@pytest.fixture
def desk(tmp_path, priors, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png")
    hole_file(tmp_path / "mask.png")
    return priors["text"].name


def test_prompts_on_the_command_line(desk):
    shared = ("--prior", desk, "--steps", 2, "--prompt", "a dog", "--device", "cpu", "--json")
    told = run("inpaint", "photo.png", "-m", "mask.png", *shared, "--negative-prompt", "cat")
    facts = json.loads(told.stdout)
    assert (facts["method"], facts["calls"]) == ("repaint", 10)
    before, after, mask = pixels("photo.png"), pixels("photo-inpaint.png"), pixels("mask.png")
    assert (before[mask == 0] == after[mask == 0]).all()
    assert json.loads(run("generate", "--size", 20, *shared, "--guidance", 3).stdout)["calls"] == 6
    assert json.loads(run("refine", "photo.png", *shared, "--guidance", 1).stdout)["calls"] == 2
    assert json.loads(run("translate", "photo.png", *shared, "--from-prompt", "cat").stdout)["calls"] == 12


def test_one_line_for_what_does_not_go_together(desk):
    for args, words in (
        (("upscale", "photo.png", "--prior", desk), "measures pixels"),
        (("inpaint", "photo.png", "-m", "mask.png", "--prior", desk, "--method", "ddrm"), "inpaint by repaint"),
        (("edit", "photo.png", "--prompt", "dog"), "takes no text"),
        (("edit", "photo.png", "--negative-prompt", "dog"), "give a prompt too"),
        (("refine", "photo.png", "--prior", desk, "--factor", 3), "cells of 2 pixels"),
    ):
        stderr = run(*args, "--device", "cpu", code=2).stderr
        assert words in stderr
        assert stderr.count("\n") == 1
