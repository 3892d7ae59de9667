"""Who may ask, and how much at once: keys, names of hosts, pages of other sites, bodies, the queue, time."""

import asyncio
import base64
import threading
import time

import pytest
from hostile import CLEAR, JSON, MASK, SCENE, message, multipart, refused, strict
from serve_app import b64, client
from starlette.websockets import WebSocketDisconnect

from restore.errors import InputError
from restore.serve import guard
from restore.serve.settings import Settings

IMG2IMG, PING, KEY, PAGE = "/sdapi/v1/img2img", "/internal/ping", "a secret key", "https://www.photopea.com"
BODY = {"init_images": [b64(SCENE)], "mask": b64(MASK), "steps": 1}
PATHS = (PING, "/sdapi/v1/sd-models", "/v1/models", "/docs", "/openapi.json", "/none", "/restore/jobs")


@pytest.fixture(scope="module")
def app(tiny_folder):
    with client(tiny_folder) as found:
        yield found


@pytest.fixture(scope="module")
def locked(tiny_folder):
    with client(tiny_folder, api_key=KEY, host="0.0.0.0", origins=(PAGE,)) as found:
        yield found


@pytest.fixture(scope="module")
def paired(tiny_folder):
    with client(tiny_folder, api_key="user:a pass:word") as found:
        yield found


def basic(pair):
    return "Basic " + base64.b64encode(pair.encode()).decode()


def with_key(given):
    return {"authorization": given}


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "given",
    [
        f"Bearer {KEY}",
        f"bearer {KEY}",
        basic(f":{KEY}"),
        basic(f"anyone:{KEY}"),
        basic(f"ü:{KEY}").replace("B", "b", 1),
    ],
)
def test_a_key_opens_as_bearer_or_as_basic(given, locked):
    for path in PATHS:
        assert locked.get(path, headers=with_key(given)).status_code in (200, 404)
    assert locked.post(IMG2IMG, json=BODY, headers=with_key(given)).status_code == 200


WRONG = [
    "", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Bearer{KEY}", KEY, f"Token {KEY}",
    "Bearer \xff\xfe",
    basic(KEY), basic("user:wrong"), basic(f"{KEY}:"), basic(f"{KEY}:user"), "Basic", "Basic ", "Basic %%%", "Basic YQ",
    "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(), "Basic " + "A" * 10**4, f"Digest {KEY}",
    f"Bearer {KEY.upper()}", f"Basic {KEY}", "Bearer " + "a" * 10**4, "Bearer\t", "Basic \xff",
]  # fmt: skip


@pytest.mark.parametrize("given", [None, *WRONG])
def test_without_the_key_nothing_opens(given, locked):
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    for path in PATHS:
        answer = locked.get(path, headers=headers)
        assert "key" in refused(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    for path in (IMG2IMG, "/api/v1/inpaint", "/v1/images/edits", "/sdapi/v1/interrupt", "/sdapi/v1/options"):
        refused(locked.post(path, json=BODY, headers=headers), 401)
    refused(locked.delete("/restore/jobs/x", headers=headers), 401)
    assert not locked.desk.engine.waiting


def test_the_key_stands_nowhere_else(locked):
    """Not in the address, which logs keep, nor in a cookie, which pages of others would send."""
    for path in (f"{PING}?key={KEY}", f"{PING}?api_key={KEY}", f"{PING}?authorization=Bearer {KEY}"):
        refused(locked.get(path, headers={"cookie": f"key={KEY}", "x-api-key": KEY}), 401)


def test_a_key_with_a_user_wants_that_user(paired):
    for given in (basic("user:a pass:word"), "Bearer user:a pass:word"):
        assert paired.get(PING, headers=with_key(given)).status_code == 200
    for pair in ("other:a pass:word", ":a pass:word", "user:", "user:a pass", "a pass:word", "x:user:a pass:word"):
        refused(paired.get(PING, headers=with_key(basic(pair))), 401)
    refused(paired.get(PING, headers=with_key("Bearer a pass:word")), 401)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "example.com", "", "127.0.0.1.example.com", "0"]
)
def test_no_address_but_loopback_without_a_key(host):
    with pytest.raises(InputError, match="--api-key"):
        Settings(host=host)
    assert Settings(host=host, api_key=KEY).api_key == KEY


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_needs_no_key(host):
    assert Settings(host=host).api_key is None
    assert Settings().host == "127.0.0.1"


