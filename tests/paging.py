"""The page without a browser: a client that speaks gradio's protocol, and a server on a port of its own."""

import json
import secrets
import socket
import threading
import time
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import uvicorn
from fastapi.testclient import TestClient
from gradio_client.utils import apply_diff
from PIL import Image

from restore.serve.app import create_app
from restore.serve.settings import Settings

FORM = {
    "task": "inpaint", "prior": "tiny", "method": "auto", "quality": "draft", "samples": 1, "seed": 0, "label": "",
    "prompt": "", "scale": 2, "kernel": "motion:9,30", "sigma": "", "strength": 0.5, "side": 32, "holes": "painted",
    "file": "as the picture", "picture": None, "mask": None, "canvas": None,
}  # fmt: skip


def png(x, **options):
    """An array as a PNG file."""
    buffer = BytesIO()
    Image.fromarray(x).save(buffer, "PNG", **options)
    return buffer.getvalue()


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


class Visitor:
    """A session of the page, by an HTTP client."""

    def __init__(self, client, guard):
        self.client, self.guard, self.session = client, guard, secrets.token_hex(6)
        self.fns = {fn.name: (number, fn) for number, fn in guard.blocks.fns.items()}

    def upload(self, data, name="photo.png"):
        """A file's data as the browser names it afterwards."""
        answer = self.client.post("/gradio_api/upload", files={"files": (name, data)})
        assert answer.status_code == 200, answer.text
        path = answer.json()[0]
        url = f"http://127.0.0.1/gradio_api/file={path}"
        return {"path": path, "url": url, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def body(self, name, data, **more):
        number, _ = self.fns[name]
        return {"fn_index": number, "data": data, "session_hash": self.session, "trigger_id": None, **more}

    def join(self, name, data, **more):
        return self.client.post("/gradio_api/queue/join", json=self.body(name, data, **more))

    def ask(self, name, data, **more):
        """The messages of an event, to its end."""
        answer = self.join(name, data, **more)
        assert answer.status_code == 200, answer.text
        stream = self.client.get("/gradio_api/queue/data", params={"session_hash": self.session})
        return [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]

    def form(self, **values):
        """The inputs of `run` in the page's order."""
        order = ["prior", "method", "holes", "mask", "label", "prompt", "scale", "kernel", "sigma", "strength", "side",
                 "picture", "canvas", "task", "quality", "samples", "seed", "file"]  # fmt: skip
        return [{**FORM, **values}[name] for name in order]

    def run(self, **values):
        """The outputs of a run at its end: status, two buttons, slider, picture, download, gallery."""
        messages = self.ask("run", self.form(**values))
        assert messages[-2]["msg"] == "process_completed", messages[-2:]
        assert messages[-2]["success"], messages[-2]
        first, *others = (m["output"]["data"] for m in messages if m["msg"] == "process_generating")
        shown = [first]
        for changes in others:  # of each output
            shown.append([apply_diff(old, new) for old, new in zip(shown[-1], changes, strict=True)])
        return shown[-2]  # the last one sets the buttons back

    def get(self, held):
        """The bytes of a file that an answer names."""
        answer = self.client.get(f"/gradio_api/file={held['path']}")
        assert answer.status_code == 200
        return answer.content


def guard_of(app):
    return app.routes[-1].app


@contextmanager
def visiting(*priors, **settings):
    """A Visitor of an app in this process."""
    app = create_app(Settings(priors=tuple(map(str, priors)), **settings))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield Visitor(client, guard_of(app))
    app.state.desk.engine.close()


@contextmanager
def listening(*priors, **settings):
    """(address, app) of a server that listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    app = create_app(Settings(port=port, priors=tuple(map(str, priors)), **settings))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}", app
    finally:
        app.state.desk.engine.close()
        server.should_exit = True
        thread.join(20)
