"""The server itself: listens, says where, and stops gracefully."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from types import FrameType

import uvicorn

from restore.errors import InputError
from restore.precision import pick_device, pick_dtype
from restore.serve.app import create_app
from restore.serve.engine import Engine
from restore.serve.memory import share
from restore.serve.settings import Settings

PATIENCE = 5.0, 2.0  # seconds for a job to notice that it has to stop, and for answers to go out; at a second signal


class Server(uvicorn.Server):
    """Refuses new jobs at the first signal, and leaves the one at work `grace` seconds."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace: float, hello: str | None) -> None:
        """hello: what to say when it serves, and can be stopped."""
        super().__init__(config)
        self.engine, self.grace, self.hello = engine, grace, hello

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.hello and self.started:
            print(self.hello, file=sys.stderr, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves it out then, and the page's folder would stay
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again, self.should_exit = self.should_exit, True
        threading.Thread(target=self._close, args=(again,), daemon=True).start()
        # and no signal is raised again: a server that was told to stop did well

    def _close(self, at_once: bool) -> None:
        self.engine.close(0.0 if at_once else self.grace)
        self.engine.join(PATIENCE[at_once])
        time.sleep(0.5 if at_once else PATIENCE[0])
        logging.getLogger("uvicorn.error").disabled = True  # it is no error that whoever still holds on is cut off,
        self.force_exit = True  # as an open page is


def serve(settings: Settings, *, quiet: bool = False) -> None:
    """Serve until a signal comes. Raises InputError where the address or a device cannot be had."""
    for name in settings.devices:
        pick_dtype(settings.dtype, pick_device(name))
    share()
    sock = _listen(settings.host, settings.port)
    host, port = sock.getsockname()[:2]
    app = create_app(settings)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=int(settings.grace) + 5,
        timeout_keep_alive=20, server_header=False, limit_concurrency=1000, h11_max_incomplete_event_size=2**16,
    )  # fmt: skip
    desk = app.state.desk
    shown, names = f"[{host}]" if ":" in host else host, ", ".join(desk.models.names())
    hello = f"restore: serving {names} at http://{shown}:{port} (stop with Ctrl-C)"
    server = Server(config, desk.engine, settings.grace, None if quiet else hello)
    server.run(sockets=[sock])
    desk.engine.close()
    desk.engine.join(0.0 if server.force_exit else 30)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InputError."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(kind, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(256)
        sock.setblocking(False)
        return sock
    except OSError as error:
        raise InputError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None
