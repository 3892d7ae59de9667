"""Conditional trainings of a few CPU seconds: pictures, configurations, networks."""

import cv2
import numpy as np
import torch
from PIL import Image

from restore.train.conditional import ConditionalTask, train_conditional
from restore.train.conditional_config import (
    Condition,
    ConditionalConfig,
    ConditionalData,
    ConditionalTrain,
    ConditionalValidate,
    Degradation,
    Encoder,
    PairedSource,
)
from restore.train.degradations import Pairs
from restore.train.plan import Rows

UNET = {"kind": "unet", "channels": [8, 16], "layers": 1, "time_channels": 16}
SR3 = {"kind": "sr3", "base_channels": 8, "channel_mults": [1, 2], "norm_groups": 4, "attn_res": [4], "res_blocks": 1}
DIFFUSERS = {
    "kind": "UNet2DModel",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "layers_per_block": 1,
}
SRDIFF = {"kind": "srdiff", "channels": 8, "dim_mults": [1, 2], "rrdb_blocks": 2, "rrdb_features": 4}
PALETTE = ("colorize", "inpaint", "uncrop", "jpeg", "deblur")

KINDS = {
    "sr3 x2": {"network": SR3, "scale": 2, "noise_level": 1.0, "loss": "l1"},
    "sr3 x4": {"network": SR3, "scale": 4, "noise_level": 1.0, "predicts": "v"},
    "sr3 x8": {"network": SR3, "scale": 8, "noise_level": 1.0, "data": {"crop": 16}},
    "unet x4": {"scale": 4, "condition": {"residual": 2.0}},
    "unet x3": {"scale": 3, "data": {"crop": 12}, "condition": {"shrunk": "average"}, "validate": {"size": 18}},
    "diffusers x2": {"network": DIFFUSERS, "scale": 2},
    "srdiff x2": {"network": SRDIFF, "scale": 2, "condition": {"residual": 2.0}, "encoder": Encoder(pretrain=0.5)},
    "palette": {"kinds": PALETTE},
    "cascade": {"scale": 2, "condition": {"augment": 30.0, "dropout": 0.2}},
}


def config(folder, network=UNET, kinds=(), scale=1, data=None, condition=None, validate=None, keys=None, **train):
    """A configuration of a few CPU seconds; `kinds`: what to undo, with a scale of 1."""
    told = {"steps": 6, "batch": 4, "precision": "no", "warmup": 3, "log_every": 1, "save_every": 0, "sample_every": 0}
    kinds = [kind if isinstance(kind, Degradation) else Degradation(kind) for kind in kinds]
    return ConditionalConfig(
        ConditionalData([PairedSource(str(folder))], **{"crop": 8, "holdout": ["1.png", "3.png"]} | (data or {})),
        ConditionalTrain(**told | train),
        condition=Condition(scale, degradations=kinds, **condition or {}),
        network=dict(network),
        validate=ConditionalValidate(**{"every": 0, "size": 16, "steps": 2} | (validate or {})),
        **keys or {},
    )


def run(config, output, **options):
    return train_conditional(config, output=output, device="cpu", quiet=True, **options)


def task_of(config):
    return ConditionalTask(config, Pairs(config, [""], True))


def batch_of(config, count=4):
    data = Pairs(config, [""], True)
    return torch.utils.data.default_collate([data[n, config.data.crop] for n in range(count)])


def rows(count=4, seed=0):
    return Rows(seed, 0, count, slice(None), torch.device("cpu"))


def blurred_noise(folder):
    """`folder` with six pictures 0.png ... of 40 x 48 and more."""
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (40, 48 + i, 3), dtype=np.uint8)
        pixels = cv2.convertScaleAbs(cv2.GaussianBlur(noise, (0, 0), 2), alpha=2, beta=-128)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


class Seen(torch.nn.Module):
    """A network that says `answer` and remembers what it was asked."""

    def __init__(self, answer=0.0):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, return_dict=True):
        self.x, self.t = x, t
        return (torch.zeros_like(x[:, :3]) + self.answer,)
