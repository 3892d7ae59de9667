"""Trainings of a few CPU seconds, and what they leave behind."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from restore.train import checkpoint, toml
from restore.train.config import Data, PriorConfig, Source, Train, Validate
from restore.train.prior import train_prior

NETWORK = {"kind": "unet", "channels": [8, 16], "layers": 1}


def noise_pictures(folder, count=6):
    """`folder` with pictures 0.png, 1.png ... of noise, 20 x 24."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def settings(folder, data=None, validate=None, **train):
    """A configuration of a few CPU seconds on the pictures of `folder`."""
    keys = {"steps": 12, "batch": 4, "precision": "no", "warmup": 3, "log_every": 1, "save_every": 5, "sample_every": 0}
    return PriorConfig(
        Data([Source(str(folder))], **{"crop": 8, "holdout": 0.3} | (data or {})),
        Train(**keys | train),
        network=dict(NETWORK),
        validate=Validate(**{"every": 0, "size": 16} | (validate or {})),
    )


def train(config, output, **options):
    return train_prior(config, output=output, device="cpu", quiet=True, **options)


def state(output):
    return load_file(checkpoint.newest(output / "checkpoints") / "state.safetensors")


def logged(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def losses(output):
    return [row["loss"] for row in logged(output) if "loss" in row]


def launched(output, config, kind="prior", processes=2):
    """The command of the documentation: `accelerate launch` of `restore train KIND`, on the CPU."""
    path = output.parent / f"{output.name}.toml"
    path.write_text(toml.write(dataclasses.asdict(config)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tool = shutil.which("accelerate", path=os.path.dirname(sys.executable))
    line = [tool, "launch", "--cpu", "--num_processes", str(processes), "--main_process_port", port]
    line += ["-m", "restore.cli", "train", kind, str(path), "-o", str(output), "--json"]
    return subprocess.run(line, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"})
