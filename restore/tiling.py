"""Asking for a large tensor in overlapping tiles, and blending what comes back: memory stays that of one tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Span = tuple[int, int]


def spans(length: int, size: int, overlap: int, grid: int = 8) -> list[Span]:
    """Spans of `size` that cover `length` with at least `overlap` in common, evenly placed on multiples of `grid`."""
    room, stride = max(length - size, 0), max((size - overlap) // grid, 1) * grid
    count = -(-room // stride)
    starts = [0, *(min(-(-i * room // (grid * count)) * grid, room) for i in range(1, count + 1))]
    return [(a, min(a + size, length)) for a in starts]


def _ramp(span: Span, length: int, overlap: int, like: Tensor) -> Tensor:
    """Weights of one tile along one side: 1 inside, falling to 0 over the middle quarter of the overlap, except at the
    border. In the outer part the network sees an edge that is not there: it has no say."""
    (begin, end), whole = span, span == (0, length)
    ramp = torch.ones(end - begin, dtype=like.dtype, device=like.device)
    rim = 3 * overlap // 8
    rise = (torch.arange(overlap, dtype=like.dtype, device=like.device) + 0.5 - rim) / (overlap - 2 * rim)
    rise = rise.clamp(0, 1)
    if begin and not whole:
        ramp[:overlap] = rise
    if end < length and not whole:
        ramp[-overlap:] = torch.minimum(ramp[-overlap:], rise.flip(0))
    return ramp


def _windows(height: int, width: int, size: int, overlap: int, grid: int) -> Iterator[tuple[Span, Span]]:
    for rows in spans(height, size, overlap, grid):
        for columns in spans(width, size, overlap, grid):
            yield rows, columns


def blended(
    ask: Callable[[Tensor], Sequence[Tensor | None]],
    x: Tensor,
    size: int,
    overlap: int,
    *,
    grid: int = 8,
    taken: int = 1,
    given: int = 1,
) -> list[Tensor | None]:
    """What `ask` says of x (B,C,H,W), put together from what it says of tiles, weighted smoothly where they overlap.

    ask: a tile -> tensors of its size, or None. All is counted in cells: x has `taken` pixels a side for each, what
    `ask` gives has `given` (an encoder takes 8 and gives 1). size, overlap, grid: cells a side; tiles begin at
    multiples of `grid`."""
    height, width = (side // taken for side in x.shape[-2:])
    sums: list[Tensor | None] | None = None
    total = None
    for rows, columns in _windows(height, width, size, overlap, grid):
        (top, bottom), (left, right) = rows, columns
        tile = x[..., top * taken : bottom * taken, left * taken : right * taken].contiguous()
        parts = ask(tile)
        like = next(part for part in parts if part is not None)
        if sums is None:
            large = (*like.shape[:2], height * given, width * given)
            sums = [None if part is None else part.new_zeros(large) for part in parts]
            total = like.new_zeros(large[-2:])
        down, across = (
            _ramp((a * given, b * given), side * given, overlap * given, like)
            for (a, b), side in ((rows, height), (columns, width))
        )
        weight = down[:, None] * across[None, :]
        place = (..., slice(top * given, bottom * given), slice(left * given, right * given))
        for acc, part in zip(sums, parts, strict=True):
            if part is not None:
                acc[place] += weight * part
        total[place[1:]] += weight
    return [None if acc is None else acc / total for acc in sums]
