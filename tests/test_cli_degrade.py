"""`restore degrade`: one picture, batches, and bad input."""

import json
import os

import numpy as np
import pytest
from command import cut, hole, photo, pixels, run, snapshot
from PIL import Image

from restore.degrade import degrade


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with photo.png and its mask."""
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png")
    hole(tmp_path / "mask.png")
    return tmp_path


def test_all_options_are_those_of_the_library(here):
    result = run(
        "degrade", "photo.png", "-k", "motion:5,20", "-x", 2, "--downscale-method", "average", "--gray", "--sigma", 10,
        "-m", "mask.png", "--jpeg", 40, "--seed", 7,
    )  # fmt: skip
    options = {"kernel": "motion:5,20", "scale": 2, "method": "average", "gray": True, "noise_std": 10 / 255}
    with pytest.warns(UserWarning, match="resized"):
        want = degrade("photo.png", **options, mask="mask.png", jpeg=40, seed=7)
    assert (pixels("photo-degraded.png") == np.asarray(want)).all()
    assert "the mask was resized" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("photo-degraded.png: 0.")
    assert "calls" not in result.stderr
    assert not result.stdout_bytes


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["--kernel", "disk:2"], {"kernel": "disk:2"}),
        (["--scale", 3], {"scale": 3}),
        (["--gray"], {"gray": True}),
        (["--sigma", 25], {"noise_std": 25 / 255}),
        (["--mask", "mask.png"], {"mask": "mask.png"}),
        (["--jpeg", 20], {"jpeg": 20}),
    ],
)
def test_each_option_alone(args, options, here):
    run("degrade", "photo.png", *args, "-o", "o.png")
    assert (pixels("o.png") == np.asarray(degrade("photo.png", **options))).all()


def test_json(here):
    result = run("degrade", "photo.png", "--sigma", 51, "--seed", 2, "-m", "mask.png", "--json", "-q")
    facts = json.loads(result.stdout)
    assert facts.pop("seconds") >= 0
    assert facts == {
        "input": "photo.png", "outputs": ["photo-degraded.png"], "noise_std": 0.2, "mask": "mask.png", "seed": 2,
    }  # fmt: skip
    assert not result.stderr


def test_standard_input_and_output(here):
    result = run("degrade", "-", "--gray", "-o", "-", data=(here / "photo.png").read_bytes())
    run("degrade", "photo.png", "--gray")
    assert result.stdout_bytes == (here / "photo-degraded.png").read_bytes()


def test_a_jpeg_file_is_compressed_as_asked(here):
    photo(here / "a.jpg", (64, 48))
    run("degrade", "a.jpg", "--jpeg", 15)
    Image.open("a.jpg").save("want.jpg", quality=15)
    found, want = Image.open("a-degraded.jpg"), Image.open("want.jpg")
    assert found.quantization == want.quantization
    assert found.layer == want.layer  # the chroma sampling
    run("degrade", "a.jpg", "--gray", "-o", "fine.jpg")
    assert Image.open("fine.jpg").quantization != want.quantization


def test_batches(here):
    for name in ("shots", "shots/sub", "masks", "masks/sub"):
        (here / name).mkdir()
    for k, name in enumerate(["a.png", "b.jpg", "sub/a.png"]):
        photo(here / "shots" / name, seed=k)
    hole(here / "masks" / "a.png")
    hole(here / "masks" / "b.png", where=(slice(0, 4), slice(0, 4)))
    hole(here / "masks" / "sub" / "a.png", where=(slice(20, 28), slice(0, 4)))
    run("degrade", "shots", "-m", "masks", "-o", "out", "--recursive")
    found = sorted(path.relative_to(here / "out").as_posix() for path in (here / "out").rglob("*.*"))
    assert found == ["a.png", "b.jpg", "sub/a.png"]
    assert (pixels("out/sub/a.png") == np.asarray(degrade("shots/sub/a.png", mask="masks/sub/a.png"))).all()
    run("degrade", "shots/a.png", "shots/b.jpg", "--sigma", 9)
    assert (here / "shots" / "b-degraded.jpg").exists()
    assert (pixels("shots/a-degraded.png") == np.asarray(degrade("shots/a.png", noise_std=9 / 255))).all()


def test_one_bad_file_does_not_stop_the_others(here):
    cut(photo(here / "cut.png"))
    photo(here / "small.png", (3, 3))
    photo(here / "last.png", seed=5)
    names = ["cut.png", "small.png", "nope.png", "last.png"]
    result = run("degrade", *names, "-x", 4, "-o", "out", "--json", code=3)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in line for line in lines] == [True, True, True, False]
    assert "too small" in lines[1]["error"]
    assert os.listdir("out") == ["last.png"]
    assert result.stderr.splitlines()[-1] == "restore: error: 3 of 4 pictures failed"


P, G = "photo.png", "--gray"
BAD = {  # name: (what to prepare, arguments, words of the message)
    "nothing to do": (None, [P], ["nothing to do", "kernel", "sigma", "jpeg"]),
    "a sigma of nothing": (None, [P, "--sigma", 0], ["nothing to do"]),
    "missing picture": (None, ["nope.png", G], ["nope.png", "does not exist"]),
    "damaged picture": (lambda d: cut(photo(d / "t.png")), ["t.png", G], ["t.png", "damaged"]),
    "unknown kernel": (None, [P, "-k", "magic:2"], ["magic:2", "gaussian"]),
    "kernel without numbers": (None, [P, "-k", "gaussian:x"], ["gaussian:x"]),
    "missing kernel": (None, [P, "-k", "nope.png"], ["nope.png"]),
    "scale of 1": (None, [P, "-x", 1], ["scale is 1", "from 2 to 16"]),
    "scale of 17": (None, [P, "-x", 17], ["scale is 17"]),
    "half a scale": (None, [P, "-x", 2.5], ["--scale", "integer"]),
    "scale over the picture": (
        lambda d: photo(d / "s.png", (40, 9)),
        ["s.png", "-x", 10],
        ["s.png", "too small", "10"],
    ),
    "unknown method": (None, [P, "-x", 2, "--downscale-method", "no"], ["'no'", "bicubic or average"]),
    "method without scale": (None, [P, G, "--downscale-method", "average"], ["average", "scale"]),
    "negative sigma": (None, [P, "--sigma", -1], ["sigma -1"]),
    "sigma of 255": (None, [P, "--sigma", 255], ["sigma 255"]),
    "missing mask": (None, [P, "-m", "nope.png"], ["nope.png", "does not exist"]),
    "damaged mask": (lambda d: cut(hole(d / "t.png")), [P, "-m", "t.png"], ["t.png", "damaged"]),
    "mask of another shape": (lambda d: hole(d / "w.png", (50, 28)), [P, "-m", "w.png"], ["w.png", "50 x 28"]),
    "no such mask in the folder": (lambda d: (d / "masks").mkdir(), [P, "-m", "masks"], ["no mask named photo"]),
    "quality 0": (None, [P, "--jpeg", 0], ["jpeg is 0", "from 1 to 100"]),
    "quality 101": (None, [P, "--jpeg", 101], ["jpeg is 101"]),
    "negative seed": (None, [P, G, "--seed", -1], ["seed is -1"]),
    "output exists": (lambda d: photo(d / "o.png"), [P, G, "-o", "o.png"], ["o.png exists", "--overwrite"]),
    "default output exists": (lambda d: photo(d / "photo-degraded.png"), [P, G], ["photo-degraded.png exists"]),
    "output of no format": (None, [P, G, "-o", "out.xyz"], ["out.xyz", ".png"]),
    "two pictures to stdout": (None, [P, "mask.png", G, "-o", "-"], ["standard output", "one picture"]),
    "JSON beside a picture": (None, [P, G, "-o", "-", "--json"], ["--json"]),
    "JPEG of transparency": (
        lambda d: Image.new("RGBA", (36, 28), (9, 9, 9, 200)).save(d / "a.png"),
        ["a.png", G, "-o", "o.jpg"],
        ["JPEG", "transparency"],
    ),
    "an empty folder": (lambda d: (d / "none").mkdir(), ["none", G], ["none", "no pictures"]),
    "unknown option": (None, [P, "--magic"], ["--magic", "restore degrade -h"]),
    "no picture given": (None, [G], ["Missing argument", "IMG"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_in_one_line_and_nothing_is_written(name, here):
    prepare, args, words = BAD[name]
    if prepare:
        prepare(here)
    before = snapshot(here)
    result = run("degrade", *args, code=2)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not result.stdout_bytes
    assert snapshot(here) == before


def test_one_bad_option_stops_a_whole_batch(here):
    photo(here / "other.png")
    for option in (["-x", 1], ["--jpeg", 0], ["-k", "magic"], ["--sigma", 300], ["-m", "nope.png"]):
        assert run("degrade", "photo.png", "other.png", "-o", "out", *option, code=2).stderr.count("\n") == 1
    assert not (here / "out").exists()


def test_help_fits_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = run("degrade", "-h").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    options = ["--kernel", "--scale", "--downscale-method", "--gray", "--sigma", "--mask", "--jpeg", "--output"]
    places = [text.index(option) for option in options]
    assert places == sorted(places)  # in the order in which they are applied
