"""The networks of guided-diffusion (Dhariwal and Nichol 2021), with the names of its tensors: U-Net and classifier.

`restore.checkpoints` makes a diffusers UNet2DModel of a checkpoint wherever that says the same; these are for what it
cannot say: classifiers, upsamplers, heads of several widths, and a first width that is not `model_channels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from restore.errors import InputError

POOLS = ("adaptive", "attention", "spatial", "spatial_v2")
Resample = Callable[[Tensor], Tensor]  # (B,C,H,W) -> sides halved or doubled
RESAMPLES = ("updown", "conv", "pool")  # residual blocks that halve and double, convolutions, or neither


class Norm(nn.GroupNorm):
    """32 groups, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__(32, width)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


def halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Block(nn.Module):
    """A residual block (B,in,H,W) -> (B,out,H,W), told the time; with `resample` it halves or doubles the sides too."""

    def __init__(
        self, inside: int, outside: int, time: int, scale_shift: bool, resample: Resample | None = None
    ) -> None:
        super().__init__()
        self.resample, self.scale_shift = resample, scale_shift
        self.in_layers = nn.Sequential(Norm(inside), nn.SiLU(), nn.Conv2d(inside, outside, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * outside if scale_shift else outside))
        conv = nn.Conv2d(outside, outside, 3, padding=1)
        self.out_layers = nn.Sequential(Norm(outside), nn.SiLU(), nn.Identity(), conv)  # drop-out lies in between
        self.skip_connection = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[:2](x)
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h, told = self.in_layers[2](h), self.emb_layers(emb)[..., None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(x) + h


class Down(nn.Module):
    def __init__(self, width: int, conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width: int, conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1) if conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(doubled(x))


def attend(qkv: Tensor, heads: int, new_order: bool) -> Tensor:
    """(B,3C,L) -> (B,C,L); new order: all queries, all keys, all values; else the three of each head in turn."""
    b, width, length = qkv.shape
    shape = (b, 3, heads, -1, length) if new_order else (b, heads, 3, -1, length)
    q, k, v = qkv.reshape(shape).transpose(-1, -2).unbind(1 if new_order else 2)  # (B,heads,L,C/heads)
    return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, width // 3, length)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm, self.qkv, self.proj_out = Norm(width), nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.qkv(self.norm(x.flatten(2)))  # (B,3C,HW)
        return x + self.proj_out(attend(h, self.heads, self.new_order)).reshape(x.shape)


class Stage(nn.ModuleList):
    """Modules in turn; the residual blocks among them are told the time."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for module in self:
            x = module(x, emb) if isinstance(module, Block) else module(x)
        return x


def sinusoids(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B,width): cosines, then sines, of frequencies from 1 to 1/10000."""
    half = width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


class Guided(ModelMixin, ConfigMixin):
    """What both networks have: the time, the way down and the middle."""

    def _build(self, taken: int) -> list[int]:
        """The time, the way down from `taken` channels and the middle, by the configuration; the widths of what is kept
        for the way up."""
        c = self.config
        time, width = 4 * c.model_channels, c.channels[0]
        self.time_embed = nn.Sequential(nn.Linear(c.model_channels, time), nn.SiLU(), nn.Linear(time, time))
        blocks, kept = [Stage([nn.Conv2d(taken, width, 3, padding=1)])], [width]
        for level, (wide, attends) in enumerate(zip(c.channels, c.attention, strict=True)):
            for _ in range(c.layers):
                blocks.append(Stage([self._block(width, wide), *([self._attention(wide)] if attends else [])]))
                width = wide
                kept.append(width)
            if level < len(c.channels) - 1:
                updown = c.resample == "updown"
                blocks.append(
                    Stage([self._block(width, width, halved) if updown else Down(width, c.resample == "conv")])
                )
                kept.append(width)
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = Stage([self._block(width, width), self._attention(width), self._block(width, width)])
        return kept

    def _block(self, inside: int, outside: int, resample: Resample | None = None) -> Block:
        return Block(inside, outside, 4 * self.config.model_channels, self.config.scale_shift, resample)

    def _attention(self, width: int, heads: int | None = None) -> Attention:
        c = self.config
        count = width // c.num_head_channels if c.num_head_channels else heads or c.num_heads
        return Attention(width, count, c.new_order)

    @property
    def conv_in(self) -> nn.Module:
        return self.input_blocks[0][0]

    @property
    def multiple(self) -> int:
        """The sides of x are divisible by this."""
        return 2 ** (len(self.config.channels) - 1)


class GuidedUNet(Guided):
    """(x (B,in,H,W), t (B,)) -> (B,out,H,W): UNetModel of guided-diffusion.

    model_channels: width of the time's sinusoids. channels: width of each scale, finest first. layers: residual blocks
    a scale. attention: which scales have it; the middle has always. num_heads, or num_head_channels; on the way up
    num_heads_upsample. low_res: a second picture (B,in,h,w) of any size is given beside x, as to the upsamplers.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        model_channels: int = 32,
        channels: tuple[int, ...] = (32, 64),
        layers: int = 1,
        attention: tuple[bool, ...] = (False, True),
        num_heads: int | None = 1,
        num_head_channels: int | None = None,
        num_heads_upsample: int | None = None,
        new_order: bool = False,
        scale_shift: bool = True,
        resample: str = "updown",
        num_class_embeds: int | None = None,
        low_res: bool = False,
        sample_size: int | None = None,
    ) -> None:
        super().__init__()
        kept = self._build(in_channels * (2 if low_res else 1))
        self.label_emb = nn.Embedding(num_class_embeds, 4 * model_channels) if num_class_embeds else None
        width, blocks = kept[-1], []
        for level in reversed(range(len(channels))):
            wide = channels[level]
            for i in range(layers + 1):
                stage = [self._block(width + kept.pop(), wide)]
                width = wide
                if attention[level]:
                    stage.append(self._attention(wide, num_heads_upsample))
                if level and i == layers:
                    up = resample == "updown"
                    stage.append(self._block(wide, wide, doubled) if up else Up(wide, resample == "conv"))
                blocks.append(Stage(stage))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(Norm(width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    @property
    def conv_out(self) -> nn.Module:
        return self.out[-1]

    def forward(
        self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, low_res: Tensor | None = None
    ) -> Tensor:
        if (low_res is None) == self.config.low_res:
            raise InputError("an upsampler is given low_res, the small picture, and no other network is")
        if (class_labels is None) != (self.label_emb is None):
            raise InputError("a network with classes is given class_labels, and no other network is")
        if low_res is not None:
            x = torch.cat([x, F.interpolate(low_res, x.shape[-2:], mode="bilinear")], 1)
        emb = self.time_embed(sinusoids(t, self.config.model_channels))
        if class_labels is not None:
            emb = emb + self.label_emb(class_labels)
        h, kept = x, []
        for stage in self.input_blocks:
            h = stage(h, emb)
            kept.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, kept.pop()], 1), emb)
        return self.out(h)


class AttentionPool(nn.Module):
    """(B,C,H,W) -> (B,out): what the mean attends to (Radford et al. 2021)."""

    def __init__(self, side: int, width: int, head_channels: int, out: int) -> None:
        super().__init__()
        self.side, self.heads = side, width // head_channels
        self.positional_embedding = nn.Parameter(torch.randn(width, side**2 + 1) / width**0.5)
        self.qkv_proj, self.c_proj = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.side, self.side):
            seen, wanted = (f"{a} x {b}" for a, b in (x.shape[:-3:-1], (self.side, self.side)))
            raise InputError(
                f"the classifier pools {wanted} places, and these are {seen}: give it pictures of its size"
            )
        x = x.flatten(2)
        x = torch.cat([x.mean(2, keepdim=True), x], 2) + self.positional_embedding.to(x.dtype)  # (B,C,HW+1)
        return self.c_proj(attend(self.qkv_proj(x), self.heads, new_order=True))[..., 0]


class GuidedEncoder(Guided):
    """(x (B,in,H,W), t (B,)) -> logits (B,classes): EncoderUNetModel of guided-diffusion, its noisy classifier.

    pool: adaptive, attention (for pictures of `sample_size` alone), spatial or spatial_v2. Otherwise as GuidedUNet."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1000,
        model_channels: int = 32,
        channels: tuple[int, ...] = (32, 64),
        layers: int = 1,
        attention: tuple[bool, ...] = (False, True),
        num_heads: int | None = 1,
        num_head_channels: int | None = None,
        new_order: bool = False,
        scale_shift: bool = True,
        resample: str = "updown",
        pool: str = "attention",
        sample_size: int | None = None,
    ) -> None:
        super().__init__()
        kept = self._build(in_channels)
        width, features = kept[-1], sum(kept) + kept[-1]
        if pool == "attention":
            last = AttentionPool(sample_size // 2 ** (len(channels) - 1), width, num_head_channels, classes)
            self.out = nn.Sequential(Norm(width), nn.SiLU(), last)
        elif pool == "adaptive":
            last = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, classes, 1), nn.Flatten()]
            self.out = nn.Sequential(Norm(width), nn.SiLU(), *last)
        elif pool == "spatial":
            self.out = nn.Sequential(nn.Linear(features, 2048), nn.ReLU(), nn.Linear(2048, classes))
        else:
            self.out = nn.Sequential(nn.Linear(features, 2048), Norm(2048), nn.SiLU(), nn.Linear(2048, classes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = self.time_embed(sinusoids(t, self.config.model_channels))
        means = []
        for stage in [*self.input_blocks, self.middle_block]:
            x = stage(x, emb)
            means.append(x.float().mean((2, 3)))
        return self.out(torch.cat(means, 1) if self.config.pool.startswith("spatial") else x)
