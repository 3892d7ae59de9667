"""edit, refine and translate against their closed forms on Gaussian priors, and what they refuse."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from tasking import (
    EDITING,
    KINDS,
    REQUESTS,
    SIZE,
    TABLE,
    White,
    chained,
    colours,
    ddpm,
    drawn,
    made,
    request,
    result,
    smooth,
    values,
    white,
)  # fmt: skip

import restore
from restore import images, tasks
from restore.algorithms import low_pass
from restore.errors import InputError
from restore.levels import Flow, Karras
from restore.prior import Prior
from restore.tasks.common import walk
from restore.tasks.inpainting import MARGIN


def flat(value, size=(48, 48)):
    return torch.full((1, 3, *size), value)


def hole(size, top, bottom, left, right):
    mask = torch.zeros(size)
    mask[top:bottom, left:right] = 1
    return mask


# ---------------------------------------------------------------- edit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"strength": 0}, {"mask": np.zeros(SIZE)}], ids=str)
def test_nothing_to_edit_gives_a_copy(kind, options, no_network):
    """Bit for bit, with a note."""
    source, told, asked = KINDS[kind](), [], {**options}
    mask = asked.pop("mask", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = tasks.Edit(samples=2, **asked).run(images.read(source), mask, white(), told.append)
    for out in found.images:
        assert torch.equal(images.read(out).rgb, images.read(source).rgb)
        assert out is not source
    assert (found.info.calls, told) == (0, [])
    assert found.info.note.startswith("the mask is empty" if mask is not None else "a strength of 0")
    if isinstance(source, np.ndarray):
        assert not np.shares_memory(found.images[0], found.images[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_outside_the_mask_every_pixel_stays(dtype, channels):
    image, mask = values(channels, dtype), hole(SIZE, 5, 14, 6, 20).numpy()
    out = restore.edit(image, mask, prior=white(multiple=8), steps=3, strength=1)
    assert (out.dtype, out.shape) == (image.dtype, image.shape)
    assert (out[mask == 0] == image[mask == 0]).all()
    inside = out[mask > 0] != image[mask > 0]
    assert inside[..., : 3 if channels == 4 else None].mean() > 0.9
    assert channels < 4 or not inside[..., 3].any()


def test_masks_of_every_kind(tmp_path):
    mask = hole(SIZE, 5, 14, 6, 20)
    gray = Image.fromarray((mask.numpy() * 255).astype(np.uint8))
    gray.save(tmp_path / "mask.png")

    def of(mask):
        return restore.edit(colours(), mask, prior=white(), steps=2)

    for same in (mask.numpy(), gray, tmp_path / "mask.png", mask > 0):
        assert torch.equal(of(same), of(mask))
    assert not torch.equal(of(torch.ones(SIZE)), of(mask))
    with pytest.raises(InputError, match="90 x 20"):
        of(torch.ones(20, 90))


def test_transparency_is_no_mask():
    """Unlike inpaint's: the whole picture is edited, and stays as transparent as it was."""
    rgba = values(4)
    rgba[:, :9, 3] = 0
    out = restore.edit(rgba, prior=white(), steps=2, strength=0.8)
    assert (out[..., 3] == rgba[..., 3]).all()
    assert (out[:, :9, :3] != rgba[:, :9, :3]).mean() > 0.9
    assert (out[:, 9:, :3] != rgba[:, 9:, :3]).mean() > 0.9


def test_far_holes_are_edited_in_boxes_of_their_own():
    size, places = (300, 400), ((0, 0), (290, 390), (150, 200))
    mask, image, prior, told = torch.zeros(size), colours((300, 400)), white(multiple=8), []
    for y, x in places:
        mask[y : y + 10, x : x + 10] = 1
    found = tasks.Edit(steps=3, repeats=2).run(images.read(image), mask, prior, told.append)
    assert max(max(shape) for shape in prior.net.shapes) <= 10 + 2 * MARGIN + 8
    assert found.info.calls == told[-1].done == told[-1].total == 3 * 3 * 2
    changed = (found.images[0] != image).any(1)[0]
    assert not (changed & (mask == 0)).any()
    assert all(changed[y : y + 10, x : x + 10].float().mean() > 0.9 for y, x in places)


def test_one_mask_each_in_a_batch():
    masks = torch.stack([hole(SIZE, 0, 6, 0, 6), hole(SIZE, 12, 20, 9, 20)])[:, None]
    batch = colours(batch=2)
    changed = (restore.edit(batch, masks, prior=white(), steps=2) != batch).any(1, keepdim=True)
    assert torch.equal(changed, masks > 0)


