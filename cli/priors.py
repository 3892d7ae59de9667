"""`restore priors`: what priors there are, and what is inside one."""

import json
from typing import Annotated, Any

import typer

app = typer.Typer(help="List priors and look inside one.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON on standard output.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The priors that ship with restore."""
    from restore.load import bundled, describe

    rows = [describe(name) for name in bundled()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("no priors are bundled: give --prior a diffusers folder", err=True)
        return
    typer.echo(f"{'name':<12} {'MB':>6}  {'classes':>7}  {'licence':<10} what it is")
    for row in rows:
        size, classes = f"{row['megabytes']:>6.1f}", row["classes"] or "-"
        typer.echo(f"{row['name']:<12} {size}  {classes:>7}  {row['licence']:<10} {row['title']}")


@app.command()
def info(
    prior: Annotated[str, typer.Argument(metavar="NAME|DIR", help="A bundled name or a diffusers folder.")],
    as_json: AsJson = False,
) -> None:
    """What one prior is: network, schedule, licence, where it lies."""
    from restore.load import describe

    facts: dict[str, Any] = describe(prior)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        if value not in (None, ""):
            typer.echo(f"{key:<12} {', '.join(map(str, value)) if isinstance(value, list) else value}")
