"""The configuration of `restore train conditional`: `restore.train.config`'s sections, and these.

    [condition]  see `Condition`: the task, and what is done to pictures; [[condition.degradations]] see `Degradation`
    [train]      see `ConditionalTrain`; [train.encoder] see `Encoder`
    [sampling]   keys of the diffusers scheduler to sample with, where it is not [schedule]'s
    [validate]   see `ConditionalValidate`

A source of [data] may have `condition`, the folder of the degraded pictures of a folder of good ones (prepared pairs).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from restore.errors import InputError
from restore.train.config import Config, Crops, Recipe, Source, _need, interval

# A degradation -> the command that undoes it.
COMMANDS = {
    "upscale": "upscale",
    "colorize": "colorize",
    "inpaint": "inpaint",
    "uncrop": "inpaint",
    "deblur": "deblur",
    "denoise": "denoise",
    "jpeg": "repair",
    "repair": "repair",
}
Range = tuple[float, float]


@dataclass
class PairedSource(Source):
    """A folder or tar of good pictures, and where they are prepared pairs the one of their degraded ones."""

    condition: str | None = None  # a picture's other half has its name there, whatever the ending


@dataclass
class ConditionalData(Crops):
    """The crops that the network is to answer with; of pairs, the other half is cut alike."""

    labels: ClassVar[bool] = False
    sources: list[PairedSource]
    crop: int = 64  # side of the answer in pixels, a multiple of the scale


@dataclass
class Degradation:
    """What is done to a crop, in this order: blur, shrink, noise, JPEG. Each range is drawn from uniformly.

    kind: upscale (by [condition] scale), colorize, inpaint, uncrop, deblur, denoise, jpeg, or repair, which is what its
    ranges say. Ranges of 0 leave a stage out; those that a kind cannot do without have the defaults of `DEFAULTS`."""

    kind: str
    weight: float = 1.0  # relative to the other degradations
    blur: Range | None = None  # Gaussian: its sigma in pixels
    motion: Range | None = None  # length in pixels, in any direction
    noise: Range | None = None  # sigma on 0-255, of the shrunk picture
    jpeg: Range | None = None  # quality from 1 to 100, after all else
    hole: Range | None = None  # of inpaint and uncrop: the share of the crop that is destroyed

    def __post_init__(self) -> None:
        _need(self.kind in COMMANDS, f"unknown kind {self.kind!r}: choose one of {', '.join(COMMANDS)}")
        _need(self.weight > 0, f"the weight of {self.kind} is {self.weight:g}: give a number above 0")
        for name, low, high in (
            ("blur", 0, 32), ("motion", 0, 64), ("noise", 0, 255), ("jpeg", 1, 100), ("hole", 0, 0.95)
        ):  # fmt: skip
            value = getattr(self, name)
            least = DEFAULTS.get(self.kind, {}).get(name)
            if value is None:
                setattr(self, name, least)
            elif not low <= value[0] <= value[1] <= high:
                raise InputError(f"{name} is {list(value)}: give two rising numbers from {low} to {high}")
        holes = self.kind in ("inpaint", "uncrop")
        _need(holes or self.hole is None, f"hole belongs to inpaint and uncrop, not to {self.kind}")
        stages = [stage for stage in (self.blur, self.motion, self.noise, self.jpeg) if stage is not None]
        acts = any(stage[1] > 0 for stage in (*stages, *((self.hole,) if self.hole else ())))
        _need(self.kind != "repair" or acts, "repair needs one or more of blur, motion, noise and jpeg")
        _need(acts or self.kind in ("upscale", "colorize"), f"{self.kind} changes nothing: its ranges end at 0")
        _need(not (holes and stages), f"{self.kind} takes no blur, motion, noise or jpeg: its known pixels are exact")


DEFAULTS: dict[str, dict[str, Range]] = {
    "deblur": {"blur": (0.5, 4.0)},
    "denoise": {"noise": (5.0, 50.0)},
    "jpeg": {"jpeg": (10.0, 80.0)},
    "inpaint": {"hole": (0.05, 0.4)},
    "uncrop": {"hole": (0.1, 0.5)},
}


@dataclass
class Condition:
    """What the network is shown, and how it is made from a crop."""

    scale: int = 1  # above 1 the task is upscale
    shrunk: str = "bicubic"  # or average
    degradations: list[Degradation] = field(default_factory=list)
    residual: float = 0.0  # above 0: diffuse the difference to the bicubic enlargement, times this (SRDiff: 2)
    dropout: float = 0.0  # share of crops trained without their condition, for classifier-free guidance
    augment: float = 0.0  # at most so much noise (sigma on 0-255) is added to the condition, and told (cascades)

    def __post_init__(self) -> None:
        _need(1 <= self.scale <= 16, f"scale is {self.scale}: give a whole number from 1 to 16")
        _need(self.shrunk in ("bicubic", "average"), f"shrunk is {self.shrunk!r}: choose bicubic or average")
        if not self.degradations:
            _need(self.scale > 1, "say what to undo: a scale above 1, or [[condition.degradations]]")
            self.degradations = [Degradation("upscale")]
        for item in self.degradations:
            fits = (item.kind == "upscale") == (self.scale > 1)
            _need(fits, f"a scale of {self.scale} and the degradation {item.kind} do not go together")
        _need(self.residual >= 0, f"residual is {self.residual:g}: give 0, or a factor above it")
        _need(0 <= self.dropout < 1, f"dropout is {self.dropout:g}: give a share in [0, 1)")
        _need(0 <= self.augment <= 255, f"augment is {self.augment:g}: give a sigma from 0 to 255")

    @property
    def tasks(self) -> list[str]:
        """The commands that undo the degradations."""
        return list(dict.fromkeys(COMMANDS[item.kind] for item in self.degradations))


@dataclass
class Encoder:
    """Of a network with an encoder of the small picture (srdiff): how that is trained."""

    pretrain: float = 0.0  # first share of the training, in which the encoder alone learns to enlarge (L1)
    freeze: bool = True  # afterwards it stays as it is

    def __post_init__(self) -> None:
        _need(0 <= self.pretrain < 1, f"pretrain is {self.pretrain:g}: give a share of the training in [0, 1)")


@dataclass
class ConditionalTrain(Recipe):
    """How to train a conditional prior."""

    predicts: str = "eps"  # eps, v or x0
    loss: str = "l2"  # or l1
    noise_level: float = 0.0  # above 0 the network is told sqrt(alpha-bar) times this (SR3: 1), not the step
    init: str | None = None  # a prior to start from, conditional or not, by name or folder
    encoder: Encoder = field(default_factory=Encoder)
    sample_every: int | str = "10 min"

    def __post_init__(self) -> None:
        super().__post_init__()
        _need(self.predicts in ("eps", "v", "x0"), f"unknown predicts {self.predicts!r}: eps, v or x0")
        _need(self.loss in ("l1", "l2"), f"unknown loss {self.loss!r}: l1 or l2")
        _need(self.noise_level >= 0, f"noise_level is {self.noise_level:g}: give 0, or a factor above it")
        interval(self.sample_every)


@dataclass
class ConditionalValidate:
    """PSNR and SSIM of answers to held-out pictures, and their loss."""

    every: int | str = "10 min"
    pictures: int = 8
    size: int = 256  # centre crops of at most this side
    steps: int = 4  # noise levels of DDIM

    def __post_init__(self) -> None:
        interval(self.every)
        _need(self.pictures >= 0 and self.size >= 16, "pictures is at least 0, size at least 16")
        _need(self.steps >= 1, f"steps is {self.steps}: give at least 1")


@dataclass
class ConditionalConfig(Config):
    """`restore train conditional`: a prior that sees the picture to restore."""

    data: ConditionalData
    train: ConditionalTrain
    condition: Condition = field(default_factory=Condition)
    output: str = "runs/conditional"
    network: dict[str, Any] = field(default_factory=lambda: {"kind": "unet"})
    sampling: dict[str, Any] = field(default_factory=dict)
    validate: ConditionalValidate = field(default_factory=ConditionalValidate)

    def __post_init__(self) -> None:
        super().__post_init__()
        paired = any(source.condition is not None for source in self.data.sources)
        whole = self.data.shrink == (1.0, 1.0)
        _need(whole or not paired, "prepared pairs are cut as they are: set shrink = [1.0, 1.0] in [data]")
        _need(not paired or len(self.condition.degradations) == 1, "prepared pairs show one kind of degradation")
        named = not isinstance(self.data.holdout, str)
        _need(named or not paired, "holdout: a folder of pictures has no other halves; of pairs give a share, or names")
