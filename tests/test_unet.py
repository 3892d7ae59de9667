"""The bundled network's own promises: any size, local answers, labels, diffusers' save and load."""

import pytest
import torch

from restore.load import load_prior
from restore.unet import UNet


def trained(**options):
    """A small network whose blocks are no longer the identity they start as."""
    net = UNet(channels=(8, 16, 32, 32), layers=1, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.mark.parametrize("norm", [True, False])
@torch.no_grad()
def test_the_answer_for_a_region_ignores_the_size_of_the_picture(norm):
    """A pixel further than the receptive field from a cut sees the same as in the whole picture."""
    net, t = trained(norm=norm).double(), torch.tensor([300.0], dtype=torch.float64)
    x = torch.randn(1, 3, 320, 256, dtype=torch.float64)
    whole = net(x, t).sample[..., 96:224, 64:192]
    part = net(x[..., 32:288, 0:256], t).sample[..., 64:192, 64:192]
    assert whole.std() > 0.01
    assert (whole - part).abs().max() < 1e-9


@torch.no_grad()
def test_tiles_of_the_bundled_prior_agree_with_the_whole_picture():
    prior = load_prior("photo", device="cpu", dtype="float32")
    x = torch.randn(1, 3, 320, 256, generator=torch.Generator().manual_seed(0))
    level = prior.schedule.at_ratio(0.3)
    whole = prior(x, level).x0[..., 96:224, 64:192]
    part = prior(x[..., 32:288, 0:256], level).x0[..., 64:192, 64:192]
    assert (whole - part).abs().max() < 1e-4


@torch.no_grad()
def test_time_and_labels_reach_the_answer():
    net, x = trained(num_class_embeds=3), torch.randn(2, 3, 16, 24)
    out = [
        net(x, torch.tensor(t), torch.tensor([label, label])).sample for t, label in ((5.0, 0), (500.0, 0), (5.0, 2))
    ]
    assert out[0].shape == x.shape
    assert (out[0] - out[1]).abs().max() > 1e-3
    assert (out[0] - out[2]).abs().max() > 1e-3
    assert torch.equal(net(x, 5.0, torch.tensor([0, 0]), return_dict=False)[0], out[0])


@torch.no_grad()
def test_saved_and_loaded_by_diffusers_machinery(tmp_path):
    net, x = trained(), torch.randn(1, 3, 16, 16)
    net.save_pretrained(tmp_path)
    assert torch.equal(UNet.from_pretrained(tmp_path)(x, 7.0).sample, net(x, 7.0).sample)
