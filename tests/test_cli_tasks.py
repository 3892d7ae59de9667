"""upscale, deblur, denoise, colorize, edit, refine and translate on the command line."""

import io
import json
import os
import re

import numpy as np
import pytest
from command import cut, hole, photo, pixels, run, snapshot
from conftest import save_tiny
from PIL import Image

import restore
from restore import load

SHORT = ["--steps", 2]
VERBS = {  # the least that each needs
    "upscale": ["-x", 2, *SHORT],
    "deblur": ["-k", "gaussian:0.8", *SHORT],
    "denoise": ["--sigma", 20],
    "colorize": SHORT,
    "edit": SHORT,
    "refine": SHORT,
    "translate": SHORT,
}
RANDOM = {  # the method of several samples
    "upscale": "ddrm",
    "deblur": "ddrm",
    "denoise": "ddpm",
    "colorize": "ddrm",
    "edit": "sdedit",
    "refine": "ilvr",
}


@pytest.fixture
def desk(desk, tiny_folder, monkeypatch):
    """The folder is the current one; desk.do(VERB, ...) works with the tiny prior, in few steps."""
    monkeypatch.chdir(desk.here)

    def do(verb, *args, prior=tiny_folder, needs=None, **options):
        needs = VERBS[verb] if needs is None else needs
        return run(verb, *args, "--prior", prior, "--dtype", "float32", *needs, **options)

    desk.do = staticmethod(do)
    return desk


# ---------------------------------------------------------------- one picture


@pytest.mark.parametrize("verb", VERBS)
def test_default_name_report_and_size(verb, desk):
    result = desk.do(verb, "photo.png")
    assert re.fullmatch(rf"photo-{verb}\.png: \d+ calls, \d+\.\d s\n", result.stderr)
    assert not result.stdout_bytes
    assert pixels(f"photo-{verb}.png").shape == ((56, 72, 3) if verb == "upscale" else (28, 36, 3))
    assert (pixels("photo.png") == pixels(photo(desk.here / "same.png"))).all()
    assert f"photo-{verb}.png exists already: give --overwrite" in desk.do(verb, "photo.png", code=2).stderr
    desk.do(verb, "photo.png", "--overwrite")


@pytest.mark.parametrize("verb", VERBS)
def test_standard_input_and_output(verb, desk):
    result = desk.do(verb, "-", "-o", "-", data=desk.photo.read_bytes())
    desk.do(verb, "photo.png", "-o", "o.png")
    assert result.stdout_bytes == (desk.here / "o.png").read_bytes()
    assert result.stderr.startswith("standard output: ")


@pytest.mark.parametrize("verb", VERBS)
def test_formats_and_transparency(verb, desk):
    photo(desk.here / "a.jpg")
    Image.fromarray(np.dstack([pixels("photo.png"), np.full((28, 36), 200, np.uint8)])).save("rgba.png")
    desk.do(verb, "a.jpg", "-o", "o.webp", "-q")
    assert Image.open("o.webp").format == "WEBP"
    desk.do(verb, "rgba.png", "-o", "o.png")
    assert np.abs(pixels("o.png")[..., 3].astype(int) - 200).max() <= 1
    assert "JPEG" in desk.do(verb, "rgba.png", "-o", "o.jpg", code=2).stderr
    assert not os.path.exists("o.jpg")


@pytest.mark.parametrize("verb", VERBS)
def test_json(verb, desk):
    method = ["--method", RANDOM[verb]] if verb in ("upscale", "deblur", "colorize") else []
    result = desk.do(verb, "photo.png", "--json", "--seed", 7, *method)
    facts = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert (facts["input"], facts["outputs"]) == ("photo.png", [f"photo-{verb}.png"])
    known = {"upscale": "ddrm", "deblur": "ddrm", "denoise": "mmse", "colorize": "ddrm", "edit": "sdedit"}
    assert facts["method"] == {**known, "refine": "ilvr", "translate": "heun"}[verb]
    assert (facts["steps"], facts["calls"]) == {"denoise": (1, 1), "translate": (2, 8)}.get(verb, (2, 2))
    assert (facts["seed"], facts["samples"], facts["device"], facts["dtype"]) == (7, 1, facts["device"], "float32")
    assert facts["prior"].endswith("tiny")
    assert facts["seconds"] >= 0


