"""A small convolutional U-Net for pictures of any size: DRUNet (Zhang et al. 2021) with a time input."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class UNetOutput(BaseOutput):
    """sample: (B,C,H,W), what the network predicts."""

    sample: Tensor


def eased(net: nn.Module, block: nn.Module, *inputs: Tensor) -> Tensor:
    """block(*inputs); its activations are computed again on the way back where `net` has gradient checkpointing."""
    if net.gradient_checkpointing and torch.is_grad_enabled():
        return net._gradient_checkpointing_func(block, *inputs)
    return block(*inputs)


class Block(nn.Module):
    """x + conv(silu(film(conv(norm(x))))), modulated by the time; the norm sees one pixel's channels alone."""

    def __init__(self, width: int, time: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5, elementwise_affine=False) if norm else None
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(time, 2 * width)
        for layer in (self.conv2, self.film):  # every block starts as the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)  # (B,width,1,1)
        h = F.silu(x) if self.norm is None else self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        h = torch.addcmul(shift, self.conv1(h), 1 + scale)
        return x + self.conv2(F.silu(h))


class UNet(ModelMixin, ConfigMixin):
    """(x (B,in,H,W), t (B,)) -> (B,out,H,W); sides divisible by 2**(len(channels) - 1).

    Nothing in it depends on the size of the picture: no attention, no norm over pixels, so the answer for a region is
    that of any tile which holds the region and its receptive field. Skips are added, as in DRUNet.

    channels: width of each scale, finest first. layers: residual blocks a scale, on the way down and up.
    sample_size: its pictures' side, where it is not for any size.
    """

    channels_last = True  # the order of memory that it is fastest in
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: tuple[int, ...] = (32, 64, 128, 256),
        layers: int = 2,
        norm: bool = True,
        time_channels: int = 128,
        num_class_embeds: int | None = None,
        sample_size: int | None = None,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False  # of each block, by enable_gradient_checkpointing()
        self.time_proj = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(64, time_channels)
        self.class_embedding = nn.Embedding(num_class_embeds, time_channels) if num_class_embeds else None
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)

        def blocks(width: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, time_channels, norm) for _ in range(layers))

        steps = list(pairwise(channels))
        self.down_blocks = nn.ModuleList(blocks(width) for width, _ in steps)
        self.downsamplers = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.mid_blocks = nn.ModuleList([*blocks(channels[-1]), *blocks(channels[-1])])
        self.upsamplers = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.up_blocks = nn.ModuleList(blocks(width) for width, _ in steps)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNetOutput | tuple[Tensor]:
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        emb = self.time_embedding(self.time_proj(t).to(self.time_embedding.linear_1.weight.dtype))
        if self.class_embedding is not None:
            emb = emb + self.class_embedding(class_labels)
        emb = F.silu(emb)
        x, skips = self.conv_in(sample), []
        for group, down in zip(self.down_blocks, self.downsamplers, strict=True):
            for block in group:
                x = eased(self, block, x, emb)
            skips.append(x)
            x = down(x)
        for block in self.mid_blocks:
            x = eased(self, block, x, emb)
        for group, up in zip(reversed(self.up_blocks), reversed(self.upsamplers), strict=True):
            x = up(x) + skips.pop()
            for block in group:
                x = eased(self, block, x, emb)
        out = self.conv_out(F.silu(x))
        return UNetOutput(sample=out) if return_dict else (out,)
