"""A1111's protocol: what its fields do here, on a tiny prior."""

import base64
import json

import cv2
import numpy as np
import pytest
from serve_app import b64, client, hole, pixels, scene, uri

from restore.images import read
from restore.serve.a1111.infotext import compose, parse
from restore.tasks import Inpaint

MASK, SCENE = hole(), scene()


@pytest.fixture(scope="module")
def app(tiny_folder):
    with client(tiny_folder) as found:
        yield found


@pytest.fixture
def img2img(app):
    """img2img(...) of the scene in three steps: (answer, info)."""

    def post(status=200, **fields):
        found = app.post("/sdapi/v1/img2img", json={"init_images": [b64(SCENE)], "steps": 3, "seed": 1, **fields})
        assert found.status_code == status, found.text
        answer = found.json()
        return (answer, json.loads(answer["info"])) if status == 200 else answer["detail"]

    return post


def changed(text, where=MASK > 0):
    """The share of the pixels there that differ from the scene's."""
    return float((pixels(text)[..., :3] != SCENE).any(-1)[where].mean())


# ---------------------------------------------------------------- with a mask


def test_the_answer_has_what_plugins_read(img2img):
    answer, info = img2img(mask=b64(MASK), prompt="a cat", negative_prompt="dogs", cfg_scale=7)
    assert set(answer) == {"images", "parameters", "info"}
    assert len(answer["images"]) == 1
    assert answer["parameters"]["steps"] == 3
    assert answer["parameters"]["init_images"] is None
    for name in ("infotexts", "all_seeds", "seed", "width", "height", "all_prompts", "sampler_name", "job_timestamp"):
        assert name in info
    assert (info["seed"], info["all_seeds"], info["width"], info["height"]) == (1, [1], 64, 48)
    assert "reads" in info["extra_generation_params"]["Note"] or "not used" in info["extra_generation_params"]["Note"]


@pytest.mark.parametrize("mask", [b64(MASK), uri(MASK), uri(np.dstack([MASK] * 3))])
def test_the_mask_is_repainted_and_nothing_else(img2img, mask):
    answer, _ = img2img(mask=mask)
    assert changed(answer["images"][0]) > 0.9
    assert changed(answer["images"][0], MASK == 0) == 0


def test_it_is_what_the_task_makes(img2img, tiny):
    answer, info = img2img(mask=b64(MASK), sampler_name="DDRM", seed="5")
    picture = Inpaint(method="ddrm", steps=3, seed=5)
    mine = picture.run(read(read(SCENE)), MASK / 255.0, tiny).images[0]
    assert np.array_equal(pixels(answer["images"][0]), mine.pixels())
    assert (info["seed"], info["sampler_name"]) == (5, "DDRM")


def test_a_mask_may_be_inverted(img2img):
    answer, _ = img2img(mask=b64(255 - MASK), inpainting_mask_invert=1)
    straight, _ = img2img(mask=b64(MASK), inpainting_mask_invert=0)
    assert answer["images"] == straight["images"]


def test_of_a_transparent_mask_what_is_opaque_is_repainted(img2img):
    """As A1111 takes the alpha of such masks, whatever their colours: plugins send strokes on nothing."""
    black = np.dstack([np.zeros((48, 64, 3), np.uint8), MASK])
    assert img2img(mask=b64(black))[0]["images"] == img2img(mask=b64(MASK))[0]["images"]


@pytest.mark.parametrize("sent", [{}, {"width": 512, "height": 512}, {"width": 8.0, "height": "24"}])
def test_only_masked_keeps_the_size_sent(img2img, sent):
    answer, info = img2img(mask=b64(MASK), inpaint_full_res=True, inpaint_full_res_padding=32, **sent)
    assert pixels(answer["images"][0]).shape == (48, 64, 3)
    assert (info["width"], info["height"]) == (64, 48)
    assert changed(answer["images"][0], MASK == 0) == 0


def test_padding_is_what_is_seen(img2img):
    """The hole ends at column 32: what begins at 48 is beyond a padding of 16, what begins at 40 is not."""

    def made(column, **fields):
        other = SCENE.copy()
        other[:, column:] = 255 - other[:, column:]
        fields = {"mask": b64(MASK), "inpaint_full_res": True, "steps": 8, **fields}
        return pixels(img2img(init_images=[b64(other)], **fields)[0]["images"][0])[MASK > 0]

    assert np.array_equal(made(64, inpaint_full_res_padding=16), made(48, inpaint_full_res_padding=16))
    assert not np.array_equal(made(64, inpaint_full_res_padding=16), made(40, inpaint_full_res_padding=16))
    assert not np.array_equal(made(64), made(40))


