"""Real clients, and requests of the shapes that plugins send, against a server in a process of its own."""

import base64
import io
import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import openai
import pytest
import requests
import webuiapi
from PIL import Image
from serve_app import b64, hole, pixels, png, scene, served, uri

SHAPES = Path(__file__).parent / "data" / "serve"
KEY = "user:password-of-8"
MASK, SCENE = hole(), scene()


@pytest.fixture(scope="module")
def server(tiny_folder):
    with served(tiny_folder, "--api-key", KEY) as found:
        yield found


@pytest.fixture(scope="module")
def webui(server):
    host, port = server.url.removeprefix("http://").split(":")
    return webuiapi.WebUIApi(host, int(port), sampler="DDRM", steps=3, username="user", password="password-of-8")


def same_outside(image, mask=MASK):
    return np.array_equal(np.asarray(image.convert("RGB"))[mask == 0], SCENE[mask == 0])


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---------------------------------------------------------------- webuiapi


def test_webuiapi_inpaints(webui):
    found = webui.img2img(images=[Image.fromarray(SCENE)], mask_image=Image.fromarray(MASK), seed=3, batch_size=2)
    assert found.image.size == (64, 48)
    assert found.info["all_seeds"] == [3, 4]
    assert found.parameters["steps"] == 3
    assert all(same_outside(image) for image in found.images)
    assert not np.array_equal(*map(np.asarray, found.images))
    assert (np.asarray(found.image) != SCENE).any(-1)[MASK > 0].mean() > 0.9


def test_webuiapi_edits_and_samples(webui):
    found = webui.img2img(images=[Image.fromarray(SCENE)], width=40, height=32, denoising_strength=0.3)
    assert found.image.size == (40, 32)
    assert webui.txt2img(prompt="a cat", width=24, height=16).image.size == (24, 16)


def test_webuiapi_enlarges(webui):
    picture = Image.fromarray(SCENE)
    assert webui.extra_single_image(image=picture, upscaler_1=webuiapi.Upscaler.ESRGAN_4x).image.size == (128, 96)
    found = webui.extra_batch_images([picture, picture.crop((0, 0, 20, 10))], upscaling_resize=3, upscaler_1="Lanczos")
    assert [image.size for image in found.images] == [(192, 144), (60, 30)]


def test_webuiapi_reads_how_a_picture_was_made(webui):
    made = webui.img2img(images=[Image.fromarray(SCENE)], mask_image=Image.fromarray(MASK), prompt="hello", seed=11)
    told = webui.png_info(made.image)
    assert told.info == made.info["infotexts"][0]
    assert "Seed: 11" in told.info


def test_webuiapi_watches_and_interrupts(webui):
    """What it asks while a job runs; an interrupted job answers 200, with the pictures that were finished."""
    large = Image.fromarray(scene(320, 240))
    answers = []
    ask = {"images": [large], "mask_image": Image.fromarray(hole(320, 240)), "sampler_name": "RePaint", "steps": 900}
    thread = threading.Thread(target=lambda: answers.append(webui.img2img(**ask)))
    assert webui.get_progress()["progress"] == 0
    thread.start()
    until(lambda: webui.get_progress()["state"]["sampling_step"] > 2)
    told = webui.get_progress()
    assert 0 < told["progress"] < 1
    assert told["state"]["job_count"] == 1
    assert told["state"]["sampling_steps"] >= 900
    assert told["eta_relative"] > 0
    preview = Image.open(io.BytesIO(base64.b64decode(told["current_image"])))
    assert preview.format == "PNG"
    assert max(preview.size) <= 512
    assert (
        requests.get(f"{webui.baseurl}/progress?skip_current_image=true", auth=("user", "password-of-8")).json()[
            "current_image"
        ]
        is None
    )
    webui.interrupt()
    thread.join(20)
    assert answers[0].info["interrupted"]
    assert answers[0].image.size == (320, 240)
    webui.util_wait_for_ready(0.05)


def test_webuiapi_skips_to_the_next(webui):
    answers = []
    ask = {"images": [Image.fromarray(scene(320, 240))], "mask_image": Image.fromarray(hole(320, 240)), "seed": 5}
    thread = threading.Thread(target=lambda: answers.append(webui.img2img(**ask, steps=300, batch_size=2)))
    thread.start()
    until(lambda: webui.get_progress()["state"]["sampling_step"] > 1)
    webui.skip()
    until(lambda: webui.get_progress()["progress"] > 0.5)
    webui.interrupt()
    thread.join(30)
    assert answers[0].info["interrupted"]


def test_webuiapi_lists_and_chooses(webui, tiny_folder):
    assert webui.util_get_current_model() == tiny_folder.name
    webui.util_set_model("photo")
    assert webui.util_get_current_model() == webui.get_options()["sd_model_checkpoint"] == "photo"
    webui.util_set_model(tiny_folder.name)
    assert {"DPIR", "DDRM", "RePaint", "SDEdit"} <= set(webui.util_get_sampler_names())
    assert webui.util_get_scheduler_names() == ["automatic"]
    for ask in (webui.get_upscalers, webui.get_loras, webui.get_sd_vae, webui.get_memory, webui.get_cmd_flags):
        assert ask() is not None
    for ask in (webui.get_embeddings, webui.get_prompt_styles, webui.get_face_restorers, webui.refresh_checkpoints):
        assert ask() is not None
    assert webui.controlnet_model_list() == []


