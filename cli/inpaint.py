"""`restore inpaint`: repaint what a mask marks."""

from pathlib import Path
from typing import Annotated

import typer

from restore.cli.command import Consistent, Eta, Run, picture_command


@picture_command
def inpaint(
    run: Run,
    mask: Annotated[
        Path | None,
        typer.Option(
            "-m", "--mask", metavar="FILE|DIR", show_default="IMG's transparency",
            help="White = repaint. A folder holds a mask with each picture's name.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="dpir, ddrm or repaint; of a conditional prior ddim, ddpm, heun or dpm++.",
            show_default="dpir; ddrm for samples; repaint on latents; ddim",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Noise to start from, in (0, 1]; 1 ignores the rough fill.",
            show_default="by hole size",
        ),
    ] = None,
    eta: Eta = None,
    jump: Annotated[
        int | None, typer.Option(metavar="N", help="repaint: levels to go back at a time.", show_default=False)
    ] = None,
    resamplings: Annotated[
        int | None, typer.Option(metavar="N", help="repaint: walks of each stretch.", show_default=False)
    ] = None,
    sigma: Annotated[
        float, typer.Option(metavar="X", help="dpir, ddrm: noise in the picture, of 255.", show_default="0")
    ] = 0.0,
    feather: Annotated[int, typer.Option(metavar="N", help="Fade over N pixels inside the mask.")] = 0,
    crop_to_mask: Annotated[
        str,
        typer.Option(
            "--crop-to-mask", metavar="WHEN",
            help="auto, always or never: shrink the surroundings of wide holes to the prior's size.",
        ),
    ] = "auto",
    consistent: Consistent = False,
) -> None:  # fmt: skip
    """Repaint the white part of a mask; every other pixel stays exactly as it is.

    Without -o, IMG.jpg gives IMG-inpaint.jpg beside it, and --samples numbers the answers."""
    from restore.tasks import Inpaint

    request = Inpaint(
        method=method, strength=strength, eta=eta, jump=jump, resamplings=resamplings, noise_std=sigma / 255,
        feather=feather, crop_to_mask=crop_to_mask, consistent=consistent, **run.options,
    )  # fmt: skip
    run.go("inpaint", lambda seen, prior, progress: request.run(*seen, prior, progress), mask=mask, masked=True)
