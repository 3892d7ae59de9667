"""Flags of the codes that wrote a checkpoint: from the caller, from NAME.toml beside it, or from the table."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from restore.errors import InputError

# Flags by the names that their code gives them; and other names of the same: of classifiers, of constructors.
GUIDED = {
    "image_size", "num_channels", "num_res_blocks", "channel_mult", "attention_resolutions", "num_heads",
    "num_head_channels", "num_heads_upsample", "use_scale_shift_norm", "resblock_updown", "conv_resample",
    "use_new_attention_order", "class_cond", "num_classes", "learn_sigma", "in_channels", "out_channels", "pool",
    "noise_schedule", "diffusion_steps", "predict_xstart", "rescale_timesteps", "small_size",
}  # fmt: skip
GUIDED_NAMES = {
    "large_size": "image_size", "model_channels": "num_channels", "steps": "diffusion_steps",
    "classifier_width": "num_channels", "classifier_depth": "num_res_blocks",
    "classifier_attention_resolutions": "attention_resolutions", "classifier_pool": "pool",
    "classifier_use_scale_shift_norm": "use_scale_shift_norm", "classifier_resblock_updown": "resblock_updown",
}  # fmt: skip
DDIM = {
    "image_size", "ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resamp_with_conv", "in_channels", "out_ch",
    "beta_schedule", "beta_start", "beta_end", "num_diffusion_timesteps",
}  # fmt: skip
SR3 = {
    "image_size", "inner_channel", "channel_multiplier", "attn_res", "res_blocks", "norm_groups", "in_channel",
    "out_channel", "schedule", "n_timestep", "linear_start", "linear_end", "scale",
}  # fmt: skip
WITHOUT_EFFECT = {  # on what a trained network answers
    "guided-diffusion": {
        "dropout", "use_checkpoint", "use_fp16", "classifier_use_fp16", "sigma_small", "use_kl", "timestep_respacing",
        "rescale_learned_sigmas", "dims",
    },
    "DDIM": {"dropout", "type", "var_type", "ema", "ema_rate", "resolution"},
    "SR3": {"dropout", "conditional", "channels", "which_model_G", "finetune_norm"},
}  # fmt: skip
NAMES = {"guided-diffusion": (GUIDED, GUIDED_NAMES), "DDIM": (DDIM, {}), "SR3": (SR3, {})}


class Flags(dict):
    """Flags with their origin, for errors; `said` is whether anyone has said any."""

    def __init__(self, values: Mapping[str, Any], where: str, path: Path) -> None:
        super().__init__(values)
        self.where, self.path, self.said = where, path, bool(values)

    def settle(self, name: str, told: Any, shown: Any = None) -> None:
        """Take what the tensors tell. Raises InputError where the flag says otherwise."""
        if name in self and self[name] != told:
            raise InputError(
                f"{self.path}: {self.where} {name} = {_text(self[name])}, and its tensors say "
                f"{_text(told if shown is None else shown)}"
            )
        self[name] = told

    def need(self, *missing: str) -> InputError:
        """What is raised where the tensors do not tell, and nobody else does."""
        wanted, sidecar = ", ".join(missing), self.path.with_suffix(".toml").name
        example = f"a line such as {missing[0].split(' ')[0]} = ..."
        return InputError(
            f"{self.path}: its tensors do not tell {wanted}: give flags, or {sidecar} beside it with {example}"
        )


def gathered(path: Path, family: str, given: Mapping[str, Any] | None, table: Mapping[str, Any] | None) -> Flags:
    """The flags of a file: `given` over those of NAME.toml over those of the table. Raises InputError for names that
    its family does not have, and values that cannot be read."""
    sidecar = path.with_suffix(".toml")
    beside = _read(sidecar) if sidecar.is_file() else {}
    said = _known(beside, family, str(sidecar)) | _known(given or {}, family, "flags")
    if any(name.startswith("classifier_") for name in {**beside, **(given or {})}) and "num_heads" not in said:
        said = {"num_head_channels": 64} | said  # as create_classifier has it, which takes no flag for it
    origin = "flags say" if given else f"{sidecar.name} says" if beside else "the table of released files says"
    return Flags({**(table or {}), **said}, origin, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as TOML: {' '.join(str(error).split())}") from None
    flat: dict[str, Any] = {}
    for name, value in found.items():  # a DDIM configuration has sections: data, model, diffusion
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def _known(flags: Mapping[str, Any], family: str, where: str) -> dict[str, Any]:
    names, others = NAMES[family]
    found = {}
    for name, value in flags.items():
        if name in WITHOUT_EFFECT[family]:
            continue
        own = others.get(name, name)
        if own not in names:
            close = difflib.get_close_matches(name, [*names, *others, *WITHOUT_EFFECT[family]], 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"{where}: {family} has no flag {name!r}{hint}")
        found[own] = _value(own, value, where)
    return {name: value for name, value in found.items() if value is not None}


def _value(name: str, value: Any, where: str) -> Any:
    """A value as TOML or a command line gives it. Raises InputError; None where it says nothing (-1, or empty)."""
    lists = ("channel_mult", "attention_resolutions", "ch_mult", "attn_resolutions", "channel_multiplier", "attn_res")
    words = ("pool", "noise_schedule", "beta_schedule", "schedule")
    truths = (
        "use_scale_shift_norm", "resblock_updown", "conv_resample", "use_new_attention_order", "class_cond",
        "learn_sigma", "predict_xstart", "rescale_timesteps", "resamp_with_conv",
    )  # fmt: skip
    try:
        if name in lists:
            parts = value.replace(" ", "").split(",") if isinstance(value, str) else list(value)
            return [_number(part) for part in parts if part != ""] or None
        if name in words:
            return str(value)
        if name in truths:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        number = _number(value)
        return None if name in ("num_head_channels", "num_heads_upsample") and number == -1 else number
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{where}: {name} = {value!r} cannot be read") from None


def _number(value: Any) -> int | float:
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    return int(number) if number == int(number) else number


def _text(value: Any) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)
