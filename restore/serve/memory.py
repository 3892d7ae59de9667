"""What glibc keeps of freed memory, given back: a server that idles is as small as it was. Elsewhere, nothing to do."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8  # of glibc's malloc.h


def trim() -> None:
    """Give the system back what was freed, by any thread."""
    _call("malloc_trim", 0)


def share() -> None:
    """Have threads to come share two heaps: else each has its own, with holes that another cannot use."""
    _call("mallopt", _M_ARENA_MAX, 2)


def _call(name: str, *values: int) -> None:
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)  # musl has neither
        if function is not None:
            function(*values)
