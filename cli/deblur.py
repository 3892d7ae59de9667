"""`restore deblur`: undo a blur whose kernel is known."""

from typing import Annotated

import typer

from restore.cli.command import Eta, Run, Strength, picture_command


@picture_command
def deblur(
    run: Run,
    kernel: Annotated[
        str,
        typer.Option(
            "-k", "--kernel", metavar="KERNEL", show_default=False,
            help="gaussian:SIGMA, motion:LENGTH,ANGLE, disk:RADIUS, uniform:SIDE (pixels, degrees), or a picture.",
        ),
    ],
    sigma: Annotated[
        float | None, typer.Option(metavar="X", help="Noise in the picture, of 255.", show_default="estimated")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="dpir or ddrm.", show_default="dpir; ddrm for samples")
    ] = None,
    strength: Strength = None,
    eta: Eta = None,
) -> None:  # fmt: skip
    """Sharpen pictures that were blurred by a known kernel, without rings at the borders.

    Without -o, IMG.jpg gives IMG-deblur.jpg beside it."""
    from restore.tasks import Deblur

    request = Deblur(
        kernel=kernel, noise_std=None if sigma is None else sigma / 255, method=method, strength=strength, eta=eta,
        **run.options,
    )  # fmt: skip
    run.go("deblur", request.run)
