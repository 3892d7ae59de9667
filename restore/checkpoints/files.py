"""Checkpoint files: opened without running what they hold, unwrapped, and told apart."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from restore.errors import InputError

NESTS = ("ema", "model_ema", "ema_model", "params_ema", "state_dict", "model", "params", "net")
PREFIXES = ("module.", "model.module.")

# What the names of tensors give away, for files that are something else.
OTHERS = (
    (r"model\.diffusion_model\.", "a latent diffusion checkpoint (Stable Diffusion); load its diffusers folder"),
    (r".*transformer_blocks\.", "a network with a text condition; load its diffusers folder"),
    (r".*(lora_(up|down|A|B)|\.lora)", "a LoRA, which changes another network and is none"),
    (r"(first_stage_model\.)?(encoder\.(down|conv_in)|decoder\.up)", "a VAE without its UNet"),
    (r"(text_model|transformer\.text_model|visual\.|logit_scale|cond_stage_model)", "a CLIP or text encoder"),
    (r"denoise_fn\.|downs\.\d+\.res_block", "a network of the code of SR3 that is told no noise level"),
    (r"(module\.)?all_modules\.", "a score_sde network, which is not supported"),
    (r"(model\.)?map_(noise|layer0)|model\.enc\.", "an EDM network, which is not supported"),
    (r"(down_blocks|mid_block|conv_norm_out)", "a network of diffusers; give its folder, with config.json"),
    (r"layer[1-4]\.0\.conv1|bn1\.", "a ResNet, a classifier of clean pictures"),
    (r"(blocks\.\d+|x_embedder|pos_embed)", "a transformer (DiT); load its diffusers folder"),
)  # fmt: skip


def opened(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, mapped from the file where it can be. Raises InputError, naming the file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return _stripped(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: damaged or cut off; fetch it again ({_line(error)})") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        code = re.search(r"(?:GLOBAL|global:?|class) ([\w.]+\.[\w.]+)", str(error))
        if code:
            raise InputError(
                f"{path}: holds code ({code[1]}) and is not opened; where you trust it, load it with its own code, "
                "and save its state_dict() alone"
            ) from None
        raise InputError(f"{path}: not a checkpoint, or damaged; fetch it again") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a checkpoint, or cut off; fetch it again ({_line(error)})") from None
    tensors = _unwrapped(found)
    if tensors is None:
        raise InputError(f"{path}: a {type(found).__name__} without the tensors of a network; save its state_dict()")
    return _stripped(tensors)


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:100]


def _unwrapped(found: Any) -> dict[str, Tensor] | None:
    """The state dict inside what training codes save: averaged weights before those of the last step."""
    if isinstance(found, list | tuple):  # DDIM: [weights, optimizer, epoch, step, averaged weights]
        inside = [part for part in map(_unwrapped, found) if part and any(v.ndim > 1 for v in part.values())]
        return inside[-1] if inside else None
    if not isinstance(found, dict):
        return None
    for name in NESTS:
        inside = _unwrapped(found[name]) if isinstance(found.get(name), dict | list | tuple) else None
        if inside:
            return inside
    if "optimizer" in found or "param_groups" in found:
        return None
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor) and isinstance(name, str)}
    return tensors or None


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def family(shapes: dict[str, tuple[int, ...]], path: Path) -> str:
    """guided-diffusion, DDIM or SR3. Raises InputError for anything else, saying what it looks like."""
    for pattern, words in OTHERS[:2]:
        if any(re.match(pattern, name) for name in shapes):
            raise InputError(f"{path}: looks like {words}")
    if {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight"} <= shapes.keys():
        return "guided-diffusion"
    if {"temb.dense.0.weight", "down.0.block.0.norm1.weight", "mid.block_1.norm1.weight"} <= shapes.keys():
        return "DDIM"
    if "denoise_fn.noise_level_mlp.1.weight" in shapes:
        return "SR3"
    for pattern, words in OTHERS[2:]:
        if any(re.match(pattern, name) for name in shapes):
            raise InputError(f"{path}: looks like {words}")
    first = next(iter(shapes), "nothing")
    raise InputError(f"{path}: no network of guided-diffusion, DDIM or SR3; its tensors begin with {first}")
