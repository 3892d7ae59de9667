"""What every trainer does: read the configuration, find the pictures, loop, report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from restore.errors import InputError
from restore.train.config import Config
from restore.train.data import Pictures
from restore.train.loop import Loop, Task
from restore.train.toml import read


def train(
    kind: type[Task],
    config: str | Path | Config,
    *,
    data: str | Path | None = None,
    output: str | Path | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    fresh: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train what a kind of `Task` makes, or go on with it; what a user loads is `output`/NAME, by the task's name.

    data: a folder in which the sources are looked for first. steps, minutes: in place of the configuration's.
    Returns a report: output, NAME (its folder), step, crops, seconds, skipped pictures and the last validation.
    """
    folders = [Path()] if isinstance(config, Config) else [Path(), Path(config).parent]
    folders = folders if data is None else [Path(data), *folders]
    config = config if isinstance(config, Config) else read(config, kind.Config)
    budget = {key: value for key, value in (("steps", steps), ("minutes", minutes)) if value is not None}
    if budget:  # a budget given here stands alone
        config = dataclasses.replace(
            config, train=dataclasses.replace(config.train, **{"steps": None, "minutes": None} | budget)
        )
    if output is not None:
        config = dataclasses.replace(config, output=str(output))
    opened = getattr(kind, "Pictures", Pictures)  # a task may prepare them in its own way
    pictures = opened.of(config, folders, quiet)
    task = kind(config, pictures)
    loop = Loop(task, pictures, config, device=device, fresh=fresh, quiet=quiet)
    loop.run()
    validation = next((row for row in reversed(loop.log.rows) if "val_loss" in row), {})
    return {
        "output": config.output,
        task.name: str(Path(config.output) / task.name),
        "step": loop.step,
        "crops": loop.seen,
        "seconds": round(loop.seconds(), 1),
        "skipped": len(pictures.bad),
        "validation": {k: v for k, v in validation.items() if k not in ("step", "crops", "seconds")},
    }


def check_crops(config: Config, multiple: int) -> None:
    """Refuse sides of crops, of any phase, that the network does not take. Raises InputError."""
    for side in (config.data.crop, *(phase.crop or config.data.crop for phase in config.train.phases)):
        if side % multiple:
            raise InputError(f"crop is {side}: this network wants a multiple of {multiple}")
