"""The log of a training for TensorBoard."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from restore.errors import InputError
from restore.train.disk import writing


def writer() -> type:
    """torch's SummaryWriter. Raises InputError where the package tensorboard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "train.tensorboard needs the package tensorboard: pip install 'restore-diffusion[train]'"
        ) from None
    return SummaryWriter


class Board:
    """A row's numbers as scalars, the sheets of samples as pictures, in event files in `folder`.

    step: where the run stands; what an earlier run showed of later steps, which are repeated, is not shown any more.
    Raises InputError as `writer`, and WriteError.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        with writing(folder):
            self.writer = writer()(str(folder), purge_step=step + 1 if step else None)

    def row(self, row: dict[str, Any]) -> None:
        """One row of the log."""
        with writing(self.folder):
            for key, value in row.items():
                number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                if number and key != "step":
                    self.writer.add_scalar(key, value, row["step"])
            self.writer.flush()

    def picture(self, sheet: np.ndarray, step: int) -> None:
        """A sheet of samples, (H,W,3) uint8."""
        with writing(self.folder):
            self.writer.add_image("samples", sheet, step, dataformats="HWC")
            self.writer.flush()

    def close(self) -> None:
        """No more is coming; what could not be written has been told."""
        try:
            self.writer.close()
        except OSError:
            return
