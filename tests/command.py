"""The command line run in this process, and the small pictures it is given."""

import os

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from restore.cli import app

HOLE = (slice(8, 18), slice(10, 22))
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def run(*args, data=b"", code=0):
    """Run in this process; the result has stdout_bytes, stdout and stderr. Fails on another exit code than `code`."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], input=data)
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    return result


def photo(path, size=(36, 28), mode="RGB", seed=1):
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    values = np.random.default_rng(seed).integers(60, 200, shape).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


def hole(path, size=(36, 28), where=HOLE):
    values = np.zeros(size[::-1], np.uint8)
    values[where] = 255
    Image.fromarray(values).save(path)
    return path


def pixels(path):
    return np.asarray(Image.open(path))


def snapshot(folder):
    return {path.relative_to(folder): path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
