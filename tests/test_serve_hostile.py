"""Hostile requests: each is answered with 4xx and one line, reads and fetches nothing of its choosing, and passes."""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from hostile import (
    BOMBS,
    BROKEN,
    CLEAR,
    JSON,
    MASK,
    ODD,
    PLACES,
    SCENE,
    TEXTS,
    e64,
    message,
    multipart,
    refused,
    send,
    strict,
    turned,
    with_chunk,
)
from serve_app import b64, client, pixels, png, scene, served

from restore.prior import Prior
from restore.serve.a1111.infotext import parse

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of odd pictures
IMG2IMG = "/sdapi/v1/img2img"


@pytest.fixture(scope="module")
def app(tiny_folder):
    with client(tiny_folder) as found:
        yield found


@pytest.fixture(autouse=True)
def alive(request):
    """After whatever a test has sent, a good request is answered."""
    yield
    if "app" in request.fixturenames:
        app = request.getfixturevalue("app")
        answer = app.post(IMG2IMG, json={"init_images": [b64(SCENE)], "mask": b64(MASK), "steps": 1})
        assert answer.status_code == 200, answer.text


@pytest.fixture
def undecoded(monkeypatch):
    """Nothing may be decoded, and no network asked."""

    def stop(*args, **options):
        raise AssertionError("the input is bad, and was worked on")

    monkeypatch.setattr("restore.serve.pictures.read", stop)
    monkeypatch.setattr(Prior, "__call__", stop)


def post(app, body, path=IMG2IMG, kind="application/json"):
    return app.post(path, content=body, headers={"content-type": kind})


def inpaint(app, **fields):
    return app.post(IMG2IMG, json={"init_images": [b64(SCENE)], "mask": b64(MASK), "steps": 1, **fields})


def raw(field, value):
    """A body in which a field has this text for a value."""
    body = json.dumps({"init_images": [b64(SCENE)], "mask": b64(MASK), "steps": 1})
    return f'{body[:-1]}, "{field}": {value}}}'.encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("place", PLACES)
def test_bombs_are_refused_before_they_are_decoded(place, app, undecoded):
    for name, data in BOMBS.items():
        line = refused(send(app, place, data), 413)
        assert " x " in line, name


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_picture_is_refused(place, app):
    headers = (
        "half",
        "without its end",
        "floats",
        "only a header",
    )  # a header alone has no pixels, but may have an infotext
    for name, data in BROKEN.items():
        answer = send(app, place, data)
        if place == "png-info" and any(word in name for word in headers):
            assert answer.status_code == 200 or message(answer)
        else:
            line = refused(answer, 422)
            assert any(word in line for word in ("not an image", "damaged", "has no pixels", "floating")), (name, line)


@pytest.mark.parametrize("place", PLACES)
def test_strange_pictures_are_answered_or_refused(place, app):
    for name, data in ODD.items():
        answer = send(app, place, data)
        if answer.status_code != 200:
            line = refused(answer, 413, 422)
            assert any(word in line for word in (" x ", "transparent")), (name, line)


def test_strange_pictures_that_can_be_read_are(app):
    refusals = {name for name, data in ODD.items() if send(app, "extra", data).status_code != 200}
    assert not refusals


@pytest.mark.parametrize("place", TEXTS)
def test_what_is_no_base64_is_refused(place, app, undecoded):
    good = b64(SCENE)
    bad = [
        *([] if place == "mask" else [""]),  # that is no mask, as plugins send it
        "=", "====", "A", "é", "%%%", "\ud800", "\0", good[:-5], good[:100] + "*" + good[100:], good + "\0", "data:,x",
        "data:image/png;base64,", "data:image/png,%89PNG", f"data:image/png;base64,{good[:-5]}", "data:" + "a" * 10**6,
        " " * 10**6, "\n", "-_-_", f"data:{'x;' * 10**5};base64,{good}", f"DATA:text/html;base64,{e64(b'<html>')}",
    ]  # fmt: skip
    for text in bad:
        path, given = PLACES[place](b"MARK")
        begin = time.monotonic()
        body = json.dumps(given["json"]).replace(json.dumps(e64(b"MARK")), json.dumps(text))
        refused(post(app, body, path), 422)
        assert time.monotonic() - begin < 2, text[:40]


