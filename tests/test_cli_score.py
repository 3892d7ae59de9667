"""`restore score`: two pictures, two folders, LPIPS, and bad input."""

import json
import re

import numpy as np
import pytest
from command import cut, photo, pixels, run, snapshot
from PIL import Image
from test_metrics import save_pair, weights  # noqa: F401 - a fixture

from restore.metrics import LPIPS
from restore.metrics import score as compare


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a.png, b.png and the folders one/ and two/, of which x and y have partners."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for k, name in enumerate(["a.png", "b.png", "one/x.png", "one/y.png", "two/x.png", "two/y.bmp"]):
        photo(tmp_path / name, seed=k)
    return tmp_path


def facts(*args, **options):
    return [
        json.loads(line, parse_constant=pytest.fail)
        for line in run("score", *args, "--json", **options).stdout.splitlines()
    ]


# ---------------------------------------------------------------- two pictures


def test_one_line_for_two_pictures(here):
    result = run("score", "a.png", "b.png")
    want = compare("a.png", "b.png")
    assert result.stdout == f"a.png  PSNR {float(want.psnr):.2f} dB  SSIM {float(want.ssim):.4f}\n"
    assert not result.stderr


def test_json_of_two_pictures(here):
    want = compare("a.png", "b.png", crop=3, y_only=True)
    assert facts("a.png", "b.png", "--crop", 3, "--luma") == [
        {"a": "a.png", "b": "b.png", "psnr": float(want.psnr), "ssim": float(want.ssim), "crop": 3, "luma": True}
    ]


def test_equal_pictures_are_inf_and_null(here):
    assert run("score", "a.png", "a.png").stdout == "a.png  PSNR   inf dB  SSIM 1.0000\n"
    (found,) = facts("a.png", "a.png")
    assert (found["psnr"], found["ssim"]) == (None, 1)


def test_standard_input_is_one_of_the_two(here):
    data = (here / "a.png").read_bytes()
    assert run("score", "-", "b.png", data=data).stdout.startswith("b.png  PSNR")
    (found,) = facts("b.png", "-", data=data)
    assert (found["a"], found["b"]) == ("b.png", "standard input")
    assert found["psnr"] == float(compare("a.png", "b.png").psnr)


def test_transparency_is_noted(here):
    rgba = np.dstack([pixels("a.png"), np.full((28, 36), 90, np.uint8)])
    Image.fromarray(rgba).save("rgba.png")
    result = run("score", "a.png", "rgba.png")
    assert result.stdout.startswith("a.png  PSNR   inf dB")
    assert result.stderr == "restore: note: a.png and rgba.png differ in transparency: it is left out\n"
    assert not run("score", "a.png", "rgba.png", "-q").stderr


def test_lpips(here, weights):  # noqa: F811
    paths = save_pair(here, weights)
    for name, seed in (("c.png", 7), ("d.png", 8)):
        photo(here / name, size=(40, 36), seed=seed)
    want = compare("c.png", "d.png", crop=1, lpips=LPIPS.from_files(*paths))
    args = ["score", "c.png", "d.png", "--crop", 1, "--lpips", *paths, "--device", "cpu"]
    assert run(*args).stdout.endswith(f"  SSIM {float(want.ssim):.4f}  LPIPS {float(want.lpips):.4f}\n")
    assert json.loads(run(*args, "--json").stdout)["lpips"] == float(want.lpips)


# ---------------------------------------------------------------- folders


def test_folders_are_matched_by_name(here):
    lines = run("score", "one", "two").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["x", "y", "mean"]
    assert len({line.index("PSNR") for line in lines}) == 1
    x, y, mean = facts("one", "two")
    assert (x["a"], x["b"], y["b"]) == ("one/x.png", "two/x.png", "two/y.bmp")
    assert x["psnr"] == float(compare("one/x.png", "two/x.png").psnr)
    assert mean["pairs"] == 2
    for key in ("psnr", "ssim"):
        assert mean[key] == pytest.approx((x[key] + y[key]) / 2)


def test_lines_fit_a_terminal(here):
    for name in ("one", "two"):
        photo(here / name / f"{'long' * 20}.png")
    lines = run("score", "one", "two").stdout.splitlines()
    assert lines[0].startswith("...")
    assert lines[0].split()[0].endswith("longlong")
    assert 70 < max(map(len, lines)) <= 80
    assert len({line.index("PSNR") for line in lines}) == 1


