"""What a server is told when it starts: where it listens, who may ask, what it offers, and its limits."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields

from restore.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Of one server; making one refuses, with InputError, what cannot be, or would not be safe."""

    host: str = "127.0.0.1"
    port: int = 7860  # 0: any that is free
    api_key: str | None = None  # required for any address but loopback; USER:PASSWORD for clients with basic auth
    origins: tuple[
        str, ...
    ] = ()  # of the pages that may ask from a browser (CORS), such as https://huchenlei.github.io
    priors: tuple[str, ...] = ()  # offered beside those that ship with the package or were downloaded by name
    devices: tuple[str, ...] = ("auto",)  # one worker each
    dtype: str = "auto"
    keep: int = 3  # priors that stay loaded on each device
    page: bool = True  # whether there is one at /
    max_body: int = 64 * 2**20  # bytes of a request
    max_pixels: int = 40_000_000  # of a picture sent, of one to be made, and of all answers to a request together
    max_queue: int = 16  # jobs that wait
    max_seconds: float = 900.0  # of a job at work
    max_steps: int = 1000
    max_samples: int = 16
    grace: float = 10.0  # seconds that a running job has left when the server stops

    def __post_init__(self) -> None:
        least = {
            "port": 0, "keep": 1, "max_body": 1024, "max_pixels": 64, "max_queue": 1, "max_seconds": 0.01,
            "max_steps": 1, "max_samples": 1, "grace": 0,
        }  # fmt: skip
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise InputError(f"{name} is {getattr(self, name)}: give at least {low}")
        if self.port > 65535:
            raise InputError(f"port is {self.port}: give at most 65535")
        if not self.devices:
            raise InputError("devices is empty: give auto, cpu or cuda:0 ...")
        for origin in self.origins:
            check_origin(origin)
        if self.api_key is not None and (not self.api_key.isascii() or len(self.api_key) < 8):
            raise InputError("the key is too easy to guess, or not ASCII: give 8 letters or more")
        if self.api_key is None and not is_loopback(self.host):
            raise InputError(f"{self.host} can be reached by others: give a key that they have to know (--api-key)")

    @property
    def limits(self) -> dict[str, float]:
        """For messages and the page about the server."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name.startswith("max_")}


def check_origin(origin: str) -> None:
    """Refuse what no browser sends as the origin of a page. Raises InputError."""
    if origin != "null" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]*", origin, re.ASCII):
        raise InputError(f"{origin!r} is no origin: give one such as https://huchenlei.github.io, without a path")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