@pytest.mark.parametrize("crop", [True, False])
def test_no_intermediate_size_is_beyond_the_limits(crop, app):
    """A narrow picture that is to be cropped to a wide one is enlarged far beyond both first."""
    narrow = {"image": e64(png(scene(1, 2000))), "resize_mode": 1, "upscaling_crop": crop}
    line = refused(
        app.post("/sdapi/v1/extra-single-image", json={**narrow, "upscaling_resize_w": 200, "upscaling_resize_h": 1}),
        413 if not crop else 422,
    )
    assert ("narrow" if crop else "pixels") in line


def test_a_narrow_picture_to_be_edited_at_a_wide_size(app):
    narrow = {"init_images": [e64(png(scene(1, 2000)))], "steps": 1, "width": 200, "height": 8, "resize_mode": 1}
    assert "narrow" in refused(app.post(IMG2IMG, json=narrow), 413, 422)


def test_an_upscaler_may_not_make_more_on_its_way(app, undecoded):
    """4 times a picture of 9 million is beyond 40, though the answer is not."""
    image = e64(png(np.zeros((3000, 3000), np.uint8)))
    asked = {"image": image, "upscaling_resize": 1.001, "upscaler_1": "photo-x4"}
    assert "4 times" in refused(app.post("/sdapi/v1/extra-single-image", json=asked), 413)


@pytest.mark.parametrize("upscaler", ["Lanczos", "Nearest", "tiny"])
def test_a_turned_picture_keeps_its_shape(upscaler, app):
    asked = {"image": e64(turned()), "upscaling_resize": 2, "upscaler_1": upscaler}
    assert pixels(app.post("/sdapi/v1/extra-single-image", json=asked).json()["image"]).shape == (128, 96, 3)


def test_a_turned_picture_keeps_its_shape_for_openai(app):
    mask = png(np.dstack([SCENE, 255 - MASK]).swapaxes(0, 1))
    answer = app.post("/v1/images/edits", **multipart(image=turned(), mask=mask))
    assert pixels(answer.json()["data"][0]["b64_json"]).shape[:2] == (64, 48)


# ---------------------------------------------------------------- bodies


BODIES = {
    "empty": b"", "a brace": b"{", "null": b"null", "a list": b"[]", "a number": b"1", "a text": b'"x"',
    "cut short": raw("a", "1")[:60], "no UTF-8": b'{"image": "\xff\xfe"}', "zeros": bytes(99), "a BOM": b"\xff\xfe",
    "deep lists": b"[" * 10**6, "deep objects": b'{"a":' * 10**5, "deep and closed": b"[" * 50_000 + b"]" * 50_000,
    "a long number": b'{"image": ' + b"1" * 5000 + b"}", "two values": b"{}{}", "a comment": b"{/**/}",
    "many values": b'{"init_images": [' + b"[]," * 10**6 + b"[]]}", "no JSON": b"image=x&mask=y",
}  # fmt: skip


@pytest.mark.parametrize("path", JSON)
def test_broken_bodies_are_refused(path, app, undecoded):
    for name, body in BODIES.items():
        begin = time.monotonic()
        refused(post(app, body, path), 400, 413, 422)
        assert time.monotonic() - begin < 5, name


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "\0", "a/b"]
)
def test_other_kinds_of_content_are_refused(kind, app, undecoded):
    for path in JSON:
        if path != "/sdapi/v1/txt2img":
            refused(post(app, raw("a", "1"), path, kind), 400, 422)


