"""The command line out of memory, interrupted, and on a terminal."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest
import torch
from command import ENV, hole, photo, pixels, snapshot

from restore.prior import Prior

# ---------------------------------------------------------------- memory


def hungry(monkeypatch, limit, error=torch.OutOfMemoryError, text="out of memory"):
    """Networks that fail on more than limit x limit pixels; the sizes that were asked, in turn."""
    asked, ask = [], Prior.__call__

    def call(self, x, level):
        asked.append(tuple(x.shape[-2:]))
        if x.shape[-2] * x.shape[-1] > limit**2:
            raise error(text)
        return ask(self, x, level)

    monkeypatch.setattr(Prior, "__call__", call)
    return asked


def test_out_of_memory_goes_on_with_smaller_tiles(desk, monkeypatch):
    photo(desk.here / "large.png", (400, 300))
    hole(desk.here / "wide.png", (400, 300), (slice(40, 250), slice(40, 350)))
    asked = hungry(monkeypatch, 160)
    result = desk.inpaint(desk.here / "large.png", "-m", desk.here / "wide.png", "--json")
    assert "restore: note: out of memory: going on with tiles of 128 pixels" in result.stderr
    assert max(asked[2:]) <= (128, 128)
    assert json.loads(result.stdout)["calls"] == 2
    before, after = pixels(desk.here / "large.png"), pixels(desk.here / "large-inpaint.png")
    inside = pixels(desk.here / "wide.png") > 0
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).mean() > 0.9


@pytest.mark.parametrize(("limit", "size"), [(1, (36, 28)), (60, (400, 300))])
def test_out_of_memory_at_the_smallest_tile(desk, monkeypatch, limit, size):
    photo(desk.here / "p.png", size)
    hole(desk.here / "m.png", size)
    hungry(monkeypatch, limit)
    before = snapshot(desk.here)
    result = desk.inpaint(desk.here / "p.png", "-m", desk.here / "m.png", code=5)
    assert result.stderr.splitlines()[-1].startswith("restore: error: out of memory")
    assert snapshot(desk.here) == before


# ---------------------------------------------------------------- interruption and terminals


def started(*args, **options):
    return subprocess.Popen([sys.executable, "-m", "restore.cli", *map(str, args)], env=ENV, **options)


def test_interruption_keeps_what_is_finished(desk, tiny_folder):
    """The first picture has an empty mask and is done at once; the second would take minutes."""
    shots, masks, out = desk.here / "shots", desk.here / "masks", desk.here / "out"
    shots.mkdir()
    masks.mkdir()
    photo(shots / "a.png")
    hole(masks / "a.png", where=(slice(0), slice(0)))
    photo(shots / "b.png", (256, 256))
    hole(masks / "b.png", (256, 256), (slice(10, 240), slice(10, 240)))
    args = ["inpaint", shots, "-m", masks, "-o", out, "--prior", tiny_folder, "--steps", 20000]
    process = started(*args, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "a.png").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1].startswith("restore: error: interrupted")
    assert "Traceback" not in stderr
    assert not stdout
    assert os.listdir(out) == ["a.png"]
    assert (pixels(out / "a.png") == pixels(shots / "a.png")).all()


def test_progress_on_a_terminal(desk, tiny_folder):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    args = ["inpaint", desk.photo, "-m", desk.mask, "--prior", tiny_folder, "--steps", 60, "--method", "ddrm"]
    process = started(*args, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    seen, deadline = b"", time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if select.select([leader], [], [], 0.2)[0]:
                try:
                    seen += os.read(leader, 4096)
                except OSError:  # the other side was closed
                    break
            elif process.poll() is not None:
                break
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(leader)
    text = seen.decode()
    assert re.search(r"photo\.png: +\d+%\|.*/60 calls, \d\d:\d\d gone, (\d\d:\d\d|\?) left", text), text
    assert "photo-inpaint.png: 60 calls" in text
    assert not process.stdout.read()
