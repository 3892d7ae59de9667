"""The networks of DDIM, SDEdit and DDRM (Song et al. 2021) from their tensors, as diffusers' UNet2DModel.

Where `resamp_with_conv` is off they average and repeat pixels: convolutions with those weights say the same.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from restore.checkpoints.flags import Flags
from restore.checkpoints.plan import Plan, made
from restore.errors import InputError

PARTS = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
ENDS = {
    "temb.dense.0": "time_embedding.linear_1", "temb.dense.1": "time_embedding.linear_2", "conv_in": "conv_in",
    "norm_out": "conv_norm_out", "conv_out": "conv_out", "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0", "mid.block_2": "mid_block.resnets.1",
}  # fmt: skip


def plan(shapes: dict[str, tuple[int, ...]], flags: Flags, path: Path) -> Plan:
    """The network behind these tensors. Raises InputError where flags are missing, or say otherwise."""
    found = [re.match(r"down\.(\d+)\.block\.(\d+)\.conv1\.weight", name) for name in shapes]
    blocks = {(int(m[1]), int(m[2])): shapes[m[0]][0] for m in found if m}
    levels, layers = (1 + max(place[k] for place in blocks) for k in (0, 1))
    complete = all((i, j) in blocks for i in range(levels) for j in range(layers))
    complete &= all(f"up.{i}.block.{layers}.conv1.weight" in shapes for i in range(levels))
    if not complete or any(blocks[i, j] != blocks[i, 0] for i, j in blocks):
        raise InputError(f"{path}: its blocks follow no pattern of DDIM; is the file whole?")
    if any("conv_shortcut" in name for name in shapes):
        raise InputError(f"{path}: a DDIM network with conv_shortcut, which is not supported")
    attention = [f"down.{i}.attn.0.q.weight" in shapes for i in range(levels)]
    ch, widths = shapes["conv_in.weight"][0], [blocks[i, 0] for i in range(levels)]
    convolved = levels == 1 or "down.0.downsample.conv.weight" in shapes
    flags.settle("ch", ch)
    flags.settle("ch_mult", [width // ch if width % ch == 0 else width / ch for width in widths])
    flags.settle("num_res_blocks", layers)
    flags.settle("resamp_with_conv", convolved)
    flags.settle("in_channels", shapes["conv_in.weight"][1])
    flags.settle("out_ch", shapes["conv_out.weight"][0])
    if flags["in_channels"] != flags["out_ch"]:
        raise InputError(f"{path}: a network from {flags['in_channels']} to {flags['out_ch']} channels is no prior")
    size = flags.get("image_size")
    if size is None:
        raise flags.need("image_size")
    stated, resolutions = flags.pop("attn_resolutions", None), [size // 2**i for i in range(levels) if attention[i]]
    if stated is not None:
        flags["attn_resolutions"] = sorted({r for r in stated if r in [size // 2**i for i in range(levels)]})[::-1]
    flags.settle("attn_resolutions", resolutions)
    config = {
        "sample_size": size, "in_channels": flags["in_channels"], "out_channels": flags["out_ch"],
        "block_out_channels": widths, "layers_per_block": layers,
        "down_block_types": ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in attention],
        "up_block_types": ["AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention)],
        "downsample_padding": 0, "attention_head_dim": None, "norm_eps": 1e-6, "norm_num_groups": 32,
        "freq_shift": 1, "flip_sin_to_cos": False,
    }  # fmt: skip
    if widths[0] != ch:
        raise InputError(f"{path}: a DDIM network whose ch_mult begins with {flags['ch_mult'][0]} is not supported")
    return Plan("prior", config, widths, _scheduler(flags, path), size, None, dict(flags))


def _scheduler(flags: Flags, path: Path) -> dict[str, Any]:
    if not flags.said and "beta_start" not in flags:
        raise flags.need("beta_start", "beta_end")
    schedule = flags.setdefault("beta_schedule", "linear")
    if schedule not in ("linear", "quad"):
        raise InputError(f"{path}: beta_schedule = {schedule!r}: linear or quad")
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": flags.setdefault("num_diffusion_timesteps", 1000),
        "beta_schedule": "linear" if schedule == "linear" else "scaled_linear",
        "beta_start": flags.setdefault("beta_start", 1e-4),
        "beta_end": flags.setdefault("beta_end", 0.02),
        "prediction_type": "epsilon",
        "variance_type": "fixed_large",
        "clip_sample": True,
    }


def class_name(plan: Plan) -> str:
    return "UNet2DModel"


def network(plan: Plan, state: dict[str, Tensor]) -> nn.Module:
    """The network with its weights."""
    levels = len(plan.widths)
    places = dict(ENDS)
    for i in range(levels):
        for way, k in (("down", i), ("up", levels - 1 - i)):
            for j in range(plan.flags["num_res_blocks"] + 1):
                places[f"{way}.{i}.block.{j}"] = f"{way}_blocks.{k}.resnets.{j}"
                places[f"{way}.{i}.attn.{j}"] = f"{way}_blocks.{k}.attentions.{j}"
            places[f"{way}.{i}.{way}sample"] = f"{way}_blocks.{k}.{way}samplers.0"
    found = {}
    for name, value in state.items():
        place = next((p for p in (".".join(name.split(".")[:k]) for k in (4, 3, 2, 1)) if p in places), None)
        if place is None:  # no part of the network: it is refused by its name
            found[name] = value
            continue
        inner, _, leaf = name.removeprefix(f"{place}.").rpartition(".")
        if ".attentions." in places[place]:
            inner = ATTENTION[inner]
            value = value.flatten(1) if inner != "group_norm" and leaf == "weight" else value  # (C,C,1,1) -> (C,C)
        found[".".join(filter(None, (places[place], PARTS.get(inner, inner), leaf)))] = value
    if not plan.flags["resamp_with_conv"]:
        found |= _averages(plan.widths)
    return made(UNet2DModel, plan.config, found)


def _averages(widths: list[int]) -> dict[str, Tensor]:
    """The convolutions that average 2 x 2 pixels, and that leave them as they are."""
    found = {}
    for i in range(len(widths) - 1):
        for place, width, rows, value in (
            (f"down_blocks.{i}.downsamplers.0.conv", widths[i], slice(0, 2), 0.25),
            (f"up_blocks.{i}.upsamplers.0.conv", widths[::-1][i], slice(1, 2), 1.0),
        ):
            weight = torch.zeros(width, width, 3, 3)
            weight[range(width), range(width), rows, rows] = value
            found[f"{place}.weight"], found[f"{place}.bias"] = weight, torch.zeros(width)
    return found
