"""Conditional priors: the network sees the picture to restore beside the noisy one (SR3, SRDiff, Palette, cascades)."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from restore.codec import Pixels
from restore.errors import InputError
from restore.levels import Level
from restore.operators import Linear
from restore.prior import Pred, Prior
from restore.steps import Rng, gaussian

FILE = "condition.json"
TASKS = ("upscale", "colorize", "inpaint", "deblur", "denoise", "repair")  # the commands that take such priors


@dataclass(frozen=True)
class Condition:
    """What a conditional network is shown, as condition.json beside it says; making one refuses what cannot be.

    tasks: the commands that it was trained for. scale: pixels of the answer for one of the picture, along each side.
    shrunk: how the pictures that it was trained on were made smaller: "bicubic" or "average". residual: where above 0,
    model space is the difference to the bicubic enlargement, times this (SRDiff: Li et al. 2022, section 3.2). augment:
    the most noise, a standard deviation in model units, that was added to the condition before it was enlarged; the
    network sees how much it was, as a plane (Ho et al. 2022, "Cascaded diffusion models", section 4.2). dropout: it can
    do without the condition (classifier-free guidance). low_res: the small picture is given by that name, not
    concatenated along the channels. noise_level: the time it is told is sqrt(alpha-bar) times this; 0: the step.
    """

    tasks: tuple[str, ...]
    scale: int = 1
    shrunk: str = "bicubic"
    residual: float = 0.0
    augment: float = 0.0
    dropout: bool = False
    low_res: bool = False
    noise_level: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise InputError(
                f"a condition is for one or more of {', '.join(TASKS)}, not {', '.join(unknown) or 'none'}"
            )
        if (self.scale > 1) != (self.tasks == ("upscale",)):
            raise InputError(f"a scale of {self.scale} and the tasks {', '.join(self.tasks)} do not go together")
        if self.low_res and self.augment:
            raise InputError("noise added to the condition is told as a plane beside it: not with low_res")

    @property
    def channels(self) -> int:
        """What is concatenated to the noisy picture: the enlargement, and the plane of its noise."""
        return 0 if self.low_res else 3 + bool(self.augment)

    @property
    def facts(self) -> dict[str, Any]:
        """What `restore priors info` says of it."""
        return {"restores": ", ".join(self.tasks), "scale": self.scale if self.scale > 1 else None}

    def enlarged(self, y: Tensor) -> Tensor:
        """y (B,3,h,w) in model space -> (B,3,H,W), bicubic, clamped to [-1, 1]."""
        if self.scale == 1:
            return y
        return interpolate(y, scale_factor=self.scale, mode="bicubic").clamp(-1, 1)

    def shown(self, y: Tensor, std: Tensor | float = 0.0) -> Tensor:
        """What the network sees of y (B,3,h,w) in model space, as large as the answer: (B,C,H,W).

        std: of the noise in y, a number or (B,), for networks that are told it. For `low_res` y's pixels are repeated,
        so that tiles of it are cut as those of the answer are; `small` undoes that."""
        if self.low_res:
            return y.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)
        up = self.enlarged(y)
        if not self.augment:
            return up
        std = torch.as_tensor(std, dtype=up.dtype, device=up.device).reshape(-1, 1, 1, 1)
        return torch.cat([up, std.expand(len(up), 1, *up.shape[-2:])], 1)

    def small(self, shown: Tensor) -> Tensor:
        """The inverse of `shown` for `low_res`: (B,3,H,W) -> (B,3,h,w)."""
        return shown[..., :: self.scale, :: self.scale]

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """That of a folder, None where it has none. Raises InputError for a file that cannot be one."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            unknown = set(found) - {field.name for field in fields(cls)}
            if unknown:
                raise InputError(f"unknown key {min(unknown)!r}; is it from a newer version?")
            return cls(**found)
        except (OSError, ValueError, TypeError, AttributeError) as error:  # an InputError is a ValueError
            raise InputError(f"{path}: not the condition of a prior ({error})") from None


class Residual(Pixels):
    """Model space is the difference to a picture `base` (B,3,H,W) in [-1, 1], times `scale`: SRDiff's."""

    def __init__(self, base: Tensor, scale: float) -> None:
        self.base, self.scale = base, scale

    def encode(self, image: Tensor) -> Tensor:
        return self.scale * (super().encode(image) - self.base)

    def decode(self, x: Tensor) -> Tensor:
        return super().decode(x / self.scale + self.base.to(x.device))

    def std(self, noise_std: float) -> float:
        return self.scale * super().std(noise_std)

    def agrees(self, other: object) -> bool:
        return False

    def to(self, device: torch.device) -> None:
        self.base = self.base.to(device)


