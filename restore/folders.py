"""Folders in the layout of diffusers: which network lies there, its scheduler, its classes."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from torch import nn

from restore.errors import InputError, PriorError

PARTS = {"prior": "unet", "classifier": "net"}  # the folder of the network, and the networks of our own
OURS = {
    "prior": {
        "UNet": "restore.unet",
        "GuidedUNet": "restore.guided",
        "SR3UNet": "restore.sr3",
        "SRDiff": "restore.srdiff",
    },
    "classifier": {"Encoder": "restore.encoder", "GuidedEncoder": "restore.guided"},
}
TRANSFORMER = "transformer"  # where a prior's network lies if it is one
CODECS = {"vae": "AutoencoderKL", "vqvae": "VQModel"}  # the folder of an autoencoder, and the class that it mostly has


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a readable JSON file; is the download complete?")
    return found


def parts(folder: Path, kind: str = "prior") -> tuple[Path, dict[str, Any], dict[str, Any] | None, list[str] | None]:
    """(network folder, its configuration, the scheduler's, class names) of a pipeline or bare network folder."""
    part = PARTS[kind]
    names = [part, TRANSFORMER] if kind == "prior" else [part]
    inner = next((folder / name for name in names if (folder / name / "config.json").is_file()), folder)
    if not (inner / "config.json").is_file():
        other = next((k for k, name in PARTS.items() if (folder / name / "config.json").is_file()), None)
        codec = next((name for name in CODECS if (folder / name / "config.json").is_file()), None)
        reason = f"this is a {other}" if other else f"neither config.json nor {part}/config.json"
        if codec and kind == "prior":
            reason = f"{codec}/ is an autoencoder alone; its denoiser, {part}/ or {TRANSFORMER}/, is missing"
        raise PriorError(f"{folder}: no diffusers folder of a {kind} ({reason})")
    found = [p / "scheduler_config.json" for p in (folder / "scheduler", folder, inner.parent / "scheduler")]
    settings = next((read_json(p) for p in found if p.is_file()), None)
    return inner, read_json(inner / "config.json"), settings, _labels(folder / "labels.json")


def _labels(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: not a JSON list of class names; is the download complete?")
    return names


def network(folder: Path, config: dict[str, Any], kind: str = "prior") -> nn.Module:
    """The network in `folder`, of a class of our own or of diffusers, every weight accounted for."""
    import diffusers

    name, ours = config.get("_class_name", ""), OURS.get(kind, {})
    home = import_module(ours[name]) if name in ours else diffusers if kind != "classifier" else None
    cls = getattr(home, name, None)
    if cls is None or not hasattr(cls, "from_pretrained"):
        where = f" in diffusers {diffusers.__version__}" if kind != "classifier" else ""
        raise InputError(f"{folder}: no network class {name!r} of a {kind}{where}")
    with quiet(diffusers.utils.logging):
        net, info = pretrained(
            cls, folder, low_cpu_mem_usage=False, torch_dtype=torch.float32, output_loading_info=True
        )
    wrong = sorted([*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])])
    if wrong:
        raise InputError(f"{folder}: weights and config.json do not belong together, first at {wrong[0]}")
    return net


@contextmanager
def quiet(logger: Any) -> Iterator[None]:
    """Without the remarks and bars of a library, by its `logging` module."""
    level, bars = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity(CRITICAL)
    logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.set_verbosity(level)
        if bars:
            logger.enable_progress_bar()


def pretrained(cls: Any, folder: Path, **options: Any) -> Any:
    """`cls.from_pretrained` of what lies here, without a connection and without code. InputError where it fails."""
    try:
        return cls.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # safetensors, torch, diffusers and transformers each raise their own
        reason = " ".join(str(error).split()) or type(error).__name__
        if "size mismatch" in reason:
            reason = reason[reason.index("size mismatch") :][:160]
            raise InputError(f"{folder}: weights and config.json do not belong together: {reason}") from error
        raise InputError(
            f"{folder}: the weights cannot be read; fetch or copy the folder again ({reason[:200]})"
        ) from error


def orientations(folder: Path) -> int:
    """In how many orientations the prior has seen each picture, by the configuration that it was trained with."""
    try:
        data = tomllib.loads((folder / "train.toml").read_text(encoding="utf-8"))["data"]
        return (8 if data["rotate"] else 2) if data["flip"] else 1
    except (OSError, ValueError, KeyError, TypeError):  # another trainer's, or none
        return 1
