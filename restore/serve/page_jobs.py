"""What the page's controls ask for, checked, as work for the engine; and its answers as files."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from restore.errors import InputError
from restore.files import FORMATS, encode
from restore.images import read
from restore.jobs import Report
from restore.mask import read_mask
from restore.picture import Picture
from restore.regions import resized
from restore.serve.methods import told
from restore.serve.models import Models
from restore.serve.page_guard import inside
from restore.serve.pictures import check_pixels, check_size, picture_of
from restore.serve.settings import Settings
from restore.tasks import Colorize, Deblur, Denoise, Edit, Generate, Inpaint, Options, Upscale
from restore.tasks.common import QUALITIES

TASKS: dict[str, type[Options]] = {
    "inpaint": Inpaint, "upscale": Upscale, "denoise": Denoise, "deblur": Deblur, "colorize": Colorize, "edit": Edit,
    "generate": Generate,
}  # fmt: skip
PAINTED, UPLOADED, CLEAR, ALL = "painted", "a file", "what is transparent", "all of it"  # where a mask comes from
HOLES = {"inpaint": (PAINTED, UPLOADED, CLEAR), "edit": (ALL, PAINTED, UPLOADED)}
AS_GIVEN, PNG = "as the picture", "PNG"
CANVAS, SHOWN = 1024, 1600  # pixels of the longer side: what is painted on, and what is shown of answers
_KERNEL = re.compile(r"(gaussian|motion|disk|uniform):[0-9.+-]{1,12}(,[0-9.+-]{1,12})?", re.ASCII)


class Answer(NamedTuple):
    """One answer on the disk: the file of full size, and what is shown of it."""

    file: Path
    after: Path
    before: Path | None
    size: tuple[int, int]  # (width, height)


class Answers(NamedTuple):
    """All answers of a run, and how they were made, in one line."""

    answers: list[Answer]
    line: str


@dataclass(frozen=True)
class Form:
    """The page's controls. Anybody can send anything in their place."""

    task: str
    prior: str
    method: str | None
    quality: str
    samples: int
    seed: int
    wish: str  # a class, or a prompt
    scale: int
    kernel: str
    sigma: float | None  # of 255
    strength: float
    side: int
    holes: str
    file: str

    @classmethod
    def of(cls, values: dict[str, Any], settings: Settings) -> Self:
        """The controls as the browser sent them, by name. Raises InputError."""
        task = _one_of("task", values["task"], TASKS)
        if not isinstance(values["prior"], str):
            raise InputError("choose a prior")
        texts = {name: _text(name, values[name]) for name in ("kernel", "label", "prompt")}
        sigma = None if values["sigma"] in (None, "") else _number("noise", values["sigma"], 0, 254)
        return cls(
            task=task,
            prior=values["prior"],
            method=None if values["method"] == "auto" else _text("method", values["method"]),
            quality=_one_of("quality", values["quality"], QUALITIES),
            samples=int(_number("answers", values["samples"], 1, settings.max_samples)),
            seed=int(_number("seed", values["seed"], 0, 2**62)),
            wish=texts["label"] or texts["prompt"],
            scale=int(_number("scale", values["scale"], 2, 16)),
            kernel=texts["kernel"],
            sigma=sigma,
            strength=_number("strength", values["strength"], 0, 1),
            side=int(_number("side", values["side"], 8, 16384)),
            holes=_one_of("mask", values["holes"], HOLES[task]) if task in HOLES else ALL,
            file=_one_of("file", values["file"], (AS_GIVEN, PNG)),
        )

    def options(self, facts: dict[str, Any], settings: Settings) -> Options:
        """The request for a prior of these facts. Raises InputError."""
        noise = {} if self.sigma is None else {"noise_std": self.sigma / 255}
        own: dict[str, dict[str, Any]] = {
            "upscale": {} if facts.get("scale") else {"scale": self.scale},
            "denoise": noise,
            "deblur": noise if facts.get("restores") else {"kernel": self._blur(), **noise},
            "edit": {"strength": self.strength},
            "generate": {"size": self.side},
        }
        given = {"method": self.method, "quality": self.quality, "samples": self.samples, "seed": self.seed}
        found = TASKS[self.task](**given, **own.get(self.task, {}))
        if found.count > settings.max_steps:
            raise InputError(f"{found.count} steps: this server takes at most {settings.max_steps}, so lower quality")
        return found

    def _blur(self) -> str:
        """A kernel by formula: one that is a picture would be read from the server's own files."""
        if not _KERNEL.fullmatch(self.kernel):
            raise InputError("the blur is gaussian:SIGMA, motion:LENGTH,DEGREES, disk:RADIUS or uniform:SIDE")
        return self.kernel


