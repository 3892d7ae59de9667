"""Where a training runs, and how it is asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from restore.errors import InputError, OutOfMemory, WriteError
from restore.train.config import Recipe


def accelerator(train: Recipe, device: str, partial: bool = False) -> Accelerator:
    """The accelerate object of a run; partial: some steps use but a part of the network.

    Raises InputError for a device or a precision that is not there."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {device!r}: auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device: use --device auto or cpu")
    AcceleratorState._reset_state(True)  # an earlier run of this process may have had another precision
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if partial else []
    try:
        return Accelerator(
            mixed_precision=train.precision,
            gradient_accumulation_steps=train.accumulate,
            cpu=device == "cpu",
            kwargs_handlers=handlers,
        )
    except ValueError as error:
        raise InputError(f"precision {train.precision!r} does not work here: {error}") from None


def ease(net: nn.Module, train: Recipe) -> None:
    """Recompute activations, or compile the network, in place: what its tensors are called does not change.

    Raises InputError for a network that cannot."""
    if train.checkpointing:
        try:
            net.enable_gradient_checkpointing()
        except (AttributeError, ValueError):  # diffusers raises the latter
            raise InputError(f"train.checkpointing: a {type(net).__name__} has none, leave it out") from None
    if train.compile:
        net.compile(dynamic=False)  # a graph for each phase: torch 2.13 fails on one for all sizes


@contextmanager
def reported(kept: Callable[[], str]) -> Iterator[None]:
    """What can happen to any training, in one line; kept: says what there is to go on from."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise OutOfMemory(f"out of memory: lower train.batch or raise train.accumulate; {kept()}") from None
    except WriteError as error:
        raise WriteError(f"{error}; {kept()}") from None
    except TorchDynamoException as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"train.compile does not work here, leave it out: {reason}") from None


def culprits(accelerator: Accelerator, data: Any, batch: dict[str, Tensor], each: list[Tensor], most: int = 8) -> str:
    """' on a.png, b.png': the pictures of a batch, over all processes, those first whose own loss is not finite.

    each: the losses of this process's rows. Empty where the data has no names."""
    found: list[tuple[bool, str]] = []
    if "item" in batch and hasattr(data, "names"):
        names = data.names(batch["item"].tolist())
        finite = [row for part in each for row in part.reshape(-1).isfinite().tolist()]
        found = list(zip(finite if len(finite) == len(names) else [True] * len(names), names, strict=True))
    if accelerator.num_processes > 1:
        found = gather_object(found)
    names = list(dict.fromkeys(name for _, name in sorted(found, key=lambda pair: pair[0])))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" on {', '.join(names[:most])}{more}" if names else ""


def count_damaged(accelerator: Accelerator, data: Any) -> None:
    """Make the pictures that each process found to be damaged known to all."""
    if accelerator.num_processes > 1 and hasattr(data, "damaged"):
        found = accelerator.reduce(data.damaged.to(accelerator.device, torch.int32), "sum")
        data.damaged |= found.cpu() > 0


@contextmanager
def interruptible(loop: Any) -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM ask the loop to save and stop; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if loop.stop:
            raise KeyboardInterrupt
        loop.stop = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
