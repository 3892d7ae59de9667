"""Who may ask, and how much at once: checked before a request reaches any protocol."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from restore.serve.engine import Engine
from restore.serve.errors import failure
from restore.serve.settings import Settings, is_loopback

UPLOAD_SECONDS = 120.0  # for all of a body
JOBS = (
    "/sdapi/v1/img2img", "/sdapi/v1/txt2img", "/sdapi/v1/extra-", "/sdapi/v1/png-info", "/api/v1/inpaint",
    "/v1/images/",
)  # fmt: skip
LARGE = (*JOBS, "/sdapi/v1/interrogate", "/gradio_api/upload")  # where pictures are sent
SMALL = 2**20  # bytes of any other body
MOST_PARTS = 250_000  # of a JSON body: each takes far more memory than bytes


class Origins:
    """Refuses pages of other sites, which a browser would let ask a server on loopback for whoever visits them.

    Those named in the settings may; CORSMiddleware tells their browser so. Without a key the server also answers to its
    own names alone: a site could have its name point here."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            return await self.app(scope, receive, send)
        return await _refuse(scope, receive, send, 403, problem)

    def _problem(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        name = _name(host)
        if self.settings.api_key is None and not (is_loopback(name) or name == self.settings.host):
            return "without a key this server answers to requests for localhost alone: start it with --api-key"
        origin = headers.get("origin")
        own = (f"http://{host}", f"https://{host}")
        plugin = origin is not None and origin.startswith("uxp://")  # of Photoshop's: no page of the web has such a one
        if origin is not None and not plugin and origin not in (*self.settings.origins, *own):
            return f"pages of {origin[:80]} may not ask: start the server with --cors-origin {origin[:80]}"
        return None


def _name(host: str) -> str:
    """What a Host header names, without the port; nothing where it cannot be one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # such as [::
        return ""


class Keys:
    """Asks for the key, as a bearer token or as basic authentication has it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.key = app, settings.api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.key is None or scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if self._knows(Headers(scope=scope).get("authorization", "")):
            return await self.app(scope, receive, send)
        return await _refuse(scope, receive, send, 401, "the key is missing or wrong: send it as bearer or basic")

    def _knows(self, given: str) -> bool:
        kind, _, text = given.partition(" ")
        if kind.lower() == "bearer":
            return self._same(text.strip())
        if kind.lower() != "basic":
            return False
        try:
            pair = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, ValueError):
            return False
        return self._same(pair if ":" in self.key else pair.partition(":")[2])

    def _same(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(errors="replace"), self.key.encode())


class Limits:
    """Counts the bytes of each body, and the jobs under way: one too many is refused before its body is read."""

    def __init__(self, app: ASGIApp, settings: Settings, engine: Engine) -> None:
        self.app, self.settings, self.engine, self.under_way = app, settings, engine, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        most = self.settings.max_body if scope["path"].startswith(LARGE) else min(SMALL, self.settings.max_body)
        if not declared.isdecimal() or len(declared) > 18 or int(declared) > most:
            return await _refuse(scope, receive, send, 413, _too_large(most))
        body = _Body(receive, most, "multipart" not in headers.get("content-type", "").lower())
        announced = int(declared) > 0 or "transfer-encoding" in headers

        async def answer(message: Message) -> None:
            # else the rest would be read, and thrown away
            if message["type"] == "http.response.start" and announced and body.more:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        if scope["method"] != "POST" or not scope["path"].startswith(JOBS):
            return await self.app(scope, body, answer)
        if self.engine.closing:
            return await _refuse(scope, receive, send, 503, "the server stops: try again later")
        if self.under_way >= self.settings.max_queue + len(self.settings.devices):
            return await _refuse(scope, receive, send, 429, f"{self.under_way} requests wait already: try again later")
        self.under_way += 1
        try:
            return await self.app(scope, body, answer)
        finally:
            self.under_way -= 1


class _Body:
    """A `receive` that counts the bytes of a body, and the seconds that it takes."""

    def __init__(self, receive: Receive, most: int, json: bool) -> None:
        self.receive, self.most, self.json = receive, most, json
        self.seen, self.parts, self.more, self.end = 0, 0, True, time.monotonic() + UPLOAD_SECONDS

    async def __call__(self) -> Message:
        if not self.more:  # what follows is the client going away
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), max(0.0, self.end - time.monotonic()))
        except TimeoutError:
            raise HTTPException(408, f"the body took over {UPLOAD_SECONDS:g} s: send it faster") from None
        body, self.more = message.get("body", b""), message.get("more_body", False)
        self.seen += len(body)
        if self.seen > self.most:
            self.more = True  # for all that is known
            raise HTTPException(413, _too_large(self.most))
        self.parts += sum(body.count(mark) for mark in (b",", b"[", b"{")) if self.json else 0
        if self.parts > MOST_PARTS:
            self.more = True
            raise HTTPException(413, f"the request has too many parts: this server takes {MOST_PARTS}")
        return message


def _too_large(most: int) -> str:
    return f"the request is too large: this server takes {most / 2**20:g} MiB here"


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    answer = failure(scope["path"], status, message)
    answer.headers["Connection"] = "close"  # the body was not read
    await answer(scope, receive, send)
