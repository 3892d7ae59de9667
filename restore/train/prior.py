"""`restore train prior`: train an unconditional or class-conditional diffusion prior."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from restore.codec import Pixels
from restore.errors import InputError
from restore.levels import Flow, Schedule, Table
from restore.load import load_prior
from restore.prior import Prior, coefficients, solve
from restore.steps import ddim, last, once, sample
from restore.train import export
from restore.train.bound import variational_bound
from restore.train.build import PRECISIONS, build_network, build_scheduler, schedule_of
from restore.train.config import PriorConfig
from restore.train.data import Pictures
from restore.train.plan import Rows
from restore.train.run import check_crops, train


def start_from(net: nn.Module, source: str, predicts: str, schedule: Schedule) -> None:
    """Give `net` the weights of the prior `source`; residual blocks that only `net` has stay the identity they are.

    Raises PriorError where there is no such prior, InputError where it predicts something else, on other levels, or its
    network is another one."""
    prior = load_prior(source, device="cpu", dtype="float32")
    same = isinstance(schedule, Table) and isinstance(prior.schedule, Table) and len(schedule) == len(prior.schedule)
    if prior.predicts != predicts or not (same and np.allclose(schedule.abar, prior.schedule.abar, atol=1e-6)):
        raise InputError(f"init: {source} predicts {prior.predicts}: prediction and noise table have to agree with it")
    try:
        missing, unknown = net.load_state_dict(prior.net.state_dict(), strict=False)
    except RuntimeError as error:
        raise InputError(f"init: {source} has layers of other shapes: {str(error).splitlines()[-1].strip()}") from None
    if unknown or any("_blocks." not in name for name in missing):
        raise InputError(f"init: {source} is another network, which differs first at {[*unknown, *missing][0]}")


class PriorTask:
    """Denoising score matching: mean squared error of the network's output (Ho et al. 2020, eq. 14, and its kin)."""

    name, Config = "prior", PriorConfig

    def __init__(self, config: PriorConfig, pictures: Pictures) -> None:
        self.config, self.pictures = config, pictures
        self.predicts, self.labels = config.train.predicts, pictures.labels
        self.scheduler = build_scheduler(config.schedule, self.predicts)
        self.schedule = schedule_of(self.scheduler)
        if isinstance(self.schedule, Flow) != (self.predicts == "flow"):
            raise InputError("predicts = 'flow' goes with a flow-matching scheduler, and with no other")
        classes = len(self.labels) + 1 if self.labels else None  # the last one is 'no label'
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = build_network(config.network, num_class_embeds=classes, **self._size())
        if config.train.init is not None:
            start_from(self.net, config.train.init, self.predicts, self.schedule)
        levels = len(config.network.get("channels", config.network.get("block_out_channels", (0,) * 4)))
        self.multiple = 2 ** (levels - 1)
        check_crops(config, self.multiple)

    def _size(self) -> dict[str, int]:
        """A network with attention is for pictures of the crops' size; a `unet` for any, unless its section says so."""
        return {} if self.config.network.get("kind", "unet") == "unet" else {"sample_size": self.config.data.crop}

    def times(self, u: Tensor) -> Tensor:
        """(B,) in [0, 1) -> (B,) times: the whole numbers of a table, any of a flow."""
        if isinstance(self.schedule, Table):
            return (u * len(self.schedule)).floor()
        return u * self.schedule.scale

    def loss(self, model: nn.Module, batch: dict[str, Tensor], rng: Rows) -> Tensor:
        x0 = batch["image"].permute(0, 3, 1, 2).float() / 127.5 - 1  # (b,3,H,W)
        level = self.schedule.at(self.times(rng.stratified()))
        z = rng.normal(*x0.shape[1:])
        given = {}
        if self.labels:
            dropped = rng.uniform() < self.config.data.label_dropout
            given["class_labels"] = torch.where(dropped, len(self.labels), batch["label"])
        return self._errors(model, x0, z, level, given)

    def _errors(self, model: nn.Module, x0: Tensor, z: Tensor, level: Any, given: dict[str, Tensor]) -> Tensor:
        """(b,) mean squared errors of what the network says at x = alpha x0 + sigma z.

        Where it has twice the channels, the others are a learned variance, and the loss is the hybrid one of Nichol and
        Dhariwal 2021, eq. 16, with lambda = 1/1000 of the whole bound: the variance learns, x0 stays as it would be."""
        x = level.alpha * x0 + level.sigma * z
        if self.config.train.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        p, q = coefficients(self.predicts, level)
        out = model(x, level.t, return_dict=False, **given)[0].float()
        if out.shape[1] == x.shape[1]:
            return (out - (p * x0 + q * z)).square().mean(dim=(1, 2, 3))
        out, frac = out.chunk(2, dim=1)
        frozen = solve(x, out.detach(), level, self.predicts)._replace(frac=frac)
        bound = variational_bound(self.schedule, level.t, x0, x, frozen)
        return (out - (p * x0 + q * z)).square().mean(dim=(1, 2, 3)) + len(self.schedule) / 1000 * bound

    def prior(self, model: nn.Module, clip: bool = False) -> Prior:
        """The model as a Prior, in the precision it trains in; class-conditional ones without a label."""
        dtype = PRECISIONS[self.config.train.precision]
        prior = Prior(
            model,
            predicts=self.predicts,
            schedule=self.schedule,
            clip=clip,
            labels=self.labels,
            null_label=len(self.labels) if self.labels else None,
            dtype=dtype,
        )
        return prior.unlabelled or prior

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """val_loss, and psnr_S of x0 at each sigma S on the 0-255 scale, means over the held-out pictures."""
        settings = self.config.validate
        found: dict[str, list[float]] = {}
        prior, device = self.prior(model), next(model.parameters()).device
        for i, (_, image) in enumerate(self.pictures.held_out(settings.pictures, settings.size, self.multiple)):
            image = image.to(device)
            for sigma in settings.sigmas:
                out = self._denoised(prior, image, sigma, seed=i)
                mse = (out.clamp(0, 1) - image).square().mean().item()
                found.setdefault(f"psnr_{sigma:g}", []).append(-10 * math.log10(max(mse, 1e-10)))
            found.setdefault("val_loss", []).append(self._held_out_loss(prior, image, seed=i))
        return {key: round(sum(values) / len(values), 5) for key, values in found.items()}

    def _denoised(self, prior: Prior, image: Tensor, sigma: float, seed: int) -> Tensor:
        """x0 of an image in [0, 1] with noise of sigma / 255, at the matching level; (B,3,H,W) in [0, 1]."""
        codec = Pixels()
        level = self.schedule.at_ratio(codec.std(sigma / 255))
        z = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image.device)
        return codec.decode(prior(level.alpha * codec.encode(image) + level.sigma * z, level).x0)

    def _held_out_loss(self, prior: Prior, image: Tensor, seed: int, draws: int = 8) -> float:
        crop = image[..., : 64 // self.multiple * self.multiple, : 64 // self.multiple * self.multiple] * 2 - 1
        rng = Rows(seed, 0, draws, slice(None), torch.device("cpu"))
        level = self.schedule.at(self.times(rng.stratified()).to(image.device))
        z = rng.normal(*crop.shape[1:]).to(image.device)
        given = {k: v.expand(draws) for k, v in prior.given.items()}
        with torch.autocast(image.device.type, prior.dtype, enabled=prior.dtype != torch.float32):
            return self._errors(prior.net, crop.expand(draws, -1, -1, -1), z, level, given).mean().item()

    @torch.no_grad()
    def samples(self, model: nn.Module, count: int = 8, steps: int = 25) -> np.ndarray:
        """A sheet: two rows of DDIM samples, then clean, noisy and denoised held-out crops (sigma 25, 100)."""
        side, device = self.config.data.crop, next(model.parameters()).device
        side = max(self.multiple, side // self.multiple * self.multiple)
        prior = self.prior(model, clip=True)
        if self.labels:
            prior = prior.labelled(torch.arange(2 * count) % len(self.labels))
        x = torch.randn(2 * count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        levels = prior.levels(min(steps, len(self.schedule)) if isinstance(self.schedule, Table) else steps)
        drawn = last(sample(prior, x, levels, move=once(ddim)))
        rows = list(Pixels().decode(drawn).chunk(2))
        clean = [image[..., :side, :side] for _, image in self.pictures.held_out(count, side, side)]
        if clean:
            clean = torch.cat(clean).to(device)
            plain = self.prior(model)
            for sigma in (25, 100):
                z = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(device)
                rows += [clean + sigma / 255 * z, self._denoised(plain, clean, sigma, seed=0)]
            rows.insert(2, clean)
        return sheet(rows, count)

    def export(self, model: nn.Module, folder: Path, history: list[dict[str, Any]]) -> None:
        export.prior(folder, model, self.scheduler, self.config, self.labels, history)


def sheet(rows: Iterable[Tensor], columns: int, gap: int = 2) -> np.ndarray:
    """Rows of (B,3,h,w) in [0, 1] -> one (H,W,3) uint8 picture."""
    rows = [row.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy() for row in rows]
    side = rows[0].shape[1] + gap
    out = np.full((len(rows) * side + gap, columns * side + gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row[:columns]):
            out[gap + i * side : (i + 1) * side, gap + j * side : (j + 1) * side] = tile
    return out


def train_prior(config: str | Path | PriorConfig, **options: Any) -> dict[str, Any]:
    """Train a prior, or go on with one; its diffusers folder is `output`/prior. options, report: see `run.train`."""
    return train(PriorTask, config, **options)
