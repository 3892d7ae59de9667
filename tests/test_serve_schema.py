"""Random bodies by our own OpenAPI description, real pictures in some of them: never 5xx, and the server lives on."""

from collections import Counter

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import GenerationMode
from serve_app import b64, client, hole, scene

LIMITS = {"max_seconds": 2, "max_steps": 2, "max_samples": 3, "max_pixels": 20_000}
IMAGE, MASK = b64(scene(16, 12)), b64(hole(16, 12))
PICTURES = {"init_images": [IMAGE], "image": IMAGE, "mask": MASK, "imageList": [{"data": IMAGE}]}
SLOW = 10_000  # bodies, by the slow test


@pytest.fixture(scope="module")
def app(tiny_folder):
    with client(tiny_folder, **LIMITS) as found:
        yield found


def operations(app):
    schema = schemathesis.openapi.from_dict(app.app.openapi())
    return [found.ok() for found in schema.get_all_operations()]


def try_out(app, examples, taking):
    """`examples` requests to each operation of these methods: how often each status was answered."""
    counted = Counter()
    for operation in operations(app):
        if operation.method.upper() not in taking:
            continue
        cases = st.one_of(
            operation.as_strategy(),
            operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
            if operation.body
            else operation.as_strategy(),
        )

        @hypothesis.settings(
            max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck), derandomize=True,
        )  # fmt: skip
        @hypothesis.given(case=cases, real=st.sets(st.sampled_from(sorted(PICTURES))))
        def ask(case, real):
            if isinstance(case.body, dict):  # a picture that can be decoded gets further than a random text
                case.body = {**case.body, **{key: PICTURES[key] for key in real if key in case.body}}
            answer = case.call(base_url="http://127.0.0.1", app=app.app)
            counted[answer.status_code] += 1
            assert answer.status_code < 500, (case.method, case.path, str(case.body)[:300], answer.text[:300])

        ask()
    return counted


def lives(app):
    fields = {"init_images": [IMAGE], "mask": MASK, "steps": 1}
    return app.post("/sdapi/v1/img2img", json=fields).status_code == 200


def test_the_description_is_whole(app):
    paths = app.app.openapi()["paths"]
    assert {"/sdapi/v1/img2img", "/api/v1/inpaint", "/v1/images/edits", "/restore/jobs/{id}"} <= set(paths)
    assert all(method["summary"] for path in paths.values() for method in path.values())
    fields = app.app.openapi()["components"]["schemas"]["Img2Img"]["properties"]
    assert {"init_images", "mask", "inpaint_full_res", "denoising_strength", "override_settings"} <= set(fields)
    assert app.get("/docs").status_code == 200


def test_random_requests(app):
    counted = try_out(app, 12, ("GET", "DELETE", "POST"))
    assert counted[200] > 50
    assert counted[422] > 50
    assert lives(app)


@pytest.mark.slow
def test_ten_thousand_bodies(app):
    posts = sum(operation.method.upper() == "POST" for operation in operations(app))
    counted = try_out(app, -(-SLOW // posts), ("POST",))
    print(dict(counted))
    assert counted.total() >= SLOW * 0.9  # hypothesis stops early where it has tried all that there is
    assert lives(app)
