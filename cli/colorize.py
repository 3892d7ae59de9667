"""`restore colorize`: colours for gray pictures."""

from typing import Annotated

import typer

from restore.cli.command import Consistent, Eta, Run, Strength, picture_command


@picture_command
def colorize(
    run: Run,
    sigma: Annotated[
        float | None, typer.Option(metavar="X", help="Noise in the picture, of 255.", show_default="0")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="ddrm or dpir; of a conditional prior ddim, ddpm, heun or dpm++.",
            show_default="ddrm; ddim",
        ),
    ] = None,
    consistent: Consistent = False,
    strength: Strength = None,
    eta: Eta = None,
) -> None:  # fmt: skip
    """Give gray pictures colours that the prior finds likely; the brightness stays as it is.

    Of a colour picture only the brightness is looked at. Without -o, IMG.jpg gives IMG-colorize.jpg beside it."""
    from restore.tasks import Colorize

    noise_std = None if sigma is None else sigma / 255
    request = Colorize(
        noise_std=noise_std, method=method, consistent=consistent, strength=strength, eta=eta, **run.options
    )
    run.go("colorize", request.run)
