"""The command line given bad input: one line, an exit code, and nothing is written."""

import json
import re
import struct
import zlib

import numpy as np
import pytest
from command import cut, hole, photo, run, snapshot
from conftest import save_tiny
from PIL import Image

from restore.prior import Prior


def bomb(path):
    """A PNG whose header declares 100000 x 100000 pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
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
