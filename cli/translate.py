"""`restore translate`: DDIB."""

from typing import Annotated

import typer

from restore.cli.command import Run, picture_command


@picture_command
def translate(
    run: Run,
    to: Annotated[
        str | None, typer.Option("--to", metavar="NAME|PATH|ID", help="The prior to go to.", show_default="the same")
    ] = None,
    from_label: Annotated[
        str | None, typer.Option("--from-label", metavar="NAME", help="The class IMG is of.", show_default=False)
    ] = None,
    label: Annotated[
        str | None, typer.Option("--to-label", metavar="NAME", help="The class to go to.", show_default=False)
    ] = None,
    from_prompt: Annotated[
        str | None, typer.Option("--from-prompt", metavar="TEXT", help="What IMG shows.", show_default=False)
    ] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="heun or ddim.", show_default="heun")] = None,
) -> None:
    """Translate pictures from one prior, or class, to another, by two ODEs (DDIB); no randomness.

    --prior is where they come from. Without -o, IMG.jpg gives IMG-translate.jpg beside it."""
    from restore.tasks import Translate

    request = Translate(method=method, from_label=from_label, from_prompt=from_prompt, **run.options)

    def load() -> tuple[object, object]:
        source = run.load()
        return source, source if to is None else run.load(to)

    run.go("translate", lambda picture, priors, progress: request.run(picture, *priors, progress), load=load)
