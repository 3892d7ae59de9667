"""`restore refine`: ILVR."""

from typing import Annotated

import typer

from restore.cli.command import Eta, Run, picture_command


@picture_command
def refine(
    run: Run,
    factor: Annotated[
        int | None,
        typer.Option(
            "-n", "--factor", metavar="N", help="Keep what survives shrinking N times; larger is freer.",
            show_default="8; two cells of a latent prior",
        ),
    ] = None,
    stop: Annotated[
        float, typer.Option(metavar="X", help="Share of the noise schedule, 0 to 1, below which to run free.")
    ] = 0.0,
    strength: Annotated[
        float, typer.Option(metavar="X", help="Noise to start from, in (0, 1]; below 1 from IMG, noised.")
    ] = 1.0,
    eta: Eta = None,
) -> None:  # fmt: skip
    """Draw a new picture with the low frequencies of IMG (ILVR): the layout is kept, details are invented.

    Without -o, IMG.jpg gives IMG-refine.jpg beside it."""
    from restore.tasks import Refine

    request = Refine(factor=factor, stop=stop, strength=strength, eta=eta, **run.options)
    run.go("refine", request.run)
