"""The loop that every trainer shares: devices, learning rate, averages, checkpoints, logs and samples.

What is trained is a `Task`; where its crops come from is any dataset indexed by (number, side).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn

from restore.errors import DivergedError, InputError, OutOfMemory
from restore.train import checkpoint
from restore.train.config import FREE, Config, interval
from restore.train.data import Loader, Pictures
from restore.train.log import Log
from restore.train.plan import Due, Rows, learning_rate, phase
from restore.train.runtime import accelerator, interruptible
from restore.train.toml import difference


class Task(Protocol):
    """What a trainer adds to the loop. All models are called with the task's own network or its average."""

    name: ClassVar[str]  # of the folder that users load
    Config: ClassVar[type[Config]]  # what its configuration file holds
    net: nn.Module

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


class Loop:
    """One training: `Loop(...).run()`.

    data: what `Loader` takes. config: kept in the checkpoints and compared on resuming. device: auto, cpu or cuda.
    fresh: forget an earlier run in the output folder. Raises InputError, DivergedError and, after a checkpoint was
    written, KeyboardInterrupt.
    """

    def __init__(
        self,
        task: Task,
        data: Any,
        config: Config,
        *,
        device: str = "auto",
        fresh: bool = False,
        quiet: bool = False,
    ) -> None:
        self.task, self.data, self.train, self.config = task, data, config.train, dataclasses.asdict(config)
        self.output, self.crop, self.seed = Path(config.output), config.data.crop, config.seed
        self.workers, self.every = config.data.workers, config.validate.every
        self.sample_every = getattr(config.train, "sample_every", 0)  # where there is something to see
        train = config.train
        self.accelerator = accelerator(train, device)
        self.main = self.accelerator.is_main_process
        self.net = task.net.to(memory_format=torch.channels_last) if train.channels_last else task.net
        fused = self.accelerator.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=fused
        )
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False).to(self.accelerator.device)
        self.model, self.prepared = self.accelerator.prepare(self.net, self.optimizer)
        self.ema = EMAModel(self.net.parameters(), decay=train.ema, foreach=True)
        self.ema.to(self.accelerator.device)
        self.step, self.seen, self.before = 0, 0, 0.0
        self.stop = False
        self._start(fresh)
        self.log = Log(self.output / "log.jsonl", self.step, self.main, quiet)

    # --- what lies in the output folder ---

    def _start(self, fresh: bool) -> None:
        if fresh and self.main:
            for name in ("checkpoints", "samples", self.task.name):
                shutil.rmtree(self.output / name, ignore_errors=True)
            (self.output / "log.jsonl").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        self.output.mkdir(parents=True, exist_ok=True)
        path = checkpoint.newest(self.output / "checkpoints")
        if path is None:
            return
        tensors, state = checkpoint.load(path)
        differing = difference(state["config"], self.config, FREE)
        if differing:
            raise InputError(
                f"{self.output} holds a run of another configuration: {differing}; choose another output, or --fresh"
            )
        checkpoint.unpack(tensors, self.net, self.ema.shadow_params, self.optimizer)
        self.step, self.seen, self.before = state["step"], state["seen"], state["seconds"]
        self.ema.optimization_step = self.step
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _save(self) -> None:
        if self.main:
            if not all(torch.isfinite(p).all() for p in self.net.parameters()):
                raise DivergedError(f"the weights are not finite after step {self.step}: lower lr; {self._kept()}")
            scaler = self.accelerator.scaler
            state = {
                "step": self.step,
                "seen": self.seen,
                "seconds": self.seconds(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "config": self.config,
            }
            tensors = checkpoint.pack(self.net, self.ema.shadow_params, self.optimizer)
            checkpoint.save(self.output / "checkpoints", self.step, tensors, state)
            self._export()
        self.accelerator.wait_for_everyone()

    def _export(self) -> None:
        folder, aside = self.output / self.task.name, self.output / f".tmp-{self.task.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        self.task.export(self._averaged(), aside, self.log.rows)
        checkpoint.replace(aside, folder)

    def _averaged(self) -> nn.Module:
        self.ema.copy_to(self.average.parameters())
        for mine, theirs in zip(self.average.buffers(), self.net.buffers(), strict=True):
            mine.copy_(theirs)
        return self.average

    def _kept(self) -> str:
        last = checkpoint.newest(self.output / "checkpoints")
        return f"the last checkpoint is {last}" if last else "there is no checkpoint yet"

    # --- time ---

    def seconds(self) -> float:
        """Seconds spent so far, over all resumes."""
        return self.before + time.monotonic() - self.began

    def progress(self, seconds: float) -> float:
        """Share of the training that is done, by steps or by time, whichever is further."""
        shares = [self.step / self.train.steps] if self.train.steps else []
        shares += [seconds / (60 * self.train.minutes)] if self.train.minutes else []
        return min(1.0, max(shares))

    # --- the loop ---

    def run(self) -> dict[str, Any]:
        """Train to the end, or on from the last checkpoint; gives back the last line of the log."""
        self.began = time.monotonic()
        with self.log, torch.random.fork_rng(devices=[]), interruptible(self):
            try:
                self._loop()
            except torch.OutOfMemoryError:
                raise OutOfMemory(
                    f"out of memory: lower train.batch or raise train.accumulate; {self._kept()}"
                ) from None
            self._report()
            self._validate()
            self._sample()
            self._save()
        return self.log.rows[-1] if self.log.rows else {}

    def _loop(self) -> None:
        self.clock, self.losses = self.before, []  # the same in every process
        save, sample, validate, log = (
            Due(every, self.clock)
            for every in (self.train.save_every, self.sample_every, self.every, self.train.log_every)
        )
        self.mark = (self.clock, self.seen)
        shape, batches = None, iter(())
        while (progress := self.progress(self.clock)) < 1:
            side, size = phase(self.train, self.crop, progress)
            if shape != (side, size):
                shape, batches = (side, size), self._batches(side, size)
            self.rate = learning_rate(self.train, self.step, progress)
            loss = self._step(next(batches), size)
            loss, stop, self.clock = self._agree(loss)
            if not math.isfinite(loss):
                raise DivergedError(f"the loss of step {self.step + 1} is {loss}: lower lr; {self._kept()}")
            self.step, self.seen = self.step + 1, self.seen + size
            self.losses.append(loss)
            self.log.tick(self.step, self.seen, loss, self.rate, self.progress(self.clock), self.clock)
            if stop or log(self.step, self.clock):
                self._report()
            begun = self.seconds()
            if validate(self.step, self.clock):
                self._validate()
            if sample(self.step, self.clock):
                self._sample()
            if stop or save(self.step, self.clock):
                self._save()
            if stop:
                raise KeyboardInterrupt
            self.mark = (self.mark[0] + self.seconds() - begun, self.mark[1])  # images/s are those of the training

    def _rows(self, micro: int, size: int) -> slice:
        workers, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = size // (self.train.accumulate * workers)
        begin = (micro * workers + rank) * rows
        return slice(begin, begin + rows)

    def _batches(self, side: int, size: int) -> Iterator[dict[str, Tensor]]:
        parts = self.train.accumulate * self.accelerator.num_processes
        if size % parts:
            raise InputError(f"the batch {size} does not divide into {parts} parts (accumulate x processes)")
        rows = [i for micro in range(self.train.accumulate) for i in range(size)[self._rows(micro, size)]]
        return iter(Loader(self.data, self.seen, size, side, rows, self.workers))

    def _step(self, batch: dict[str, Tensor], size: int) -> Tensor:
        """One optimiser step; the mean loss of this process's rows, a scalar tensor."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        torch.manual_seed((self.seed * 2**32 + self.step) % 2**63)  # for dropout
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        chunks = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
        chunks = {k: v.chunk(self.train.accumulate) for k, v in chunks.items()}
        for micro in range(self.train.accumulate):
            rng = Rows(self.seed, self.step, size, self._rows(micro, size), self.accelerator.device)
            with self.accelerator.accumulate(self.model):
                loss = self.task.loss(self.model, {k: v[micro] for k, v in chunks.items()}, rng).mean()
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and self.train.clip_grad:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.train.clip_grad)
                self.prepared.step()
                self.prepared.zero_grad()
            total += loss.detach() / self.train.accumulate
        self.ema.step(self.net.parameters())
        return total

    def _agree(self, loss: Tensor) -> tuple[float, bool, float]:
        """(mean loss, does anyone want to stop, the main process's clock), the same in every process."""
        told = torch.tensor([self.stop, self.seconds() if self.main else 0.0], device=loss.device)
        told = torch.cat([loss.float()[None], told.float()])
        if self.accelerator.num_processes > 1:
            told = self.accelerator.reduce(told, "sum")
            told[0] /= self.accelerator.num_processes
        loss, stop, clock = told.tolist()
        return loss, stop > 0, clock

    # --- reports ---

    def _row(self, numbers: dict[str, float]) -> None:
        self.log.write({"step": self.step, "crops": self.seen, "seconds": round(self.clock, 1), **numbers})

    def _report(self) -> None:
        if self.losses:
            loss, (then, seen) = sum(self.losses) / len(self.losses), self.mark
            speed = (self.seen - seen) / max(1e-9, self.clock - then)
            self._row({"lr": self.rate, "loss": loss, "images_s": round(speed, 2)})
            self.losses, self.mark = [], (self.clock, self.seen)

    def _validate(self) -> None:
        done = any(row["step"] == self.step for row in self.log.rows if "val_loss" in row)
        if self.main and self.every and self.step and not done:
            numbers = self.task.validate(self._averaged())
            if numbers:
                self._row(numbers)

    def _sample(self) -> None:
        if self.main and interval(self.sample_every) != (0, 0.0) and self.step:
            sheet = self.task.samples(self._averaged())
            if sheet is not None:
                (self.output / "samples").mkdir(exist_ok=True)
                aside = self.output / "samples" / ".tmp.png"
                Image.fromarray(sheet).save(aside)
                aside.rename(self.output / "samples" / f"{self.step:08d}.png")
