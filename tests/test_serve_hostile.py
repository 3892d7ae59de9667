"""Hostile input: 4xx and one line, never 5xx; nothing is read, written or fetched for a caller."""

import base64
import builtins
import json
import os
import socket
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from serve_app import b64, client, hole, png, scene

IMAGE, MASK = b64(scene()), b64(hole())


@pytest.fixture(scope="module")
def app(tiny_folder):
    with client(tiny_folder, max_pixels=2_000_000) as found:
        yield found


@pytest.fixture(autouse=True)
def alive(app):
    """After each of these the server still works."""
    yield
    fields = {"init_images": [IMAGE], "mask": MASK, "steps": 1}
    assert app.post("/sdapi/v1/img2img", json=fields).status_code == 200


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width, height, *chunks):
    """A PNG that declares so many pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    packed = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + packed + chunk(b"IEND", b"")


def text(data):
    return base64.b64encode(data).decode()


GIF = (
    b"GIF89a"
    + struct.pack("<HH", 60_000, 60_000)
    + b"\0\0\0,"
    + struct.pack("<HHHH", 0, 0, 60_000, 60_000)
    + b"\0\2\0;"
)
BAD = {
    "nothing": "",
    "spaces": "   ",
    "broken": IMAGE[:-5],
    "not base64": "%%%%",
    "half": IMAGE[: len(IMAGE) // 2 // 4 * 4],
    "no picture": text(b"hello, world"),
    "a script": text(b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>"),
    "postscript": text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) (r) file"),
    "a path": "/etc/passwd",
    "a relative path": "../../../../etc/passwd",
    "an address": "http://127.0.0.1:9/picture.png",
    "a file address": "file:///etc/passwd",
    "a URI of text": "data:text/plain,hello",
    "a URI without its data": "data:image/png;base64,",
    "not ASCII": "ж" * 100,
    "a zero": "AAAA\0AAAA",
    "a bomb": text(bomb(60_000, 60_000)),
    "a thin bomb": text(bomb(2**31 - 1, 1)),
    "a bomb of text": text(bomb(9, 9, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))))),
    "a bomb of a GIF": text(GIF),
    "no pixels": text(bomb(0, 5)),
    "cut short": text(png(scene(200, 200))[:-2000]),
    "a JPEG cut to its header": text(png(scene(), "JPEG")[:60]),
    "a wrong checksum": text(png(scene()).replace(b"IDAT", b"IDAU", 1)),
}  # fmt: skip


def says(answer, status=(413, 422)):
    """4xx, with one line in the words of the protocol that tells no path of ours."""
    assert answer.status_code in status, answer.text[:300]
    told = answer.json()
    line = told["error"]["message"] if isinstance(told["error"], dict) else told["detail"]
    assert line
    assert "\n" not in line
    assert len(line) < 500
    assert "Traceback" not in line
    assert "site-packages" not in line
    return line


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_is_no_picture(app, data):
    post = lambda path, **fields: app.post(path, json=fields)  # noqa: E731
    says(post("/sdapi/v1/img2img", init_images=[data], steps=1))
    if data.strip():  # an empty mask is none
        says(post("/sdapi/v1/img2img", init_images=[IMAGE], mask=data, steps=1))
    says(post("/sdapi/v1/extra-single-image", image=data))
    says(post("/sdapi/v1/extra-batch-images", imageList=[{"data": IMAGE}, {"data": data}], upscaler_1="Lanczos"))
    says(post("/api/v1/inpaint", image=data, mask=MASK))
    says(post("/api/v1/inpaint", image=IMAGE, mask=data))
    if data not in (BAD["half"], BAD["cut short"], BAD["a wrong checksum"], BAD["a JPEG cut to its header"]):
        says(post("/sdapi/v1/png-info", image=data))  # which looks at the header alone
    raw = data.encode(errors="replace")
    says(app.post("/v1/images/edits", files={"image": ("a.png", raw)}, data={"prompt": ""}))
    says(app.post("/v1/images/edits", files={"image": ("a.png", png(scene())), "mask": ("../../m.png", raw)}))


def named(path):
    """A request for a prior of this name."""
    return {"override_settings": {"sd_model_checkpoint": path}}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"steps": 10**9}, "steps"), ({"steps": 0}, "steps"), ({"steps": -1}, "steps"), ({"steps": "many"}, "steps"),
        ({"steps": 1e300}, "steps"), ({"width": -5}, "width"), ({"height": 0}, "height"), ({"width": 10**9}, "width"),
        ({"width": [1]}, "width"), ({"batch_size": 10**6, "n_iter": 10**6}, "answers"), ({"n_iter": 0}, "n_iter"),
        ({"batch_size": -1}, "batch_size"), ({"denoising_strength": 2}, "denoising_strength"), ({"mask": 5}, "mask"),
        ({"cfg_scale": -1}, "cfg_scale"), ({"seed": "abc"}, "seed"), ({"seed": -7}, "seed"), ({"seed": [1]}, "seed"),
        ({"seed": "9" * 4000}, "seed"), ({"mask": b64(hole(40, 48))}, "shape"), ({"mask_blur": -1}, "mask_blur"),
        ({"mask_blur": 1e9}, "mask_blur"), ({"resize_mode": 9}, "resize_mode"), ({"prompt": []}, "prompt"),
        ({"inpainting_fill": 4}, "inpainting_fill"), ({"inpaint_full_res_padding": -3}, "padding"),
        ({"prompt": "x" * 10_001}, "prompt"), ({"force_task_id": "x" * 101}, "force_task_id"),
        ({"init_images": []}, "init_images"), ({"init_images": [IMAGE] * 65}, "init_images"),
        ({"init_images": IMAGE}, "init_images"), ({"init_images": [None]}, "init_images"),
        ({"init_images": [[IMAGE]]}, "init_images"), ({"override_settings": "photo"}, "override_settings"),
        (named("../../etc/passwd"), "offered"), (named("http://127.0.0.1:9/x.pt"), "offered"),
        (named("google/ddpm-cat-256"), "offered"), (named(["photo"]), "offered"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(app, fields, word):
    assert word in says(
        app.post("/sdapi/v1/img2img", json={"init_images": [IMAGE], "mask": MASK, "steps": 1, **fields})
    )


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"5", b"{", b'{"init_images": [NaN]}', b"\xff\xfe\x00", b'{"init_images"', b"[" * 100_000,
        b'{"a":' * 50_000, b'{"steps": ' + b"9" * 5000 + b"}", b'{"cfg_scale": Infinity, "init_images": ["AAAA"]}',
        b'{"init_images": ["AAAA"], "cfg_scale": NaN}', b'{"init_images": ["\\ud800"]}', b'{"\\ud800": 1}',
        b'{"init_images": ["AAAA"], "prompt": "\\ud800"}', json.dumps({str(i): i for i in range(10_000)}).encode(),
    ],
)  # fmt: skip
def test_broken_bodies(app, body):
    for path in ("/sdapi/v1/img2img", "/sdapi/v1/extra-single-image", "/sdapi/v1/png-info", "/api/v1/inpaint"):
        says(app.post(path, content=body, headers={"Content-Type": "application/json"}), (400, 413, 422))
    says(app.post("/sdapi/v1/img2img", content=body, headers={"Content-Type": "image/png"}), (400, 415, 422))
    says(
        app.post("/v1/images/edits", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}),
        (400, 422),
    )
    says(app.post("/v1/images/edits", content=body, headers={"Content-Type": "multipart/form-data"}), (400, 422))


@pytest.mark.parametrize(
    "fields",
    [
        {"n": "0"}, {"n": "-1"}, {"n": "999"}, {"n": "²"}, {"n": "1e9"}, {"size": "1x1x1"}, {"size": "99999x99999"},
        {"size": "-5x5"}, {"response_format": "url"}, {"output_format": "exe"}, {"prompt": "x" * 30_000},
    ],
)  # fmt: skip
def test_what_openai_cannot_be_asked(app, fields):
    clear = png(np.dstack([scene(), 255 - hole()]))
    says(
        app.post("/v1/images/edits", files={"image": ("../../x.png", clear)}, data={"prompt": "", **fields}),
        (400, 413, 422),
    )


def test_too_many_parts(app):
    clear = png(np.dstack([scene(), 255 - hole()]))
    says(app.post("/v1/images/edits", files=[("image[]", ("a", clear))] * 2), (400, 422))
    says(app.post("/v1/images/edits", files=[("image", ("a", clear))] * 50), (400, 422))
    says(
        app.post("/v1/images/edits", files={"image": ("a", clear)}, data={str(i): "x" for i in range(200)}), (400, 422)
    )
    says(app.post("/v1/images/edits", data={"image": "/etc/passwd", "mask": "/etc/passwd"}), (400, 422))


@pytest.mark.parametrize(
    "image",
    [
        scene(1, 1), scene(1, 300), scene(300, 1), scene(7, 5), scene()[..., 0], np.dstack([scene(), hole()]),
        np.dstack([scene()[..., 0], hole()]),
    ],
    ids=["1x1", "1x300", "300x1", "7x5", "gray", "RGBA", "gray with alpha"],
)  # fmt: skip
def test_odd_pictures_are_answered(app, image):
    whole = np.full(image.shape[:2], 255, np.uint8)
    for mask in (whole, 0 * whole):
        answer = app.post("/sdapi/v1/img2img", json={"init_images": [b64(image)], "mask": b64(mask), "steps": 1})
        assert answer.status_code == 200, answer.text[:300]
    for fields in ({"denoising_strength": 0.3}, {"width": 9, "height": 30, "resize_mode": 2}):
        answer = app.post("/sdapi/v1/img2img", json={"init_images": [b64(image)], "steps": 1, **fields})
        assert answer.status_code == 200, answer.text[:300]
    assert app.post("/sdapi/v1/extra-single-image", json={"image": b64(image)}).status_code == 200


@pytest.mark.parametrize("kind", ["GIF", "CMYK", "P", "1", "TIFF", "WEBP", "animation"])
def test_rare_pictures_are_answered(app, kind):
    import io

    from PIL import Image

    image, file = Image.fromarray(scene()), io.BytesIO()
    if kind in ("CMYK", "P", "1"):
        image.convert(kind).save(file, "TIFF" if kind == "CMYK" else "PNG")
    elif kind == "animation":
        image.save(file, "GIF", save_all=True, append_images=[image.rotate(90)])
    else:
        image.save(file, kind)
    fields = {"init_images": [text(file.getvalue())], "mask": MASK, "steps": 1}
    assert app.post("/sdapi/v1/img2img", json=fields).status_code == 200


def test_no_address_is_fetched_and_no_path_opened(app, monkeypatch, tmp_path):
    """Of pictures, masks, priors and file names: no socket is asked, no file opened."""
    opened, asked = [], []
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(scene()))
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: asked.append(listening.accept()), daemon=True).start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/secret.png"
    plain, plain_os = builtins.open, os.open
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: (opened.append(str(file)), plain(file, *a, **k))[1])
    monkeypatch.setattr(os, "open", lambda file, *a, **k: (opened.append(str(file)), plain_os(file, *a, **k))[1])
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}") if path == secret else b"")
    for where in (str(secret), f"file://{secret}", address):
        app.post("/sdapi/v1/img2img", json={"init_images": [where], "mask": where, "steps": 1})
        app.post(
            "/sdapi/v1/img2img", json={"init_images": [IMAGE], "override_settings": {"sd_model_checkpoint": where}}
        )
        app.post(
            "/sdapi/v1/options", json={"sd_model_checkpoint": where, "samples_format": where, "outdir_samples": where}
        )
        app.post("/sdapi/v1/extra-single-image", json={"image": where, "upscaler_1": where})
        app.post("/sdapi/v1/png-info", json={"image": where})
        app.post("/api/v1/inpaint", json={"image": where, "mask": where})
        app.post("/v1/images/edits", files={"image": (str(secret), png(scene()))}, data={"mask": where, "model": where})
        app.get(f"/restore/jobs/{where}")
        app.get(f"/sdapi/v1/{where}")
    assert not asked
    assert not [path for path in opened if "secret" in path]
    listening.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret.png"]
