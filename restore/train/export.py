"""What was trained as a diffusers folder: weights, scheduler, model card and the configuration that made it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from restore import layout
from restore.conditional import Condition
from restore.train import toml
from restore.train.conditional_config import ConditionalConfig
from restore.train.config import ClassifierConfig, Config, PriorConfig
from restore.train.log import MEASURES, duration

# What the validations of conditional priors measure, as the columns of a card.
ANSWERS = {"val_psnr": "PSNR (dB)", "val_ssim": "SSIM", "val_input": "PSNR of what was given (dB)"}


def prior(
    folder: Path,
    net: nn.Module,
    scheduler: Any,
    config: PriorConfig,
    labels: list[str] | None,
    history: list[dict[str, Any]],
) -> None:
    """Fill `folder` with what `restore.load_prior` and diffusers read; `history` is the log, for the card.

    labels.json lists the class names; where the network has one class more, the last stands for 'no label'."""
    layout.index(folder, net, type(scheduler).__name__)
    what = f"denoising network of {layout.millions(net)} M parameters that predicts {config.train.predicts}"
    _parts(folder, "prior", net, scheduler, config, labels)
    layout.text(folder / "README.md", card("A diffusion prior", what, config, labels, history))


def conditional(
    folder: Path,
    net: nn.Module,
    scheduler: Any,
    config: ConditionalConfig,
    told: Condition,
    history: list[dict[str, Any]],
) -> None:
    """Fill `folder` with what `restore.load_prior` reads as a conditional prior; `history` is the log, for the card."""
    layout.index(folder, net, type(scheduler).__name__)
    doing = f"enlarges pictures {told.scale} times" if told.scale > 1 else f"was trained to {', '.join(told.tasks)}"
    what = f"conditional denoising network of {layout.millions(net)} M parameters that {doing}"
    recipe = f"* predicts {config.train.predicts}, loss {config.train.loss}; condition.json says what it is shown"
    _parts(folder, "prior", net, scheduler, config, None)
    told.write(folder)
    layout.text(folder / "README.md", card("A conditional prior", what, config, None, history, recipe))


def classifier(
    folder: Path,
    net: nn.Module,
    scheduler: Any,
    config: ClassifierConfig,
    labels: list[str],
    history: list[dict[str, Any]],
) -> None:
    """Fill `folder` with what `restore.load_classifier` reads; `history` is the log, for the card."""
    what = f"noisy classifier of {layout.millions(net)} M parameters, for the guidance of diffusion priors"
    smoothed, dropped = config.train.label_smoothing, config.network.get("dropout", 0)
    recipe = f"* cross-entropy at noise levels drawn from the table, label smoothing {smoothed:g}, drop-out {dropped:g}"
    _parts(folder, "classifier", net, scheduler, config, labels)
    layout.text(folder / "README.md", card("A noisy classifier", what, config, labels, history, recipe))


def _parts(folder: Path, kind: str, net: nn.Module, scheduler: Any, config: Config, labels: list[str] | None) -> None:
    """The network, in the precision asked for, the scheduler, the class names and the configuration."""
    dtype = torch.float16 if config.export.dtype == "fp16" else torch.float32
    layout.parts(folder, kind, net, scheduler, labels, dtype)
    layout.text(folder / "train.toml", toml.write(dataclasses.asdict(config)))


def card(
    title: str, what: str, config: Config, labels: list[str] | None, history: list[dict[str, Any]], recipe: str = ""
) -> str:
    """The model card: what it is, its data, its recipe, its training curve. title: where the configuration has none."""
    train, settings = config.train, config.export
    done = history[-1] if history else {"step": 0, "crops": 0, "seconds": 0.0}
    budget = " or ".join(f"{v:g} {k}" for k, v in (("steps", train.steps), ("minutes", train.minutes)) if v)
    parts = [
        *layout.front(settings.license, settings.title or title),
        f"A {what}, trained on crops of {config.data.crop} px"
        + (f" with {len(labels)} labels ({', '.join(labels)})." if labels else "."),
        "",
        "## Training",
        "",
        settings.data,
        "" if settings.data else None,
        f"* {done['step']} steps, {done['crops']} crops, {duration(done['seconds'])}; budget {budget}; "
        f"seed {config.seed}",
        f"* begins with the weights of the prior `{train.init}`" if train.init else None,
        f"* AdamW, lr {train.lr:g}, betas {train.betas[0]:g} and {train.betas[1]:g}, weight decay "
        f"{train.weight_decay:g}, warm-up {train.warmup} steps, {train.decay.kind} decay from {train.decay.start:.0%}",
        recipe or None,
        f"* batch {train.batch}, gradient clip {train.clip_grad:g}, EMA {train.ema:g}, precision {train.precision}",
        *(
            f"* from {p.start:.0%} on: crops {p.crop or 'as before'}, batch {p.batch or 'as before'}"
            for p in train.phases
        ),
        "* `train.toml` is the whole configuration",
        "",
        *curve(history),
        settings.notes,
    ]
    return "\n".join(part for part in parts if part is not None).rstrip()


def curve(history: list[dict[str, Any]], rows: int = 12) -> list[str]:
    """A table of at most `rows` validations, spread over the training: PSNR of x0, or accuracy, at each sigma/255; of
    conditional priors, what `ANSWERS` says."""
    found = [row for row in history if "val_loss" in row]
    if not found:
        return []
    chosen = [
        found[round(i * (len(found) - 1) / max(1, min(rows, len(found)) - 1))] for i in range(min(rows, len(found)))
    ]
    prefix = next((p for p in MEASURES if any(key.startswith(p) for key in found[-1])), "")
    keys = [key for key in found[-1] if (key.startswith(prefix) if prefix else key in ANSWERS)]
    what = f"{MEASURES[prefix]} at each sigma/255, and loss," if prefix else "measures"
    table = [f"Held-out {what} of the averaged weights:", ""]
    table.append(" | ".join(["| crops | time", *(ANSWERS.get(k, k.removeprefix(prefix)) for k in keys), "loss |"]))
    table.append("| --- " * (len(keys) + 3) + "|")
    for row in chosen:
        cells = [str(row["crops"]), duration(row["seconds"])]
        cells += [f"{row.get(k, float('nan')):.{4 if k == 'val_ssim' else 2}f}" for k in keys]
        table.append("| " + " | ".join([*cells, f"{row['val_loss']:.4f}"]) + " |")
    return [*table, ""]
