"""Small pictures, holes and short runs of restore.inpaint."""

import torch

import restore
from restore import images, tasks

METHODS = list(tasks.INPAINT_METHODS)
ODD = (37, 53)


def inpaint_result(image, mask, *, prior, progress=None, **options):
    return tasks.Inpaint(**options).run(images.read(image), mask, prior, progress)


def colours(shape=ODD, seed=0, batch=1):
    """(B,3,H,W) in [0.2, 0.8]"""
    return torch.rand(batch, 3, *shape, generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.2


def hole(shape=ODD, top=10, bottom=25, left=12, right=30):
    mask = torch.zeros(shape)
    mask[top:bottom, left:right] = 1
    return mask


def restored(image, mask=None, prior=None, steps=2, **options):
    return restore.inpaint(image, mask, prior=prior, steps=steps, **options)
