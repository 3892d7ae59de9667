"""What a disk refuses: one line, exit code 2, and nothing lost of what was there."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image
from training import logged, noise_pictures, settings, state, train

from restore import load_prior
from restore.errors import InputError, WriteError
from restore.layout import replace
from restore.train import checkpoint, toml
from restore.train.disk import recover, whole

# restore train, with every file limited to so many bytes from a moment on: the kernel then fails as on a full disk.
LIMITED = """
import resource, sys
from restore.cli import app
from restore.train import checkpoint, export, log
kind, limit = sys.argv[1], int(sys.argv[2])

def limited(module, name):
    plain = getattr(module, name)
    def call(*args, **options):
        if kind == name and {when}:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return plain(*args, **options)
    setattr(module, name, call)

limited(checkpoint, "save")
limited(export, "prior")
limited(log.Log, "write")
app(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return noise_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    train(settings(folder), output)
    return state(output)


def command(folder, output, kind, limit, when):
    """`restore train prior` in a process whose disk is full when `kind` is called and `when` holds."""
    config = output.parent / "config.toml"
    config.write_text(toml.write(dataclasses.asdict(settings(folder))))
    line = [sys.executable, "-c", LIMITED.replace("{when}", when), kind, str(limit), "train", "prior", str(config)]
    return subprocess.run(
        [*line, "-o", str(output), "--device", "cpu", "-q"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def leftovers(output):
    return [p.name for p in output.rglob(".*")]


@pytest.mark.parametrize(
    ("kind", "when", "limit", "what"),
    [
        ("save", "args[1] == 10", 20_000, "checkpoints/step-00000010"),  # the tensors do not fit
        ("save", "args[1] == 10", 0, "checkpoints/step-00000010"),
        ("prior", "(args[0].parent / 'checkpoints' / 'step-00000010').exists()", 20_000, "prior"),
        ("write", "args[1]['step'] == 8", 700, "log.jsonl"),
    ],
)
def test_a_full_disk_is_one_line_and_loses_nothing(folder, undisturbed, tmp_path, kind, when, limit, what):
    output = tmp_path / "run"
    told = command(folder, output, kind, limit, when)
    step = 10 if kind == "prior" else 5
    last = output / "checkpoints" / f"step-{step:08d}"
    assert told.returncode == 2, told.stderr
    words, reason, kept = (re.escape(str(part)) for part in (output / what, "File too large", last))
    line = f"restore: error: cannot write {words}: .*{reason}.*; the last checkpoint is {kept}\n"
    assert re.fullmatch(line, told.stderr), told.stderr
    assert not leftovers(output)
    assert checkpoint.newest(output / "checkpoints") == last
    assert load_prior(str(output / "prior"), device="cpu").net is not None  # of step 5, whole
    train(settings(folder), output)
    assert [row["step"] for row in logged(output)] == list(range(1, 13))
    resumed = state(output)
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)


def test_a_folder_that_cannot_be_written_is_an_input_error(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(WriteError, match=r"^cannot write .*file/run: Not a directory$"):
        train(settings(folder), tmp_path / "file" / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    with pytest.raises(WriteError, match=r"^cannot write .*run/checkpoints: File exists; there is no checkpoint yet$"):
        train(settings(folder, steps=2), tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").unlink()
    (tmp_path / "run" / "log.jsonl").mkdir()
    with pytest.raises(WriteError, match=r"^cannot write .*run/log.jsonl: "):
        train(settings(folder, steps=2), tmp_path / "run")
    assert issubclass(WriteError, InputError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_input_error(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o500)
    with pytest.raises(WriteError, match="Permission denied"):
        train(settings(folder), tmp_path / "run")


def test_a_read_only_file_system_is_an_input_error(folder, tmp_path, monkeypatch):
    def refuse(self, *args, **options):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(WriteError, match=r"^cannot write .*log.jsonl: Read-only file system$"):
        train(settings(folder), tmp_path)


def test_a_sheet_of_samples_stands_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    def torn(self, path, *args, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", torn)
    with pytest.raises(WriteError, match=r"cannot write .*samples/00000001.png: No space left on device"):
        train(settings(folder, sample_every=1), tmp_path)
    assert list((tmp_path / "samples").iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize(
    ("raised", "seen"),
    [(OSError(28, "No space left on device"), WriteError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_whole_replaces_or_leaves_alone(tmp_path, folder, raised, seen):
    target = tmp_path / "target"

    def write(words, error=None):
        with whole(target) as aside:
            if folder:
                aside.mkdir()
            (aside / "inside" if folder else aside).write_text(words)
            if error:
                raise error

    write("one")
    write("two")
    with pytest.raises(seen):
        write("three", raised)
    assert (target / "inside" if folder else target).read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_what_a_kill_left_is_put_right(tmp_path):
    for name in (".old-prior", ".old-best", "best", ".tmp-prior"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    recover(tmp_path)
    assert {p.name: (p / "a").read_text() for p in tmp_path.iterdir()} == {"prior": ".old-prior", "best": "best"}
    (tmp_path / "new").mkdir()
    replace(tmp_path / "new", tmp_path / "prior")
    assert not (tmp_path / "prior" / "a").exists()