@pytest.mark.parametrize("verb", RANDOM)
def test_samples_are_runs_with_the_next_seeds(verb, desk):
    needs = [*(["--steps", 2] if verb == "denoise" else []), *VERBS[verb]]
    method = [] if verb in ("edit", "refine") else ["--method", RANDOM[verb]]
    result = desk.do(verb, "photo.png", "-o", "o.png", "--samples", 2, "--seed", 5, "--json", needs=needs)
    assert json.loads(result.stdout)["outputs"] == ["o-1.png", "o-2.png"]
    assert json.loads(result.stdout)["method"] == RANDOM[verb]
    for k in (1, 2):
        desk.do(verb, "photo.png", "-o", f"alone-{k}.png", *method, "--seed", 4 + k, needs=needs)
        assert (pixels(f"alone-{k}.png") == pixels(f"o-{k}.png")).all()
    assert (pixels("o-1.png") != pixels("o-2.png")).any()


OPTIONS = {  # verb: (command line, the same in Python); every option, none at its default
    "upscale": (
        ["-x", 3, "--shrunk", "average", "--sigma", 10, "--method", "ddrm", "--strength", 0.3, "--eta", 0.5],
        {"scale": 3, "shrunk": "average", "noise_std": 10 / 255, "method": "ddrm", "strength": 0.3, "eta": 0.5},
    ),
    "deblur": (
        ["-k", "motion:5,30", "--sigma", 10, "--method", "ddrm", "--strength", 0.3, "--eta", 0.5],
        {"kernel": "motion:5,30", "noise_std": 10 / 255, "method": "ddrm", "strength": 0.3, "eta": 0.5},
    ),
    "denoise": (
        ["--sigma", 10, "--method", "ddpm", "--eta", 0.5],
        {"noise_std": 10 / 255, "method": "ddpm", "eta": 0.5},
    ),
    "colorize": (
        ["--sigma", 10, "--method", "ddrm", "--strength", 0.3, "--eta", 0.5],
        {"noise_std": 10 / 255, "method": "ddrm", "strength": 0.3, "eta": 0.5},
    ),
    "edit": (
        ["--strength", 0.3, "-m", "mask.png", "--repeats", 2, "--eta", 0.5, "--feather", 3],
        {"strength": 0.3, "mask": "mask.png", "repeats": 2, "eta": 0.5, "feather": 3},
    ),
    "refine": (
        ["-n", 4, "--stop", 0.05, "--strength", 0.3, "--eta", 0.5],
        {"factor": 4, "stop": 0.05, "strength": 0.3, "eta": 0.5},
    ),
    "translate": (["--method", "ddim"], {"method": "ddim"}),
}


@pytest.mark.parametrize("verb", OPTIONS)
def test_every_option_reaches_the_task(verb, desk, tiny_folder):
    """Pixel by pixel what Python makes of the same options; each of them changes the answer."""
    given, options = OPTIONS[verb]
    shared = {"steps": 3, "seed": 4, "tile": 128}
    desk.do(verb, "photo.png", "-o", "o.png", *given, "--steps", 3, "--seed", 4, "--tile", 128, needs=[])
    prior = load.load_prior(tiny_folder, dtype="float32")

    def made(**options):
        return np.asarray(getattr(restore, verb)("photo.png", prior=prior, **options))

    found = pixels("o.png")
    assert (found == made(**options, **shared)).all()
    for name, default in {"scale": 4, "kernel": "gaussian:2", "method": None}.items():
        if name in options and (name != "method" or verb == "translate"):
            other = made(**{**options, name: default}, **shared)
            assert other.shape != found.shape or (other != found).any(), name
    for name in set(options) - {"scale", "kernel", "method"}:
        assert (made(**{k: v for k, v in options.items() if k != name}, **shared) != found).any(), name


def test_kernels_of_files(desk):
    Image.fromarray(np.array([[0, 255, 0], [255, 255, 255], [0, 255, 0]], np.uint8)).save("kernel.png")
    desk.do("deblur", "photo.png", "-k", "kernel.png", needs=SHORT)
    desk.do("deblur", "photo.png", "-k", "gaussian:0.8", "-o", "o.png", needs=SHORT)
    assert (pixels("photo-deblur.png") != pixels("o.png")).any()


