"""Names and folders -> Prior."""

import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from restore import load
from restore.conditional import ConditionalPrior
from restore.errors import InputError, PriorError
from restore.levels import Flow, Table, cosine, linear
from restore.load import bundled, describe, load_prior
from restore.prior import Prior
from restore.unet import UNet


def loaded(source, **options):
    return load_prior(source, **{"device": "cpu", "dtype": "float32", **options})


@pytest.fixture
def folder(tmp_path, tiny_folder):
    """A copy of the tiny prior, to be spoiled."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "prior"))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def answer(prior, level=None):
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return prior(x, level or prior.schedule.at(500)).x0


# ---------------------------------------------------------------- folders


def test_pipeline_folder(tiny_folder):
    prior = loaded(tiny_folder)
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    assert np.allclose(prior.schedule.abar, scheduler.alphas_cumprod.numpy())
    assert (prior.predicts, prior.channels, prior.multiple, prior.clip) == ("eps", 3, 2, True)
    assert prior.labels is None
    assert prior.name == str(tiny_folder)
    assert not prior.net.training
    x0 = answer(prior)
    assert x0.abs().max() <= 1
    assert torch.equal(x0, answer(loaded(str(tiny_folder))))


def test_bare_folders(tmp_path, tiny_folder):
    bare = Path(shutil.copytree(tiny_folder / "unet", tmp_path / "bare"))
    with pytest.warns(UserWarning, match=r"scheduler_config\.json.*linear"):
        prior = loaded(bare)
    assert np.allclose(prior.schedule.abar, linear(1000).abar)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = loaded(bare, schedule=cosine())
        shutil.copy(tiny_folder / "scheduler" / "scheduler_config.json", bare)
        beside = loaded(bare)
        inside = loaded(tiny_folder / "unet")  # of a pipeline, whose scheduler is next door
    assert np.allclose(given.schedule.abar, cosine().abar)
    assert torch.equal(answer(beside), answer(loaded(tiny_folder)))
    assert torch.equal(answer(inside), answer(loaded(tiny_folder)))


SCHEDULERS = [diffusers.DDPMScheduler, diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler]
SCHEDULERS += [diffusers.DPMSolverMultistepScheduler, diffusers.PNDMScheduler]


@pytest.mark.parametrize("kind", SCHEDULERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("says", ["epsilon", "sample", "v_prediction"])
def test_schedulers_and_predictions(kind, says, folder):
    if kind is diffusers.PNDMScheduler and says == "sample":
        pytest.skip("PNDM knows no sample prediction")
    scheduler = kind(beta_schedule="scaled_linear", prediction_type=says, num_train_timesteps=400)
    scheduler.save_pretrained(folder / "scheduler")
    prior = loaded(folder)
    assert prior.predicts == {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[says]
    assert isinstance(prior.schedule, Table)
    assert len(prior.schedule) == 400
    assert prior.clip == bool(scheduler.config.get("clip_sample", False))
    level = prior.schedule.at(200)
    x, t = torch.rand(1, 3, 16, 16), torch.tensor([200])
    with torch.no_grad():
        pred, out = prior(x, level), prior.net(x, t).sample
    wanted = {
        "eps": (x - level.sigma * out) / level.alpha, "x0": out, "v": level.alpha * x - level.sigma * out,
    }[prior.predicts]  # fmt: skip
    wanted = wanted.clamp(-1, 1) if prior.clip else wanted
    torch.testing.assert_close(pred.x0, wanted, rtol=1e-4, atol=1e-4)


def test_flow_matching(folder):
    diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    prior = loaded(folder)
    assert prior.predicts == "flow"
    assert prior.schedule == Flow(1000, 3.0)


def test_preconditioned_networks_are_refused(folder):
    diffusers.EDMEulerScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(InputError, match="EDMEulerScheduler"):
        loaded(folder)


def test_unknown_prediction(folder):
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="aura")
    with pytest.raises(InputError, match="aura"):
        loaded(folder)
    assert loaded(folder, predicts="x0").predicts == "x0"
    with pytest.raises(InputError, match="aura"):
        loaded(folder, predicts="aura")


def test_networks_of_diffusers(tmp_path):
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=32, block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
    )  # fmt: skip
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    prior = loaded(tmp_path / "ddpm")
    assert (prior.multiple, prior.size, prior.channels) == (4, 32, 3)
    level = prior.schedule.at(100)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(prior.net(x, torch.tensor([100])).sample, net.eval()(x, torch.tensor([100])).sample)
        assert prior(x, level).x0.shape == x.shape


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_float32_in_memory(half, folder):
    net = UNet.from_pretrained(folder / "unet").to(half)
    net.save_pretrained(folder / "unet")
    prior = loaded(folder)
    assert {p.dtype for p in prior.net.parameters()} == {torch.float32}
    torch.testing.assert_close(answer(prior), answer(Prior(net.float(), schedule=prior.schedule, clip=True)))


# ---------------------------------------------------------------- pickles


class Burglar:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def as_pickle(folder, data=None):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if data is None:
        UNet.from_pretrained(folder / "unet").save_pretrained(folder / "unet", safe_serialization=False)
    weights.unlink(missing_ok=True)
    return folder / "unet" / "diffusion_pytorch_model.bin"


def test_a_pickle_of_tensors_is_read(folder):
    wanted = answer(loaded(folder))
    assert as_pickle(folder).is_file()
    assert torch.equal(answer(loaded(folder)), wanted)


@pytest.mark.parametrize("how", ["torch", "pickle", "legacy"])
def test_a_pickle_never_runs_code(how, folder, tmp_path):
    path, stolen = as_pickle(folder), tmp_path / "stolen"
    state = {**torch.load(path, weights_only=True), "extra": Burglar(stolen)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(state["extra"]))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError, match="weights") as error:
        loaded(folder)
    assert "\n" not in str(error.value)
    assert not stolen.exists()
    pickle.loads(pickle.dumps(Burglar(stolen))).close()  # the trap works
    assert stolen.exists()


# ---------------------------------------------------------------- what is missing or damaged


def test_nothing_there(tmp_path):
    for source in ("nowhere", tmp_path / "nowhere", ""):
        with pytest.raises(PriorError, match=r"bundled name|no diffusers folder"):
            loaded(source)
    with pytest.raises(PriorError, match=r"config\.json"):
        loaded(tmp_path)


def test_a_file_is_not_a_folder(tiny_folder, tmp_path):
    weights = tiny_folder / "unet" / "diffusion_pytorch_model.safetensors"
    for call in (loaded, describe):
        with pytest.raises(InputError, match="is a file: give the diffusers folder"):
            call(weights)


def test_weights_and_configuration_that_differ_are_named(folder):
    edit(folder / "unet" / "config.json", layers=2)
    with pytest.raises(InputError, match=r"do not belong together.*down_blocks\.0\.1"):
        loaded(folder)
    edit(folder / "unet" / "config.json", layers=1, channels=[8, 24])
    with pytest.raises(InputError, match="do not belong together: size mismatch") as error:
        loaded(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "labels.json"])
@pytest.mark.parametrize("text", ["", "{", "3", "\x00"])
def test_configurations_that_are_no_json(name, text, folder):
    (folder / name).write_text(text)
    for call in (loaded, describe):
        with pytest.raises(InputError, match=Path(name).name):
            call(folder)


def test_loading_leaves_the_loggers_as_they_were(folder):
    before = diffusers.utils.logging.get_verbosity()
    loaded(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError):
        loaded(folder)
    assert diffusers.utils.logging.get_verbosity() == before


def test_loading_does_not_touch_the_folder(folder):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    loaded(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_loading_uses_no_network_connection(folder, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loaded(folder)
    with pytest.raises(PriorError):
        loaded("google/ddpm-celebahq-256")


# ---------------------------------------------------------------- what `restore priors` shows


def test_describe(folder):
    facts = describe(folder)
    assert facts["network"] == "UNet"
    assert (facts["channels"], facts["levels"], facts["predicts"]) == ([8, 16], 1000, "epsilon")
    assert facts["schedule"] == "squaredcos_cap_v2"
    assert facts["licence"] == "unknown"
    assert Path(facts["folder"]) == folder
    assert facts["megabytes"] == round(os.path.getsize(next((folder / "unet").glob("*.safetensors"))) / 1e6, 1)
    json.dumps(facts)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\ntags: [a, b]\n---\n# tiny: a test\n\ntext\n")
    assert (describe(folder)["licence"], describe(folder)["title"]) == ("cc0-1.0", "tiny: a test")
    (folder / "README.md").write_text("no header\n")
    assert describe(folder)["title"] == "prior"
    (folder / "labels.json").write_text('["cat", "dog"]')
    assert (describe(folder)["classes"], describe(folder)["labels"]) == (2, "cat, dog")


def test_describe_a_bare_folder(tmp_path, tiny_folder):
    bare = Path(shutil.copytree(tiny_folder / "unet", tmp_path / "bare"))
    assert describe(bare)["schedule"] is None
    shutil.copy(tiny_folder / "scheduler" / "scheduler_config.json", bare)
    assert describe(bare)["schedule"] == "squaredcos_cap_v2"
    with pytest.raises(PriorError):
        describe(tmp_path)


def test_every_bundled_prior_is_whole():
    for name, folder in bundled().items():
        facts = describe(name)
        assert facts["licence"] != "unknown"
        assert facts["title"] != folder.name
        prior = loaded(name)
        if isinstance(prior, ConditionalPrior):
            small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
            prior = prior.seeing(small)
        assert answer(prior).isfinite().all()


def test_bundled_names(tiny_folder, monkeypatch):
    monkeypatch.setattr(load, "bundled", lambda kind="prior": {"tiny": tiny_folder})
    assert loaded("tiny").name == "tiny"
    with pytest.raises(PriorError, match="tiny"):
        loaded("photo-of-nothing")
