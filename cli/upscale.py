"""`restore upscale`: more pixels."""

from typing import Annotated

import typer

from restore.cli.command import Augment, Consistent, Eta, Run, Strength, Then, picture_command


@picture_command
def upscale(
    run: Run,
    scale: Annotated[
        float | None,
        typer.Option(
            "-x", "--scale", metavar="N", help="2, 3, 4 ... times as large.", show_default="4; by a conditional prior"
        ),
    ] = None,
    shrunk: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How IMG was made smaller: bicubic or average.", show_default="bicubic"),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(metavar="X", help="Noise in the picture, of 255.", show_default="0")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="dpir or ddrm; of a conditional prior ddim, ddpm, heun or dpm++.",
            show_default="dpir; ddrm for samples; ddim",
        ),
    ] = None,
    consistent: Consistent = False,
    then: Then = None,
    augment: Augment = None,
    strength: Strength = None,
    eta: Eta = None,
) -> None:
    """Enlarge pictures, so that shrinking the answer gives the picture back.

    Without -o, IMG.jpg gives IMG-upscale.jpg beside it."""
    from restore.tasks import Upscale

    noise_std = None if sigma is None else sigma / 255
    request = Upscale(
        scale=int(scale) if scale is not None and scale.is_integer() else scale, shrunk=shrunk, noise_std=noise_std,
        method=method, consistent=consistent, then=then or (), augment=None if augment is None else augment / 255,
        strength=strength, eta=eta, **run.options,
    )  # fmt: skip
    run.go("upscale", request.run)
