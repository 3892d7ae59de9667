"""generate on the command line."""

import io
import json
import os

import numpy as np
import pytest
from command import pixels, run, snapshot
from conftest import save_tiny
from PIL import Image

import restore
from restore import load


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def do(here, tiny_folder):
    """do(...): generate with the tiny prior, small and in few steps."""

    def generate(*args, prior=tiny_folder, small=("--size", 16, "--steps", 2), **options):
        return run("generate", "--prior", prior, "--dtype", "float32", *small, *args, **options)

    return generate


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """An untrained prior with classes, which can do without."""
    folder = save_tiny(tmp_path_factory.mktemp("priors") / "animals", num_class_embeds=4)
    (folder / "labels.json").write_text('["cat", "dog", "owl"]')
    return folder


def test_default_name_and_report(do):
    result = do()
    assert result.stderr.startswith("generate.png: 3 calls, ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout_bytes
    assert pixels("generate.png").shape == (16, 16, 3)
    assert "generate.png exists already: give --overwrite" in do(code=2).stderr
    do("--overwrite")


def test_a_file_or_standard_output(do, here):
    do("-o", "o.webp")
    assert Image.open("o.webp").format == "WEBP"
    result = do("-o", "-")
    do("-o", "o.png")
    assert result.stdout_bytes == (here / "o.png").read_bytes()
    assert result.stderr.startswith("standard output: 3 calls, ")
    assert not do("-q", "-o", "quiet.png").stderr


@pytest.mark.parametrize(
    ("size", "shape"), [("24", (24, 24)), ("32x24", (32, 24)), ("9X13", (9, 13)), (None, (40, 40))]
)
def test_sizes(size, shape, do, here):
    """WIDTHxHEIGHT; without it the size that the prior was trained on."""
    folder = save_tiny(here / "prior")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 40}))
    do("--steps", 1, *(["--size", size] if size else []), prior=folder, small=())
    assert Image.open("generate.png").size == shape


def test_samples_are_runs_with_the_next_seeds(do):
    result = do("--samples", 3, "--seed", 5, "-o", "o.png", "--json")
    names = ["o-1.png", "o-2.png", "o-3.png"]
    assert json.loads(result.stdout)["outputs"] == names
    assert not os.path.exists("o.png")
    for k, name in enumerate(names):
        do("--seed", 5 + k, "-o", f"alone-{k}.png")
        assert (pixels(f"alone-{k}.png") == pixels(name)).all()
    assert len({pixels(name).tobytes() for name in names}) == 3


def test_json(do):
    for method, steps, calls in (("heun", 3, 5), ("ddim", 3, 3), ("ddpm", 2, 2)):
        result = do("--method", method, "--steps", steps, "--json", "--overwrite", "--seed", 7)
        facts = json.loads(result.stdout)
        assert result.stdout.count("\n") == 1
        assert (facts["input"], facts["outputs"]) == ("generate", ["generate.png"])
        assert (facts["method"], facts["steps"], facts["calls"], facts["seed"]) == (method, steps, calls, 7)
        assert (facts["samples"], facts["dtype"]) == (1, "float32")
        assert facts["prior"].endswith("tiny")
        assert facts["seconds"] >= 0
    assert json.loads(do("-o", "other.png", "--json").stdout)["method"] == "heun"


def test_every_option_reaches_the_task(do, animals):
    given = ["--size", "24x16", "--method", "ddim", "--eta", 0.5, "--label", "owl", "--guidance", 3, "--seed", 2]
    do(*given, prior=animals)
    prior = load.load_prior(animals, dtype="float32")
    options = {"size": (16, 24), "method": "ddim", "eta": 0.5, "label": 2, "guidance": 3, "seed": 2, "steps": 2}
    found = pixels("generate.png")
    assert (found == np.asarray(restore.generate(prior=prior, **options))).all()
    for name in ("eta", "label", "guidance", "seed", "steps"):
        less = {k: v for k, v in options.items() if k != name and (name, k) != ("label", "guidance")}
        assert (found != np.asarray(restore.generate(prior=prior, **less))).any(), name