class Given(NamedTuple):
    """The files of a run, in the page's own folder."""

    picture: Path | None
    mask: Path | None
    layers: list[Path]  # of the canvas

    @classmethod
    def of(cls, values: dict[str, Any], folder: Path) -> Self:
        """Those that the browser names. Raises InputError for any that are not there."""
        canvas = values["canvas"] if isinstance(values["canvas"], dict) else {}
        layers = canvas.get("layers") if isinstance(canvas.get("layers"), list) else []
        painted = [uploaded(layer, folder, "the painted mask") for layer in layers[:8]]
        picture = uploaded(values["picture"], folder, "the picture")
        return cls(picture, uploaded(values["mask"], folder, "the mask"), [path for path in painted if path])


def uploaded(value: Any, folder: Path, name: str) -> Path | None:
    """The file that the browser means, kept for longer; None where it names none. Raises InputError."""
    if value is None:
        return None
    path = inside(folder, value.get("path")) if isinstance(value, dict) else None
    if path is None:
        raise InputError(f"{name} is no longer here: drop it again")
    os.utime(path)
    return path


def work(form: Form, given: Given, models: Models, settings: Settings, folder: Path) -> Callable[[Report], Answers]:
    """What the engine does for a form. Raises InputError for what cannot be asked; the rest shows when it runs."""
    facts = models.facts(form.prior)
    if form.task not in models.tasks(form.prior):
        raise InputError(f"the prior {form.prior} does not {form.task}: choose another")
    options, most = form.options(facts, settings), settings.max_pixels
    if form.task == "generate":
        check_pixels(form.side**2 * form.samples, 1, "the answer", most)
    elif given.picture is None:
        raise InputError("drop a picture first")
    scale = int(facts.get("scale") or form.scale) if form.task == "upscale" else 1

    def run(report: Report) -> Answers:
        prior = models.get(form.prior)
        request, note = told(options, prior, form.wish, "", None)
        if form.task == "generate":
            result, before = request.run(prior, report), None
        else:
            data = given.picture.read_bytes()
            width, height = check_size(data, given.picture.name, most)
            check_pixels(width * scale, height * scale * form.samples, "the answer", most)
            before = picture_of(data, given.picture.name)
            inputs = [before, mask_of(form.holes, given, before, most)] if form.task in HOLES else [before]
            result = request.run(*inputs, prior, report)
        name = given.picture.name if before else f"{form.prior}.png"
        kept = keep([read(image) for image in result.images], before, f"{name}", form, folder)
        info = result.info
        notes = [text for text in (info.note, note) if text]
        line = f"{info.method}, {info.calls} calls of {info.prior}, {info.seconds:.1f} s"
        return Answers(kept, "; ".join([line, *notes]))

    return run


def mask_of(source: str, given: Given, picture: Picture, most: int) -> Tensor | None:
    """(1,1,H,W) of 0 and 1, from where the form says; None is the picture's transparency, or all of it."""
    if source == UPLOADED:
        if given.mask is None:
            raise InputError("drop the mask too: white in it is repainted")
        data = given.mask.read_bytes()
        check_size(data, given.mask.name, most)
        return read_mask(data, picture, name=given.mask.name)
    return painted(given.layers, picture) if source == PAINTED else None


