"""The network of a noisy classifier: any size, time, layers, drop-out."""

import pytest
import torch
from conftest import normal

from restore.encoder import Encoder
from restore.errors import InputError


def noise(*shape):
    return normal(*shape).float()


def known(**options):
    """A network whose last layer is no longer zero."""
    net = Encoder(classes=4, **options).eval()
    torch.nn.init.normal_(net.head.weight)
    return net


@torch.no_grad()
def test_any_size_and_the_average_over_it():
    """A picture repeated like tiles has the features of one, but for the borders: more of it is the same class."""
    net, tile = known(channels=(8, 16, 16), layers=(0, 1, 2)), noise(1, 3, 32, 32)
    assert net.multiple == 4
    one, four = net(tile.repeat(1, 1, 4, 4), 5.0), net(tile.repeat(1, 1, 8, 8), 5.0)
    assert one.shape == (1, 4)
    assert (one - four).abs().max() < 0.1 * one.std()
    assert net(noise(2, 3, 24, 36), torch.tensor([5.0, 9.0])).shape == (2, 4)


@torch.no_grad()
def test_one_pixel_counts_as_one_of_all():
    net, x = known(channels=(8,), layers=1), noise(1, 3, 64, 64)
    other = x.clone()
    other[..., 30, 30] += 3
    assert 0 < (net(x, 5.0) - net(other, 5.0)).abs().max() < 0.05 * net(x, 5.0).std()


@torch.no_grad()
def test_the_time_reaches_the_answer():
    net, x = known(channels=(8, 16)), noise(1, 3, 16, 16)
    for block in (block for group in net.blocks for block in group):
        torch.nn.init.normal_(block.film.weight)
        torch.nn.init.normal_(block.conv2.weight)
    each = torch.cat([net(x, 5.0), net(x, 700.0)])
    assert (each[0] - each[1]).abs().max() > 1e-3
    torch.testing.assert_close(net(x.repeat(2, 1, 1, 1), torch.tensor([5.0, 700.0])), each)


@torch.no_grad()
def test_a_new_network_finds_every_class_as_likely():
    assert not Encoder(classes=3, channels=(8, 16))(noise(1, 3, 16, 16), 5.0).any()


def test_blocks_of_a_prior_look_at_one_pixel():
    """Norms of groups see the whole picture, those of `restore.unet` do not."""
    for norm, wide in (("group", True), ("pixel", False)):
        block = Encoder(channels=(8,), norm=norm).blocks[0][0]
        torch.nn.init.normal_(block.conv2.weight)
        x = noise(1, 8, 16, 16).requires_grad_(True)
        emb = torch.zeros(1, 128)
        grad = torch.autograd.grad(block(x, emb)[..., 8, 8].sum(), x)[0]
        assert bool(grad[..., :4, :].any()) == wide
    with pytest.raises(InputError, match="unknown norm 'batch': group or pixel"):
        Encoder(norm="batch")


def test_layers_are_one_number_or_one_for_each_scale():
    assert [len(group) for group in Encoder(channels=(8, 8), layers=2).blocks] == [2, 2]
    assert [len(group) for group in Encoder(channels=(8, 8), layers=(0, 3)).blocks] == [0, 3]
    with pytest.raises(InputError, match="layers has 1 numbers for 2 scales"):
        Encoder(channels=(8, 8), layers=(3,))


def test_dropout_is_for_training_alone():
    net, x = known(channels=(8,), dropout=0.5), noise(4, 3, 8, 8)
    assert torch.equal(net(x, 1.0), net(x, 1.0))
    assert not torch.equal(net.train()(x, 1.0), net(x, 1.0))


@torch.no_grad()
def test_saved_and_loaded_by_diffusers_machinery(tmp_path):
    net, x = known(channels=(8, 16), layers=(0, 1)), noise(1, 3, 16, 16)
    net.save_pretrained(tmp_path)
    assert torch.equal(Encoder.from_pretrained(tmp_path)(x, 7.0), net(x, 7.0))
