"""Names, folders, files and callables -> Prior; what `restore.classifier` shares of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from restore import fetch, hub, shelf, zoo
from restore.conditional import Condition
from restore.errors import InputError, PriorError
from restore.folders import PARTS, parts
from restore.levels import Schedule, from_config
from restore.pipelines import clipping, conditional, multiple, pipeline, prediction
from restore.precision import pick_device, pick_dtype, settle
from restore.prior import Prior

WEIGHTS = (".safetensors", ".bin")  # endings of files


def bundled(kind: str = "prior") -> dict[str, Path]:
    """Name -> folder of the priors, or classifiers, that ship with the package."""
    root = Path(str(files("restore.assets"))) / f"{kind}s"
    inside = sorted(root.iterdir()) if root.is_dir() else []
    return {p.name: p for p in inside if (p / PARTS[kind] / "config.json").is_file()}


def find(source: str | Path, kind: str = "prior") -> Path:
    """The folder or checkpoint file that a source names, in this order: a bundled name, a folder, a file, a name or id
    of `restore.zoo`, an address or an id of the hub whose files are on this machine. Nothing is ever fetched.

    PriorError where there is none: it says what to run. InputError for a file that is a part of a diffusers folder."""
    known = bundled(kind)
    path = known.get(str(source), Path(source))
    if path.exists():
        return _no_part(path)
    return shelf.find(str(source), kind, known)


def _no_part(path: Path) -> Path:
    """The path, where it is a folder or may be a checkpoint. Raises InputError."""
    if path.is_file():
        if any((path.parent / name).is_file() for name in ("config.json", "model_index.json")):
            raise InputError(f"{path} is a file: give the diffusers folder that it lies in")
        if path.suffix and not path.name.lower().endswith(fetch.SUFFIXES):
            known = ", ".join(fetch.SUFFIXES)
            raise InputError(f"{path} is a file: give the diffusers folder of a network, or a checkpoint ({known})")
    return path


def kind_of(source: str | Path, flags: Mapping[str, Any] | None = None) -> str:
    """Whether a source is a prior or a classifier; where it is neither, or both, or not there: a prior."""
    if str(source) in bundled():
        return "prior"
    path = bundled("classifier").get(str(source), Path(source))
    if not path.exists():
        known = zoo.entry(str(source))
        repo = None if known else hub.parse(str(source))
        path = (hub.snapshot(repo) if repo else None) or path
        if known:
            return known.kind
    if _no_part(path).is_file():
        from restore import checkpoints

        return checkpoints.describe(path, flags)["kind"]
    return "classifier" if (path / PARTS["classifier"] / "config.json").is_file() else "prior"


def load_prior(
    source: str | Path | Prior | Callable[..., Any] = "photo",
    *,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    schedule: Schedule | None = None,
    predicts: str | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Prior:
    """A prior by name, from a folder, a checkpoint file or the hub's cache, or from a callable net(x, t).

    source: `photo` or another bundled name; a folder in the pipeline layout or of one network; a checkpoint file; a
    name or id of `restore.zoo`, an id of the hub (`owner/name`, `owner/name@revision`, `owner/name/folder`) or an
    address, that was downloaded before: nothing is fetched here; a callable, which then needs `schedule` (an nn.Module
    is moved and cast in place); a Prior, which is given back as it is, and takes no other option. device: auto, cpu,
    cuda, cuda:1 ... dtype: auto, float32, bfloat16, float16. schedule, predicts: replace what the source says. flags:
    of a checkpoint file, by the names of its own code, where the file does not tell. Raises PriorError where there is
    no such prior and InputError for damaged files and unknown options.
    """
    if isinstance(source, Prior):
        if schedule is not None or predicts is not None or flags or not (str(device) == dtype == "auto"):
            raise InputError("a Prior is ready as it is: give device, dtype, schedule, predicts, flags to load_prior")
        return source
    if not isinstance(source, str | Path) and not callable(source):
        raise InputError(f"cannot load a prior from {type(source).__name__}: give a name, a folder or a callable")
    chosen = pick_device(device)
    precision = pick_dtype(dtype, chosen)
    if callable(source):
        if flags:
            raise InputError("flags are for checkpoint files: a callable network has none")
        if schedule is None:
            raise InputError("a callable network needs schedule=, the noise schedule that it was trained on")
        prior = Prior(source, predicts=predicts or "eps", schedule=schedule)
        if isinstance(source, nn.Module):
            return settle(prior, chosen, precision)
        if not (str(device) == dtype == "auto"):
            raise InputError("device and dtype are for networks: a plain function runs on the CPU in float32")
        return prior
    path = find(source)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
        if path.is_file():
            return settle(_from_file(path, schedule, predicts, flags, str(source)), chosen, precision)
        no_flags(path, flags)
        return settle(pipeline(path, schedule, predicts, str(source)), chosen, precision)


def no_flags(path: Path, flags: Mapping[str, Any] | None) -> None:
    """Refuse flags for a folder. Raises InputError."""
    if flags:
        raise InputError(f"{path} is a folder, which says all itself: flags are for checkpoint files")


def read_file(path: Path, flags: Mapping[str, Any] | None, kind: str) -> Any:
    """The Checkpoint in a file, which must be of this kind. Raises InputError."""
    from restore import checkpoints

    found = checkpoints.read(path, flags)
    if found.kind != kind:
        raise InputError(f"{path} is a {found.kind}, not a {kind}")
    return found


def _from_file(
    path: Path, schedule: Schedule | None, predicts: str | None, flags: Mapping[str, Any] | None, name: str
) -> Prior:
    """A checkpoint of another code -> Prior."""
    found = read_file(path, flags, "prior")
    config = found.net.config
    options = {
        "predicts": predicts or prediction(path, found.scheduler),
        "schedule": schedule or from_config(found.scheduler),
        "clip": clipping(found.scheduler),
        "multiple": multiple(config),
        "size": found.size,
        "labels": found.labels,
        "name": name,
    }
    if found.condition:
        return conditional(found.net, found.condition, config, options, path)
    return Prior(found.net, channels=config["in_channels"], **options)


def describe(source: str | Path, kind: str = "prior", flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `restore priors info` says of a source, without reading its weights; of one that the table knows and that is
    not on this machine, what the table says.

    kind: prior or classifier. Raises PriorError where there is no such thing, InputError where its files cannot be
    read."""
    known = None if str(source) in bundled(kind) or Path(source).exists() else zoo.entry(str(source))
    if known and known.kind == kind and shelf.where(known) is None:
        return shelf.row(known)
    path = find(source, kind)
    facts = _of_file(path, kind, flags) if path.is_file() else _of_folder(path, kind)
    if known and facts["licence"] == "unknown":
        facts["licence"] = known.licence or "unknown"
    return {"name": str(source), "kind": kind, **facts, "here": True, "folder": str(path)}


