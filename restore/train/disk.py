"""Files and folders that stand whole or not at all, and what a disk refuses, in one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from restore.errors import WriteError
from restore.layout import replace


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """A full disk, a read-only folder and the like become a WriteError that names `target`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise WriteError(f"cannot write {target}: {reason}") from None


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path aside, for a file or a folder that takes the place of `target` when all of it is on the disk.

    Whatever goes wrong, `target` is as it was, and nothing is left aside. Raises WriteError."""
    aside = target.with_name(f".tmp-{target.name}")
    with writing(target):
        try:
            discard(aside)
            yield aside
            for file in aside.rglob("*") if aside.is_dir() else (aside,):
                if file.is_file():
                    with open(file, "rb+") as handle:
                        os.fsync(handle.fileno())
            if aside.is_dir():
                replace(aside, target)
            else:
                aside.replace(target)
        except BaseException:
            discard(aside)
            raise


def recover(folder: Path) -> None:
    """Undo what a kill left half done in `folder`: nothing stays aside, and what was to be replaced is back."""
    for old in folder.glob(".old-*"):
        target = folder / old.name.removeprefix(".old-")
        if target.exists():
            discard(old)
        else:
            old.rename(target)
    for aside in folder.glob(".tmp-*"):
        discard(aside)


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:  # it stands in the way of nothing that could be written
            return
