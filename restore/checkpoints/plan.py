"""What a checkpoint's network is, before it is made."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from restore.conditional import Condition
from restore.errors import InputError


class Plan(NamedTuple):
    """A network, said in full."""

    kind: str  # prior or classifier
    config: dict[str, Any]  # of the class in `restore.guided`, or of diffusers' UNet2DModel
    widths: list[int]  # of its scales, finest first
    scheduler: dict[str, Any]
    size: int
    labels: int | None
    flags: dict[str, Any]
    condition: Condition | None = None  # of a conditional prior


def made(cls: type[nn.Module], config: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """A network of this class with these weights, every one accounted for, in float32; nothing is drawn at random.

    Raises InputError for a tensor too few, too many, or of another shape."""
    with torch.device("meta"):
        net = cls(**config)
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    wrong = sorted(
        name for name in {*wanted, *state} if name not in state or wanted.get(name) != tuple(state[name].shape)
    )
    if wrong:
        raise InputError(f"{len(wrong)} tensors are missing, too many or of other shapes, first {wrong[0]}")
    net.load_state_dict({name: value.float() for name, value in state.items()}, strict=True, assign=True)
    return net.requires_grad_(False)
