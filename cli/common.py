"""What the picture commands share: their flags, the files they read and write, progress and the report."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from restore.errors import InputError, RestoreError

Images = Annotated[
    list[str], typer.Argument(metavar="IMG", help="Pictures or folders; - is standard input.", show_default=False)
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o", "--output", metavar="FILE|DIR|-", show_default="beside IMG",
        help="Where to write: a file; a folder, for several pictures; or -, standard output (PNG).",
    ),
]  # fmt: skip
PriorName = Annotated[
    str, typer.Option("--prior", metavar="NAME|PATH|ID", help="A bundled name, a folder or checkpoint, or a hub id.")
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Noise levels to walk down.", show_default="by method")
]
Quality = Annotated[
    str | None,
    typer.Option(
        "--quality", metavar="NAME", help="draft, normal or best: fewer or more steps.", show_default="normal"
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Same seed, same picture.")]
Samples = Annotated[int, typer.Option("--samples", metavar="N", help="Make N answers, with seeds SEED, SEED+1 ...")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[str, typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16.")]
Tile = Annotated[str, typer.Option("--tile", metavar="N", help="Side of a tile in pixels, auto or none.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Recursive = Annotated[bool, typer.Option("--recursive", help="Take folders with all that is below them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Report on standard output, one JSON line a picture.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}


def say(kind: str, text: object) -> None:
    """One line on standard error."""
    line = f"restore: {kind}: {' '.join(str(text).split())}"
    if "tqdm" in sys.modules:  # a bar may be up
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


class Item:
    """One picture of a run: where it comes from, what to call it, where it lies below the folder that was named."""

    def __init__(self, path: Path | None, folder: Path | None = None, name: str = "standard input") -> None:
        self.path, self.folder = path, folder
        self.below = path.parent.relative_to(folder) if path and folder else Path()
        self.name = name if path is None else str(path)

    def read(self) -> Any:
        """The Picture, to be answered by a Picture. Raises InputError."""
        from restore.images import read

        found = read(sys.stdin.buffer.read(), name=self.name) if self.path is None else read(self.path)
        return read(found)

    def file_name(self, ending: str = "") -> str:
        """The name of its answer, of a format that can be written."""
        path = self.path or Path("stdin.png")
        return f"{path.stem}{ending}{path.suffix if path.suffix.lower() in SUFFIXES else '.png'}"


def mask_for(mask: Path | None, item: Item) -> Path | None:
    """The mask of one picture: the file itself, or the file of the same name in a folder of masks."""
    if mask is None or not mask.is_dir():
        return mask
    if item.path is None:
        raise InputError(f"{mask} is a folder of masks: standard input has no name to find its mask by")
    found = [p for p in (mask / item.below).glob("*") if p.stem == item.path.stem and p.is_file()]
    if not found:
        raise InputError(f"{item.path}: no mask named {item.path.stem}.* in {mask / item.below}")
    return min(found, key=lambda p: (p.suffix.lower() not in SUFFIXES, p.name))


def writable(picture: Any, path: Path | None) -> None:
    """Refuse, before any work is done, a picture with transparency for a format that has none. Raises InputError."""
    from restore.images import encode, format_of

    if picture.alpha is not None and path and format_of(path.suffix) in ("JPEG", "BMP"):
        encode(picture, path.suffix)


def collect(arguments: list[str], recursive: bool) -> list[Item]:
    """The pictures that the arguments name, folders opened. Raises InputError for an empty folder."""
    items: list[Item] = []
    for text in arguments:
        path = Path(text)
        if text == "-":
            items.append(Item(None))
        elif path.is_dir():
            inside = sorted(path.rglob("*") if recursive else path.iterdir())
            inside = [p for p in inside if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
            if not inside:
                raise InputError(f"{path}: no pictures in this folder" + ("" if recursive else "; try --recursive"))
            items += [Item(p, path) for p in inside]
        else:
            items.append(Item(path))
    return items


def targets(items: list[Item], output: str | None, verb: str, samples: int, overwrite: bool) -> list[list[Path | None]]:
    """Where each answer of each picture goes, checked before any work is done; None is standard output.

    Without `output`: beside the picture, as NAME-VERB.EXT. A folder, or several pictures, go to a folder, which is made
    when the first answer is written. Raises InputError."""
    several = len(items) > 1 or items[0].folder is not None
    if output == "-":
        if several or samples > 1:
            raise InputError("standard output takes one picture and one sample: give a folder, -o DIR")
        if sys.stdout.isatty():
            raise InputError("standard output is the terminal: give a file, -o FILE, or send it somewhere")
        return [[None]]
    if output is not None and several:
        if Path(output).is_file() or Path(output).suffix.lower() in SUFFIXES:
            count = f"{len(items)} pictures" if len(items) > 1 else "a folder of pictures"
            raise InputError(f"{output} is one file, and there are {count}: give a folder")
    elif output is not None and (Path(output).is_dir() or output.endswith(("/", os.sep))):
        raise InputError(f"{output} is a folder: give a file, such as {Path(output) / items[0].file_name()}")
    plan: list[list[Path]] = []
    for item in items:
        if output is not None:
            base = Path(output) / item.below / item.file_name() if several else Path(output)
        elif item.path is not None:
            base = item.path.parent / item.file_name(f"-{verb}")
        else:
            raise InputError("a picture from standard input has no name: say where to write, -o FILE or -o -")
        plan.append([base.with_stem(f"{base.stem}-{k + 1}") for k in range(samples)] if samples > 1 else [base])
    seen: set[Path] = set()
    for path in (path for paths in plan for path in paths):
        if path in seen:
            raise InputError(f"two of the pictures would be written to {path}: rename one, or run them apart")
        seen.add(path)
        _check(path, overwrite, made=several and output is not None)
    return plan


def _check(path: Path, overwrite: bool, made: bool) -> None:
    """Refuse an output that cannot be written; `made`: its folder may be missing yet."""
    from restore.images import check_output, format_of

    if path.exists() and not path.is_dir() and not overwrite:
        raise InputError(f"{path} exists already: give --overwrite, or another name with -o")
    if made and not path.parent.exists():
        format_of(path.suffix, path)
    else:
        check_output(path, overwrite=overwrite)
    there = next(folder for folder in path.parents if folder.exists())
    if not there.is_dir():
        raise InputError(f"cannot write {path}: a file is in the way of its folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"cannot write {path}: no permission to write in {there}")


@contextmanager
def progress_bar(label: str, quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    """A bar on standard error: network calls made, and the time that is left. None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} calls, {elapsed} gone, {remaining} left"
    with tqdm(desc=label[-30:], total=0, bar_format=form, leave=False, dynamic_ncols=True) as bar:

        def update(progress: Any) -> None:
            bar.total = progress.total
            bar.update(progress.done - bar.n)

        yield update


