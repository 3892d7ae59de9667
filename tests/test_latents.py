"""The codec of latent priors: there and back, scale, tiles, and what it has in common with another."""

import pytest
import tinypipes
import torch
from torch import nn

from restore import latents
from restore.codec import Pixels
from restore.errors import InputError, OutOfMemory
from restore.latents import Latents


class Shuffled(nn.Module):
    """An autoencoder that loses nothing: 2x2 pixels of three channels are a cell of twelve."""

    def __init__(self, room=10**9):
        super().__init__()
        self.weight, self.room, self.asked = nn.Parameter(torch.ones(())), room, []

    def look(self, x, factor):
        self.asked.append(tuple(side * factor for side in x.shape[-2:]))
        if max(self.asked[-1]) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return x

    def encode(self, x):
        mean = nn.functional.pixel_unshuffle(self.look(x, 1), 2)
        return type("Out", (), {"latent_dist": type("Dist", (), {"mode": lambda self: mean})()})()

    def decode(self, z):
        return type("Out", (), {"sample": nn.functional.pixel_shuffle(self.look(z, 2), 2)})()


def shuffled(room=10**9, **options):
    return Latents(Shuffled(room), factor=2, channels=12, **{"scale": 0.25, "shift": 0.5, **options})


def picture(*shape, seed=0):
    return torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(seed))


def test_there_and_back():
    codec, image = shuffled(), picture(38, 54)
    x = codec.encode(image)
    assert x.shape == (1, 12, 19, 27)
    torch.testing.assert_close(x[:, 0], ((image[:, 0, ::2, ::2] * 2 - 1) - 0.5) * 0.25)
    torch.testing.assert_close(codec.decode(x), image)


@pytest.mark.parametrize("shape", [(1100, 40), (40, 1250), (1030, 1030), (1024, 1024)])
def test_large_pictures_in_tiles_are_the_whole(shape):
    """Nothing here looks beyond a cell, so blended tiles change nothing."""
    codec, image = shuffled(), picture(*shape)
    x = codec.encode(image)
    largest = latents.WHOLE if max(shape) <= latents.WHOLE else latents.TILES[0]
    assert max(max(sides) for sides in codec.net.asked) == largest
    torch.testing.assert_close(codec.decode(x), image, atol=1e-5, rtol=0)
    assert max(max(sides) for sides in codec.net.asked) == largest


def test_tiles_get_smaller_as_memory_runs_out():
    codec, image = shuffled(room=300), picture(400, 700)
    torch.testing.assert_close(codec.decode(codec.encode(image)), image, atol=1e-5, rtol=0)
    assert [sides for sides in codec.net.asked if max(sides) > 300] == [(400, 700), (400, 512)] * 2
    with pytest.raises(OutOfMemory, match="autoencoder"):
        shuffled(room=100).encode(image)
    with pytest.raises(OutOfMemory, match="autoencoder"):
        shuffled(room=10).encode(picture(40, 40))


def test_other_errors_are_not_taken_for_memory():
    codec = shuffled()
    codec.net.look = lambda x, factor: (_ for _ in ()).throw(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="do not fit"):
        codec.encode(picture(8, 8))


def test_kl_is_that_of_diffusers():
    torch.manual_seed(0)
    net = tinypipes.kl(shift_factor=0.2)
    codec, image = Latents.of(net), picture(24, 32)
    assert (codec.factor, codec.channels, codec.latent) == (2, 4, True)
    with torch.no_grad():
        code = net.encode(image * 2 - 1).latent_dist
        x = codec.encode(image)
        torch.testing.assert_close(x, (code.mean - 0.2) * 0.7)
        assert torch.equal(x, codec.encode(image))  # no noise is drawn
        torch.testing.assert_close(codec.decode(x), (net.decode(code.mean).sample + 1) / 2, atol=1e-5, rtol=1e-5)


def test_vq_is_that_of_diffusers():
    """The code before the quantisation, which is the decoder's."""
    torch.manual_seed(0)
    net = tinypipes.vq()
    codec, image = Latents.of(net), picture(24, 32)
    assert (codec.factor, codec.channels) == (2, 3)
    with torch.no_grad():
        code = net.encode(image * 2 - 1).latents
        torch.testing.assert_close(codec.encode(image), code * 0.5)
        torch.testing.assert_close(codec.decode(code * 0.5), (net.decode(code).sample + 1) / 2)


def test_mean_and_spread_of_each_channel():
    """Of a configuration that has them: (code - mean) * scaling_factor / std, as diffusers codes for SDXL."""
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    torch.manual_seed(0)
    net = tinypipes.kl(latents_mean=mean, latents_std=std)
    codec, image = Latents.of(net), picture(16, 16)
    with torch.no_grad():
        code = net.encode(image * 2 - 1).latent_dist.mean
    mean, std = (torch.tensor(values).reshape(1, 4, 1, 1) for values in (mean, std))
    torch.testing.assert_close(codec.encode(image), (code - mean) * 0.7 / std)


def test_the_precision_stays_float32():
    codec = Latents.of(tinypipes.kl())
    with torch.autocast("cpu", torch.bfloat16):
        x = codec.encode(picture(16, 16).bfloat16())
        assert (x.dtype, codec.decode(x.bfloat16()).dtype) == (torch.float32, torch.float32)


def test_spaces_in_common():
    torch.manual_seed(0)
    one, two = Latents.of(tinypipes.kl()), Latents.of(tinypipes.kl())
    torch.manual_seed(0)
    again = Latents.of(tinypipes.kl())
    assert one.agrees(one)
    assert one.agrees(again)
    assert not one.agrees(two)
    again.scale = again.scale * 2
    assert not one.agrees(again)
    assert not one.agrees(Latents.of(tinypipes.vq()))
    assert not one.agrees(Pixels())
    assert not Pixels().agrees(one)
    assert Pixels().agrees(Pixels())


def test_noise_of_pixels_is_none_of_latents():
    assert shuffled().std(0.0) == 0.0
    with pytest.raises(InputError, match="take a prior of pixels"):
        shuffled().std(0.1)


def test_pictures_have_three_channels():
    with pytest.raises(InputError, match="autoencoder of 1 channels"):
        Latents.of(tinypipes.kl(in_channels=1))
