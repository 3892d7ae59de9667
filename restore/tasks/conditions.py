"""What a request is pulled towards: a class of the prior, of a classifier, or of both."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from restore.classifier import Classifier, load_classifier
from restore.errors import InputError
from restore.precision import DTYPES
from restore.prior import Denoise, Prior
from restore.wrappers import classifier_free, classifier_guided, clip

GUIDANCE = 7.5  # towards a prompt, where nothing else is said, as the pipelines of Stable Diffusion have it


class Guide:
    """A classifier by name, by folder or as it is: loaded when a prior first asks for it, and kept for the next."""

    def __init__(self, source: str | Path | Classifier) -> None:
        if not isinstance(source, str | Path | Classifier):
            raise InputError(f"classifier is {source!r}: give a name, a folder or a Classifier")
        self.source = source
        self.kept: dict[tuple[str, str], Classifier] = {}

    def beside(self, prior: Prior) -> Classifier:
        """The classifier on the prior's device, in its precision. Raises PriorError where there is no such classifier,
        InputError where it cannot look at what the prior makes."""
        if prior.latent:
            raise InputError(f"the prior {prior.name!r} does not work on pixels, which a classifier looks at")
        if isinstance(self.source, Classifier):
            if isinstance(self.source.net, nn.Module) and self.source.device != prior.device:
                devices = f"the prior on {prior.device}, the classifier on {self.source.device}"
                raise InputError(f"{devices}: load both on one device")
            return self.source
        dtype = str(prior.dtype).removeprefix("torch.")
        wanted = str(prior.device), dtype if dtype in DTYPES else "float32"
        if wanted not in self.kept:
            self.kept[wanted] = load_classifier(self.source, device=wanted[0], dtype=wanted[1])
        return self.kept[wanted]


def conditioned(
    prior: Prior,
    label: str | int | None,
    guidance: float | None,
    classifier: Classifier | None = None,
    scale: float = 1.0,
    *,
    prompt: str | None = None,
    negative_prompt: str | None = None,
) -> tuple[Denoise, int]:
    """The prior at a class or a prompt, by classifier-free guidance, a classifier or both, if that is wanted; and how
    often it asks the prior's network.

    With a classifier `label` is one of its classes, and the prior's class of that name, if it has classes.
    Raises InputError for labels that are not there, or none where one is needed, and for prompts that nothing reads."""
    if prompt is not None:
        return _of_text(prior, prompt, negative_prompt or "", GUIDANCE if guidance is None else float(guidance))
    if classifier is None:
        return _of_class(prior, label, guidance)
    index, own = agreed(prior, classifier, label)
    if own is None and guidance:
        raise InputError(
            f"the prior {prior.name!r} has no classes: leave guidance out; classifier_scale says how hard to pull"
        )
    denoise, cost = (prior, 1) if own is None else _of_class(prior, own, guidance)
    return classifier_guided(denoise, classifier.log_prob(index), scale) if scale else denoise, cost


def _of_class(prior: Prior, label: str | int | None, guidance: float | None) -> tuple[Denoise, int]:
    if label is None:
        if prior.labels is not None and "class_labels" not in prior.given:
            raise InputError(f"the prior {prior.name!r} has classes: choose one with label: {prior.classes}")
        return prior, 1
    chosen = prior.labelled(label)
    if guidance is None or guidance == 1:
        return chosen, 1
    if prior.unlabelled is None:
        raise InputError(f"the prior {prior.name!r} was trained with a label always: guidance has nothing to go by")
    if not guidance:  # the unconditional prior
        return prior.unlabelled, 1
    return _free(chosen, prior.unlabelled, float(guidance)), 2


def _of_text(prior: Prior, prompt: str, against: str, guidance: float) -> tuple[Denoise, int]:
    told = prior.prompted(prompt)
    if guidance == 1 or prompt == against:
        return told, 1
    away = prior.prompted(against)
    return (_free(told, away, guidance), 2) if guidance else (away, 1)


def _free(yes: Prior, no: Prior, scale: float) -> Denoise:
    """Classifier-free guidance of what the network says, clipped after it, as schedulers do."""
    guided = classifier_free(yes.unclipped, no.unclipped, scale)
    return clip(guided, -float(yes.clip), float(yes.clip)) if yes.clip else guided


def agreed(prior: Prior, classifier: Classifier, label: str | int) -> tuple[int, int | None]:
    """The index of a class in a classifier and, None where it has no classes, in a prior: by its name where both have
    names, else by its number. Raises InputError for a class that one of them does not have, naming those of both."""
    if prior.labels is None:
        return classifier.index(label), None
    named = [network for network in (classifier, prior) if not isinstance(network.labels, int)]
    try:
        index = (named or [classifier])[0].index(label)
        if len(named) < 2:
            return classifier.index(index), prior.index(index)
        return index, prior.labels.index(classifier.labels[index])
    except ValueError:  # an InputError is one
        raise InputError(
            f"the prior {prior.name!r} and the classifier {classifier.name!r} have no class {str(label)!r} in common: "
            f"choose one that is in {prior.classes}, and in {classifier.classes}"
        ) from None
