"""Callables and networks -> Prior; devices, precisions, classes."""

import pytest
import torch
from conftest import closed_form, save_tiny
from test_load import answer, loaded
from torch import nn

from restore.errors import InputError
from restore.levels import cosine, linear
from restore.load import load_prior
from restore.precision import pick_device, pick_dtype
from restore.prior import Prior

# ---------------------------------------------------------------- devices and precisions


def test_precisions(tiny_folder):
    full = loaded(tiny_folder)
    reduced = loaded(tiny_folder, dtype="bfloat16")
    assert (full.dtype, reduced.dtype) == (torch.float32, torch.bfloat16)
    assert answer(reduced).dtype == torch.float32
    assert 0 < (answer(full) - answer(reduced)).abs().max() < 0.2
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert load_prior(tiny_folder, device="cpu").dtype == pick_dtype("auto", cpu)
    for dtype in ("int8", "half", "", None):
        with pytest.raises(InputError, match="float32"):
            pick_dtype(dtype, cpu)
    with pytest.raises(InputError, match="GPU"):
        loaded(tiny_folder, dtype="float16")


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("avx", [False, True])
def test_automatic_precision_follows_the_processor_and_not_the_clock(amx, avx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    wanted = torch.bfloat16 if amx or avx else torch.float32
    assert {pick_dtype("auto", torch.device("cpu")) for _ in range(5)} == {wanted}


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")
    assert pick_device().type in ("cpu", "cuda")
    for device in ("toaster", "", "meta", "cuda:99", "cpu:x", None):
        with pytest.raises(InputError, match="choose auto"):
            pick_device(device)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(tiny_folder):
    prior = load_prior(tiny_folder)
    assert prior.device.type == "cuda"
    x, level = torch.rand(1, 3, 16, 16, device="cuda"), prior.schedule.at(500)
    assert prior(x, level).x0.device.type == "cuda"


# ---------------------------------------------------------------- callables and priors


def test_callables():
    prior = load_prior(closed_form, schedule=linear(1000))
    assert isinstance(prior, Prior)
    assert (prior.predicts, prior.device, prior.dtype) == ("eps", torch.device("cpu"), torch.float32)
    assert load_prior(closed_form, schedule=linear(1000), predicts="v").predicts == "v"
    with pytest.raises(InputError, match="schedule"):
        load_prior(closed_form)
    with pytest.raises(InputError, match="magic"):
        load_prior(closed_form, schedule=linear(1000), predicts="magic")
    for options in ({"device": "cpu"}, {"dtype": "bfloat16"}):
        with pytest.raises(InputError, match="plain function"):
            load_prior(closed_form, schedule=linear(1000), **options)


def test_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x, t):
            return self.conv(x)

    net = Net().train()
    prior = loaded(net, schedule=cosine())
    assert prior.net is net
    assert not net.training
    assert answer(prior).shape == (1, 3, 16, 16)
    assert loaded(Net(), schedule=cosine(), dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(InputError, match="schedule"):
        load_prior(net)


def test_a_prior_passes_through(gaussian_prior):
    assert load_prior(gaussian_prior) is gaussian_prior
    options = ({"device": "cpu"}, {"dtype": "float32"}, {"schedule": cosine()}, {"predicts": "v"})
    for option in options:
        with pytest.raises(InputError, match="ready"):
            load_prior(gaussian_prior, **option)


@pytest.mark.parametrize("source", [None, 3, ["photo"], b"photo"])
def test_sources_of_another_kind(source):
    with pytest.raises(InputError, match=type(source).__name__):
        load_prior(source)


# ---------------------------------------------------------------- classes


def test_classes(tmp_path):
    folder = save_tiny(tmp_path / "classes", num_class_embeds=3)
    prior = loaded(folder)
    assert prior.labels == 3
    assert not prior.given
    (folder / "labels.json").write_text('["cat", "dog", "owl"]')
    assert loaded(folder).labels == ["cat", "dog", "owl"]
    assert not loaded(folder).given
    (folder / "labels.json").write_text('["cat", "dog"]')
    prior = loaded(folder)
    assert int(prior.given["class_labels"]) == 2
    assert not torch.equal(answer(prior), answer(prior.labelled(0)))
    assert int(prior.given["class_labels"]) == 2
    assert load_prior(folder, device="cpu").labels  # with the automatic precision too


def test_colours_do_not_drift_in_reduced_precision():
    """At high noise x0 is the network's rounding times the noise-to-signal ratio: its ends stay in float32."""
    full, reduced = (load_prior("photo", device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert {reduced.net.conv_in.weight.dtype, reduced.net.conv_out.weight.dtype} == {torch.float32}
    assert reduced.net.mid_blocks[0].conv1.weight.dtype == torch.bfloat16
    image = torch.linspace(-0.5, 0.8, 64).expand(1, 3, 64, 64)
    z = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for ratio, drift in ((1, 0.002), (20, 0.03), (80, 0.1)):
        level = full.schedule.at_ratio(ratio)
        found = [prior(level.alpha * image + level.sigma * z, level).x0.mean((2, 3)) for prior in (full, reduced)]
        assert (found[0] - found[1]).abs().max() < drift
