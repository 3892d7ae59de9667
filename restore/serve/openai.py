"""OpenAI's image edits: what is transparent is repainted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from restore.errors import InputError
from restore.jobs import Report, Result
from restore.serve.desk import Desk, one_by_one
from restore.serve.errors import Json
from restore.serve.methods import several, told
from restore.serve.pictures import check_pixels, check_size, picture_of, to_base64
from restore.serve.shapes import clear_of, fitted
from restore.tasks import Inpaint

CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
SHAPE = {"type": "object", "required": ["image"], "properties": {
    "image": {"type": "string", "format": "binary", "description": "With a transparent part, or with a mask."},
    "mask": {"type": "string", "format": "binary", "description": "Transparent is repainted."},
    "prompt": {"type": "string"}, "n": {"type": "integer", "minimum": 1}, "size": {"type": "string"},
    "model": {"type": "string", "description": "A prior; names of OpenAI's models mean the default."},
    "response_format": {"type": "string", "enum": ["b64_json"]},
    "output_format": {"type": "string", "enum": list(FORMATS)},
}}  # fmt: skip


def router(desk: Desk) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/v1", tags=["OpenAI"])
    body = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": SHAPE}}}}

    @api.post("/images/edits", openapi_extra=body)
    async def edits(request: Request) -> Json:
        """Repaint what is transparent in the mask, or in the picture if there is no mask."""
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind.lower() != b"multipart/form-data" or options.get(b"charset", b"utf-8").lower() not in CHARSETS:
            raise InputError("send the picture as multipart/form-data, in UTF-8")  # Python knows stranger encodings
        async with request.form(max_files=4, max_fields=50, max_part_size=20_000) as form:
            fields = {key: value for key, value in form.multi_items() if isinstance(value, str)}
            files = {
                key.removesuffix("[]"): value for key, value in form.multi_items() if isinstance(value, UploadFile)
            }
            if sum(key.removesuffix("[]") == "image" for key, _ in form.multi_items()) > 1:
                raise InputError("image: one picture is edited at a time")
            data = {key: await value.read() for key, value in files.items() if key in ("image", "mask")}
        work = await run_in_threadpool(_job, fields, data, desk)
        return Json(await desk.wait(request, work, "images/edits"))

    @api.get("/models")
    def models() -> Json:
        """The priors that can inpaint."""
        names = desk.models.names("inpaint")
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "restore"} for name in names]
        return Json({"object": "list", "data": rows})

    return api


def _job(fields: dict[str, str], data: dict[str, bytes], desk: Desk) -> Callable[[Report], dict[str, Any]]:
    if "image" not in data:
        raise InputError("image is missing: send a picture")
    sizes = {name: check_size(one, name, desk.settings.max_pixels) for name, one in data.items()}
    kind, count = FORMATS.get(fields.get("output_format") or "png"), _count(fields.get("n") or "1")
    if kind is None:
        raise InputError(f"output_format is {fields['output_format'][:40]!r}: choose one of {', '.join(FORMATS)}")
    if fields.get("response_format", "b64_json") != "b64_json":
        raise InputError("response_format: this server keeps no pictures that it could give addresses of: b64_json")
    size = _size(fields.get("size") or "auto")
    width, height = size or sizes["image"]
    check_pixels(width, height, "the answer", desk.settings.max_pixels)
    desk.check_count(count, width * height)
    name = fields.get("model", "")
    name = name if name in desk.models.names("inpaint") else desk.capable("inpaint")

    def work(report: Report) -> dict[str, Any]:
        picture = picture_of(data["image"], "image")
        width, height = _shaped(size, picture.rgb.shape[-1], picture.rgb.shape[-2])  # of the picture upright
        mask = picture_of(data["mask"], "mask") if "mask" in data else None
        if mask is None and picture.alpha is None:
            raise InputError("nothing is transparent: send a mask, or a picture with a transparent part")
        holes = None if mask is None else clear_of(mask, picture)
        prior = desk.models.get(name)
        options, _ = told(
            Inpaint(method=None if count == 1 else several(prior)), prior, fields.get("prompt", ""), "", None
        )

        def make(k: int, seed: int, report: Report) -> Result:
            return replace(options, seed=seed).run(picture, holes, prior, report)

        answers = one_by_one(make, 0, count, report)
        images = [to_base64(fitted(one, width, height), kind) for one in answers.pictures]
        return {"created": int(time.time()), "data": [{"b64_json": image} for image in images]}

    return work


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,3}", text, re.ASCII):
        raise InputError(f"n is {text[:40]!r}: give a whole number")
    return int(text)


def _size(text: str) -> tuple[int, int] | None:
    """(width, height) of the answer; None: that of the picture."""
    if text == "auto":
        return None
    found = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text, re.ASCII)
    if not found:
        raise InputError(f"size is {text[:40]!r}: give auto, or WIDTHxHEIGHT")
    return int(found[1]), int(found[2])


def _shaped(size: tuple[int, int] | None, width: int, height: int) -> tuple[int, int]:
    """The size asked for, of a picture's shape. Raises InputError where it has another."""
    wide, high = size or (width, height)
    if abs(wide * height - high * width) > max(wide * height, high * width) / 100:
        raise InputError(f"size is {wide}x{high}, the picture {width} x {height}: give auto, or a size of its shape")
    return wide, high
