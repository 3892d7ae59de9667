"""The networks of the public SR3 (Saharia et al. 2021) from their tensors: files `*_gen.pth`, names `denoise_fn.*`."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from restore.checkpoints.flags import Flags
from restore.checkpoints.plan import Plan, made
from restore.conditional import Condition
from restore.errors import InputError
from restore.levels import from_config
from restore.sr3 import SR3UNet

PREFIX = "denoise_fn."
MARK = f"{PREFIX}noise_level_mlp.1.weight"  # the same code's DDPM networks, which are told the step, have none
SCHEDULES = {"linear": "linear", "quad": "scaled_linear", "cosine": "squaredcos_cap_v2"}  # by diffusers' names


def plan(shapes: dict[str, tuple[int, ...]], flags: Flags, path: Path) -> Plan:
    """The network behind these tensors. Raises InputError where flags are missing, or say otherwise."""
    inner = {name.removeprefix(PREFIX): shape for name, shape in shapes.items() if name.startswith(PREFIX)}
    if "downs.0.weight" not in inner or "final_conv.block.3.weight" not in inner:
        raise InputError(f"{path}: its blocks follow no pattern of SR3; is the file whole?")
    base, inside = inner["downs.0.weight"][:2]
    widths, blocks, attention = _scales(inner)
    if not widths or len(set(blocks)) > 1 or any(width % base for width in widths):
        raise InputError(f"{path}: its blocks follow no pattern of SR3; is the file whole?")
    flags.settle("inner_channel", base)
    flags.settle("channel_multiplier", [width // base for width in widths])
    flags.settle("res_blocks", blocks[0])
    flags.settle("in_channel", inside)
    flags.settle("out_channel", inner["final_conv.block.3.weight"][0])
    if inside != 2 * flags["out_channel"]:
        raise InputError(f"{path}: an SR3 network from {inside} to {flags['out_channel']} channels enlarges nothing")
    missing = [name for name in ("image_size", "norm_groups", "scale") if flags.get(name) is None]
    if missing:
        raise flags.need(*missing)
    size = flags["image_size"]
    stated, sides = flags.pop("attn_res", None), [size // 2**i for i in range(len(widths))]
    if stated is not None:  # others name no scale of it, and have no effect
        flags["attn_res"] = [side for side in sides if side in stated]
    flags.settle("attn_res", [side for side, attends in zip(sides, attention, strict=True) if attends])
    config = {
        "in_channels": inside, "out_channels": flags["out_channel"], "base_channels": base,
        "channel_mults": flags["channel_multiplier"], "norm_groups": flags["norm_groups"],
        "attn_res": flags["attn_res"], "res_blocks": blocks[0], "dropout": 0.0, "sample_size": size,
    }  # fmt: skip
    told = Condition(("upscale",), scale=flags["scale"], noise_level=1.0)
    return Plan("prior", config, widths, _scheduler(shapes, flags, path), size, None, dict(flags), told)


def _scales(inner: dict[str, tuple[int, ...]]) -> tuple[list[int], list[int], list[bool]]:
    """The width of each scale, how many blocks it has, and whether it attends."""
    widths, blocks, attention = [], [], []
    fresh = True
    for i in count(1):
        conv = inner.get(f"downs.{i}.res_block.block1.block.3.weight")
        if conv is None and f"downs.{i}.conv.weight" not in inner:
            return widths, blocks, attention
        if conv is not None:
            if fresh:
                widths.append(conv[0])
                blocks.append(0)
                attention.append(f"downs.{i}.attn.qkv.weight" in inner)
            blocks[-1] += 1
        fresh = conv is None


def _scheduler(shapes: dict[str, tuple[int, ...]], flags: Flags, path: Path) -> dict[str, Any]:
    if "betas" in shapes:
        flags.settle("n_timestep", shapes["betas"][0])
    schedule = flags.setdefault("schedule", "linear")
    if schedule not in SCHEDULES:
        raise InputError(f"{path}: schedule = {schedule!r}: {', '.join(SCHEDULES)}")
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": flags.setdefault("n_timestep", 2000),
        "beta_schedule": SCHEDULES[schedule],
        "beta_start": flags.setdefault("linear_start", 1e-6),
        "beta_end": flags.setdefault("linear_end", 1e-2),
        "prediction_type": "epsilon",
        "variance_type": "fixed_small",
        "clip_sample": True,
    }


def class_name(plan: Plan) -> str:
    return "SR3UNet"


def network(plan: Plan, state: dict[str, Tensor]) -> nn.Module:
    """The network with its weights, which takes the noisy picture first and then the enlarged one.

    Raises InputError where the file's own betas are not those of the schedule."""
    if "betas" in state:
        told = np.cumprod(1 - state["betas"].double().numpy())
        if np.abs(told - from_config(plan.scheduler).abar).max() > 1e-3:
            said = " ".join(f"{name} = {plan.flags[name]}" for name in ("schedule", "linear_start", "linear_end"))
            raise InputError(f"its betas are not those of {said}: give these as flags")
    found = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    shown, noisy = found["downs.0.weight"].chunk(2, 1)  # SR3 concatenates the enlarged picture first
    found["downs.0.weight"] = torch.cat([noisy, shown], 1)
    return made(SR3UNet, plan.config, found)
