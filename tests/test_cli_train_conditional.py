"""`restore train conditional` on the command line: reports, mistakes, help, and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command import ENV, run
from PIL import Image
from training import losses, state

import restore

TOML = """
output = "run"
[data]
sources = ["pictures"]
crop = 8
holdout = ["0.png"]
[condition]
scale = 2
[network]
channels = [8]
layers = 1
[train]
steps = 4
batch = 2
precision = "no"
warmup = 2
save_every = 0
log_every = 1
sample_every = 0
[validate]
every = 2
size = 16
steps = 2
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with pictures, the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def write(here, *changes, text=TOML):
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (here / "c.toml").write_text(text)
    return "c.toml"


def start(*args, code=0):
    return run("train", "conditional", *args, "--device", "cpu", code=code)


def refused(*args, code=2):
    """What is said of a mistake: one line."""
    result = start(*args, code=code)
    assert result.stdout == ""
    passing = ("skipped ", "restore: note: This DataLoader")  # torch counts the cores
    lines = [line for line in result.stderr.splitlines() if not line.startswith(passing)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("restore: error: ")
    return lines[0].removeprefix("restore: error: ")


# ---------------------------------------------------------------- reports


def test_a_report(here):
    (here / "pictures" / "small.png").write_bytes(b"no picture")
    report = json.loads(start(write(here), "--json", "-q").stdout)
    assert (report["output"], report["prior"], report["step"], report["crops"]) == ("run", "run/prior", 4, 8)
    assert report["skipped"] in (0, 1)  # where it was drawn
    assert {"val_psnr", "val_ssim", "val_input", "val_loss"} <= set(report["validation"])
    assert {path.name for path in (here / "run").iterdir()} == {"best", "checkpoints", "log.jsonl", "prior"}
    info = run("priors", "info", "run/prior").stdout
    assert "upscale" in info
    out = run("upscale", "pictures/1.png", "--prior", "run/prior", "-x", 2, "--steps", 2, "-o", "large.png")
    assert out.exit_code == 0
    assert Image.open("large.png").size == (48, 40)


def test_words_on_standard_error(here):
    result = start(write(here))
    assert result.stdout == ""
    assert "step 2: held-out psnr: " in result.stderr
    assert "wrote run/prior after 4 steps and 8 crops" in result.stderr
    again = start("c.toml", "--steps", 6, "-q")
    assert again.stderr == ""
    assert [row["step"] for row in logged_losses(here)] == [1, 2, 3, 4, 5, 6]
    assert json.loads(start("c.toml", "--steps", 2, "--fresh", "--json", "-q").stdout)["step"] == 2


def logged_losses(here):
    rows = [json.loads(line) for line in (here / "run" / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def test_skipped_pictures_are_named_and_counted(here):
    (here / "pictures" / "torn.png").write_bytes(b"no picture")
    Image.new("RGB", (7, 30)).save(here / "pictures" / "tiny.png")
    config = write(here, ("batch = 2", "batch = 16"))
    result = start(config, "--json")
    assert json.loads(result.stdout)["skipped"] == 2
    assert "skipped tiny.png: 7 x 30 is smaller than the crop of 8\n" in result.stderr
    assert result.stderr.count("skipped torn.png: ") == 1


def test_interrupted(here, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("restore.train.conditional.train", stop)
    result = start(write(here), code=130)
    assert "run the same command to go on" in result.stderr


def test_help_is_readable():
    lines = run("train", "conditional", "-h").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines).replace("│", " ").split())
    for part in ("Train a conditional prior", "SR3, SRDiff", "Palette", "[condition]", "OUTPUT/prior", "--fresh"):
        assert part in words
    assert "conditional" in run("train", "-h").stdout


# ---------------------------------------------------------------- mistakes

PALETTE = ("scale = 2", 'degradations = [{kind = "colorize"}, {kind = "inpaint"}]')


def condition(line):
    return [("scale = 2", line)]


def source(text, *more):
    return [('["pictures"]', text), *more]


MISTAKES = {
    "[condition]": ([("scale = 2", "scale = 2\nresidul = 1.0")], "'condition.residul': did you mean 'residual'"),
    "[[condition.degradations]]": (
        condition('degradations = [{kind = "jpeg", jpg = [1, 2]}]'),
        "'condition.degradations[0].jpg': did you mean 'jpeg'",
    ),
    "[train.encoder]": (
        [("batch = 2", "batch = 2\nencoder = {pretain = 0.1}")],
        "'train.encoder.pretain': did you mean",
    ),
    "[train]": ([("batch = 2", "batch = 2\nlos = 'l1'")], "'train.los': did you mean 'loss'"),
    "[sampling]": (
        [("[validate]", "noise_level = 1.0\n[sampling]\nbeta_strt = 0.1\n[validate]")],
        "[sampling] unknown key 'beta_strt' of DDPMScheduler: did you mean 'beta_start'",
    ),
    "[schedule]": ([("[validate]", "[schedule]\nbeta_ed = 0.1\n[validate]")], "[schedule] unknown key 'beta_ed'"),
    "[network]": ([("layers = 1", "layrs = 1")], "[network] unknown key 'layrs' of UNet: did you mean 'layers'"),
    "[validate]": ([("every = 2", "evry = 2")], "'validate.evry': did you mean 'every'"),
    "sources": (
        source('[{path = "pictures", conditon = "x"}]'),
        "'data.sources[0].conditon': did you mean 'condition'",
    ),
    "labels": ([("crop = 8", "crop = 8\nlabels = true")], "unknown key 'data.labels'"),
    "top": ([('output = "run"', 'outputt = "run"')], "unknown key 'outputt': did you mean 'output'"),
    "sigmas": ([("every = 2", "every = 2\nsigmas = [5.0]")], "unknown key 'validate.sigmas'"),
    "scale and colorize": (
        condition('scale = 2\ndegradations = [{kind = "colorize"}]'),
        "[condition] a scale of 2 and the degradation colorize do not go together",
    ),
    "hole of jpeg": (
        condition('degradations = [{kind = "jpeg", hole = [0.1, 0.2]}]'),
        "[condition.degradations[0]] hole belongs to inpaint and uncrop, not to jpeg",
    ),
    "falling": (
        condition('degradations = [{kind = "denoise", noise = [50, 5]}]'),
        "noise is [50.0, 5.0]: give two rising numbers from 0 to 255",
    ),
    "one number": (
        condition('degradations = [{kind = "denoise", noise = 5}]'),
        "'condition.degradations[0].noise' is 5",
    ),
    "repair": (
        condition('degradations = [{kind = "repair"}]'),
        "repair needs one or more of blur, motion, noise and jpeg",
    ),
    "kind": (condition('degradations = [{kind = "sharpen"}]'), "unknown kind 'sharpen': choose one of upscale"),
    "no kind": (condition("degradations = [{weight = 2}]"), "'condition.degradations[0].kind' is missing"),
    "pairs and shrink": (
        source('[{path = "pictures", condition = "pictures"}]', ("scale = 2", 'degradations = [{kind = "jpeg"}]')),
        "prepared pairs are cut as they are: set shrink = [1.0, 1.0] in [data]",
    ),
    "pairs and holdout": (
        source(
            '[{path = "pictures", condition = "pictures"}]',
            ("scale = 2", 'degradations = [{kind = "jpeg"}]'),
            ('holdout = ["0.png"]', 'holdout = "pictures"\nshrink = [1, 1]'),
        ),
        "holdout: a folder of pictures has no other halves",
    ),
    "augment and srdiff": (
        [("scale = 2", "scale = 2\naugment = 9"), ("channels = [8]\nlayers = 1", 'kind = "srdiff"\nchannels = 8')],
        "kind 'srdiff' is told no noise; leave it out",
    ),
    "encoder and unet": ([("batch = 2", "batch = 2\nencoder = {pretrain = 0.1}")], "or choose kind = 'srdiff'"),
    "sampling without noise_level": (
        [("[validate]", "[sampling]\nnum_train_timesteps = 50\n[validate]")],
        "[sampling] is for networks that are told the noise level: set train.noise_level too",
    ),
    "crop": ([("crop = 8", "crop = 9")], "crop is 9: this network wants a multiple of 2"),
    "crop of the network's": (
        [("crop = 8", "crop = 12"), ("channels = [8]", "channels = [8, 8, 8, 8]")],
        "crop is 12: this network wants a multiple of 8",
    ),
    "crop of both": (
        [("scale = 2", "scale = 3"), ("channels = [8]", "channels = [8, 8]")],
        "crop is 8: this network wants a multiple of 6",
    ),
    "crop of a phase": (
        [("batch = 2", "batch = 2\nphases = [{start = 0.5, crop = 11}]")],
        "crop is 11: this network wants a multiple of 2",
    ),
    "in_channels": ([("layers = 1", "layers = 1\nin_channels = 6")], "[network] in_channels follow from the condition"),
    "flow": ([("batch = 2", "batch = 2\npredicts = 'flow'")], "[train] unknown predicts 'flow': eps, v or x0"),
    "no [condition]": (
        [("[condition]\nscale = 2\n", "")],
        "say what to undo: a scale above 1, or [[condition.degradations]]",
    ),
    "nothing to undo": (condition("residual = 1.0"), "[condition] say what to undo"),
    "no such folder": (source('["photos"]'), "there is no photos: looked in "),
    "no such prior": ([("batch = 2", "batch = 2\ninit = 'nothing'")], "nothing", 4),
    "holdout": ([('holdout = ["0.png"]', 'holdout = ["9.png"]')], "no source holds the picture '9.png' of holdout"),
    "large": ([("crop = 8", "crop = 32")], "no usable picture in pictures: all are damaged or too small"),
    "large, later": (
        [("batch = 2", "batch = 2\nphases = [{start = 0.5, crop = 32}]")],
        "no usable picture in pictures: all are damaged or too small",
    ),
    "large, with workers": (
        [("crop = 8", "crop = 32\nworkers = 2\ncache_gb = 0")],
        "no usable picture in pictures: all are damaged or too small",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(here, name):
    changes, words, *code = MISTAKES[name]
    told = refused(write(here, *changes), code=code[0] if code else 2)
    assert words in told
    assert not (here / "run" / "prior").exists()


def test_folders_without_pictures(here):
    (here / "empty").mkdir()
    assert (
        refused(write(here, ('["pictures"]', '["empty"]'), ('holdout = ["0.png"]', ""))) == "no usable picture in empty"
    )
    pair = '[{path = "pictures", condition = "empty"}]'
    changes = [('["pictures"]', pair), ("crop = 8", "crop = 8\nshrink = [1, 1]")]
    assert refused(write(here, *changes)) == "empty holds no picture named 0.*"


def test_another_run_in_the_folder(here):
    start(write(here), "-q")
    told = refused(write(here, ("channels = [8]", "channels = [12]")))
    assert "holds a run of another configuration: network.channels.0 (8 there, 12 here)" in told
    assert "--fresh" in told
    told = refused(write(here, ("scale = 2", "scale = 4")))
    assert "condition.scale (2 there, 4 here)" in told
    told = refused(write(here, ("scale = 2", "scale = 2\ndegradations = [{kind = 'upscale', jpeg = [30, 90]}]")))
    assert "condition.degradations.0.jpeg" in told
    told = refused(write(here, PALETTE))
    assert "condition.degradations" in told


def test_a_prior_of_another_shape(here):
    start(write(here), "-q")
    changes = [('output = "run"', 'output = "next"'), ("batch = 2", "batch = 2\ninit = 'run/prior'")]
    start(write(here, *changes), "-q")
    told = refused(write(here, *changes, ("channels = [8]", "channels = [12]")), "-o", "other")
    assert told.startswith("init: run/prior has layers of other shapes: ")


# ---------------------------------------------------------------- killed


def test_a_killed_run_goes_on_as_if_it_had_not_been(here):
    """SIGKILL of the real command, in the middle; then the same command."""
    changes = [PALETTE, ("steps = 4", "steps = 100"), ("save_every = 0", "save_every = 7")]
    config = write(here, *changes, text=TOML.replace("[validate]\nevery = 2", "[validate]\nevery = 0"))
    command = [sys.executable, "-m", "restore.cli", "train", "conditional", config, "--device", "cpu", "-q"]
    env = {**ENV, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, cwd=here, env=env, stderr=subprocess.PIPE, start_new_session=True)
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if any((here / "run" / "checkpoints").glob("step-000000[2-9]*")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    process.stderr.close()
    before = losses(here / "run")
    assert 20 <= len(before) < 100
    assert json.loads(start(config, "--json", "-q").stdout)["step"] == 100
    start(config, "-o", "whole", "-q")
    halves, whole = state(here / "run"), state(here / "whole")
    assert halves.keys() == whole.keys()
    assert all(torch.equal(halves[key], whole[key]) for key in whole)
    assert losses(here / "run") == losses(here / "whole")
    assert len(losses(here / "run")) == 100
    assert losses(here / "run")[: len(before)] == before
    assert restore.load_prior("run/prior", device="cpu").condition.tasks == ("colorize", "inpaint")
    assert not list((here / "run").rglob(".*"))
