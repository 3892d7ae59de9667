"""`restore serve`: for plugins of photo editors, and a page for the browser."""

from __future__ import annotations

import logging
import math
from typing import Annotated

import typer

from restore.cli import common
from restore.errors import InputError


def serve(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="0 takes any that is free.")] = 7860,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", envvar="RESTORE_API_KEY", show_default="none", show_envvar=False,
            help="What clients have to know: KEY, or USER:PASSWORD. Needed where others can reach the address. "
            "RESTORE_API_KEY in the environment does the same, unseen by others.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Pages that may ask from a browser, such as https://huchenlei.github.io."),
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|PATH|ID", help="A prior to offer too; the first one given is the default."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="auto, cpu, cuda:0 ...; given again, one more worker.", show_default="auto"),
    ] = None,
    dtype: common.Dtype = "auto",
    keep: Annotated[int, typer.Option(metavar="N", help="Priors that stay loaded on each device.")] = 3,
    max_body: Annotated[float, typer.Option(metavar="MIB", help="Size of a request.")] = 64,
    max_pixels: Annotated[float, typer.Option(metavar="MPX", help="Of a picture; of all answers to a request.")] = 40,
    max_queue: Annotated[int, typer.Option(metavar="N", help="Jobs that wait.")] = 16,
    max_seconds: Annotated[float, typer.Option(metavar="S", help="That a job may take.")] = 900,
    max_steps: Annotated[int, typer.Option(metavar="N", help="Steps that a request may ask for.")] = 1000,
    max_samples: Annotated[int, typer.Option(metavar="N", help="Answers that a request may ask for.")] = 16,
    grace: Annotated[float, typer.Option(metavar="S", help="That a running job has left when the server stops.")] = 10,
    page: Annotated[bool, typer.Option("--page/--no-page", help="A page for the browser at /.")] = True,
    quiet: common.Quiet = False,
) -> None:  # fmt: skip
    """Serve plugins of photo editors (AUTOMATIC1111, IOPaint, OpenAI protocols) and a page for the browser.

    Point the plugin at http://127.0.0.1:7860; open the same address for the page, and /docs for every request. One job
    runs on each device, the others wait."""
    try:
        if page:
            import gradio  # noqa: F401 - the page needs it
        import python_multipart  # noqa: F401 - OpenAI's protocol needs it, and would say so when first asked

        from restore.serve.run import serve as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "restore":
            raise
        need = f"restore serve needs {error.name}, which is not installed"
        raise InputError(f"{need}: pip install 'restore-diffusion[serve]'") from None
    from restore.serve.settings import Settings

    given = {"max-body": max_body, "max-pixels": max_pixels, "max-seconds": max_seconds, "grace": grace}
    for option, value in given.items():
        if not math.isfinite(value):
            raise InputError(f"--{option} is {value}: give a number")
    settings = Settings(
        host=host, port=port, api_key=api_key or None, origins=tuple(cors_origin or ()), priors=tuple(prior or ()),
        devices=tuple(device or ("auto",)), dtype=dtype, keep=keep, page=page, max_body=int(max_body * 2**20),
        max_pixels=int(max_pixels * 1e6), max_queue=max_queue, max_seconds=max_seconds, max_steps=max_steps,
        max_samples=max_samples, grace=grace,
    )  # fmt: skip
    logging.basicConfig(format="restore: %(levelname)s: %(message)s", level=logging.WARNING)
    run(settings, quiet=quiet)
