"""The application: every protocol on one queue, behind one guard."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

import restore
from restore.serve import errors, iopaint, jobs, openai
from restore.serve.a1111 import routes
from restore.serve.desk import Desk
from restore.serve.engine import Engine
from restore.serve.guard import Keys, Limits, Origins
from restore.serve.models import Models
from restore.serve.settings import Settings

ABOUT = """Restores and edits photographs with diffusion priors, for plugins of photo editors.

One job runs on each device, others wait; too many are refused with 429. `/restore/jobs` lists them, and stops them."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application of these settings, its workers running; `app.state.desk` has its parts.

    Raises InputError, and PriorError for a prior that is not there."""
    settings = settings or Settings()
    models = Models(settings.priors, settings.dtype, settings.keep)
    engine = Engine(settings.devices, settings.max_queue, settings.max_seconds)
    desk = Desk(settings, engine, models)
    guards = [
        Middleware(Origins, settings=settings),
        Middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"], expose_headers=["X-Seed"], allow_credentials=bool(settings.origins),
            allow_private_network=True,
        ),
        Middleware(Keys, settings=settings),
        Middleware(Limits, settings=settings, engine=engine),
    ]  # fmt: skip
    app = FastAPI(title="restore", version=restore.__version__, description=ABOUT, middleware=guards, redoc_url=None)
    app.state.desk = desk
    errors.install(app)
    for router in (*routes.routers(desk), iopaint.router(desk), openai.router(desk), jobs.router(desk)):
        app.include_router(router)
    if settings.page:
        from restore.serve import page

        app = page.mount(app, engine, models, settings)
    return app