def _of_file(path: Path, kind: str, flags: Mapping[str, Any] | None) -> dict[str, Any]:
    from restore import checkpoints

    facts = checkpoints.describe(path, flags)
    if facts["kind"] != kind:
        raise PriorError(f"{path} is a {facts['kind']}, not a {kind}")
    return facts


def _of_folder(folder: Path, kind: str) -> dict[str, Any]:
    _, config, settings, labels = parts(folder, kind)
    told = Condition.read(folder) if kind == "prior" else None
    settings = settings or {}
    card = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else ""
    header = card.split("---")[1] if card.startswith("---") else ""
    facts = dict(line.split(": ", 1) for line in header.splitlines() if ": " in line)
    title = next((line[2:] for line in card.splitlines() if line.startswith("# ")), folder.name)
    return {
        "title": title,
        "licence": facts.get("license", "unknown"),
        "megabytes": round(sum(p.stat().st_size for p in folder.rglob("*") if p.suffix in WEIGHTS) / 1e6, 1),
        "network": config.get("_class_name"),
        "channels": config.get("channels") or config.get("block_out_channels"),
        "size": config.get("sample_size") or "any",
        "predicts": settings.get("prediction_type", "epsilon") if kind == "prior" else None,
        "schedule": settings.get("beta_schedule"),
        "levels": settings.get("num_train_timesteps"),
        "classes": len(labels) if labels else config.get("num_class_embeds") or config.get("classes"),
        "labels": ", ".join(labels) if labels else None,
        **(told.facts if told else {}),
    }
