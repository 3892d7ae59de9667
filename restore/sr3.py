"""The U-Net of SR3 (Saharia et al. 2021) as the public re-implementation has it, with the names of its tensors."""

from __future__ import annotations

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from restore.errors import InputError
from restore.unet import UNetOutput, eased


class Encoding(nn.Module):
    """Noise levels (B,) -> (B,width): sines, then cosines, of frequencies from 1 down to 1/10000."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, level: Tensor) -> Tensor:
        count = self.width // 2
        step = torch.arange(count, dtype=level.dtype, device=level.device) / count
        angles = level[:, None] * torch.exp(-math.log(1e4) * step)
        return torch.cat([angles.sin(), angles.cos()], -1)


class Exact(nn.Linear):
    """In the precision of its input, whatever its own or autocast's: bfloat16 hardly tells levels near 1 apart."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Block(nn.Module):
    """(B,in,H,W) -> (B,out,H,W): norm, swish, drop-out, convolution."""

    def __init__(self, inside: int, outside: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        conv = nn.Conv2d(inside, outside, 3, padding=1)
        self.block = nn.Sequential(nn.GroupNorm(groups, inside), nn.SiLU(), nn.Dropout(dropout), conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Told(nn.Module):
    """Adds what the noise level says, (B,time), to every pixel of (B,C,H,W)."""

    def __init__(self, time: int, width: int) -> None:
        super().__init__()
        self.noise_func = nn.Sequential(nn.Linear(time, width))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return x + self.noise_func(emb)[..., None, None]


class ResBlock(nn.Module):
    def __init__(self, inside: int, outside: int, time: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.noise_func = Told(time, outside)
        self.block1, self.block2 = Block(inside, outside, groups), Block(outside, outside, groups, dropout)
        self.res_conv = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.block2(self.noise_func(self.block1(x), emb)) + self.res_conv(x)


class SelfAttention(nn.Module):
    """One head over all pixels, added to x."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1, bias=False), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None]  # (B,1,HW,3C)
        h = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))  # (B,1,HW,C)
        return x + self.out(h[:, 0].transpose(1, 2).reshape(x.shape))


class Stage(nn.Module):
    """A residual block, and attention where it has it."""

    def __init__(self, inside: int, outside: int, time: int, groups: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.res_block = ResBlock(inside, outside, time, groups, dropout)
        self.attn = SelfAttention(outside, groups) if attends else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attn(self.res_block(x, emb))


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class SR3UNet(ModelMixin, ConfigMixin):
    """(x (B,in,H,W), t (B,)) -> (B,out,H,W), where t is the noise level sqrt(alpha-bar), in [0, 1].

    x: the noisy picture and the enlarged one, along the channels; the released weights expect the enlarged one first.
    base_channels, channel_mults: the width of each scale, finest first, is their product. attn_res: the sides of the
    scales that attend, for pictures of `sample_size`; the middle always does. res_blocks: on each scale on the way
    down, and one more on the way up. Raises InputError for sides that `multiple` does not divide.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 6,
        out_channels: int = 3,
        base_channels: int = 64,
        channel_mults: tuple[int, ...] = (1, 2, 4, 8, 8),
        norm_groups: int = 32,
        attn_res: tuple[int, ...] = (16,),
        res_blocks: int = 2,
        dropout: float = 0.2,
        sample_size: int = 128,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        widths = [base_channels * mult for mult in channel_mults]
        for wide in (base_channels, *widths):
            if wide % norm_groups:
                raise InputError(f"norm_groups = {norm_groups} does not divide {wide}, the width of a scale")
        attends = [sample_size // 2**level in attn_res for level in range(len(widths))]
        last = len(widths) - 1

        def stage(inside: int, outside: int, attends: bool) -> Stage:
            return Stage(inside, outside, base_channels, norm_groups, dropout, attends)

        self.noise_level_mlp = nn.Sequential(
            Encoding(base_channels),
            Exact(base_channels, 4 * base_channels),
            nn.SiLU(),
            Exact(4 * base_channels, base_channels),
        )
        width, kept = base_channels, [base_channels]
        downs: list[nn.Module] = [nn.Conv2d(in_channels, base_channels, 3, padding=1)]
        for level, wide in enumerate(widths):
            for _ in range(res_blocks):
                downs.append(stage(width, wide, attends[level]))
                width = wide
                kept.append(width)
            if level < last:
                downs.append(Down(width))
                kept.append(width)
        self.downs = nn.ModuleList(downs)
        self.mid = nn.ModuleList([stage(width, width, True), stage(width, width, False)])
        ups: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            for _ in range(res_blocks + 1):
                ups.append(stage(width + kept.pop(), widths[level], attends[level]))
                width = widths[level]
            if level:
                ups.append(Up(width))
        self.ups = nn.ModuleList(ups)
        self.final_conv = Block(width, out_channels, norm_groups)

    @property
    def conv_in(self) -> nn.Module:
        return self.downs[0]

    @property
    def conv_out(self) -> nn.Module:
        return self.final_conv.block[-1]

    @property
    def multiple(self) -> int:
        """The sides of x are divisible by this."""
        return 2 ** (len(self.config.channel_mults) - 1)

    def forward(self, x: Tensor, t: Tensor | float, return_dict: bool = True) -> UNetOutput | tuple[Tensor]:
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise InputError(f"this SR3 network takes (B,{self.config.in_channels},H,W), not {tuple(x.shape)}")
        if any(side % self.multiple for side in x.shape[-2:]):
            raise InputError(f"this SR3 network takes sides divisible by {self.multiple}, not {tuple(x.shape[-2:])}")
        weight = self.noise_level_mlp[1].weight
        level = torch.as_tensor(t, device=x.device, dtype=torch.promote_types(weight.dtype, torch.float32))
        emb = self.noise_level_mlp(level.reshape(-1).expand(len(x))).to(weight.dtype)  # (B,base)
        h, kept = x, []
        for module in self.downs:
            h = eased(self, module, h, emb) if isinstance(module, Stage) else module(h)
            kept.append(h)
        for module in self.mid:
            h = eased(self, module, h, emb)
        for module in self.ups:
            stage = isinstance(module, Stage)
            h = eased(self, module, torch.cat([h, kept.pop()], 1), emb) if stage else module(h)
        h = self.final_conv(h)
        return UNetOutput(sample=h) if return_dict else (h,)
