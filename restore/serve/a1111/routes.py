"""The jobs of A1111's protocol, and how they are watched and stopped."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from torch.nn import functional as F

from restore.errors import InputError
from restore.files import texts
from restore.picture import Picture
from restore.serve.a1111 import extras, lists, sampling
from restore.serve.a1111.infotext import parse
from restore.serve.a1111.models import ExtraBatch, ExtraSingle, Img2Img, PngInfo, TaskId, Txt2Img
from restore.serve.desk import Desk
from restore.serve.engine import Ticket
from restore.serve.errors import Json
from restore.serve.pictures import to_base64

PREVIEW = 512  # pixels of the longer side of a preview


def routers(desk: Desk) -> list[APIRouter]:
    """All routes of the protocol."""
    return [_jobs(desk), _watching(desk), lists.router(desk), _controlnet(), _extensions(desk)]


def _jobs(desk: Desk) -> APIRouter:
    api = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111: jobs"])

    @api.post("/img2img")
    async def img2img(body: Img2Img, request: Request) -> Json:
        """With a mask, inpaint; without one, edit (SDEdit) at `denoising_strength`.

        With `inpaint_full_res` the answer has the size of the picture sent, and pixels outside the mask are exact. Else
        the picture is brought to width x height first, as `resize_mode` says, where they are given."""
        work = await run_in_threadpool(sampling.img2img, body, desk)
        return Json(await desk.wait(request, work, "img2img", body.force_task_id))

    @api.post("/txt2img")
    async def txt2img(body: Txt2Img, request: Request) -> Json:
        """Sample pictures from a prior that can generate."""
        work = await run_in_threadpool(sampling.txt2img, body, desk)
        return Json(await desk.wait(request, work, "txt2img", body.force_task_id))

    @api.post("/extra-single-image")
    async def extra_single_image(body: ExtraSingle, request: Request) -> Json:
        """Enlarge a picture."""
        work = await run_in_threadpool(extras.enlarging, body, [body.image], desk)
        made = await desk.wait(request, work, "extra-single-image")
        return Json({"html_info": made["html_info"], "image": made["images"][0]})

    @api.post("/extra-batch-images")
    async def extra_batch_images(body: ExtraBatch, request: Request) -> Json:
        """Enlarge several pictures."""
        work = await run_in_threadpool(extras.enlarging, body, [one.data for one in body.imageList], desk)
        return Json(await desk.wait(request, work, "extra-batch-images"))

    @api.post("/interrogate")
    async def interrogate() -> Json:
        """Not done here: there is no network that reads pictures."""
        raise InputError("no network here says what is in a picture")

    @api.post("/png-info")
    async def png_info(body: PngInfo) -> Json:
        """What a picture that was made here, or by A1111, says of how it was made."""
        return Json(await run_in_threadpool(_png_info, desk.bytes_of(body.image, "the image")))

    return api


def _png_info(data: bytes) -> dict[str, Any]:
    items = texts(data, "the image")
    text = items.get("parameters", "")
    return {"info": text, "items": items, "parameters": parse(text) if text else {}}


def _watching(desk: Desk) -> APIRouter:
    api = APIRouter(tags=["AUTOMATIC1111: watching and stopping"])

    @api.get("/sdapi/v1/progress")
    async def progress(skip_current_image: bool = False) -> Json:
        """Of the job that runs: how far it is, and how it looks."""
        running = desk.engine.running
        return Json(await run_in_threadpool(_progress, running[0] if running else None, desk, not skip_current_image))

    @api.post("/internal/progress")
    async def one_progress(body: TaskId) -> Json:
        """Of the job with this `force_task_id`, as the web UI's own page asks."""
        ticket = desk.engine.find(body.id_task or "")
        facts = {"active": False, "queued": False, "completed": False, "progress": None, "eta": None}
        if ticket:
            facts |= {
                "active": ticket.state == "running",
                "queued": ticket.state == "queued",
                "completed": ticket.wait(0),
            }
            told = await run_in_threadpool(_progress, ticket, desk, body.live_preview)
            preview = told["current_image"] and f"data:image/png;base64,{told['current_image']}"
            facts |= {"progress": told["progress"], "eta": told["eta_relative"], "live_preview": preview}
        return Json({"live_preview": None, "id_live_preview": ticket.done if ticket else -1, "textinfo": None, **facts})

    @api.post("/sdapi/v1/interrupt")
    async def interrupt() -> Json:
        """Stop the job that runs: it answers with what it has."""
        for ticket in desk.engine.running:
            ticket.stop("interrupted")
        return Json({})

    @api.post("/sdapi/v1/skip")
    async def skip() -> Json:
        """Go on with the next of the answers that were asked for."""
        for ticket in desk.engine.running:
            ticket.stop("skipped")
        return Json(None)

    @api.get("/internal/ping")
    async def ping() -> Json:
        """Whether the server lives."""
        return Json({})

    return api


