"""--classifier and --classifier-scale on the command line, in every command."""

import json
import os
import shutil

import numpy as np
import pytest
from classifying import save_classifier
from command import hole, photo, pixels, run, snapshot
from conftest import save_tiny

import restore
from restore import load
from restore.tasks import conditions

VERBS = {
    "inpaint": ["-m", "mask.png", "--steps", 2],
    "upscale": ["-x", 2, "--steps", 2],
    "deblur": ["-k", "gaussian:0.8", "--steps", 2],
    "denoise": ["--sigma", 20],
    "colorize": ["--steps", 2],
    "edit": ["--steps", 2],
    "refine": ["--steps", 2],
    "translate": ["--steps", 2],
    "generate": ["--size", 16, "--steps", 2],
}


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("classifiers") / "animals")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a picture and a mask, the current one."""
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png")
    hole(tmp_path / "mask.png")
    return tmp_path


def label(verb, name="owl"):
    return ["--to-label" if verb == "translate" else "--label", name]


def do(verb, *args, prior, picture="photo.png", **options):
    pictures = [] if verb == "generate" else [picture]
    return run(verb, *pictures, "--prior", prior, "--dtype", "float32", *VERBS[verb], *args, **options)


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_takes_a_classifier(verb, here, animals, tiny_folder):
    """Which changes the answer, by its scale; the report names it, and calls are the prior's."""
    do(verb, "-o", "plain.png", prior=tiny_folder)
    guided = ["--classifier", animals, *label(verb)]
    facts = json.loads(do(verb, "-o", "one.png", *guided, "--json", prior=tiny_folder).stdout)
    plain = json.loads(do(verb, "-o", "again.png", "--json", prior=tiny_folder).stdout)
    assert facts["classifier"] == str(animals)
    assert "classifier" not in plain
    assert facts["calls"] == plain["calls"]
    do(verb, "-o", "much.png", *guided, "--classifier-scale", 300, prior=tiny_folder)
    do(verb, "-o", "none.png", *guided, "--classifier-scale", 0, prior=tiny_folder)
    assert (pixels("none.png") == pixels("plain.png")).all()
    assert (pixels("much.png") != pixels("plain.png")).any()


def test_it_is_what_python_makes(here, animals, tiny_folder):
    do("edit", "-o", "o.png", "--classifier", animals, "--classifier-scale", 200, *label("edit"), prior=tiny_folder)
    options = {"label": "owl", "classifier": str(animals), "classifier_scale": 200, "steps": 2}
    prior = load.load_prior(tiny_folder, dtype="float32")
    assert (pixels("o.png") == np.asarray(restore.edit("photo.png", prior=prior, **options))).all()
    for more in (
        {"label": "cat"},
        {"classifier_scale": None},
        {"classifier": None, "classifier_scale": None, "label": None},
    ):
        assert (pixels("o.png") != np.asarray(restore.edit("photo.png", prior=prior, **{**options, **more}))).any()


@pytest.mark.parametrize("verb", ["edit", "denoise", "inpaint"])
def test_it_is_loaded_once_for_all_pictures(verb, here, animals, tiny_folder, monkeypatch):
    seen, plain = [], conditions.load_classifier
    monkeypatch.setattr(conditions, "load_classifier", lambda *a, **options: seen.append(a) or plain(*a, **options))
    (here / "in").mkdir()
    for k in range(3):
        photo(here / "in" / f"{k}.png", seed=k)
    do(verb, "--classifier", animals, *label(verb), "-o", "out", prior=tiny_folder, picture="in")
    assert len(os.listdir("out")) == 3
    assert seen == [(str(animals),)]


