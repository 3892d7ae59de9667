"""The priors and classifiers that ship: whole, small, credited, and made by configurations that can be read."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from conftest import seeded
from torch.nn.functional import interpolate

import restore
from restore import images
from restore.degrade import shrunk
from restore.levels import Level
from restore.load import bundled, describe, load_prior
from restore.metrics import psnr
from restore.train import toml
from restore.train.conditional_config import ConditionalConfig
from restore.train.config import ClassifierConfig, PriorConfig

SHIPPED = [(kind, name) for kind in ("prior", "classifier") for name in bundled(kind)]
FOLDERS = {(kind, name): bundled(kind)[name] for kind, name in SHIPPED}


def test_what_ships():
    assert SHIPPED == [("prior", "flowers"), ("prior", "photo"), ("prior", "photo-x4"), ("classifier", "flowers")]


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_configuration_can_be_read(kind, name):
    folder = FOLDERS[kind, name]
    unconditional = ClassifierConfig if kind == "classifier" else PriorConfig
    config = ConditionalConfig if (folder / "condition.json").is_file() else unconditional
    for path in folder.glob("*.toml"):
        assert toml.read(path, config).output.startswith("runs/"), path


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_files_are_small_and_the_card_is_whole(kind, name):
    folder = FOLDERS[kind, name]
    assert all(path.stat().st_size < 20e6 for path in folder.rglob("*"))
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.p*t*h"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    for heading in ("## Training", "## What it is bad at", "## Licence and credits", "Held-out "):
        assert heading in card
    for target in re.findall(r"\]\(([^)#]+)\)", card):
        assert (folder / target).exists(), f"{folder}: the card points to {target}, which is not there"
    facts = describe(name, kind)
    assert facts["licence"] == "mit"
    assert facts["megabytes"] < 20


@pytest.mark.parametrize("name", bundled())
def test_every_picture_is_credited(name):
    lines = (FOLDERS["prior", name] / "credits.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 500
    assert all(line.count("\t") >= 1 for line in lines)


def test_flowers_know_their_labels():
    """The prior denoises better told the truth than told nothing; the classifier sees what it drew."""
    prior = load_prior("flowers", device="cpu", dtype="float32")
    classifier = restore.load_classifier("flowers", device="cpu", dtype="float32")
    assert prior.labels == classifier.labels == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    clean = Level(0.0, 1.0, 0.0)
    right = 0
    for label in prior.labels:
        picture = restore.generate(prior=prior, label=label, guidance=3, steps=8, seed=1)
        assert picture.size == (64, 64)
        x = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, 64, 64, 3)
        right += int(classifier(x.permute(0, 3, 1, 2) / 127.5 - 1, clean).argmax()) == prior.labels.index(label)
    assert right >= 4


def test_photo_denoises():
    """Of any size, and better than by doing nothing: a smooth ramp under noise of a tenth."""
    prior = load_prior("photo", device="cpu", dtype="float32")
    ramp = torch.linspace(0, 1, 48 * 40).reshape(1, 1, 48, 40).expand(1, 3, -1, -1)
    noisy = (ramp + 0.1 * torch.randn(ramp.shape, generator=seeded())).clamp(0, 1)
    found = restore.denoise(noisy, prior=prior, noise_std=0.1)
    assert (found - ramp).square().mean() < (noisy - ramp).square().mean() / 20


def test_photo_x4_is_nearer_to_the_truth_than_bicubic():
    """A photograph that it has not seen; and what is made smaller again is what was given."""
    prior = load_prior("photo-x4", device="cpu", dtype="float32")
    truth = images.read(Path(str(files("restore.assets"))) / "images/colosseum.png").rgb[..., 32:160, 60:188]
    small = shrunk(truth, 4, "bicubic", "it").clamp(0, 1)
    bicubic = interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1)
    found = restore.upscale(small, prior=prior, steps=2, consistent=True)
    assert psnr(found, truth) > psnr(bicubic, truth) + 0.5
    assert (shrunk(found, 4, "bicubic", "it") - small).abs().mean() < 1e-3


def test_the_guide_names_them():
    """What the guides call bundled is there."""
    text = Path(__file__).parent.parent.joinpath("docs/priors.md").read_text(encoding="utf-8")
    assert all(f"[`{name}`](../assets/priors/{name}/README.md)" in text for name in bundled())