def test_sixteen_bits_and_colours_of_gray(desk):
    deep = np.random.default_rng(0).integers(9000, 50000, (28, 36)).astype(np.uint16)
    Image.fromarray(deep).save("deep.png")
    desk.do("colorize", "deep.png")
    found = restore.images.read("deep-colorize.png")
    assert (found.depth, found.gray) == (16, False)
    assert (found.rgb[:, 0] != found.rgb[:, 2]).any()
    photo(desk.here / "gray.png", mode="L")
    desk.do("colorize", "gray.png")
    assert Image.open("gray-colorize.png").mode == "RGB"
    desk.do("denoise", "gray.png")
    assert Image.open("gray-denoise.png").mode == "L"


def test_nothing_to_do_gives_a_copy_with_a_note(desk, no_network):
    hole(desk.here / "black.png", where=(slice(0), slice(0)))
    for verb, args, words in (
        ("edit", ["--strength", 0], "a strength of 0"),
        ("edit", ["-m", "black.png"], "the mask is empty"),
        ("denoise", ["--sigma", 0], "there is no noise"),
    ):
        result = desk.do(verb, "photo.png", *args, "-o", "o.png", "--overwrite", needs=[])
        assert f"restore: note: photo.png: {words}" in result.stderr
        assert "o.png: 0 calls" in result.stderr
        assert (pixels("o.png") == pixels("photo.png")).all()


def test_edit_keeps_what_is_outside_the_mask(desk):
    desk.do("edit", "photo.png", "-m", "mask.png", "--strength", 0.9)
    before, after, inside = pixels("photo.png"), pixels("photo-edit.png"), pixels("mask.png") > 0
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).mean() > 0.5


def test_quiet_says_nothing(desk):
    for verb in VERBS:
        result = desk.do(verb, "photo.png", "-q")
        assert not result.stderr
        assert not result.stdout_bytes


# ---------------------------------------------------------------- many pictures


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_with_a_bad_picture_in_it(verb, desk):
    shots = desk.here / "shots"
    (shots / "sub").mkdir(parents=True)
    photo(shots / "a.png")
    cut(photo(shots / "b.png"))
    photo(shots / "c.jpg", seed=2)
    photo(shots / "sub" / "d.png", seed=3)
    result = desk.do(verb, "shots", "-o", "out", "--json", code=3)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in line for line in lines] == [False, True, False]
    assert "1 of 3 pictures failed" in result.stderr
    assert sorted(os.listdir("out")) == ["a.png", "c.jpg"]
    desk.do(verb, "shots", "-o", "deep", "--recursive", code=3)
    assert os.path.exists("deep/sub/d.png")


def test_masks_of_edit_by_name(desk):
    (desk.here / "masks").mkdir()
    photo(desk.here / "other.png", seed=2)
    hole(desk.here / "masks" / "photo.png")
    hole(desk.here / "masks" / "other.png", where=(slice(0, 4), slice(0, 4)))
    desk.do("edit", "photo.png", "other.png", "-m", "masks")
    assert (pixels("other-edit.png") != pixels("other.png"))[:4, :4].any()
    assert (pixels("other-edit.png") == pixels("other.png"))[4:].all()
    assert (pixels("photo-edit.png") != pixels("photo.png")).any()


def test_what_one_picture_is_too_small_for(desk):
    """A kernel that is larger, a factor that is: the others of a batch are done."""
    photo(desk.here / "small.png", (6, 5))
    for verb, args, words in (
        ("deblur", ["-k", "uniform:9"], "kernel is 9 x 9, and the picture 6 x 5"),
        ("refine", ["-n", 8], "8 is more than the 6 x 5 picture"),
    ):
        result = desk.do(verb, "small.png", "photo.png", *args, "-o", verb, needs=SHORT, code=3)
        assert words in result.stderr
        assert os.listdir(verb) == ["photo.png"]


def test_priors_are_loaded_once(desk, tiny_folder, monkeypatch):
    loads = []
    monkeypatch.setattr(load, "load_prior", lambda *a, _load=load.load_prior, **k: loads.append(a) or _load(*a, **k))
    photo(desk.here / "other.png", seed=2)
    desk.do("translate", "photo.png", "other.png", "--to", tiny_folder)
    assert len(loads) == 2  # one for each way
    desk.do("upscale", "photo.png", "other.png")
    assert len(loads) == 3


# ---------------------------------------------------------------- translate, labels


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """An untrained prior with classes, which can do without."""
    folder = save_tiny(tmp_path_factory.mktemp("priors") / "animals", num_class_embeds=4)
    (folder / "labels.json").write_text('["cat", "dog", "owl"]')
    return folder


