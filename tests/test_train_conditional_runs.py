"""Trainings of conditional priors, whole and resumed: what they leave behind."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conditionals import KINDS, PALETTE, SR3, UNET, blurred_noise, config, run, task_of
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file
from training import logged, losses, state

from restore import load_prior
from restore.errors import InputError
from restore.levels import linear
from restore.train import toml
from restore.train.conditional_config import (
    Condition,
    ConditionalConfig,
    Degradation,
    Encoder,
    PairedSource,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return blurred_noise(tmp_path_factory.mktemp("pictures"))


# ---------------------------------------------------------------- trainings, and what they leave


@pytest.mark.parametrize("name", KINDS)
def test_a_training_ends_with_a_prior(folder, tmp_path, name):
    """It loads, knows its task, and its numbers are those of the log; its configuration reads back equal."""
    options = dict(KINDS[name])
    options["validate"] = {"every": 3} | options.get("validate", {})
    settings = config(folder, **options)
    report = run(settings, tmp_path)
    found = tmp_path / "prior"
    assert (report["step"], report["crops"], report["prior"]) == (6, 24, str(found))
    prior = load_prior(str(found), device="cpu", dtype="float32")
    scale = options.get("scale", 1)
    kinds = options.get("condition", {})
    told = prior.condition
    assert told.tasks == (("upscale",) if scale > 1 else ("colorize", "inpaint", "repair", "deblur"))
    assert (told.scale, told.shrunk) == (scale, kinds.get("shrunk", "bicubic"))
    assert (told.residual, told.dropout) == (kinds.get("residual", 0.0), "dropout" in kinds)
    assert told.augment == pytest.approx(2 * kinds.get("augment", 0) / 255)
    assert told.noise_level == options.get("noise_level", 0.0)
    assert told.low_res == (name == "srdiff x2")
    x, y = torch.randn(2, 3, 24, 24), torch.rand(2, 3, 24 // scale, 24 // scale) * 2 - 1
    seeing = prior.seeing(y)
    pred = seeing(x, seeing.levels(4)[1])
    assert pred.x0.shape == x.shape
    assert pred.x0.isfinite().all()
    weights = load_file(found / "unet" / "diffusion_pytorch_model.safetensors")
    average = state(tmp_path)
    assert all(torch.equal(value, average[f"ema.{name}"]) for name, value in weights.items())
    assert toml.read(found / "train.toml", ConditionalConfig) == dataclasses.replace(settings, output=str(tmp_path))
    validation = [row for row in logged(tmp_path) if "val_loss" in row]
    assert [row["step"] for row in validation] == [3, 6]
    names = {"val_psnr", "val_ssim", "val_input", "val_loss"}
    assert names == set(report["validation"]) - {"best"}
    assert all(math.isfinite(row[key]) for row in validation for key in names)


def test_a_trained_prior_restores(folder, tmp_path):
    """By the commands: what OUTPUT/prior is for."""
    import restore

    run(config(folder, scale=2), tmp_path / "a")
    picture = np.asarray(Image.open(folder / "0.png"))
    out = restore.upscale(picture, 2, prior=str(tmp_path / "a" / "prior"), steps=2, dtype="float32")
    assert out.shape == (80, 96, 3)
    run(config(folder, kinds=PALETTE), tmp_path / "b")
    out = restore.colorize(picture, prior=str(tmp_path / "b" / "prior"), steps=2, dtype="float32")
    assert out.shape == picture.shape


def test_the_card_shows_its_numbers(folder, tmp_path):
    run(config(folder, scale=2, validate={"every": 3}), tmp_path)
    card = (tmp_path / "prior" / "README.md").read_text()
    lines = card.splitlines()
    head = lines.index("| crops | time | PSNR (dB) | SSIM | PSNR of what was given (dB) | loss |")
    assert lines[head - 2] == "Held-out measures of the averaged weights:"
    assert lines[head + 1] == "| --- | --- | --- | --- | --- | --- |"
    for line, row in zip(lines[head + 2 :], [r for r in logged(tmp_path) if "val_loss" in r], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        numbers = [f"{row['val_psnr']:.2f}", f"{row['val_ssim']:.4f}", f"{row['val_input']:.2f}"]
        assert cells[0] == str(row["crops"])
        assert cells[2:] == [*numbers, f"{row['val_loss']:.4f}"]
    assert "conditional denoising network" in card
    assert "enlarges pictures 2 times, trained on crops of 8 px" in card
    assert "predicts eps, loss l2" in card


def test_a_schedule_to_sample_on(folder, tmp_path):
    """The network is told noise levels, so that it may be sampled on another table, which is what is exported."""
    sampling = {"class": "DDIMScheduler", "num_train_timesteps": 50, "beta_start": 1e-4, "beta_end": 0.3}
    settings = config(folder, SR3, scale=2, noise_level=1.0, keys={"sampling": sampling}, validate={"every": 6})
    run(settings, tmp_path)
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "prior" / "scheduler")
    assert (len(scheduler), scheduler.config.beta_end, scheduler.config.prediction_type) == (50, 0.3, "epsilon")
    prior = load_prior(str(tmp_path / "prior"), device="cpu", dtype="float32")
    levels, table = prior.levels(5), linear(50, 1e-4, 0.3)
    for level in levels[:-1]:
        assert level.t == pytest.approx(float(level.alpha))
        assert np.abs(np.sqrt(table.abar) - float(level.alpha)).min() < 1e-5
    assert min(level.alpha for level in levels) < 0.07


def test_learning_lowers_the_loss(tmp_path):
    """Pictures of one colour each: what to say follows from the condition."""
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        colour = np.random.default_rng(i).integers(20, 236, 3)
        Image.new("RGB", (16, 16), tuple(map(int, colour))).save(tmp_path / "pictures" / f"{i}.png")
    settings = config(
        tmp_path / "pictures", scale=2, data={"holdout": 0.0}, steps=100, batch=16, lr=3e-3, predicts="x0", ema=0.9
    )
    run(settings, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert np.mean(found[-20:]) < 0.15 * np.mean(found[:5])
    blind = config(
        tmp_path / "pictures", scale=2, data={"holdout": 0.0}, steps=100, batch=16, lr=3e-3, predicts="x0", ema=0.9,
        condition={"dropout": 0.99},
    )  # fmt: skip
    run(blind, tmp_path / "blind")
    assert np.mean(losses(tmp_path / "blind")[-20:]) > 2 * np.mean(found[-20:])


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_that_cannot_be_used_are_counted_in_the_report(folder, tmp_path, workers):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for path in folder.iterdir():
        (pictures / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (7, 40)).save(pictures / "small.png")
    (pictures / "torn.png").write_bytes(b"no picture")
    report = run(config(pictures, scale=2, data={"workers": workers}, steps=8), tmp_path / "run")
    assert report["skipped"] == 2


# ---------------------------------------------------------------- resumption


RESUMED = {
    "sr3": {"network": {**SR3, "dropout": 0.2}, "scale": 2, "noise_level": 1.0},
    "palette": {"kinds": PALETTE, "condition": {"dropout": 0.3, "augment": 20.0}, "data": {"workers": 2}},
    "srdiff": KINDS["srdiff x2"],
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(folder, tmp_path, interrupt, name):
    settings = config(folder, **RESUMED[name])
    run(settings, tmp_path / "whole")
    interrupt(4)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "halves")
    assert len(losses(tmp_path / "halves")) == 4
    run(settings, tmp_path / "halves")
    whole, halves = state(tmp_path / "whole"), state(tmp_path / "halves")
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    assert len(losses(tmp_path / "whole")) == 6


def test_the_encoder_learns_alone_first_and_then_stays(folder, tmp_path):
    settings = config(folder, **KINDS["srdiff x2"])
    begin = task_of(settings).net.state_dict()
    run(dataclasses.replace(settings, train=dataclasses.replace(settings.train, save_every=3)), tmp_path, steps=6)
    final = {k.removeprefix("net."): v for k, v in state(tmp_path).items() if k.startswith("net.")}
    assert any(not torch.equal(begin[k], v) for k, v in final.items() if k.startswith("rrdb."))
    assert any(not torch.equal(begin[k], v) for k, v in final.items() if k.startswith("unet."))
    task = task_of(settings)
    for progress, alone in ((0.0, True), (0.49, True), (0.5, False), (0.9, False)):
        task.progress = progress
        assert task.pretraining() == alone
        assert all(p.requires_grad == alone for p in task.net.rrdb.parameters())
    loose = task_of(
        dataclasses.replace(settings, train=dataclasses.replace(settings.train, encoder=Encoder(0.5, False)))
    )
    loose.progress = 0.9
    assert not loose.pretraining()
    assert all(p.requires_grad for p in loose.net.rrdb.parameters())


def test_another_network_or_condition_is_refused_by_name(folder, tmp_path):
    settings = config(folder, scale=2)
    run(settings, tmp_path)
    for other, match in (
        (config(folder, {**UNET, "channels": [8, 24]}, scale=2), r"network\.channels\.1 \(16 there, 24 here\)"),
        (config(folder, scale=4), r"condition\.scale \(2 there, 4 here\)"),
        (config(folder, scale=2, condition={"residual": 1.0}), r"condition\.residual"),
        (config(folder, scale=2, noise_level=1.0), r"train\.noise_level"),
    ):
        with pytest.raises(InputError, match=match):
            run(other, tmp_path)
    noisy = dataclasses.replace(
        settings, condition=Condition(2, degradations=[Degradation("upscale", noise=(0.0, 9.0))])
    )
    with pytest.raises(InputError, match=r"condition\.degradations\.0\.noise"):
        run(noisy, tmp_path)
    assert run(noisy, tmp_path, fresh=True)["step"] == 6


def test_folders_of_pairs_may_move_between_a_run_and_its_resumption(folder, tmp_path):
    for place in ("here", "there"):
        for half in ("good", "bad"):
            (tmp_path / place / half).mkdir(parents=True)
            for path in folder.iterdir():
                (tmp_path / place / half / path.name).write_bytes(path.read_bytes())

    def at(place, **train):
        source = PairedSource(str(tmp_path / place / "good"), condition=str(tmp_path / place / "bad"))
        settings = config(folder, kinds=["jpeg"], data={"shrink": (1.0, 1.0)}, **train)
        return dataclasses.replace(settings, data=dataclasses.replace(settings.data, sources=[source]))

    run(at("here", steps=2), tmp_path / "run")
    assert run(at("there", steps=4), tmp_path / "run")["step"] == 4
