"""Training a classifier: what it learns, resumption, what it exports, the command."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from command import run
from conftest import normal, save_tiny
from PIL import Image
from training import logged, state

import restore
from restore.errors import InputError
from restore.levels import CLEAN
from restore.train import toml
from restore.train.classifier import ClassifierTask, train_classifier
from restore.train.config import (
    FREE,
    ClassifierConfig,
    ClassifierTrain,
    ClassifierValidate,
    Export,
    LabelledData,
    Phase,
    Source,
)
from restore.train.data import Pictures, share, window
from restore.train.plan import Rows
from restore.wrappers import gradient

COLOURS = {"blue": (60, 90, 180), "red": (170, 80, 70)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Grainy pictures of two colours, each in the folder of its name."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(20):
            picture = (colour + 20 * rng.standard_normal((24, 20, 3))).round().clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


def settings(folder, network=None, **train):
    """A configuration of a few CPU seconds."""
    keys = {"steps": 12, "batch": 4, "precision": "no", "warmup": 3, "log_every": 1, "save_every": 5}
    return ClassifierConfig(
        LabelledData([Source(str(folder))], crop=8, holdout=0.3),
        ClassifierTrain(**keys | train),
        network=network or {"channels": [8, 16], "dropout": 0.1},
        validate=ClassifierValidate(every=0),
    )


def train(config, output, **options):
    return train_classifier(config, output=output, device="cpu", quiet=True, **options)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """(output, report) of a training that is long enough for two colours."""
    config = settings(folder, steps=60, batch=16, lr=5e-3, ema=0.9)
    config.validate = ClassifierValidate(every=30, sigmas=[0.0, 50.0, 25500.0])
    config.export = Export(dtype="fp16", license="mit", data="Two colours.")
    output = tmp_path_factory.mktemp("run")
    return output, train(config, output)


# ---------------------------------------------------------------- what it learns


def test_it_tells_two_colours_apart_and_guesses_where_there_is_only_noise(trained):
    found = trained[1]["validation"]
    assert found.keys() == {"accuracy_0", "accuracy_50", "accuracy_25500", "val_loss"}
    assert found["accuracy_0"] > 0.9
    assert found["accuracy_50"] > 0.9
    assert abs(found["accuracy_25500"] - 0.5) < 0.35
    assert found["val_loss"] < np.log(2)


def test_what_was_trained_loads_and_pulls(trained):
    """Along the gradient a gray picture turns red."""
    classifier = restore.load_classifier(trained[1]["classifier"], device="cpu", dtype="float32")
    assert (classifier.labels, classifier.multiple) == (["blue", "red"], 2)
    average = {k.removeprefix("ema."): v for k, v in state(trained[0]).items() if k.startswith("ema.")}
    loaded = classifier.net.state_dict()
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in average.items())
    grain = 20 / 127.5 * normal(8, 3, 16, 16).float()
    for k, (name, colour) in enumerate(COLOURS.items()):
        assert (classifier(torch.tensor(colour).reshape(3, 1, 1) / 127.5 - 1 + grain, CLEAN).argmax(1) == k).all()
        push = gradient(classifier.log_prob(name))(grain, CLEAN).mean((0, 2, 3))
        assert (push[0] > push[2]) == (name == "red")


def test_the_loss_of_a_guess_is_the_entropy_and_falls(trained, folder):
    rows = [row["loss"] for row in logged(trained[0]) if "loss" in row]
    assert rows[0] == pytest.approx(np.log(2), abs=0.02)
    assert np.mean(rows[-10:]) < 0.6 * rows[0]


def task_of(folder, **train):
    config = settings(folder, **train)
    return ClassifierTask(config, Pictures(config.data, 0, quiet=True))


def test_levels_are_stratified_times_of_the_table_and_smoothing_spreads_the_target(folder):
    task, shown = task_of(folder, label_smoothing=0.2), []

    def net(x, t):
        shown.append((x, t))
        return torch.tensor([[3.0, 0.0]]).expand(len(x), 2)

    batch = {"image": torch.full((8, 8, 8, 3), 255, dtype=torch.uint8), "label": torch.arange(8) % 2}
    found = task.loss(net, batch, Rows(0, 0, 8, slice(None), torch.device("cpu")))
    x, t = shown[0]
    assert torch.equal((t / 125).floor(), torch.arange(8.0))
    assert torch.equal(t, t.floor())
    level = task.schedule.at(t)
    z = (x - level.alpha) / level.sigma
    assert abs(float(z[1:].std()) - 1) < 0.1
    right, wrong = np.log1p(np.exp(-3)), np.log1p(np.exp(3))
    assert float(found[0]) == pytest.approx(0.9 * right + 0.1 * wrong, rel=1e-5)
    assert float(found[1]) == pytest.approx(0.1 * right + 0.9 * wrong, rel=1e-5)


def test_validation_sees_all_held_out_pictures_without_smoothing(folder):
    task = task_of(folder, label_smoothing=0.5)
    names = [f"{name}/{i}.png" for name in COLOURS for i in range(20)]
    held = sorted((name for name in names if share(name) < 0.3), key=share)
    crops, labels = task.pictures.held_out_crops(8)
    assert [task.labels[k] for k in labels] == [name.split("/")[0] for name in held]
    whole = np.asarray(Image.open(folder / held[0]))
    assert torch.equal(crops[0], torch.from_numpy(window(whole, 8, 0.5)).permute(2, 0, 1))
    sure = torch.nn.Module()
    sure.weight = torch.nn.Parameter(torch.zeros(1))
    sure.forward = lambda x, t: torch.tensor([[0.0, 1.0]]).expand(len(x), 2)
    found = task.validate(sure)
    share_of_red = float((labels == 1).double().mean())
    assert {round(value, 4) for key, value in found.items() if key != "val_loss"} == {round(share_of_red, 4)}
    loss = share_of_red * np.log1p(np.exp(-1)) + (1 - share_of_red) * np.log1p(np.exp(1))
    assert found["val_loss"] == pytest.approx(loss, abs=1e-4)


def test_a_window_in_the_middle():
    picture = np.arange(12 * 20 * 3, dtype=np.uint8).reshape(12, 20, 3)
    assert (window(picture, 4, 1.0) == picture[4:8, 8:12]).all()
    assert window(picture, 8, 0.5).shape == window(picture[:3, :3], 8, 0.5).shape == (8, 8, 3)


# ---------------------------------------------------------------- the run


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(folder, tmp_path, interrupt):
    options = {"phases": [Phase(0.5, crop=16, batch=2)], "accumulate": 2, "label_smoothing": 0.1}
    train(settings(folder, **options), tmp_path / "whole")
    interrupt(7)
    with pytest.raises(KeyboardInterrupt):
        train(settings(folder, **options), tmp_path / "halves")
    assert (tmp_path / "halves" / "classifier" / "net" / "config.json").is_file()
    train(settings(folder, **options), tmp_path / "halves")
    whole, halves = state(tmp_path / "whole"), state(tmp_path / "halves")
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    rows = [[row["loss"] for row in logged(tmp_path / name)] for name in ("halves", "whole")]
    assert rows[0] == rows[1]


def test_another_configuration_is_refused_and_fresh_starts_anew(folder, tmp_path):
    train(settings(folder), tmp_path)
    with pytest.raises(InputError, match=r"train\.label_smoothing \(0\.0 there, 0\.1 here\)"):
        train(settings(folder, label_smoothing=0.1), tmp_path)
    train(settings(folder, label_smoothing=0.1, steps=2), tmp_path, fresh=True)
    assert [row["step"] for row in logged(tmp_path)] == [1, 2]
    longer = settings(folder, label_smoothing=0.1, steps=3, save_every=1)
    longer.validate, longer.export = ClassifierValidate(every=1), Export(title="x")
    assert train(longer, tmp_path)["step"] == 3


def test_the_card_and_the_files(trained, folder):
    made = trained[0] / "classifier"
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    weights = {"net/config.json", "net/diffusion_pytorch_model.safetensors"}
    assert names == weights | {"scheduler/scheduler_config.json", "labels.json", "train.toml", "README.md"}
    card = (made / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    for words in (
        "# A noisy classifier\n", "with 2 labels (blue, red).", "Two colours.", "drop-out 0.1", "seed 0",
        "Held-out accuracy at each sigma/255", "| crops | time | 0 | 50 | 25500 | loss |",
    ):  # fmt: skip
        assert words in card
    again = toml.read(made / "train.toml", ClassifierConfig)
    assert again.data.sources == [Source(str(folder))]
    assert not (trained[0] / "samples").exists()


# ---------------------------------------------------------------- configurations

TOML = """
[data]
sources = ["pictures"]
crop = 8
[network]
channels = [8]
[train]
steps = 3
precision = "no"
batch = 2
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TOML + 'predicts = "v"', ["'train.predicts'"]),
        (TOML + "sample_every = 3", ["'train.sample_every'"]),
        (TOML + "label_smooting = 0.1", ["did you mean 'label_smoothing'"]),
        (TOML + "label_smoothing = 1.0", ["[train]", "label_smoothing is 1", "[0, 1)"]),
        (TOML + "[data2]", ["'data2'", "'data'"]),
        (TOML.replace("crop = 8", "labels = true"), ["'data.labels'"]),
        (TOML.replace("crop = 8", "label_dropout = 0.1"), ["'data.label_dropout'"]),
        (TOML + "[validate]\nsigmas = [-1.0]", ["[validate]", "sigmas are at least 0"]),
        (TOML + "[validate]\npictures = 8", ["'validate.pictures'"]),
        (TOML.replace("channels", "chanels"), ["'chanels' of Encoder", "did you mean 'channels'"]),
        (TOML.replace("channels", "classes = 5\nchannels"), ["classes follow from the folders"]),
        (TOML.replace("channels", 'kind = "unet"\nchannels'), ["unknown kind 'unet'", "encoder"]),
        (TOML.replace("channels = [8]", "channels = [8, 8]\nlayers = [1]"), ["layers has 1 numbers for 2 scales"]),
        (TOML.replace("[8]", "[8, 8, 8, 8, 8]"), ["crop is 8", "multiple of 16"]),
        (TOML + '[schedule]\nclass = "FlowMatchEulerDiscreteScheduler"', ["[schedule]"]),
    ],
    ids=str,
)
def test_mistakes_are_named(folder, tmp_path, text, words):
    (tmp_path / "pictures").symlink_to(folder)
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        train(tmp_path / "c.toml", tmp_path / "run")
    assert all(word in str(caught.value) for word in words), caught.value