def _progress(ticket: Ticket | None, desk: Desk, with_image: bool) -> dict[str, Any]:
    waiting = desk.engine.waiting
    state = {"skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0}
    state |= {"job_timestamp": time.strftime("%Y%m%d%H%M%S"), "job_no": 0, "sampling_step": 0, "sampling_steps": 0}
    if ticket is None:
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    share = max(0.01, ticket.done / ticket.total if ticket.total else 0.0)  # 0 is what an idle server says
    state |= {
        "job": ticket.name,
        "job_count": 1 + waiting,
        "sampling_step": ticket.done,
        "sampling_steps": ticket.total,
    }
    state |= {"interrupted": ticket.stopping == "interrupted", "skipped": ticket.stopping == "skipped"}
    image = preview(ticket) if with_image else None
    eta = round(ticket.left, 2)
    return {"progress": min(share, 1.0), "eta_relative": eta, "state": state, "current_image": image, "textinfo": None}


def preview(ticket: Ticket) -> str | None:
    """The newest estimate of a job, as a small PNG in base64."""
    x = ticket.preview()
    if x is None or not x.isfinite().all():
        return None
    x = x[:1].float().cpu()
    scale = min(1.0, PREVIEW / max(x.shape[-2:]))
    if scale < 1:
        x = F.interpolate(x, scale_factor=scale, mode="area")
    return to_base64(Picture(x.clamp(0, 1)))


def _controlnet() -> APIRouter:
    api = APIRouter(prefix="/controlnet", tags=["AUTOMATIC1111: what there is"])

    @api.get("/version")
    def version() -> Json:
        """0: there is no ControlNet."""
        return Json({"version": 0})

    @api.get("/model_list")
    def models() -> Json:
        """None."""
        return Json({"model_list": []})

    @api.get("/module_list")
    def modules() -> Json:
        """None."""
        return Json({"module_list": [], "module_detail": {}})

    @api.get("/control_types")
    def types() -> Json:
        """None."""
        return Json({"control_types": {}})

    @api.get("/settings")
    def settings() -> Json:
        """No units of ControlNet."""
        return Json({"control_net_max_models_num": 0})

    return api


def _extensions(desk: Desk) -> APIRouter:
    """What plugins look for to tell whether the server, or an extension of theirs, is there."""
    api = APIRouter(tags=["AUTOMATIC1111: what there is"])

    @api.get("/queue/status")
    def queue() -> Json:
        """Gradio's: how many jobs wait."""
        return Json({"msg": "estimation", "queue_size": desk.engine.waiting})

    @api.get("/sdapi/auto-photoshop-sd/heartbeat")
    def heartbeat() -> Json:
        """Of the extension of Auto-Photoshop: alive."""
        return Json({"heartbeat": True})

    @api.get("/sdapi/auto-photoshop-sd/vae/list")
    def vae() -> Json:
        """None."""
        return Json([])

    return api
