"""The shared loop: resumption, kills, interruptions, divergence, processes."""

import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from restore.errors import DivergedError, InputError
from restore.train import checkpoint
from restore.train.config import Data, Decay, Phase, PriorConfig, Source, Train, Validate
from restore.train.loop import Loop
from restore.train.plan import Due, Rows, learning_rate, phase
from restore.train.prior import train_prior

CPU = torch.device("cpu")
NETWORK = {"kind": "unet", "channels": [8, 16], "layers": 1}


def settings(folder, **train):
    """A configuration of a few CPU seconds on the pictures of `folder`."""
    keys = {"steps": 12, "batch": 4, "precision": "no", "warmup": 3, "log_every": 1, "save_every": 5, "sample_every": 0}
    return PriorConfig(
        Data([Source(str(folder))], crop=8, holdout=0.3),
        Train(**keys | train),
        network=NETWORK,
        validate=Validate(every=0, size=16),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def train(config, output, **options):
    return train_prior(config, output=output, device="cpu", quiet=True, **options)


def state(output):
    return load_file(checkpoint.newest(output / "checkpoints") / "state.safetensors")


def logged(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(step): the next run gets a SIGINT in the middle of that step."""

    def at(step):
        plain = Loop._step

        def interrupted(self, batch, size):
            if self.step == step - 1:
                monkeypatch.setattr(Loop, "_step", plain)
                os.kill(os.getpid(), signal.SIGINT)
            return plain(self, batch, size)

        monkeypatch.setattr(Loop, "_step", interrupted)

    return at


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "channels_last": False}])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(folder, tmp_path, interrupt, options):
    options |= {"phases": [Phase(0.5, crop=16, batch=2)]}
    train(settings(folder, **options), tmp_path / "whole")
    interrupt(7)
    with pytest.raises(KeyboardInterrupt):
        train(settings(folder, **options), tmp_path / "halves")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(logged(tmp_path / "halves")) == 7
    train(settings(folder, **options), tmp_path / "halves")
    whole, halves = state(tmp_path / "whole"), state(tmp_path / "halves")
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    rows = logged(tmp_path / "halves")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["loss"] for row in rows] == [row["loss"] for row in logged(tmp_path / "whole")]


def test_accumulation_changes_memory_not_results(folder, tmp_path):
    train(settings(folder), tmp_path / "a")
    train(settings(folder, accumulate=4), tmp_path / "b")
    for a, b in zip(logged(tmp_path / "a"), logged(tmp_path / "b"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    with pytest.raises(InputError, match="does not divide"):
        train(settings(folder, accumulate=3), tmp_path / "c")


def test_a_log_drops_what_a_resumption_repeats(folder, tmp_path):
    train(settings(folder), tmp_path)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 99, "loss": 1}\n{"step": 1')
    (tmp_path / "checkpoints" / ".tmp-00000099").mkdir()
    train(settings(folder, steps=14), tmp_path)
    assert [row["step"] for row in logged(tmp_path)] == list(range(1, 15))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000014"]


def test_another_configuration_is_refused_and_fresh_starts_anew(folder, tmp_path):
    train(settings(folder), tmp_path)
    with pytest.raises(InputError, match=r"train\.lr \(0\.001 there, 0\.01 here\)"):
        train(settings(folder, lr=0.01), tmp_path)
    train(settings(folder, lr=0.01, steps=2), tmp_path, fresh=True)
    assert [row["step"] for row in logged(tmp_path)] == [1, 2]


def test_divergence_names_the_step_and_keeps_the_checkpoint(folder, tmp_path, monkeypatch):
    plain = Loop._step

    def diverging(self, batch, size):
        loss = plain(self, batch, size)
        return loss * float("nan") if self.step == 7 else loss

    monkeypatch.setattr(Loop, "_step", diverging)
    with pytest.raises(DivergedError, match=r"step 8 .*step-00000005"):
        train(settings(folder), tmp_path)
    assert (tmp_path / "prior" / "model_index.json").is_file()


def test_a_damaged_checkpoint_is_an_input_error(folder, tmp_path):
    train(settings(folder, steps=2), tmp_path)
    (checkpoint.newest(tmp_path / "checkpoints") / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="damaged"):
        train(settings(folder), tmp_path)


def _save_for_ever(folder):
    for step in range(1, 10**6):
        checkpoint.save(folder, step, {"a": torch.full((300_000,), float(step))}, {"step": step})


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    for pause in (0.0, 0.004, 0.011, 0.017, 0.023, 0.05):
        child = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(tmp_path,))
        child.start()
        while checkpoint.newest(tmp_path) is None:
            time.sleep(0.001)
        time.sleep(pause)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        tensors, told = checkpoint.load(checkpoint.newest(tmp_path))
        assert (tensors["a"] == told["step"]).all()


def test_minutes_end_a_run_with_a_decayed_rate(folder, tmp_path):
    config = settings(folder, steps=None, minutes=1.0 / 60, decay=Decay(start=0.0))
    report = train(config, tmp_path)
    assert 1.0 <= report["seconds"] < 30
    rates = [row["lr"] for row in logged(tmp_path)]
    assert rates[-1] < 0.5 * max(rates)
    step = report["step"]
    assert train(config, tmp_path)["step"] == step  # its time is over
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, minutes=1.5 / 60))
    assert train(longer, tmp_path)["step"] > step


def test_learning_rate_and_phases():
    plan = Train(
        steps=10, lr=1.0, warmup=4, decay=Decay(start=0.5, end=0.1), phases=[Phase(0.5, crop=32), Phase(0.8, 16)]
    )
    assert [learning_rate(plan, step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(plan, 9, 0.75) == pytest.approx(0.55)
    assert learning_rate(plan, 9, 1.0) == pytest.approx(0.1)
    assert [phase(plan, 64, share) for share in (0.0, 0.5, 0.9)] == [(64, 8), (32, 8), (16, 8)]


def test_due():
    every = Due(3, 0.0)
    assert [step for step in range(1, 10) if every(step, 0.0)] == [3, 6, 9]
    timed = Due("10 s", 0.0)
    assert [second for second in range(1, 40) if timed(1, second)] == [10, 20, 30]
    assert not Due(0, 0.0)(3, 1e9)


def test_rows_of_any_split_are_the_same_numbers():
    whole = Rows(3, 5, 8, slice(None), CPU)
    parts = [Rows(3, 5, 8, slice(i, i + 2), CPU) for i in range(0, 8, 2)]
    for draw in (lambda r: r.normal(2, 3), lambda r: r.uniform(), lambda r: r.stratified()):
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parts]))
    u = Rows(3, 6, 8, slice(None), CPU).stratified()
    assert torch.equal((u * 8).floor(), torch.arange(8.0))


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_train_loop import settings, train
train(settings(Path({folder!r}), steps=4), Path({output!r}))
"""


@pytest.mark.slow
def test_two_processes_learn_the_same_as_one(folder, tmp_path):
    train(settings(folder, steps=4), tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    script = SCRIPT.format(tests=os.path.dirname(__file__), folder=str(folder), output=str(tmp_path / "two"))
    children = [
        subprocess.Popen([sys.executable, "-c", script], env=os.environ | shared | {"RANK": r, "LOCAL_RANK": r})
        for r in "01"
    ]
    assert [child.wait(timeout=300) for child in children] == [0, 0]
    for a, b in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one if key.startswith(("net.", "ema.")))
