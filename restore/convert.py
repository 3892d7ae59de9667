"""A checkpoint of another code -> a diffusers folder with its card, which gives the same answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from restore import fetch, layout, zoo
from restore.errors import InputError
from restore.load import find


def convert(
    source: str | Path, out: str | Path, *, flags: Mapping[str, Any] | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write what a checkpoint holds, a prior or a classifier, as a folder: whole, or not at all.

    source: a checkpoint file, or a name of `restore.zoo` that is one. flags: as `restore.load_prior`. overwrite:
    replace a folder in this layout. Returns a report. Raises InputError for what is no checkpoint and for an `out` that
    cannot be replaced, PriorError for a name that is not on this machine."""
    from restore import checkpoints

    known = zoo.entry(str(source))
    path, out = find(source, known.kind if known else "prior"), Path(out)
    if not path.is_file():
        raise InputError(f"{source} is a folder: what is converted is a checkpoint file")
    _may_write(out, path, overwrite)
    found = checkpoints.read(path, flags)
    sha = fetch.sha256(path)
    aside = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        if getattr(found.net.config, "sample_size", found.size) != found.size:
            found.net.register_to_config(sample_size=found.size)
        if found.kind == "prior":
            layout.index(aside, found.net, found.scheduler["_class_name"])
        if found.condition:
            found.condition.write(aside)
        layout.parts(aside, found.kind, found.net, found.scheduler, found.labels, torch.float32)
        licence, origin = _facts(path, found)
        layout.text(aside / "README.md", card(found, path.name, sha, licence, origin))
        layout.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"input": str(path), "output": str(out), "kind": found.kind, "family": found.family, "sha256": sha}


def _may_write(out: Path, source: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give the name of a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{out} exists already: give --overwrite, or another name")
    if out.resolve() in source.resolve().parents or not any(
        (out / name / "config.json").is_file() for name in ("unet", "net")
    ):
        raise InputError(f"{out} is not the folder of a prior or a classifier alone: it is not replaced")


def _facts(path: Path, found: Any) -> tuple[str, str | None]:
    """(licence, where it came from) by the file, by what was noted when it was fetched, or by the table."""
    known = zoo.entry(path.name)
    licence = found.licence or (known and known.licence) or "unknown"
    return licence, fetch.record(path).get("url") or (known.origin if known else None)


def card(found: Any, name: str, sha: str, licence: str, origin: str | None) -> str:
    """The model card: what it was before."""
    what = "noisy classifier" if found.kind == "classifier" else "denoising network"
    lines = [
        *layout.front(licence, found.title or name),
        f"A {what} of {layout.millions(found.net)} M parameters, converted by `restore priors convert` from `{name}`,",
        f"a checkpoint of the {found.family} family. The weights are those of the file, renamed.",
        "",
        f"* origin: {origin or 'unknown'}",
        f"* licence of the weights: {licence}",
        f"* sha256 of `{name}`: {sha}",
        "",
        "| flag | value |",
        "| --- | --- |",
        *(f"| `{key}` | `{value}` |" for key, value in (found.flags or {}).items()),
    ]
    return "\n".join(lines)