def test_feather_fades_inwards():
    image, mask = colours((40, 40)), hole((40, 40), 8, 32, 8, 32)
    hard, soft = (restore.edit(image, mask, prior=white(), steps=2, feather=n) for n in (0, 4))
    assert torch.equal(soft[..., mask == 0], image[..., mask == 0])
    assert torch.equal(soft[..., 13:27, 13:27], hard[..., 13:27, 13:27])
    share = (soft - image)[..., 8, 10:30] / (hard - image)[..., 8, 10:30]
    assert (share - 1 / 5).abs().max() < 0.01


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("strength", [0.1, 0.25, 0.5, 1.0])
def test_an_edit_goes_towards_the_prior(eta, strength):
    """Of a white Gaussian: mean and spread of the answers to a flat picture, in closed form."""
    prior = white(0.1, 0.25)
    levels = walk(prior, 20, TABLE.top(strength).ratio)
    slope, spread = chained(0.25, levels, lambda now, then: ddpm(now, then, eta))
    out = made("edit", flat(0.8), prior, strength=strength, eta=eta, steps=20)
    assert float(out.mean()) == pytest.approx(0.55 + slope * 0.25, abs=0.005)
    assert float(out.std()) == pytest.approx(spread / 2, rel=0.04)
    if strength == 1:
        assert slope < 0.01
        assert spread == pytest.approx(0.25, rel=0.3)


def test_repeats_go_on_from_the_answer_before():
    """The distance from the mean shrinks as often; outside the mask nothing does."""
    keep, _ = chained(0.25, walk(white(), 40, TABLE.top(0.25).ratio), lambda now, then: 0.0)
    for repeats in (1, 2, 3):
        found = result("edit", flat(0.8), white(0.1, 0.25), strength=0.25, eta=0.0, steps=40, repeats=repeats)
        assert float(found.images[0].mean()) == pytest.approx(0.55 + keep**repeats * 0.25, abs=0.005)
        assert found.info.calls == 40 * repeats
    mask = hole((48, 48), 0, 48, 0, 24)
    out = restore.edit(flat(0.8), mask, prior=white(0.1, 0.25), strength=0.25, eta=0.0, steps=40, repeats=3)
    assert float(out[..., :24].mean()) == pytest.approx(0.55 + keep**3 * 0.25, abs=0.005)
    assert (out[..., 24:] == flat(0.8)[..., 24:]).all()


def test_the_edited_part_hears_of_what_is_kept():
    """A dark hole in a bright flat picture: a smooth prior pulls it up, independent pixels do not."""
    image, mask = flat(0.75, (32, 32)), hole((32, 32), 12, 20, 12, 20)
    dark = torch.where(mask > 0, 0.25, image)
    bright = [
        float(restore.edit(dark, mask, prior=prior, strength=0.7, steps=60)[..., 12:20, 12:20].mean())
        for prior in (smooth(reach=12.0), white(0.0, 0.25))
    ]
    assert bright[0] > 0.65
    assert bright[1] < 0.55


# ---------------------------------------------------------------- refine


def test_a_factor_of_1_gives_the_picture_back():
    assert (made("refine", colours(), white(multiple=8), factor=1) - colours()).abs().max() < 1e-6


@pytest.mark.parametrize("factor", [2, 3, 8])
@pytest.mark.parametrize("strength", [1, 0.5])
def test_low_frequencies_are_those_of_the_picture(factor, strength):
    """To what the filter misses of a projection, which is a quarter at most; and the others are the prior's."""
    image, phi, prior = drawn((40, 48)), low_pass(factor), white(0.0, 0.25)
    out = made("refine", image, prior, factor=factor, steps=40, strength=strength)
    assert (phi(out) - phi(image)).norm() < 0.27 * (out - image).norm()
    assert (phi(out) - phi(image)).mean().abs() < 1e-3
    free = made("refine", image, prior, factor=factor, steps=40, strength=strength, stop=0.49)
    assert (phi(free) - phi(image)).norm() > 2 * (phi(out) - phi(image)).norm()
    details = float((out - phi(out)).std())
    assert details == pytest.approx(0.125 * math.sqrt(1 - 1 / factor**2), rel=0.15)


def test_larger_factors_are_freer():
    image = drawn((40, 48))
    gaps = [float((made("refine", image, white(0.0, 0.25), factor=n, steps=20) - image).norm()) for n in (1, 2, 4, 16)]
    assert all(1.03 * a < b for a, b in pairwise(gaps)), gaps
    assert gaps[0] < 1e-3


