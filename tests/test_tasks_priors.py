"""restore.inpaint with priors of every kind."""

import pytest
import torch
from conftest import save_tiny
from inpainting import colours, hole, restored

from restore.errors import InputError
from restore.levels import cosine, linear
from restore.load import load_prior
from restore.prior import Prior
from restore.unet import UNet


def test_prior_with_classes(tmp_path):
    plain = save_tiny(tmp_path / "plain", num_class_embeds=3)
    plain = load_prior(plain, device="cpu", dtype="float32")
    with pytest.raises(InputError, match="classes"):
        restored(colours(), hole(), plain)
    first, second = (restored(colours(), hole(), plain.labelled(k)) for k in (0, 1))
    assert not torch.equal(first, second)
    folder = save_tiny(tmp_path / "named", num_class_embeds=3)
    (folder / "labels.json").write_text('["cat", "dog"]')
    named = load_prior(folder, device="cpu", dtype="float32")
    assert named.labels == ["cat", "dog"]
    free = restored(colours(), hole(), named)  # the third class is 'no label'
    assert torch.equal(free, restored(colours(), hole(), named.labelled(2)))
    assert not torch.equal(free, restored(colours(), hole(), named.labelled(0)))


def test_prior_of_other_channels():
    prior = Prior(lambda x, t: x, schedule=cosine(), channels=4, name="latent")
    with pytest.raises(InputError, match=r"latent.*4 channels"):
        restored(colours(), hole(), prior)


def test_prior_as_a_network_of_diffusers():
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    prior = load_prior(net, schedule=linear(1000), dtype="float32", device="cpu")
    prior.multiple = 2
    image = colours()
    out = restored(image, hole(), prior)
    assert torch.equal(out[..., hole() == 0], image[..., hole() == 0])


def test_tiles_have_to_suit_the_prior(spied):
    spied.multiple = 32
    with pytest.raises(InputError, match="multiple of 32"):
        restored(colours(), hole(), spied, tile=136)


def test_reduced_precision_keeps_the_rest(tiny_folder):
    prior = load_prior(tiny_folder, device="cpu", dtype="bfloat16")
    image = colours()
    out = restored(image, hole(), prior)
    assert out.dtype == torch.float32
    assert torch.equal(out[..., hole() == 0], image[..., hole() == 0])


def test_untrained_unet_as_module():
    torch.manual_seed(0)
    prior = Prior(UNet(channels=(8, 16), layers=1), schedule=cosine(), clip=True, multiple=2)
    assert restored(colours(), hole(), prior).isfinite().all()
