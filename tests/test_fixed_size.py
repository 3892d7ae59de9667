"""Networks that attend, and so are at their best at one size: windows, tiles that blend, crops around a mask."""

import numpy as np
import pytest
import tinypipes
import torch
from command import hole as hole_file
from command import photo, pixels, run
from tasking import colours
from torch import nn

from restore import images, tasks
from restore.errors import InputError, OutOfMemory
from restore.levels import linear
from restore.prior import Prior
from restore.unet import UNet
from restore.wrappers import tiles

LEVEL = linear().at(500)


class Local(nn.Module):
    """Three convolutions, so three pixels far; says the shapes that it was asked for."""

    def __init__(self, width=3):
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.shapes = []

    def forward(self, x, t):
        self.shapes.append(tuple(x.shape[-2:]))
        for conv in self.convs:
            x = conv(x).tanh()
        return x


def local(**options):
    return Prior(Local(), **{"schedule": linear(1000), "name": "local", **options})


def shapes(prior, work):
    prior.net.shapes.clear()
    work()
    return set(prior.net.shapes)


def edited(prior, size, **options):
    return tasks.Edit(steps=3, **options).run(images.read(colours(size)), None, prior).images[0]


# ---------------------------------------------------------------- which networks attend


def test_attention_is_seen():
    plain = {"schedule": linear(1000)}
    assert not Prior(UNet(channels=(8,), layers=1), **plain).attends
    assert not Prior(tinypipes.local_unet(), **plain).attends
    assert not Prior(lambda x, t: x, **plain).attends
    assert Prior(tinypipes.unet(), **plain, size=16).window == 16
    assert Prior(tinypipes.unet(), **plain).window is None
    assert Prior(tinypipes.unet(), **plain, size=16, attends=False).window is None
    assert Prior(tinypipes.dit(), **plain, size=8, channels=4, attends=False, fixed=True).window == 8
    for middle in (True, False):
        kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        assert Prior(tinypipes.unet(add_attention=middle, **kinds), **plain).attends == middle


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("size", [(75, 101), (64, 200), (129, 64), (250, 31)])
def test_tiles_of_a_network_that_sees_less_than_the_overlap_are_the_whole(size):
    whole, tiled = edited(local(size=64), size), edited(local(size=64, attends=True), size)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("multiple", [2, 4])
def test_tiles_of_a_u_net_begin_where_its_own_grid_does(multiple):
    """Halving shifts with the tile, were it to begin elsewhere."""
    channels = (8,) * (1 + multiple // 2)
    torch.manual_seed(0)
    net = UNet(channels=channels, layers=1)
    for name, weight in net.named_parameters():
        if "film" in name or "conv2" in name:
            nn.init.normal_(weight, std=0.1)
    prior, x = Prior(net, schedule=linear(1000), multiple=multiple), torch.randn(1, 3, 172, 260)
    with torch.no_grad():
        whole = prior(x, LEVEL).x0
        torch.testing.assert_close(tiles(prior, 148, 72, multiple)(x, LEVEL).x0, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(100, 130), (64, 97)])
def test_a_constant_picture_has_no_seam(size):
    """A network that answers by the mean over all that it is shown agrees with itself from tile to tile."""
    prior = Prior(lambda x, t: x.mean((2, 3), keepdim=True).expand_as(x) * 0.3, schedule=linear(1000))
    x = torch.full((1, 3, *size), 0.4)
    for part in tiles(prior, 32, 8)(x, LEVEL)[:2]:
        assert part.max() - part.min() < 1e-6
    torch.testing.assert_close(tiles(prior, 32, 8)(x, LEVEL).x0, prior(x, LEVEL).x0)


SIDES = [(20, 24), (40, 40), (48, 48), (49, 33), (64, 64), (70, 131), (16, 300)]


