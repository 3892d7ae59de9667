"""What plugins send: the fields of A1111's requests that mean something here. Others are ignored."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from restore.errors import InputError

SIDE = 2**15
DEPTH = 50  # of what a request has inside it
Picture = Annotated[str, Field(description="A picture in base64, bare or as a data: URI.")]


def _whole(value: Any) -> Any:
    """Sizes come as floats and as strings, too: 512.7 is 512, as in A1111's own slots."""
    if isinstance(value, float) and value == value and abs(value) < SIDE:
        return int(value)
    return value or None if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1, le=10**6), BeforeValidator(_whole)]
Side = Annotated[Annotated[int, Field(ge=1, le=SIDE)] | None, BeforeValidator(_whole)]
Steps = Annotated[Annotated[int, Field(ge=1, le=10**12)] | None, BeforeValidator(_whole)]  # the server has a limit, too


def _plain(value: Any) -> Any:
    """What is sent back as it came: neither NaN, which JSON has not, nor nested until Python gives up."""
    level, depth = [value], 0
    while level:
        if any(isinstance(one, float) and not math.isfinite(one) for one in level):
            raise ValueError("NaN and infinity are no numbers of JSON")
        held = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [part for parts in held for part in parts]
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
    return value


Plain = Annotated[Any, BeforeValidator(_plain)]


class Body(BaseModel):
    """Of any request: unknown fields are ignored, NaN and infinity are refused."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, coerce_numbers_to_str=True)


class Sampled(Body):
    """What img2img and txt2img share."""

    prompt: str | None = Field("", max_length=10_000, description="A class of the prior, or a text if it reads any.")
    negative_prompt: str | None = Field("", max_length=10_000)
    seed: int | str | None = Field(-1, description="-1 draws one; strings of digits are taken too.")
    sampler_name: str | int | None = Field(None, description="A name of /sdapi/v1/samplers; others mean Automatic.")
    sampler_index: str | int | None = Field(None, description="The older name of sampler_name.")
    steps: Steps = None
    cfg_scale: float | None = Field(None, ge=0, le=1000, description="Guidance to the prompt, where it is used.")
    width: Side = None
    height: Side = None
    batch_size: Count = 1
    n_iter: Count = 1
    override_settings: Annotated[dict[str, Any] | None, BeforeValidator(_plain)] = Field(
        None, description="sd_model_checkpoint: a name of /sd-models."
    )
    send_images: bool = True
    alwayson_scripts: Plain = Field(None, description="Ignored.")
    script_name: str | None = Field(None, description="Ignored.")
    force_task_id: str | None = Field(None, max_length=100, description="The job's id, for /restore/jobs.")

    @property
    def sampler(self) -> str | int | None:
        return self.sampler_name if self.sampler_name not in (None, "") else self.sampler_index

    @property
    def count(self) -> int:
        """Answers wanted."""
        return self.batch_size * self.n_iter

    @property
    def checkpoint(self) -> str | None:
        """The prior that the request names."""
        named = (self.override_settings or {}).get("sd_model_checkpoint")
        return str(named) if named else None

    def number(self, drawn: int) -> int:
        """The seed, or the one `drawn` where it is left open. Raises InputError."""
        text = str(self.seed).strip() if self.seed is not None else ""
        if text in ("", "-1", "-1.0"):
            return drawn
        if not re.fullmatch(r"[0-9]{1,18}(\.0)?", text, re.ASCII):
            raise InputError(f"seed is {text[:40]!r}: give a whole number from 0 to 10^18, or -1 to draw one")
        return int(text.partition(".")[0])


class Img2Img(Sampled):
    """POST /sdapi/v1/img2img: with a mask the white part is inpainted, without one the picture is edited (SDEdit)."""

    init_images: list[Picture] = Field(min_length=1, max_length=64)
    mask: Picture | None = Field(None, description="White is repainted; of a mask with transparency, what is opaque.")
    mask_blur: float | None = Field(None, ge=0, le=512, description="Pixels to fade over, of SDEdit in a mask.")
    mask_blur_x: float | None = Field(None, ge=0, le=512)
    mask_blur_y: float | None = Field(None, ge=0, le=512)
    inpainting_fill: int | None = Field(None, ge=0, le=3, description="2 and 3 start from noise alone; 0 and 1 do not.")
    inpaint_full_res: bool | int | None = Field(True, description="The answer has the size of the picture sent.")
    inpaint_full_res_padding: int | None = Field(None, ge=0, le=SIDE, description="Pixels seen round the mask.")
    inpainting_mask_invert: bool | int | None = None
    denoising_strength: float | None = Field(None, ge=0, le=1, description="Of SDEdit: 0 keeps all, 1 nothing.")
    resize_mode: int | None = Field(0, ge=0, le=3)
    include_init_images: bool = False

    @property
    def blur(self) -> int:
        """mask_blur in whole pixels."""
        return round(max(self.mask_blur or 0, self.mask_blur_x or 0, self.mask_blur_y or 0))


class Txt2Img(Sampled):
    """POST /sdapi/v1/txt2img: samples of a prior."""


class Extras(Body):
    """What extra-single-image and extra-batch-images share."""

    resize_mode: int | None = Field(0, ge=0, le=1, description="0: by upscaling_resize; 1: to a width and height.")
    upscaling_resize: float | None = Field(2.0, gt=0, le=16)
    upscaling_resize_w: Side = None
    upscaling_resize_h: Side = None
    upscaling_crop: bool | None = True
    upscaler_1: str | None = Field(None, description="A name of /sdapi/v1/upscalers; others mean the default.")
    upscaler_2: str | None = None
    extras_upscaler_2_visibility: float | None = Field(0.0, ge=0, le=1)
    gfpgan_visibility: float | None = Field(0.0, description="Not done here.")
    codeformer_visibility: float | None = Field(0.0, description="Not done here.")


class ExtraSingle(Extras):
    """POST /sdapi/v1/extra-single-image"""

    image: Picture


class Named(Body):
    """One picture of a batch."""

    data: Picture
    name: str = ""


class ExtraBatch(Extras):
    """POST /sdapi/v1/extra-batch-images"""

    imageList: list[Named] = Field(min_length=1, max_length=64)  # noqa: N815 - the protocol's name


class PngInfo(Body):
    """POST /sdapi/v1/png-info"""

    image: Picture


class TaskId(Body):
    """POST /internal/progress"""

    id_task: str | None = None
    live_preview: bool = True
