"""Boxes around holes, padding, hole widths and the rough fill."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.regions import Box, boxes, hole_radius, pad, rough_fill


def mask_of(shape, *rectangles):
    mask = torch.zeros(1, 1, *shape)
    for top, bottom, left, right in rectangles:
        mask[..., top:bottom, left:right] = 1
    return mask


def drawn(seed, shape, count):
    """A mask of `count` random rectangles and as many loose pixels."""
    rng, mask = np.random.default_rng(seed), torch.zeros(1, 1, *shape)
    for _ in range(count):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        mask[..., y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = 1
        mask[..., rng.integers(0, shape[0]), rng.integers(0, shape[1])] = 1
    return mask


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 120), st.integers(0, 6), st.sampled_from([0, 1, 7, 48])
)
def test_boxes_hold_every_hole_with_its_margin_and_do_not_overlap(seed, height, width, count, margin):
    mask = drawn(seed, (height, width), count)
    found = boxes(mask, margin)
    covered = torch.zeros(height, width, dtype=torch.int)
    for box in found:
        assert 0 <= box.top < box.bottom <= height
        assert 0 <= box.left < box.right <= width
        box.cut(covered).add_(1)
        assert box.cut(mask).any()
    assert covered.max() <= 1
    near = torch.nn.functional.max_pool2d(mask, 2 * margin + 1, stride=1, padding=margin)[0, 0]
    assert (covered[near > 0] == 1).all()


def test_no_hole_no_box():
    assert boxes(torch.zeros(1, 1, 20, 30), 5) == []


def test_boxes_are_as_small_as_they_can_be():
    assert boxes(mask_of((100, 100), (40, 50, 60, 65)), 5) == [Box(35, 55, 55, 70)]
    assert boxes(mask_of((100, 100), (0, 5, 95, 100)), 5) == [Box(0, 10, 90, 100)]
    assert len(boxes(mask_of((100, 100), (0, 10, 0, 10), (80, 90, 80, 90)), 10)) == 2
    assert boxes(mask_of((100, 100), (0, 10, 0, 10), (15, 20, 15, 20)), 10) == [Box(0, 30, 0, 30)]


def test_boxes_of_a_ring_around_another_hole_are_one():
    mask = mask_of(
        (200, 200), (0, 200, 0, 5), (0, 200, 195, 200), (0, 5, 0, 200), (195, 200, 0, 200), (95, 105, 95, 105)
    )
    assert boxes(mask, 10) == [Box(0, 200, 0, 200)]


def test_boxes_of_a_batch_hold_the_holes_of_all():
    masks = torch.cat([mask_of((60, 60), (0, 4, 0, 4)), mask_of((60, 60), (50, 54, 50, 54))])
    assert boxes(masks, 2) == [Box(0, 6, 0, 6), Box(48, 56, 48, 56)]


def test_cut_is_a_view():
    x = torch.zeros(1, 3, 20, 20)
    Box(2, 5, 3, 9).cut(x).fill_(1)
    assert x.sum() == 3 * 3 * 6


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 300), (37, 53), (64, 32), (7, 7)])
@pytest.mark.parametrize("multiple", [1, 2, 8, 32])
def test_pad(shape, multiple):
    x = torch.rand(2, 3, *shape)
    padded = pad(x, multiple)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - shape[0] < multiple
    assert torch.equal(padded[..., : shape[0], : shape[1]], x)
    assert set(padded.unique().tolist()) == set(x.unique().tolist())


def test_pad_mirrors():
    assert pad(torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 8, 5), 8)[0, 0, 0].tolist() == [
        0,
        1,
        2,
        3,
        4,
        3,
        2,
        1,
    ]


@pytest.mark.parametrize(
    ("rectangle", "radius"),
    [
        ((50, 51, 50, 51), 1),
        ((40, 61, 40, 61), 11),
        ((40, 61, 0, 100), 11),
        ((0, 10, 0, 10), 10),
        ((0, 20, 0, 100), 20),
    ],
)
def test_hole_radius_is_the_way_to_known_pixels(rectangle, radius):
    assert abs(hole_radius(mask_of((100, 100), rectangle)) - radius) < 0.5


def test_hole_radius_of_several_and_of_everything():
    assert abs(hole_radius(mask_of((100, 100), (5, 8, 5, 8), (40, 61, 40, 61))) - 11) < 0.5
    assert hole_radius(torch.ones(1, 1, 30, 50)) == 50


@pytest.mark.parametrize("box", [(20, 30, 20, 30), (0, 9, 0, 9), (0, 9, 20, 30), (31, 40, 41, 50), (0, 40, 0, 25)])
def test_rough_fill_keeps_the_rest_and_forgets_the_hole(box):
    rgb, mask = torch.rand(1, 3, 40, 50), mask_of((40, 50), box)
    before, fills = rgb.clone(), []
    for rubbish in (0.0, 1.0):
        fills.append(rough_fill(torch.where(mask > 0, rubbish, rgb), mask))
    assert torch.equal(*fills)
    assert torch.equal(rgb, before)
    assert torch.equal(torch.where(mask > 0, 0, fills[0]), torch.where(mask > 0, 0, rgb))


def test_rough_fill_continues_what_is_around():
    ramp = torch.linspace(0.2, 0.8, 60).expand(1, 3, 40, 60).contiguous()
    mask = mask_of((40, 60), (10, 30, 25, 35))
    assert (rough_fill(torch.where(mask > 0, 0, ramp), mask) - ramp).abs().max() < 0.06


def test_rough_fill_of_everything_is_gray():
    assert (rough_fill(torch.rand(1, 3, 5, 6), torch.ones(1, 1, 5, 6)) == 0.5).all()


def test_rough_fill_of_a_batch_uses_each_mask():
    rgb = torch.rand(2, 3, 20, 20)
    masks = torch.cat([mask_of((20, 20), (2, 5, 2, 5)), mask_of((20, 20), (10, 15, 10, 15))])
    filled = rough_fill(rgb, masks)
    for i in range(2):
        assert torch.equal(filled[i : i + 1], rough_fill(rgb[i : i + 1], masks[i : i + 1]))
    shared = rough_fill(rgb, masks[:1])
    assert torch.equal(shared[1:], rough_fill(rgb[1:], masks[:1]))


@pytest.mark.parametrize(("top", "left"), [(0, 0), (40, 3), (90, 150)])
def test_boxes_grow_to_what_a_network_was_trained_on(top, left):
    mask = torch.zeros(1, 1, 100, 160)
    mask[..., top : top + 4, left : left + 4] = 1
    (box,) = boxes(mask, 8, least=64)
    assert (box.bottom - box.top, box.right - box.left) == (64, 64)
    assert box.top >= 0
    assert box.left >= 0
    assert box.bottom <= 100
    assert box.right <= 160
    assert box.cut(mask).sum() == mask.sum()
    (box,) = boxes(mask, 8, least=500)
    assert box == (0, 100, 0, 160)
