"""The loop that every trainer shares: devices, learning rate, averages, checkpoints, logs and samples.

What is trained is a `Task`; where its crops come from is any dataset indexed by (number, side).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn

from restore.errors import DivergedError, InputError
from restore.layout import replace
from restore.train import checkpoint
from restore.train.board import Board, writer
from restore.train.config import FREE, Config, interval
from restore.train.data import Loader
from restore.train.disk import discard, recover, whole, writing
from restore.train.log import Log
from restore.train.plan import Due, Rows, check_batches, learning_rate, phase
from restore.train.runtime import accelerator, count_damaged, culprits, ease, interruptible, reported
from restore.train.task import Task
from restore.train.toml import completed, difference

EARLY, EVERY = 100, 4  # the average of the weights is renewed at each of the first steps, then at every fourth


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
        self.kind = type(config)
        self.output, self.crop, self.seed = Path(config.output), config.data.crop, config.seed
        self.workers, self.every = config.data.workers, config.validate.every
        self.sample_every = getattr(config.train, "sample_every", 0)  # where there is something to see
        self.shards, self.best = config.data.shards, getattr(task, "best", None)
        train = config.train
        if train.tensorboard:
            writer()
        self.accelerator = accelerator(train, device, getattr(task, "partial", False))
        self.main = self.accelerator.is_main_process
        check_batches(train, self.shards, self.accelerator.num_processes)
        self.net = task.net.to(memory_format=torch.channels_last) if train.channels_last else task.net
        fused = self.accelerator.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=fused
        )
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False).to(self.accelerator.device)
        ease(self.net, train)
        self.model, self.prepared = self.accelerator.prepare(self.net, self.optimizer)
        self.ema = EMAModel(self.net.parameters(), decay=train.ema, foreach=True)
        self.ema.to(self.accelerator.device)
        self.step, self.seen, self.before = 0, 0, 0.0
        self.stop = False
        self.each: list[Tensor] = []  # the last step's losses of this process's rows
        self._start(fresh)
        self.board = Board(self.output / "tensorboard", self.step) if train.tensorboard and self.main else None
        self.sampled = self.step  # of what step the last sheet is
        self.log = Log(self.output / "log.jsonl", self.step, self.main, quiet, self.board)

    # --- what lies in the output folder ---

    def _start(self, fresh: bool) -> None:
        if self.main:
            with writing(self.output):
                self.output.mkdir(parents=True, exist_ok=True)
                recover(self.output)
            for name in ("checkpoints", "samples", "tensorboard", "best", self.task.name, "log.jsonl") if fresh else ():
                discard(self.output / name)
        self.accelerator.wait_for_everyone()
        self._resume()
        for aside in sorted(self.output.glob(".best-*")) if self.main else ():
            if int(aside.name.removeprefix(".best-")) > self.step:
                discard(aside)  # of steps that are repeated
                continue
            with writing(self.output / "best"):
                replace(aside, self.output / "best")

    def _resume(self) -> None:
        path = checkpoint.newest(self.output / "checkpoints")
        if path is None:
            return
        tensors, state = checkpoint.load(path)
        differing = difference(completed(state["config"], self.kind), self.config, FREE)
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
        if not all(torch.isfinite(p).all() for p in self.net.parameters()):
            raise DivergedError(f"the weights are not finite after step {self.step}: lower lr; {self._kept()}")
        if self.main:
            self._checkpoint()
            self._export(self.task.name, self.log.rows)
        self.accelerator.wait_for_everyone()

    def _checkpoint(self) -> None:
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

    def _export(self, name: str, history: list[dict[str, Any]]) -> None:
        with whole(self.output / name) as aside:
            aside.mkdir()
            self.task.export(self._averaged(), aside, history)

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
        with self.log, torch.random.fork_rng(devices=[]), interruptible(self), reported(self._kept):
            self._loop()
            self._report()
            self._validate()
            self._sample()
            self._save()
            count_damaged(self.accelerator, self.data)
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
            self.task.progress = progress
            self.rate = learning_rate(self.train, self.step, progress)
            batch = next(batches)
            loss = self._step(batch, size)
            loss, stop, self.clock = self._agree(loss)
            if not math.isfinite(loss):
                step, files = self.step + 1, culprits(self.accelerator, self.data, batch, self.each)
                raise DivergedError(f"the loss of step {step} is {loss}{files}: lower lr; {self._kept()}")
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
        rows = [i for micro in range(self.train.accumulate) for i in range(size)[self._rows(micro, size)]]
        part = size // self.train.accumulate
        shards = [i % part * self.shards // part for i in rows] if self.shards > 1 else None
        return iter(Loader(self.data, self.seen, size, side, rows, self.workers, shards))

    def _step(self, batch: dict[str, Tensor], size: int) -> Tensor:
        """One optimiser step; the mean loss of this process's rows, a scalar tensor."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        torch.manual_seed(int(np.random.SeedSequence((self.seed, self.step, 1)).generate_state(1)[0]))  # for dropout
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        chunks = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items() if k != "item"}
        chunks = {k: v.chunk(self.train.accumulate) for k, v in chunks.items()}
        self.each = []
        for micro in range(self.train.accumulate):
            rng = Rows(self.seed, self.step, size, self._rows(micro, size), self.accelerator.device)
            with self.accelerator.accumulate(self.model):
                each = self.task.loss(self.model, {k: v[micro] for k, v in chunks.items()}, rng)
                loss = each.mean()
                self.each.append(each.detach())
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and self.train.clip_grad:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.train.clip_grad)
                self.prepared.step()
                self.prepared.zero_grad()
            total += loss.detach() / self.train.accumulate
        self._average()
        return total

    @torch.no_grad()
    def _average(self) -> None:
        """EMAModel.step in one pass over the memory: a third of its time. What is frozen is copied, as there.

        After the first steps it is done every fourth time alone, with the decays of all four: the average then is of
        every fourth step's weights, which are nearly those of the others, at a quarter of the cost."""
        self.ema.optimization_step += 1
        step, count = self.ema.optimization_step, 1
        if step > EARLY:
            if step % EVERY:
                return
            count = EVERY
        decay = math.prod(self.ema.get_decay(step - i) for i in range(count))
        pairs = list(zip(self.ema.shadow_params, self.net.parameters(), strict=True))
        learning = [pair for pair in pairs if pair[1].requires_grad]
        torch._foreach_lerp_(*map(list, zip(*learning, strict=True)), 1 - decay)
        for average, weight in pairs:
            if not weight.requires_grad:
                average.copy_(weight)

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
        self.log.write(self._numbered(numbers))

    def _numbered(self, numbers: dict[str, float]) -> dict[str, Any]:
        return {"step": self.step, "crops": self.seen, "seconds": round(self.clock, 1), **numbers}

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
            so_far = max((row[self.best] for row in self.log.rows if row.get("best")), default=-math.inf)
            if numbers and numbers.get(self.best, -math.inf) > so_far:
                self._keep(numbers)
            elif numbers:
                self._row(numbers)

    def _keep(self, numbers: dict[str, float]) -> None:
        """The best so far: export it, and write a checkpoint, without which a resumption would not know of it."""
        aside = self.output / f".best-{self.step:08d}"
        self._export(aside.name, [*self.log.rows, self._numbered(numbers)])
        self._row({**numbers, "best": True})
        self._checkpoint()
        with writing(self.output / "best"):
            replace(aside, self.output / "best")

    def _sample(self) -> None:
        path, again = self.output / "samples" / f"{self.step:08d}.png", self.sampled == self.step
        if self.main and interval(self.sample_every) != (0, 0.0) and self.step and not (again and path.exists()):
            sheet, self.sampled = self.task.samples(self._averaged()), self.step
            if sheet is not None:
                with writing(path):
                    path.parent.mkdir(exist_ok=True)
                with whole(path) as aside:
                    Image.fromarray(sheet).save(aside)
                if self.board:
                    self.board.picture(sheet, self.step)
