"""`restore priors`: what priors and classifiers there are, and what is inside one."""

import json
from textwrap import shorten
from typing import Annotated, Any

import typer

app = typer.Typer(help="List priors and classifiers, and look inside one.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON on standard output.")]
WIDTH = 80  # columns of a line
KINDS = ("prior", "classifier")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The priors, and the classifiers that guide them, that ship with restore."""
    from restore.load import bundled, describe

    rows = [describe(name, kind) for kind in KINDS for name in bundled(kind)]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("no priors are bundled: give --prior a diffusers folder", err=True)
        return
    typer.echo(f"{'name':<9} {'kind':<10} {'MB':>5} {'classes':>7}  {'licence':<7} what it is")
    for row in rows:
        size, classes = f"{row['megabytes']:>5.1f}", row["classes"] or "-"
        line = f"{row['name']:<9} {row['kind']:<10} {size} {classes:>7}  {row['licence']:<7} "
        title = row["title"].removeprefix(f"{row['name']}: ")
        typer.echo(line + shorten(title, max(20, WIDTH - len(line)), placeholder=" ..."))


@app.command()
def info(
    prior: Annotated[str, typer.Argument(metavar="NAME|DIR", help="A bundled name or a diffusers folder.")],
    classifier: Annotated[
        bool, typer.Option("--classifier", help="The classifier of this name, where a prior has it too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What one prior or classifier is: network, schedule, classes, licence, where it lies."""
    from restore.load import describe, kind_of

    facts: dict[str, Any] = describe(prior, "classifier" if classifier else kind_of(prior))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        if value not in (None, ""):
            typer.echo(f"{key:<12} {', '.join(map(str, value)) if isinstance(value, list) else value}")
