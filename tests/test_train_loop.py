"""The shared loop: resumption, kills, interruptions, divergence, processes."""

import dataclasses
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from diffusers.training_utils import EMAModel
from training import logged, noise_pictures, settings, state, train

from restore.errors import DivergedError, InputError
from restore.train import checkpoint
from restore.train.config import Decay, Phase, Train
from restore.train.data import Pictures
from restore.train.loop import Loop
from restore.train.plan import Due, Rows, learning_rate, phase
from restore.train.prior import PriorTask

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return noise_pictures(tmp_path_factory.mktemp("pictures"))


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


@pytest.mark.parametrize("workers", [0, 2])
def test_divergence_names_the_pictures_of_its_batch(tmp_path, monkeypatch, workers):
    folder, seen = noise_pictures(tmp_path / "pictures", 30), []
    plain = PriorTask.loss

    def diverging(self, model, batch, rng):
        assert "item" not in batch
        each = plain(self, model, batch, rng)
        seen.append(len(each))
        return torch.where(torch.arange(len(each)) == 9, torch.nan, each) if len(seen) == 3 else each

    monkeypatch.setattr(PriorTask, "loss", diverging)
    config = settings(folder, {"workers": workers}, batch=16)
    with pytest.raises(DivergedError) as caught:
        train(config, tmp_path / "out")
    pictures = Pictures(config.data, config.seed, quiet=True)
    numbers = [pictures[32 + row, 8]["item"] for row in range(16)]  # crops 32 to 47 are those of step 3
    names = list(dict.fromkeys(pictures.names([numbers[9], *numbers])))
    told = f"the loss of step 3 is nan on {', '.join(names[:8])} and {len(names) - 8} more: "
    assert len(names) > 8
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_divergence_on_pictures_without_names(folder, tmp_path):
    class Plain(torch.utils.data.Dataset):
        def __getitem__(self, index):
            n, side = index
            return {"image": torch.full((side, side, 3), n, dtype=torch.uint8)}

    config = dataclasses.replace(settings(folder, lr=1e30, clip_grad=0.0), output=str(tmp_path))
    task = PriorTask(config, Pictures(config.data, 0, quiet=True))
    with pytest.raises(DivergedError, match=r"^the loss of step \d+ is (nan|inf): lower lr"):
        Loop(task, Plain(), config, device="cpu", quiet=True).run()


def test_the_average_is_that_of_diffusers(folder, tmp_path, monkeypatch):
    plain = Loop._average

    def beside(self):
        self.theirs.step(self.net.parameters())
        plain(self)
        for mine, theirs in zip(self.ema.shadow_params, self.theirs.shadow_params, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-8)

    monkeypatch.setattr(Loop, "_average", beside)
    config = dataclasses.replace(settings(folder, ema=0.7), output=str(tmp_path))
    pictures = Pictures(config.data, 0, quiet=True)
    loop = Loop(PriorTask(config, pictures), pictures, config, device="cpu", quiet=True)
    loop.theirs = EMAModel(loop.net.parameters(), decay=0.7)
    loop.run()
    assert loop.theirs.optimization_step == loop.ema.optimization_step == 12


def test_later_the_average_is_renewed_every_fourth_step(folder, tmp_path):
    """By the decays of four steps: of weights that stand still it is what diffusers' average is, to rounding."""
    config = dataclasses.replace(settings(folder, ema=0.9), output=str(tmp_path))
    pictures = Pictures(config.data, 0, quiet=True)
    loop = Loop(PriorTask(config, pictures), pictures, config, device="cpu", quiet=True)
    theirs = EMAModel(loop.net.parameters(), decay=0.9)
    loop.ema.optimization_step = theirs.optimization_step = 98
    with torch.no_grad():
        for weight in loop.net.parameters():
            weight.add_(1)
    for step in range(99, 117):
        before = [average.clone() for average in loop.ema.shadow_params]
        loop._average()
        theirs.step(loop.net.parameters())
        moved = any(not torch.equal(*pair) for pair in zip(before, loop.ema.shadow_params, strict=True))
        assert moved == (step <= 100 or step % 4 == 0)
        if moved:
            for mine, other in zip(loop.ema.shadow_params, theirs.shadow_params, strict=True):
                assert torch.allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_what_is_frozen_stays_and_is_kept(folder, tmp_path):
    config = dataclasses.replace(settings(folder), output=str(tmp_path))

    def loop(steps):
        longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
        task = PriorTask(longer, Pictures(config.data, 0, quiet=True))
        task.net.conv_in.requires_grad_(False)
        return Loop(task, Pictures(config.data, 0, quiet=True), longer, device="cpu", quiet=True)

    first = loop(4)
    begin = {name: value.clone() for name, value in first.net.state_dict().items()}
    first.run()
    loop(8).run()
    kept = state(tmp_path)
    for name in begin:
        frozen = name.startswith("conv_in.")
        assert torch.equal(kept[f"net.{name}"], begin[name]) == frozen
        assert torch.equal(kept[f"ema.{name}"], begin[name]) == frozen
        assert (f"exp_avg.{name}" in kept) != frozen


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
from training import settings, train
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
