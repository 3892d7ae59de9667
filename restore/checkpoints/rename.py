"""A U-Net of guided-diffusion as diffusers' UNet2DModel, where that can say it.

Its first width is `num_channels` (not so at 512 px, whose `channel_mult` begins with 0.5), all its heads are of one
width (not so for `num_heads` on scales of several widths), it halves by residual blocks or by convolutions, and it
takes no second picture. Else it is a `restore.guided.GuidedUNet`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def head_width(config: dict[str, Any]) -> int | None:
    """The one width of all heads; None where there are several."""
    if config["num_head_channels"]:
        return config["num_head_channels"]
    pairs = zip(config["channels"], config["attention"], strict=True)
    wide = {width for width, attends in pairs if attends} | {config["channels"][-1]}
    upward = config.get("num_heads_upsample")
    return next(iter(wide)) // config["num_heads"] if len(wide) == 1 and not upward else None


def expressible(config: dict[str, Any]) -> bool:
    """Whether diffusers' UNet2DModel can say the same."""
    first = config["channels"][0] == config["model_channels"]
    return first and head_width(config) is not None and config["resample"] != "pool" and not config["low_res"]


def unet2d(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the UNet2DModel that is this GuidedUNet."""
    updown, attention = config["resample"] == "updown", config["attention"]
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if updown else ("DownBlock2D", "UpBlock2D")
    how = "resnet" if updown else "conv"
    return {
        "sample_size": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": config["channels"],
        "layers_per_block": config["layers"],
        "down_block_types": ["AttnDownBlock2D" if attends else plain[0] for attends in attention],
        "up_block_types": ["AttnUpBlock2D" if attends else plain[1] for attends in reversed(attention)],
        "downsample_type": how,
        "upsample_type": how,
        "downsample_padding": 1,
        "resnet_time_scale_shift": "scale_shift" if config["scale_shift"] else "default",
        "attention_head_dim": head_width(config),
        "attn_norm_num_groups": 32,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "num_class_embeds": config["num_class_embeds"],
    }


PARTS = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding", "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0", "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}  # fmt: skip


def renamed(config: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names of UNet2DModel; queries, keys and values apart."""
    places, layers, attention = dict(ENDS), config["layers"], config["attention"]
    levels = len(attention)
    for n in range(1, levels * (layers + 1)):
        level, j = divmod(n - 1, layers + 1)
        halves = j == layers
        places[f"input_blocks.{n}.0"] = f"down_blocks.{level}." + ("downsamplers.0" if halves else f"resnets.{j}")
        places[f"input_blocks.{n}.1"] = f"down_blocks.{level}.attentions.{j}"
    for n in range(levels * (layers + 1)):
        level, j = divmod(n, layers + 1)
        attends = attention[levels - 1 - level]
        places[f"output_blocks.{n}.0"] = f"up_blocks.{level}.resnets.{j}"
        places[f"output_blocks.{n}.1"] = f"up_blocks.{level}." + (f"attentions.{j}" if attends else "upsamplers.0")
        places[f"output_blocks.{n}.2"] = f"up_blocks.{level}.upsamplers.0"
    heads, found = head_width(config), {}
    for name, value in state.items():
        place = next((p for p in (".".join(name.split(".")[:k]) for k in (3, 2, 1)) if p in places), None)
        if place is None:  # no part of the network: it is refused by its name
            found[name] = value
            continue
        part, kind = name.removeprefix(f"{place}."), places[place]
        if ".attentions." in kind:
            found |= _attention(kind, part, value, heads, config["new_order"])
            continue
        inner, _, leaf = part.rpartition(".")
        inner = PARTS.get(inner, "conv" if inner in ("op", "conv") else inner)
        found[".".join(filter(None, (kind, inner, leaf)))] = value
    return found


def _attention(place: str, part: str, value: Tensor, width: int, new_order: bool) -> dict[str, Tensor]:
    leaf = part.rpartition(".")[2]
    if part.startswith("norm"):
        return {f"{place}.group_norm.{leaf}": value}
    value = value.squeeze(-1) if leaf == "weight" else value  # (.,C,1) of a convolution -> (.,C)
    if part.startswith("proj_out"):
        return {f"{place}.to_out.0.{leaf}": value}
    if new_order:
        q, k, v = value.chunk(3)
    else:
        q, k, v = (x.flatten(0, 1) for x in value.unflatten(0, (-1, 3, width)).unbind(1))
    return {f"{place}.to_{name}.{leaf}": x.contiguous() for name, x in (("q", q), ("k", k), ("v", v))}
