"""What the training loop costs over the bare step of its network: images/s of both, side by side in one run.

python benchmarks/training.py PICTURES [--task prior|upscale] [--batch 8] [--crop 64] [--workers 2]
    [--channels 32 64 128 256] [--layers 2] [--precision bf16] [--device auto] [--blocks 6] [--steps 20]

PICTURES is a folder or a tar. The loop is that of `restore train`, whole: crops by the workers, noise, the network,
clipping, AdamW, the average of the weights, the log. The bare step is forward, backward, clipping and AdamW(fused) of a
copy of the same network in the same precision, on what the task gave to its network in the first step, again and again;
it has no data, no noise, no average (EMA) and no log. Blocks of both alternate. The first steps of each block are not
counted: in them workers fill their queues, or the loop empties what they had filled while the bare network ran.
"""

import argparse
import contextlib
import copy
import dataclasses
import platform
import statistics
import tempfile
import time

import torch

from restore.train.conditional import ConditionalTask
from restore.train.conditional_config import (
    Condition,
    ConditionalConfig,
    ConditionalData,
    ConditionalTrain,
    ConditionalValidate,
    PairedSource,
)
from restore.train.config import Data, PriorConfig, Source, Train, Validate
from restore.train.data import Pictures
from restore.train.loop import Loop
from restore.train.prior import PriorTask


class Finished(Exception):  # noqa: N818 - no error
    """All blocks are timed."""


def prior(args):
    """The task and the configuration of `restore train prior`."""
    config = PriorConfig(
        Data([Source(args.pictures)], crop=args.crop, workers=args.workers, shrink=(0.5, 1.0)),
        recipe(Train, args),
        network={"kind": "unet", "channels": args.channels, "layers": args.layers},
        validate=Validate(every=0),
    )
    return PriorTask, config


def upscale(args):
    """Those of `restore train conditional`, of photographs four times as large."""
    config = ConditionalConfig(
        ConditionalData([PairedSource(args.pictures)], crop=args.crop, workers=args.workers, shrink=(0.5, 1.0)),
        recipe(ConditionalTrain, args),
        condition=Condition(scale=4, residual=8.0),
        network={"kind": "unet", "channels": args.channels, "layers": args.layers},
        validate=ConditionalValidate(every=0),
    )
    return ConditionalTask, config


def recipe(kind, args):
    """A [train] section that never ends, saves or samples by itself."""
    settings = {"steps": 10**9, "batch": args.batch, "precision": args.precision, "save_every": 0, "sample_every": 0}
    return kind(**settings)


TASKS = {"prior": prior, "upscale": upscale}  # name -> what gives (task class, configuration) of the arguments


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


class Bare:
    """Forward, backward, clipping and optimiser step of a network on fixed inputs."""

    def __init__(self, net, calls, train, device):
        self.net, self.calls, self.train, self.device = copy.deepcopy(net).train(), calls, train, device
        self.net.forward = type(self.net).forward.__get__(self.net)  # without accelerate's autocast
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": None}[train.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=1e-6, betas=train.betas, weight_decay=train.weight_decay, fused=True
        )

    def step(self):
        for args, options in self.calls:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                out = self.net(*args, **options)
            out = out if torch.is_tensor(out) else out[0]
            self.scaler.scale(out.float().square().mean()).backward()
        if self.train.clip_grad:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.train.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


class Timed(Loop):
    """A loop that stops after each block to time one of the bare network."""

    def __init__(self, *args, skip, steps, blocks, **options):
        super().__init__(*args, **options)
        self.skip, self.steps, self.blocks = skip, steps, blocks
        self.times, self.bare, self.count = {"bare": [], "loop": []}, None, 0

    def _step(self, batch, size):
        if self.bare is None:
            self._record(batch, size)
        place = self.count % (self.skip + self.steps)
        if place == 0:
            if self.count:
                self._lap("loop")
            if len(self.times["loop"]) == self.blocks:
                raise Finished
            for number in range(self.skip + self.steps):
                if number == self.skip:
                    self._begin()
                self.bare.step()
            self._lap("bare")
        if place == self.skip:
            self._begin()
        self.count += 1
        return super()._step(batch, size)

    def _begin(self):
        synchronize(self.accelerator.device)
        self.since = time.perf_counter()

    def _lap(self, kind):
        synchronize(self.accelerator.device)
        self.times[kind].append(time.perf_counter() - self.since)

    def _record(self, batch, size):
        """What the task gives to its network."""
        calls, device = [], self.accelerator.device
        hook = self.net.register_forward_pre_hook(
            lambda _, args, options: calls.append(detached((args, options))), with_kwargs=True
        )
        state, rate = copy.deepcopy(self.net.state_dict()), self.rate
        super()._step(batch, size)
        hook.remove()
        self.net.load_state_dict(state)
        self.rate = rate
        self.bare = Bare(self.net, calls, self.train, device)


def detached(value):
    if torch.is_tensor(value):
        return value.detach().clone(memory_format=torch.preserve_format)
    if isinstance(value, tuple | list):
        return type(value)(detached(item) for item in value)
    return {key: detached(item) for key, item in value.items()} if isinstance(value, dict) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures")
    parser.add_argument("--task", choices=TASKS, default="prior")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--skip", type=int, default=8)
    args = parser.parse_args()
    kind, config = TASKS[args.task](args)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, output=folder)
        opened = getattr(kind, "Pictures", Pictures)
        pictures = opened.of(config, [".", "/"], False)
        task, counts = kind(config, pictures), {"skip": args.skip, "steps": args.steps, "blocks": args.blocks}
        loop = Timed(task, pictures, config, device=args.device, quiet=True, **counts)
        with contextlib.suppress(Finished):
            loop.run()
    cuda = loop.accelerator.device.type == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    millions = sum(p.numel() for p in loop.net.parameters()) / 1e6
    print(f"{args.task}: {millions:.1f} M parameters, batch {args.batch} of {args.crop} px, {config.train.precision}")
    print(f"{len(pictures.items)} pictures, {args.workers} workers; torch {torch.__version__}, {where}\n")
    print(f"{'block':>6}{'bare images/s':>16}{'loop images/s':>16}{'ratio':>9}")
    images = args.steps * args.batch
    pairs = list(zip(loop.times["bare"], loop.times["loop"], strict=True))
    for number, (bare, whole) in enumerate(pairs, 1):
        print(f"{number:6}{images / bare:16.1f}{images / whole:16.1f}{bare / whole:9.3f}")
    bare, whole = (sum(times) for times in zip(*pairs, strict=True))
    all_images = images * len(pairs)
    print(f"{'all':>6}{all_images / bare:16.1f}{all_images / whole:16.1f}{bare / whole:9.3f}")
    print(f"{'median':>6}{'':32}{statistics.median(bare / whole for bare, whole in pairs):9.3f}")


if __name__ == "__main__":
    main()
