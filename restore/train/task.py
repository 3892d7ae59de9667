"""What a trainer adds to the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from restore.train.config import Config
from restore.train.data import Pictures
from restore.train.plan import Rows


class Task(Protocol):
    """What a trainer adds to the loop. All models are called with the task's own network or its average."""

    name: ClassVar[str]  # of the folder that users load
    Config: ClassVar[type[Config]]  # what its configuration file holds
    net: nn.Module
    best: ClassVar[str | None] = None  # a number of its validation: where it is greatest is kept as OUTPUT/best
    partial: bool = False  # some steps use but a part of the network
    progress: float = 0.0  # share of the training that is done; the loop sets it

    def __init__(self, config: Config, pictures: Pictures) -> None:
        """Make the network. Raises InputError for a configuration that cannot be."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], rng: Rows) -> Tensor:
        """(b,) losses of a batch, already on the device."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Named numbers for the log; empty where there is nothing to validate on."""

    def samples(self, model: nn.Module) -> np.ndarray | None:
        """A sheet of pictures, (H,W,3) uint8, or None."""

    def export(self, model: nn.Module, folder: Path, history: list[dict[str, Any]]) -> None:
        """Write what a user loads into the empty `folder`; `history` is the log."""