@pytest.mark.parametrize("stop", [0.1, 0.3, 0.6])
def test_below_stop_the_chain_runs_free(stop, monkeypatch):
    """As many steps are conditioned as end above that share of the schedule."""
    asked = []

    def counted(factor):
        return lambda x: asked.append(factor) or x

    monkeypatch.setattr("restore.tasks.editing.low_pass", counted)
    prior = white()
    made("refine", colours(), prior, steps=20, factor=5, stop=stop)
    levels = walk(prior, 20, math.inf)
    assert asked == [5] * sum(level.ratio >= TABLE.top(stop).ratio for level in levels[1:])
    assert 0 < len(asked) < 20


def test_strength_below_1_begins_with_the_picture():
    """Noised to that share of the schedule; at strength 1 with noise alone."""
    for strength in (0.4, 1):
        seen, prior = [], white()
        network = prior.net
        prior.net = lambda x, t, seen=seen, network=network: seen.append(x) or network(x, t)
        for bright in (0.9, 0.2):
            made("refine", flat(bright), prior, strength=strength, steps=2)
        level = TABLE.at(network.told[0])
        assert level.ratio == pytest.approx(min(TABLE.top(strength).ratio, 80), rel=1e-4)
        assert (seen[0] - seen[2]).mean() == pytest.approx(1.4 * level.alpha if strength < 1 else 0.0, abs=1e-5)
        assert float(seen[0].std()) == pytest.approx(level.sigma, rel=0.03)
    near, far = (
        (made("refine", drawn((40, 48)), white(0.0, 0.25), factor=8, steps=20, strength=s) - drawn((40, 48))).norm()
        for s in (0.02, 1)
    )
    assert near < 0.6 * far


@pytest.mark.parametrize("size", [(21, 7), (7, 21), (1, 1)])
def test_a_factor_larger_than_the_picture_is_refused(size, no_network):
    with pytest.raises(InputError, match=f"factor of 8 is more than the {size[1]} x {size[0]} picture"):
        made("refine", colours(size), white(), factor=8)


# ---------------------------------------------------------------- translate


def translated(image, source, target, **options):
    return request("translate", **options).run(images.read(image), source, target).images[0]


@pytest.mark.parametrize(("method", "steps"), [("heun", (5, 10, 20, 40)), ("ddim", (10, 20, 40, 80))])
def test_there_and_back_is_the_picture(method, steps):
    """The better the more steps; by default to half a step of 8 bits and more."""
    image, prior = drawn((24, 32)), smooth(multiple=16)
    gaps = [float((translated(image, prior, prior, method=method, steps=n) - image).abs().max()) for n in steps]
    assert all(b < 0.6 * a for a, b in pairwise(gaps)), gaps
    default = tasks.Translate(method=method).run(images.read(image), prior, prior).images[0]
    assert (default - image).abs().max() < {"heun": 0.5 / 255, "ddim": 0.02}[method]


@pytest.mark.parametrize(("method", "steps", "limit"), [("heun", 60, 0.002), ("ddim", 400, 0.012)])
@pytest.mark.parametrize("schedules", [(TABLE, TABLE), (TABLE, Karras()), (Flow(), TABLE)], ids=["vp", "ve", "flow"])
def test_between_two_gaussians_it_is_the_known_map(method, steps, limit, schedules):
    """x -> m2 + s2 / s1 (x - m1): here from N(0.2, 0.5^2) to N(-0.3, 0.25^2), in [-1, 1]."""
    source, target = white(0.2, 0.5, schedules[0]), white(-0.3, 0.25, schedules[1], multiple=8)
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    out = translated(image, source, target, method=method, steps=steps)
    wanted = (-0.3 + 0.5 * (2 * image - 1 - 0.2) + 1) / 2
    assert 0 < wanted.min() < wanted.max() < 1
    assert (out - wanted).abs().max() < limit
    back = translated(wanted, target, source, method=method, steps=steps)
    assert (back - image).abs().max() < 3 * limit


def test_no_noise_is_drawn(monkeypatch):
    def stop(*args, **options):
        raise AssertionError("noise was drawn")

    monkeypatch.setattr(torch, "randn", stop)
    a, b = (restore.translate(colours(), prior=white(), to=white(0.0), steps=3, seed=seed) for seed in (0, 1))
    assert torch.equal(a, b)
    for options in ({"samples": 2}, {"eta": 0.5}):
        with pytest.raises(InputError, match="draws no noise and has one answer"):
            tasks.Translate(**options)


