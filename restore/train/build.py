"""What a configuration names: networks, diffusers schedulers and their noise levels."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import diffusers
import torch
from torch import nn

from restore.errors import InputError
from restore.levels import Flow, Schedule, from_betas
from restore.train.toml import nearest

PRIORS = {"unet": ("restore.unet", "UNet"), "UNet2DModel": ("diffusers", "UNet2DModel")}
CONDITIONAL = {**PRIORS, "sr3": ("restore.sr3", "SR3UNet"), "srdiff": ("restore.srdiff", "SRDiff")}
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
CLASSIFIERS = {"encoder": ("restore.encoder", "Encoder")}
PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def build_network(section: dict[str, Any], kinds: dict[str, tuple[str, str]] = PRIORS, **given: Any) -> nn.Module:
    """The network of a [network] section, of one of the `kinds`, by default the first; `given` fills keys that the
    class knows and the section leaves out."""
    kind = section.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise InputError(f"[network] unknown kind {kind!r}: {' or '.join(kinds)}")
    cls = getattr(import_module(kinds[kind][0]), kinds[kind][1])
    return _made(cls, {k: v for k, v in section.items() if k != "kind"}, "network", given)


def build_scheduler(section: dict[str, Any], predicts: str, where: str = "schedule") -> Any:
    """The diffusers scheduler of a [schedule] section, or one like it, its prediction type set."""
    name = section.get("class", "FlowMatchEulerDiscreteScheduler" if predicts == "flow" else "DDPMScheduler")
    cls = getattr(diffusers, name, None)
    if cls is None or not hasattr(cls, "from_config"):
        raise InputError(f"[{where}] diffusers has no scheduler {name!r}")
    if "prediction_type" in section:
        raise InputError(f"[{where}] prediction_type follows from train.predicts: leave it out")
    given = {} if predicts == "flow" else {"prediction_type": PREDICTION_TYPES[predicts]}
    return _made(cls, {k: v for k, v in section.items() if k != "class"}, where, given)


def _made(cls: Any, keys: dict[str, Any], where: str, given: dict[str, Any]) -> Any:
    known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    for key in keys:
        if key not in known:
            raise InputError(f"[{where}] unknown key {key!r} of {cls.__name__}{nearest(key, known)}")
    try:
        return cls(**{k: v for k, v in given.items() if k in known} | keys)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"[{where}] {cls.__name__} refuses these keys: {error}") from None


def schedule_of(scheduler: Any) -> Schedule:
    """The noise levels that a diffusers scheduler trains on."""
    if hasattr(scheduler, "betas"):
        return from_betas(scheduler.betas.double().numpy())
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        return Flow(scale=float(scheduler.config.num_train_timesteps))
    raise InputError(f"[schedule] {type(scheduler).__name__} has neither betas nor a flow")
