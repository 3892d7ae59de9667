"""The command line: what it writes, what it says, its exit codes."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import zlib

import numpy as np
import pytest
import torch
from conftest import save_tiny
from PIL import Image
from typer.testing import CliRunner

from restore import tasks
from restore.cli import app
from restore.prior import Prior

HOLE = (slice(8, 18), slice(10, 22))
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def run(*args, data=b"", code=0):
    """Run in this process; the result has stdout_bytes, stdout and stderr. Fails on another exit code than `code`."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], input=data)
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    return result


def photo(path, size=(36, 28), mode="RGB", seed=1):
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    values = np.random.default_rng(seed).integers(60, 200, shape).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


def hole(path, size=(36, 28), where=HOLE):
    values = np.zeros(size[::-1], np.uint8)
    values[where] = 255
    Image.fromarray(values).save(path)
    return path


def pixels(path):
    return np.asarray(Image.open(path))


def snapshot(folder):
    return {path.relative_to(folder): path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def desk(tmp_path, tiny_folder):
    """A folder with a picture and its mask; desk.inpaint(...) restores it with the tiny prior in few steps."""

    class Desk:
        here = tmp_path
        photo = photo(tmp_path / "photo.png")
        mask = hole(tmp_path / "mask.png")

        @staticmethod
        def inpaint(*args, prior=tiny_folder, steps=2, **options):
            return run("inpaint", *args, "--prior", prior, *(("--steps", steps) if steps else ()), **options)

    return Desk


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["--version"], ["inpaint", "-h"], ["priors", "-h"]])
def test_help_is_quick_and_loads_nothing_heavy(args):
    heavy = "'torch', 'diffusers', 'cv2', 'numpy', 'PIL', 'rich'"
    code = (
        f"import sys, atexit; sys.argv = ['restore', *{args!r}]\n"
        f"atexit.register(lambda: print(sorted({{{heavy}}} & set(sys.modules)), file=sys.stderr))\n"
        "from restore.cli import app; app()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
    assert done.returncode == 0
    assert done.stdout.startswith("restore " if "--version" in args else "Usage: restore")
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("args", [[], ["inpaint"], ["priors"], ["priors", "list"], ["priors", "info"], ["train"]])
def test_help_fits_a_terminal(args, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = run(*args, "-h").stdout
    assert "-h, --help" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_help_names_every_method_and_exit_code():
    text = run("inpaint", "-h").stdout
    assert all(method in text for method in tasks.INPAINT_METHODS)
    assert all(f"{code} " in run("-h").stdout for code in (0, 1, 2, 3, 4, 5, 130))


def test_nothing_at_all_shows_the_help():
    result = run(code=2)
    assert "Usage: restore" in result.stdout + result.stderr
    assert "restore: internal" not in result.stderr


# ---------------------------------------------------------------- bad input


def bomb(path):
    """A PNG whose header declares 100000 x 100000 pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def of(path, data):
    path.write_bytes(data)
    return path


P, M = "photo.png", ["-m", "mask.png"]
BAD = {  # name: (what to prepare, arguments, words of the message)
    "missing picture": (None, ["nope.png", *M], ["nope.png", "does not exist"]),
    "empty picture": (lambda d: of(d / "e.png", b""), ["e.png", *M], ["e.png", "empty"]),
    "truncated picture": (lambda d: cut(photo(d / "t.png")), ["t.png", *M], ["t.png", "damaged"]),
    "truncated JPEG": (lambda d: cut(photo(d / "t.jpg")), ["t.jpg", *M], ["t.jpg", "damaged"]),
    "no picture": (lambda d: of(d / "n.png", b"hello" * 99), ["n.png", *M], ["n.png", "not an image"]),
    "bomb": (lambda d: bomb(d / "b.png"), ["b.png", *M], ["b.png", "100000 x 100000"]),
    "missing mask": (None, [P, "-m", "nope.png"], ["nope.png", "does not exist"]),
    "empty mask file": (lambda d: of(d / "e.png", b""), [P, "-m", "e.png"], ["e.png", "empty"]),
    "truncated mask": (lambda d: cut(hole(d / "t.png")), [P, "-m", "t.png"], ["t.png", "damaged"]),
    "bomb as mask": (lambda d: bomb(d / "b.png"), [P, "-m", "b.png"], ["b.png", "100000 x 100000"]),
    "mask of another aspect": (lambda d: hole(d / "w.png", (50, 28)), [P, "-m", "w.png"], ["w.png", "50 x 28"]),
    "neither mask nor transparency": (None, [P], ["photo.png", "transparency", "mask"]),
    "no such mask in the folder": (lambda d: (d / "masks").mkdir(), [P, "-m", "masks"], ["no mask named photo"]),
    "empty folder": (lambda d: (d / "none").mkdir(), ["none", *M], ["none", "no pictures", "--recursive"]),
    "a folder as output": (lambda d: (d / "out").mkdir(), [P, *M, "-o", "out"], ["out is a folder", "out/photo.png"]),
    "a slash as output": (None, [P, *M, "-o", "out/"], ["out/ is a folder"]),
    "output into nowhere": (None, [P, *M, "-o", "no/where.png"], ["no/where.png", "does not exist"]),
    "output of no format": (None, [P, *M, "-o", "out.xyz"], ["out.xyz", ".png"]),
    "output exists": (lambda d: of(d / "o.png", b"old"), [P, *M, "-o", "o.png"], ["o.png exists", "--overwrite"]),
    "default output exists": (lambda d: of(d / "photo-inpaint.png", b"old"), [P, *M], ["photo-inpaint.png exists"]),
    "two samples to stdout": (None, [P, *M, "-o", "-", "--samples", 2], ["standard output", "one sample"]),
    "two pictures to stdout": (None, [P, P, *M, "-o", "-"], ["standard output", "one picture"]),
    "two pictures to one file": (None, [P, "mask.png", *M, "-o", "o.png"], ["o.png", "2 pictures", "folder"]),
    "JSON beside a picture": (None, [P, *M, "-o", "-", "--json"], ["--json"]),
    "JPEG of transparency": (
        lambda d: Image.new("RGBA", (36, 28), (9, 9, 9, 200)).save(d / "a.png"),
        ["a.png", *M, "-o", "o.jpg"],
        ["JPEG", "transparency"],
    ),
    "the same file twice": (None, [P, P, *M], ["two of the pictures", "photo-inpaint.png"]),
    "colliding names": (
        lambda d: ((d / "sub").mkdir(), photo(d / "sub" / "photo.png")),
        [P, "sub/photo.png", *M, "-o", "out"],
        ["two of the pictures", "out/photo.png"],
    ),
    "stdin without a name": (None, ["-", *M], ["standard input", "-o"]),
    "unknown method": (None, [P, *M, "--method", "magic"], ["magic", "ddrm", "repaint"]),
    "unknown device": (None, [P, *M, "--device", "toaster"], ["toaster", "cpu"]),
    "meta device": (None, [P, *M, "--device", "meta"], ["meta", "cpu"]),
    "unknown dtype": (None, [P, *M, "--dtype", "int8"], ["int8", "float32"]),
    "half precision": (None, [P, *M, "--device", "cpu", "--dtype", "float16"], ["float16", "bfloat16"]),
    "unknown tile": (None, [P, *M, "--tile", "big"], ["tile", "big", "auto"]),
    "small tile": (None, [P, *M, "--tile", "8"], ["tile", "128"]),
    "odd tile": (None, [P, *M, "--tile", "129"], ["tile", "multiple of 8"]),
    "no steps": (None, [P, *M, "--steps", 0], ["steps", "0", "at least 1"]),
    "negative steps": (None, [P, *M, "--steps", -3], ["steps"]),
    "steps that are no number": (None, [P, *M, "--steps", "few"], ["--steps", "integer"]),
    "no samples": (None, [P, *M, "--samples", 0], ["samples", "0", "at least 1"]),
    "negative seed": (None, [P, *M, "--seed", -1], ["seed", "-1"]),
    "huge seed": (None, [P, *M, "--seed", 2**70], ["seed"]),
    "negative feather": (None, [P, *M, "--feather", -1], ["feather", "-1"]),
    "eta over 1": (None, [P, *M, "--method", "ddrm", "--eta", 1.5], ["eta", "1.5"]),
    "eta below 0": (None, [P, *M, "--method", "ddrm", "--eta", -0.1], ["eta", "-0.1"]),
    "eta of nothing": (None, [P, *M, "--method", "ddrm", "--eta", "nan"], ["eta", "nan"]),
    "strength 0": (None, [P, *M, "--strength", 0], ["strength", "(0, 1]"]),
    "strength over 1": (None, [P, *M, "--strength", 1.1], ["strength", "1.1"]),
    "jump with ddrm": (None, [P, *M, "--method", "ddrm", "--jump", 3], ["jump", "repaint", "ddrm"]),
    "resamplings with ddrm": (None, [P, *M, "--method", "ddrm", "--resamplings", 3], ["resamplings", "repaint"]),
    "jump too long": (None, [P, *M, "--method", "repaint", "--jump", 9, "--steps", 9], ["jump of 9", "9 steps"]),
    "jump 0": (None, [P, *M, "--method", "repaint", "--jump", 0], ["jump", "at least 1"]),
    "sigma with repaint": (None, [P, *M, "--method", "repaint", "--sigma", 5], ["repaint", "noise", "ddrm"]),
    "sigma of 300": (None, [P, *M, "--method", "ddrm", "--sigma", 300], ["sigma 300", "255"]),
    "negative sigma": (None, [P, *M, "--method", "ddrm", "--sigma", -1], ["sigma -1"]),
    "unknown option": (None, [P, *M, "--magic"], ["--magic", "restore inpaint -h"]),
    "option without its value": (None, [P, *M, "--prior", "tiny", "--steps"], ["--steps"]),
    "a name too long": (None, ["a" * 300 + ".png", *M], ["aaa.png", "name too long"]),
    "a mask's name too long": (None, [P, "-m", "a" * 300 + ".png"], ["aaa.png", "name too long"]),
    "an output's name too long": (None, [P, *M, "-o", "a" * 300 + ".png"], ["aaa.png", "name too long"]),
    "no picture given": (None, [], ["Missing argument", "IMG"]),
}


@pytest.fixture
def no_network(monkeypatch):
    def stop(self, x, level):
        raise AssertionError("the network was asked, although the input is bad")

    monkeypatch.setattr(Prior, "__call__", stop)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_said_in_one_line_and_nothing_is_written(name, desk, tiny_folder, monkeypatch, no_network):
    prepare, args, words = BAD[name]
    if prepare:
        prepare(desk.here)
    monkeypatch.chdir(desk.here)
    before = snapshot(desk.here)
    result = run("inpaint", "--prior", tiny_folder, *args, code=2)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not result.stdout_bytes
    assert snapshot(desk.here) == before


def test_one_bad_option_stops_a_whole_batch(desk, no_network):
    photo(desk.here / "other.png")
    args = [desk.photo, desk.here / "other.png", "-m", desk.mask, "-o", desk.here / "out"]
    for option in (["--steps", 0], ["--device", "toaster"], ["--method", "magic"], ["--feather", -1]):
        assert desk.inpaint(*args, *option, steps=None, code=2).stderr.count("\n") == 1
    assert desk.inpaint(*args, prior="nope", code=4).stderr.count("\n") == 1
    assert not (desk.here / "out").exists()


def test_prior_that_is_not_there(desk):
    before = snapshot(desk.here)
    result = desk.inpaint(desk.photo, "-m", desk.mask, prior="nope", code=4)
    assert result.stderr == "restore: error: " + result.stderr.removeprefix("restore: error: ").strip() + "\n"
    assert "'nope'" in result.stderr
    assert snapshot(desk.here) == before
    assert "diffusers folder" in desk.inpaint(desk.photo, "-m", desk.mask, prior=desk.here, code=4).stderr


def spoil(folder, kind):
    weights, config = folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "unet" / "config.json"
    settings = json.loads(config.read_text())
    if kind == "truncated":
        cut(weights)
    elif kind == "empty":
        weights.write_bytes(b"")
    elif kind == "noise":
        weights.write_bytes(np.random.default_rng(0).bytes(weights.stat().st_size))
    elif kind == "gone":
        weights.unlink()
    elif kind == "missing keys":
        config.write_text(json.dumps({**settings, "layers": 2}))
    elif kind == "unexpected keys":
        save_tiny(folder, layers=2)
        config.write_text(json.dumps(settings))
    elif kind == "other shapes":
        config.write_text(json.dumps({**settings, "channels": [8, 24]}))
    elif kind == "config cut":
        cut(config)
    elif kind == "config of a list":
        config.write_text("[]")
    elif kind == "unknown network":
        config.write_text(json.dumps({**settings, "_class_name": "Oracle"}))
    elif kind == "scheduler cut":
        cut(folder / "scheduler" / "scheduler_config.json")


DAMAGE = [
    "truncated", "empty", "noise", "gone", "missing keys", "unexpected keys", "other shapes", "config cut",
    "config of a list", "unknown network", "scheduler cut",
]  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_prior(kind, desk):
    folder = save_tiny(desk.here / "prior")
    spoil(folder, kind)
    before = snapshot(desk.here)
    result = desk.inpaint(desk.photo, "-m", desk.mask, prior=folder, code=2)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert str(folder) in result.stderr
    assert snapshot(desk.here) == before


@pytest.mark.parametrize("method", ["ddrm", "repaint"])
def test_nan_from_the_network_stops_and_names_the_step(method, desk):
    folder = save_tiny(desk.here / "prior", change=lambda net: net.conv_out.bias.fill_(float("nan")))
    before = snapshot(desk.here)
    result = desk.inpaint(desk.photo, "-m", desk.mask, "--method", method, prior=folder, code=1)
    assert result.stderr.startswith("restore: error: step 1")
    assert result.stderr.count("\n") == 1
    assert snapshot(desk.here) == before


def test_what_nobody_foresaw_is_one_line_too(desk, monkeypatch):
    def fail(self, x, level):
        raise ZeroDivisionError("oh\nno")

    monkeypatch.delenv("RESTORE_DEBUG", raising=False)
    monkeypatch.setattr(Prior, "__call__", fail)
    result = desk.inpaint(desk.photo, "-m", desk.mask, code=1)
    assert re.fullmatch(r"restore: internal error: ZeroDivisionError: oh no \(.*RESTORE_DEBUG.*\)\n", result.stderr)


# ---------------------------------------------------------------- one picture


def test_default_name_and_untouched_pixels(desk):
    result = desk.inpaint(desk.photo, "-m", desk.mask)
    out = desk.here / "photo-inpaint.png"
    assert f"{out}: " in result.stderr
    assert not result.stdout_bytes
    before, after, inside = pixels(desk.photo), pixels(out), pixels(desk.mask) > 0
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).any()


def test_default_name_of_a_format_that_cannot_be_written(desk):
    photo(desk.here / "a.gif", mode="L")
    desk.inpaint(desk.here / "a.gif", "-m", desk.mask)
    assert Image.open(desk.here / "a-inpaint.png").format == "PNG"


def test_black_mask_gives_a_copy_with_a_note(desk):
    hole(desk.here / "black.png", where=(slice(0), slice(0)))
    result = desk.inpaint(desk.photo, "-m", desk.here / "black.png", "-o", desk.here / "o.png")
    assert "restore: note: " in result.stderr
    assert "mask is empty" in result.stderr
    assert (pixels(desk.here / "o.png") == pixels(desk.photo)).all()


def test_gray_mask_is_explained(desk):
    Image.new("L", (36, 28), 100).save(desk.here / "gray.png")
    result = desk.inpaint(desk.photo, "-m", desk.here / "gray.png", "-o", desk.here / "o.png")
    assert "100 of 255" in result.stderr


def test_notes_are_said_once(desk):
    hole(desk.here / "big.png", (72, 56), (slice(16, 36), slice(20, 44)))
    result = desk.inpaint(desk.photo, "-m", desk.here / "big.png", "-o", desk.here / "o.png")
    assert result.stderr.count("resized") == 1


def test_overwrite(desk):
    (desk.here / "o.png").write_bytes(b"old")
    desk.inpaint(desk.photo, "-m", desk.mask, "-o", desk.here / "o.png", "--overwrite")
    assert pixels(desk.here / "o.png").shape == (28, 36, 3)


def test_transparency_as_the_mask(desk):
    rgba = np.dstack([pixels(desk.photo), np.where(pixels(desk.mask) > 0, 0, 255).astype(np.uint8)])
    Image.fromarray(rgba).save(desk.here / "rgba.png")
    desk.inpaint(desk.here / "rgba.png", "-o", desk.here / "o.png")
    assert (pixels(desk.here / "o.png")[..., 3] == 255).all()
    desk.inpaint(desk.here / "rgba.png", "-o", desk.here / "o.jpg")
    assert Image.open(desk.here / "o.jpg").mode == "RGB"


def test_same_seed_same_bytes(desk):
    def made(name, *args):
        desk.inpaint(desk.photo, "-m", desk.mask, "-o", desk.here / name, *args)
        return (desk.here / name).read_bytes()

    for method in (["--method", "ddrm", "--eta", 1], ["--method", "repaint"]):
        kind = method[1]
        zero = made(f"{kind}0.png", *method)
        assert made(f"{kind}again.png", *method, "--seed", 0) == zero
        assert made(f"{kind}1.png", *method, "--seed", 1) != zero


def test_samples_are_runs_with_the_next_seeds(desk):
    options = ["-m", desk.mask, "--method", "repaint", "-o"]
    result = desk.inpaint(desk.photo, *options, desk.here / "o.png", "--samples", 3, "--seed", 5, "--json")
    names = [desk.here / f"o-{k}.png" for k in (1, 2, 3)]
    assert json.loads(result.stdout)["outputs"] == [str(name) for name in names]
    assert not (desk.here / "o.png").exists()
    for k, name in enumerate(names):
        desk.inpaint(desk.photo, *options, desk.here / f"alone{k}.png", "--seed", 5 + k)
        assert (desk.here / f"alone{k}.png").read_bytes() == name.read_bytes()
    assert len({name.read_bytes() for name in names}) == 3


def test_standard_input_and_output(desk):
    result = desk.inpaint("-", "-m", desk.mask, "-o", "-", data=desk.photo.read_bytes())
    desk.inpaint(desk.photo, "-m", desk.mask)
    assert result.stdout_bytes == (desk.here / "photo-inpaint.png").read_bytes()
    assert "standard output: " in result.stderr
    bad = desk.inpaint("-", "-m", desk.mask, "-o", "-", data=b"", code=2)
    assert bad.stderr.startswith("restore: error: standard input is empty")
    assert not bad.stdout_bytes


def test_json(desk):
    result = desk.inpaint(desk.photo, "-m", desk.mask, "--json", "--seed", 7, "--method", "ddrm")
    facts = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert facts["input"] == str(desk.photo)
    assert facts["outputs"] == [str(desk.here / "photo-inpaint.png")]
    assert (facts["seed"], facts["method"], facts["steps"], facts["calls"]) == (7, "ddrm", 2, 2)
    assert facts["prior"].endswith("tiny")
    assert facts["seconds"] >= 0


def test_quiet_says_nothing(desk):
    hole(desk.here / "big.png", (72, 56))
    hole(desk.here / "black.png", where=(slice(0), slice(0)))
    for k, mask in enumerate([desk.mask, desk.here / "big.png", desk.here / "black.png"]):
        result = desk.inpaint(desk.photo, "-m", mask, "-o", desk.here / f"{k}.png", "-q")
        assert not result.stderr
        assert not result.stdout_bytes
    assert desk.inpaint(desk.here / "nope.png", "-m", desk.mask, "-q", code=2).stderr.count("\n") == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_reported(dtype, desk):
    result = desk.inpaint(desk.photo, "-m", desk.mask, "--dtype", dtype, "--device", "cpu", "--json")
    assert json.loads(result.stdout)["dtype"] == dtype
    assert json.loads(result.stdout)["device"] == "cpu"


# ---------------------------------------------------------------- batches


def test_one_bad_file_does_not_stop_the_others(desk):
    bad = cut(photo(desk.here / "bad.png"))
    photo(desk.here / "last.png", seed=2)
    result = desk.inpaint(
        desk.photo, bad, desk.here / "nope.png", desk.here / "last.png", "-m", desk.mask, "-o", desk.here / "out",
        "--json", code=3,
    )  # fmt: skip
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in line for line in lines] == [False, True, True, False]
    assert lines[1]["input"] == str(bad)
    assert "damaged" in lines[1]["error"]
    assert sorted(os.listdir(desk.here / "out")) == ["last.png", "photo.png"]
    assert "2 of 4 pictures failed" in result.stderr
    assert result.stderr.count("restore: error: ") == 3


def test_folders_and_masks_by_name(desk):
    shots, masks = desk.here / "shots", desk.here / "masks"
    for folder in (shots, shots / "sub", masks, masks / "sub"):
        folder.mkdir()
    photo(shots / "a.png")
    photo(shots / "b.jpg", seed=3)
    photo(shots / "sub" / "a.png", seed=4)
    photo(shots / ".hidden.png")
    (shots / "notes.txt").write_text("no picture")
    hole(masks / "a.png")
    (masks / "a.json").write_text("{}")
    hole(masks / "b.png", where=(slice(0, 4), slice(0, 4)))
    hole(masks / "sub" / "a.png", where=(slice(20, 28), slice(0, 4)))
    desk.inpaint(shots, "-m", masks, "-o", desk.here / "flat")
    assert sorted(os.listdir(desk.here / "flat")) == ["a.png", "b.jpg"]
    desk.inpaint(shots, "-m", masks, "-o", desk.here / "deep", "--recursive")
    found = sorted(p.relative_to(desk.here / "deep").as_posix() for p in (desk.here / "deep").rglob("*.*"))
    assert found == ["a.png", "b.jpg", "sub/a.png"]
    changed = (pixels(desk.here / "deep/sub/a.png") != pixels(shots / "sub/a.png")).any(2)
    assert changed.any()
    assert not changed[:20].any()
    assert (pixels(desk.here / "deep/a.png") == pixels(desk.here / "flat/a.png")).all()


def test_a_folder_of_one_picture_is_still_a_folder(desk):
    (desk.here / "shots").mkdir()
    photo(desk.here / "shots" / "a.png")
    desk.inpaint(desk.here / "shots", "-m", desk.mask, "-o", desk.here / "out")
    assert os.listdir(desk.here / "out") == ["a.png"]
    assert "folder" in desk.inpaint(desk.here / "shots", "-m", desk.mask, "-o", desk.here / "o.png", code=2).stderr


def test_batch_beside_the_pictures(desk):
    photo(desk.here / "other.jpg", seed=2)
    desk.inpaint(desk.photo, desk.here / "other.jpg", "-m", desk.mask)
    assert (desk.here / "photo-inpaint.png").exists()
    assert Image.open(desk.here / "other-inpaint.jpg").format == "JPEG"


def test_the_prior_is_loaded_once(desk, monkeypatch):
    from restore import load

    loads = []
    monkeypatch.setattr(load, "load_prior", lambda *a, _load=load.load_prior, **k: loads.append(a) or _load(*a, **k))
    photo(desk.here / "other.png", seed=2)
    desk.inpaint(desk.photo, desk.here / "other.png", "-m", desk.mask)
    assert len(loads) == 1


def test_a_file_in_the_way_of_the_output_folder(desk):
    photo(desk.here / "other.png")
    (desk.here / "out").write_text("a file")
    args = [desk.photo, desk.here / "other.png", "-m", desk.mask, "-o"]
    assert "out is one file" in desk.inpaint(*args, desk.here / "out", code=2).stderr
    assert "in the way" in desk.inpaint(*args, desk.here / "out" / "sub", code=2).stderr


def test_a_folder_that_may_not_be_written_is_found_first(desk, no_network, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    result = desk.inpaint(desk.photo, "-m", desk.mask, code=2)
    assert "no permission" in result.stderr
    assert result.stderr.count("\n") == 1


# ---------------------------------------------------------------- memory


def hungry(monkeypatch, limit, error=torch.OutOfMemoryError, text="out of memory"):
    """Networks that fail on more than limit x limit pixels; the sizes that were asked, in turn."""
    asked, ask = [], Prior.__call__

    def call(self, x, level):
        asked.append(tuple(x.shape[-2:]))
        if x.shape[-2] * x.shape[-1] > limit**2:
            raise error(text)
        return ask(self, x, level)

    monkeypatch.setattr(Prior, "__call__", call)
    return asked


def test_out_of_memory_goes_on_with_smaller_tiles(desk, monkeypatch):
    photo(desk.here / "large.png", (400, 300))
    hole(desk.here / "wide.png", (400, 300), (slice(40, 250), slice(40, 350)))
    asked = hungry(monkeypatch, 160)
    result = desk.inpaint(desk.here / "large.png", "-m", desk.here / "wide.png", "--json")
    assert "restore: note: out of memory: going on with tiles of 128 pixels" in result.stderr
    assert max(asked[2:]) <= (128, 128)
    assert json.loads(result.stdout)["calls"] == 2
    before, after = pixels(desk.here / "large.png"), pixels(desk.here / "large-inpaint.png")
    inside = pixels(desk.here / "wide.png") > 0
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).mean() > 0.9


@pytest.mark.parametrize(("limit", "size"), [(1, (36, 28)), (60, (400, 300))])
def test_out_of_memory_at_the_smallest_tile(desk, monkeypatch, limit, size):
    photo(desk.here / "p.png", size)
    hole(desk.here / "m.png", size)
    hungry(monkeypatch, limit)
    before = snapshot(desk.here)
    result = desk.inpaint(desk.here / "p.png", "-m", desk.here / "m.png", code=5)
    assert result.stderr.splitlines()[-1].startswith("restore: error: out of memory")
    assert snapshot(desk.here) == before


# ---------------------------------------------------------------- interruption and terminals


def started(*args, **options):
    return subprocess.Popen([sys.executable, "-m", "restore.cli", *map(str, args)], env=ENV, **options)


def test_interruption_keeps_what_is_finished(desk, tiny_folder):
    """The first picture has an empty mask and is done at once; the second would take minutes."""
    shots, masks, out = desk.here / "shots", desk.here / "masks", desk.here / "out"
    shots.mkdir()
    masks.mkdir()
    photo(shots / "a.png")
    hole(masks / "a.png", where=(slice(0), slice(0)))
    photo(shots / "b.png", (256, 256))
    hole(masks / "b.png", (256, 256), (slice(10, 240), slice(10, 240)))
    args = ["inpaint", shots, "-m", masks, "-o", out, "--prior", tiny_folder, "--steps", 20000]
    process = started(*args, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "a.png").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1].startswith("restore: error: interrupted")
    assert "Traceback" not in stderr
    assert not stdout
    assert os.listdir(out) == ["a.png"]
    assert (pixels(out / "a.png") == pixels(shots / "a.png")).all()


def test_progress_on_a_terminal(desk, tiny_folder):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    args = ["inpaint", desk.photo, "-m", desk.mask, "--prior", tiny_folder, "--steps", 60, "--method", "ddrm"]
    process = started(*args, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    seen, deadline = b"", time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if select.select([leader], [], [], 0.2)[0]:
                try:
                    seen += os.read(leader, 4096)
                except OSError:  # the other side was closed
                    break
            elif process.poll() is not None:
                break
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(leader)
    text = seen.decode()
    assert re.search(r"photo\.png: +\d+%\|.*/60 calls, \d\d:\d\d gone, (\d\d:\d\d|\?) left", text), text
    assert "photo-inpaint.png: 60 calls" in text
    assert not process.stdout.read()


# ---------------------------------------------------------------- priors


def test_priors_info(tiny_folder):
    text = run("priors", "info", tiny_folder).stdout
    assert "UNet" in text
    assert "squaredcos_cap_v2" in text
    facts = json.loads(run("priors", "info", tiny_folder, "--json").stdout)
    assert (facts["predicts"], facts["levels"], facts["channels"]) == ("epsilon", 1000, [8, 16])
    assert run("priors", "info", "nope", code=4).stderr.count("\n") == 1
    assert run("priors", "info", tiny_folder.parent, code=4).stderr.count("\n") == 1
    assert run("priors", "info", tiny_folder / "model_index.json", code=2).stderr.count("\n") == 1


def test_priors_list(tmp_path, monkeypatch):
    from restore import load

    folder = save_tiny(tmp_path / "tiny")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# tiny: nothing learnt\n")
    monkeypatch.setattr(load, "bundled", lambda: {"tiny": folder})
    text = run("priors", "list").stdout
    assert re.search(r"^tiny +0\.\d +- +mit +tiny: nothing learnt$", text, re.M)
    assert [row["name"] for row in json.loads(run("priors", "list", "--json").stdout)] == ["tiny"]
