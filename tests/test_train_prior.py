"""Training a prior: what it learns, what it exports, the command."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from test_train_loop import logged, settings, state, train
from typer.testing import CliRunner

from restore.cli import app
from restore.errors import InputError
from restore.levels import linear
from restore.load import load_prior
from restore.prior import Pred
from restore.train.bound import variational_bound
from restore.train.build import build_network, build_scheduler, schedule_of
from restore.train.config import Data, Export, PriorConfig, Source, Train, Validate
from restore.train.prior import sheet, start_from

DIFFUSERS = {
    "kind": "UNet2DModel",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for i in range(8):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


def test_export_loads_in_diffusers_and_here(folder, tmp_path):
    config = settings(folder, predicts="v", channels_last=True)
    config.network, config.schedule = DIFFUSERS, {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100}
    config.validate, config.train.sample_every = Validate(every=6, size=16, sigmas=[25.0]), 6
    report = train(config, tmp_path)
    prior = tmp_path / "prior"
    net = UNet2DModel.from_pretrained(prior / "unet")
    assert all(torch.equal(value, state(tmp_path)[f"ema.{name}"]) for name, value in net.named_parameters())
    scheduler = DDPMScheduler.from_pretrained(prior / "scheduler")
    assert (scheduler.config.prediction_type, len(scheduler)) == ("v_prediction", 100)
    index = json.loads((prior / "model_index.json").read_text())
    assert (index["_class_name"], index["unet"]) == ("DDPMPipeline", ["diffusers", "UNet2DModel"])
    loaded = load_prior(prior, device="cpu", dtype="float32")
    loaded.clip = False
    x, level = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), loaded.schedule.at(50)
    out = net(x, torch.tensor([50.0])).sample
    torch.testing.assert_close(level.alpha * loaded(x, level).eps - level.sigma * loaded(x, level).x0, out)
    card = (prior / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\n")
    assert "| crops | time | 25 | loss |" in card
    assert set(report["validation"]) == {"psnr_25", "val_loss"}
    assert [row["step"] for row in logged(tmp_path) if "val_loss" in row] == [6, 12]
    assert Image.open(tmp_path / "samples" / "00000012.png").size == (8 * 10 + 2, 7 * 10 + 2)


def test_half_precision_weights_of_our_network_and_labels(folder, tmp_path):
    config = settings(folder, steps=3)
    config.data.labels, config.export = True, Export(dtype="fp16", title="Two letters", license="mit")
    config.validate, config.train.sample_every = Validate(every=3, size=16), 3
    assert math.isfinite(train(config, tmp_path)["validation"]["val_loss"])
    assert json.loads((tmp_path / "prior" / "labels.json").read_text()) == ["a", "b"]
    weights = state(tmp_path)
    assert weights["net.class_embedding.weight"].shape[0] == 3  # the last one is 'no label'
    prior = load_prior(tmp_path / "prior", device="cpu", dtype="float32")
    assert prior.labels == ["a", "b"]
    average = {k.removeprefix("ema."): v for k, v in weights.items() if k.startswith("ema.")}
    loaded = prior.net.state_dict()
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in average.items())


@pytest.mark.parametrize("predicts", ["x0", "flow"])
def test_other_targets(folder, tmp_path, predicts):
    config = settings(folder, steps=3, predicts=predicts)
    config.validate, config.train.sample_every = Validate(every=3, size=16), 3
    assert math.isfinite(train(config, tmp_path)["validation"]["val_loss"])


def test_bf16_autocast_keeps_the_loss(folder, tmp_path):
    train(settings(folder, steps=4), tmp_path / "a")
    train(settings(folder, steps=4, precision="bf16"), tmp_path / "b")
    assert logged(tmp_path / "a")[-1]["loss"] == pytest.approx(logged(tmp_path / "b")[-1]["loss"], rel=0.02)
    assert all(value.dtype == torch.float32 for value in state(tmp_path / "b").values())


def test_white_noise_pictures_reach_the_analytic_optimum(tmp_path):
    """For x0 ~ N(m, v) per pixel the least loss of eps is the mean over t of a^2 v / (a^2 v + s^2)."""
    rng = np.random.default_rng(0)
    noise = (140 + 16 * rng.standard_normal((256, 256, 3))).round().clip(0, 255).astype(np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(noise).save(tmp_path / "pictures" / "noise.png")
    config = PriorConfig(
        Data([Source(str(tmp_path / "pictures"))], crop=8, shrink=(1.0, 1.0), holdout=0.0),
        Train(
            steps=200, batch=32, lr=5e-3, warmup=10, precision="no", ema=0.9, save_every=0, sample_every=0, log_every=25
        ),
        network={"kind": "unet", "channels": [16], "layers": 1},
        validate=Validate(every=0),
    )
    train(config, tmp_path / "run")
    abar = torch.linspace(1e-4, 0.02, 1000).double().neg().add(1).cumprod(0)
    v = (16 / 127.5) ** 2
    best = (abar * v / (abar * v + 1 - abar)).mean().item()
    last = logged(tmp_path / "run")[-1]["loss"]
    assert 0.9 * best < last < 1.3 * best, (best, last)


def test_mistakes_in_network_and_schedule_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"unknown kind 'vit'"):
        build_network({"kind": "vit"})
    with pytest.raises(InputError, match=r"'chanels' of UNet: did you mean 'channels'"):
        build_network({"kind": "unet", "chanels": [8]})
    with pytest.raises(InputError, match=r"UNet2DModel refuses"):
        build_network(DIFFUSERS | {"norm_num_groups": 3})
    with pytest.raises(InputError, match=r"did you mean 'beta_schedule'"):
        build_scheduler({"beta_schedul": "linear"}, "eps")
    with pytest.raises(InputError, match="prediction_type"):
        build_scheduler({"prediction_type": "epsilon"}, "eps")
    with pytest.raises(InputError, match="no scheduler 'Nothing'"):
        build_scheduler({"class": "Nothing"}, "eps")
    config = settings(folder)
    config.data.crop = 9
    with pytest.raises(InputError, match="multiple of 2"):
        train(config, tmp_path)
    config.schedule = {"class": "FlowMatchEulerDiscreteScheduler"}
    with pytest.raises(InputError, match="flow"):
        train(config, tmp_path)


def test_schedule_is_that_of_the_scheduler():
    scheduler = build_scheduler({"beta_schedule": "squaredcos_cap_v2"}, "eps")
    np.testing.assert_allclose(schedule_of(scheduler).abar, scheduler.alphas_cumprod.double(), rtol=1e-3)


def test_sheet_lays_tiles_out():
    out = sheet([torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)], 2)
    assert out.shape == (14, 14, 3)
    assert (out[8:12, 2:6] == 0).all()


TOML = """
[data]
sources = ["pictures"]
crop = 8
holdout = 0.0
[network]
channels = [8]
layers = 1
[train]
steps = 3
precision = "no"
batch = 2
"""


def test_command(folder, tmp_path, monkeypatch):
    (tmp_path / "pictures").symlink_to(folder)
    (tmp_path / "c.toml").write_text(TOML)
    run = CliRunner()
    command = [
        "train",
        "prior",
        str(tmp_path / "c.toml"),
        "-o",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "-q",
        "--json",
    ]
    done = run.invoke(app, command)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["step"], report["crops"], report["skipped"]) == (3, 6, 0)
    assert report["prior"] == str(tmp_path / "run" / "prior")
    again = json.loads(run.invoke(app, [*command, "--steps", "5"]).stdout)
    assert again["step"] == 5
    (tmp_path / "c.toml").write_text(TOML + "lrr = 3\n")
    wrong = run.invoke(app, command)
    assert wrong.exit_code == 2
    assert "'train.lrr'" in wrong.stderr
    assert run.invoke(app, ["train", "prior", "nothing.toml"]).exit_code == 2
    assert run.invoke(app, [*command, "--steps", "0"]).exit_code == 2

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("restore.train.prior.train_prior", stop)
    assert run.invoke(app, command).exit_code == 130


def test_learned_variance_trains_and_loads(folder, tmp_path):
    """Six output channels: the hybrid loss moves the variance, and the exported prior has a fraction."""
    config = settings(folder, steps=3)
    network = {"kind": "unet", "channels": [8], "layers": 1, "out_channels": 6}
    config = dataclasses.replace(config, network=network, schedule={"variance_type": "learned_range"})
    train(config, tmp_path / "run")
    prior = load_prior(tmp_path / "run" / "prior", device="cpu", dtype="float32")
    pred = prior(torch.randn(1, 3, 8, 8), prior.levels(4)[1])
    assert pred.frac.shape == pred.x0.shape
    assert pred.frac.abs().max() > 0


def test_bound_vanishes_for_the_true_posterior():
    """KL is 0 where x0 is right and the variance is beta~ (fraction -1), and grows with the error of x0 squared."""
    table, t = linear(1000), torch.tensor([1, 400, 999])
    x0 = torch.rand(3, 3, 4, 4) * 2 - 1
    level = table.at(t)
    x = level.alpha * x0 + level.sigma * torch.randn(3, 3, 4, 4)
    truth = Pred(x0, x, torch.full_like(x0, -1.0))
    assert variational_bound(table, t, x0, x, truth).abs().max() < 1e-6
    one, two = (variational_bound(table, t, x0, x, truth._replace(x0=x0 + e)) for e in (0.1, 0.2))
    assert torch.allclose(two, 4 * one, rtol=1e-4, atol=1e-12)


def test_a_deeper_network_starts_as_the_prior_that_it_grows_from(tiny_folder):
    old = load_prior(tiny_folder, device="cpu", dtype="float32")
    small = {"kind": "unet", "channels": [8, 16], "time_channels": 16}
    net = build_network({**small, "layers": 3})
    start_from(net, tiny_folder, "eps", old.schedule)
    x, t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])
    torch.testing.assert_close(net(x, t).sample, old.net(x, t).sample)
    for predicts, schedule, section, match in (
        ("v", old.schedule, {"layers": 1}, "predicts eps"),
        ("eps", linear(1000), {"layers": 1}, "noise table"),
        ("eps", linear(10), {"layers": 1}, "noise table"),
        ("eps", old.schedule, {"layers": 1, "channels": [8, 24]}, "other shapes"),
        ("eps", old.schedule, {"layers": 1, "num_class_embeds": 4}, "another network"),
    ):
        with pytest.raises(InputError, match=match):
            start_from(build_network({**small, **section}), tiny_folder, predicts, schedule)
