"""restore.inpaint: sizes, boxes around holes, tiles, memory."""

import warnings

import numpy as np
import pytest
import torch
from conftest import closed_form
from inpainting import METHODS, ODD, colours, hole, inpaint_result, restored

from restore import jobs
from restore.errors import OutOfMemory
from restore.levels import linear
from restore.prior import Prior
from restore.tasks import inpainting as inpainting_task

# ---------------------------------------------------------------- sizes and regions


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 300), (300, 5), (2, 2), (37, 53), (8, 8)])
@pytest.mark.parametrize("method", METHODS)
def test_tiny_pictures(size, method, tiny):
    image = colours(size)
    out = restored(image, torch.ones(size), tiny, method=method)
    assert out.shape == image.shape
    mask = torch.ones(size)
    mask[0, 0] = 0
    out = restored(image, mask, tiny, method=method)
    assert torch.equal(out[..., 0, 0], image[..., 0, 0])


def test_sides_are_padded_to_what_the_network_takes(spy, spied):
    for size in ((37, 53), (5, 300), (1, 1)):
        spy.shapes.clear()
        restored(colours(size), torch.ones(size), spied)
        assert all(h % 8 == 0 and w % 8 == 0 for _, _, h, w in spy.shapes)


@pytest.mark.parametrize("method", METHODS)
def test_far_holes_are_worked_on_in_boxes_of_their_own(method, spy, spied):
    size = (400, 700)
    mask = torch.zeros(size)
    for y, x in ((0, 0), (390, 690), (200, 350)):
        mask[y : y + 10, x : x + 10] = 1
    image, told = colours(size), []
    result = inpaint_result(image, mask, prior=spied, steps=3, method=method, progress=told.append)
    assert len({shape[2:] for shape in spy.shapes}) > 1
    assert all(
        h <= 10 + 2 * inpainting_task.MARGIN + 8 and w <= 10 + 2 * inpainting_task.MARGIN + 8
        for _, _, h, w in spy.shapes
    )
    assert result.info.calls == len(spy.shapes) == told[-1].total == told[-1].done
    changed = (result.images[0] != image).any(1)[0]
    assert not (changed & (mask == 0)).any()
    assert all(changed[y : y + 10, x : x + 10].any() for y, x in ((0, 0), (390, 690), (200, 350)))


def test_holes_near_each_other_share_a_box(spy, spied):
    mask = torch.zeros(200, 200)
    mask[80:90, 80:90] = mask[80:90, 100:110] = 1
    restored(colours((200, 200)), mask, spied, method="ddrm", steps=3)
    assert len(spy.shapes) == 3


def test_a_large_picture_is_never_shown_whole(spy, spied):
    image, mask = torch.rand(1, 3, 2048, 2048), torch.zeros(2048, 2048)
    mask[1000:1020, 700:730] = 1
    restored(image, mask, spied)
    assert max(max(shape[2:]) for shape in spy.shapes) <= 30 + 2 * inpainting_task.MARGIN + 8


def test_a_large_hole_is_worked_on_in_tiles(spy, spied):
    restored(torch.rand(1, 3, 64, 1400), torch.ones(64, 1400), spied, steps=1)
    assert max(max(shape[2:]) for shape in spy.shapes) <= jobs.TILES[0]
    spy.shapes.clear()
    restored(torch.rand(1, 3, 64, 1400), torch.ones(64, 1400), spied, steps=1, tile=None)
    assert {shape[2:] for shape in spy.shapes} == {(64, 1400)}
    spy.shapes.clear()
    restored(torch.rand(1, 3, 64, 600), torch.ones(64, 600), spied, steps=1, tile=128)
    assert max(max(shape[2:]) for shape in spy.shapes) == 128


def test_empty_mask_gives_a_copy(tiny):
    image = np.random.default_rng(0).integers(0, 256, (*ODD, 3), dtype=np.uint8)
    told = []
    result = inpaint_result(image, np.zeros(ODD), prior=tiny, samples=2, progress=told.append, method="ddrm")
    assert all((answer == image).all() for answer in result.images)
    assert not np.shares_memory(result.images[0], image)
    assert not np.shares_memory(*result.images)
    assert (result.info.calls, told) == (0, [])
    assert "empty" in result.info.note


# ---------------------------------------------------------------- memory


def failing(limit, error, asked):
    def net(x, t):
        asked.append(tuple(x.shape[2:]))
        if x.shape[-1] * x.shape[-2] > limit**2:
            raise error
        return closed_form(x, t)

    return Prior(net, schedule=linear(1000), clip=True, multiple=8)


ERRORS = {
    "torch": torch.OutOfMemoryError("CUDA out of memory"),
    "torch on the CPU": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    "torch on Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    "python": MemoryError(),
}


@pytest.mark.parametrize(
    ("error", "method"), [*((error, "ddrm") for error in ERRORS), *(("torch", m) for m in METHODS[::2])]
)
def test_smaller_tiles_when_memory_runs_out(error, method, spied):
    asked = []
    image, mask = colours((300, 400)), hole((300, 400), 40, 260, 40, 360)
    prior = failing(260, ERRORS[error], asked)
    told = []
    with pytest.warns(UserWarning, match="tiles of 256 pixels"):
        result = inpaint_result(image, mask, prior=prior, method=method, steps=3, progress=told.append)
    assert result.info.calls == told[-1].done == told[-1].total
    assert max(asked[1:]) <= (256, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = restored(image, mask, spied, steps=3, method=method, tile=256)
    assert torch.equal(result.images[0], same)
    assert torch.equal(same[..., mask == 0], image[..., mask == 0])


def test_tiles_of_a_local_network_change_nothing_but_rounding(spied):
    image, mask = colours((300, 400)), hole((300, 400), 40, 260, 40, 360)
    whole = restored(image, mask, spied, method="ddrm", steps=3)
    torch.testing.assert_close(restored(image, mask, spied, method="ddrm", steps=3, tile=128), whole)


def test_out_of_memory_at_the_smallest_tile(spied):
    asked = []
    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(OutOfMemory, match="128 pixels"):
        restored(colours((300, 400)), torch.ones(300, 400), failing(100, ERRORS["torch"], asked))
    assert [max(shape) for shape in asked] == [400, 256, 128]
    asked.clear()
    with pytest.raises(OutOfMemory):
        restored(colours(), torch.ones(ODD), failing(10, ERRORS["torch"], asked))
    assert len(asked) == 1
    with pytest.raises(OutOfMemory):
        restored(colours((300, 400)), torch.ones(300, 400), failing(100, ERRORS["torch"], asked), tile="none")


def test_other_errors_are_not_taken_for_memory():
    def net(x, t):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="do not fit"):
        restored(colours(), hole(), Prior(net, schedule=linear(1000)))
