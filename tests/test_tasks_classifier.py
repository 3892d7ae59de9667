"""Classifier guidance through every task: exact on three classes of Gaussians, whose noisy classifier is known."""

from dataclasses import replace

import pytest
import torch
from classifying import LABELS, alone, exact, save_classifier, together
from tasking import METHODS, RANDOM, REQUESTS, classes, colours, made, request, result, white
from test_tasks_labels import same

import restore
from restore.errors import InputError, PriorError
from restore.latents import Latents
from restore.levels import cosine, linear
from restore.prior import Prior
from restore.tasks import Denoise, Edit, Generate, conditions
from restore.tasks.conditions import Guide

TOLERANCE = 5e-4  # float32 networks, at times that are rounded to float32


def close(task, a, b):
    return same(a, b, TOLERANCE if task != "generate" else 1.01 / 255)


def of_class(task, method, k):
    """The answer of the prior of one class alone; `translate` comes from all three."""
    if task == "translate":
        asked = request(task, method=method)
        return asked.run(restore.images.read(colours()), together(), alone(k)).images[0]
    return made(task, colours(), alone(k), method=method)


# ---------------------------------------------------------------- Bayes


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_a_prior_without_classes_becomes_that_of_the_class(task, method):
    """p(x) p(y | x) is p(x | y): the prior on linear betas, the classifier on the cosine table."""
    for k, label in enumerate(LABELS):
        found = made(task, colours(), together(), method=method, label=label, classifier=exact())
        assert close(task, found, of_class(task, method, k))
    assert not close(task, found, made(task, colours(), together(), method=method))


def test_the_table_of_the_classifier_does_not_matter():
    tables = (linear(1000), linear(300), cosine(4000), cosine(250))
    answers = [made("edit", colours(), together(), label="owl", classifier=exact(schedule=table)) for table in tables]
    assert all(same(answer, answers[0], TOLERANCE) for answer in answers)


@pytest.mark.parametrize(("task", "method"), METHODS)
def test_guidance_0_leaves_the_pull_to_the_classifier(task, method):
    """A prior with classes, at no class, for one call a step."""
    options = {"method": method, "label": "owl", "classifier": exact(), "guidance": 0}
    told, prior = [], together(LABELS)
    found = result(task, colours(), prior, told.append, **options)
    assert close(task, found.images[0], of_class(task, method, 2))
    plain = result(task, colours(), together(), method=method).info.calls
    assert plain == found.info.calls == told[-1].done == told[-1].total == len(prior.net.told)


@pytest.mark.parametrize("scale", [0, 0.5, 2])
@pytest.mark.parametrize("guidance", [None, 1, 0, 1.5])
def test_a_classifier_adds_to_classifier_free_guidance(scale, guidance):
    """The exact classifier is the implicit one (Ho and Salimans 2022, section 3.2), so that the two scales add up."""
    free = (1 if guidance is None else guidance) + scale
    for task in ("edit", "denoise", "upscale", "refine", "inpaint"):
        options = {"guidance": guidance, "classifier": exact(), "classifier_scale": scale}
        found = made(task, colours(), together(LABELS), label="dog", **options)
        assert close(task, found, made(task, colours(), together(LABELS), label="dog", guidance=free)), task


def test_the_default_scale_is_1():
    options = {"label": "cat", "classifier": exact()}
    answers = [made("edit", colours(), together(), **options, **more) for more in ({}, {"classifier_scale": 1.0})]
    assert same(*answers)


def test_guidance_0_is_the_unconditional_prior_without_a_classifier_too():
    prior = classes(null=-0.1)
    found = result("edit", colours(), prior, label="owl", guidance=0)
    assert same(found.images[0], made("edit", colours(), white(-0.1, 0.3)))
    assert found.info.calls == len(prior.net.told) == 3


def test_translate_is_guided_on_the_way_to_the_label():
    """From one class to another: what differs is their means."""
    prior, image = together(LABELS), colours()
    options = {"from_label": "owl", "label": "dog", "guidance": 0, "classifier": exact(), "steps": 80}
    mean = prior.net.means(image)
    expected = image + (mean[1] - mean[2]) / 2
    assert expected.min() > 0
    assert (made("translate", image, prior, **options) - expected).abs().max() < 2e-3


# ---------------------------------------------------------------- the classifier of a run


@pytest.fixture
def counted(monkeypatch):
    """How often a classifier is loaded, and how."""
    seen, plain = [], conditions.load_classifier

    def load(source, **options):
        seen.append((str(source), options))
        return plain(source, **options)

    monkeypatch.setattr(conditions, "load_classifier", load)
    return seen


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("classifiers") / "animals")


@pytest.mark.parametrize("asked", [
    Edit(label="owl", classifier="", steps=2), Denoise(label="owl", classifier="", method="ddpm", steps=2)
], ids=["edit", "denoise"])  # fmt: skip
def test_loaded_once_for_many_pictures(asked, animals, counted):
    """`denoise` makes itself anew for each picture, as it estimates the noise."""
    asked = replace(asked, classifier=animals)
    prior = Prior(white().net, schedule=linear(), dtype=torch.bfloat16)
    for seed in range(3):
        picture = restore.images.read(colours(seed=seed))
        info = asked.run(*((picture, None, prior) if isinstance(asked, Edit) else (picture, prior))).info
        assert info.classifier == info.as_dict()["classifier"] == str(animals)
    assert counted == [(str(animals), {"device": "cpu", "dtype": "bfloat16"})]