REFUSED = {  # field: values as they stand in the body
    "steps": ["1000000000", "-1", "0", "1" + "0" * 400, "1" + "0" * 4000, "1" + "0" * 5000, "1e9", "1e999", "NaN",
              "0.5", '"many"', '"1\\u0660"', "[]", "{}", '"\\ud800"'],
    "width": ["-1", "0", "32769", "1000000000", "1" + "0" * 4000, "NaN", "Infinity", "-1e300", "[]", '"\\u0000"'],
    "height": ["-512", "0", "1000000000", "-Infinity", '"wide"'],
    "seed": ["-2", "-1" + "0" * 30, "1" + "0" * 18, "1" + "0" * 4000, "1e400", "NaN", "1.5", '"seed"', '"\\ud800"',
             "[]", '"' + "9" * 10**5 + '"', '"\\u0663"'],
    "batch_size": ["0", "-1", "17", "1000000", "1" + "0" * 400, "null", "NaN"],
    "n_iter": ["0", "-5", "17", "1000001", "1e6", '"a"'],
    "cfg_scale": ["-1", "NaN", "Infinity", "1e300", '"x"'],
    "denoising_strength": ["-0.1", "1.1", "NaN", "1e999"],
    "mask_blur": ["-1", "1e9", "NaN"],
    "resize_mode": ["-1", "4", "1e9", "0.5"],
    "inpainting_fill": ["-1", "4"],
    "inpaint_full_res_padding": ["-1", "1000000", "NaN"],
    "prompt": ['"' + "x" * 10_001 + '"', "[]", "{}", '"\\ud800 \\u0000 \\udfff"'],
    "negative_prompt": ['"' + "x" * 10**6 + '"'],
    "override_settings": ["[]", '"x"', '{"a": NaN}', '{"a": ' + "[" * 300 + "]" * 300 + "}",
                          *(f'{{"sd_model_checkpoint": {name}}}' for name in ('"../../etc/passwd"', '["a"]',
                            '"\\ud800"',
                            '"http://127.0.0.1/x"', '"file:///etc/passwd"', "[" * 300 + "]" * 300))],
    "alwayson_scripts": ["NaN", "[Infinity]", "[" * 300 + "]" * 300, '{"a": ' * 100 + "1" + "}" * 100],
    "force_task_id": ['"' + "x" * 101 + '"', "{}", '"\\ud800"'],
    "init_images": ["[]", "null", '"x"', "{}", "[null]", "[[]]", "[1]", "[" + '"x",' * 64 + '"x"]'],
    "mask": ["1", "[]", '"x"', "{}"],
}  # fmt: skip


@pytest.mark.parametrize("field", REFUSED)
def test_values_beyond_sense_are_refused(field, app, undecoded):
    for value in REFUSED[field]:
        line = refused(post(app, raw(field, value)), 400, 413, 422)
        assert field.split("_")[0] in line or "body" in line or "answers" in line or "prior" in line, (value[:40], line)


IGNORED = {  # odd values that mean nothing, or nothing else: field: values
    "prompt": ['"\\u0000"', '"' + "x" * 10_000 + '"', "7", "null"],
    "negative_prompt": ['"\\u0000"', '"<script>"'],
    "sampler_name": ['"../../x"', "-1", "1" + "0" * 4000, '"\\ud800"', '"' + "x" * 10**5 + '"'],
    "script_name": ['"../../x.py"', '"\\u0000"'],
    "alwayson_scripts": ['{"a": {"args": ["/etc/passwd", "http://127.0.0.1/"]}}', "[" * 40 + "]" * 40],
    "unknown": ["NaN", "1" + "0" * 4000, "[" * 300 + "]" * 300, '"\\ud800"'],
    "steps": ["1", "null", '""', '" 1 "'],
    "force_task_id": ['"../../\\u0000"', '""'],
}


