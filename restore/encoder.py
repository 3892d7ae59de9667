"""A small convolutional classifier of noisy pictures: residual blocks on the way down, and a head."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from restore.errors import InputError
from restore.unet import Block as PixelBlock


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, math.gcd(width, 32) // 2), width)


class Block(nn.Module):
    """x + conv(silu(film(norm(conv(silu(norm(x))))))), modulated by the time: Dhariwal and Nichol 2021, section 3.1.

    Groups are normalised over the picture, so that flat parts stay weaker than what stands out; the blocks of
    `restore.unet` look at one pixel, which a classifier does not need."""

    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(time, 2 * width)
        for layer in (self.conv2, self.film):  # every block starts as the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)  # (B,width,1,1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        return x + self.conv2(F.silu(torch.addcmul(shift, h, 1 + scale)))


class Encoder(ModelMixin, ConfigMixin):
    """(x (B,in,H,W), t (B,)) -> logits (B,classes); sides divisible by 2**(len(channels) - 1).

    The way down of a U-Net as a noisy classifier (Dhariwal and Nichol 2021, section 4), its features averaged over the
    pixels, so that pictures may have any size.

    channels: width of each scale, finest first. layers: residual blocks a scale, one number for all or one for each.
    norm: "group", or "pixel" for the blocks of `restore.unet`, so that training can begin with the weights of a prior.
    dropout: of the averaged features, while training.
    """

    channels_last = True  # the order of memory that it is fastest in

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        channels: tuple[int, ...] = (32, 64, 128, 256, 256),
        layers: int | tuple[int, ...] = 1,
        norm: str = "group",
        time_channels: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        counts = [layers] * len(channels) if isinstance(layers, int) else list(layers)
        if len(counts) != len(channels):
            raise InputError(f"layers has {len(counts)} numbers for {len(channels)} scales: give one, or one for each")
        if norm not in ("group", "pixel"):
            raise InputError(f"unknown norm {norm!r}: group or pixel")
        self.time_proj = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(64, time_channels)
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                Block(width, time_channels) if norm == "group" else PixelBlock(width, time_channels, norm=True)
                for _ in range(count)
            )
            for width, count in zip(channels, counts, strict=True)
        )
        self.downsamplers = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels))
        self.norm_out = _norm(channels[-1])
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], classes)
        nn.init.zeros_(self.head.weight)  # every class is as likely at first
        nn.init.zeros_(self.head.bias)

    @property
    def multiple(self) -> int:
        """What the sides of a picture have to be divisible by."""
        return 2 ** len(self.downsamplers)

    def forward(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        emb = F.silu(self.time_embedding(self.time_proj(t).to(self.time_embedding.linear_1.weight.dtype)))
        x = self.conv_in(sample)
        for i, group in enumerate(self.blocks):
            x = self.downsamplers[i - 1](x) if i else x
            for block in group:
                x = block(x, emb)
        features = F.silu(self.norm_out(x)).mean((2, 3))  # (B,C)
        return self.head(self.drop(features))
