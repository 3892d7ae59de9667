"""Who may ask a server, and how much: hosts, pages of other sites, keys, sizes, times, the queue."""

import base64
import contextlib
import socket
import threading
import time

import pytest
from serve_app import b64, client, hole, scene, served

from restore.errors import InputError
from restore.serve import guard
from restore.serve.settings import Settings

KEY, PAIR = "a-long-password", "user:a-long-password"
PAGE = "https://huchenlei.github.io"
INPAINT = {"init_images": [b64(scene())], "mask": b64(hole()), "steps": 1}


@pytest.fixture(scope="module")
def app(tiny_folder):
    with client(tiny_folder, origins=(PAGE, "null"), max_body=200_000, max_pixels=50_000) as found:
        yield found


# ---------------------------------------------------------------- addresses and pages


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_addresses_want_a_key(host):
    with pytest.raises(InputError, match="--api-key"):
        Settings(host=host)
    assert Settings(host=host, api_key=KEY).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_wants_none(host):
    assert Settings(host=host).api_key is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "", "[::", "["])
def test_names_that_were_made_to_point_here_are_refused(app, host):
    """DNS rebinding: to a browser the page and the server are then of one site."""
    answer = app.get("/sdapi/v1/options", headers={"Host": host})
    assert answer.status_code == 403
    assert "--api-key" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7860", "[::1]:7860"])
