"""Configurations of the trainers: TOML files read into dataclasses, with every mistake named.

A file holds top-level keys and sections; each section is one dataclass below, whose fields are its keys:

    output = "runs/photo"                      # relative to the current directory
    seed = 0
    [data]       see `Data`, `LabelledData`
    [network]    kind = "unet", "UNet2DModel" or, of a classifier, "encoder"; all other keys go to that class
    [schedule]   keys of a diffusers scheduler; class = "DDPMScheduler" unless given
    [train]      see `Train`, `ClassifierTrain`; [[train.phases]] see `Phase`
    [validate]   see `Validate`, `ClassifierValidate`
    [export]     see `Export`

Intervals are whole numbers of steps (`500`) or times (`"30 s"`, `"10 min"`, `"2 h"`); 0 is never.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from restore.errors import InputError

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def interval(value: int | str) -> tuple[int, float]:
    """(steps, seconds) of an interval; the one that is not given is 0. Raises InputError."""
    if isinstance(value, int):
        if value < 0:
            raise InputError(f"the interval {value} is negative")
        return value, 0.0
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)\s*", value)
    if not match:
        raise InputError(f"cannot read the interval {value!r}: give steps (500) or a time ('30 s', '10 min', '2 h')")
    return 0, float(match[1]) * UNITS[match[2]]


def _need(condition: bool, text: str) -> None:
    if not condition:
        raise InputError(text)


@dataclass
class Source:
    """A folder (searched recursively) or an uncompressed tar of pictures.

    Looked for in the data folder if one is given, else in the current directory, else beside the configuration."""

    path: str
    weight: float = 1.0  # share of the crops drawn from this source, relative to the others

    def __post_init__(self) -> None:
        _need(self.weight > 0, f"the weight of {self.path} is {self.weight:g}: give a number above 0")

    @classmethod
    def from_text(cls, text: str) -> Source:
        """A plain string among the sources is a path."""
        return cls(text)


@dataclass
class Crops:
    """Where crops come from. A crop is a pure function of (seed, its number)."""

    sources: list[Source]
    crop: int = 64  # side in pixels
    flip: bool = True  # left-right
    rotate: bool = False  # by multiples of 90 degrees
    shrink: tuple[float, float] = (0.5, 1.0)  # the window is crop / scale, scale uniform in here, area-averaged
    holdout: float | str | list[str] = 0.02  # share by hash of the name, or a folder or tar, or a list of names
    workers: int = 0  # processes that prepare crops beside the training process
    cache_gb: float = 4.0  # decoded pictures kept in memory
    shards: int = 1  # a row of a batch draws from one of so many parts: processes then read and keep only theirs

    def __post_init__(self) -> None:
        _need(bool(self.sources), "sources is empty: name at least one folder or tar of pictures")
        _need(self.crop >= 1, f"crop is {self.crop}: give a side in pixels")
        low, high = self.shrink
        _need(0 < low <= high <= 1, f"shrink is {list(self.shrink)}: give two rising scales in (0, 1]")
        shared = not isinstance(self.holdout, float) or 0 <= self.holdout < 1
        _need(shared, f"holdout is {self.holdout}: give a share in [0, 1), a folder or names")
        _need(self.workers >= 0 and self.cache_gb >= 0, "workers and cache_gb cannot be negative")
        _need(self.shards >= 1, f"shards is {self.shards}: give at least 1")


@dataclass
class Data(Crops):
    """The crops of a prior."""

    labels: bool = False  # class-conditional: a picture's label is the name of its folder
    label_dropout: float = 0.1  # share of crops trained without their label

    def __post_init__(self) -> None:
        super().__post_init__()
        _need(0 <= self.label_dropout < 1, f"label_dropout is {self.label_dropout:g}: give a share in [0, 1)")


@dataclass
class LabelledData(Crops):
    """The crops of a classifier: a picture's label is the name of its folder, always."""

    labels: ClassVar[bool] = True


@dataclass
class Decay:
    """The learning rate after the warm-up: flat until the share `start` of the training, then down to `end` * lr."""

    kind: str = "cosine"  # cosine, linear or none
    start: float = 0.3
    end: float = 0.0

    def __post_init__(self) -> None:
        _need(self.kind in ("cosine", "linear", "none"), f"unknown kind {self.kind!r}: cosine, linear or none")
        _need(0 <= self.start < 1 and 0 <= self.end <= 1, "start is a share in [0, 1), end one in [0, 1]")


@dataclass
class Phase:
    """From the share `start` of the training on, other crops and batches; what is not given stays."""

    start: float
    crop: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        _need(0 <= self.start < 1, f"start is {self.start:g}: give a share of the training in [0, 1)")
        _need((self.crop or 1) >= 1 and (self.batch or 1) >= 1, "crop and batch are at least 1")