def test_several_answers_differ_and_have_seeds(img2img):
    answer, info = img2img(mask=b64(MASK), batch_size=2, n_iter=2, seed=7)
    assert info["all_seeds"] == [7, 8, 9, 10]
    assert len(set(answer["images"])) == len(info["infotexts"]) == 4
    single, _ = img2img(mask=b64(MASK), seed=9, sampler_name="DDRM")
    assert np.array_equal(pixels(single["images"][0]), pixels(answer["images"][2]))


def test_several_pictures_are_a_batch(img2img):
    answer, _ = img2img(init_images=[b64(SCENE), b64(SCENE[::-1].copy())], mask=b64(MASK), batch_size=1)
    first, second = map(pixels, answer["images"])
    assert np.array_equal(first[MASK == 0], SCENE[MASK == 0])
    assert np.array_equal(second[MASK == 0], SCENE[::-1][MASK == 0])


@pytest.mark.parametrize("seed", [-1, "-1", "", None])
def test_an_open_seed_is_drawn_and_told(img2img, seed):
    seeds = {img2img(mask=b64(MASK), sampler_name="DDRM", steps=1, seed=seed)[1]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_fill_from_noise_starts_from_noise(img2img):
    rough, _ = img2img(mask=b64(MASK), inpainting_fill=1)
    noise, _ = img2img(mask=b64(MASK), inpainting_fill=2)
    assert rough["images"] != noise["images"]


def test_an_empty_mask_gives_the_picture_back(img2img):
    answer, _ = img2img(mask=b64(0 * MASK))
    assert np.array_equal(pixels(answer["images"][0]), SCENE)


def test_sdedit_in_a_mask(img2img):
    answer, info = img2img(mask=b64(MASK), sampler_name="SDEdit", denoising_strength=0.4, mask_blur=4)
    assert info["sampler_name"] == "SDEdit"
    assert info["denoising_strength"] == 0.4
    assert changed(answer["images"][0], MASK == 0) == 0 < changed(answer["images"][0])
    sharp, _ = img2img(mask=b64(MASK), sampler_name="SDEdit", denoising_strength=0.4)
    assert sharp["images"] != answer["images"]


# ---------------------------------------------------------------- without one


def test_without_a_mask_the_picture_is_edited(img2img):
    near, far = (
        np.abs(pixels(img2img(denoising_strength=s)[0]["images"][0]).astype(float) - SCENE).mean() for s in (0.1, 0.9)
    )
    assert 0 < near < far
    same, _ = img2img(denoising_strength=0)
    assert np.array_equal(pixels(same["images"][0]), SCENE)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_the_answer_has_the_size_asked_for(img2img, mode):
    answer, info = img2img(width=40, height=40, resize_mode=mode, denoising_strength=0)
    found = pixels(answer["images"][0]).astype(float)
    assert found.shape == (40, 40, 3)
    assert (info["width"], info["height"]) == (40, 40)
    red = found[..., 0].mean(0)  # grows from left to right, from 0 to 255 over the whole picture
    span = {0: (0, 255), 1: (32, 223), 2: (0, 255), 3: (0, 255)}[mode]
    assert red[1] == pytest.approx(span[0], abs=14)
    assert red[-2] == pytest.approx(span[1], abs=14)
    if mode == 2:  # filled above and below with the edge's colours
        assert np.abs(found[0] - found[3]).max() <= 1


def test_pictures_sent_together_have_a_limit(tiny_folder):
    """All are decoded at once, however small the answers are to be."""
    with client(tiny_folder, max_pixels=10_000) as app:
        ask = {"steps": 1, "width": 8, "height": 8}
        for count, status in ((3, 200), (4, 422)):
            found = app.post("/sdapi/v1/img2img", json={"init_images": [b64(SCENE)] * count, **ask})
            assert found.status_code == status


def test_ilvr_by_its_name(img2img):
    assert img2img(sampler_name="ilvr")[1]["sampler_name"] == "ILVR"
    assert img2img(sampler_name="Euler a")[1]["sampler_name"] == "Automatic"
    assert img2img(sampler_index="SDEdit")[1]["sampler_name"] == "SDEdit"


def test_unknown_fields_are_ignored(img2img):
    img2img(
        mask=b64(MASK), refiner_switch_at=0.8, tiling=False, alwayson_scripts={"ControlNet": {"args": []}}, styles=[]
    )


def test_pictures_may_be_left_out_or_sent_back(img2img):
    assert img2img(send_images=False)[0]["images"] == []
    answer, _ = img2img(include_init_images=True)
    assert answer["parameters"]["init_images"] == [b64(SCENE)]


def test_alpha_and_16_bits_survive(img2img, app):
    deep = (SCENE.astype(np.uint16) * 257 + 13).clip(0, 65535)
    sent = base64.b64encode(cv2.imencode(".png", deep[..., ::-1].copy())[1].tobytes()).decode()
    answer, _ = img2img(init_images=[sent], mask=b64(MASK))
    found = cv2.imdecode(np.frombuffer(base64.b64decode(answer["images"][0]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert found.dtype == np.uint16
    assert np.array_equal(found[..., ::-1][MASK == 0], deep[MASK == 0])
    clear = np.dstack([SCENE, 100 + 0 * MASK])
    answer, _ = img2img(init_images=[b64(clear)], mask=b64(MASK))
    assert np.array_equal(pixels(answer["images"][0])[..., 3], np.where(MASK > 0, 255, 100))  # what is new shows


# ---------------------------------------------------------------- the other jobs


def test_txt2img(app):
    fields = {"steps": 2, "width": 24, "height": 16, "n_iter": 2, "seed": 3, "sampler_name": "DDIM"}
    answer = app.post("/sdapi/v1/txt2img", json=fields).json()
    assert [pixels(image).shape for image in answer["images"]] == [(16, 24, 3)] * 2
    assert answer["images"][0] != answer["images"][1]
    assert json.loads(answer["info"])["all_seeds"] == [3, 4]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"upscaling_resize": 2}, (128, 96)),
        ({"upscaling_resize": 2.5, "upscaler_1": "R-ESRGAN 4x+"}, (160, 120)),
        ({"upscaling_resize": 2, "upscaler_1": "Nearest"}, (128, 96)),
        ({"upscaling_resize": 0.5}, (32, 24)),
        ({"resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100}, (100, 100)),
        ({"resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 60, "upscaling_crop": False}, (100, 75)),
        ({"upscaler_1": "Lanczos", "upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.5}, (128, 96)),
    ],
)  # fmt: skip
def test_pictures_are_enlarged(app, fields, size):
    found = app.post("/sdapi/v1/extra-single-image", json={"image": uri(SCENE), **fields}).json()
    assert pixels(found["image"]).shape == (size[1], size[0], 3)
    assert ("R-ESRGAN" in found["html_info"]) == ("R-ESRGAN 4x+" in fields.values())


def test_a_nearest_enlargement_repeats_pixels(app):
    found = app.post("/sdapi/v1/extra-single-image", json={"image": b64(SCENE), "upscaler_1": "nearest"}).json()
    assert np.array_equal(pixels(found["image"]), SCENE.repeat(2, 0).repeat(2, 1))


def test_upscalers_are_those_of_the_list(app, tiny_folder):
    names = [one["name"] for one in app.get("/sdapi/v1/upscalers").json()]
    assert names[:3] == ["None", "Lanczos", "Nearest"]
    assert {f"{tiny_folder.name} (dpir)", f"{tiny_folder.name} (ddrm)", "photo-x4"} <= set(names)
    fields = {"image": b64(SCENE[:16, :16].copy()), "upscaling_resize": 4}
    shapes = [
        pixels(app.post("/sdapi/v1/extra-single-image", json={**fields, "upscaler_1": name}).json()["image"])
        for name in ("photo-x4", "Lanczos")
    ]
    assert shapes[0].shape == shapes[1].shape == (64, 64, 3)
    assert not np.array_equal(*shapes)


def test_a_batch_is_enlarged(app):
    fields = {"imageList": [{"data": b64(SCENE), "name": "a.png"}, {"data": uri(SCENE[::2].copy()), "name": "b"}]}
    found = app.post("/sdapi/v1/extra-batch-images", json={**fields, "upscaling_resize": 2}).json()
    assert [pixels(image).shape for image in found["images"]] == [(96, 128, 3), (48, 128, 3)]


def test_how_a_picture_was_made_can_be_read(app, img2img, tiny_folder):
    answer, info = img2img(mask=b64(MASK), prompt="two\nlines, with: colons", seed=4)
    told = app.post("/sdapi/v1/png-info", json={"image": f"data:image/png;base64,{answer['images'][0]}"}).json()
    assert told["info"] == info["infotexts"][0]
    assert told["parameters"]["Seed"] == "4"
    assert told["parameters"]["Prompt"] == "two\nlines, with: colons"
    assert told["parameters"]["Model"] == tiny_folder.name
    nothing = app.post("/sdapi/v1/png-info", json={"image": b64(SCENE)}).json()
    assert nothing == {"info": "", "items": {}, "parameters": {}}


def test_an_infotext_is_read_as_it_was_written():
    text = compose("a, b: c", "d", {"Steps": 20, "Sampler": "DPM++ 2M", "Size": "64x48", "CFG scale": 7.5})
    assert text == "a, b: c\nNegative prompt: d\nSteps: 20, Sampler: DPM++ 2M, Size: 64x48, CFG scale: 7.5"
    found = parse(text)
    assert (found["Prompt"], found["Negative prompt"], found["Sampler"]) == ("a, b: c", "d", "DPM++ 2M")
    assert parse("only a prompt")["Prompt"] == "only a prompt"


# ---------------------------------------------------------------- what there is


def test_options_choose_the_prior(tiny_folder):
    with client(tiny_folder) as app:
        titles = [model["title"] for model in app.get("/sdapi/v1/sd-models").json()]
        assert app.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == titles[0] == tiny_folder.name
        assert app.post("/sdapi/v1/options", json={"sd_model_checkpoint": "photo", "unknown": 1}).status_code == 200
        assert app.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "photo"
        fields = {"init_images": [b64(SCENE)], "mask": b64(MASK), "steps": 1}
        made = app.post("/sdapi/v1/img2img", json=fields).json()
        assert json.loads(made["info"])["sd_model_name"] == "photo"
        override = {"override_settings": {"sd_model_checkpoint": tiny_folder.name}}
        made = app.post("/sdapi/v1/img2img", json={**fields, **override}).json()
        assert json.loads(made["info"])["sd_model_name"] == tiny_folder.name
        assert app.post("/sdapi/v1/options", json={"samples_format": "jpg"}).status_code == 200
        found = app.post("/sdapi/v1/img2img", json={**fields, **override}).json()
        assert found["images"][0].startswith("/9j/")  # a JPEG


def test_a_class_by_its_name(app):
    fields = {"override_settings": {"sd_model_checkpoint": "flowers"}, "steps": 1, "width": 16, "height": 16}
    made = app.post("/sdapi/v1/txt2img", json={**fields, "prompt": "tulips", "cfg_scale": 2, "seed": 1}).json()
    other = app.post("/sdapi/v1/txt2img", json={**fields, "prompt": "roses", "cfg_scale": 2, "seed": 1}).json()
    assert made["images"] != other["images"]
    assert "Note" not in json.loads(made["info"])["extra_generation_params"]
    wrong = app.post("/sdapi/v1/txt2img", json={**fields, "prompt": "a cat"}).json()
    assert "tulips" in json.loads(wrong["info"])["extra_generation_params"]["Note"]


def test_a_prior_that_cannot_is_refused(img2img):
    told = img2img(422, mask=b64(MASK), override_settings={"sd_model_checkpoint": "photo-x4"})
    assert "photo-x4" in told
    assert "cannot inpaint" in told


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        *[(f"sdapi/v1/{name}", list) for name in (
            "sd-models", "samplers", "schedulers", "upscalers", "loras", "sd-modules", "sd-vae", "prompt-styles",
            "face-restorers", "realesrgan-models", "hypernetworks", "latent-upscale-modes", "script-info",
        )],
        *[(f"sdapi/v1/{name}", dict) for name in ("embeddings", "scripts", "cmd-flags", "memory", "options")],
        ("sdapi/v1/progress", dict),
        *[(f"controlnet/{name}", dict) for name in ("model_list", "module_list", "version", "control_types")],
        ("internal/ping", dict),
    ],
)  # fmt: skip
def test_no_list_is_missing(app, path, kind):
    found = app.get(f"/{path}")
    assert found.status_code == 200
    assert isinstance(found.json(), kind)
