"""What a prior and a classifier have in common: a network, its precision, and its classes by name or number."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from restore.errors import InputError


class Network:
    """A callable net(x, t, ...), the precision that it runs in, its name, and the classes that it knows."""

    kind: ClassVar[str]  # what error messages call it

    def __init__(self, net: Callable[..., Any], labels: list[str] | int | None, dtype: torch.dtype, name: str) -> None:
        self.net, self.labels, self.dtype, self.name = net, labels, dtype, name
        self.given: dict[str, Tensor] = {}  # what the network is told beside x and t, for one picture or for each

    @property
    def parts(self) -> list[Any]:
        """What else has to be moved to the network's device, by its `to(device)`."""
        return []

    @property
    def device(self) -> torch.device:
        """Where the network lives; the CPU for a plain callable."""
        weight = next(self.net.parameters(), None) if isinstance(self.net, nn.Module) else None
        return torch.device("cpu") if weight is None else weight.device

    @property
    def classes(self) -> str:
        """What labels there are, in words."""
        if self.labels is None:
            return "none"
        return f"0 to {self.labels - 1}" if isinstance(self.labels, int) else ", ".join(self.labels)

    def index(self, label: int | str) -> int:
        """The index of a class, by its name or number. Raises InputError for one that the network does not have."""
        if self.labels is None:
            raise InputError(f"the {self.kind} {self.name!r} has no classes: leave the label out")
        names = [] if isinstance(self.labels, int) else self.labels
        found = [i for i, name in enumerate(names) if label == name or label in name.split(", ")]  # ImageNet's synonyms
        if found:
            return next((i for i in found if label == names[i]), found[0])
        count = len(names) or self.labels
        number = int(label) if str(label).isdecimal() else count
        if isinstance(label, bool) or number >= count:
            raise InputError(f"the {self.kind} {self.name!r} has no class {str(label)!r}: choose one of {self.classes}")
        return number

    def answer(self, x: Tensor, t: float) -> Any:
        """What the network says of x (B,C,H,W) at time t, as it says it, in its own precision."""
        times = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        given = {k: v.to(x.device).expand(len(x), *v.shape[1:]) for k, v in self.given.items()}
        reduced = self.dtype not in (torch.float32, torch.float64)
        with torch.autocast(x.device.type, self.dtype) if reduced else nullcontext():
            return self.net(x, times, **given)
