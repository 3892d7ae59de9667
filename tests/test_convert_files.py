"""Real checkpoint files, of small random networks: loaded, described, converted, with the same answers everywhere."""

import json
from pathlib import Path

import pytest
import torch
from command import run
from test_load import loaded

from restore.classifier import load_classifier
from restore.convert import convert
from restore.errors import InputError
from restore.guided import GuidedEncoder, GuidedUNet
from restore.load import describe, kind_of

BASE = {"image_size": 16, "noise_schedule": "linear", "use_new_attention_order": False}
HEADS = {**BASE, "num_head_channels": 32}
CLASSES = {"out_channels": 6, "num_heads": None, "num_head_channels": 32, "num_class_embeds": 5}
FILES = {  # networks that UNet2DModel can say, that it cannot, and a classifier; with the flags that they need
    "classes": (GuidedUNet, CLASSES, HEADS),
    "own": (GuidedUNet, {"num_heads": 2, "attention": (True, True)}, {**BASE, "num_heads": 2}),
    "classifier": (
        GuidedEncoder, {"classes": 4, "num_heads": None, "num_head_channels": 32, "sample_size": 16}, HEADS,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("RESTORE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name, (kind, options, _) in FILES.items():
        torch.manual_seed(0)
        net = kind(**options)
        for weight in net.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        torch.save(net.state_dict(), f"{name}.pt")


def both(name):
    """What the file is, and what the folder is that it was converted to."""
    flags = FILES[name][2]
    load = loaded
    if name == "classifier":

        def load(source, **options):
            return load_classifier(source, device="cpu", dtype="float32", **options)

    convert(f"{name}.pt", name, flags=flags)
    return load(f"{name}.pt", flags=flags), load(name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_and_its_folder_are_the_same(name):
    file, folder = both(name)
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 900])
    given = {"class_labels": torch.tensor([1, 4])} if name == "classes" else {}
    with torch.no_grad():
        a, b = (net.net(x, t, **given) for net in (file, folder))
    a, b = (getattr(out, "sample", out) for out in (a, b))
    assert a.std() > 1e-3
    assert torch.equal(a, b)
    assert (file.schedule.abar == folder.schedule.abar).all()
    assert (file.schedule.spacing, file.schedule.offset) == (folder.schedule.spacing, folder.schedule.offset)
    names = ["multiple", "labels", "dtype"]
    if name != "classifier":
        names += ["predicts", "channels", "clip", "size", "orientations", "null_label"]
    for field in names:
        assert getattr(file, field) == getattr(folder, field), field
    assert type(file.net) is type(folder.net)
    level = file.schedule.at(500)
    if name == "own":
        assert torch.equal(file(x, level).x0, folder(x, level).x0)


@pytest.mark.parametrize("name", FILES)
def test_descriptions_agree(name):
    flags, kind = FILES[name][2], "classifier" if name == "classifier" else "prior"
    convert(f"{name}.pt", name, flags=flags)
    assert kind_of(f"{name}.pt", flags) == kind_of(name) == kind
    file, folder = describe(f"{name}.pt", kind, flags), describe(name, kind)
    assert set(file) == set(folder)
    for key in (
        "kind",
        "licence",
        "megabytes",
        "network",
        "channels",
        "size",
        "predicts",
        "schedule",
        "levels",
        "classes",
    ):
        assert file[key] == pytest.approx(folder[key], abs=0.05) if key == "megabytes" else file[key] == folder[key], (
            key
        )


def test_missing_flags_are_one_line():
    result = run("priors", "info", "own.pt", code=2)
    assert "own.pt: its tensors do not tell" in result.stderr
    assert result.stderr.count("\n") == 1
    with pytest.raises(InputError, match=r"own\.pt"):
        loaded("own.pt")
    assert run("priors", "convert", "own.pt", "out", code=2).stderr.count("\n") == 1
    assert not Path("out").exists()


def test_flags_beside_the_file_and_on_the_command_line():
    told = [f"--flag={key}={value}" for key, value in FILES["own"][2].items()]
    assert json.loads(run("priors", "info", "own.pt", "--json", *told).stdout)["network"] == "GuidedUNet"
    Path("own.toml").write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in FILES["own"][2].items()))
    assert loaded("own.pt").size == 16
    run("priors", "convert", "own.pt", "own")
    run("generate", "--prior", "own.pt", "-o", "a.png", "--steps", "2", "--device", "cpu", "--dtype", "float32")
    run("generate", "--prior", "own", "-o", "b.png", "--steps", "2", "--device", "cpu", "--dtype", "float32")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_damaged_files():
    Path("torn.pt").write_bytes(Path("own.pt").read_bytes()[:5000])
    Path("text.pt").write_text("hello")
    for name in ("torn.pt", "text.pt"):
        for command in (["info", name], ["convert", name, "out"]):
            result = run("priors", *command, code=2)
            assert name in result.stderr
            assert result.stderr.count("\n") == 1
