"""`restore edit`: SDEdit."""

from pathlib import Path
from typing import Annotated

import typer

from restore.cli.command import Eta, Run, picture_command


@picture_command
def edit(
    run: Run,
    strength: Annotated[
        float, typer.Option(metavar="X", help="How far to go, 0 (not at all) to 1 (nothing is kept).")
    ] = 0.5,
    mask: Annotated[
        Path | None,
        typer.Option(
            "-m", "--mask", metavar="FILE|DIR", show_default="everywhere",
            help="White = edit. A folder holds a mask with each picture's name.",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="N", help="Run N times, each on the answer before.")] = 1,
    eta: Eta = None,
    feather: Annotated[int, typer.Option(metavar="N", help="Fade over N pixels inside the mask.")] = 0,
) -> None:  # fmt: skip
    """Make a sketch, a collage or a picture look like one of the prior's (SDEdit).

    Outside the mask every pixel stays exactly as it is. Without -o, IMG.jpg gives IMG-edit.jpg beside it."""
    from restore.tasks import Edit

    request = Edit(strength=strength, repeats=repeats, eta=eta, feather=feather, **run.options)
    run.go("edit", lambda seen, prior, progress: request.run(*seen, prior, progress), mask=mask, masked=True)
