"""Checkpoints of a training: safetensors and JSON, whole or not there at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from restore.errors import InputError
from restore.train.disk import discard, whole, writing

PREFIX = "step-"


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write `folder`/step-N by way of a temporary folder, then remove the older ones: a kill at any moment is safe.

    Raises WriteError; the older ones then are as they were."""
    final = folder / f"{PREFIX}{step:08d}"
    if final.exists():
        return final  # nothing was learnt since
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with whole(final) as aside:
        aside.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, aside / "state.safetensors"
        )
        (aside / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for other in folder.iterdir():
        if other != final:
            discard(other)
    return final


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint, or None."""
    found = [p for p in folder.glob(f"{PREFIX}*") if (p / "state.json").is_file()] if folder.is_dir() else []
    return max(found, key=lambda p: int(p.name.removeprefix(PREFIX)), default=None)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, state) of a checkpoint. Raises InputError where it is damaged."""
    try:
        return load_file(path / "state.safetensors"), json.loads((path / "state.json").read_text(encoding="utf-8"))
    except Exception as error:  # safetensors has its own errors
        raise InputError(f"the checkpoint {path} is damaged ({error}): remove it or start with --fresh") from None


def pack(net: nn.Module, shadow: list[Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """One flat dictionary: `net.*`, `ema.*` and, for each slot of the optimiser, `slot.*`."""
    tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    for (name, parameter), average in zip(net.named_parameters(), shadow, strict=True):
        tensors[f"ema.{name}"] = average
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{slot}.{name}"] = value
    return tensors


@torch.no_grad()
def unpack(tensors: dict[str, Tensor], net: nn.Module, shadow: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """The inverse of `pack`, in place, keeping devices and memory formats."""
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
    for (name, parameter), average in zip(net.named_parameters(), shadow, strict=True):
        average.copy_(tensors[f"ema.{name}"])
        slots = {key.split(".", 1)[0]: value for key, value in tensors.items() if key.split(".", 1)[1] == name}
        for slot, value in slots.items():
            if slot not in ("net", "ema"):
                like = torch.empty_like(parameter, requires_grad=False) if value.shape == parameter.shape else value
                moved = like.copy_(value)  # a fused optimiser counts its steps on the device, others on the CPU
                optimizer.state[parameter][slot] = moved.to(parameter.device) if optimizer.defaults["fused"] else moved
