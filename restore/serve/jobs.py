"""Jobs as this server sees them: watched and stopped by their id, whichever protocol they came by."""

from __future__ import annotations

from fastapi import APIRouter

from restore.serve.desk import Desk, job_of
from restore.serve.errors import Json


def router(desk: Desk) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/restore", tags=["Jobs"])

    @api.get("/status")
    def status() -> Json:
        """Whether the server works, what it offers, and its limits."""
        engine, models = desk.engine, desk.models
        facts = {"running": len(engine.running), "waiting": engine.waiting, "closing": engine.closing}
        priors = {name: list(models.tasks(name)) for name in models.names()}
        return Json({**facts, "priors": priors, "prior": desk.prior, "limits": desk.settings.limits})

    @api.get("/jobs")
    def jobs() -> Json:
        """The jobs that wait, run, or ran lately."""
        return Json([ticket.facts() for ticket in desk.engine.tickets])

    @api.get("/jobs/{id}")
    def job(id: str) -> Json:
        """One job: the id is the `force_task_id` of its request, or from the list."""
        return Json(job_of(desk, id).facts())

    @api.delete("/jobs/{id}")
    def cancel(id: str) -> Json:
        """Stop a job before its next network call, or take it from the queue."""
        ticket = job_of(desk, id)
        desk.engine.stop(ticket)
        return Json(ticket.facts())

    return api