def put(picture: Any, path: Path | None, overwrite: bool) -> None:
    """Write one answer, whole or not at all. Raises InputError."""
    from restore.images import encode, read, write

    if path is None:
        sys.stdout.buffer.write(encode(read(picture), "PNG"))
        sys.stdout.buffer.flush()
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
    write(picture, path, overwrite=overwrite)


def run(
    items: list[Item],
    plan: list[list[Path | None]],
    *,
    look: Callable[[Item, list[Path | None]], Any],
    load: Callable[[], Any] | None,
    work: Callable[[Any, Any, Callable[[Any], None] | None], Any],
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Look at, work on, write and report one picture after the other.

    look: an item and its outputs -> what `work` takes. load: the prior, once, after the first look; its errors stop the
    run; None where no prior is needed. work: (what look gave, the prior, progress) -> Result. Of several pictures a bad
    one is named and passed over, and the exit code is 3."""
    if as_json and plan == [[None]]:
        raise InputError("standard output cannot carry both the picture and JSON: leave --json out, or give -o FILE")
    prior, failed = None, 0

    def pass_over(item: Item, error: RestoreError) -> int:
        if len(items) == 1:
            raise error
        say("error", error)
        if as_json:
            print(json.dumps({"input": item.name, "error": str(error)}), flush=True)
        return 1

    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        for item, paths in zip(items, plan, strict=True):
            try:
                seen = look(item, paths)
            except RestoreError as error:
                failed += pass_over(item, error)
                continue
            prior = load() if load and prior is None else prior
            try:
                with progress_bar(item.path.name if item.path else "stdin", quiet or not load) as update:
                    result = work(seen, prior, update)
                for picture, path in zip(result.images, paths, strict=True):
                    put(picture, path, overwrite)
            except RestoreError as error:
                failed += pass_over(item, error)
                continue
            _report(item, paths, result.info.as_dict(), as_json, quiet)
    if failed:
        say("error", f"{failed} of {len(items)} pictures failed")
        raise typer.Exit(3)


def _report(item: Item, paths: list[Path | None], info: dict[str, Any], as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps({"input": item.name, "outputs": [str(path) for path in paths], **info}), flush=True)
    if quiet:
        return
    if "note" in info:
        say("note", f"{item.name}: {info['note']}")
    calls = f"{info['calls']} calls, " if "calls" in info else ""
    for path in paths:
        print(f"{path or 'standard output'}: {calls}{info['seconds']:.1f} s", file=sys.stderr)
