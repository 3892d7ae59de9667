"""`restore train conditional`: SR3, SRDiff, Palette and the stages of cascades, by what the configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from restore.codec import Pixels
from restore.conditional import Condition, ConditionalPrior, Residual
from restore.continuous import Continuous
from restore.errors import InputError
from restore.levels import Level, Schedule, Table
from restore.load import load_prior
from restore.metrics import WINDOW, psnr, ssim
from restore.pipelines import clipping
from restore.prior import coefficients
from restore.steps import ddim, last, once, sample
from restore.tasks.common import MAX_RATIO, walk
from restore.train import export
from restore.train.build import CONDITIONAL, PRECISIONS, build_network, build_scheduler, schedule_of
from restore.train.conditional_config import ConditionalConfig
from restore.train.degradations import Pair, Pairs
from restore.train.plan import Rows
from restore.train.prior import sheet
from restore.train.run import check_crops, train

EQUAL = 100.0  # dB: the PSNR of equal pictures, whose own is infinite


def start_from(net: nn.Module, source: str) -> None:
    """Give `net` the weights of the prior `source`. Of an unconditional one the first convolution is widened by zeros:
    the training begins with a network that does not look at its condition yet. It may predict something else: at low
    noise eps and v are the same, and at high noise a condition changes all.

    Raises PriorError where there is no such prior, InputError where its network is another one."""
    prior = load_prior(source, device="cpu", dtype="float32")
    state, own = prior.net.state_dict(), net.state_dict()
    for name, weight in state.items():
        wanted = own[name].shape if name in own else weight.shape
        if name.startswith("conv_in.") and weight.ndim == 4 and wanted[1] > weight.shape[1]:
            grown = torch.zeros(wanted)
            grown[:, : weight.shape[1]] = weight
            state[name] = grown
    try:
        missing, unknown = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"init: {source} has layers of other shapes: {str(error).splitlines()[-1].strip()}") from None
    if unknown or any("_blocks." not in name for name in missing):
        raise InputError(f"init: {source} is another network, which differs first at {[*unknown, *missing][0]}")


class ConditionalTask:
    """Denoising with a picture beside: Saharia et al. 2021 (SR3), algorithm 1, and its kin.

    The loss is the mean error, absolute or squared, of what the network says at x = alpha x0 + sigma z, where x0 is the
    crop or, with `residual`, its difference to the bicubic enlargement (Li et al. 2022, SRDiff, algorithm 1)."""

    name, Config, Pictures = "prior", ConditionalConfig, Pairs
    best = "val_psnr"  # of the checkpoint that is kept
    progress = 0.0  # share of the training that is done; the loop sets it

    def __init__(self, config: ConditionalConfig, pictures: Pairs) -> None:
        self.config, self.pictures, self.predicts = config, pictures, config.train.predicts
        self.scheduler = build_scheduler(config.schedule, self.predicts)
        self.schedule = self._schedule(schedule_of(self.scheduler))
        self.sampler = self.scheduler
        if config.sampling:
            self.sampler = build_scheduler(config.sampling, self.predicts, "sampling")
        self.sampling = self._schedule(schedule_of(self.sampler), "sampling")
        self.clip = clipping(self.sampler.config)
        settings, kind = config.condition, config.network.get("kind", "unet")
        if config.sampling and not config.train.noise_level:
            raise InputError("[sampling] is for networks that are told the noise level: set train.noise_level too")
        self.encoded = kind == "srdiff"
        if self.encoded and settings.augment:
            raise InputError("[condition] augment: a network of kind 'srdiff' is told no noise; leave it out")
        self.told = Condition(
            tuple(settings.tasks),
            scale=settings.scale,
            shrunk=settings.shrunk,
            residual=settings.residual,
            augment=2 * settings.augment / 255,
            dropout=settings.dropout > 0,
            low_res=self.encoded,
            noise_level=config.train.noise_level,
        )
        encoder = config.train.encoder
        if encoder.pretrain and not self.encoded:
            raise InputError("[train.encoder] is for networks with an encoder: leave it out, or choose kind = 'srdiff'")
        self.partial = self.encoded
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = build_network(config.network, CONDITIONAL, **self._given(kind))
        if config.train.init is not None:
            start_from(self.net, config.train.init)
        self.multiple = int(np.lcm(self._multiple(), settings.scale))
        check_crops(config, self.multiple)
        if config.validate.size < self.multiple:
            raise InputError(f"validate.size is {config.validate.size}: this network wants at least {self.multiple}")

    def _schedule(self, table: Schedule, where: str = "schedule") -> Schedule:
        if not isinstance(table, Table):
            raise InputError(f"[{where}] a conditional prior needs a noise table: choose a scheduler with betas")
        return Continuous(table, self.config.train.noise_level) if self.config.train.noise_level else table

    def _given(self, kind: str) -> dict[str, Any]:
        """What the network's section leaves out: its channels, and the size of crops where it has attention."""
        if "in_channels" in self.config.network:
            raise InputError("[network] in_channels follow from the condition: leave them out")
        given = {"scale": self.told.scale} if self.encoded else {"in_channels": 3 + self.told.channels}
        return given if kind == "unet" else {**given, "sample_size": self.config.data.crop}

    def _multiple(self) -> int:
        levels = self.config.network.get("channels", self.config.network.get("block_out_channels", (0,) * 4))
        return getattr(self.net, "multiple", None) or 2 ** (len(levels) - 1)

    # --- the loss ---

    def levels(self, u: Tensor) -> Level:
        """(B,) in [0, 1) -> the levels to learn at: whole steps, or continuous ones where those are told."""
        if isinstance(self.schedule, Continuous):
            return self.schedule.drawn(u)
        return self.schedule.at((u * len(self.schedule)).floor())

    def loss(self, model: nn.Module, batch: dict[str, Tensor], rng: Rows) -> Tensor:
        x0, y = (_model_space(batch[name]) for name in ("image", "condition"))  # (b,3,H,W), (b,3,h,w)
        if self.pretraining():
            return (model(low_res=y, pretrain=True) - x0).abs().mean(dim=(1, 2, 3))
        level, z = self.levels(rng.stratified()), rng.normal(*x0.shape[1:])
        settings = self.config.condition
        hole = batch["hole"][:, None]
        if self.told.scale == 1:  # what is destroyed is noise (Palette: Saharia et al. 2022)
            y = torch.where(hole, rng.normal(*y.shape[1:]), y)
        std = 0.0
        if settings.augment:
            std = self.told.augment * rng.uniform()
            y = y + std[:, None, None, None] * rng.normal(*y.shape[1:])
        seen = self.told.shown(y, std)
        if self.told.residual:
            up = self.told.enlarged(y) if self.told.low_res else seen[:, :3]
            x0 = self.clipped(self.told.residual * (x0 - up))
        if settings.dropout:
            seen = torch.where((rng.uniform() < settings.dropout)[:, None, None, None], 0, seen)
        return self.errors(model, x0, z, level, seen)

    def clipped(self, x0: Tensor) -> Tensor:
        """Residuals beyond the range that the scheduler clips to are not learnt: samples could not have them."""
        return x0.clamp(-self.clip, self.clip) if self.clip else x0

    def pretraining(self) -> bool:
        """Whether the encoder learns alone now; where it does not, and is to be frozen, it is."""
        pretrain, freeze = self.config.train.encoder.pretrain, self.config.train.encoder.freeze
        alone = self.encoded and self.progress < pretrain
        if self.encoded:
            self.net.rrdb.requires_grad_(alone or not (freeze and pretrain))
        return alone

    def errors(self, model: nn.Module, x0: Tensor, z: Tensor, level: Level, seen: Tensor) -> Tensor:
        """(b,) mean errors of what the network says at x = alpha x0 + sigma z, seeing `seen`."""
        x = level.alpha * x0 + level.sigma * z
        p, q = coefficients(self.predicts, level)
        given = {"low_res": self.told.small(seen)} if self.encoded else {}
        joined = x if self.encoded else torch.cat([x, seen], 1)
        if self.config.train.channels_last:
            joined = joined.contiguous(memory_format=torch.channels_last)
        out = model(joined, level.t, return_dict=False, **given)[0].float()
        error = out - (p * x0 + q * z)
        return (error.abs() if self.config.train.loss == "l1" else error.square()).mean(dim=(1, 2, 3))

    # --- what is looked at ---

    def prior(self, model: nn.Module) -> ConditionalPrior:
        """The model as a prior, on the schedule that it is to be sampled on, in the precision it trains in."""
        dtype = PRECISIONS[self.config.train.precision]
        return ConditionalPrior(
            model,
            self.told,
            predicts=self.predicts,
            schedule=self.sampling,
            clip=self.clip,
            dtype=dtype,
            name="this one",
        )

    def _shown(self, pair: Pair, device: torch.device, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(image (1,3,H,W) in [0, 1], condition (1,3,h,w) in model space with noise in its holes)."""
        image, y, hole = (torch.from_numpy(np.ascontiguousarray(part))[None] for part in pair)
        y = _model_space(y)
        if self.told.scale == 1:
            y = torch.where(hole[:, None], torch.randn(y.shape, generator=rng), y)
        return (image.permute(0, 3, 1, 2) / 255).to(device), y.to(device)

    def _restored(self, prior: ConditionalPrior, y: Tensor, steps: int, rng: torch.Generator) -> Tensor:
        """An answer to y (B,3,h,w) in model space, by DDIM: (B,3,H,W) in [0, 1]."""
        told = prior.seeing(y)
        levels = walk(told, steps, MAX_RATIO)
        side = [length * self.told.scale for length in y.shape[-2:]]
        x = levels[0].sigma * torch.randn(len(y), 3, *side, generator=rng).to(y.device)
        return told.codec.decode(last(sample(told, x, levels, move=once(ddim)))).clamp(0, 1)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """val_psnr and val_ssim of answers to held-out pictures, val_input of the condition itself, and val_loss."""
        settings, prior, found = self.config.validate, self.prior(model), []
        device = next(model.parameters()).device
        for i, (_, pair) in enumerate(self.pictures.held_pairs(settings.pictures, settings.size, self.multiple)):
            if min(pair.hole.shape) < WINDOW:  # SSIM has no say of them
                continue
            rng = torch.Generator().manual_seed(i)
            image, y = self._shown(pair, device, rng)
            given = Pixels().decode(self.told.enlarged(y)).clamp(0, 1)
            out = self._restored(prior, y, settings.steps, rng)
            loss = self._held_out_loss(prior, image, y, seed=i)
            told, shown = (min(psnr(each, image).item(), EQUAL) for each in (out, given))
            found.append([told, ssim(out, image).item(), shown, loss])
        names = ("val_psnr", "val_ssim", "val_input", "val_loss")
        return dict(zip(names, np.mean(found, 0).round(5).tolist(), strict=True)) if found else {}

    def _held_out_loss(self, prior: ConditionalPrior, image: Tensor, y: Tensor, seed: int, draws: int = 8) -> float:
        side, scale = 64 // self.multiple * self.multiple or self.multiple, self.told.scale
        x0, y = image[..., :side, :side] * 2 - 1, y[..., : side // scale, : side // scale]
        if self.told.residual:
            x0 = Residual(self.told.enlarged(y), self.told.residual).encode(image[..., :side, :side])
            x0 = self.clipped(x0)
        rng = Rows(seed, 0, draws, slice(None), torch.device("cpu"))
        level = Level(*(part.to(image.device) for part in self.levels(rng.stratified())))
        z = rng.normal(*x0.shape[1:]).to(image.device)
        x0, seen = (part.expand(draws, -1, -1, -1) for part in (x0, self.told.shown(y)))
        with torch.autocast(image.device.type, prior.dtype, enabled=prior.dtype != torch.float32):
            return self.errors(prior.net, x0, z, level, seen).mean().item()

    @torch.no_grad()
    def samples(self, model: nn.Module, count: int = 6, steps: int = 10) -> np.ndarray | None:
        """A sheet: held-out crops, their conditions, two answers, and the answer of the validation's few steps.

        They are of one size: 96 pixels, or as much as the smallest has."""
        most = max(self.multiple, 96 // self.multiple * self.multiple)
        prior, device, rows = self.prior(model), next(model.parameters()).device, []
        pairs = [pair for _, pair in self.pictures.held_pairs(count, most, self.multiple)]
        side = min((length for pair in pairs for length in pair.hole.shape), default=0)
        small, walks = side // self.told.scale, (steps, steps, self.config.validate.steps)
        for i, pair in enumerate(pairs):
            rng = torch.Generator().manual_seed(i)
            image, y = self._shown(pair, device, rng)
            image, y = image[..., :side, :side], y[..., :small, :small]
            answers = [self._restored(prior, y, n, rng) for n in walks]
            rows.append([image, Pixels().decode(self.told.enlarged(y)), *answers])
        return sheet([torch.cat(row) for row in zip(*rows, strict=True)], len(rows)) if rows else None

    def export(self, model: nn.Module, folder: Path, history: list[dict[str, Any]]) -> None:
        export.conditional(folder, model, self.sampler, self.config, self.told, history)


def _model_space(picture: Tensor) -> Tensor:
    """(b,H,W,3) uint8 -> (b,3,H,W) in [-1, 1]."""
    return picture.float().div_(127.5).sub_(1).permute(0, 3, 1, 2)


def train_conditional(config: str | Path | ConditionalConfig, **options: Any) -> dict[str, Any]:
    """Train a conditional prior, or go on with one; its folder is `output`/prior. options, report: see `run.train`."""
    return train(ConditionalTask, config, **options)