@pytest.mark.parametrize("size", SIDES)
def test_larger_pictures_are_asked_for_in_windows_of_the_trained_size(size):
    """Up to half as large again they are asked for whole, and smaller ones as they are."""
    prior = local(size=32, multiple=4, attends=True)
    found = shapes(prior, lambda: edited(prior, size))
    padded = tuple(-(-side // 4) * 4 for side in size)
    if max(padded) <= 48:
        assert found == {padded}
    else:
        assert found == {tuple(min(32, side) for side in padded)}


def test_what_is_asked_for_comes_first():
    prior, size = local(size=256, attends=True), (40, 500)
    assert shapes(prior, lambda: edited(prior, size)) == {(40, 256)}
    assert shapes(prior, lambda: edited(prior, size, tile=None)) == {(40, 500)}
    assert shapes(prior, lambda: edited(prior, size, tile=128)) == {(40, 128)}


def test_smaller_tiles_than_the_window_when_memory_runs_out():
    prior = local(size=256, attends=True)
    forward, room = prior.net.forward, 200

    def failing(x, t):
        if max(x.shape[-2:]) > room:
            raise torch.OutOfMemoryError("out of memory")
        return forward(x, t)

    prior.net.forward = failing
    with pytest.warns(UserWarning, match="tiles of 128 pixels"):
        found = edited(prior, (40, 500))
    torch.testing.assert_close(found, edited(local(), (40, 500)), atol=1e-5, rtol=0)
    room = 100
    with pytest.warns(UserWarning, match="tiles of 128"), pytest.raises(OutOfMemory, match="128 pixels"):
        edited(prior, (40, 300))


# ---------------------------------------------------------------- networks of one size alone


@pytest.mark.parametrize("task", ["edit", "generate", "inpaint"])
@pytest.mark.parametrize("size", [(20, 24), (32, 32), (33, 32), (90, 41)])
def test_a_network_of_fixed_size_is_asked_for_that_alone(task, size):
    """Smaller pictures are padded to it."""
    prior = local(size=32, multiple=2, fixed=True)
    picture, mask = images.read(colours(size)), torch.zeros(size)
    mask[8:14, 3:15] = 1
    work = {
        "edit": lambda: tasks.Edit(steps=2).run(picture, None, prior),
        "generate": lambda: tasks.Generate(steps=2, size=size).run(prior),
        "inpaint": lambda: tasks.Inpaint(steps=2).run(picture, mask, prior),
    }[task]
    assert shapes(prior, work) == {(32, 32)}


def test_a_network_of_fixed_size_takes_no_other():
    prior = local(size=32, fixed=True)
    with pytest.raises(InputError, match="takes 32 x 32 model pixels alone, not 16 x 64"):
        prior(torch.zeros(1, 3, 64, 16), LEVEL)
    for tile in (128, None):
        with pytest.raises(InputError, match="takes 32 pixels alone: leave it out"):
            edited(prior, (20, 24), tile=tile)


# ---------------------------------------------------------------- crops around a mask


def wide(size=(200, 300), hole=(40, 160, 60, 240)):
    top, bottom, left, right = hole
    mask = torch.zeros(size)
    mask[top:bottom, left:right] = 1
    return images.read(colours(size)), mask


def inpainted(prior, picture, mask, **options):
    return tasks.Inpaint(steps=2, **options).run(picture, mask, prior).images[0]


def test_a_wide_hole_is_shrunk_to_what_the_network_sees():
    picture, mask = wide()
    for when, seen in (("auto", {(96, 128)}), ("always", {(96, 128)}), ("never", {(128, 128)})):
        prior = local(size=128, multiple=4, attends=True)
        answer = inpainted(prior, picture, mask, crop_to_mask=when)
        assert set(prior.net.shapes) == seen
        assert torch.equal(answer[..., mask == 0], picture.rgb[..., mask == 0])
        assert (answer != picture.rgb)[..., mask > 0].any(0).all(0).float().mean() > 0.99


@pytest.mark.parametrize(("size", "shrunk"), [((90, 96), False), ((90, 100), True)])
def test_what_is_asked_for_as_a_whole_is_not_shrunk(size, shrunk):
    """Up to half as large again as the network."""
    picture, mask = wide(size, (20, 70, 20, 75))
    prior = local(size=64, attends=True)
    assert {max(sides) for sides in shapes(prior, lambda: inpainted(prior, picture, mask))} == {64 if shrunk else 96}


def test_small_holes_are_worked_on_as_they_are():
    """However many: each tile sees some of what is around each."""
    picture, mask = images.read(colours((200, 300))), torch.zeros(200, 300)
    mask[::40, ::40] = 1
    prior = local(size=128, multiple=4, attends=True)
    assert shapes(prior, lambda: inpainted(prior, picture, mask)) == {(128, 128)}
    assert all(max(sides) == 128 > min(sides) for sides in shapes(
        prior, lambda: inpainted(prior, picture, mask, crop_to_mask="always")
    ))  # fmt: skip


def test_a_network_without_attention_is_not_cropped_by_itself():
    picture, mask = wide()
    prior = local(size=64)
    assert {max(sides) for sides in shapes(prior, lambda: inpainted(prior, picture, mask))} == {276}
    found = shapes(prior, lambda: inpainted(prior, picture, mask, crop_to_mask="always"))
    assert all(max(sides) == 64 for sides in found)


def test_a_picture_smaller_than_the_network_is_enlarged_when_asked_to_be():
    picture, mask = wide((40, 30), (10, 20, 5, 17))
    prior = local(size=64, attends=True)
    found = []
    asked = shapes(prior, lambda: found.append(inpainted(prior, picture, mask, crop_to_mask="always")))
    assert asked <= {(64, 48), (48, 64)}
    assert torch.equal(found[0][..., mask == 0], picture.rgb[..., mask == 0])
    assert {(40, 30), (30, 40)} >= shapes(prior, lambda: inpainted(prior, picture, mask))


@pytest.mark.parametrize("crop", ["auto", "always"])
def test_what_lies_under_the_mask_does_not_matter_when_it_is_shrunk(crop):
    picture, mask = wide()
    other = images.read(torch.where(mask > 0, torch.rand(200, 300), picture.rgb))
    prior = local(size=64, multiple=4, attends=True)
    a, b = (inpainted(prior, image, mask, crop_to_mask=crop) for image in (picture, other))
    assert torch.equal(a[..., mask > 0], b[..., mask > 0])


def test_crops_of_16_bits_and_of_a_batch_keep_what_is_known():
    values = np.random.default_rng(0).integers(0, 65535, (150, 200, 3), dtype=np.uint16)
    mask = np.zeros((150, 200), bool)
    mask[30:120, 40:160] = True
    prior = local(size=64, multiple=4, attends=True)
    found = tasks.Inpaint(steps=2).run(images.read(values), mask, prior).images[0]
    assert (found[~mask] == values[~mask]).all()
    batch = colours((150, 200), batch=2)
    mask = torch.from_numpy(mask)
    found = tasks.Inpaint(steps=2).run(images.read(batch), mask, prior).images[0]
    assert torch.equal(found[..., ~mask], batch[..., ~mask])


def test_crops_that_are_refused():
    picture, mask = wide()
    with pytest.raises(InputError, match="crop_to_mask is 'sometimes': choose one of auto, always, never"):
        tasks.Inpaint(crop_to_mask="sometimes")
    with pytest.raises(InputError, match="'local' works at any size: leave it out"):
        inpainted(local(), picture, mask, crop_to_mask="always")


def test_crops_on_the_command_line(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png")
    hole_file(tmp_path / "mask.png")
    shared = ("inpaint", "photo.png", "-m", "mask.png", "--prior", tiny_folder, "--steps", 2, "--crop-to-mask")
    run(*shared, "never")
    before, after, mask = pixels("photo.png"), pixels("photo-inpaint.png"), pixels("mask.png")
    assert (before[mask == 0] == after[mask == 0]).all()
    assert "any size" in run(*shared, "always", "--overwrite", code=2).stderr
    assert "choose one of auto" in run(*shared, "often", "--overwrite", code=2).stderr
