"""Released networks of SR3 and guided-diffusion's upsamplers, as files: read, asked about a picture, converted."""

import pytest
import torch
from command import run
from test_guided import UNET, lively
from test_sr3 import plain
from torch.nn.functional import interpolate

import restore
from restore import checkpoints
from restore.convert import convert
from restore.errors import InputError
from restore.guided import GuidedUNet
from restore.levels import linear
from restore.sr3 import SR3UNet

FLAGS = {"image_size": 16, "norm_groups": 4, "scale": 4}
SR3 = {
    "base_channels": 8, "channel_mults": (1, 2), "norm_groups": 4, "attn_res": (8,), "res_blocks": 1, "sample_size": 16
}  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    """By the names, and in the order of channels, of the public code: the enlarged picture comes first."""
    torch.manual_seed(0)
    return lively(SR3UNet(**SR3)).state_dict()


@pytest.fixture
def file(weights, tmp_path):
    return saved(tmp_path / "I640000_E37_gen.pth", weights)


def saved(path, weights, **more):
    torch.save({f"denoise_fn.{name}": value for name, value in weights.items()} | more, path)
    return path


def test_a_released_network_answers_as_its_own_code(file, weights):
    prior = restore.load_prior(file, flags=FLAGS, dtype="float32")
    assert prior.condition.scale == 4
    y, x = torch.rand(1, 3, 4, 4) * 2 - 1, torch.randn(1, 3, 16, 16)
    level = prior.levels(7)[2]
    shown = interpolate(y, (16, 16), mode="bicubic").clamp(-1, 1)
    eps = plain(weights, torch.cat([shown, x], 1), torch.tensor([level.alpha]), 4)
    found = prior.unclipped.seeing(y)(x, level)
    assert torch.allclose(found.eps, eps, atol=2e-5)
    table = linear(2000, 1e-6, 1e-2)
    assert level[1:] == pytest.approx(table.levels(7)[2][1:], rel=1e-6)
    assert level.t == pytest.approx(level.alpha)
    out = restore.upscale(torch.rand(1, 3, 5, 6), prior=prior, steps=3)
    assert out.shape == (1, 3, 20, 24)


def test_the_schedule_comes_from_flags_and_the_file_agrees(weights, tmp_path):
    betas = torch.linspace(1e-4, 0.02, 100, dtype=torch.float64).float()
    path = saved(tmp_path / "a.pth", weights, betas=betas)
    flags = FLAGS | {"linear_start": 1e-4, "linear_end": 0.02}
    prior = restore.load_prior(path, flags=flags)
    assert len(prior.schedule) == 100
    with pytest.raises(InputError, match="its betas are not those of schedule = linear"):
        restore.load_prior(path, flags=FLAGS)
    with pytest.raises(InputError, match="n_timestep = 50, and its tensors say 100"):
        restore.load_prior(path, flags=flags | {"n_timestep": 50})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "do not tell image_size, norm_groups, scale"),
        (FLAGS | {"res_blocks": 3}, "res_blocks = 3, and its tensors say 1"),
        (FLAGS | {"attn_res": "16"}, "attn_res = 16, and its tensors say 8"),
        (FLAGS | {"norm_group": 4}, "did you mean norm_groups"),
        (FLAGS | {"schedule": "jsd"}, "schedule = 'jsd'"),
    ],
)
def test_flags_that_do_not_fit(flags, words, file):
    with pytest.raises(InputError, match=words):
        checkpoints.read(file, flags)


def test_converted_it_answers_the_same(file, tmp_path):
    report = convert(file, tmp_path / "out", flags=FLAGS)
    assert report["family"] == "SR3"
    one, two = restore.load_prior(file, flags=FLAGS), restore.load_prior(tmp_path / "out")
    y = torch.rand(1, 3, 4, 4)
    assert two.condition == one.condition
    assert torch.equal(restore.upscale(y, prior=one, steps=2), restore.upscale(y, prior=two, steps=2))
    shown = run("priors", "info", tmp_path / "out").stdout
    assert "restores     upscale" in shown
    assert "scale        4" in shown


def test_its_networks_that_see_no_picture_are_refused(tmp_path):
    path = saved(tmp_path / "faces_gen.pth", SR3UNet(**SR3, in_channels=3).state_dict())
    with pytest.raises(InputError, match="from 3 to 3 channels enlarges nothing"):
        restore.load_prior(path, flags=FLAGS)


def test_networks_that_are_told_the_step_are_refused(weights, tmp_path):
    path = tmp_path / "ddpm.pth"
    torch.save({"denoise_fn.downs.0.weight": weights["downs.0.weight"]}, path)
    with pytest.raises(InputError, match="told no noise level"):
        restore.load_prior(path)


# ---------------------------------------------------------------- upsamplers of guided-diffusion


@pytest.mark.parametrize("classes", [None, 3])
def test_an_upsampler_enlarges(classes, tmp_path):
    net = lively(GuidedUNet(**UNET, low_res=True, num_class_embeds=classes))
    path = tmp_path / "up.pt"
    torch.save(net.state_dict(), path)
    size = 16
    flags = {"image_size": size, "num_head_channels": 16, "use_new_attention_order": False}
    prior = restore.load_prior(path, flags=flags, dtype="float32")
    assert prior.condition.low_res
    assert (prior.condition.scale, prior.condition.shrunk) == (4, "average")
    y, label = torch.rand(1, 3, 4, 5), {} if classes is None else {"label": 1}
    assert restore.upscale(y, prior=prior, steps=2, **label).shape == (1, 3, 16, 20)
    x, level = torch.randn(1, 3, 16, 16), prior.levels(4)[1]
    told = prior if classes is None else prior.labelled(1)
    seen = told.unclipped.seeing(2 * y[..., :4] - 1)(x, level)
    given = {} if classes is None else {"class_labels": torch.tensor([1])}
    wanted = net(x, torch.tensor([level.t]), low_res=2 * y[..., :4] - 1, **given)[:, :3]
    assert torch.allclose(seen.eps, wanted, atol=1e-5)
    if classes:
        with pytest.raises(InputError, match="has classes: choose one"):
            restore.upscale(y, prior=prior, steps=2)
    assert restore.load_prior(path, flags=flags | {"small_size": 8}).condition.scale == 2
    with pytest.raises(InputError, match="small_size = 7 does not divide 16"):
        restore.load_prior(path, flags=flags | {"small_size": 7})
