"""`restore deblur`: undo a blur whose kernel is known."""

from typing import Annotated

import typer

from restore.cli.command import Eta, Run, Strength, picture_command


@picture_command
def deblur(
    run: Run,
    kernel: Annotated[
        str | None,
        typer.Option(
            "-k", "--kernel", metavar="KERNEL", show_default="none: a conditional prior",
            help="gaussian:SIGMA, motion:LENGTH,ANGLE, disk:RADIUS, uniform:SIDE (pixels, degrees), or a picture.",
        ),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(metavar="X", help="Noise in the picture, of 255.", show_default="estimated")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="dpir or ddrm; of a conditional prior ddim, ddpm, heun or dpm++.",
            show_default="dpir; ddrm for samples; ddim",
        ),
    ] = None,
    strength: Strength = None,
    eta: Eta = None,
) -> None:  # fmt: skip
    """Sharpen pictures that were blurred by a known kernel, without rings at the borders.

    The kernel has to be given, but to a conditional prior that was trained on unknown blurs.

    Without -o, IMG.jpg gives IMG-deblur.jpg beside it."""
    from restore.tasks import Deblur

    request = Deblur(
        kernel=kernel, noise_std=None if sigma is None else sigma / 255, method=method, strength=strength, eta=eta,
        **run.options,
    )  # fmt: skip
    run.go("deblur", request.run)
