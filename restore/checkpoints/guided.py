"""guided-diffusion's networks from their tensors: U-Nets, upsamplers and classifiers."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel
from torch import Tensor, nn

from restore.checkpoints.flags import Flags
from restore.checkpoints.plan import Plan, made
from restore.checkpoints.rename import expressible, renamed, unet2d
from restore.conditional import Condition
from restore.errors import InputError
from restore.guided import POOLS, GuidedEncoder, GuidedUNet

Shapes = dict[str, tuple[int, ...]]


def plan(shapes: Shapes, flags: Flags, path: Path) -> Plan:
    """The network behind these tensors. Raises InputError where flags are missing, or say otherwise."""
    encoder = not any(name.startswith("output_blocks.") for name in shapes)
    if "time_embed.2.bias" not in shapes or "input_blocks.1.0.in_layers.0.weight" not in shapes:
        raise InputError(f"{path}: not all of a network is there; fetch it again")
    layers, widths, attention, resample = _scales(shapes, flags, path, encoder)
    model_channels, pictures = shapes["time_embed.0.weight"][1], shapes["input_blocks.0.0.weight"][1]
    film = shapes["input_blocks.1.0.emb_layers.1.bias"][0]
    scale_shift = film == 2 * shapes["input_blocks.1.0.out_layers.0.weight"][0]
    size = _size(shapes, flags, widths, attention)
    flags.settle("num_channels", model_channels)
    flags.settle("num_res_blocks", layers)
    flags.settle("use_scale_shift_norm", scale_shift)
    flags.settle("resblock_updown", resample == "updown")
    if resample == "updown":
        flags.pop("conv_resample", None)  # it has no effect beside resblock_updown
    else:
        flags.settle("conv_resample", resample != "pool")
    flags.settle("channel_mult", [_tidy(width / model_channels) for width in widths])
    heads = _heads(flags, widths, attention)
    order = bool(flags.setdefault("use_new_attention_order", False if flags.said else None))
    if flags["use_new_attention_order"] is None and not encoder:
        raise flags.need("use_new_attention_order")
    config = {
        "model_channels": model_channels, "channels": widths, "layers": layers, "attention": attention, **heads,
        "new_order": order, "scale_shift": scale_shift, "resample": resample, "sample_size": size,
    }  # fmt: skip
    if encoder:
        flags.settle("in_channels", pictures)
        return _classifier(shapes, flags, path, config, pictures)
    upward = flags.get("num_heads_upsample")
    config["num_heads_upsample"] = None if heads["num_head_channels"] or upward == heads["num_heads"] else upward
    answer = shapes["out.2.weight"][0]
    low_res = pictures == 6 and answer in (3, 6)  # a picture, and one to enlarge beside it
    classes = shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None
    config |= {"in_channels": pictures // 2 if low_res else pictures, "out_channels": answer, "low_res": low_res}
    config["num_class_embeds"] = classes
    if answer not in (config["in_channels"], 2 * config["in_channels"]):
        raise InputError(f"{path}: a network from {pictures} to {answer} channels: neither a prior nor an upsampler")
    learned = answer == 2 * config["in_channels"]
    flags.settle("class_cond", classes is not None)
    flags.settle("learn_sigma", learned)
    flags.settle("out_channels", answer)
    flags.settle(
        "in_channels", config["in_channels"] if flags.get("in_channels") == config["in_channels"] else pictures
    )
    if "num_classes" in flags or classes:
        flags.settle("num_classes", classes)
    told = _enlarges(flags, size) if low_res else None
    return Plan("prior", config, widths, _scheduler(flags, path, learned), size, classes, dict(flags), told)


def _enlarges(flags: Flags, size: int) -> Condition:
    """What an upsampler is shown: pictures that were averaged to `small_size`, a quarter of the side as released."""
    small = flags.setdefault("small_size", size // 4)
    if size % small or size == small:
        raise InputError(f"{flags.path}: small_size = {small} does not divide {size}, what it is enlarged to")
    return Condition(("upscale",), scale=size // small, shrunk="average", low_res=True)


def _classifier(shapes: Shapes, flags: Flags, path: Path, config: dict[str, Any], pictures: int) -> Plan:
    last, ends = ("out.3.weight", "out.2.weight")
    if "out.2.positional_embedding" in shapes:
        pool, classes = "attention", shapes["out.2.c_proj.bias"][0]
        if not config["num_head_channels"]:
            raise flags.need("num_head_channels (its pooling has heads)")
    elif last in shapes:
        pool, classes = ("adaptive" if len(shapes[last]) == 4 else "spatial_v2"), shapes[last][0]
    elif len(shapes.get(ends, ())) == 2:
        pool, classes = "spatial", shapes[ends][0]
    else:
        raise InputError(f"{path}: a classifier whose pooling is none of {', '.join(POOLS)}")
    flags.settle("pool", pool)
    flags.settle("out_channels", classes)
    config |= {"in_channels": pictures, "classes": classes, "pool": pool}
    return Plan(
        "classifier", config, config["channels"], _scheduler(flags, path, False), config["sample_size"], classes,
        dict(flags),
    )  # fmt: skip


# ---------------------------------------------------------------- what the tensors tell


def _tidy(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _scales(shapes: Shapes, flags: Flags, path: Path, encoder: bool) -> tuple[int, list[int], list[bool], str]:
    """(residual blocks a scale, widths, which scales attend, how it halves) by the pattern of the way down.

    A scale is its residual blocks and, but for the last, one that halves: the patterns that fit are counted, since a
    residual block that halves looks like any other."""
    kinds, wide, attends = {}, {}, {}
    for name, shape in shapes.items():
        where = re.match(r"input_blocks\.(\d+)\.(\d+)\.(op\.weight|in_layers\.2\.weight|qkv\.weight)", name)
        if where:
            n = int(where[1])
            kind = {"op": "conv", "in": "block", "qk": "attention"}[where[3][:2]]
            if kind == "attention":
                attends[n] = True
            else:
                kinds[n], wide[n] = kind, shape[0]
    total = max(kinds) + 1
    outputs = [n for n in (re.match(r"output_blocks\.(\d+)\.", name) for name in shapes) if n]
    if outputs and max(int(n[1]) for n in outputs) + 1 != total:
        raise InputError(f"{path}: the way up does not belong to the way down; is the file whole?")
    ups = {int(n[1]) for n in (re.match(r"output_blocks\.(\d+)\.[12]\.(in_layers|conv)", x) for x in shapes) if n}
    fits = []
    for layers in range(1, total):
        levels = total // (layers + 1)
        inside = [[k * (layers + 1) + 1 + j for j in range(layers)] for k in range(levels)]
        halving = {kinds.get(k * (layers + 1), "pool") for k in range(1, levels)}
        if (
            total % (layers + 1) == 0
            and len(halving) < 2
            and all(kinds.get(n) == "block" for scale in inside for n in scale)
            and all(len({(wide[n], n in attends) for n in scale}) == 1 for scale in inside)
            and all(
                k * (layers + 1) not in attends
                and wide.get(k * (layers + 1), wide[inside[k - 1][0]]) == wide[inside[k - 1][0]]
                for k in range(1, levels)
            )
            and (encoder or halving <= {"pool"} or ups == {k * (layers + 1) - 1 for k in range(1, levels)})
        ):
            how = {"block": "updown", "conv": "conv", "pool": "pool"}[halving.pop() if halving else "conv"]
            fits.append((layers, [wide[scale[0]] for scale in inside], [scale[0] in attends for scale in inside], how))
    for name, place in (("num_res_blocks", lambda fit: fit[0]), ("channel_mult", lambda fit: len(fit[1]))):
        if name in flags and len(fits) > 1:
            said = flags[name] if name == "num_res_blocks" else len(flags[name])
            fits = [fit for fit in fits if place(fit) == said] or fits
    if not fits:
        raise InputError(f"{path}: its blocks follow no pattern of guided-diffusion; is the file whole?")
    if len(fits) > 1:
        raise flags.need("num_res_blocks (" + " or ".join(str(fit[0]) for fit in fits) + ")")
    return fits[0]


def _size(shapes: Shapes, flags: Flags, widths: list[int], attention: list[bool]) -> int:
    """The side of the pictures that it was trained on; attention_resolutions is of them, or how often it was halved."""
    if "out.2.positional_embedding" in shapes:
        places = math.isqrt(shapes["out.2.positional_embedding"][1] - 1)
        flags.settle("image_size", places * 2 ** (len(widths) - 1))
    halvings = sorted(2**level for level, attends in enumerate(attention) if attends)
    stated = flags.pop("attention_resolutions", None)
    size = flags.get("image_size")
    if size is None:
        raise flags.need("image_size")
    resolutions = sorted((size // k for k in halvings), reverse=True)
    if stated is not None:
        said = sorted(stated)
        possible = {size // 2**level for level in range(len(widths))}  # others name no scale of it, and have no effect
        if said != halvings and sorted(set(said) & possible, reverse=True) != resolutions:
            flags["attention_resolutions"] = stated
            flags.settle("attention_resolutions", resolutions)
    flags["attention_resolutions"] = resolutions
    return size


def _heads(flags: Flags, widths: list[int], attention: list[bool]) -> dict[str, int | None]:
    """num_head_channels, which counts where it is given, or num_heads. Raises InputError where neither is."""
    wide = {width for width, attends in zip(widths, attention, strict=True) if attends} | {widths[-1]}
    each, count = flags.get("num_head_channels"), flags.get("num_heads")
    if each is None and count is None:
        raise flags.need("num_heads or num_head_channels", "use_new_attention_order")
    for width in wide:
        if width % (each or count):
            name, value = ("num_head_channels", each) if each else ("num_heads", count)
            raise InputError(f"{flags.path}: {name} = {value} does not divide {width}, the width of an attention")
    return {"num_heads": None if each else count, "num_head_channels": each}


def _scheduler(flags: Flags, path: Path, learned: bool) -> dict[str, Any]:
    """The noise table: linear betas from 1e-4 to 0.02 at 1000 steps, and so much more at fewer; or the cosine."""
    if not flags.said and "noise_schedule" not in flags:
        raise flags.need("noise_schedule", "diffusion_steps")
    name, steps = flags.setdefault("noise_schedule", "linear"), flags.setdefault("diffusion_steps", 1000)
    if name not in ("linear", "cosine"):
        raise InputError(f"{path}: noise_schedule = {name!r}: linear or cosine")
    if flags.get("rescale_timesteps") and steps != 1000:
        raise InputError(f"{path}: rescale_timesteps with {steps} diffusion_steps is not supported")
    betas = {"beta_start": 0.1 / steps, "beta_end": 20 / steps}
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": steps,
        "beta_schedule": "linear" if name == "linear" else "squaredcos_cap_v2",
        **(betas if name == "linear" else {}),
        "prediction_type": "sample" if flags.get("predict_xstart") else "epsilon",
        "variance_type": "learned_range" if learned else "fixed_large",
        "clip_sample": True,
    }


# ---------------------------------------------------------------- the network


def class_name(plan: Plan) -> str:
    """The class that the network becomes."""
    if plan.kind == "classifier":
        return "GuidedEncoder"
    return "UNet2DModel" if expressible(plan.config) else "GuidedUNet"


def network(plan: Plan, state: dict[str, Tensor]) -> nn.Module:
    """The network with its weights."""
    if plan.kind == "classifier":
        return made(GuidedEncoder, plan.config, state)
    if not expressible(plan.config):
        return made(GuidedUNet, plan.config, state)
    return made(UNet2DModel, unet2d(plan.config), renamed(plan.config, state))
