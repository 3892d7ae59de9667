"""The priors that a server offers, by name: loaded when first asked for, and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from restore.errors import InputError
from restore.load import bundled, describe, load_prior
from restore.prior import Prior
from restore.serve.engine import device
from restore.shelf import where
from restore.zoo import TABLE

UNCONDITIONAL = ("inpaint", "upscale", "deblur", "denoise", "colorize", "edit", "refine", "generate")


class Models:
    """Names -> priors. A request chooses among these names: nothing else is ever looked for on the disk."""

    def __init__(self, extra: Sequence[str] = (), dtype: str = "auto", keep: int = 3) -> None:
        """extra: names, folders, files and ids that the server's owner offers; the first is what is taken where nobody
        says. Raises PriorError and InputError for what is not there."""
        self.dtype, self.keep = dtype, keep
        self._facts: dict[str, dict[str, Any]] = {}
        here = [entry.name for entry in TABLE if entry.kind == "prior" and where(entry) is not None]
        for source in [*extra, *sorted(bundled(), key=lambda name: name != "photo"), *here]:
            facts = describe(source)
            name = Path(str(facts["name"]).rstrip("/")).name if Path(source).exists() else str(source)
            self._facts.setdefault(name, {**facts, "name": name, "source": source})
        self._kept: OrderedDict[tuple[str, str], Prior] = OrderedDict()
        self._lock = threading.Lock()

    def names(self, task: str | None = None) -> list[str]:
        """Those that are offered, or that can do a task, the default first."""
        return [name for name in self._facts if task is None or task in self.tasks(name)]

    def tasks(self, name: str) -> tuple[str, ...]:
        """What a prior can do."""
        told = self.facts(name).get("restores")
        return tuple(told.split(", ")) if told else UNCONDITIONAL

    def default(self, task: str) -> str:
        """The prior of a task where nobody says which. Raises InputError where there is none."""
        able = self.names(task)
        if not able:
            raise InputError(f"no prior here can {task}")
        return able[0]

    def facts(self, name: str) -> dict[str, Any]:
        """What `restore.load.describe` says of it. Raises InputError for a name that is not offered."""
        if name not in self._facts:
            raise InputError(f"no prior {name[:80]!r} is offered here: choose one of {', '.join(self._facts)}")
        return self._facts[name]

    def get(self, name: str) -> Prior:
        """The prior, on the device of the worker that asks; the one that was not used for longest makes room."""
        facts, key = self.facts(name), (name, device())
        with self._lock:
            if key not in self._kept:
                own = [kept for kept in self._kept if kept[1] == key[1]]
                for old in own[: max(0, len(own) - self.keep + 1)]:
                    del self._kept[old]
                self._kept[key] = load_prior(facts["source"], device=key[1], dtype=self.dtype)
            self._kept.move_to_end(key)
            return self._kept[key]

    def drop(self) -> None:
        """Forget all that is loaded."""
        with self._lock:
            self._kept.clear()