class ConditionalPrior(Prior):
    """A prior that is asked about a picture: `seeing(y)` is the `Denoise` of its answers. Arguments as Prior's."""

    def __init__(self, net: Any, condition: Condition, **options: Any) -> None:
        super().__init__(net, **options)
        self.condition = condition
        self.seen: Tensor | None = None  # (B,C,H,W), what `Condition.shown` makes of the picture
        self.blind = False
        self.kept: list[tuple[Tensor, Tensor]] = []  # of an encoder: the last small picture, and its features

    def seeing(self, y: Tensor, std: float = 0.0, rng: Rng = None) -> ConditionalPrior:
        """The prior of the answers to y (B,3,h,w) in [-1, 1]: of x (B,3,h*scale,w*scale) in its own model space.

        std: the noise of y in model units; with `rng`, that much is added to it (the noise augmentation of cascades).
        Raises InputError for noise that the network was not trained to see."""
        told = self.condition
        if not 0 <= std <= told.augment:
            limit = f"at most {255 / 2 * told.augment:g}" if told.augment else "none"
            raise InputError(
                f"noise of {255 / 2 * std:g} (of 255): {self.name!r} was trained on {limit} in the picture"
            )
        y = y.to(self.device)
        if std and rng is not None:
            y = y + std * gaussian(y, rng)
        other = copy.copy(self)
        other.seen, other.kept = told.shown(y, std), []
        if told.residual:
            other.codec = Residual(told.enlarged(y), told.residual)
        return other

    @property
    def blinded(self) -> ConditionalPrior:
        """The same without its picture. Raises InputError where it was not trained to do without."""
        if not self.condition.dropout:
            raise InputError(f"{self.name!r} was trained with the picture always: guidance has nothing to go by")
        other = copy.copy(self)
        other.blind = True
        return other

    @property
    def guess(self) -> Tensor:
        """A first guess of the answer, in model space (B,C,H,W): the bicubic enlargement."""
        told = self.condition
        if told.residual:
            return torch.zeros_like(self.codec.base)
        return told.enlarged(told.small(self.seen)) if told.low_res else self.seen[:, :3]

    def measured(self, op: Linear, y: Tensor) -> Tensor:
        """What `op`, whose rows sum to one, gives of an answer in model space that is y (in [0, 1]) of the picture."""
        y = Pixels().encode(y)
        return self.condition.residual * (y - op.A(self.codec.base)) if self.condition.residual else y

    def beside(self, x: Tensor) -> Tensor:
        """x (B,C,H,W) and what is seen, along the channels: what a tile of `__call__` may be cut from."""
        return torch.cat([x, self.seen.expand(len(x), -1, -1, -1)], 1)

    def at(self, joined: Tensor) -> tuple[ConditionalPrior, Tensor]:
        """(the prior seeing this part, x) of a part of `beside`."""
        other = copy.copy(self)
        other.seen = joined[:, self.channels :]
        return other, joined[:, : self.channels]

    def __call__(self, x: Tensor, level: Level) -> Pred:
        if self.seen is None:
            raise InputError(f"{self.name!r} is a conditional prior: ask what `seeing(y)` gives, for a picture y")
        if x.shape[1] == self.channels + self.seen.shape[1]:
            part, x = self.at(x)
            return part(x, level)
        if self.seen.shape[-2:] != x.shape[-2:]:
            sizes = (f"{side[1]} x {side[0]}" for side in (x.shape[-2:], self.seen.shape[-2:]))
            raise InputError("x is {}, and its condition makes {}: the two have to agree".format(*sizes))
        return super().__call__(x, level)

    def answer(self, x: Tensor, t: float) -> Any:
        seen = torch.zeros_like(self.seen) if self.blind else self.seen
        if not self.condition.low_res:
            return super().answer(torch.cat([x, seen.expand(len(x), -1, -1, -1)], 1), t)
        other = copy.copy(self)
        other.given = {**self.given, **self._encoded(self.condition.small(seen))}
        return super(ConditionalPrior, other).answer(x, t)

    def _encoded(self, small: Tensor) -> dict[str, Tensor]:
        """The small picture as the network takes it: by its features, found once, where it has an encoder."""
        if not hasattr(self.net, "features"):
            return {"low_res": small}
        if not (self.kept and torch.equal(self.kept[0][0], small)):
            with torch.autocast(small.device.type, self.dtype, enabled=self.dtype != torch.float32):
                self.kept[:] = [(small, self.net.features(small))]
        return {"features": self.kept[0][1]}


def check_task(prior: Prior, task: str) -> None:
    """Refuse a conditional prior that was trained for other tasks."""
    if prior.condition is None or task not in prior.condition.tasks:
        told = prior.condition and " and ".join(prior.condition.tasks)
        raise InputError(f"the prior {prior.name!r} was trained to {told or 'no such thing'}: it cannot {task}")
