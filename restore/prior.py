"""A prior: a network, what it predicts, its schedule and its codec, seen as one function (x, level) -> (x0, eps)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from restore.codec import Codec, Pixels
from restore.errors import InputError
from restore.levels import Level, Schedule
from restore.network import Network

Text = Callable[[str], dict[str, Tensor]]  # a prompt -> what the network takes beside x and t, by name


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
    clip: clamp x0 to [-1, 1], or to a range of another half-width; schedulers of pixel models call it clip_sample.
    labels: the classes' names, or how many there are. null_label: the index that stands for no class.
    orientations: 2 where it was trained on pictures and their mirror images, 8 where on all quarter turns of both.
    multiple: the network wants sides divisible by this; size: the side that it was trained on; both in model pixels, of
    which `picture_multiple` and `picture_size` are what they mean for pictures. attends: whether it looks at all of its
    input at once, and so is at its best at that size; by default whether it has attention. fixed: it takes that size
    alone, and squares alone.
    text: reads prompts, for a network that is told a text; until `prompted` it is told the empty one.
    Raises InputError for an unknown `predicts`.
    """

    kind = "prior"
    condition: Any = None  # of a `restore.conditional.ConditionalPrior`, what it is shown

    def __init__(
        self,
        net: Callable[..., Any],
        *,
        predicts: str = "eps",
        schedule: Schedule,
        codec: Codec | None = None,
        channels: int = 3,
        clip: bool | float = False,
        multiple: int = 1,
        size: int | None = None,
        labels: list[str] | int | None = None,
        null_label: int | None = None,
        text: Text | None = None,
        attends: bool | None = None,
        fixed: bool = False,
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
        self.attends, self.fixed = fixed or (_attends(net) if attends is None else attends), fixed
        self.text = text
        self.given = {} if null_label is None else {"class_labels": torch.tensor(null_label)}
        self.given |= text("") if text else {}

    @property
    def parts(self) -> list[Any]:
        return [self.codec, *([self.text] if hasattr(self.text, "to") else [])]

    @property
    def latent(self) -> bool:
        """Whether it works on the code of an autoencoder, and not on pixels."""
        return self.codec.latent

    @property
    def picture_multiple(self) -> int:
        """What the sides of a picture have to be divisible by."""
        return self.multiple * self.codec.factor

    @property
    def least(self) -> int:
        """What the sides of a picture have to be at least: smaller ones are padded."""
        return self.picture_size or 0 if self.fixed else 0

    @property
    def picture_size(self) -> int | None:
        """The side of the pictures that it was trained on, where it is known."""
        return None if self.size is None else self.size * self.codec.factor

    @property
    def window(self) -> int | None:
        """The side, in pixels of the picture, that a network which attends is at its best with; None for others."""
        return self.picture_size if self.attends else None

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

    def prompted(self, prompt: str) -> Prior:
        """The same prior conditioned on a text. Raises InputError where it takes none."""
        if self.text is None:
            raise InputError(f"the prior {self.name!r} takes no text: leave the prompt out")
        other = copy.copy(self)
        other.given = {**self.given, **{name: value.to(self.device) for name, value in self.text(prompt).items()}}
        return other

    @property
    def unclipped(self) -> Prior:
        """The same prior, its x0 as the network says it."""
        other = copy.copy(self)
        other.clip = False
        return other

    def __call__(self, x: Tensor, level: Level) -> Pred:
        if self.fixed and set(x.shape[-2:]) != {self.size}:
            shape = f"{x.shape[-1]} x {x.shape[-2]}"
            raise InputError(f"the prior {self.name!r} takes {self.size} x {self.size} model pixels alone, not {shape}")
        out = self.answer(x, level.t)
        out = getattr(out, "sample", out)
        out = (out[0] if isinstance(out, tuple) else out).to(x.dtype)
        frac = None
        if out.shape[1] == 2 * x.shape[1]:
            out, frac = out.chunk(2, dim=1)
        if out.shape != x.shape:
            raise InputError(f"the network turned {tuple(x.shape)} into {tuple(out.shape)}: it must keep the shape")
        pred = solve(x, out, level, self.predicts)._replace(frac=frac)
        return clipped(x, pred, level, -float(self.clip), float(self.clip)) if self.clip else pred


def _attends(net: object) -> bool:
    return isinstance(net, nn.Module) and any("Attention" in type(part).__name__ for part in net.modules())


def clipped(x: Tensor, pred: Pred, level: Level, low: float = -1.0, high: float = 1.0) -> Pred:
    """Clamp x0 to [low, high] and make eps agree with it again: x = alpha x0 + sigma eps. At CLEAN eps stays."""
    x0 = pred.x0.clamp(low, high)
    if not isinstance(level.sigma, Tensor) and not level.sigma:
        return pred._replace(x0=x0)
    return pred._replace(x0=x0, eps=(x - level.alpha * x0) / level.sigma)
