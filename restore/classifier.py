"""A noisy classifier: a network that says of what class a noisy picture is, at any level of any prior's schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restore.errors import InputError
from restore.folders import network, parts
from restore.levels import Level, Table, from_config
from restore.load import find, no_flags, read_file
from restore.network import Network
from restore.precision import pick_device, pick_dtype, settle
from restore.regions import pad
from restore.wrappers import LogProb


class Classifier(Network):
    """p(y | x_t) of a network that was trained on noisy pictures (Dhariwal and Nichol 2021, section 4).

    net: any callable (x (B,C,H,W), t (B,)) -> logits (B,classes). schedule: the table that it was trained on, which
    need not be the prior's: levels are matched by their noise-to-signal ratio. labels: the classes' names, or how many
    there are. multiple: the network wants sides divisible by this; other pictures are mirrored at the border for it.
    Raises InputError for a schedule that is no table.
    """

    kind = "classifier"

    def __init__(
        self,
        net: Callable[..., Any],
        *,
        schedule: Table,
        labels: list[str] | int,
        multiple: int = 1,
        dtype: torch.dtype = torch.float32,
        name: str = "custom",
    ) -> None:
        if not isinstance(schedule, Table):
            raise InputError(f"a classifier needs a noise table as its schedule, not {type(schedule).__name__}")
        super().__init__(net, labels, dtype, name)
        self.schedule, self.multiple = schedule, multiple

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """Logits (B,classes) of x (B,C,H,W) at a level of any schedule; ratios beyond the table are told as its ends.

        x / hypot(alpha, sigma) is x * alpha_c / alpha, with the table's own alpha_c at the ratio sigma / alpha."""
        own = self.schedule.at_ratio(level.ratio)
        x = pad(x / math.hypot(level.alpha, level.sigma), self.multiple)
        return self.answer(x, own.t).to(x.dtype)

    def log_prob(self, label: int | str) -> LogProb:
        """log p(label | x_t), differentiable by x: for `wrappers.classifier_guided`. Raises InputError as `index`."""
        index = self.index(label)
        return lambda x, level: self(x, level).log_softmax(1)[:, index]  # (B,)


def load_classifier(
    source: str | Path | Classifier,
    *,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    flags: Mapping[str, Any] | None = None,
) -> Classifier:
    """A classifier by name, from the folder that `restore train classifier` wrote, a checkpoint or the hub's cache.

    A Classifier is given back as it is, and takes no other option. source, device, dtype, flags: as `load_prior`.
    Raises PriorError where there is no such classifier, and InputError for damaged files and unknown options."""
    if isinstance(source, Classifier):
        if flags or not (str(device) == dtype == "auto"):
            raise InputError("a Classifier is ready as it is: give device, dtype and flags to load_classifier")
        return source
    if not isinstance(source, str | Path):
        raise InputError(f"cannot load a classifier from {type(source).__name__}: give a name or a folder")
    chosen = pick_device(device)
    path = find(source, "classifier")
    if path.is_file():
        found = _file(path, str(source), flags)
    else:
        no_flags(path, flags)
        found = _folder(path, str(source))
    return settle(found, chosen, pick_dtype(dtype, chosen))


def _file(path: Path, name: str, flags: Mapping[str, Any] | None) -> Classifier:
    """A checkpoint of another code."""
    found = read_file(path, flags, "classifier")
    schedule = from_config(found.scheduler)
    return Classifier(found.net, schedule=schedule, labels=found.labels, multiple=found.net.multiple, name=name)


def _folder(folder: Path, name: str) -> Classifier:
    """A folder with net/, scheduler/ and labels.json."""
    inner, config, settings, labels = parts(folder, "classifier")
    if settings is None:
        raise InputError(f"{folder}: no scheduler/scheduler_config.json; is the download complete?")
    net = network(inner, config, "classifier")
    if labels is not None and len(labels) != net.config.classes:
        raise InputError(f"{folder}: {len(labels)} names in labels.json for {net.config.classes} classes")
    return Classifier(
        net,
        schedule=from_config(settings),
        labels=labels or net.config.classes,
        multiple=net.multiple,
        name=name,
    )
