"""`restore train classifier`: train a classifier of noisy pictures, for guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from restore.classifier import Classifier
from restore.codec import Pixels
from restore.errors import InputError
from restore.levels import Table
from restore.load import load_prior
from restore.train import export
from restore.train.build import CLASSIFIERS, PRECISIONS, build_network, build_scheduler, schedule_of
from restore.train.config import ClassifierConfig
from restore.train.data import Pictures
from restore.train.plan import Rows
from restore.train.run import check_crops, train
from restore.unet import UNet


def start_from(net: nn.Module, source: str, schedule: Table) -> None:
    """Give `net` the way down of the U-Net of the prior `source`, which knows pictures at each noise level already.

    Raises PriorError where there is no such prior, InputError where its noise table or its network is another one."""
    prior = load_prior(source, device="cpu", dtype="float32")
    if not isinstance(prior.net, UNet):
        raise InputError(f"init: {source} is a {type(prior.net).__name__}: only a restore UNet has this way down")
    same = isinstance(prior.schedule, Table) and len(prior.schedule) == len(schedule)
    if not (same and np.allclose(prior.schedule.abar, schedule.abar, atol=1e-6)):
        raise InputError(f"init: {source} has another noise table: [schedule] has to agree with it")
    state = prior.net.state_dict()
    if prior.null_label is not None:  # told of no class, always
        state["time_embedding.linear_2.bias"] += state["class_embedding.weight"][prior.null_label]
    last = f"blocks.{len(net.downsamplers)}."
    state = {k.replace("down_blocks.", "blocks.").replace("mid_blocks.", last): v for k, v in state.items()}
    state = {k: v for k, v in state.items() if not k.startswith(("up", "conv_out", "class_embedding"))}
    try:
        missing, unknown = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"init: {source} has layers of other shapes: {str(error).splitlines()[-1].strip()}") from None
    wrong = [*unknown, *(name for name in missing if not name.startswith(("head.", "norm_out.")))]
    if wrong:
        hint = "" if net.config.norm == "pixel" else ', and it needs norm = "pixel"'
        raise InputError(f"init: {source} has another way down, which differs first at {wrong[0]}{hint}")


class ClassifierTask:
    """Cross-entropy at every noise level (Dhariwal and Nichol 2021, section 4 and appendix H)."""

    name, Config = "classifier", ClassifierConfig

    def __init__(self, config: ClassifierConfig, pictures: Pictures) -> None:
        self.config, self.pictures, self.labels = config, pictures, pictures.labels
        self.held: tuple[Tensor, Tensor] | None = None
        if len(self.labels) < 2:
            raise InputError(f"all pictures are in one folder, {self.labels[0]!r}: a classifier needs two classes")
        self.scheduler = build_scheduler(config.schedule, "eps")
        self.schedule = schedule_of(self.scheduler)
        if not isinstance(self.schedule, Table):
            raise InputError("[schedule] a classifier needs a noise table: choose a scheduler with betas")
        if "classes" in config.network:
            raise InputError("[network] classes follow from the folders of the pictures: leave them out")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = build_network(config.network, CLASSIFIERS, classes=len(self.labels))
        if config.train.init is not None:
            start_from(self.net, config.train.init, self.schedule)
        check_crops(config, self.net.multiple)
        for item in pictures.held:
            if item.label not in self.labels:
                raise InputError(f"{item.name} is held out, and no picture of class {item.label!r} is trained on")

    def loss(self, model: nn.Module, batch: dict[str, Tensor], rng: Rows) -> Tensor:
        x0 = batch["image"].permute(0, 3, 1, 2).float() / 127.5 - 1  # (b,3,H,W)
        t = self.times(rng)
        smoothing = self.config.train.label_smoothing
        return self._errors(model, x0, rng.normal(*x0.shape[1:]), t, batch["label"], smoothing)

    def times(self, rng: Rows) -> Tensor:
        """(B,) whole times of the table, stratified over the batch."""
        return (rng.stratified() * len(self.schedule)).floor()

    def _errors(
        self, model: nn.Module, x0: Tensor, z: Tensor, t: Tensor, label: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """(b,) cross-entropies of x = alpha x0 + sigma z."""
        level = self.schedule.at(t)
        x = level.alpha * x0 + level.sigma * z
        if self.config.train.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(model(x, t).float(), label, label_smoothing=smoothing, reduction="none")

    def classifier(self, model: nn.Module) -> Classifier:
        """The model as a Classifier, in the precision it trains in."""
        dtype = PRECISIONS[self.config.train.precision]
        return Classifier(model, schedule=self.schedule, labels=self.labels, dtype=dtype, multiple=self.net.multiple)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """accuracy_S at each sigma S on the 0-255 scale, and val_loss, over the held-out pictures, if there are any."""
        if self.held is None:
            self.held = self.pictures.held_out_crops(self.config.data.crop)
        crops, labels = self.held
        if not len(crops):
            return {}
        classifier, device = self.classifier(model), next(model.parameters()).device
        x0, labels = (crops / 127.5 - 1).to(device), labels.to(device)
        found = {
            f"accuracy_{sigma:g}": self._accuracy(classifier, x0, labels, sigma)
            for sigma in self.config.validate.sigmas
        }
        return {**found, "val_loss": self._held_out_loss(classifier, x0, labels)}

    def _accuracy(self, classifier: Classifier, x0: Tensor, labels: Tensor, sigma: float) -> float:
        level = self.schedule.at_ratio(Pixels().std(sigma / 255))
        z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(x0.device)
        x = level.alpha * x0 + level.sigma * z
        said = torch.cat([classifier(part, level).argmax(1) for part in x.split(64)])
        return round((said == labels).double().mean().item(), 5)

    def _held_out_loss(self, classifier: Classifier, x0: Tensor, labels: Tensor, draws: int = 4) -> float:
        """Mean cross-entropy, each picture at `draws` levels."""
        rng = Rows(0, 0, draws * len(x0), slice(None), torch.device("cpu"))
        t, z = (part.to(x0.device) for part in (self.times(rng), rng.normal(*x0.shape[1:])))
        parts = [part.split(64) for part in (x0.repeat(draws, 1, 1, 1), z, t, labels.repeat(draws))]
        dtype = classifier.dtype
        with torch.autocast(x0.device.type, dtype, enabled=dtype != torch.float32):
            errors = [self._errors(classifier.net, *part) for part in zip(*parts, strict=True)]
        return round(torch.cat(errors).mean().item(), 5)

    def samples(self, model: nn.Module) -> None:
        """A classifier draws nothing."""

    def export(self, model: nn.Module, folder: Path, history: list[dict[str, Any]]) -> None:
        export.classifier(folder, model, self.scheduler, self.config, self.labels, history)


def train_classifier(config: str | Path | ClassifierConfig, **options: Any) -> dict[str, Any]:
    """Train a classifier, or go on with one; its folder is `output`/classifier. options, report: see `run.train`."""
    return train(ClassifierTask, config, **options)