def test_translate_from_one_prior_to_another(desk, animals, tiny_folder):
    desk.do("translate", "photo.png", "--to", animals, "--to-label", "owl", "--json")
    desk.do("translate", "photo.png", "-o", "same.png")
    assert (pixels("photo-translate.png") != pixels("same.png")).any()
    priors = [load.load_prior(folder, dtype="float32") for folder in (tiny_folder, animals)]
    wanted = restore.translate("photo.png", prior=priors[0], to=priors[1], label="owl", steps=2)
    assert (np.asarray(wanted) == pixels("photo-translate.png")).all()


def test_translate_from_one_class_to_another(desk, animals):
    options = ["--from-label", "cat", "--to-label", "dog", "--guidance", 2]
    facts = json.loads(desk.do("translate", "photo.png", *options, "--json", prior=animals).stdout)
    assert facts["calls"] == 2 * 2 * (1 + 2)
    prior = load.load_prior(animals, dtype="float32")
    wanted = restore.translate("photo.png", prior=prior, from_label=0, label=1, guidance=2, steps=2)
    assert (np.asarray(wanted) == pixels("photo-translate.png")).all()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "translate"])
def test_labels(verb, desk, animals):
    calls = {}
    for name, args in {"none": [], "cat": ["--label", "cat"], "0": ["--label", "0"], "owl": ["--label", "owl"]}.items():
        facts = json.loads(desk.do(verb, "photo.png", "-o", f"{name}.png", *args, "--json", prior=animals).stdout)
        calls[name] = facts["calls"]
    guided = desk.do(verb, "photo.png", "-o", "w.png", "--label", "owl", "--guidance", 5, "--json", prior=animals)
    assert json.loads(guided.stdout)["calls"] == 2 * calls["owl"]
    assert (pixels("0.png") == pixels("cat.png")).all()
    assert len({pixels(f"{name}.png").tobytes() for name in ("none", "cat", "owl", "w")}) == 4


# ---------------------------------------------------------------- what is refused


def wrong(name, values):
    return lambda folder: Image.fromarray(np.array(values, np.uint8)).save(folder / name)


