"""img2img and txt2img as jobs: A1111's request in, its answer out."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import restore
from restore.errors import InputError
from restore.images import read
from restore.jobs import Report, Result
from restore.mask import opaque_where
from restore.picture import Picture
from restore.prior import Prior
from restore.serve.a1111.infotext import compose
from restore.serve.a1111.models import Img2Img, Sampled, Txt2Img
from restore.serve.desk import Answers, Desk, one_by_one
from restore.serve.methods import sampler, several, told
from restore.serve.pictures import check_pixels, check_size, picture_of, to_base64
from restore.serve.shapes import around, cut, fitted, hole_of, pasted
from restore.tasks import Edit, Inpaint

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
LEAST_PADDING = 16  # pixels: less shows a network too little of what the hole should go on from

Made = dict[str, Any]
Work = Callable[[Report], Made]


def img2img(asked: Img2Img, desk: Desk) -> Work:
    """The job of a request, checked as far as it can be before it waits. Raises InputError."""
    desk.check_steps(asked.steps)
    data = [desk.bytes_of(text, f"init_images[{i}]") for i, text in enumerate(asked.init_images)]
    shapes = [check_size(one, "init_images", desk.settings.max_pixels) for one in data]
    desk.check_count(len(data), max(w * h for w, h in shapes))  # all are decoded at once, whatever their answers' size
    mask = desk.bytes_of(asked.mask, "mask") if asked.mask else None
    seed, count = asked.number(secrets.randbelow(2**32)), max(asked.count, len(data) * asked.n_iter)
    own = mask is not None and asked.inpaint_full_res
    width, height = (None, None) if own else (asked.width, asked.height)
    sizes = [(width or w, height or h) for w, h in shapes]
    for size in sizes:
        check_pixels(*size, "the answer", desk.settings.max_pixels)
    desk.check_count(count, max(math.prod(size) for size in sizes))
    name = checkpoint(asked, desk, "inpaint" if mask else "edit")

    def work(report: Report) -> Made:
        pictures = [picture_of(one, f"init_images[{i}]") for i, one in enumerate(data)]
        hole = None if mask is None else picture_of(mask, "mask")
        runs = [_run(asked, picture, hole, width, height) for picture in pictures]
        prior = desk.models.get(name)
        method, kind, algorithm = sampler("inpaint" if mask else "edit", asked.sampler, prior)
        if kind is Inpaint and count > len(data):
            algorithm = algorithm or several(prior)
        options = kind(method=algorithm, steps=asked.steps)
        if kind is Inpaint and asked.inpainting_fill in (2, 3):
            options = replace(options, strength=1.0)
        if kind is not Inpaint and asked.denoising_strength is not None:
            options = _at_strength(options, asked.denoising_strength)
        if kind is Edit and mask:
            options = replace(options, feather=asked.blur)
        options, note = told(options, prior, asked.prompt or "", asked.negative_prompt or "", asked.cfg_scale)

        def make(k: int, seed: int, report: Report) -> Result:
            chosen = replace(options, seed=seed)
            return runs[k % len(runs)](lambda *given: _call(chosen, given, prior, report))

        answers = one_by_one(make, seed, count, report)
        if not answers.pictures:  # stopped or skipped; as plugins expect a picture: the one that was sent
            answers = answers._replace(pictures=[runs[0](None).images[0]], seeds=[seed])
        strength = asked.denoising_strength if kind is not Inpaint else None
        return answer(asked, desk, answers, name, method, strength, note)

    return work


def _call(options: Any, given: tuple[Any, ...], prior: Prior, report: Report) -> Result:
    """Of a picture, or a picture and its mask: SDEdit takes both, and None for no mask."""
    return options.run(*given, *([None] if isinstance(options, Edit) and len(given) == 1 else []), prior, report)


def _at_strength(options: Any, strength: float) -> Any:
    """SDEdit takes 0, and gives the picture back; ILVR has to start somewhere."""
    return replace(options, strength=strength if isinstance(options, Edit) else max(strength, 0.01))


def _run(
    asked: Img2Img, picture: Picture, mask: Picture | None, width: int | None, height: int | None
) -> Callable[[Any], Result]:
    """A function of one that restores: it is given the picture, and the mask if there is one, as it should see them.

    Of None it gives the picture as it would be answered if nothing were restored."""
    holes = None if mask is None else hole_of(mask, picture, invert=bool(asked.inpainting_mask_invert), name="mask")
    mode = asked.resize_mode or 0
    size = width or picture.rgb.shape[-1], height or picture.rgb.shape[-2]
    shown = fitted(picture, *size, mode)
    if holes is not None and shown is not picture:
        drawn = Picture(holes.expand(-1, 3, -1, -1))
        holes = (fitted(drawn, *size, mode).rgb[:, :1] >= 0.5).float()

    if holes is not None:
        shown = opaque_where(shown, holes)  # what is painted over something transparent is to be seen

    def run(restore: Any) -> Result:
        if restore is None:
            return Result([shown], None)
        if holes is None:
            return restore(shown)
        padding = asked.inpaint_full_res_padding
        if not asked.inpaint_full_res or not padding or not holes.any():  # 0 is what clients send that do not care
            return restore(shown, holes)
        box = around(holes, max(padding, LEAST_PADDING))
        found = restore(cut(shown, box), box.cut(holes))
        return Result([pasted(shown, part, box) for part in found.images], found.info)

    return run


def txt2img(asked: Txt2Img, desk: Desk) -> Work:
    """The job of a request, checked as far as it can be before it waits. Raises InputError."""
    desk.check_steps(asked.steps)
    seed, count = asked.number(secrets.randbelow(2**32)), asked.count
    name = checkpoint(asked, desk, "generate")
    known = desk.models.facts(name).get("size")  # a side, any or unknown
    own = known if isinstance(known, int) else 256
    width, height = asked.width or own, asked.height or own
    check_pixels(width, height, "the answer", desk.settings.max_pixels)
    desk.check_count(count, width * height)

    def work(report: Report) -> Made:
        prior = desk.models.get(name)
        method, kind, algorithm = sampler("generate", asked.sampler, prior)
        options = kind(method=algorithm, steps=asked.steps, size=(height, width))
        options, note = told(options, prior, asked.prompt or "", asked.negative_prompt or "", asked.cfg_scale)

        def make(k: int, seed: int, report: Report) -> Result:
            found = replace(options, seed=seed).run(prior, report)
            return Result([read(read(image)) for image in found.images], found.info)

        return answer(asked, desk, one_by_one(make, seed, count, report), name, method, None, note)

    return work


def checkpoint(asked: Sampled, desk: Desk, task: str) -> str:
    """The prior that a request is for. Raises InputError for one that is not offered, or cannot do the task."""
    name = asked.checkpoint or desk.prior
    if task not in desk.models.tasks(name):
        able = ", ".join(desk.models.names(task)) or "none"
        raise InputError(f"the prior {name!r} cannot {task}: choose one of {able} as sd_model_checkpoint")
    return name


def answer(
    asked: Sampled, desk: Desk, answers: Answers, prior: str, method: str, strength: float | None, note: str | None
) -> Made:
    """{"images", "parameters", "info"}: what A1111 answers."""
    prompt, negative = asked.prompt or "", asked.negative_prompt or ""
    sizes = [tuple(picture.rgb.shape[-2:]) for picture in answers.pictures]
    height, width = sizes[0] if sizes else (asked.height or 0, asked.width or 0)
    steps = answers.result.info.steps if answers.result else asked.steps
    used = answers.result.info.method if answers.result else method
    seeds = answers.seeds or [asked.number(0)]
    facts = {
        "Steps": steps, "Sampler": method, "CFG scale": asked.cfg_scale, "Seed": None, "Size": None, "Model": prior,
        "Denoising strength": strength, "Method": used, "Version": f"restore {restore.__version__}",
    }  # fmt: skip
    texts = [
        compose(prompt, negative, {**facts, "Seed": seed, "Size": f"{w}x{h}"})
        for seed, (h, w) in zip(seeds, sizes, strict=False)
    ]
    count = len(seeds)
    info = {
        "prompt": prompt, "all_prompts": [prompt] * count, "negative_prompt": negative,
        "all_negative_prompts": [negative] * count, "seed": seeds[0], "all_seeds": seeds, "subseed": 0,
        "all_subseeds": [0] * count, "subseed_strength": 0, "width": width, "height": height, "sampler_name": method,
        "cfg_scale": asked.cfg_scale if asked.cfg_scale is not None else 1.0, "steps": steps, "batch_size": count,
        "restore_faces": False, "face_restoration_model": None, "sd_model_name": prior, "sd_model_hash": "",
        "sd_vae_name": None, "sd_vae_hash": None, "seed_resize_from_w": -1, "seed_resize_from_h": -1,
        "denoising_strength": strength, "extra_generation_params": {"Method": used, **({"Note": note} if note else {})},
        "index_of_first_image": 0, "infotexts": texts, "styles": [], "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1, "is_using_inpainting_conditioning": False, "version": f"restore {restore.__version__}",
        "interrupted": answers.interrupted,
    }  # fmt: skip
    parameters = asked.model_dump(exclude={"init_images", "mask"})
    if isinstance(asked, Img2Img):
        kept = {"init_images": asked.init_images, "mask": asked.mask} if asked.include_init_images else {}
        parameters |= {"init_images": None, "mask": None, **kept}
    kind = FORMATS[desk.format]
    pictures = zip(answers.pictures, texts, strict=False) if asked.send_images else ()
    images = [to_base64(picture, kind, text) for picture, text in pictures]
    return {"images": images, "parameters": parameters, "info": json.dumps(info)}