@pytest.mark.parametrize("field", IGNORED)
def test_what_means_nothing_here_does_no_harm(field, app):
    for value in IGNORED[field]:
        answer = post(app, raw(field, value))
        assert answer.status_code == 200, (value[:40], answer.text[:300])
        assert strict(answer.text)["images"]
        strict(strict(answer.text)["info"])


def test_of_a_key_given_twice_the_last_counts(app):
    assert "steps" in refused(post(app, raw("steps", '2, "steps": -1')), 422)


def test_many_fields(app):
    many = ", ".join(f'"f{i}": {i}' for i in range(10**5))
    assert post(app, raw("many", f"{{{many}}}")).status_code == 200
    many = ", ".join(f'"f{i}": {i}' for i in range(10**6))
    assert "parts" in refused(post(app, raw("many", f"{{{many}}}")), 413)


def test_only_some_pictures_are_taken_at_once(app, undecoded):
    one = b64(SCENE)
    assert "64" in refused(app.post(IMG2IMG, json={"init_images": [one] * 65}), 422)
    assert "17 answers" in refused(app.post(IMG2IMG, json={"init_images": [one] * 17}), 422)
    asked = {"init_images": [one] * 16, "mask": b64(MASK), "n_iter": 2}
    assert "32 answers" in refused(app.post(IMG2IMG, json=asked), 422)
    assert "16 at once" in refused(inpaint(app, batch_size=5, n_iter=5), 422)
    asked = {"imageList": [{"data": one, "name": "a"}] * 65}
    assert "64" in refused(app.post("/sdapi/v1/extra-batch-images", json=asked), 422)
    asked["imageList"] = asked["imageList"][:17]
    assert "17 answers" in refused(app.post("/sdapi/v1/extra-batch-images", json=asked), 422)
    assert "20 answers" in refused(app.post("/v1/images/edits", data={"n": "20"}, **multipart(image=CLEAR)), 422)


def test_pixels_of_answers_have_limits(tiny_folder, undecoded):
    with client(tiny_folder, max_pixels=10_000) as app:
        one = b64(SCENE)
        for width, height in ((1000, 11), (100, 101), (32768, 32768)):
            asked = {"init_images": [one], "width": width, "height": height}
            assert "answer" in refused(app.post(IMG2IMG, json=asked), 413)
            assert "answer" in refused(app.post("/sdapi/v1/txt2img", json={"width": width, "height": height}), 413)
        assert "million" in refused(inpaint(app, batch_size=4), 422)
        assert "million" in refused(app.post(IMG2IMG, json={"init_images": [one] * 4}), 422)
        for fields in ({"upscaling_resize": 2}, {"upscaling_resize_w": 128, "resize_mode": 1, "upscaling_crop": False}):
            asked = {"image": one, "upscaler_1": "None", **fields}
            assert "answer" in refused(app.post("/sdapi/v1/extra-single-image", json=asked), 413)
        asked = {"imageList": [{"data": one}] * 4, "upscaling_resize": 1}
        assert "million" in refused(app.post("/sdapi/v1/extra-batch-images", json=asked), 422)
        sent = multipart(image=CLEAR)
        assert "answer" in refused(app.post("/v1/images/edits", data={"size": "128x96"}, **sent), 413)
        assert "million" in refused(app.post("/v1/images/edits", data={"n": "4"}, **sent), 422)
        for place in PLACES:
            refused(send(app, place, png(scene(101, 100))), 413)


@pytest.mark.parametrize("value", [0, -1, "NaN", "Infinity", 16.1, 1e300, 1e-320, '"x"', "[]"])
def test_scales_beyond_sense(value, app):
    body = f'{{"image": "{b64(SCENE)}", "upscaler_1": "None", "upscaling_resize": {value}}}'
    answer = post(app, body, "/sdapi/v1/extra-single-image")
    assert answer.status_code == 200 if value == 1e-320 else "upscaling_resize" in refused(answer, 422)


# ---------------------------------------------------------------- multipart


