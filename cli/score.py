"""`restore score`: how close two pictures, or two folders of pictures, are."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from restore.cli import common
from restore.errors import InputError, RestoreError

WIDTH = 80  # columns of a line


def _by_stem(folder: str, recursive: bool) -> dict[str, common.Item]:
    """The pictures of a folder by their names without extension, below it. Raises InputError where two agree."""
    found: dict[str, common.Item] = {}
    for item in common.collect([folder], recursive):
        stem = (item.below / item.path.stem).as_posix()
        if stem in found:
            raise InputError(f"{found[stem].path} and {item.path} have the same name: move one of them away")
        found[stem] = item
    return found


def _pairs(a: str, b: str, recursive: bool) -> list[tuple[str, common.Item | None, common.Item | None]]:
    """(name, picture, picture) for two files, or for what lies in two folders; None where a partner is missing."""
    if Path(a).is_dir() != Path(b).is_dir():
        raise InputError(f"{a} and {b}: one is a folder: give two pictures, or two folders")
    if a == b == "-":
        raise InputError("standard input holds one picture: name a file for the other")
    if not Path(a).is_dir():
        first, other = common.collect([a, b], recursive)
        return [((first.path or other.path).name, first, other)]
    here, there = _by_stem(a, recursive), _by_stem(b, recursive)
    if not here.keys() & there.keys():
        raise InputError(f"no picture in {a} has a partner of the same name in {b}: names have to agree")
    return [(stem, here.get(stem), there.get(stem)) for stem in sorted(here.keys() | there.keys())]


def _line(name: str, values: dict[str, float], width: int) -> str:
    name = name if len(name) <= width else "..." + name[3 - width :]
    forms = {"psnr": "PSNR {:5.2f} dB", "ssim": "SSIM {:.4f}", "lpips": "LPIPS {:.4f}"}
    return "  ".join([f"{name:<{width}}", *(forms[key].format(value) for key, value in values.items())])


def _json(facts: dict[str, Any]) -> str:
    infinite = {key: None for key, value in facts.items() if isinstance(value, float) and math.isinf(value)}
    return json.dumps({**facts, **infinite})


def score(
    a: Annotated[str, typer.Argument(metavar="A", help="A picture or a folder; - is standard input.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What to compare with: a picture or a folder.")],
    crop: Annotated[int, typer.Option(metavar="N", help="Leave out N pixels on each side.")] = 0,
    luma: Annotated[bool, typer.Option("--luma", help="PSNR, SSIM: of MATLAB's Y', as papers do.")] = False,
    lpips: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="BACKBONE LINEAR", show_default=False,
            help="LPIPS too, with these weights: torchvision's AlexNet or VGG16, and lpips' v0.1/alex.pth or vgg.pth.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="LPIPS: auto, cpu, cuda, cuda:1 ...")] = "auto",
    recursive: common.Recursive = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a pair, and one for the mean.")] = False,
    quiet: common.Quiet = False,
) -> None:  # fmt: skip
    """Say how close two pictures are: PSNR, SSIM and, with its weights, LPIPS.

    Of two folders, pictures of the same name are compared, whatever their format. The PSNR of equal pictures is
    infinite: inf, and null in JSON."""
    from restore.metrics import LPIPS
    from restore.metrics import score as compare
    from restore.precision import pick_device

    if crop < 0:
        raise InputError(f"--crop is {crop}: give a number of pixels, at least 0")
    if lpips is None and device != "auto":
        raise InputError("--device is for LPIPS alone: leave it out, or give --lpips")
    model = None if lpips is None else LPIPS.from_files(*lpips).to(pick_device(device))
    pairs = _pairs(a, b, recursive)
    several = Path(a).is_dir()
    widest = {"psnr": 100.0, "ssim": -1.0} | ({} if model is None else {"lpips": 1.0})
    room = WIDTH - len(_line("", widest, 0))
    width = min(room, max(len(name) for name in ["mean"] * several + [name for name, _, _ in pairs]))
    scores: list[dict[str, float]] = []
    for name, first, other in pairs:
        facts: dict[str, Any] = {"a": first and first.name, "b": other and other.name}
        try:
            if first is None or other is None:
                alone, folder = (first, b) if other is None else (other, a)
                raise InputError(f"{alone.path}: no picture named {name}.* in {folder}")
            with warnings.catch_warnings():
                if quiet:
                    warnings.simplefilter("ignore")
                found = compare(first.read(), other.read(), crop=crop, y_only=luma, lpips=model)
        except RestoreError as error:
            if not several:
                raise
            common.say("error", error)
            if as_json:
                print(_json({**facts, "error": str(error)}), flush=True)
            continue
        scores.append({key: float(value) for key, value in found._asdict().items() if value is not None})
        facts |= {**scores[-1], "crop": crop, "luma": luma}
        print(_json(facts) if as_json else _line(name, scores[-1], width), flush=True)
    if several and scores:
        mean = {key: sum(values[key] for values in scores) / len(scores) for key in scores[0]}
        facts = {"pairs": len(scores), **mean, "crop": crop, "luma": luma}
        print(_json(facts) if as_json else _line("mean", mean, width))
    if len(scores) < len(pairs):
        common.say("error", f"{len(pairs) - len(scores)} of {len(pairs)} pictures failed")
        raise typer.Exit(3)