def painted(layers: list[Path], picture: Picture) -> Tensor:
    """The mask that the layers of the canvas show, at the size of the picture. Raises InputError for an empty one."""
    height, width = picture.rgb.shape[-2:]
    holes = np.zeros((height, width), np.uint8)
    for path in layers:
        data = path.read_bytes()
        check_size(data, "the painted mask", 4 * CANVAS**2)
        alpha = read(data, name="the painted mask").alpha
        if alpha is None:
            raise InputError("the painted mask has no transparent part: paint on the picture again")
        marks = (alpha[0, 0] > 0).to(torch.uint8).numpy()
        if abs(math.log(marks.shape[1] / marks.shape[0] * height / width)) > 1.5 / min(marks.shape):
            raise InputError("the mask was painted on another picture: paint it again")
        holes |= cv2.resize(marks, (width, height), interpolation=cv2.INTER_NEAREST)
    if not holes.any():
        raise InputError("paint over what is to be repainted first")
    return torch.from_numpy(holes).float()[None, None]


def keep(pictures: list[Picture], before: Picture | None, name: str, form: Form, folder: Path) -> list[Answer]:
    """Write answers to a new folder, each at full size and as it is shown beside what it was."""
    place, answers = Path(tempfile.mkdtemp(dir=folder)), []
    for k, picture in enumerate(pictures):
        suffix = ".png" if form.file == PNG else suffix_of(picture, name)
        number = f"-{k + 1}" if len(pictures) > 1 else ""
        file = place / f"{Path(name).stem[:100]}-{form.task}{number}{suffix}"
        file.write_bytes(encode(picture, suffix))
        after, shown = place / f"after{number}.jpg", preview(picture, SHOWN)
        put(shown, after)
        beside = None
        if before is not None:
            beside = place / f"before{number}.jpg"
            put(preview(before, SHOWN).resize(shown.size, Image.Resampling.BICUBIC), beside)
        height, width = picture.rgb.shape[-2:]
        answers.append(Answer(file, after, beside, (width, height)))
    return answers


def suffix_of(picture: Picture, name: str) -> str:
    """The ending of an answer's file: that of the picture, where it says what the file is and can be written."""
    own = Path(name).suffix.lower()
    if FORMATS.get(own[1:]) == picture.format:
        return own
    return next((f".{ending}" for ending, kind in FORMATS.items() if kind == picture.format), ".png")


def preview(picture: Picture, most: int) -> Image.Image:
    """A picture for the browser: 8 bits, at most so many pixels wide and high, what is transparent on gray."""
    rgb = picture.rgb
    if picture.alpha is not None:
        rgb = rgb * picture.alpha + 0.5 * (1 - picture.alpha)
    shrink = min(1.0, most / max(rgb.shape[-2:]))
    if shrink < 1:
        rgb = resized(rgb, tuple(max(1, round(side * shrink)) for side in rgb.shape[-2:]))
    shown = Image.fromarray((rgb[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    if picture.icc and not picture.gray:
        shown.info["icc_profile"] = picture.icc
    return shown


def put(shown: Image.Image, path: Path) -> None:
    """Write what is shown, with the colour profile that it has."""
    shown.save(path, quality=92, icc_profile=shown.info.get("icc_profile"))


def _one_of(name: str, value: Any, known: Any) -> str:
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} is none of {', '.join(known)}")
    return value


def _text(name: str, value: Any) -> str:
    if value is not None and (not isinstance(value, str) or len(value) > 2000):
        raise InputError(f"{name} is no short text")
    return (value or "").strip()


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not low <= found <= high:
        raise InputError(f"{name} is {str(value)[:20]!r}: give a number from {low:g} to {high:g}")
    return found