def test_webuiapi_hears_what_is_wrong(webui, server):
    with pytest.raises(RuntimeError, match="at most 1000"):
        webui.img2img(images=[Image.fromarray(SCENE)], steps=10**9)
    host, port = server.url.removeprefix("http://").split(":")
    stranger = webuiapi.WebUIApi(host, int(port), username="user", password="wrong")
    with pytest.raises(RuntimeError, match="401"):
        stranger.img2img(images=[Image.fromarray(SCENE)])


# ---------------------------------------------------------------- openai


@pytest.fixture(scope="module")
def edit(server):
    api = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    return api.images.edit


def test_openai_edits_what_is_transparent(edit):
    clear = np.dstack([SCENE, 255 - MASK])
    made = edit(image=("picture.png", png(clear)), prompt="a cat", model="gpt-image-1", size="auto")
    found = pixels(made.data[0].b64_json)
    assert made.created > 1.7e9
    assert found.shape == (48, 64, 4)
    assert (found[..., 3] == 255).all()
    assert np.array_equal(found[..., :3][MASK == 0], SCENE[MASK == 0])
    assert (found[..., :3] != SCENE).any(-1)[MASK > 0].mean() > 0.9


def test_openai_edits_by_a_mask(edit, tiny_folder):
    mask = png(np.dstack([np.zeros((48, 64, 3), np.uint8), 255 - MASK]))
    fields = {"prompt": "x", "n": 2, "response_format": "b64_json", "model": tiny_folder.name}
    made = edit(image=io.BytesIO(png(SCENE, "JPEG", quality=95)), mask=mask, **fields)
    first, second = (pixels(one.b64_json) for one in made.data)
    assert first.shape == (48, 64, 3)
    assert not np.array_equal(first, second)
    assert np.array_equal(first[MASK == 0], second[MASK == 0])


def test_openai_hears_what_is_wrong(edit, server):
    with pytest.raises(openai.UnprocessableEntityError, match="nothing is transparent"):
        edit(image=png(SCENE), prompt="x")
    with pytest.raises(openai.UnprocessableEntityError, match="b64_json"):
        edit(image=png(SCENE), prompt="x", response_format="url")
    with pytest.raises(openai.UnprocessableEntityError, match="64 x 48"):
        edit(image=png(SCENE), prompt="x", size="1024x1024")
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="another", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.images.edit(image=png(SCENE), prompt="x")
    names = [model.id for model in openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY).models.list()]
    assert "photo" in names
    assert "photo-x4" not in names


# ---------------------------------------------------------------- plugins, by the shapes of their requests

FILLED = {"<image>": b64(SCENE), "<mask>": b64(MASK), "<image:uri>": uri(SCENE), "<mask:uri>": uri(MASK)}


def filled(value):
    """A recorded request with pictures in it, and fewer steps."""
    if isinstance(value, dict):
        return {key: 3 if key == "steps" else filled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner) for inner in value]
    return FILLED.get(value, value) if isinstance(value, str) else value


def reach(answer, path):
    """What `images[0]` or `info.seed` is of an answer; `info` is JSON in a string, `[]` the first of a list if any."""
    if path == "JSON" or not re.fullmatch(r"[\w.\[\]]+", path):
        return
    for part in re.findall(r"\w+|\[\]", path):
        answer = json.loads(answer) if isinstance(answer, str) else answer
        if part == "[]":
            assert isinstance(answer, list)
            if not answer:
                return
            answer = answer[0]
        else:
            answer = answer[int(part)] if isinstance(answer, list) else answer[part]


def recorded():
    return [name for name in sorted(path.stem for path in SHAPES.glob("*.json")) if name != "starts"]


@pytest.mark.parametrize("name", recorded())
def test_the_requests_of_plugins_are_answered(server, name):
    shape = json.loads((SHAPES / f"{name}.json").read_text())
    body = filled(shape["body"])
    auth = ("user", "password-of-8")
    answer = requests.request(shape["method"], server.url + shape["path"], json=body, auth=auth, timeout=60)
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "image/png":
        image = Image.open(io.BytesIO(answer.content))
    else:
        told = answer.json()
        for path in shape["reads"]:
            reach(told, path.partition(" (")[0])
        image = Image.open(io.BytesIO(base64.b64decode((told.get("images") or [told.get("image")])[0], validate=True)))
    if body.get("inpaint_full_res") or "krita" in name:
        assert image.size == (64, 48)
        assert same_outside(image, 255 - MASK if body.get("inpainting_mask_invert") else MASK)
    elif "init_images" in body:
        assert image.size == (int(body["width"]), int(body["height"]))


def test_what_plugins_ask_at_the_start(server):
    for one in json.loads((SHAPES / "starts.json").read_text()):
        answer = requests.request(
            one["method"],
            server.url + one["path"],
            json=filled(one.get("body")),
            auth=("user", "password-of-8"),
            timeout=20,
        )
        assert answer.status_code == 200, (one, answer.text)
        for path in one.get("reads", []):
            reach(answer.json(), path.partition(" (")[0])
