"""Random requests: made by schemathesis of our own OpenAPI, and good ones with something changed. Never 5xx."""

import json
import time
from collections import Counter

import pytest
import schemathesis
from hostile import CLEAR, JSON, MASK, ODD, PLACES, SCENE, e64, message, strict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from serve_app import client, png

from restore.serve.a1111.models import ExtraBatch, ExtraSingle, Img2Img
from restore.serve.engine import REMEMBERED
from restore.serve.iopaint import Inpainting

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of odd pictures
OPENAI = "/v1/images/edits"
WITH_BODY = {*JSON, OPENAI, "/sdapi/v1/options", "/internal/progress"}
FIELDS = sorted({name for model in (Img2Img, ExtraSingle, ExtraBatch, Inpainting) for name in model.model_fields})
KINDS = (
    "1 x 1",
    "16 bits",
    "CMYK",
    "a palette with a hole",
    "gray with alpha",
    "turned",
    "black",
    "white",
    "the double",
)
SMALL = [*(ODD[name] for name in KINDS), png(SCENE), png(MASK), CLEAR]
WORDS = ["NaN", "", "1", "-1", "tiny", "photo-x4", "DDRM", "SDEdit", "RePaint", "ILVR", "Lanczos", "Nearest", "../../x"]
NUMBERS = [0, -1, 1, 2, 3, 64, 0.5, 10**9, 2**63, 10**300, 1e308]


@pytest.fixture(scope="module")
def app(tiny_folder):
    """Little is done of what is asked, and all kinds of it."""
    with client(tiny_folder, max_steps=3, max_pixels=20_000, max_samples=2, max_seconds=20) as found:
        assert found.post("/sdapi/v1/options", json={"sd_model_checkpoint": "tiny"}).status_code == 200
        yield found


def checked(answer, seen):
    """Count the status of an answer; fail on one that is 5xx, or says nothing."""
    assert answer.status_code < 500, (answer.status_code, answer.text[:1000])
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        message(answer)
    elif "json" in answer.headers.get("content-type", ""):
        strict(answer.text)
    seen[answer.status_code] += 1


def examples(count, run, *strategies):
    """Run on so many examples, the same ones every time."""
    few = settings(
        max_examples=count, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    few(given(*strategies)(run))()


class Answer:
    """One of schemathesis, as `message` reads one of httpx."""

    def __init__(self, answer):
        self.status_code, self.text, self.request = answer.status_code, answer.text, self
        self.headers = {name: values[0] for name, values in answer.headers.items()}
        self.method, self.url, self.path = answer.request.method, self, answer.request.path_url


def by_schema(app, bodies, others, seen):
    """Requests for every operation of the OpenAPI: so many for each with a body, so many for each other."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app.app, headers={"host": "127.0.0.1"})
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= WITH_BODY
    for operation in operations:
        has_body = operation.path in WITH_BODY and operation.method.upper() == "POST"
        modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if has_body else [])]
        for mode in modes:
            counted = seen["bodies" if has_body else "others"]
            strategy = operation.as_strategy(generation_mode=mode)
            count = max(1, (bodies if has_body else others) // len(modes))
            examples(count, asking(counted), strategy)


def asking(counted):
    def ask(case):
        checked(Answer(case.call(headers={"host": "127.0.0.1"})), counted)

    return ask


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*WORDS, *NUMBERS]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@st.composite
def pictures(draw):
    """Small ones, now and then with some bytes changed or the end missing."""
    data = bytearray(draw(st.sampled_from(SMALL)))
    change = draw(st.sampled_from([*["none"] * 8, "cut", "bytes"]))
    if change == "cut":
        data = data[: draw(st.integers(1, len(data)))]
    for _ in range(draw(st.integers(1, 5)) if change == "bytes" else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@st.composite
def changed(draw):
    """(path, what post() takes): a good request with another picture, other fields, or other bytes."""
    path, kinds = PLACES[draw(st.sampled_from(sorted(PLACES)))](draw(pictures()))
    if "files" in kinds:
        fields = st.sampled_from(["prompt", "n", "size", "model", "response_format", "output_format", "mask", "x"])
        texts = st.text(max_size=20) | st.sampled_from(["1", "2", "64x48", "auto", "tiny", "b64_json", "jpeg", "webp"])
        return path, {**kinds, "data": draw(st.dictionaries(fields, texts, max_size=3))}
    most = draw(st.sampled_from([0, 0, 0, 1, 1, 2, 4]))
    others = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=9), ANY, max_size=most)
    body = {**kinds["json"], **draw(others)}
    data = bytearray(json.dumps(body).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 3]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return path, {"content": bytes(data), "headers": {"content-type": "application/json"}}


def by_change(app, count, seen):
    def ask(request):
        path, given = request
        checked(app.post(path, **given), seen["changed"])

    examples(count, ask, changed())


def lives(app):
    """It does good work still, and keeps nothing of what it was sent."""
    asked = {"init_images": [e64(png(SCENE))], "mask": e64(png(MASK)), "steps": 1}
    assert app.post("/sdapi/v1/img2img", json=asked).status_code == 200
    assert len(app.desk.engine.tickets) <= REMEMBERED + 1
    assert not app.desk.engine.waiting


def tally():
    return {"bodies": Counter(), "others": Counter(), "changed": Counter()}


def test_random_requests_of_the_schema(app):
    seen = tally()
    by_schema(app, 40, 2, seen)
    lives(app)
    assert sum(seen["bodies"].values()) > 200
    assert sum(seen["others"].values()) > 40
    assert {200, 422} <= set(seen["bodies"])


def test_good_requests_with_something_changed(app):
    seen = tally()
    by_change(app, 150, seen)
    lives(app)
    assert seen["changed"][200] > 30, seen  # the work itself is reached
    assert seen["changed"][422] > 30, seen


@pytest.mark.slow
def test_10000_random_bodies(app, capsys):
    seen, begin = tally(), time.monotonic()
    by_schema(app, 700, 20, seen)
    by_change(app, 5000, seen)
    lives(app)
    count = sum(seen["bodies"].values()) + sum(seen["changed"].values())
    with capsys.disabled():
        print(f"\n{count} bodies in {time.monotonic() - begin:.0f} s:", seen)
    assert count >= 10_000