def test_a_bundled_name(here, animals, tiny_folder, monkeypatch):
    bundled = {"prior": {"tiny": tiny_folder}, "classifier": {"animals": animals}}
    monkeypatch.setattr(load, "bundled", lambda kind="prior": bundled[kind])
    result = do("generate", "--classifier", "animals", "--label", "cat", "--json", prior="tiny")
    assert json.loads(result.stdout)["classifier"] == "animals"
    assert "no classifier 'tiny': give a bundled name (animals)" in do(
        "generate", "--classifier", "tiny", "--label", "cat", "--overwrite", prior="tiny", code=4
    ).stderr  # fmt: skip


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """A prior with classes, one of which the classifier has too."""
    folder = save_tiny(tmp_path_factory.mktemp("priors") / "birds", num_class_embeds=4)
    (folder / "labels.json").write_text('["owl", "tit", "jay"]')
    return folder


def test_with_classifier_free_guidance(here, animals, birds):
    """0 is the prior without a class, for one call a step."""
    guided, calls = ["--classifier", animals, *label("edit")], {}
    for name in ("0", "1", "3"):
        result = do("edit", "-o", f"{name}.png", *guided, "--guidance", name, "--json", prior=birds)
        calls[name] = json.loads(result.stdout)["calls"]
    assert calls == {"0": 2, "1": 2, "3": 4}
    do("edit", "-o", "free.png", "--classifier", animals, *label("edit"), prior=birds)
    assert (pixels("free.png") == pixels("1.png")).all()
    assert len({pixels(f"{name}.png").tobytes() for name in calls}) == 3


BAD = {
    "no label": (["--classifier", "ANIMALS"], 2, "a classifier pulls towards a label: give one"),
    "a scale alone": (["--classifier-scale", 2], 2, "classifier_scale is for a classifier: give one"),
    "a negative scale": (
        ["--classifier", "ANIMALS", "--label", "cat", "--classifier-scale", -1], 2, "classifier_scale is -1"
    ),
    "a scale in words": (
        ["--classifier", "ANIMALS", "--label", "cat", "--classifier-scale", "much"], 2, "--classifier-scale"
    ),
    "unknown label": (["--classifier", "ANIMALS", "--label", "bird"], 2, "'bird': choose one of cat, dog, owl"),
    "guidance of no class": (
        ["--classifier", "ANIMALS", "--label", "cat", "--guidance", 2], 2, "has no classes: leave guidance out"
    ),
    "nothing there": (["--classifier", "nope", "--label", "cat"], 4, "no classifier 'nope': give a bundled name"),
    "an empty name": (["--classifier", "", "--label", "cat"], 4, "no diffusers folder of a classifier"),
    "a prior": (["--classifier", "PRIOR", "--label", "cat"], 4, "this is a prior"),
    "a file": (["--classifier", "photo.png", "--label", "cat"], 2, "is a file: give the diffusers folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("verb", ["edit", "generate", "inpaint"])
def test_bad_input_is_said_in_one_line_and_nothing_is_written(verb, name, here, animals, tiny_folder, no_network):
    args, code, words = BAD[name]
    before = snapshot(here)
    args = [{"ANIMALS": animals, "PRIOR": tiny_folder}.get(arg, arg) for arg in args]
    result = do(verb, *args, prior=tiny_folder, code=code)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr
    assert snapshot(here) == before


def test_classes_of_the_one_alone(here, animals, birds, no_network):
    for name in ("tit", "cat"):
        result = do("edit", "--classifier", animals, "--label", name, prior=birds, code=2)
        assert (
            f"no class '{name}' in common: choose one that is in owl, tit, jay, and in cat, dog, owl" in result.stderr
        )


def test_what_is_missing_or_damaged_stops_a_batch(here, animals, tiny_folder):
    """As a prior does; a picture would be passed over."""
    (here / "in").mkdir()
    for k in range(2):
        photo(here / "in" / f"{k}.png")
    args = ["-o", "out", "--label", "cat", "--classifier"]
    result = do("edit", *args, "nope", prior=tiny_folder, picture="in", code=4)
    assert result.stderr.count("\n") == 1
    damaged = shutil.copytree(animals, here / "damaged")
    (damaged / "net" / "config.json").write_text("{")
    result = do("edit", *args, damaged, prior=tiny_folder, picture="in", code=2)
    assert result.stderr.count("\n") == 1
    assert "config.json: not a readable JSON file" in result.stderr
    assert not os.path.exists("out")