def form(app, *parts, kind="multipart/form-data; boundary=XX", end=b"--XX--\r\n"):
    """The edit of parts, (headers, data) each, as they stand."""
    body = b"".join(b"--XX\r\n" + head + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end
    return app.post("/v1/images/edits", content=body, headers={"content-type": kind})


HEAD = b'Content-Disposition: form-data; name="'
IMAGE = (HEAD + b'image"; filename="../../x"', CLEAR)
PROMPT = (HEAD + b'prompt"', b"a cat")
FORMS = {
    "nothing": [], "no image": [PROMPT], "a text as image": [(HEAD + b'image"', CLEAR)],
    "an empty image": [(IMAGE[0], b"")], "a path as image": [(IMAGE[0], b"/etc/passwd")], "two images": [IMAGE, IMAGE],
    "an address as image": [(HEAD + b'image"', b"http://127.0.0.1/x.png")], "no name": [(b"A: b", b"x"), IMAGE],
    "five files": [IMAGE, *[(HEAD + b'f"; filename="f"', b"x")] * 5], "many fields": [PROMPT] * 10**4,
    "many names": [(HEAD + str(i).encode() + b'"', b"x") for i in range(51)],
    "a long text": [IMAGE, (PROMPT[0], b"x" * 10**6)], "many headers": [(b"\r\n".join([b"A: b"] * 10**4), b"x")],
    "a long header": [(b"A: " + b"b" * 10**6, b"x")], "no header": [(b"", b"x")], "a bad header": [(b"A\0: b", b"x")],
    "a mask of text": [IMAGE, (HEAD + b'mask"; filename="m"', b"x")], "n of 0": [IMAGE, (HEAD + b'n"', b"0")],
    "many": [IMAGE, (HEAD + b'n"', b"9" * 5000)], "other digits": [IMAGE, (HEAD + b'n"', "٣".encode())],
    "no size": [IMAGE, (HEAD + b'size"', b"0x0")], "a large size": [IMAGE, (HEAD + b'size"', b"99999x99999")],
    "half a size": [IMAGE, (HEAD + b'size"', b"64x")], "a path as format": [IMAGE, (HEAD + b'output_format"', b"../x")],
    "an address wanted": [IMAGE, (HEAD + b'response_format"', b"url")],
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_make_no_sense_are_refused(name, app, undecoded):
    refused(form(app, *FORMS[name]), 400, 413, 422)


@pytest.mark.parametrize(
    "kind", ["", "; boundary=", "; boundary=" + "a" * 9999, "; boundary=Y", '; boundary="', "; charset=x"]
)
def test_forms_without_their_boundary_are_refused(kind, app, undecoded):
    refused(form(app, IMAGE, kind=f"multipart/form-data{kind}"), 400, 422)
    refused(form(app, end=bytes(999), kind=f"multipart/form-data{kind}"), 400, 422)


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "utf-7", "hex", "x\0y", "a" * 999, "utf-16"])
def test_forms_in_strange_encodings_are_refused(charset, app, undecoded):
    for name in ("charset", "CHARSET"):
        kind = f"multipart/form-data; boundary=XX; {name}={charset}"
        assert "UTF-8" in refused(form(app, (HEAD + b'\xff\xfe\xd8"', b"\xff\xfe"), IMAGE, kind=kind), 422)


def test_another_shape_is_refused(app):
    assert "64 x 48" in refused(form(app, IMAGE, (HEAD + b'size"', b"48x64")), 422)


@pytest.mark.parametrize("kind", ["multipart/mixed; boundary=XX", "application/json", "text/plain", ""])
def test_what_is_no_form_is_refused(kind, app, undecoded):
    assert "multipart/form-data" in refused(form(app, IMAGE, kind=kind), 422)


