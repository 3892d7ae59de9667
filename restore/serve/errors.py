"""What goes wrong, as each protocol says it: a status, and one line."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from restore.errors import InputError, OutOfMemory, PriorError, RestoreError
from restore.serve.engine import Refused
from restore.serve.pictures import TooLarge

log = logging.getLogger("restore.serve")


class Json(Response):
    """JSON in ASCII: a lone surrogate in a prompt is no reason to fail."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def failure(path: str, status: int, message: str) -> Json:
    """The answer, in the words of the protocol that a path belongs to."""
    headers = {"Retry-After": "5"} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="restore", charset="UTF-8"'
    if path.startswith("/v1/"):
        if status not in (429, 503):  # their client sends the rest again, too: a job that was stopped would begin anew
            headers["x-should-retry"] = "false"
        kind = "invalid_request_error" if status < 500 else "server_error"
        return Json({"error": {"message": message, "type": kind, "param": None, "code": None}}, status, headers)
    return Json(
        {"error": _NAMES.get(status, "Error"), "detail": message, "errors": message, "body": ""}, status, headers
    )


_NAMES = {401: "Unauthorized", 404: "NotFound", 413: "TooLarge", 422: "InputError", 429: "Busy", 500: "InternalError"}


def status_of(error: Exception) -> int:
    """HTTP's status for an error of ours."""
    if isinstance(error, Refused):
        return error.status
    kinds = ((TooLarge, 413), (InputError, 422), (PriorError, 422), (OutOfMemory, 503))
    return next((status for kind, status in kinds if isinstance(error, kind)), 500)


def install(app: FastAPI) -> None:
    """Have an app say its errors so."""

    @app.exception_handler(RestoreError)
    async def ours(request: Request, error: RestoreError) -> Json:
        return failure(request.url.path, status_of(error), " ".join(str(error).split()))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Json:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return failure(request.url.path, 422, f"the body is no JSON: {first['ctx']['error']}")
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return failure(request.url.path, 422, f"{where[:80] or 'the body'}: {first['msg'][:200]}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Json:
        return failure(request.url.path, error.status_code, str(error.detail))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Json:
        return failure(request.url.path, 400, "the body is cut short")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Json:
        log.error("%s: %s", request.url.path, error, exc_info=error)
        return failure(request.url.path, 500, "internal error: the server's log says more")
