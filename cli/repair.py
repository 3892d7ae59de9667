"""`restore repair`: what a conditional prior was trained to undo."""

from typing import Annotated

import typer

from restore.cli.command import Eta, Run, Strength, picture_command


@picture_command
def repair(
    run: Run,
    prior: Annotated[
        str,
        typer.Option("--prior", metavar="NAME|PATH|ID", help="A conditional prior.", show_default=False),
    ],
    sigma: Annotated[
        float | None, typer.Option(metavar="X", help="Noise, of 255, where the prior is told it.", show_default="0")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="ddim, ddpm, heun or dpm++.", show_default="ddim")
    ] = None,
    strength: Strength = None,
    eta: Eta = None,
) -> None:
    """Undo what a conditional prior was trained to undo: JPEG's traces, or a mixture of blur, noise and compression.

    Such priors are made by `restore train conditional`. Without -o, IMG.jpg gives IMG-repair.jpg beside it."""
    from restore.tasks import Repair

    noise_std = None if sigma is None else sigma / 255
    run.go("repair", Repair(noise_std=noise_std, method=method, strength=strength, eta=eta, **run.options).run)