P = "photo.png"
BLACK, BIG = wrong("k.png", [[0, 0], [0, 0]]), wrong("k.png", [[255] * 50] * 3)
BAD = {  # name: (what to prepare, verb, arguments, words of the message)
    "scale 0": (None, "upscale", ["-x", 0], ["scale is 0", "from 2 to 16"]),
    "scale 1": (None, "upscale", ["-x", 1], ["scale is 1:"]),
    "scale -2": (None, "upscale", ["-x", -2], ["scale is -2"]),
    "scale 1.5": (None, "upscale", ["-x", 1.5], ["scale is 1.5", "whole number"]),
    "scale nan": (None, "upscale", ["-x", "nan"], ["scale is nan"]),
    "scale inf": (None, "upscale", ["-x", "inf"], ["scale is inf"]),
    "scale in words": (None, "upscale", ["-x", "twice"], ["-x", "number"]),
    "shrunk by lanczos": (None, "upscale", ["--shrunk", "lanczos"], ["lanczos", "bicubic or average"]),
    "no kernel": (None, "deblur", [], ["--kernel"]),
    "gaussian of nothing": (None, "deblur", ["-k", "gaussian:"], ["gaussian takes 1 number"]),
    "gaussian of words": (None, "deblur", ["-k", "gaussian:x"], ["gaussian takes 1 number"]),
    "gaussian of -1": (None, "deblur", ["-k", "gaussian:-1"], ["sigma is -1"]),
    "gaussian of infinity": (None, "deblur", ["-k", "gaussian:inf"], ["sigma is inf"]),
    "motion without angle": (None, "deblur", ["-k", "motion:5"], ["motion takes 2 numbers"]),
    "motion of three": (None, "deblur", ["-k", "motion:5,1,2"], ["motion takes 2 numbers"]),
    "disk of -1": (None, "deblur", ["-k", "disk:-1"], ["radius is -1"]),
    "half a pixel": (None, "deblur", ["-k", "uniform:1.5"], ["whole number"]),
    "unknown kernel": (None, "deblur", ["-k", "foo:3"], ["foo:3", "gaussian:SIGMA"]),
    "missing kernel": (None, "deblur", ["-k", "nope.png"], ["nope.png", "file"]),
    "kernel of nothing": (None, "deblur", ["-k", ""], ["kernel"]),
    "a folder as kernel": (None, "deblur", ["-k", "."], ["kernel"]),
    "kernel that is no picture": (lambda d: (d / "k.png").write_text("hello"), "deblur", ["-k", "k.png"], ["k.png"]),
    "black kernel": (BLACK, "deblur", ["-k", "k.png"], ["k.png", "sum is 0"]),
    "kernel larger than the picture": (BIG, "deblur", ["-k", "k.png"], ["kernel is 50 x 3, and the picture 36 x 28"]),
    "kernel larger by formula": (None, "deblur", ["-k", "disk:15"], ["kernel is 31 x 31"]),
    "kernel beyond memory": (None, "deblur", ["-k", "uniform:100000"], ["larger than 4096"]),
    "mmse in steps": (None, "denoise", ["--steps", 4], ["mmse asks the network once", "ddpm"]),
    "mmse with fresh noise": (None, "denoise", ["--method", "mmse", "--eta", 1], ["mmse draws no noise", "ddpm"]),
    "samples of mmse": (None, "denoise", ["--method", "mmse", "--samples", 2], ["mmse draws no noise", "ddpm"]),
    "edit of 1.5": (None, "edit", ["--strength", 1.5], ["strength is 1.5", "[0, 1]"]),
    "edit of -0.1": (None, "edit", ["--strength", -0.1], ["strength is -0.1", "[0, 1]"]),
    "edit of nan": (None, "edit", ["--strength", "nan"], ["strength is nan"]),
    "no repeats": (None, "edit", ["--repeats", 0], ["repeats is 0"]),
    "negative feather": (None, "edit", ["--feather", -1], ["feather is -1"]),
    "missing mask": (None, "edit", ["-m", "nope.png"], ["nope.png", "does not exist"]),
    "mask of another shape": (lambda d: hole(d / "w.png", (50, 28)), "edit", ["-m", "w.png"], ["w.png", "50 x 28"]),
    "factor 0": (None, "refine", ["-n", 0], ["factor is 0"]),
    "factor 40": (None, "refine", ["-n", 40], ["factor of 40 is more than the 36 x 28 picture"]),
    "stop of 1": (None, "refine", ["--stop", 1], ["stop is 1", "begins at 1"]),
    "stop over strength": (None, "refine", ["--stop", 0.5, "--strength", 0.4], ["stop is 0.5", "begins at 0.4"]),
    "samples of translate": (None, "translate", ["--samples", 2], ["draws no noise", "one answer"]),
    "from a class that is not there": (None, "translate", ["--from-label", "cat"], ["no classes"]),
    "to a class that is not there": (None, "translate", ["--to-label", "cat"], ["no classes"]),
    **{f"{v}: sigma -1": (None, v, ["--sigma", -1], ["sigma -1", "at least 0"]) for v in list(VERBS)[:4]},
    **{f"{v}: sigma 255": (None, v, ["--sigma", 255], ["sigma 255", "less than 1"]) for v in list(VERBS)[:4]},
    **{f"{v}: sigma nan": (None, v, ["--sigma", "nan"], ["nan"]) for v in list(VERBS)[:4]},
    **{
        f"{v}: strength {s}": (None, v, ["--strength", s], [f"strength is {s}", "(0, 1]"])
        for v in ("upscale", "deblur", "colorize", "refine") for s in (0, 1.5, -0.1)
    },
    **{f"{v}: unknown method": (None, v, ["--method", "nope"], ["'nope'"]) for v in [*list(VERBS)[:4], "translate"]},
    **{f"{v}: eta over 1": (None, v, ["--method", "ddrm", "--eta", 1.5], ["eta is 1.5"]) for v in list(VERBS)[:4]},
    "upscale: fresh noise of dpir": (None, "upscale", ["--eta", 1], ["dpir draws no noise"]),
    "colorize: fresh noise of dpir": (None, "colorize", ["--method", "dpir", "--eta", 1], ["dpir draws no noise"]),
    **{f"{v}: eta -1": (None, v, ["--eta", -1], ["eta is -1"]) for v in ("edit", "refine")},
    **{f"{v}: an unknown option": (None, v, ["--magic"], ["--magic", f"restore {v} -h"]) for v in VERBS},
    **{f"{v}: no steps": (None, v, ["--steps", 0], ["steps is 0"]) for v in VERBS},
    **{f"{v}: no samples": (None, v, ["--samples", 0], ["samples is 0"]) for v in ("upscale", "translate")},
    **{f"{v}: negative seed": (None, v, ["--seed", -1], ["seed is -1"]) for v in ("upscale", "translate")},
    **{f"{v}: small tile": (None, v, ["--tile", 8], ["tile", "128"]) for v in ("upscale", "translate")},
    **{f"{v}: unknown device": (None, v, ["--device", "toaster"], ["toaster"]) for v in ("upscale", "translate")},
    **{f"{v}: a label": (None, v, ["--label", "cat"], ["no classes"]) for v in VERBS if v != "translate"},
    **{f"{v}: guidance alone": (None, v, ["--guidance", 2], ["give one"]) for v in VERBS},
    **{f"{v}: missing picture": (None, v, ["nope.png"], ["nope.png", "does not exist"]) for v in VERBS},
    **{f"{v}: no picture": (None, v, [None], ["IMG"]) for v in VERBS},
    **{f"{v}: output of no format": (None, v, ["-o", "o.xyz"], ["o.xyz", ".png"]) for v in VERBS},
    **{f"{v}: JSON beside the picture": (None, v, ["-o", "-", "--json"], ["--json"]) for v in VERBS},
}  # fmt: skip
OWN = {"deblur": ["-k", "gaussian:0.8"]}  # what cannot be left out


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_in_one_line_and_nothing_is_written(name, desk, no_network):
    prepare, verb, args, words = BAD[name]
    if prepare:
        prepare(desk.here)
    before = snapshot(desk.here)
    needs = [] if "-k" in args or "kernel" in words[0] else OWN.get(verb, [])
    picture = [] if "nope.png" in args[:1] or None in args else [P]
    result = desk.do(verb, *picture, *(arg for arg in args if arg is not None), needs=needs, code=2)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not result.stdout_bytes
    assert snapshot(desk.here) == before


