"""What of gradio's own routes is let through: those that the page needs, and bodies that name no foreign file.

A mounted gradio takes any path of the server, and addresses that it would fetch, where it expects an uploaded file; it
also brings a proxy, a code editor and other things that this page has no use for."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from restore.serve.engine import Engine
from restore.serve.errors import failure

API = "/gradio_api"
PAGE = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/[\w./@+-]{1,200}"
)
SESSION = re.compile(r"[a-z0-9]{4,64}", re.ASCII)
FIELDS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")  # of a request for an event
MAX_BODY = 2**20  # bytes of a request for an event: pictures come by /upload
SESSIONS = 500  # that gradio keeps messages for
AGE = 3 * 3600  # seconds that a file is kept after its last use
HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

log = logging.getLogger("restore.serve")


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A request that gradio does not get to see: HTTP's status, and why."""

    def __init__(self, status: int, message: str = "there is no such page") -> None:
        super().__init__(message)
        self.status = status


def inside(folder: str | Path, path: Any) -> Path | None:
    """The file that a path names, where it lies in the folder, links followed; None for anything else."""
    if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
        return None
    try:
        found = Path(os.path.realpath(path))
        return found if found.is_relative_to(os.path.realpath(folder)) and found.is_file() else None
    except (OSError, ValueError):  # a name that is too long, or no text
        return None


