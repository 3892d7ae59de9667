"""Checkpoints -> priors, classifiers and folders; what reads them is a stand-in here, and has tests of its own."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch
from command import run
from test_load import answer, loaded

from restore.classifier import load_classifier
from restore.convert import convert
from restore.encoder import Encoder
from restore.errors import InputError, PriorError
from restore.fetch import sha256
from restore.load import describe, find, kind_of
from restore.zoo import entry

SCHEDULER = {
    "_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 1000, "clip_sample": True,
    "prediction_type": "epsilon", "variance_type": "learned_range",
}  # fmt: skip


@dataclass
class Checkpoint:
    """As restore.checkpoints has it."""

    kind: str
    net: Any
    family: str = "guided-diffusion"
    scheduler: dict = field(default_factory=lambda: dict(SCHEDULER))
    size: int | None = 32
    labels: Any = None
    flags: dict = field(default_factory=dict)
    title: str | None = "A network of somebody"
    licence: str | None = None
    condition: Any = None


def unet(**options):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, out_channels=6,
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3, **options,
    ).eval()  # fmt: skip


def encoder():
    torch.manual_seed(0)
    net = Encoder(classes=3, channels=(8, 16), time_channels=16)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return net.eval()


def read(path, flags=None):
    """Any file whose first word says what to make."""
    words = Path(path).read_text().split()
    if words[0] not in ("prior", "classes", "classifier"):
        raise InputError(f"{path}: not a checkpoint")
    flags = dict(flags or {})
    if set(flags) - {"num_heads", "noise_schedule", "class_cond"}:
        raise InputError(f"{path}: unknown flag")
    if words[0] == "classifier":
        return Checkpoint("classifier", encoder(), labels=["cat", "dog", "owl"], flags=flags)
    if words[0] == "classes":
        return Checkpoint("prior", unet(num_class_embeds=3), labels=3, flags=flags, licence="cc0-1.0")
    return Checkpoint("prior", unet(), flags={"num_heads": 4, **flags})


def look(path, flags=None):
    found = read(path, flags)
    return {"kind": found.kind, "title": found.title, "licence": found.licence or "unknown", "size": found.size}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    stand_in = ModuleType("restore.checkpoints")
    stand_in.read, stand_in.describe = read, look
    monkeypatch.setitem(sys.modules, "restore.checkpoints", stand_in)
    monkeypatch.setattr("restore.checkpoints", stand_in, raising=False)
    monkeypatch.setenv("RESTORE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("prior", "classes", "classifier"):
        (tmp_path / f"{name}.pt").write_text(f"{name} and weights")
    return tmp_path


def same(a, b):
    x, t = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([7, 900])
    with torch.no_grad():
        one, two = (getattr(found.net(x, t), "sample", found.net(x, t)) for found in (a, b))
    return torch.equal(one, two)


# ---------------------------------------------------------------- loading


def test_a_file_is_a_prior():
    prior = loaded("prior.pt")
    assert (prior.name, prior.predicts, prior.channels, prior.multiple) == ("prior.pt", "eps", 3, 4)
    assert (prior.size, prior.clip, prior.labels, prior.orientations) == (32, True, None, 1)
    abar = diffusers.DDPMScheduler(beta_schedule="linear").alphas_cumprod.double().numpy()
    assert prior.schedule.abar == pytest.approx(abar)
    assert answer(prior).shape == (1, 3, 16, 16)
    assert loaded("classes.pt").labels == 3
    assert loaded("prior.pt", predicts="v").predicts == "v"


def test_a_file_is_a_classifier():
    found = load_classifier("classifier.pt", device="cpu", dtype="float32")
    assert (found.labels, found.multiple, found.name) == (["cat", "dog", "owl"], 2, "classifier.pt")


def test_flags_go_to_the_reader(tiny_folder, gaussian_prior):
    with pytest.raises(InputError, match="unknown flag"):
        loaded("prior.pt", flags={"heads": 4})
    assert loaded("prior.pt", flags={"num_heads": 4})
    for source in (tiny_folder, "photo"):
        with pytest.raises(InputError, match="flags are for checkpoint files"):
            loaded(source, flags={"num_heads": 4})
    with pytest.raises(InputError, match="callable"):
        loaded(lambda x, t: x, schedule=gaussian_prior.schedule, flags={"num_heads": 4})


def test_each_is_refused_as_the_other():
    with pytest.raises(InputError, match=r"classifier\.pt is a classifier, not a prior"):
        loaded("classifier.pt")
    with pytest.raises(InputError, match=r"prior\.pt is a prior, not a classifier"):
        load_classifier("prior.pt")
    assert (kind_of("classifier.pt"), kind_of("prior.pt")) == ("classifier", "prior")
    assert describe("classifier.pt", "classifier")["title"] == "A network of somebody"
    with pytest.raises(PriorError, match="is a classifier"):
        describe("classifier.pt")


def test_names_of_the_table(here):
    (here / "home" / "checkpoints").mkdir(parents=True)
    (here / "home" / "checkpoints" / "ffhq_10m.pt").write_text("prior")
    assert loaded("ffhq_10m").name == "ffhq_10m"
    assert describe("ffhq_10m")["here"] is True
    convert("ffhq_10m", "ffhq")
    assert entry("ffhq_10m").page in Path("ffhq/README.md").read_text()


# ---------------------------------------------------------------- converting


def test_a_prior_becomes_a_folder():
    report = convert("prior.pt", "out", flags={"noise_schedule": "linear"})
    assert report == {
        "input": "prior.pt", "output": "out", "kind": "prior", "family": "guided-diffusion",
        "sha256": sha256(Path("prior.pt")),
    }  # fmt: skip
    file, folder = loaded("prior.pt"), loaded("out")
    assert same(file, folder)
    for level in (file.schedule.at(10), file.schedule.at(999)):
        assert torch.equal(answer(file, level), answer(folder, level))
    for name in ("predicts", "channels", "multiple", "size", "clip", "labels", "orientations"):
        assert getattr(file, name) == getattr(folder, name), name
    assert (file.schedule.abar == folder.schedule.abar).all()
    card = Path("out/README.md").read_text()
    for words in ("license: unknown", "# A network of somebody", sha256(Path("prior.pt")), "| `num_heads` | `4` |"):
        assert words in card
    assert "| `noise_schedule` | `linear` |" in card
    assert not list(Path("out").rglob("*.bin"))
    assert sorted(p.name for p in Path().iterdir()) == ["classes.pt", "classifier.pt", "out", "prior.pt"]
    assert isinstance(diffusers.DDPMPipeline.from_pretrained("out").unet, diffusers.UNet2DModel)


def test_classes_and_licences():
    convert("classes.pt", "out")
    assert loaded("out").labels == 3
    assert describe("out")["licence"] == "cc0-1.0"
    assert not Path("out/labels.json").exists()


def test_a_classifier_becomes_a_folder():
    assert convert("classifier.pt", "out")["kind"] == "classifier"
    file, folder = (load_classifier(source, device="cpu", dtype="float32") for source in ("classifier.pt", "out"))
    assert same(file, folder)
    assert folder.labels == ["cat", "dog", "owl"]
    assert kind_of("out") == "classifier"
    assert (Path("out") / "net" / "config.json").is_file()


def test_nothing_is_overwritten_unasked():
    Path("out").mkdir()
    convert("prior.pt", "out")  # an empty folder is no loss
    with pytest.raises(InputError, match="exists already: give --overwrite"):
        convert("classes.pt", "out")
    convert("classes.pt", "out", overwrite=True)
    assert loaded("out").labels == 3
    Path("file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        convert("prior.pt", "file", overwrite=True)
    Path("pictures").mkdir()
    Path("pictures/cat.png").write_text("x")
    with pytest.raises(InputError, match="not replaced"):
        convert("prior.pt", "pictures", overwrite=True)
    Path("out/original").mkdir()
    Path("out/original/net.pt").write_text("prior")
    with pytest.raises(InputError, match="not replaced"):
        convert("out/original/net.pt", "out", overwrite=True)
    assert Path("out/original/net.pt").is_file()


@pytest.mark.parametrize("part", ["index", "parts", "text"])
def test_whole_or_not_at_all(part, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    convert("classes.pt", "old")
    monkeypatch.setattr(f"restore.layout.{part}", fail)
    for out in ("new", "old"):
        with pytest.raises(KeyboardInterrupt):
            convert("prior.pt", out, overwrite=True)
    assert not Path("new").exists()
    assert loaded("old").labels == 3
    assert not [p for p in Path().iterdir() if p.name.startswith(".")]


def test_what_cannot_be_converted(tiny_folder):
    with pytest.raises(InputError, match="is a folder"):
        convert(tiny_folder, "out")
    with pytest.raises(InputError, match="is a folder"):
        convert("photo", "out")
    with pytest.raises(PriorError, match="download 256x256_diffusion_uncond"):
        convert("256x256_diffusion_uncond", "out")
    Path("bad.pt").write_text("nonsense")
    with pytest.raises(InputError, match="not a checkpoint"):
        convert("bad.pt", "out")
    assert not Path("out").exists()


# ---------------------------------------------------------------- the command


def test_the_command():
    Path("flags.toml").write_text("num_heads = 2\nclass_cond = true\n")
    told = ("--flags", "flags.toml", "--flag", "num_heads=8", "--flag", "noise_schedule=linear")
    result = run("priors", "convert", "prior.pt", "out", *told, "--json")
    assert json.loads(result.stdout)["output"] == "out"
    assert result.stderr == "restore: note: out: a prior of the guided-diffusion family\n"
    card = Path("out/README.md").read_text()
    for words in ("| `num_heads` | `8` |", "| `class_cond` | `True` |", "| `noise_schedule` | `linear` |"):
        assert words in card
    assert "give --overwrite" in run("priors", "convert", "prior.pt", "out", code=2).stderr
    assert run("priors", "convert", "prior.pt", "out", "--overwrite", "-q").stderr == ""
    assert run("priors", "info", "out").stdout.count("\n") > 5
    assert find("out") == Path("out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--flag", "num_heads"], "NAME=VALUE"),
        (["--flag", "=4"], "NAME=VALUE"),
        (["--flag", "wrong=4"], "unknown flag"),
        (["--flags", "nowhere.toml"], "not a readable TOML file"),
        (["--flags", "prior.pt"], "not a readable TOML file"),
    ],
)
def test_flags_that_are_refused(options, words):
    for command in (["convert", "prior.pt", "out"], ["info", "prior.pt"]):
        result = run("priors", *command, *options, code=2)
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_values_of_flags():
    from restore.cli.priors import read_flags

    told = ["a=4", "b=0.1", "c=True", "d=false", "e=16,8", "f=linear", 'g="x"', "h=[1, 2]", "i="]
    assert read_flags(told, None) == {
        "a": 4, "b": 0.1, "c": True, "d": False, "e": "16,8", "f": "linear", "g": "x", "h": [1, 2], "i": "",
    }  # fmt: skip
    assert read_flags(None, None) is None
