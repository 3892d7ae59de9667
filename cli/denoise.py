"""`restore denoise`: remove noise."""

from typing import Annotated

import typer

from restore.cli.command import Eta, Run, picture_command


@picture_command
def denoise(
    run: Run,
    sigma: Annotated[
        float | None, typer.Option(metavar="X", help="Noise in the picture, of 255.", show_default="estimated")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="mmse, ddpm or ddrm; of a conditional prior ddim, ddpm, heun or dpm++.",
            show_default="mmse; ddpm for samples; ddim",
        ),
    ] = None,
    eta: Eta = None,
) -> None:  # fmt: skip
    """Remove the noise from pictures: white noise of a strength that is given, or estimated.

    Without -o, IMG.jpg gives IMG-denoise.jpg beside it."""
    from restore.tasks import Denoise

    request = Denoise(noise_std=None if sigma is None else sigma / 255, method=method, eta=eta, **run.options)
    run.go("denoise", request.run)
