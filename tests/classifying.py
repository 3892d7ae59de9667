"""Classifiers for tests: in closed form beside a prior whose classes they know, and untrained in a folder."""

import json

import torch
from tasking import TABLE, White, classes

from restore.classifier import Classifier
from restore.levels import cosine
from restore.prior import Prior

MEANS, LABELS = (-0.4, 0.1, 0.5), ("cat", "dog", "owl")
STD, CHEQUER = 0.3, 0.5
COSINE = cosine(1000)


def fits(x, t, schedule):
    """log p(x_t | class) + constant (B,K) of white Gaussians of equal spread, in float64."""
    level, white = schedule.at(float(t[0])), White(MEANS, STD, chequer=CHEQUER)
    total = level.alpha**2 * STD**2 + level.sigma**2
    gaps = [(x.double() - level.alpha * white.means(x, k)).square().sum((1, 2, 3)) for k in range(len(MEANS))]
    return -torch.stack(gaps, 1) / (2 * total)


def exact(labels=LABELS, schedule=COSINE, **options):
    """p(class | x_t) of the three classes, on a table that is not the prior's."""
    labels = list(labels) if isinstance(labels, tuple) else labels
    return Classifier(lambda x, t: fits(x, t, schedule), schedule=schedule, labels=labels, **options)


class All(White):
    """The eps-network of the three classes together, and of each where it is told one."""

    def __call__(self, x, t, class_labels=None):
        self.told.append(float(t[0]))
        level, weights = self.schedule.at(float(t[0])), fits(x, t, self.schedule).softmax(1)
        if class_labels is not None:
            one = torch.nn.functional.one_hot(class_labels, len(MEANS) + 1).double()
            weights = torch.where(one[:, -1:] > 0, weights, one[:, :-1])
        mean = sum(weights[:, k].reshape(-1, 1, 1, 1) * self.means(x, k) for k in range(len(MEANS)))
        total = level.alpha**2 * STD**2 + level.sigma**2
        return (level.sigma * (x.double() - level.alpha * mean) / total).to(x)


def together(labels=None, **options):
    """The prior of the three classes together; with labels, one that may be told the class."""
    net = All(MEANS, STD, chequer=CHEQUER)
    told = {"labels": list(labels), "null_label": len(MEANS)} if labels else {}
    return Prior(net, schedule=TABLE, name="together", **{**told, **options})


def alone(k):
    """The prior of one class."""
    return classes(MEANS, STD, chequer=CHEQUER, labels=LABELS).labelled(k)


def save_classifier(folder, labels=LABELS, change=None, scheduler=None, **options):
    """Write an untrained classifier to `folder`; change(net) may spoil its weights, `options` go to the network."""
    from diffusers import DDPMScheduler

    from restore.encoder import Encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Encoder(**{"classes": len(labels), "channels": (8, 16), "time_channels": 16, **options})
        for name, weight in net.named_parameters():
            if "film" in name or "conv2" in name or "head" in name:  # zero at first
                torch.nn.init.normal_(weight, std=0.3)
    if change:
        with torch.no_grad():
            change(net)
    net.save_pretrained(folder / "net")
    (scheduler or DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(folder / "scheduler")
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder
