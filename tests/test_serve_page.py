"""The page at `/` from the server's side: what it does, what it keeps out, and what it forgets."""

import json
import os
import socket
import threading
import time
from io import BytesIO
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from paging import FORM, Visitor, guard_of, listening, noise, png, visiting
from PIL import Image

from restore.errors import InputError
from restore.images import read
from restore.serve.page_guard import inside, tidied
from restore.serve.page_jobs import painted


@pytest.fixture(scope="module")
def visitor(tiny_folder):
    with visiting(tiny_folder, max_pixels=200_000, max_samples=3) as visitor:
        yield visitor


@pytest.fixture
def trap():
    """A port of this machine that counts who connects."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.settimeout(0.05)

        class Trap:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            hits = 0

        def count():
            while sock.fileno() != -1:
                try:
                    sock.accept()[0].close()
                    Trap.hits += 1
                except TimeoutError:
                    continue
                except OSError:
                    return

        threading.Thread(target=count, daemon=True).start()
        yield Trap


def layer(height, width, top=10, left=10, side=8):
    """What the canvas sends for a square stroke."""
    x = np.zeros((height, width, 4), np.uint8)
    x[top : top + side, left : left + side] = (255, 64, 64, 153)
    return png(x)


# ---------------------------------------------------------------- what it does


def test_a_painted_mask_is_enlarged_and_nothing_else_of_the_canvas_is_used(visitor):
    photo = noise(60, 90)
    drawn = visitor.upload(layer(30, 45), "layer_0.png")
    other = visitor.upload(png(noise(30, 45)[::-1].copy()), "background.png")
    canvas = {"background": other, "layers": [drawn], "composite": other}
    shown = visitor.run(picture=visitor.upload(png(photo), "kitten.png"), canvas=canvas)
    download = shown[5]["value"]
    assert download["orig_name"] == "kitten-inpaint.png"
    answer = np.asarray(Image.open(BytesIO(visitor.get(download))))
    hole = np.zeros((60, 90), bool)
    hole[20:36, 20:36] = True
    assert answer.shape == photo.shape
    assert (answer[~hole] == photo[~hole]).all()
    assert (answer[hole] != photo[hole]).any()
    before, after = shown[3]["value"]
    assert visitor.get(before)[:2] == visitor.get(after)[:2] == b"\xff\xd8"


def test_sixteen_bits_and_transparency_survive(visitor):
    deep = np.random.default_rng(1).integers(0, 65536, (40, 40, 4), np.uint16)
    deep[..., 3] = 65535
    deep[8:16, 8:16, 3] = 0
    data = cv2.imencode(".png", deep)[1].tobytes()
    shown = visitor.run(picture=visitor.upload(data), holes="what is transparent")
    found = cv2.imdecode(np.frombuffer(visitor.get(shown[5]["value"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert found.dtype == np.uint16
    known = deep[..., 3] > 0
    assert (found[known] == deep[known]).all()


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({"task": "upscale"}, (48, 64)),
        ({"task": "denoise", "sigma": "20"}, (24, 32)),
        ({"task": "deblur", "kernel": "gaussian:1"}, (24, 32)),
        ({"task": "colorize"}, (24, 32)),
        ({"task": "edit", "holes": "all of it", "strength": 0.2}, (24, 32)),
        ({"task": "generate", "side": 24}, (24, 24)),
    ],
)
def test_every_task(visitor, values, size):
    picture = None if values["task"] == "generate" else visitor.upload(png(noise(24, 32)))
    shown = visitor.run(picture=picture, **values)
    answer = Image.open(BytesIO(visitor.get(shown[5]["value"])))
    assert answer.size == size[::-1]


def test_several_answers_are_shown_and_one_is_chosen(visitor):
    photo, mask = visitor.upload(png(noise(24, 24))), visitor.upload(png(noise(24, 24, 1)[..., 0] // 128 * 255))
    shown = visitor.run(picture=photo, mask=mask, holes="a file", samples=3, file="PNG")
    gallery = shown[6]["value"]
    assert len(gallery) == 3
    messages = visitor.ask("choose", [None], event_data={"index": 1, "value": None})
    chosen = messages[-2]["output"]["data"][2]["value"]
    assert chosen["orig_name"] == "photo-inpaint-2.png"
    messages = visitor.ask("choose", [None], event_data={"index": 99, "value": None})
    assert messages[-2]["success"]


def test_a_dropped_picture_is_described_and_shrunk_for_the_canvas(visitor):
    messages = visitor.ask("drop", [visitor.upload(png(noise(90, 2000)), "a <b>.png")])
    canvas, _, told = messages[-2]["output"]["data"]
    assert Image.open(BytesIO(visitor.get(canvas["background"]))).size == (1024, 46)
    assert "2000 x 90" in told
    assert "<b>" not in told


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"picture": None}, "drop a picture first"),
        ({"samples": 99}, "answers is"),
        ({"samples": "NaN"}, "answers is"),
        ({"samples": None}, "answers is"),
        ({"seed": -1}, "seed is"),
        ({"prior": "/etc"}, "no prior"),
        ({"prior": ["tiny"]}, "choose a prior"),
        ({"task": "unknown"}, "task is none"),
        ({"task": {"a": 1}}, "task is none"),
        ({"method": "unknown"}, "unknown method"),
        ({"quality": "worst"}, "quality is none"),
        ({"holes": "nothing"}, "mask is none"),
        ({"task": "deblur", "kernel": "/etc/passwd"}, "the blur is"),
        ({"task": "deblur", "kernel": "gaussian:1e9"}, "the blur is"),
        ({"task": "generate", "side": 16384}, "million"),
        ({"task": "upscale", "scale": 16}, "million"),
        ({"canvas": None}, "paint over"),
        ({"canvas": {"layers": "x"}}, "paint over"),
        ({"canvas": {"layers": [{}]}}, "drop it again"),
        ({"holes": "what is transparent"}, "transparency"),
        ({"holes": "a file"}, "drop the mask"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(visitor, values, said):
    if "picture" not in values:
        values = {"picture": visitor.upload(png(noise(64, 64))), **values}
    shown = visitor.run(**values)
    assert said in shown[0]
    assert "problem" in shown[0]


def test_too_many_pixels_and_no_picture_are_refused_before_they_are_decoded(visitor):
    for data, said in ((png(np.zeros((1000, 1000), np.uint8)), "million"), (b"no picture", "not an image")):
        held = visitor.upload(data)
        assert said in visitor.ask("drop", [held])[-2]["output"]["data"][2]
        assert said in visitor.run(picture=held, holes="what is transparent")[0]


def test_a_mask_of_another_picture_is_refused():
    picture = read(noise(50, 100))
    place = Path(os.environ["GRADIO_TEMP_DIR"])
    for data, said in ((layer(50, 50), "another picture"), (png(noise(50, 100)), "no transparent part")):
        (place / "layer.png").write_bytes(data)
        with pytest.raises(InputError, match=said):
            painted([place / "layer.png"], picture)


# ---------------------------------------------------------------- what it keeps out


@pytest.mark.parametrize(
    "request_",
    """GET /gradio_api/info|GET /gradio_api/openapi.json|GET /gradio_api/proxy=http://127.0.0.1:1/|GET /monitoring
    |GET /monitoring/summary|POST /login|GET /gradio_api/deep_link?session_hash=abcd|POST /gradio_api/component_server
    |POST /gradio_api/run/predict|POST /gradio_api/api/predict|POST /gradio_api/call/run|POST /gradio_api/call/v2/run
    |POST /gradio_api/cancel|POST /gradio_api/reset|POST /gradio_api/vibe-edit|POST /gradio_api/vibe-code
    |GET /gradio_api/vibe-code|POST /gradio_api/process_recording|GET /gradio_api/dev/reload|GET /gradio_api/runs
    |GET /gradio_api/custom_component/a/client/b/c.js|POST /gradio_api/stream/a|GET /gradio_api/file/etc/passwd
    |GET /gradio_api/stream/abcd/1/1/playlist-file|GET /gradio_api/queue/status|GET /gradio_api/user|GET /mcp
    |GET /gradio_api/mcp/sse|GET /pwa_icon|PUT /|DELETE /gradio_api/queue/join|GET /assets/../../routes.py
    |GET /gradio_api/token|GET /gradio_api/app_id|POST /|GET /gradio_api/profiling/summary""".replace("\n", "").split(
        "|"
    ),
)
def test_routes_that_the_page_does_not_need_are_not_there(visitor, request_):
    method, path = request_.split()
    answer = visitor.client.request(method, path, content=b"{}" if method == "POST" else None)
    assert answer.status_code in (404, 405), answer.text


def test_the_page_opens_without_anything_from_elsewhere(visitor):
    page = visitor.client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert visitor.client.get("/?deep_link=../../x").status_code == 200
    config = visitor.client.get("/config").json()
    assert all(d["api_visibility"] == "private" for d in config["dependencies"] if d["targets"][0][1] != "unload")
    assert visitor.client.get("/docs").status_code == 200


def test_no_file_outside_the_folder_is_given(visitor, tmp_path):
    folder = visitor.guard.folder
    (tmp_path / "secret.png").write_bytes(png(noise(8, 8)))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    here = str(Path(__file__).resolve())
    for path in (
        "/etc/passwd", here, f"{folder}/../../etc/passwd", f"{folder}/link.png", str(folder), "tests/paging.py",
        f"{folder}/%2e%2e/%2e%2e/etc/passwd", "http://127.0.0.1:1/", "file:///etc/passwd", "a" * 5000, f"{folder}/%00",
        "", "//etc/passwd", "/proc/self/environ",
    ):  # fmt: skip
        assert visitor.client.get(f"/gradio_api/file={path}").status_code == 404, path
    (folder / "link.png").unlink()


def test_no_body_makes_the_server_read_or_fetch(visitor, trap):
    real = visitor.upload(png(noise(16, 16)))
    meta = {"_type": "gradio.FileData"}
    folder = visitor.guard.folder
    (folder / "link.png").symlink_to("/etc/passwd")
    bad = [
        {"path": "/etc/passwd", "meta": meta},
        {"path": f"{folder}/../../etc/passwd", "meta": meta},
        {"path": f"{folder}/link.png", "meta": meta},
        {"path": str(folder), "meta": meta},
        {"path": f"{trap.url}/a.png", "meta": meta},
        {"path": "a.png", "url": f"{trap.url}/a.png", "meta": meta},
        {**real, "url": f"{trap.url}/a.png"},
        {**real, "url": f"{trap.url}/gradio_api/file=/etc/passwd"},
        {"url": f"{trap.url}/a.png"},
        {"path": None, "url": None, "meta": meta},
        {"path": ["/etc/passwd"], "meta": meta},
        {"path": "\0", "meta": meta},
        {"path": "/" + "a" * 5000, "meta": meta},
    ]
    for held in bad:
        for name, data in (
            ("drop", [held]),
            ("run", visitor.form(picture=held)),
            ("run", visitor.form(canvas={"background": held, "layers": [], "composite": None})),
            ("run", visitor.form(canvas={"deep": [{"down": [held]}]})),
        ):
            assert visitor.join(name, data).status_code == 422, held
        assert visitor.join("choose", [None], event_data={"index": 0, "value": {"image": held}}).status_code == 422
    time.sleep(0.2)
    assert trap.hits == 0
    (folder / "link.png").unlink()


def test_a_forwarded_address_of_a_file_is_never_asked_for(visitor, trap):
    held = {**(real := visitor.upload(png(noise(16, 16)))), "url": f"{trap.url}/gradio_api/file={real['path']}"}
    assert "16 x 16" in visitor.ask("drop", [held])[-2]["output"]["data"][2]
    assert trap.hits == 0


BODIES = [
    b"", b"{", b"null", b"[]", b"7", b'"x"', b"{}", b'{"data": []}', b"[" * 100_000, b'{"data": NaN}', b"\xff\xfe",
    b'{"fn_index": 0, "data": [1e999], "session_hash": "abcdef"}', b'{"session_hash": "' + b"a" * 5000 + b'"}',
]  # fmt: skip


def test_strange_bodies_are_answered_with_4xx(visitor):
    good = visitor.body("drop", [None])
    spoilt = [
        {**good, name: value}
        for name in good
        for value in (None, "", "x", -1, 10**30, 1.5, True, [], {}, [[[]]], "\ud800", {"path": 1})
        if not (name == "trigger_id" and value is None)
    ]
    for body in [*BODIES, *(json.dumps(body).encode() for body in spoilt), b" " * 2**21]:
        answer = visitor.client.post("/gradio_api/queue/join", content=body)
        assert 400 <= answer.status_code < 500, body[:100]


def test_strange_uploads_and_sessions_are_answered_with_4xx(visitor):
    form = "multipart/form-data; boundary=x"
    for kind, body in (
        ("", b""), ("text/plain", b"x"), ("multipart/form-data", b"x"), (form, b"x"), (form, b"--x\r\n\r\n\r\n--x--"),
        (form, b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nno file\r\n--x--\r\n'),
        (form, b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nhalf a fi'),
    ):  # fmt: skip
        answer = visitor.client.post("/gradio_api/upload", content=body, headers={"content-type": kind})
        assert answer.status_code < 500, body
    for session in ("", "../x", "A" * 12, "a" * 100, "abcdefgh", "\ud800"):
        for path in (f"heartbeat/{session}!", f"queue/data?session_hash={session}"):
            answer = visitor.client.get(f"/gradio_api/{path}".encode("utf-8", "replace").decode())
            assert 400 <= answer.status_code < 500, path


def test_names_of_uploads_stay_in_the_folder(visitor):
    for name in ("../../../evil.png", "/etc/evil.png", "..", "a/../../b.png", "C:\\evil.png", "x" * 400 + ".png"):
        answer = visitor.client.post("/gradio_api/upload", files={"files": (name, b"x")})
        assert answer.status_code < 500
        for path in answer.json() if answer.status_code == 200 else []:
            assert inside(visitor.guard.folder, path), name


def test_files_that_are_too_large_or_too_many_are_refused(tiny_folder):
    with visiting(tiny_folder, max_body=40_000) as visitor:
        assert visitor.client.post("/gradio_api/upload", files={"files": ("a.png", bytes(50_000))}).status_code == 413
        for k in range(80):
            answer = visitor.client.post("/gradio_api/upload", files={"files": ("a.png", bytes([k]) * 30_000)})
            if answer.status_code != 200:
                break
        assert answer.status_code == 429


# ---------------------------------------------------------------- what it forgets


def test_old_files_go_and_the_folder_goes_with_the_server(tmp_path, tiny_folder):
    for name, age in (("old/a.png", 500), ("new/b.png", 5)):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_bytes(b"12345")
        os.utime(path, (time.time() - age, time.time() - age))
    assert tidied(tmp_path, 100) == [(tmp_path / "new/b.png", 5)]
    assert not (tmp_path / "old").exists()
    with visiting(tiny_folder) as visitor:
        folder = visitor.guard.folder
        visitor.upload(b"x")
        assert list(folder.iterdir())
    assert not folder.exists()


def test_sessions_leave_nothing_behind(visitor):
    for k in range(5):
        visitor.session = f"session{k}"
        visitor.ask("drop", [None])
    queue = visitor.guard.blocks._queue
    assert not any(name.startswith("session") for name in queue.pending_messages_per_session)
    assert not visitor.guard.left.__self__.tickets


@pytest.mark.parametrize("how", ["disconnect", "stop"])
def test_a_browser_that_goes_away_frees_its_job(tiny_folder, monkeypatch, how):
    def endless(form, given, models, settings, folder):
        def work(report):
            while True:
                ticket = engine.running[0]
                ticket.check()
                time.sleep(0.02)

        return work

    monkeypatch.setattr("restore.serve.page_events.work", endless)
    with listening(tiny_folder) as (address, app), httpx.Client(base_url=address) as client:
        engine = app.state.desk.engine
        visitor = Visitor(client, guard_of(app))
        held = visitor.upload(png(noise(16, 16)))
        assert visitor.join("run", visitor.form(picture=held)).status_code == 200
        with client.stream("GET", f"/gradio_api/queue/data?session_hash={visitor.session}") as stream:
            lines = stream.iter_lines()
            while not engine.running:
                time.sleep(0.02)
            ticket = engine.running[0]
            next(lines)
            if how == "stop":
                assert visitor.join("halt", []).status_code == 200
        assert ticket.wait(10)
        assert ticket.state == "stopped"
        assert not engine.running


def test_forms_have_every_control(visitor):
    assert len(visitor.form()) == len(FORM) == len(visitor.fns["run"][1].inputs)