class PageGuard:
    """Stands before a mounted gradio."""

    def __init__(
        self, app: ASGIApp, blocks: Any, folder: Path, engine: Engine, room: int, left: Callable[[str], None]
    ) -> None:
        """folder: of the uploads and answers, of at most `room` bytes. left: told the session of a browser that went
        away while it waited for an event."""
        self.app, self.blocks, self.folder, self.engine, self.room, self.left = app, blocks, folder, engine, room, left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["method"] == "GET" and scope["path"] == f"{API}/upload_progress":  # gradio would keep it for ever
            return await Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")(scope, receive, send)
        try:
            scope, receive = await self._admitted(scope, receive)
        except Refusal as refusal:
            return await failure(scope["path"], refusal.status, str(refusal))(scope, receive, send)
        sending = _Sending(scope["path"], send)
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        try:
            await self.app(scope, receive, sending)
        except Exception as error:  # gradio has said it, or refused to say it, already
            log.error("%s: gradio failed on a request", scope["path"], exc_info=error)
            if not sending.begun:
                await failure(scope["path"], 400, "this request cannot be read")(scope, receive, send)
        finally:
            if scope["path"] == f"{API}/queue/data":
                self._ended(session, sending.ended)

    async def _admitted(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        """The request as gradio gets it. Raises Refusal."""
        method, path = scope["method"], scope["path"]
        query = b""
        if method in ("GET", "HEAD") and PAGE.fullmatch(path) and ".." not in path:
            pass
        elif method in ("GET", "HEAD") and path.startswith(f"{API}/file="):
            if inside(self.folder, path.removeprefix(f"{API}/file=")) is None:
                raise Refusal(404, "there is no such file")
        elif method == "GET" and path.startswith(f"{API}/heartbeat/"):
            self._check_session(path.removeprefix(f"{API}/heartbeat/"))
            receive = self._until_closing(receive)
        elif method == "GET" and path == f"{API}/queue/data":
            session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
            self._check_session(session)
            if session not in self.blocks._queue.pending_messages_per_session:
                raise Refusal(404, "nothing is under way in this session")
            query, receive = f"session_hash={session}".encode(), self._until_closing(receive)
        elif method == "GET" and path == f"{API}/startup-events":
            pass
        elif method == "POST" and path == f"{API}/upload":
            await self._check_upload(Headers(scope=scope))
        elif method == "POST" and path == f"{API}/queue/join":
            body = self.cleaned(await _whole(receive))
            scope, receive = _with_body(scope, body)
        else:
            raise Refusal(404)
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        return {**scope, "query_string": query, "headers": headers}, receive

    @staticmethod
    def _check_session(session: Any) -> None:
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise Refusal(400, "session_hash is no name of a session")

    async def _check_upload(self, headers: Headers) -> None:
        if not re.match(r"multipart/form-data;.*boundary=\S+", headers.get("content-type", ""), re.IGNORECASE):
            raise Refusal(400, "send files as multipart/form-data")
        held = await asyncio.to_thread(tidied, self.folder)
        if sum(max(size, 4096) for _, size in held) > self.room:
            raise Refusal(429, "this server holds too many pictures already: try again later")

    def cleaned(self, body: bytes) -> bytes:
        """A request for an event, with nothing in it but what the page sends. Raises Refusal."""
        try:
            told = json.loads(body, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise Refusal(400, "the body is no JSON") from None
        if not isinstance(told, dict):
            raise Refusal(422, "the body is no request for an event")
        self._check_session(told.get("session_hash"))
        number, trigger, data = (told.get(name) for name in ("fn_index", "trigger_id", "data"))
        fn = self.blocks.fns.get(number) if type(number) is int else None
        if fn is None or not isinstance(data, list) or len(data) != len(fn.inputs):
            raise Refusal(422, "fn_index and data are none of the page's")
        self._check_shapes(fn.inputs, data)
        if trigger is not None and (type(trigger) is not int or trigger not in self.blocks.blocks):
            raise Refusal(422, "trigger_id is none of the page's")
        for held in _dicts([data, told.get("event_data")]):
            self._check_file(held)
        waiting = self.blocks._queue.pending_messages_per_session
        for session in list(waiting)[: max(0, len(waiting) - SESSIONS)]:
            del waiting[session]
        return json.dumps({name: told.get(name) for name in FIELDS}).encode()

    @staticmethod
    def _check_shapes(inputs: list[Any], data: list[Any]) -> None:
        """Refuse what gradio would fail on only after it has answered."""
        for block, value in zip(inputs, data, strict=True):
            model = getattr(block, "data_model", None)
            try:
                if model is not None and value is not None:
                    model.model_validate(value, context={"validate_meta": True})
            except (ValueError, RecursionError):
                raise Refusal(422, f"{block.label or 'an input'} is none that the page sends") from None

    def _check_file(self, held: dict[str, Any]) -> None:
        """Refuse what gradio would take for a file, where it is none of this page's; else forget its address."""
        if "path" not in held and "url" not in held:
            return
        url = held.get("url")
        if inside(self.folder, held.get("path")) is None:
            raise Refusal(422, "a file is none of those that were uploaded here: upload it again")
        if url is not None and (not isinstance(url, str) or not self._is_own(url)):
            raise Refusal(422, "a file has the address of another server")
        if url is not None:
            held["url"] = None

    def _is_own(self, url: str) -> bool:
        with suppress(ValueError):
            prefix, _, path = unquote(urlsplit(url).path).partition("/file=")
            return prefix.endswith(API) and inside(self.folder, path) is not None
        return False

    def _ended(self, session: str, well: bool) -> None:
        """After the stream of a session's events: gradio forgets no session by itself."""
        if not well:
            self.left(session)
        queue = self.blocks._queue
        if not queue.pending_event_ids_session.get(session):
            queue.pending_messages_per_session.pop(session, None)

    def _until_closing(self, receive: Receive) -> Receive:
        """Streams end when the server stops, which waits for them otherwise."""

        async def watched() -> Message:
            while not self.engine.closing:
                with suppress(TimeoutError):
                    return await asyncio.wait_for(receive(), 0.5)
            return {"type": "http.disconnect"}

        return watched


class _Sending:
    """What gradio answers: with headers of ours, and none of its own failures, which only a strange request causes."""

    def __init__(self, path: str, send: Send) -> None:
        self.path, self.send, self.begun, self.ended, self.replaced = path, send, False, False, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            if message["status"] >= 500:
                log.error("%s: gradio answered %d", self.path, message["status"])
                self.replaced = True
                return
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
        elif self.replaced:
            if not message.get("more_body", False):
                await failure(self.path, 400, "this request cannot be read")({"type": "http"}, _nothing, self.send)
            return
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self.send(message)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _whole(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the body is cut short")
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise Refusal(413, f"the body is too large: pictures go to {API}/upload")
    return body


def _with_body(scope: Scope, body: bytes) -> tuple[Scope, Receive]:
    kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"content-type")]
    headers = [*kept, (b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        return next(messages, {"type": "http.disconnect"})

    return {**scope, "headers": headers}, replayed


def _no_number(text: str) -> None:
    raise ValueError(text)


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    left = [value]
    while left:
        held = left.pop()
        if isinstance(held, dict):
            yield held
            left += held.values()
        elif isinstance(held, list):
            left += held


def tidied(folder: Path, age: float = AGE) -> list[tuple[Path, int]]:
    """(file, bytes) of all files in a folder, after the removal of those that were not used for so many seconds."""
    found, oldest = [], time.time() - age
    for place, _, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in names):
            with suppress(OSError):  # gone meanwhile
                facts = path.lstat()
                if facts.st_mtime < oldest:
                    path.unlink()
                    path.parent.rmdir()  # an OSError where there are more
                else:
                    found.append((path, facts.st_size))
    return found
