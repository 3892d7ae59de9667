"""`restore train`: train priors, conditional ones and classifiers from configurations."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Train priors, conditional priors and classifiers from TOML configurations.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TEXTS = {
    "prior": """Train a diffusion prior; a run that was stopped goes on from its last checkpoint.

    The trained prior, a diffusers folder, is OUTPUT/prior. Beside it lie log.jsonl, samples and checkpoints.""",
    "conditional": """Train a conditional prior: super-resolution (SR3, SRDiff); colours, holes, blur, JPEG (Palette).

    What is undone, and how, is in the configuration's [condition]. The trained prior is OUTPUT/prior, which upscale,
    colorize, inpaint, deblur, denoise and repair take as --prior.""",
    "classifier": """Train a classifier of noisy pictures, for guidance; a run that was stopped goes on.

    A picture's class is the name of its folder. The trained classifier is OUTPUT/classifier, for --classifier.""",
}


def _add(kind: str) -> None:
    """The command `restore train KIND`, which is train_KIND of restore.train.KIND."""

    def command(
        config: Annotated[Path, typer.Argument(help="The configuration, a TOML file.")],
        data: Annotated[Path | None, typer.Option(help="Folder in which the sources are looked for first.")] = None,
        output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of the run.")] = None,
        steps: Annotated[int | None, typer.Option(help="Train so many steps; replaces the budget.")] = None,
        minutes: Annotated[float | None, typer.Option(help="Train so long; replaces the budget.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
        fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run in the output folder.")] = False,
        quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress on standard error.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Report as JSON on standard output.")] = False,
    ) -> None:
        train = getattr(import_module(f"restore.train.{kind}"), f"train_{kind}")
        try:
            report = train(
                config,
                data=data,
                output=output,
                steps=steps,
                minutes=minutes,
                device=device,
                fresh=fresh,
                quiet=quiet,
            )
        except KeyboardInterrupt:
            typer.echo("restore: note: a checkpoint was written; run the same command to go on", err=True)
            raise
        made = report["classifier" if kind == "classifier" else "prior"]
        if as_json:
            typer.echo(json.dumps(report))
        elif not quiet:
            typer.echo(f"wrote {made} after {report['step']} steps and {report['crops']} crops", err=True)

    app.command(kind, help=TEXTS[kind])(command)


for _kind in TEXTS:
    _add(_kind)