def test_labels(do, animals):
    for name in ("cat", "0", "owl"):
        do("--label", name, "-o", f"{name}.png", prior=animals)
    do("-o", "none.png", prior=animals)
    assert (pixels("0.png") == pixels("cat.png")).all()
    assert len({pixels(f"{name}.png").tobytes() for name in ("cat", "owl", "none")}) == 3


BAD = {
    "size 3": (["--size", "3"], ["size is 3", "at least 8"]),
    "size 0": (["--size", "0"], ["size is 0"]),
    "a side of 3": (["--size", "64x3"], ["size is (3, 64)"]),
    "size axb": (["--size", "axb"], ["'axb'", "WIDTHxHEIGHT"]),
    "half a size": (["--size", "64x"], ["'64x'"]),
    "three sides": (["--size", "8x8x8"], ["'8x8x8'"]),
    "a negative size": (["--size", "-64"], ["'-64'"]),
    "a size beyond memory": (["--size", "9999999"], ["size is 9999999", "million pixels"]),
    "unknown method": (["--method", "nope"], ["'nope'", "heun, ddim, ddpm"]),
    "fresh noise of heun": (["--eta", 0.5], ["heun", "ddim or ddpm"]),
    "eta over 1": (["--method", "ddpm", "--eta", 1.5], ["eta is 1.5"]),
    "no steps": (["--steps", 0], ["steps is 0"]),
    "no samples": (["--samples", 0], ["samples is 0"]),
    "negative seed": (["--seed", -1], ["seed is -1"]),
    "small tile": (["--tile", 8], ["tile", "128"]),
    "unknown device": (["--device", "toaster"], ["toaster"]),
    "a label": (["--label", "cat"], ["no classes"]),
    "guidance alone": (["--guidance", 2], ["give one"]),
    "output of no format": (["-o", "o.xyz"], ["o.xyz", ".png"]),
    "output into nowhere": (["-o", "no/where.png"], ["no/where.png", "does not exist"]),
    "a folder as output": (["-o", "."], ["folder"]),
    "samples to standard output": (["-o", "-", "--samples", 2], ["standard output", "one sample"]),
    "JSON beside the picture": (["-o", "-", "--json"], ["--json"]),
    "a picture": (["photo.png"], ["photo.png"]),
    "unknown option": (["--magic"], ["--magic", "restore generate -h"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_in_one_line_and_nothing_is_written(name, do, here, no_network):
    args, words = BAD[name]
    result = do(*args, code=2)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not result.stdout_bytes
    assert not snapshot(here)


def test_labels_and_priors_that_are_refused(do, here, animals, tiny_folder, tmp_path_factory, no_network):
    latent = save_tiny(tmp_path_factory.mktemp("priors") / "latent", in_channels=4, out_channels=4)
    for args, prior, words, code in (
        (["--label", "bird"], animals, "no class 'bird': choose one of cat, dog, owl", 2),
        (["--label", "3"], animals, "no class '3'", 2),
        (["--label", "cat", "--guidance", -1], animals, "guidance is -1", 2),
        ([], latent, "4 channels", 2),
        ([], "nope", "no prior 'nope'", 4),
    ):
        result = do(*args, prior=prior, code=code)
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    assert not snapshot(here)


def test_nan_stops_and_names_the_step(do, here, tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("bad"), change=lambda net: net.conv_out.bias.fill_(float("nan")))
    assert do(prior=folder, code=1).stderr.startswith("restore: error: step 1")
    assert not snapshot(here)


def test_a_sample_can_go_on_to_another_command(do, tiny_folder):
    data = do("-o", "-").stdout_bytes
    options = ["--prior", tiny_folder, "--steps", 1, "-o", "-"]
    large = run("upscale", "-", "-x", 2, *options, data=data).stdout_bytes
    assert Image.open(io.BytesIO(large)).size == (32, 32)