def test_strange_forms_that_make_sense(app):
    for more in (
        (HEAD + b'prompt"', b"\xff\0\xed\xa0\x80"),
        (HEAD + b'model"', b"../../etc/passwd"),
        (HEAD + b'\xff"', b""),
    ):
        assert form(app, IMAGE, more).status_code == 200
    for head in (
        b'image[]"; filename="a\0b"',
        b'image"; filename="C:\\..\\x"',
        b'image"; filename="' + b"x" * 999 + b'"',
    ):
        assert form(app, (HEAD + head, CLEAR)).status_code == 200
    assert form(app, IMAGE, kind="Multipart/Form-Data; boundary=XX; charset=UTF-8").status_code == 200


# ---------------------------------------------------------------- an infotext


@pytest.mark.parametrize(
    "text",
    ["k: 1, a" + " " * 10**6 + "b", "a: 1," + 'k:"\\",' * 10**5, "a" * 10**7, "\n" * 10**6 + "x", "k:" * 10**6],
    ids=["spaces", "quotes", "letters", "lines", "colons"],
)
def test_a_strange_infotext_is_read_in_no_time(text):
    begin = time.monotonic()
    assert isinstance(parse(text), dict)
    assert time.monotonic() - begin < 2


def test_a_strange_infotext_in_a_picture(app):
    text = ("k: 1, a" + " " * 50_000 + "b\0\ud800").encode("utf-8", "surrogatepass")
    for kind in (b"tEXt", b"iTXt"):
        body = b"parameters\0" + (bytes(4) if kind == b"iTXt" else b"") + text
        answer = send(app, "png-info", with_chunk(kind, body))
        assert answer.status_code == 200, answer.text
        strict(answer.text)


# ---------------------------------------------------------------- no path, no address


KINDS = ("open", "os", "socket", "urllib", "subprocess", "shutil", "tempfile")
OUTSIDE = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "urllib.Request")
watching = None  # the list that takes the events while one is watched


def watch(event, args):
    if watching is not None and event.split(".")[0] in (
        "open",
        "os",
        "socket",
        "urllib",
        "subprocess",
        "shutil",
        "tempfile",
    ):
        watching.append((event, args))


@contextmanager
def watched():
    """The list of what Python does outside of itself meanwhile."""
    global watching
    if not hasattr(sys, "_watched_by_hostile"):
        sys.addaudithook(watch)
        sys._watched_by_hostile = True
    watching = []
    try:
        yield watching
    finally:
        watching = None