@pytest.mark.parametrize("key", ["", "short", "1234567", "schlüssel-lang"])
def test_keys_that_are_easily_guessed_are_refused(key):
    with pytest.raises(InputError, match="key"):
        Settings(host="0.0.0.0", api_key=key)


# ---------------------------------------------------------------- names and pages

HERE = ["127.0.0.1", "127.0.0.1:7860", "localhost", "LOCALHOST:7860", "[::1]", "[::1]:7860", "127.8.8.8"]
ELSEWHERE = [
    "evil.com", "evil.com:7860", "localhost.evil.com", "127.0.0.1.evil.com", "127.0.0.1@evil.com", "192.168.1.5", "[::",
    "", "[::2]", "0.0.0.0", "2130706433", "127.1", "\xff", "localhost.", "a b", "evil.com#localhost",
    "evil.com/localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", HERE)
def test_requests_for_this_machine_are_answered(host, app):
    assert app.get(PING, headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ELSEWHERE)
def test_another_name_that_points_here_opens_nothing(host, app):
    """DNS rebinding: a page of evil.com whose name points to 127.0.0.1 meanwhile."""
    headers = {"host": host.encode("latin-1")}
    assert "--api-key" in refused(app.get(PING, headers=headers), 403)
    refused(app.post(IMG2IMG, json=BODY, headers=headers), 403)


def test_with_a_key_any_name_will_do(locked):
    headers = {"host": "photos.example.com", **with_key(f"Bearer {KEY}")}
    assert locked.get(PING, headers=headers).status_code == 200


OTHERS = [
    "https://evil.com", "null", "http://localhost:1", "https://photopea.com", f"{PAGE}.evil.com", f"{PAGE}:444",
    "http://x", "https://evil.com\x01", "file://", "http://127.0.0.1.evil.com", "HTTP://127.0.0.1:80", f"{PAGE}/", "",
    "\xff",
    "x" * 5000, "http://www.photopea.com", "chrome-extension://x",
]  # fmt: skip


@pytest.mark.parametrize("origin", OTHERS)
def test_pages_of_others_may_not_ask(origin, app, locked):
    for one, headers in ((app, {}), (locked, with_key(f"Bearer {KEY}"))):
        headers = {**headers, "origin": origin.encode("latin-1")}
        for answer in (one.get(PING, headers=headers), one.post(IMG2IMG, json=BODY, headers=headers)):
            refused(answer, 403)
            assert "access-control-allow-origin" not in answer.headers
        headers |= {"access-control-request-method": "POST", "access-control-request-private-network": "true"}
        answer = one.options(IMG2IMG, headers=headers)
        refused(answer, 403)
        assert "access-control-allow-private-network" not in answer.headers


def test_a_page_that_was_not_named_may_not_ask(app):
    refused(app.post(IMG2IMG, json=BODY, headers={"origin": PAGE}), 403)


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "https://127.0.0.1", "uxp://com.example.plugin", None])
def test_the_own_page_and_plugins_may_ask(origin, app):
    headers = {} if origin is None else {"origin": origin}
    assert app.get(PING, headers=headers).status_code == 200


