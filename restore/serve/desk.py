"""What every protocol shares: the engine, the priors, the settings; and how a request waits for its job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fastapi import Request

from restore.errors import InputError
from restore.jobs import Progress, Report, Result
from restore.picture import Picture
from restore.serve.engine import Engine, Stopped, Ticket, Unknown, Work
from restore.serve.models import Models
from restore.serve.pictures import check_size, from_base64
from restore.serve.settings import Settings


class Desk:
    """Where requests come in: one of each app, found as `app.state.desk`."""

    def __init__(self, settings: Settings, engine: Engine, models: Models) -> None:
        self.settings, self.engine, self.models = settings, engine, models
        self.prior = models.default("inpaint")  # of requests that name none; A1111's option sd_model_checkpoint
        self.format = "png"  # of answers; A1111's option samples_format

    def bytes_of(self, text: str | None, name: str) -> bytes:
        """A picture in base64, its header checked. Raises InputError."""
        data = from_base64(text or "", name)
        check_size(data, name, self.settings.max_pixels)
        return data

    def capable(self, task: str) -> str:
        """The prior of a request that names none: the one chosen, or the first that can do the task."""
        return self.prior if task in self.models.tasks(self.prior) else self.models.default(task)

    def check_steps(self, steps: int | None) -> None:
        """Refuse more steps than this server takes. Raises InputError."""
        if steps is not None and steps > self.settings.max_steps:
            raise InputError(f"steps is {str(steps)[:20]}: this server takes at most {self.settings.max_steps}")

    def check_count(self, count: int, pixels: int) -> None:
        """Refuse more answers than this server gives at once. Raises InputError."""
        if count > self.settings.max_samples:
            raise InputError(f"{count:.6g} answers: this server gives at most {self.settings.max_samples} at once")
        if count * pixels > self.settings.max_pixels:
            most = f"this server makes {self.settings.max_pixels / 1e6:g} million at once"
            raise InputError(f"{count} answers have {count * pixels / 1e6:.3g} million pixels: {most}")

    async def wait(self, request: Request, work: Work, name: str, id: str | None = None) -> Any:
        """What a job answers. A client that goes away stops it. Raises what the job raised."""
        ticket = self.engine.submit(work, name=name, id=id)
        loop, finished = asyncio.get_running_loop(), asyncio.Event()
        ticket.then(partial(loop.call_soon_threadsafe, finished.set))
        tasks = [asyncio.create_task(finished.wait()), asyncio.create_task(_gone(request))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            if not finished.is_set():
                self.engine.stop(ticket)
        if not ticket.wait(0):
            raise Stopped("cancelled")  # nobody reads it
        return ticket.result()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Answers(NamedTuple):
    """What was made, as far as it came before somebody stopped it."""

    pictures: list[Picture]
    seeds: list[int]
    result: Result | None  # of the last one
    interrupted: bool


def one_by_one(make: Callable[[int, int, Report], Result], seed: int, count: int, report: Report) -> Answers:
    """`count` answers of make(k, seed + k, report), so that each can be skipped, and those finished are kept."""
    pictures, seeds, result = [], [], None
    for k in range(count):
        try:
            result = make(k, seed + k, partial(share, report, k, count))
        except Stopped as stopped:
            if stopped.why == "skipped":
                continue
            if stopped.why == "interrupted":
                return Answers(pictures, seeds, result, True)
            raise
        pictures += result.images
        seeds.append(seed + k)
    return Answers(pictures, seeds, result, False)


def share(report: Report, k: int, count: int, progress: Progress) -> None:
    """Report the progress of the k-th of `count` parts as that of all."""
    report(progress._replace(done=k * progress.total + progress.done, total=count * progress.total))


def job_of(desk: Desk, id: str) -> Ticket:
    """A job by its id. Raises Unknown where there is none."""
    ticket = desk.engine.find(id)
    if ticket is None:
        raise Unknown(f"there is no job {id[:80]!r}, or it is long done")
    return ticket
