"""The page's events: what its controls show, a picture that was dropped, and jobs with their progress."""

from __future__ import annotations

import asyncio
import base64
import html
import os
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from restore.errors import RestoreError
from restore.images import read
from restore.pipelines import READS
from restore.serve.engine import Engine, Refused, Ticket
from restore.serve.models import Models
from restore.serve.page_jobs import (
    CANVAS,
    HOLES,
    PAINTED,
    TASKS,
    UPLOADED,
    Answers,
    Form,
    Given,
    preview,
    put,
    uploaded,
    work,
)
from restore.serve.pictures import check_size
from restore.serve.settings import Settings

TICK = 0.4  # seconds between two looks at a job


class Page:
    """The page's events. Each browser is a session of gradio's, which has at most one job."""

    def __init__(self, engine: Engine, models: Models, settings: Settings, folder: Path) -> None:
        self.engine, self.models, self.settings, self.folder = engine, models, settings, folder
        self.tasks = [task for task in TASKS if models.names(task)]
        self.tickets: dict[str, Ticket] = {}

    # ---- what is shown of the controls

    def controls(self, task: Any, prior: Any, holes: Any) -> dict[str, dict[str, Any]]:
        """The properties of each control that another one decides on."""
        task = task if task in self.tasks else self.tasks[0]
        names = self.models.names(task)
        prior = prior if prior in names else names[0]
        facts, sources = self.models.facts(prior), HOLES.get(task, ())
        holes = holes if holes in sources else next(iter(sources), None)
        methods = TASKS[task].SAMPLERS if facts.get("restores") else TASKS[task].METHODS
        labels = _labels(facts)
        return {
            "prior": {"choices": names, "value": prior},
            "method": {"choices": ["auto", *methods], "value": "auto"},
            "holes": {"choices": list(sources), "value": holes, "visible": bool(sources)},
            "mask": {"visible": holes == UPLOADED},
            "label": {"choices": labels, "value": "", "visible": len(labels) > 1},
            "prompt": {"visible": facts.get("network") in READS},
            "scale": {"visible": task == "upscale" and not facts.get("scale")},
            "kernel": {"visible": task == "deblur" and not facts.get("restores")},
            "sigma": {"visible": task in ("denoise", "deblur")},
            "strength": {"visible": task == "edit"},
            "side": {"visible": task == "generate"},
            "picture": {"visible": task != "generate"},
            "canvas": {"visible": holes == PAINTED},
            "shown": {"visible": task != "generate" and holes != PAINTED},
            "what": {"visible": task != "generate"},
        }

    def drop(self, value: Any) -> tuple[Any, Any, str]:
        """A picture was dropped: what is painted on, what is shown instead, and what it is."""
        try:
            path = uploaded(value, self.folder, "the picture")
            if path is None:
                return None, None, ""
            data = path.read_bytes()
            width, height = check_size(data, path.name, self.settings.max_pixels)
            picture = read(data, name=path.name)
            shown = self.folder / f"canvas-{os.urandom(8).hex()}.png"
            put(preview(picture, CANVAS), shown)
        except RestoreError as error:
            return None, None, _problem(error)
        kind = f"{picture.format or 'picture'}, {picture.depth} bits" + (", transparent" * (picture.alpha is not None))
        told = f"{html.escape(path.name)}: {width} x {height}, {kind}"
        return {"background": str(shown), "layers": [], "composite": None}, str(shown), told

    # ---- jobs

    async def run(self, values: dict[str, Any], session: str) -> AsyncIterator[tuple[str, Answers | None]]:
        """A job's status as HTML, again and again, and at last its answers."""
        try:
            form = Form.of(values, self.settings)
            job = work(form, Given.of(values, self.folder), self.models, self.settings, self.folder)
            self.left(session)
            ticket = self.tickets[session] = self.engine.submit(job, name=f"page: {form.task}")
        except RestoreError as error:
            yield _problem(error), None
            return
        try:
            while not ticket.wait(0):
                yield await asyncio.to_thread(_status, ticket), None
                await asyncio.sleep(TICK)
            answers = ticket.result()
            yield f"<div class=job>{html.escape(answers.line)}</div>", answers
        except RestoreError as error:
            yield _problem(error), None
        finally:
            self.engine.stop(ticket)
            if self.tickets.get(session) is ticket:
                del self.tickets[session]

    def left(self, session: str | None) -> None:
        """Stop the job of a session, where it has one."""
        ticket = self.tickets.pop(session or "", None)
        if ticket is not None:
            self.engine.stop(ticket)


def _labels(facts: dict[str, Any]) -> list[str]:
    named = facts.get("labels")
    names = named.split(", ") if named else [str(k) for k in range(min(int(facts.get("classes") or 0), 1000))]
    return ["", *names]


def _problem(error: RestoreError) -> str:
    kind = "job" if isinstance(error, Refused) else "problem"
    return f"<div class={kind}>{html.escape(' '.join(str(error).split())[:500])}</div>"


def _status(ticket: Ticket) -> str:
    if ticket.state == "queued":
        return f"<div class=job>waiting for {ticket.ahead + 1} other job{'s' * (ticket.ahead > 0)}</div>"
    done, total, newest = ticket.done, max(ticket.total, 1), ticket.preview()
    left = f", {ticket.left:.0f} s left" if ticket.left else ""
    bar = f"<div class=bar><div style='width:{100 * min(1, done / total):.0f}%'></div></div>"
    image = "" if newest is None else f"<img alt='preview' src='{_data_uri(newest)}'>"
    return f"<div class=job>{image}<div>{done} of {ticket.total or '?'} calls{left}{bar}</div></div>"


def _data_uri(preview: Tensor) -> str:
    x = (preview[0].detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    image, buffer = Image.fromarray(x), BytesIO()
    image.thumbnail((360, 360))
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
