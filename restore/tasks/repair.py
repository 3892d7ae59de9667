"""Repair: whatever a conditional prior was trained to undo, JPEG's traces and mixtures of damage among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from restore.errors import InputError
from restore.jobs import Job, Report
from restore.prior import Prior
from restore.tasks.common import with_options
from restore.tasks.conditional import SAMPLERS
from restore.tasks.inverse import Inverse, Problem, restored


@dataclass(frozen=True, kw_only=True)
class Repair(Inverse):
    """The options of `repair`."""

    METHODS: ClassVar = SAMPLERS
    TASK: ClassVar = "repair"

    def start(self, prior: Prior, progress: Report | None) -> Job:
        raise InputError(
            f"the prior {prior.name!r} is not conditional: repair takes one that was trained on the damage "
            "(restore train conditional)"
        )

    def problem(self, rgb: Tensor, multiple: int) -> Problem:
        raise NotImplementedError("the damage is not known: a conditional prior does without")


@with_options(Repair)
def repair(
    image: Any,
    *,
    prior: str | Path | Prior,
    device: str = "auto",
    dtype: str = "auto",
    progress: Report | None = None,
    **options: Any,
) -> Any:
    """Undo the damage that a conditional prior was trained on: JPEG, or a mixture of blur, noise and compression.

    method: "ddim", "ddpm", "heun" or "dpm++". The rest as `restore.upscale`. Source: Palette (Saharia et al. 2022)."""
    return restored(Repair(**options), image, prior, device, dtype, progress)
