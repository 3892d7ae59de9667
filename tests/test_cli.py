"""The command line: help, one picture, priors."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from classifying import save_classifier
from command import ENV, hole, photo, pixels, run
from conftest import save_tiny
from PIL import Image

from restore import tasks

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


VERBS = ["inpaint", "upscale", "deblur", "denoise", "colorize", "repair", "edit", "refine", "translate", "generate"]
OTHERS = [["score"], ["degrade"], ["priors"], ["priors", "list"], ["priors", "info"], ["train"]]


@pytest.mark.parametrize("args", [[], *([verb] for verb in VERBS), *OTHERS], ids=" ".join)
def test_help_fits_a_terminal(args, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = run(*args, "-h").stdout
    assert "-h, --help" in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_methods_that_there_are(verb):
    """In their order, the default first; where there is one alone, there is nothing to choose."""
    text = " ".join(run(verb, "-h").stdout.split())
    request = getattr(tasks, verb.title())
    found, more = list(request.METHODS), [] if request.METHODS == request.SAMPLERS else list(request.SAMPLERS)
    told = f"; of a conditional prior {', '.join(more[:-1])} or {more[-1]}" if more else ""
    if len(found) == 1:
        assert "--method" not in text
    else:
        assert f"--method NAME {', '.join(found[:-1])} or {found[-1]}{told}. [default: ({found[0]}" in text


def test_help_names_every_exit_code():
    assert all(f"{code} " in run("-h").stdout for code in (0, 1, 2, 3, 4, 5, 130))


def test_nothing_at_all_shows_the_help():
    result = run(code=2)
    assert "Usage: restore" in result.stdout + result.stderr
    assert "restore: internal" not in result.stderr


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
    bundled = {"prior": {"tiny": folder}, "classifier": {"tiny": save_classifier(tmp_path / "classifier")}}
    (bundled["classifier"]["tiny"] / "README.md").write_text("---\nlicense: mit\n---\n# tiny: " + "what it is " * 20)
    monkeypatch.setattr(load, "bundled", lambda kind="prior": bundled[kind])
    text = run("priors", "list").stdout
    assert re.search(r"^tiny +yes +0\.\d +any mit +nothing learnt$", text, re.M)
    assert re.search(r"^tiny +yes +0\.\d +any mit +what it is .* \.\.\.$", text, re.M)
    assert all(len(line) <= 80 for line in text.splitlines())
    rows = json.loads(run("priors", "list", "--json").stdout)
    assert [(row["name"], row["kind"]) for row in rows[:2]] == [("tiny", "prior"), ("tiny", "classifier")]
    assert json.loads(run("priors", "info", "tiny", "--json").stdout) == rows[0]
    assert json.loads(run("priors", "info", "tiny", "--classifier", "--json").stdout) == rows[1]
    alone = run("priors", "info", bundled["classifier"]["tiny"]).stdout
    assert re.search(r"^kind +classifier$", alone, re.M)
    assert re.search(r"^labels +cat, dog, owl$", alone, re.M)
    assert "predicts" not in alone
    assert "this is a prior" in run("priors", "info", folder, "--classifier", code=4).stderr