def test_pictures_that_make_no_classes(folder, tmp_path):
    config = settings(folder)
    config.data.holdout = [f"blue/{i}.png" for i in range(20)]
    with pytest.raises(InputError, match="all pictures are in one folder, 'red': a classifier needs two classes"):
        train(config, tmp_path)
    (tmp_path / "green").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "green" / "1.png")
    config = settings(folder)
    config.data.holdout = str(tmp_path)
    with pytest.raises(InputError, match=r"1.png is held out, and no picture of class 'green' is trained on"):
        train(config, tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "top.png")
    with pytest.raises(InputError, match="every picture in a folder"):
        train(settings(tmp_path), tmp_path)


def test_keys_that_may_change_are_keys():
    known = dataclasses.asdict(ClassifierConfig(LabelledData([Source("x")]), ClassifierTrain(steps=1)))
    for name in set(FREE) - {"train.sample_every"}:
        section, _, key = name.partition(".")
        assert key in known[section] if key else section in known


# ---------------------------------------------------------------- the command


def test_command(folder, tmp_path, monkeypatch):
    (tmp_path / "pictures").symlink_to(folder)
    (tmp_path / "c.toml").write_text(TOML)
    command = ["train", "classifier", tmp_path / "c.toml", "-o", tmp_path / "run", "--device", "cpu"]
    report = json.loads(run(*command, "-q", "--json").stdout)
    assert (report["step"], report["crops"], report["skipped"]) == (3, 6, 0)
    assert report["classifier"] == str(tmp_path / "run" / "classifier")
    assert "val_loss" in report["validation"]
    assert json.loads(run(*command, "--steps", 5, "-q", "--json").stdout)["step"] == 5
    said = run(*command, "--steps", 1, "--fresh").stderr
    assert "held-out accuracy at sigma 0: " in said
    assert f"wrote {report['classifier']} after 1 steps and 2 crops" in said
    for wrong in (["--steps", 0], ["--minutes", -1], ["--device", "toaster"]):
        assert run(*command, *wrong, code=2).stderr.count("\n") == 1
    elsewhere = ["train", "classifier", tmp_path / "c.toml", "--data", tmp_path / "nowhere", "-o", tmp_path / "run"]
    run(*elsewhere, "--steps", 1, "-q")  # the sources are looked for beside the configuration too
    assert run("train", "classifier", "nothing.toml", code=2).stderr.count("\n") == 1
    prior = save_tiny(tmp_path / "tiny")
    picture = ["generate", "--prior", prior, "--size", 16, "--steps", 2, "--label", "red", "-o", tmp_path / "o.png"]
    run(*picture, "--classifier", report["classifier"])

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("restore.train.classifier.train_classifier", stop)
    assert "run the same command to go on" in run(*command, code=130).stderr
