"""What conditional priors do: pictures in, answers sampled by DDIM, DDPM, Heun's method or DPM-Solver++ out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, zeros_like

from restore.codec import Pixels
from restore.conditional import Condition, ConditionalPrior, check_task
from restore.errors import InputError
from restore.jobs import Info, Job, Report
from restore.levels import Level
from restore.load import load_prior
from restore.operators import Linear
from restore.precision import DTYPES
from restore.prior import Denoise, Pred, Prior, clipped
from restore.steps import Rng, State, begin, ddim, heun, multistep, once, sample
from restore.tasks.common import Options, Preset, Restoring, top_ratio, walk
from restore.wrappers import classifier_free, consistent

SAMPLERS = {
    "ddim": Preset(steps=4, eta=0.0),
    "ddpm": Preset(steps=100, eta=1.0),
    "heun": Preset(steps=10, eta=0.0),
    "dpm++": Preset(steps=10, eta=0.0),
}
REACH = 80.0  # noise-to-signal ratio to begin with: next to nothing of x0 is left


class Shown(NamedTuple):
    """What a network is shown, in [0, 1], and what the answer has to agree with."""

    y: Tensor  # (B,3,h,w), sides as the network takes them
    op: Linear | None = None  # of the answer
    measured: Tensor | None = None  # op.A of the answer
    guess: Tensor | None = None  # (B,3,H,W) a cheap answer, where it is not the bicubic enlargement


class Stages:
    """The further priors of a cascade, by name, by folder or as they are: loaded when first asked for, and kept."""

    def __init__(self, sources: Any) -> None:
        if isinstance(sources, str | Path | Prior) or not isinstance(sources, Sequence):
            sources = [sources]
        for source in sources:
            if not isinstance(source, str | Path | Prior):
                raise InputError(f"then is {source!r}: give conditional priors, by name, folder or as they are")
        self.sources, self.kept = tuple(sources), {}

    def __bool__(self) -> bool:
        return bool(self.sources)

    def beside(self, prior: Prior) -> list[ConditionalPrior]:
        """The priors, on the device of the first one and in its precision. Raises PriorError, InputError."""
        dtype = str(prior.dtype).removeprefix("torch.")
        wanted = str(prior.device), dtype if dtype in DTYPES else "float32"
        if wanted not in self.kept:
            self.kept[wanted] = [_loaded(source, *wanted) for source in self.sources]
        for stage in self.kept[wanted]:
            check_task(stage, "upscale")
        return self.kept[wanted]


def _loaded(source: Any, device: str, dtype: str) -> Prior:
    return source if isinstance(source, Prior) else load_prior(source, device=device, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class Sampling(Restoring):
    """How a conditional prior is sampled; making one refuses, with InputError, what does not go together."""

    METHODS: ClassVar = SAMPLERS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consistent and self.noise_std:
            raise InputError("consistent takes the picture as exact: leave its noise out")
        if self.chosen not in ("ddim", "ddpm") and self.eta is not None:
            raise InputError(f"{self.chosen} solves the ODE, without noise: leave eta out, or choose ddim or ddpm")

    @classmethod
    def of(cls, request: Options) -> Self:
        """The options that a task's request shares with this one. Raises InputError for a method of another kind."""
        shared = {f.name for f in fields(cls)} & {f.name for f in fields(request)}
        if request.method is not None and request.method not in SAMPLERS:
            choose = ", ".join(SAMPLERS)
            raise InputError(f"{request.method} is for unconditional priors: a conditional one takes {choose}")
        return cls(**{name: getattr(request, name) for name in shared})

    def start(self, prior: ConditionalPrior, progress: Report | None, stages: Sequence[ConditionalPrior] = ()) -> Job:
        """The request at work. Raises InputError for prompts and classifiers, which such priors do not take, and labels
        that they do not have, or miss."""
        if prior.labels is not None and self.label is None:
            raise InputError(f"the prior {prior.name!r} has classes: choose one with label: {prior.classes}")
        if self.label is not None:
            prior.index(self.label)
        for name in ("prompt", "negative_prompt", "classifier"):
            if getattr(self, name) is not None:
                raise InputError(f"{name}: a conditional prior is told a picture alone; leave it out")
        info = Info(self.chosen, prior.name, self.count, int(self.seed), int(self.samples))
        job = Job(prior, info, self.tile, progress)
        job.cost = self._cost
        job.total = self._calls() * job.cost * int(self.samples) * (1 + len(stages))
        return job

    @property
    def _cost(self) -> int:
        """Calls of the network for one prediction."""
        return 2 if self.guidance not in (None, 0, 1) else 1

    def _calls(self) -> int:
        return 2 * self.count - 1 if self.chosen == "heun" else self.count

    def guided(self, told: ConditionalPrior) -> Denoise:
        """What the network says, seeing its picture, without it (guidance 0), or away from the one and to the other:
        Ho and Salimans 2022, with the picture in the place of the class."""
        scale = 1.0 if self.guidance is None else float(self.guidance)
        if scale == 1:
            return told
        if not scale:
            return told.blinded
        told.blinded  # noqa: B018  (refused now, not at the first call)

        def guided(joined: Tensor, level: Level) -> Pred:
            part, x = told.at(joined)
            free = classifier_free(part.unclipped, part.blinded.unclipped, scale)(x, level)
            return clipped(x, free, level, -float(told.clip), float(told.clip)) if told.clip else free

        return guided

    def drawn(self, job: Job, prior: ConditionalPrior, shown: Shown, rng: Rng, augment: float = 0.0) -> Tensor:
        """An answer (B,3,H,W) in [0, 1]. augment: a standard deviation on [0, 1] of noise to add to the picture."""
        pixels, device = Pixels(), prior.device
        std = pixels.std(augment or self.noise_std or 0.0)
        prior = prior if self.label is None else prior.labelled(self.label)
        told = prior.seeing(pixels.encode(shown.y).to(device), std, rng if augment else None)
        job.prior, job.denoise = told, self.guided(told)
        levels = walk(told, self.count, REACH if self.strength is None else top_ratio(told, self.strength))
        guess = told.guess if shown.guess is None else told.codec.encode(shown.guess.to(device))
        start = None if self.strength in (None, 1) else guess

        def chain(denoise: Denoise) -> Iterator[State]:
            def ask(x: Tensor, level: Level) -> Pred:
                return denoise(told.beside(x), level)

            if self.consistent:
                op = shown.op.to(device)
                ask = consistent(ask, op, told.measured(op, shown.measured.to(device)))
            move = {"heun": heun, "dpm++": multistep()}.get(self.chosen) or once(ddim, eta=self.noise_share, rng=rng)
            return sample(ask, begin(zeros_like(guess), levels[0], start, rng), levels, move=move)

        return told.codec.decode(job.drain(chain, max(guess.shape[-2:]), rng)).clamp(0, 1)

    def check(self, shown: Shown, what: str) -> None:
        """Refuse consistency where the damage is no linear map that is known."""
        if self.consistent and shown.op is None:
            raise InputError(f"consistent: {what} undoes a damage that is not known exactly; leave it out")


def check_condition(told: Condition | None, request: Options) -> None:
    """Refuse what belongs to conditional priors, of a request to another one."""
    if told is None:
        for name in ("consistent", "then", "augment"):
            if getattr(request, name, None):
                raise InputError(f"{name} is for conditional priors, and this prior is none: leave it out")