def test_the_report_names_the_classifier_only_if_there_is_one():
    assert "classifier" not in result("edit", colours(), white()).info.as_dict()
    assert result("edit", colours(), white(), label=1, classifier=exact(name="mine")).info.classifier == "mine"


def test_by_name_folder_or_object(animals):
    options = {"prior": white(), "label": "dog", "size": 16, "steps": 2}
    wanted = restore.generate(classifier=restore.load_classifier(animals, device="cpu", dtype="float32"), **options)
    assert same(restore.generate(classifier=str(animals), **options), wanted)
    assert same(restore.generate(classifier=animals, **options), wanted)
    assert not same(restore.generate(classifier=animals, classifier_scale=50, **options), wanted)


@pytest.mark.parametrize(("task", "method"), RANDOM)
def test_samples_are_runs_with_the_next_seeds(task, method):
    options = {"method": method, "label": "dog", "classifier": exact()}
    both = result(task, colours(), together(), samples=2, seed=4, **options).images
    assert same(both[1], made(task, colours(), together(), seed=5, **options))


# ---------------------------------------------------------------- what does not fit


NAMED = together(("owl", "cat", "dog"))
BAD = {
    "no label": (white(), {"classifier": exact()}, "a classifier pulls towards a label: give one"),
    "a scale alone": (white(), {"classifier_scale": 2}, "classifier_scale is for a classifier: give one"),
    "a scale alone, and a label": (classes(), {"label": 0, "classifier_scale": 2}, "classifier_scale is for a class"),
    "a negative scale": (white(), {"label": 0, "classifier": exact(), "classifier_scale": -1}, "scale is -1"),
    "an endless scale": (
        white(), {"label": 0, "classifier": exact(), "classifier_scale": float("inf")}, "classifier_scale is inf"
    ),
    "a scale in words": (white(), {"label": 0, "classifier": exact(), "classifier_scale": "2"}, "scale is '2'"),
    "an unknown label": (white(), {"label": "bird", "classifier": exact()}, "no class 'bird': choose one of cat"),
    "a number too high": (white(), {"label": 3, "classifier": exact()}, "the classifier 'custom' has no class '3'"),
    "guidance of no class": (white(), {"label": 0, "classifier": exact(), "guidance": 2}, "has no classes: leave guid"),
    "no way without a class": (classes(), {"label": 0, "classifier": exact(), "guidance": 0}, "with a label always"),
    "no classifier": (white(), {"label": 0, "classifier": 7}, "classifier is 7: give a name, a folder or a Classifier"),
    "a class of the prior alone": (
        together(LABELS), {"label": "owl", "classifier": exact(("cat", "dog"))}, "in cat, dog, owl, and in cat, dog"
    ),
    "a class of the classifier alone": (
        classes((0.1, 0.2), labels=("tit", "jay")), {"label": "owl", "classifier": exact()},
        "the prior 'classes' and the classifier 'custom' have no class 'owl' in common: choose one that is in tit, jay",
    ),
    "numbers of the one alone": (
        classes((0.1, 0.2), labels=2), {"label": "owl", "classifier": exact()}, "in 0 to 1, and in cat, dog, owl"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("task", REQUESTS)
def test_what_does_not_fit_is_refused_before_any_work(task, name, no_network):
    prior, options, words = BAD[name]
    more = {"from_label": 0} if task == "translate" and prior.labels else {}
    with pytest.raises(InputError) as error:
        made(task, colours(), prior, **options, **more)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_agree_by_name_where_both_have_names_else_by_number():
    for prior, classifier, label, wanted in (
        (NAMED, exact(), "owl", (2, 0)),
        (NAMED, exact(), 2, (2, 0)),
        (classes(labels=3), exact(), "owl", (2, 2)),
        (NAMED, exact(3), "owl", (0, 0)),
        (classes(labels=3), exact(3), "1", (1, 1)),
        (white(), exact(), "dog", (1, None)),
    ):
        assert conditions.agreed(prior, classifier, label) == wanted


def test_what_is_not_there_or_does_not_look_at_pixels(tmp_path, no_network):
    asked = {"label": "owl", "prior": white(), "size": 16}
    with pytest.raises(PriorError, match="no classifier 'nowhere': give a bundled name"):
        restore.generate(classifier="nowhere", **asked)
    with pytest.raises(PriorError, match="no diffusers folder of a classifier"):
        restore.generate(classifier=tmp_path, **asked)
    latent = white()
    latent.codec = Latents(torch.nn.Identity(), factor=1, channels=3)
    with pytest.raises(InputError, match="does not work on pixels"):
        Guide(exact()).beside(latent)
    elsewhere = exact()
    elsewhere.net = torch.nn.Linear(1, 1, device="meta")
    with pytest.raises(InputError, match="the prior on cpu, the classifier on meta: load both on one device"):
        Guide(elsewhere).beside(white())


@pytest.mark.parametrize("size", [(20, 28), (16, 16)])
def test_tiles_and_sides_of_no_multiple(size, animals):
    """The classifier mirrors what it needs; under tiles it looks at each tile."""
    asked = Generate(label="owl", classifier=animals, size=size, steps=2)
    assert asked.run(white()).images[0].size == size[::-1]
    tiled = Generate(label="owl", classifier=animals, size=(200, 136), steps=1, method="ddim", tile=128)
    assert tiled.run(white()).info.calls == 1