def test_folders_below(here):
    for name in ("one", "two"):
        (here / name / "sub").mkdir()
        photo(here / name / "sub" / "x.png", seed=9)
    assert facts("one", "two", "--recursive")[0]["psnr"] is None
    assert run("score", "one", "two", "--recursive").stdout.startswith("sub/x  PSNR   inf")
    assert len(facts("one", "two")) == 3


def test_what_fails_is_named_and_the_rest_is_scored(here):
    photo(here / "one" / "alone.png")
    photo(here / "two" / "other.png")
    photo(here / "one" / "small.png", size=(12, 12))
    photo(here / "two" / "small.png")
    cut(photo(here / "one" / "cut.png"))
    photo(here / "two" / "cut.png")
    result = run("score", "one", "two", code=3)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["x", "y", "mean"]
    said = result.stderr.splitlines()
    assert said[0] == "restore: error: one/alone.png: no picture named alone.* in two"
    assert "one/cut.png cannot be decoded" in said[1]
    assert said[2] == "restore: error: two/other.png: no picture named other.* in one"
    assert "one/small.png is 12 x 12, two/small.png is 36 x 28" in said[3]
    assert said[4:] == ["restore: error: 4 of 6 pictures failed"]
    lines = facts("one", "two", code=3)
    assert ["error" in line for line in lines] == [True, True, True, True, False, False, False]
    assert (lines[0]["a"], lines[0]["b"]) == ("one/alone.png", None)
    assert (lines[2]["a"], lines[2]["b"]) == (None, "two/other.png")
    assert lines[-1]["pairs"] == 2
    assert lines[-1]["psnr"] == pytest.approx((lines[4]["psnr"] + lines[5]["psnr"]) / 2)


def test_no_mean_of_nothing(here):
    for name in ("x.png", "y.png"):
        photo(here / "one" / name, size=(9, 9))
    result = run("score", "one", "two", code=3)
    assert not result.stdout
    assert result.stderr.count("\n") == 3


# ---------------------------------------------------------------- bad input

A, B = "a.png", "b.png"
BAD = {  # name: (what to prepare, arguments, words of the message)
    "missing": (None, [A, "nope.png"], ["nope.png", "does not exist"]),
    "damaged": (lambda d: cut(photo(d / "t.png")), ["t.png", B], ["t.png", "damaged"]),
    "sizes": (lambda d: photo(d / "s.png", (20, 20)), [A, "s.png"], ["a.png is 36 x 28", "s.png is 20 x 20"]),
    "small": (lambda d: photo(d / "s.png", (9, 36)), ["s.png", "s.png"], ["s.png: SSIM", "11 x 11", "9 x 36"]),
    "crop": (None, [A, B, "--crop", 14], ["a.png: cannot crop 14", "36 x 28"]),
    "negative crop": (None, [A, B, "--crop", -1], ["--crop is -1"]),
    "crop of text": (None, [A, B, "--crop", "x"], ["--crop"]),
    "a folder and a picture": (None, ["one", A], ["one", "a.png", "two folders"]),
    "standard input twice": (None, ["-", "-"], ["standard input"]),
    "an empty folder": (lambda d: (d / "none").mkdir(), ["one", "none"], ["none: no pictures"]),
    "no partners": (lambda d: ((d / "c").mkdir(), photo(d / "c" / "z.png")), ["one", "c"], ["one", "partner", "c"]),
    "two of a name": (lambda d: photo(d / "two" / "x.bmp"), ["one", "two"], ["two/x.bmp and two/x.png"]),
    "one picture": (None, [A], ["Missing argument"]),
    "one file of weights": (None, [A, B, "--lpips", "w.pth"], ["--lpips"]),
    "no weights": (None, [A, B, "--lpips", "w.pth", "v.pth"], ["w.pth", "No such file"]),
    "pictures as weights": (None, ["one", "two", "--lpips", A, B], ["a.png", "weights"]),
    "device without LPIPS": (None, [A, B, "--device", "cpu"], ["--device", "--lpips"]),
    "unknown option": (None, [A, B, "--magic"], ["--magic", "restore score -h"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_in_one_line(name, here):
    prepare, args, words = BAD[name]
    if prepare:
        prepare(here)
    before = snapshot(here)
    result = run("score", *args, code=2)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not result.stdout_bytes
    assert snapshot(here) == before


def test_unknown_device(here, weights):  # noqa: F811
    result = run("score", A, B, "--lpips", *save_pair(here, weights), "--device", "toaster", code=2)
    assert "toaster" in result.stderr


def test_help_fits_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = run("score", "-h").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(re.search(rf"{option}\b", text) for option in ("--crop", "--luma", "--lpips", "--json", "--recursive"))