@dataclass
class Recipe:
    """How to train. The end comes after `steps` or `minutes`, whichever is reached first; give at least one.

    With minutes the decay and the phases follow the elapsed time, over all resumes together."""

    steps: int | None = None
    minutes: float | None = None
    batch: int = 8  # crops of one optimiser step, over all processes and micro-batches
    accumulate: int = 1  # micro-batches of one step: less memory, the same result
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    warmup: int = 100  # steps
    decay: Decay = field(default_factory=Decay)
    clip_grad: float = 1.0  # norm; 0 is off
    ema: float = 0.999  # a step, at most; (1 + step) / (10 + step) early on
    precision: str = "bf16"  # bf16, fp16 or no: of the network's autocast; weights stay fp32
    channels_last: bool = True
    checkpointing: bool = False  # of activations: less memory, about a third more time, the same result
    compile: bool = False  # the network, by torch.compile
    tensorboard: bool = False  # the log and the samples in OUTPUT/tensorboard, too
    save_every: int | str = "5 min"
    log_every: int | str = "10 s"
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        _need(self.steps is not None or self.minutes is not None, "give steps or minutes, or both")
        _need((1 if self.steps is None else self.steps) >= 1, f"steps is {self.steps}: give at least 1")
        _need((1 if self.minutes is None else self.minutes) > 0, f"minutes is {self.minutes}: give a time above 0")
        _need(self.batch >= 1 and self.accumulate >= 1, "batch and accumulate are at least 1")
        _need(self.lr > 0 and 0 <= self.ema < 1, "lr is above 0, ema in [0, 1)")
        _need(all(0 <= b < 1 for b in self.betas), "betas are in [0, 1)")
        _need(min(self.weight_decay, self.warmup, self.clip_grad) >= 0, "weight_decay, warmup and clip_grad are >= 0")
        _need(self.precision in ("bf16", "fp16", "no"), f"unknown precision {self.precision!r}: bf16, fp16 or no")
        _need(sorted(self.phases, key=lambda p: p.start) == self.phases, "phases are listed by rising start")
        for value in (self.save_every, self.log_every):
            interval(value)


@dataclass
class Train(Recipe):
    """How to train a prior."""

    predicts: str = "eps"  # eps, v, x0 (or flow, with a flow-matching scheduler)
    init: str | None = None  # a prior to start from, by name or folder; `unet` may have more layers than it
    sample_every: int | str = "10 min"

    def __post_init__(self) -> None:
        super().__post_init__()
        _need(self.predicts in ("eps", "v", "x0", "flow"), f"unknown predicts {self.predicts!r}: eps, v, x0 or flow")
        interval(self.sample_every)


@dataclass
class ClassifierTrain(Recipe):
    """How to train a classifier."""

    init: str | None = None  # a prior to start from, by name or folder: the way down of its `unet`
    label_smoothing: float = 0.0  # share of the target that is spread over all classes (Szegedy et al. 2016)

    def __post_init__(self) -> None:
        super().__post_init__()
        _need(0 <= self.label_smoothing < 1, f"label_smoothing is {self.label_smoothing:g}: give a share in [0, 1)")


@dataclass
class Validate:
    """PSNR of x0 on held-out pictures, and their loss."""

    every: int | str = "10 min"
    pictures: int = 8
    size: int = 256  # centre crops of at most this side
    sigmas: list[float] = field(default_factory=lambda: [5.0, 15.0, 25.0, 50.0, 100.0, 200.0])  # on 0-255

    def __post_init__(self) -> None:
        interval(self.every)
        _need(self.pictures >= 0 and self.size >= 8, "pictures is at least 0, size at least 8")


@dataclass
class ClassifierValidate:
    """Accuracy on all held-out pictures, by noise level, and their loss."""

    every: int | str = "10 min"
    sigmas: list[float] = field(default_factory=lambda: [0.0, 25.0, 50.0, 100.0, 200.0, 400.0])  # on 0-255

    def __post_init__(self) -> None:
        interval(self.every)
        _need(all(sigma >= 0 for sigma in self.sigmas), "sigmas are at least 0")


@dataclass
class Export:
    """What is written beside the weights."""

    dtype: str = "fp32"  # fp32 or fp16
    title: str = ""  # of the model card
    license: str = "unknown"
    data: str = ""  # one paragraph on the training pictures, for the model card
    notes: str = ""

    def __post_init__(self) -> None:
        _need(self.dtype in ("fp32", "fp16"), f"unknown dtype {self.dtype!r}: fp32 or fp16")


@dataclass
class Config:
    """What every trainer's file holds."""

    data: Crops
    train: Recipe
    output: str = "runs"
    seed: int = 0
    network: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    validate: Any = None
    export: Export = field(default_factory=Export)

    def __post_init__(self) -> None:
        _need(self.seed >= 0, f"seed is {self.seed}: give a whole number of at least 0")


@dataclass
class PriorConfig(Config):
    """`restore train prior`: an unconditional or class-conditional prior."""

    data: Data
    train: Train
    output: str = "runs/prior"
    network: dict[str, Any] = field(default_factory=lambda: {"kind": "unet"})
    validate: Validate = field(default_factory=Validate)


@dataclass
class ClassifierConfig(Config):
    """`restore train classifier`: a classifier of noisy pictures, for guidance."""

    data: LabelledData
    train: ClassifierTrain
    output: str = "runs/classifier"
    network: dict[str, Any] = field(default_factory=lambda: {"kind": "encoder"})
    validate: ClassifierValidate = field(default_factory=ClassifierValidate)


# Keys that may change between a run and its resumption: they set how long and how often, not what is learnt.
FREE = (
    "output",
    "data.workers",
    "data.cache_gb",
    "train.steps",
    "train.minutes",
    "train.accumulate",
    "train.checkpointing",
    "train.compile",
    "train.tensorboard",
    "train.save_every",
    "train.sample_every",
    "train.log_every",
    "validate",
    "export",
)
