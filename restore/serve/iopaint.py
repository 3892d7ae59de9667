"""IOPaint's protocol (lama-cleaner's, before): a picture and a mask in, a PNG out, as krita-iopaint asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from restore.jobs import Report
from restore.serve.a1111.models import Body, Picture
from restore.serve.desk import Desk
from restore.serve.methods import told
from restore.serve.pictures import picture_of, to_bytes
from restore.serve.shapes import hole_of
from restore.tasks import Inpaint


class Inpainting(Body):
    """POST /api/v1/inpaint: what IOPaint's request has, as far as it means something here."""

    image: Picture
    mask: Picture = Field(description="White is repainted; of another size but the same aspect it is resized.")
    prompt: str | None = Field("", max_length=10_000)
    negative_prompt: str | None = Field("", max_length=10_000)
    sd_seed: int | None = Field(None, description="-1 is 0: without a seed the same request has the same answer.")


def router(desk: Desk) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/api/v1", tags=["IOPaint"])

    @api.post("/inpaint", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def inpaint(body: Inpainting, request: Request) -> Response:
        """Repaint the white part of the mask; every other pixel stays as it is."""
        work = await run_in_threadpool(_job, body, desk)
        png, seed = await desk.wait(request, work, "inpaint")
        return Response(png, media_type="image/png", headers={"X-Seed": str(seed)})

    @api.get("/server-config")
    def config() -> dict[str, Any]:
        """What IOPaint's own clients look at."""
        return {
            "plugins": [], "modelInfos": [model()], "removeBGModel": "", "removeBGModels": [],
            "realesrganModel": "", "realesrganModels": [], "interactiveSegModel": "", "interactiveSegModels": [],
            "enableFileManager": False, "enableAutoSaving": False, "enableControlnet": False, "controlnetMethod": "",
            "disableModelSwitch": True, "isDesktop": False, "samplers": [],
        }  # fmt: skip

    @api.get("/model")
    def model() -> dict[str, str]:
        """The prior."""
        return {"name": desk.prior, "path": desk.prior, "model_type": "inpaint"}

    return api


def _job(asked: Inpainting, desk: Desk) -> Callable[[Report], tuple[bytes, int]]:
    data, drawn = desk.bytes_of(asked.image, "image"), desk.bytes_of(asked.mask, "mask")
    seed = max(0, min(asked.sd_seed or 0, 2**62))

    def work(report: Report) -> tuple[bytes, int]:
        picture = picture_of(data, "image")
        holes = hole_of(picture_of(drawn, "mask"), picture)
        prior = desk.models.get(desk.capable("inpaint"))
        options, _ = told(Inpaint(), prior, asked.prompt or "", asked.negative_prompt or "", None)
        answer = replace(options, seed=seed).run(picture, holes, prior, report)
        return to_bytes(answer.images[0]), seed

    return work