def test_names_of_this_machine_are_not(app, host):
    assert app.get("/sdapi/v1/options", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused(app):
    answer = app.post("/sdapi/v1/interrupt", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert "--cors-origin https://evil.example" in answer.json()["detail"]
    assert "access-control-allow-origin" not in answer.headers
    for own in ("http://127.0.0.1", "uxp://com.example.plugin"):
        assert app.post("/sdapi/v1/interrupt", headers={"Origin": own}).status_code == 200


@pytest.mark.parametrize("origin", [PAGE, "null"])
def test_pages_that_are_named_may_ask(app, origin):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
    ahead = {"Origin": origin, **asked, "Access-Control-Request-Private-Network": "true"}
    answer = app.options("/sdapi/v1/img2img", headers=ahead)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-private-network"] == "true"
    answer = app.get("/sdapi/v1/options", headers={"Origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("origin", ["*", "www.photopea.com", "https://a.example/path", "https://a b", ""])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(InputError, match="no origin"):
        Settings(origins=(origin,))


# ---------------------------------------------------------------- keys


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module", params=[KEY, PAIR])
def locked(request, tiny_folder):
    with client(tiny_folder, api_key=request.param, host="0.0.0.0") as found:
        found.key = request.param
        yield found


def test_the_key_opens(locked):
    opens = [f"Bearer {locked.key}", f"bearer {locked.key}", basic(locked.key if ":" in locked.key else f"any:{KEY}")]
    for given in opens:
        assert locked.get("/sdapi/v1/options", headers={"Authorization": given}).status_code == 200
    elsewhere = {"Authorization": opens[0], "Host": "photos.example"}
    assert locked.get("/sdapi/v1/options", headers=elsewhere).status_code == 200


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer wrong", "Basic", "Basic %%%", basic("user:wrong"), basic("user"), basic(":"),
     f"Digest {KEY}", "Basic " + base64.b64encode(b"\xff\xfe").decode(), f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"],
)  # fmt: skip
@pytest.mark.parametrize(
    "path", ["/sdapi/v1/options", "/v1/models", "/docs", "/openapi.json", "/restore/status", "/nope"]
)
def test_nothing_is_told_without_the_key(locked, given, path):
    answer = locked.get(path, headers={} if given is None else {"Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_a_preflight_needs_no_key(tiny_folder):
    with client(tiny_folder, api_key=KEY, origins=(PAGE,)) as app:
        asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        assert app.options("/sdapi/v1/img2img", headers=asked).status_code == 200


@pytest.mark.parametrize("key", ["short", "ключ-достаточно-длинный"])
def test_weak_keys_are_refused(key):
    with pytest.raises(InputError, match="8 letters"):
        Settings(api_key=key)


# ---------------------------------------------------------------- sizes and times


def test_a_body_may_be_so_large(app):
    answer = app.post("/sdapi/v1/png-info", content=b"x" * 200_001, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "MiB" in answer.json()["detail"]


def test_a_picture_may_be_so_large(app):
    stretched = {"inpaint_full_res": False, "width": 1000, "height": 1000}
    for fields in ({**INPAINT, "init_images": [b64(scene(300, 200))]}, {**INPAINT, **stretched}):
        answer = app.post("/sdapi/v1/img2img", json=fields)
        assert answer.status_code == 413
        assert "0.05 million" in answer.json()["detail"]
    answer = app.post("/sdapi/v1/extra-single-image", json={"image": b64(scene()), "upscaling_resize": 8})
    assert answer.status_code == 413
    answer = app.post("/sdapi/v1/img2img", json={**INPAINT, "n_iter": 17})
    assert answer.status_code == 422
    assert "at most 16" in answer.json()["detail"]


def test_a_job_may_take_so_long(tiny_folder):
    with client(tiny_folder, max_seconds=0.3) as app:
        answer = app.post("/sdapi/v1/img2img", json={**INPAINT, "steps": 1000})
        assert answer.status_code == 408
        assert "fewer steps" in answer.json()["detail"]
        assert app.post("/sdapi/v1/img2img", json=INPAINT).status_code == 200


def test_a_body_may_take_so_long(tiny_folder, monkeypatch):
    """A client that sends a byte now and then holds a place in the queue no longer than that."""
    import asyncio

    monkeypatch.setattr(guard, "UPLOAD_SECONDS", 0.2)
    with client(tiny_folder) as app:
        said = []

        async def receive():
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message):
            said.append(message)

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": "POST", "path": "/sdapi/v1/img2img", "raw_path": b"/sdapi/v1/img2img",
            "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        begin = time.monotonic()
        asyncio.run(app.app(scope, receive, send))
        assert said[0]["status"] == 408
        assert time.monotonic() - begin < 5


def test_a_full_queue_is_said_so(tiny_folder):
    with client(tiny_folder, max_queue=1) as app:
        gate = threading.Event()
        tickets = [app.desk.engine.submit(lambda report: gate.wait(20))]
        while tickets[0].state != "running":
            time.sleep(0.01)
        tickets.append(app.desk.engine.submit(lambda report: gate.wait(20)))
        answer = app.post("/sdapi/v1/img2img", json=INPAINT)
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        assert app.get("/sdapi/v1/progress").status_code == 200
        gate.set()
        assert all(ticket.wait(20) for ticket in tickets)
        assert app.post("/sdapi/v1/img2img", json=INPAINT).status_code == 200
        app.desk.engine.close()
        assert app.post("/sdapi/v1/img2img", json=INPAINT).status_code == 503


def test_two_gigabytes_are_refused_before_they_are_read(tiny_folder):
    """Said in advance, and sent in pieces; the server lives on, no larger than before."""
    import psutil
    import requests

    with served(tiny_folder) as server:
        assert requests.post(f"{server.url}/sdapi/v1/img2img", json=INPAINT, timeout=60).status_code == 200
        before = psutil.Process(server.process.pid).memory_info().rss
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /sdapi/v1/img2img HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port)), 20) as line:
            line.sendall(f"{head}Content-Length: {2**31}\r\n\r\n".encode() + b"{" * 1000)
            assert b" 413 " in line.recv(1000)
        with socket.create_connection((host, int(port)), 20) as line:
            line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            piece, sent = b"100000\r\n" + b" " * 2**20 + b"\r\n", 0
            with contextlib.suppress(OSError):  # the server hangs up
                while sent < 2048:
                    line.sendall(piece)
                    sent += 1
            assert sent < 200
        after = psutil.Process(server.process.pid).memory_info().rss
        assert after - before < 150 * 2**20
        assert requests.post(f"{server.url}/sdapi/v1/img2img", json=INPAINT, timeout=60).status_code == 200
