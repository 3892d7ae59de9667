"""What priors and classifiers look like on the disk, written: diffusers folders, whole or not at all."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from restore.folders import PARTS


def replace(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of the folder `target`."""
    old = target.with_name(f".old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def text(path: Path, words: str) -> None:
    path.write_text(words + "\n", encoding="utf-8")


def millions(net: nn.Module) -> str:
    """How many million parameters, in words."""
    return f"{sum(p.numel() for p in net.parameters()) / 1e6:.1f}"


def front(licence: str, title: str) -> list[str]:
    """How a model card begins."""
    tags = "tags: [diffusion, image-restoration, restore]"
    return ["---", f"license: {licence}", "library_name: diffusers", tags, "---", f"# {title}", ""]


def index(folder: Path, net: nn.Module, scheduler: str) -> None:
    """model_index.json of a prior; scheduler: the name of its class."""
    home = type(net).__module__
    found = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", scheduler],
        "unet": [home if home.startswith("restore.") else "diffusers", type(net).__name__],
    }
    text(folder / "model_index.json", json.dumps(found, indent=2))


def parts(folder: Path, kind: str, net: nn.Module, scheduler: Any, labels: Any, dtype: torch.dtype) -> None:
    """The network in this precision, the scheduler (of diffusers, or its configuration), and the classes' names."""
    net = copy.deepcopy(net)
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to("cpu", dtype).contiguous()
    net.save_pretrained(folder / PARTS[kind], safe_serialization=True)
    for path in (folder / PARTS[kind]).iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone
    if isinstance(scheduler, dict):
        (folder / "scheduler").mkdir()
        text(folder / "scheduler" / "scheduler_config.json", json.dumps(scheduler, indent=2))
    else:
        scheduler.save_pretrained(folder / "scheduler")
    if isinstance(labels, list) and labels:
        text(folder / "labels.json", json.dumps(labels))
