"""The progress line on stderr and the log of a training, one JSON object a line."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from restore.train.board import Board
from restore.train.disk import whole, writing

MEASURES = {"psnr_": "PSNR (dB) of x0", "accuracy_": "accuracy"}  # of validations, by noise level


class Log:
    """log.jsonl and a progress line.

    step: where the run stands; rows of later steps, which a resumption will repeat, are dropped from the file.
    board: where the rows go, too. Raises WriteError.
    """

    def __init__(
        self, path: Path, step: int, main: bool = True, quiet: bool = False, board: Board | None = None
    ) -> None:
        self.path, self.main, self.quiet, self.board = path, main, quiet, board
        self.rows = [row for row in read(path) if row["step"] <= step]
        self.terminal = sys.stderr.isatty()
        self.smooth: float | None = None
        self.begun: tuple[float, int, float] | None = None  # clock, crops and progress at the first tick
        self.shown, self.width = 0.0, 0
        if main:
            with whole(path) as aside:
                aside.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def __enter__(self) -> Log:
        with writing(self.path):
            self.file = open(self.path, "a", encoding="utf-8") if self.main else None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.board:
            self.board.close()
        if self.file:
            with suppress(OSError):  # of a row that could not be written, which was told
                self.file.close()
            if self.width:
                print(file=sys.stderr)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; validation rows are also told on stderr."""
        self.rows.append(row)
        if self.file:
            with writing(self.path):
                self.file.write(json.dumps(row) + "\n")
                self.file.flush()
        if self.board:
            self.board.row(row)
        for prefix, name in MEASURES.items():
            found = "  ".join(f"{key.removeprefix(prefix)}: {row[key]:.2f}" for key in row if key.startswith(prefix))
            if found:
                self._say(f"step {row['step']}: held-out {name} at sigma {found}")
        others = {key.removeprefix("val_"): row[key] for key in row if key.startswith("val_") and key != "val_loss"}
        if others:
            found = "  ".join(f"{key}: {value:.4g}" for key, value in others.items())
            self._say(f"step {row['step']}: held-out {found}{', the best so far' if row.get('best') else ''}")

    def tick(self, step: int, crops: int, loss: float, rate: float, progress: float, clock: float) -> None:
        """Once a step: renew the line, ten times a second on a terminal, else once a minute."""
        self.smooth = loss if self.smooth is None else 0.98 * self.smooth + 0.02 * loss
        self.begun = self.begun or (clock, crops, progress)
        now = time.monotonic()
        if now - self.shown < (0.1 if self.terminal else 60):
            return
        self.shown = now
        spent, done, share = (b - a for a, b in zip(self.begun, (clock, crops, progress), strict=True))
        speed = f"{done / spent:.1f} images/s" if spent > 0 else "- images/s"
        left = f"{duration(spent / share * (1 - progress))} left" if share > 0 else "- left"
        self._say(f"step {step}  {progress:4.0%}  loss {self.smooth:.4f}  {speed}  lr {rate:.1e}  {left}", line=True)

    def _say(self, text: str, line: bool = False) -> None:
        if self.quiet or not self.main:
            return
        if self.terminal:
            print("\r" + text.ljust(self.width), end="" if line else "\n", file=sys.stderr, flush=True)
            self.width = len(text) if line else 0
        else:
            print(text, file=sys.stderr, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a log; none where there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the line that a kill cut off
    return rows


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
