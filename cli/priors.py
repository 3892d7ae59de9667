"""`restore priors`: what priors and classifiers there are, what is inside one; to fetch one, to convert one."""

import json
import tomllib
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer

from restore.cli.common import Overwrite, Quiet, say
from restore.errors import InputError

app = typer.Typer(help="List priors and classifiers, look inside one, fetch one, convert one.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON on standard output.")]
Flag = Annotated[
    list[str] | None,
    typer.Option("--flag", metavar="NAME=VALUE", help="A flag of a checkpoint's own code; repeat it for more."),
]
Flags = Annotated[Path | None, typer.Option("--flags", metavar="FILE", help="A TOML file with such flags.")]
WIDTH = 80  # columns of a line
KINDS = ("prior", "classifier")


def read_flags(given: list[str] | None, file: Path | None) -> dict[str, Any] | None:
    """The flags of a file and those of the command line, which win. None without any. Raises InputError."""
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: not a readable TOML file ({' '.join(str(error).split())})") from error
    for text in given or []:
        name, sign, value = text.partition("=")
        if not sign or not name.strip().isidentifier():
            raise InputError(f"--flag {text}: it should be NAME=VALUE, such as num_heads=4")
        found[name.strip()] = _value(value.strip())
    return found or None


def _value(text: str) -> Any:
    """A value as TOML or Python would write it; else the letters as they are."""
    try:
        return tomllib.loads(f"value = {text.lower() if text in ('True', 'False') else text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Priors, and classifiers that guide them: those that ship with restore, and well-known ones."""
    from restore import load, shelf, zoo

    rows = [load.describe(name, kind) for kind in KINDS for name in load.bundled(kind)]
    rows += [shelf.row(known) for known in zoo.TABLE]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for kind in KINDS:
        typer.echo(f"{kind:<25} here     MB   px licence      good for")
        for row in (row for row in rows if row["kind"] == kind):
            typer.echo(_line(row))
    typer.echo("restore priors info NAME says more; restore priors download NAME fetches one", err=True)


def _line(row: dict[str, Any]) -> str:
    size = row["megabytes"]
    megabytes = "?" if size is None else f"{size:.1f}" if size < 100 else f"{size:.0f}"
    licence = row["licence"].removeprefix("creativeml-")
    here = "yes" if row["here"] else "-"
    line = f"{row['name']:<25} {here:<4} {megabytes:>6} {row['size'] or '?':>4} {licence:<12} "
    return line + shorten(row["title"].removeprefix(f"{row['name']}: "), WIDTH - len(line), placeholder=" ...")


@app.command()
def info(
    prior: Annotated[
        str, typer.Argument(metavar="NAME|DIR|FILE|ID", help="As --prior takes it: see 'restore priors list'.")
    ],
    classifier: Annotated[
        bool, typer.Option("--classifier", help="The classifier of this name, where a prior has it too.")
    ] = False,
    flag: Flag = None,
    flags: Flags = None,
    as_json: AsJson = False,
) -> None:
    """What one prior or classifier is: network, schedule, classes, licence, where it lies or comes from."""
    from restore.load import describe, kind_of

    told = read_flags(flag, flags)
    facts: dict[str, Any] = describe(prior, "classifier" if classifier else kind_of(prior, told), told)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        if value not in (None, ""):
            text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
            typer.echo(f"{key:<12} {', '.join(map(str, text)) if isinstance(text, list) else text}")


@app.command()
def download(
    name: Annotated[
        str, typer.Argument(metavar="NAME|ID|URL", help="Of 'restore priors list', of the hub, or of a checkpoint.")
    ],
    offline: Annotated[
        bool, typer.Option("--offline", help="Touch no network: only say whether it is here, and whole.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a network, once: the hub's into the hub's cache, files into RESTORE_HOME. Stopped, it goes on next time."""
    from restore.shelf import download as fetch

    found = fetch(name, offline=offline, quiet=quiet)
    if as_json:
        typer.echo(json.dumps({"name": name, **found._asdict(), "path": str(found.path)}))
    if not quiet:
        how = "was fetched to" if found.new else "is here already:"
        say("note", f"{name} {how} {found.path}" + (f", sha256 {found.sha256}" if found.sha256 else ""))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint file, or a name that is one.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The diffusers folder to write.")],
    flag: Flag = None,
    flags: Flags = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a checkpoint of another code into a diffusers folder with a card: it loads fast, and without pickle."""
    from restore.convert import convert as write

    report = write(source, out, flags=read_flags(flag, flags), overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(report))
    if not quiet:
        say("note", f"{out}: a {report['kind']} of the {report['family']} family")
