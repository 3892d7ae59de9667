"""A prior: a network, what it predicts, its schedule and its codec, seen as one function (x, level) -> (x0, eps)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from restore.codec import Codec, Pixels
from restore.errors import InputError
from restore.levels import Level, Schedule
from restore.network import Network


class Pred(NamedTuple):
    """What a network says of one noisy image, in model space."""

    x0: Tensor  # (B,C,H,W) estimate of the clean image
    eps: Tensor  # (B,C,H,W) estimate of the noise
    frac: Tensor | None = None  # (B,C,H,W) learned-variance fraction in [-1, 1], where the network has one


Denoise = Callable[[Tensor, Level], Pred]

# A network's output is p * x0 + q * eps; this is (p, q) for each kind of output.
PREDICTS: dict[str, Callable[[Level], tuple[Any, Any]]] = {
    "eps": lambda level: (0.0, 1.0),  # Ho et al. 2020
    "x0": lambda level: (1.0, 0.0),
    "v": lambda level: (-level.sigma, level.alpha),  # Salimans and Ho 2022
    "flow": lambda level: (-1.0, 1.0),  # d x / d s of rectified flow: Liu et al. 2023
    "score": lambda level: (0.0, -1.0 / level.sigma),  # Song et al. 2021, grad log p(x)
}


def coefficients(predicts: str, level: Level) -> tuple[Any, Any]:
    """(p, q) with output = p * x0 + q * eps: converts a prediction and makes the training target."""
    return PREDICTS[predicts](level)


def solve(x: Tensor, out: Tensor, level: Level, predicts: str) -> Pred:
    """(x0, eps) from x = alpha * x0 + sigma * eps and out = p * x0 + q * eps: a 2x2 solve per pixel.

    x, out: (B,C,H,W). The determinant alpha q - sigma p is zero only where the output carries no news (x0 at sigma 0,
    eps at alpha 0)."""
    p, q = coefficients(predicts, level)
    det = level.alpha * q - level.sigma * p
    if not isinstance(det, Tensor) and det == 0:
        raise InputError(f"a network that predicts {predicts} says nothing at alpha={level.alpha}, sigma={level.sigma}")
    return Pred(x0=x * (q / det) - out * (level.sigma / det), eps=out * (level.alpha / det) - x * (p / det))


class Prior(Network):
    """A `Denoise` made of a network, what it predicts, the schedule it was trained on and its codec.

    net: any callable (x (B,C,H,W), t (B,)) -> (B,C,H,W), or (B,2C,H,W) with a learned variance, or a diffusers output.
    predicts: eps, x0, v, flow or score. dtype: the precision the network runs in; states stay in x's own.
    clip: clamp x0 to [-1, 1], which the schedulers of pixel models call clip_sample.
    labels: the classes' names, or how many there are. null_label: the index that stands for no class.
    orientations: 2 where it was trained on pictures and their mirror images, 8 where on all quarter turns of both.
    multiple: the network wants sides divisible by this. Raises InputError for an unknown `predicts`.
    """

    kind = "prior"

    def __init__(
        self,
        net: Callable[..., Any],
        *,
        predicts: str = "eps",
        schedule: Schedule,
        codec: Codec | None = None,
        channels: int = 3,
        clip: bool = False,
        multiple: int = 1,
        size: int | None = None,
        labels: list[str] | int | None = None,
        null_label: int | None = None,
        orientations: int = 1,
        dtype: torch.dtype = torch.float32,
        name: str = "custom",
    ) -> None:
        if predicts not in PREDICTS:
            raise InputError(f"unknown prediction {predicts!r}: choose one of {', '.join(PREDICTS)}")
        super().__init__(net, labels, dtype, name)
        self.predicts, self.schedule = predicts, schedule
        self.codec = codec or Pixels()
        self.channels, self.clip, self.multiple, self.size = channels, clip, multiple, size
        self.null_label, self.orientations = null_label, orientations
        self.given = {} if null_label is None else {"class_labels": torch.tensor(null_label)}

    def levels(self, steps: int | str, start: float | None = None, spacing: str | None = None) -> list[Level]:
        """`steps` levels, noisy to clean, then CLEAN: see `Schedule.levels`."""
        return self.schedule.levels(steps, start, spacing)

    def labelled(self, label: int | str | Tensor) -> Prior:
        """The same prior conditioned on a class: a name, an index, or (B,) indices. Raises InputError as `index`."""
        if not isinstance(label, Tensor):
            null = type(label) is int and label == self.null_label
            label = torch.tensor(label if null else self.index(label))
        elif self.labels is None:
            raise InputError(f"the prior {self.name!r} has no classes: leave the label out")
        other = copy.copy(self)
        other.given = {**self.given, "class_labels": label.to(self.device)}
        return other

    @property
    def unlabelled(self) -> Prior | None:
        """The same prior without a class, where it was trained to do without."""
        return None if self.null_label is None else self.labelled(self.null_label)

    def __call__(self, x: Tensor, level: Level) -> Pred:
        out = self.answer(x, level.t)
        out = getattr(out, "sample", out)
        out = (out[0] if isinstance(out, tuple) else out).to(x.dtype)
        frac = None
        if out.shape[1] == 2 * x.shape[1]:
            out, frac = out.chunk(2, dim=1)
        if out.shape != x.shape:
            raise InputError(f"the network turned {tuple(x.shape)} into {tuple(out.shape)}: it must keep the shape")
        pred = solve(x, out, level, self.predicts)._replace(frac=frac)
        return clipped(x, pred, level) if self.clip else pred


def clipped(x: Tensor, pred: Pred, level: Level, low: float = -1.0, high: float = 1.0) -> Pred:
    """Clamp x0 to [low, high] and make eps agree with it again: x = alpha x0 + sigma eps. At CLEAN eps stays."""
    x0 = pred.x0.clamp(low, high)
    if not isinstance(level.sigma, Tensor) and not level.sigma:
        return pred._replace(x0=x0)
    return pred._replace(x0=x0, eps=(x - level.alpha * x0) / level.sigma)