LABELS = {
    "unknown": (["--label", "bird"], "no class 'bird': choose one of cat, dog, owl"),
    "a number too high": (["--label", "3"], "no class '3'"),
    "negative guidance": (["--label", "cat", "--guidance", -1], "guidance is -1"),
    "guidance that is no number": (["--label", "cat", "--guidance", "nan"], "guidance is nan"),
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("verb", VERBS)
def test_labels_that_are_refused(verb, name, desk, animals, no_network):
    args, words = LABELS[name]
    if verb == "translate":
        args = ["--to-label", *args[1:]]
    result = desk.do(verb, "photo.png", *args, prior=animals, code=2)
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_priors_that_do_not_go_together(desk, tmp_path_factory, no_network):
    """Other channels, another size, nothing there."""
    here = tmp_path_factory.mktemp("priors")
    channels = save_tiny(here / "latent", in_channels=4, out_channels=4)
    small, large = (save_tiny(here / str(size)) for size in (32, 64))
    for folder in (small, large):
        config = folder / "unet" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": int(folder.name)}))
    before = snapshot(desk.here)
    for to, prior, words, code in (
        (channels, small, "4 channels", 2),
        (small, channels, "4 channels", 2),
        (large, small, "size 32", 2),
        ("nope", small, "no prior 'nope'", 4),
        (small, "nope", "no prior 'nope'", 4),
    ):
        result = desk.do("translate", "photo.png", "--to", to, prior=prior, code=code)
        assert words in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
    for verb in VERBS:
        assert "4 channels" in desk.do(verb, "photo.png", prior=channels, code=2).stderr
    assert snapshot(desk.here) == before


def test_one_bad_option_stops_a_whole_batch(desk, no_network):
    photo(desk.here / "other.png")
    for verb in VERBS:
        result = desk.do(verb, "photo.png", "other.png", "-o", "out", "--steps", 0, needs=OWN.get(verb, []), code=2)
        assert result.stderr.count("\n") == 1
    assert not os.path.exists("out")


def test_nan_stops_and_names_the_step(desk, tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("bad"), change=lambda net: net.conv_out.bias.fill_(float("nan")))
    before = snapshot(desk.here)
    for verb in VERBS:
        result = desk.do(verb, "photo.png", prior=folder, code=1)
        assert result.stderr.startswith("restore: error: step 1")
        assert result.stderr.count("\n") == 1
    assert snapshot(desk.here) == before


def test_the_input_may_be_a_pipe_for_a_picture_of_16_bits(desk):
    file = io.BytesIO()
    Image.fromarray(np.full((12, 10), 30000, np.uint16)).save(file, "PNG")
    data = desk.do("upscale", "-", "-o", "-", data=file.getvalue()).stdout_bytes
    assert restore.images.read(data).depth == 16
    assert Image.open(io.BytesIO(data)).size == (20, 24)