def test_each_way_asks_its_own_prior():
    for method, calls in (("heun", 2), ("ddim", 1)):
        source, target, told = white(), white(0.0), []
        found = request("translate", method=method).run(images.read(colours()), source, target, told.append)
        assert len(source.net.told) == len(target.net.told) == 3 * calls
        assert found.info.calls == told[-1].done == told[-1].total == 6 * calls
        assert sorted(source.net.told) == source.net.told
        assert sorted(target.net.told, reverse=True) == target.net.told


def test_one_prior_is_the_default_of_both():
    image = colours()
    assert torch.equal(restore.translate(image, prior=white(), steps=3), translated(image, white(), white(), steps=3))


def shaped(name, **options):
    return Prior(White(), schedule=TABLE, name=name, **options)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ({}, {"channels": 4}, "there.*4 channels"),
        ({"channels": 4}, {}, "here.*4 channels"),
        ({"channels": 1}, {"channels": 1}, "here.*1 channels"),
        ({"size": 32}, {"size": 64}, "'here' has 3 channels and size 32.*'there' has 3 channels and size 64"),
    ],
    ids=str,
)
def test_priors_of_different_shapes_are_refused(source, target, words, no_network):
    with pytest.raises(InputError, match=words):
        translated(colours(), shaped("here", **source), shaped("there", **target))


def test_priors_of_one_size_or_any_size_go_together():
    for sizes in ((32, 32), (32, None), (None, 32)):
        priors = (shaped("a", size=sizes[0], multiple=4), shaped("b", size=sizes[1], multiple=6))
        assert translated(colours(), *priors).shape == (1, 3, *SIZE)
        assert priors[0].net.shapes[0] == (24, 36)  # a multiple of both


@pytest.mark.parametrize("fails", ["source", "target"])
def test_translate_starts_over_when_memory_runs_out(fails):
    """The whole way, with smaller tiles both ways, and its calls counted once."""

    class Small(White):
        def __call__(self, x, t):
            if x.shape[-1] > 256:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(x, t)

    small, large, told = Prior(Small(), schedule=TABLE), white(), []
    priors = (small, large) if fails == "source" else (large, small)
    image = colours((12, 300))
    with pytest.warns(UserWarning, match="tiles of 256 pixels"):
        found = request("translate").run(images.read(image), *priors, told.append)
    assert found.info.calls == told[-1].done == told[-1].total
    assert torch.equal(found.images[0], translated(image, white(), white(), tile=256))


# ---------------------------------------------------------------- what is refused

BAD = [
    ("edit", {"strength": 1.5}, r"strength is 1.5: give a share of the noise schedule in \[0, 1\]"),
    ("edit", {"strength": -0.1}, "strength is -0.1"),
    ("edit", {"strength": float("nan")}, "strength is nan"),
    ("edit", {"strength": "half"}, "strength is 'half'"),
    ("edit", {"strength": True}, "strength is True"),
    ("edit", {"strength": None}, "strength is None"),
    ("edit", {"repeats": 0}, "repeats is 0"),
    ("edit", {"repeats": 1.5}, "repeats is 1.5"),
    ("edit", {"repeats": None}, "repeats is None"),
    ("edit", {"feather": -1}, "feather is -1"),
    ("edit", {"eta": 2}, "eta is 2"),
    ("refine", {"factor": 0}, "factor is 0"),
    ("refine", {"factor": 2.5}, "factor is 2.5"),
    ("refine", {"strength": 0}, r"strength is 0: give a share of the noise schedule in \(0, 1\]"),
    ("refine", {"strength": None}, "strength is None"),
    ("refine", {"stop": -0.1}, "stop is -0.1"),
    ("refine", {"stop": None}, "stop is None"),
    ("refine", {"stop": 1}, "the chain begins at 1: stop below it"),
    ("refine", {"stop": 0.5, "strength": 0.5}, "the chain begins at 0.5: stop below it"),
    ("refine", {"eta": -1}, "eta is -1"),
    *((task, {"method": "ddrm"}, "unknown method 'ddrm'") for task in EDITING),
]


@pytest.mark.parametrize(("task", "options", "words"), BAD, ids=str)
def test_bad_options_are_refused_before_any_work(task, options, words, no_network):
    with pytest.raises(InputError, match=words) as error:
        REQUESTS[task][0](**options)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        getattr(restore, task)(colours(), prior=white(), **options)
