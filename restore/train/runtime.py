"""Where a training runs, and how it is asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from restore.errors import InputError
from restore.train.config import Train


def accelerator(train: Train, device: str) -> Accelerator:
    """The accelerate object of a run. Raises InputError for a device or a precision that is not there."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {device!r}: auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device: use --device auto or cpu")
    AcceleratorState._reset_state(True)  # an earlier run of this process may have had another precision
    try:
        return Accelerator(
            mixed_precision=train.precision, gradient_accumulation_steps=train.accumulate, cpu=device == "cpu"
        )
    except ValueError as error:
        raise InputError(f"precision {train.precision!r} does not work here: {error}") from None


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