@pytest.fixture
def trap():
    """A server that nobody may ask: its address; it fails the test where somebody did."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listening.accept()


def baits(path, trap):
    """Names of a file, and of something on a server."""
    port = trap.partition(":")[2]
    forms = (
        "{}",
        "file://{}",
        "file:{}",
        "../../../../../../../..{}",
        "{}\0.png",
        "~/../../..{}",
        "gradio_api/file={}",
    )
    addresses = ("http://{}/x.png", "https://{}/x.png", "ftp://{}/x.png", "//{}/x.png", "http://u:p@{}/x.png")
    return [
        *(form.format(path) for form in forms),
        *(form.format(trap) for form in addresses),
        f"http://localhost:{port}/x.png",
        f"data:image/png;base64,{path}",
        f"data:{path}",
        f"data:image/png;base64,http://{trap}/x.png",
    ]


def test_nothing_of_the_callers_choosing_is_read_written_or_fetched(app, tmp_path, trap):
    """Every field that holds a text holds paths and addresses, in turn, and all others are good."""
    secret = tmp_path / "caller" / "secret.png"
    secret.parent.mkdir()
    secret.write_bytes(CLEAR)
    assert inpaint(app).status_code == 200  # the prior is loaded
    assert app.post("/sdapi/v1/txt2img", json={"steps": 1, "width": 16, "height": 16}).status_code == 200
    one, mask = b64(SCENE), b64(MASK)
    good = {
        IMG2IMG: {"init_images": [one], "mask": mask, "steps": 1},
        "/sdapi/v1/extra-single-image": {"image": one, "upscaler_1": "None"},
        "/sdapi/v1/extra-batch-images": {"imageList": [{"data": one, "name": "x"}], "upscaler_1": "None"},
        "/api/v1/inpaint": {"image": one, "mask": mask},
        "/sdapi/v1/txt2img": {"steps": 1, "width": 16, "height": 16},
        "/sdapi/v1/png-info": {"image": one},
    }
    texts = ["prompt", "negative_prompt", "sampler_name", "sampler_index", "script_name", "force_task_id", "mask",
             "image", "upscaler_1", "upscaler_2", "alwayson_scripts", "sd_model_checkpoint", "samples_format", "styles",
             "outpath", "save_images", "do_not_save_samples", "sd_vae", "image_path", "url"]  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    with watched() as events:
        for bait in baits(secret, trap):
            for path, fields in good.items():
                for text in ("*", *(texts if bait in (str(secret), f"http://{trap}/x.png") else ())):
                    more = dict.fromkeys([*texts, "enable_hr"], bait) if text == "*" else {text: bait}
                    answer = app.post(path, json={**fields, **more})
                    assert answer.status_code < 500, answer.text
            for fields in (
                {"init_images": [bait]}, {"init_images": [one], "override_settings": {"sd_model_checkpoint": bait}},
                {"init_images": [one], "override_settings": {"outdir_samples": bait, "sd_vae": bait}, "steps": 1},
            ):  # fmt: skip
                assert app.post(IMG2IMG, json=fields).status_code < 500
            app.post("/sdapi/v1/extra-batch-images", json={"imageList": [{"data": bait, "name": bait}]})
            app.post(
                "/sdapi/v1/extra-batch-images", json={"imageList": [{"data": one, "name": bait}], "upscaler_1": "None"}
            )
            app.post(
                "/sdapi/v1/options", json={"sd_model_checkpoint": bait, "samples_format": bait, "outdir_samples": bait}
            )
            app.post("/internal/progress", json={"id_task": bait})
            app.get("/restore/jobs/" + bait.replace("\0", "%00").replace("?", ""))
            app.get("/sdapi/v1/progress", params={"path": bait})
            fields = {"model": bait, "prompt": bait, "image_url": bait, "size": bait if len(bait) > 90 else "auto"}
            assert app.post("/v1/images/edits", data=fields, files={"image": (bait, CLEAR)}).status_code < 500
            assert app.post("/v1/images/edits", data={"image": bait, "mask": bait}).status_code < 500
    assert len(app.desk.engine.tickets) > 20  # much of that was worked on
    own = os.path.realpath(tempfile.gettempdir())
    for event, args in events:
        assert "caller" not in repr(args), (event, args)
        assert event not in (
            "socket.connect",
            "socket.getaddrinfo",
            "subprocess.Popen",
            "os.system",
            "urllib.Request",
        ), event
        if (
            event == "open"
            and isinstance(args[0], str)
            and isinstance(args[2], int)
            and args[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            assert os.path.realpath(args[0]).startswith(own) or args[0].startswith("/dev/"), args
    assert sorted(tmp_path.rglob("*")) == before
    assert secret.read_bytes() == CLEAR


def test_the_watch_sees(tmp_path, trap):
    """Else the test above would show nothing."""
    with watched() as events:
        (tmp_path / "seen").write_text("x")
        with socket.socket() as one, pytest.raises(ConnectionRefusedError):
            one.connect(("127.0.0.1", 1))
    assert {"open", "socket.connect"} <= {event for event, _ in events}


# ---------------------------------------------------------------- through a socket


@pytest.fixture(scope="module")
def server(tiny_folder):
    with served(tiny_folder, "--max-body", 8) as found:
        yield found


def talk(server, data, pieces=(), timeout=20):
    """(what is answered, how many bytes could be sent) to raw bytes, and more of them."""
    url, sent = urlsplit(server.url), 0
    with socket.create_connection((url.hostname, url.port), timeout) as line:
        try:
            line.sendall(data)
            for piece in pieces:
                line.sendall(piece)
                sent += len(piece)
        except OSError:  # it was closed
            pass
        answer = b""
        try:
            while piece := line.recv(65536):
                answer += piece
        except ConnectionError:
            pass
    return answer.decode("latin-1"), sent


START = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {}\r\n"
MIB = 2**20


@pytest.mark.parametrize("path", [*JSON, "/v1/images/edits", "/sdapi/v1/options", "/internal/progress", "/none"])
def test_2_gb_are_refused_before_they_are_read(path, server):
    kind = "multipart/form-data; boundary=XX" if "images" in path else "application/json"
    memory = psutil.Process(server.process.pid).memory_info().rss
    head = START.format(path, kind)
    answer, _ = talk(server, f"{head}Content-Length: {2**31}\r\n\r\n".encode())  # nothing is sent, and it answers
    assert "413" in answer.split("\r\n")[0]
    assert "connection: close" in answer.lower()
    assert "too large" in answer
    for length, wrap in ((f"Content-Length: {2**31}", b"%s"), ("Transfer-Encoding: chunked", b"10000\r\n%s\r\n")):
        pieces = (wrap % (b"x" * 65536) for _ in range(2**31 // 65536))
        answer, sent = talk(server, f"{head}{length}\r\n\r\n".encode(), pieces)
        assert sent < 64 * MIB
        assert answer.split(" ")[1][0] == "4" or not answer  # the answer may be lost where the client goes on sending
    assert psutil.Process(server.process.pid).memory_info().rss < memory + 100 * MIB
    assert "200 OK" in talk(server, b"GET /internal/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[0]


@pytest.mark.parametrize("length", ["-1", "abc", "9" * 30, "1_0", "+5", "1, 2", "2\r\nContent-Length: 3", "٣", "1e3"])
def test_lengths_that_are_none_are_refused(length, server):
    answer, _ = talk(server, (START.format(IMG2IMG, "application/json") + f"Content-Length: {length}\r\n\r\n").encode())
    assert answer.split(" ")[1] == "400"


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 10**6 + b"\r\n\r\n",
        b"POST /sdapi/v1/img2img HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /sdapi/v1/img2img HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://127.0.0.1:1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(data, server):
    answer, _ = talk(server, data)
    assert answer.split(" ")[1][0] in "45" or not answer
    assert answer.split(" ")[1] in ("400", "403", "404", "405", "501")
    assert "Traceback" not in answer


def test_a_body_that_ends_early_stops_nothing(server):
    """The client says more than it sends, and goes."""
    url = urlsplit(server.url)
    for data in (b"", b"{", b'{"init_images": ["'):
        with socket.create_connection((url.hostname, url.port), 20) as line:
            line.sendall(START.format(IMG2IMG, "application/json").encode() + b"Content-Length: 9999\r\n\r\n" + data)
    connection = HTTPConnection(url.hostname, url.port, timeout=20)
    connection.request("GET", "/restore/status")
    facts = strict(connection.getresponse().read())
    connection.close()
    assert (facts["running"], facts["waiting"]) == (0, 0)


def test_many_at_once_that_are_no_requests(server):
    """Connections that say nothing keep nobody out."""
    url = urlsplit(server.url)
    lines = [socket.create_connection((url.hostname, url.port), 20) for _ in range(100)]
    threads = [threading.Thread(target=line.sendall, args=(b"POST /sdapi/v1/img2img HT",)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer, _ = talk(server, b"GET /internal/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert "200 OK" in answer
    for line in lines:
        line.close()


def test_nothing_was_logged_but_what_is_no_request(server):
    """The last test of this server: no traceback on its standard error."""
    assert not [line for line in server.said if "Traceback" in line or "Error" in line]
    assert server.process.poll() is None
