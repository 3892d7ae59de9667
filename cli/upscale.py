"""`restore upscale`: more pixels."""

from typing import Annotated

import typer

from restore.cli.command import Eta, Run, Strength, picture_command


@picture_command
def upscale(
    run: Run,
    scale: Annotated[float, typer.Option("-x", "--scale", metavar="N", help="2, 3, 4 ... times as large.")] = 4,
    shrunk: Annotated[
        str, typer.Option(metavar="NAME", help="How IMG was made smaller: bicubic or average.")
    ] = "bicubic",
    sigma: Annotated[
        float | None, typer.Option(metavar="X", help="Noise in the picture, of 255.", show_default="0")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="dpir or ddrm.", show_default="dpir; ddrm for samples")
    ] = None,
    strength: Strength = None,
    eta: Eta = None,
) -> None:
    """Enlarge pictures, so that shrinking the answer gives the picture back.

    Without -o, IMG.jpg gives IMG-upscale.jpg beside it."""
    from restore.tasks import Upscale

    noise_std = None if sigma is None else sigma / 255
    request = Upscale(
        scale=int(scale) if scale.is_integer() else scale, shrunk=shrunk, noise_std=noise_std, method=method,
        strength=strength, eta=eta, **run.options,
    )  # fmt: skip
    run.go("upscale", request.run)