def test_a_page_that_was_named_may_ask(locked):
    """As Photopea does: the browser asks first, without the key, then sends the request with it."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    answer = locked.options(
        IMG2IMG, headers={**asked, "origin": PAGE, "access-control-request-private-network": "true"}
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert "POST" in answer.headers["access-control-allow-methods"]
    answer = locked.post(IMG2IMG, json=BODY, headers={"origin": PAGE, **with_key(f"Bearer {KEY}")})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    for headers, status in (({}, 401), (with_key(f"Bearer {KEY}"), 422)):
        answer = locked.post(IMG2IMG, json={}, headers={"origin": PAGE, **headers})
        refused(answer, status)
        assert answer.headers["access-control-allow-origin"] == PAGE  # so that the page can read what is wrong


def test_no_page_learns_of_others(locked):
    answer = locked.get(PING, headers=with_key(f"Bearer {KEY}"))
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["*", "photopea.com", "https://www.photopea.com/", "https://a.com/b", "https://a b", ""]
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(InputError, match="origin"):
        Settings(origins=(origin,))


@pytest.mark.parametrize("headers", [{"origin": "https://evil.com"}, {"host": "evil.com"}])
def test_sockets_are_guarded_too(headers, app, locked):
    with pytest.raises(WebSocketDisconnect), app.websocket_connect("/queue/join", headers=headers):
        pass
    with pytest.raises(WebSocketDisconnect), locked.websocket_connect("/queue/join"):
        pass


# ---------------------------------------------------------------- bodies, as they come in


def ask(app, receive, path=IMG2IMG, method="POST", **headers):
    """The answer to a request whose body `receive` gives: as the server has it of uvicorn."""
    return asyncio.run(asking(app, receive, path, method, **headers))


async def asking(app, receive, path=IMG2IMG, method="POST", **headers):
    headers = {"host": "127.0.0.1", "content-type": "application/json", "transfer-encoding": "chunked", **headers}
    if "content_length" in headers:
        headers["content-length"] = headers.pop("content_length")
        del headers["transfer-encoding"]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80), "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
    }  # fmt: skip
    sent = []

    async def send(message):
        sent.append(message)

    await app.app(scope, receive, send)
    head = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], head, strict(b"".join(part.get("body", b"") for part in sent[1:]))


class Stream:
    """A body of pieces without an end; how many were taken."""

    def __init__(self, piece=b" " * 65536, pause=0.0):
        self.piece, self.pause, self.taken = piece, pause, 0

    async def __call__(self):
        await asyncio.sleep(self.pause)
        self.taken += 1
        return {"type": "http.request", "body": self.piece, "more_body": True}


LARGE = [*JSON, "/v1/images/edits"]


@pytest.mark.parametrize("path", [*LARGE, "/sdapi/v1/options", "/internal/progress"])
def test_a_body_without_end_is_refused_at_the_limit(path, app):
    kind = "multipart/form-data; boundary=XX" if "edits" in path else "application/json"
    stream = Stream(b"--XX\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n" + bytes(65000))
    status, headers, answer = ask(app, stream, path, **{"content-type": kind})
    most = 64 * 2**20 if path in LARGE else 2**20
    assert status == 413
    assert headers["connection"] == "close"
    assert stream.taken <= most // 65000 + 1
    if "edits" not in path:
        assert (status, "MiB" in answer["detail"]) == (413, True)


@pytest.mark.parametrize("length", [str(2**31), "9" * 18, "9" * 5000, "-1", "x", "", "²", "1.0", "1,1"])
def test_a_length_beyond_the_limit_is_refused_unread(length, app):
    stream = Stream()
    status, headers, answer = ask(app, stream, content_length=length)
    assert (status, headers["connection"], stream.taken) == (413, "close", 0)
    assert "64 MiB" in answer["detail"]


def test_a_limit_of_the_owners_is_kept(tiny_folder):
    with client(tiny_folder, max_body=2000) as app:
        refused(app.post(IMG2IMG, json=BODY), 413)
        refused(app.post("/sdapi/v1/options", json={"x": "y" * 2000}), 413)
        assert app.post("/sdapi/v1/options", json={}).status_code == 200


def test_a_body_of_many_parts_is_refused(app):
    stream = Stream(b"[]," * 20_000)
    status, _, answer = ask(app, stream)
    assert (status, "parts" in answer["detail"]) == (413, True)
    assert stream.taken < 20


def test_a_slow_body_is_refused(app, monkeypatch):
    monkeypatch.setattr(guard, "UPLOAD_SECONDS", 0.3)
    for path in (IMG2IMG, "/v1/images/edits", "/sdapi/v1/options"):
        kind = "multipart/form-data; boundary=X" if "edits" in path else "application/json"
        for pause in (0.05, 60):
            begin = time.monotonic()
            stream = Stream(b"\r\n" if "edits" in path else b" ", pause)
            status, headers, answer = ask(app, stream, path, **{"content-type": kind})
            assert time.monotonic() - begin < 3
            assert (status, headers["connection"]) == (408, "close"), answer


def test_a_client_that_goes_while_it_sends_is_no_error(app, caplog):
    async def gone():
        return {"type": "http.disconnect"}

    for path in LARGE:
        kind = "multipart/form-data; boundary=X" if "edits" in path else "application/json"
        status, _, _ = ask(app, gone, path, **{"content-type": kind})
        assert status == 400
    assert app.post(IMG2IMG, json=BODY).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# ---------------------------------------------------------------- how many, how long


@pytest.fixture
def small(tiny_folder):
    """A server of one worker, with room for one that waits."""
    with client(tiny_folder, max_queue=1) as found:
        yield found


def blocked(engine, go, count):
    """Jobs that take all room until `go` is set."""
    started = threading.Event()

    def work(report):
        started.set()
        go.wait(20)

    tickets = [engine.submit(work) for _ in range(count)]
    assert started.wait(10)
    return tickets


def test_a_full_queue_is_said(small):
    go = threading.Event()
    tickets = [*blocked(small.desk.engine, go, 1), small.desk.engine.submit(lambda report: go.wait(20))]
    try:
        for path in (IMG2IMG, "/sdapi/v1/txt2img"):
            answer = small.post(path, json=BODY if path == IMG2IMG else {"steps": 1, "width": 16, "height": 16})
            assert "wait" in refused(answer, 429)
            assert int(answer.headers["retry-after"]) > 0
        assert small.get(PING).status_code == 200
        assert small.get("/sdapi/v1/progress").json()["progress"] > 0
        assert small.get("/restore/status").json()["waiting"] == 1
    finally:
        go.set()
    assert all(ticket.wait(10) for ticket in tickets)
    assert small.post(IMG2IMG, json=BODY).status_code == 200


def test_bodies_that_come_slowly_take_the_room_of_jobs_and_no_more(small):
    """Requests are counted from their first byte: a third is refused unread."""

    async def scenario():
        streams = [Stream(b" ", 60) for _ in range(2)]
        waiting = [asyncio.create_task(asking(small, stream)) for stream in streams]
        await asyncio.sleep(0.1)
        third = Stream()
        refusals = [await asking(small, third, path) for path in LARGE]
        assert third.taken == 0
        other = Stream(b"{}", 0)
        assert (await asking(small, other, "/sdapi/v1/skip"))[0] == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return refusals

    for status, headers, answer in asyncio.run(scenario()):
        assert (status, headers["connection"], headers["retry-after"]) == (429, "close", "5")
        assert "wait" in (answer.get("detail") or answer["error"]["message"])
    assert small.post(IMG2IMG, json=BODY).status_code == 200  # the room is free again


def test_a_server_that_stops_says_so(tiny_folder):
    with client(tiny_folder) as app:
        app.desk.engine.close()
        for path in LARGE:
            answer = app.post(path, json=BODY)
            assert answer.status_code == 503
            assert "stops" in message(answer)
            assert answer.headers["retry-after"]
        assert app.get(PING).status_code == 200


SLOW = {  # jobs of many steps
    IMG2IMG: {"json": {**BODY, "steps": 1000}},
    "/api/v1/inpaint": {"json": {"image": b64(SCENE), "mask": b64(MASK)}},
    "/v1/images/edits": {"data": {"n": "4"}, **multipart(image=CLEAR)},
    "/sdapi/v1/extra-single-image": {"json": {"image": b64(SCENE), "upscaler_1": "tiny"}},
}


@pytest.mark.parametrize("path", SLOW)
def test_a_job_that_takes_too_long_is_stopped(path, tiny_folder):
    with client(tiny_folder, max_seconds=0.01) as app:
        begin = time.monotonic()
        assert "took over" in refused(app.post(path, **SLOW[path]), 408)
        assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_body", 0), ("max_pixels", 0), ("max_queue", 0), ("max_seconds", 0), ("max_steps", 0), ("max_samples", -1)],
)
def test_limits_that_let_nothing_in_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        Settings(**{name: value})


def test_steps_have_a_limit(tiny_folder):
    with client(tiny_folder, max_steps=5) as app:
        for path in (IMG2IMG, "/sdapi/v1/txt2img"):
            assert "5" in refused(app.post(path, json={**BODY, "steps": 6}), 422)
        assert app.post(IMG2IMG, json={**BODY, "steps": 5}).status_code == 200
