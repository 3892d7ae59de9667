"""Checkpoints of other codes -> a network, its schedule and its classes: guided-diffusion, DDIM, DDRM and SR3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from restore.checkpoints import ddim, guided, sr3
from restore.checkpoints.files import family, opened
from restore.checkpoints.flags import gathered
from restore.checkpoints.plan import Plan
from restore.checkpoints.released import Known, known
from restore.conditional import Condition
from restore.errors import InputError

__all__ = ["Checkpoint", "describe", "read"]

FAMILIES = {"guided-diffusion": guided, "DDIM": ddim, "SR3": sr3}


class Checkpoint(NamedTuple):
    """What a file holds."""

    kind: str  # prior or classifier
    family: str
    net: nn.Module  # float32, in the evaluation mode
    scheduler: dict[str, Any]  # the configuration of a diffusers DDPMScheduler
    size: int  # of the pictures that it was trained on, in pixels
    labels: int | None  # how many classes there are
    flags: dict[str, Any]  # all that was found out, by the names of its own code
    title: str
    licence: str | None  # of the weights
    condition: Condition | None  # what a conditional prior is shown


def read(path: str | Path, flags: Mapping[str, Any] | None = None) -> Checkpoint:
    """The network in a file, by its tensors' names and shapes, and by what these do not tell.

    That comes from `flags`, by the names of the code that wrote it; else from NAME.toml beside NAME.pt; else from a
    table of released files, by their name or sha256. Raises InputError, in one line that names the file, where it is
    no checkpoint, holds code or something else, where flags are missing, unknown, or contradict the tensors."""
    path = Path(path)
    name, plan, facts, state = _looked(path, flags)
    try:
        net = FAMILIES[name].network(plan, state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Checkpoint(
        plan.kind, name, net.eval(), plan.scheduler, plan.size, plan.labels, plan.flags,
        facts.title if facts else path.name, facts.licence if facts else None,
        plan.condition,
    )  # fmt: skip


def describe(path: str | Path, flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `restore priors info` says of a file: as `read`, without making the network."""
    path = Path(path)
    name, plan, facts, state = _looked(path, flags)
    return {
        "kind": plan.kind,
        "title": facts.title if facts else path.name,
        "licence": (facts and facts.licence) or "unknown",
        "megabytes": round(sum(v.numel() * v.element_size() for v in state.values()) / 1e6, 1),
        "network": FAMILIES[name].class_name(plan),
        "channels": plan.widths,
        "size": plan.size,
        "predicts": plan.scheduler["prediction_type"] if plan.kind == "prior" else None,
        "schedule": plan.scheduler["beta_schedule"],
        "levels": plan.scheduler["num_train_timesteps"],
        "classes": plan.labels,
        "labels": None,
        **(plan.condition.facts if plan.condition else {}),
    }


def _looked(path: Path, flags: Mapping[str, Any] | None) -> tuple[str, Plan, Known | None, dict[str, Tensor]]:
    """The family, the plan of the network, what the table knows of the file, and the tensors."""
    state = opened(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found, facts = family(shapes, path), known(path)
    given = gathered(path, found, flags, facts.flags if facts and facts.family == found else None)
    return found, FAMILIES[found].plan(shapes, given, path), facts, state
