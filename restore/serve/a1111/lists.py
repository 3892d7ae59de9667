"""What plugins ask for when they start: lists of what there is. An editor that gets a 404 thinks the server is down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch
from fastapi import APIRouter

from restore.serve.a1111.models import Body
from restore.serve.desk import Desk
from restore.serve.errors import Json
from restore.serve.methods import NAMES, upscalers

EMPTY_LISTS = (
    "sd-modules", "sd-vae", "loras", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles",
    "latent-upscale-modes", "script-info", "extensions",
)  # fmt: skip


def router(desk: Desk) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111: what there is"])

    @api.get("/sd-models")
    def sd_models() -> Json:
        """The priors."""
        return Json([_model(name) for name in desk.models.names()])

    @api.get("/samplers")
    def samplers() -> Json:
        """The methods; a request with another name gets `Automatic`."""
        return Json([{"name": name, "aliases": [name.lower().replace(" ", "_")], "options": {}} for name in NAMES])

    @api.get("/schedulers")
    def schedulers() -> Json:
        """One: noise levels are the method's own."""
        one = {
            "name": "automatic",
            "label": "Automatic",
            "aliases": None,
            "default_rho": -1.0,
            "need_inner_model": False,
        }
        return Json([one])

    @api.get("/upscalers")
    def all_upscalers() -> Json:
        """What upscaler_1 may be."""
        return Json([
            {"name": one.name, "model_name": one.prior, "model_path": None, "model_url": None, "scale": one.scale or 4}
            for one in upscalers(desk.models)
        ])  # fmt: skip

    @api.get("/embeddings")
    def embeddings() -> Json:
        """None."""
        return Json({"loaded": {}, "skipped": {}})

    @api.get("/scripts")
    def scripts() -> Json:
        """None."""
        return Json({"txt2img": [], "img2img": []})

    @api.get("/cmd-flags")
    def flags() -> Json:
        """Of the web UI, what a plugin may look at."""
        return Json({"api": True, "listen": False, "port": desk.settings.port, "subpath": None, "gradio_auth": None})

    @api.get("/memory")
    def memory() -> Json:
        """Of the machine and of the accelerator, in bytes."""
        return Json({"ram": _ram(), "cuda": _cuda()})

    @api.get("/options")
    def options() -> Json:
        """What POST /options sets."""
        return Json(shown(desk))

    @api.post("/options")
    def set_options(body: Options) -> Json:
        """Choose the prior that requests without one get, and the format of answers; other options are ignored."""
        if body.sd_model_checkpoint:
            desk.models.facts(body.sd_model_checkpoint)
            desk.prior = body.sd_model_checkpoint
        kind = (body.samples_format or "").lower().strip(".")
        if kind in ("png", "jpg", "jpeg", "webp"):
            desk.format = kind
        return Json(None)

    for name in EMPTY_LISTS:
        api.add_api_route(f"/{name}", _nothing, methods=["GET"], summary="An empty list", name=name)
    for name in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings", "reload-checkpoint"):
        api.add_api_route(f"/{name}", _ignored, methods=["POST"], summary="Does nothing", name=name)

    @api.post("/unload-checkpoint")
    def unload() -> Json:
        """Forget the priors that are loaded; the next request loads them again."""
        desk.models.drop()
        return Json({})

    return api


class Options(Body):
    """Of A1111's options, those that mean something here."""

    sd_model_checkpoint: str | None = None
    samples_format: str | None = None


def shown(desk: Desk) -> dict[str, Any]:
    """The options."""
    return {
        "sd_model_checkpoint": desk.prior, "sd_checkpoint_hash": "", "samples_format": desk.format, "sd_vae": "None",
        "CLIP_stop_at_last_layers": 1, "eta_noise_seed_delta": 0, "inpainting_mask_weight": 1.0, "sd_lora": "None",
        "upscaler_for_img2img": None, "live_previews_enable": True, "show_progress_every_n_steps": 1,
        "img2img_color_correction": False, "enable_hr": False, "face_restoration_model": None,
    }  # fmt: skip


def _model(name: str) -> dict[str, Any]:
    return {
        "title": name,
        "model_name": Path(name).stem,
        "hash": None,
        "sha256": None,
        "filename": name,
        "config": None,
    }


def _nothing() -> Json:
    """Nothing of this kind is here."""
    return Json([])


def _ignored() -> Json:
    """There is nothing to do."""
    return Json({})


def _ram() -> dict[str, int]:
    found = psutil.virtual_memory()
    return {"free": found.available, "used": psutil.Process().memory_info().rss, "total": found.total}


def _cuda() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"error": "no CUDA device"}
    free, total = torch.cuda.mem_get_info()
    used = {"free": free, "used": total - free, "total": total}
    now = {"current": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}
    return {"system": used, "active": now, "allocated": now, "reserved": now, "inactive": now, "events": {}}
