"""Servers for tests, in this process and in one of their own, and pictures in base64 for them."""

import base64
import io
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from restore.serve.app import create_app
from restore.serve.settings import Settings

SIZE = (64, 48)  # width, height of the picture


def scene(width=SIZE[0], height=SIZE[1]):
    """(H,W,3) uint8: a smooth picture with some noise."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 9 + y / 7)], -1)
    return (smooth + np.random.default_rng(0).normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def hole(width=SIZE[0], height=SIZE[1]):
    """(H,W) uint8: 255 in a rectangle."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    return mask


def png(array, format="PNG", **options):
    """The bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format, **options)
    return file.getvalue()


def b64(array, format="PNG"):
    """Bare base64."""
    return base64.b64encode(png(array, format)).decode()


def uri(array):
    """A data: URI."""
    return f"data:image/png;base64,{b64(array)}"


def pixels(text):
    """(H,W,...) of a picture in bare base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))))


@contextmanager
def client(prior, **settings):
    """A client of an application in this process, which offers this prior first; `client.desk` is its inside."""
    settings = {"page": False, "devices": ("cpu",), "dtype": "float32", "max_seconds": 60, **settings}
    app = create_app(Settings(priors=(str(prior),), **settings))
    found = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    found.desk = app.state.desk
    try:
        yield found
    finally:
        found.desk.engine.close()
        found.desk.engine.join(20)


class Served:
    """A server in a process of its own: its address, the process, and what it said on standard error."""

    def __init__(self, process, url):
        self.process, self.url, self.said = process, url, []
        self.reader = threading.Thread(target=self.said.extend, args=(process.stderr,), daemon=True)
        self.reader.start()  # else the server would wait for somebody to read

    def stop(self, timeout=30):
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout)


@contextmanager
def served(prior, *arguments, page=False, cwd=None, **variables):
    """`restore serve` on a free port of loopback, with this prior first; `variables` of its environment."""
    command = [sys.executable, "-m", "restore.cli", "serve", "--port", "0", "--prior", str(prior), "--device", "cpu"]
    command += ["--dtype", "float32", *([] if page else ["--no-page"]), *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd)
    line = process.stderr.readline()
    while line and "http://" not in line:
        line = process.stderr.readline()
    if not line:
        raise AssertionError(f"the server did not start: exit code {process.wait()}")
    found = Served(process, line.split(" at ")[1].split()[0])
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        found.reader.join()
        process.stderr.close()
