"""extra-single-image and extra-batch-images as jobs: pictures enlarged."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch.nn import functional as F

from restore.jobs import Report
from restore.metadata import resized as exif_resized
from restore.picture import Picture
from restore.serve.a1111.models import Extras
from restore.serve.a1111.sampling import FORMATS
from restore.serve.desk import Desk, share
from restore.serve.methods import Upscaler, upscaler
from restore.serve.pictures import check_pixels, check_size, picture_of, to_base64
from restore.serve.shapes import CROP, STRETCH, fitted
from restore.tasks import Upscale

MOST = 16  # times, of `restore upscale`


def enlarging(asked: Extras, texts: list[str], desk: Desk) -> Callable[[Report], dict[str, Any]]:
    """The job for these pictures, checked as far as it can be before it waits. Raises InputError."""
    data = [desk.bytes_of(text, f"image {i + 1}") for i, text in enumerate(texts)]
    shapes = [check_size(one, "the image", desk.settings.max_pixels) for one in data]
    first, note = upscaler(desk.models, asked.upscaler_1)
    visible = asked.extras_upscaler_2_visibility or 0.0
    second, note_2 = upscaler(desk.models, asked.upscaler_2) if visible and asked.upscaler_2 else (None, None)

    def size_of(width: int, height: int) -> tuple[int, int]:
        size = _size(asked, width, height)
        check_pixels(*size, "the answer", desk.settings.max_pixels)
        for one in (first, second):
            times = _times(one, width, height, size) if one else 1
            larger = f"the picture, {times} times as large,"
            check_pixels(times * width, times * height, larger, desk.settings.max_pixels)
        return size

    desk.check_count(len(data), max(math.prod(size_of(*shape)) for shape in shapes))
    notes = [text for text in (note, note_2) if text]
    notes += ["faces are not restored apart"] if asked.gfpgan_visibility or asked.codeformer_visibility else []

    def work(report: Report) -> dict[str, Any]:
        images = []
        for k, one in enumerate(data):
            picture = picture_of(one, f"image {k + 1}")
            size = size_of(picture.rgb.shape[-1], picture.rgb.shape[-2])  # of the picture upright
            crop, told = asked.resize_mode == 1 and asked.upscaling_crop, partial(share, report, k, len(data))
            answer = enlarged(picture, size, first, desk, told, crop)
            if second:
                other = enlarged(picture, size, second, desk, told, crop)
                answer = replace(answer, rgb=answer.rgb.lerp(other.rgb, visible))
            images.append(to_base64(answer, FORMATS[desk.format]))
        return {"images": images, "html_info": "".join(f"<p>{html.escape(text)}</p>" for text in notes)}

    return work


def _size(asked: Extras, width: int, height: int) -> tuple[int, int]:
    """(width, height) of the answer to a picture of this size."""
    if asked.resize_mode != 1:
        scale = asked.upscaling_resize or 1.0
        return max(1, round(width * scale)), max(1, round(height * scale))
    wide, high = asked.upscaling_resize_w or width, asked.upscaling_resize_h or height
    if asked.upscaling_crop:
        return wide, high
    scale = max(wide / width, high / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _times(chosen: Upscaler, width: int, height: int, size: tuple[int, int]) -> int:
    """How many times as large an upscaler makes a picture of width x height, on the way to a size; 1: not at all."""
    factor = math.ceil(max(size[0] / width, size[1] / height) - 1e-6)
    return 1 if not chosen.prior or factor <= 1 else chosen.scale or min(MOST, factor)


def enlarged(
    picture: Picture, size: tuple[int, int], chosen: Upscaler, desk: Desk, report: Report, crop: bool
) -> Picture:
    """A picture at (width, height): by the upscaler to the next whole factor above, then by plain resizing.

    An upscaler of a fixed factor below what is asked for leaves the rest to plain resizing too."""
    width, height = size
    h, w = picture.rgb.shape[-2:]
    scale = _times(chosen, w, h, size)
    if scale > 1:
        request = Upscale(scale=scale, method=chosen.method)
        picture = request.run(picture, desk.models.get(chosen.prior), report).images[0]
    if chosen.interpolation == "nearest-exact" and not crop:
        rgb = F.interpolate(picture.rgb, (height, width), mode="nearest-exact")
        exif = picture.exif and exif_resized(picture.exif, height, width)
        return replace(picture.with_rgb(rgb), exif=exif)
    return fitted(picture, width, height, CROP if crop else STRETCH)
