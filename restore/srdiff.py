"""The networks of SRDiff (Li et al. 2022), with the names of its tensors: an encoder of small pictures, and a U-Net."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from restore.errors import InputError
from restore.unet import UNetOutput, eased


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


class DenseBlock(nn.Module):
    """Five convolutions, each of all that came before it (Wang et al. 2018, ESRGAN, figure 4)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for i in range(5):
            outside = growth if i < 4 else width
            self.add_module(f"conv{i + 1}", nn.Conv2d(width + i * growth, outside, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        *convs, last = self.children()
        seen = x
        for conv in convs:
            seen = torch.cat([seen, leaky(conv(seen))], 1)
        return x + 0.2 * last(seen)


class RRDB(nn.Module):
    """Three dense blocks, their residual scaled by 0.2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (DenseBlock(width, width // 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))


class Encoder(nn.Module):
    """RRDBNet, which enlarges by itself: its upsampled picture is what it is pretrained on."""

    def __init__(self, channels: int, width: int, blocks: int, scale: int) -> None:
        super().__init__()

        def conv(inside: int, outside: int) -> nn.Conv2d:
            return nn.Conv2d(inside, outside, 3, padding=1)

        self.doublings, self.gradient_checkpointing = scale.bit_length() - 1, False
        self.conv_first = conv(channels, width)
        self.RRDB_trunk = nn.ModuleList(RRDB(width) for _ in range(blocks))
        self.trunk_conv, self.HRconv, self.conv_last = conv(width, width), conv(width, width), conv(width, channels)
        for i in range(self.doublings):
            self.add_module(f"upconv{i + 1}", conv(width, width))

    def features(self, low_res: Tensor) -> list[Tensor]:
        """(B,C,h,w) in [-1, 1] -> what each block gives, and the whole trunk: (B,width,h,w) each."""
        x = first = self.conv_first((low_res + 1) / 2)
        found = []
        for block in self.RRDB_trunk:
            x = eased(self, block, x)
            found.append(x)
        return [*found, first + self.trunk_conv(x)]

    def forward(self, low_res: Tensor) -> Tensor:
        """(B,C,h,w) in [-1, 1] -> (B,C,H,W), not clamped."""
        x = self.features(low_res)[-1]
        for i in range(self.doublings):
            x = leaky(self.get_submodule(f"upconv{i + 1}")(F.interpolate(x, scale_factor=2, mode="nearest")))
        return 2 * self.conv_last(leaky(self.HRconv(x))) - 1


class Block(nn.Module):
    """(B,in,H,W) -> (B,out,H,W): convolution, norm (where there are groups), mish."""

    def __init__(self, inside: int, outside: int, groups: int) -> None:
        super().__init__()
        norm = [nn.GroupNorm(groups, outside)] if groups else []
        self.block = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(inside, outside, 3), *norm, nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ResBlock(nn.Module):
    def __init__(self, inside: int, outside: int, time: int, groups: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time, outside))
        self.block1, self.block2 = Block(inside, outside, groups), Block(outside, outside, groups)
        self.res_conv = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.block2(self.block1(x) + self.mlp(emb)[..., None, None]) + self.res_conv(x)


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.ConvTranspose2d(width, width, 4, stride=2, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def sinusoids(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B,width): sines, then cosines, of frequencies from 1 to 1/10000, both included."""
    half = width // 2
    rates = torch.exp(-math.log(1e4) / (half - 1) * torch.arange(half, dtype=t.dtype, device=t.device))
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class Noise(nn.Module):
    """The U-Net: (x (B,in,H,W), t (B,), features (B,F,H/scale,W/scale)) -> (B,out,H,W).

    The finest scale has no blocks on the way up, and what it kept is not used."""

    def __init__(
        self, inside: int, outside: int, width: int, mults: tuple[int, ...], features: int, scale: int, groups: int
    ) -> None:
        super().__init__()
        self.width, self.gradient_checkpointing = width, False
        widths = [width * mult for mult in mults]

        def block(inside: int, outside: int) -> ResBlock:
            return ResBlock(inside, outside, width, groups)

        self.cond_proj = nn.ConvTranspose2d(features, width, 2 * scale, stride=scale, padding=scale // 2)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        downs, ups = [], []
        for i, (fine, coarse) in enumerate(pairwise([inside, *widths])):
            last = Down(coarse) if i < len(widths) - 1 else nn.Identity()
            downs.append(nn.ModuleList([block(fine, coarse), block(coarse, coarse), last]))
        for fine, coarse in reversed(list(pairwise(widths))):
            ups.append(nn.ModuleList([block(2 * coarse, fine), block(fine, fine), Up(fine)]))
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(ups)
        self.mid_block1, self.mid_block2 = block(widths[-1], widths[-1]), block(widths[-1], widths[-1])
        self.final_conv = nn.Sequential(Block(widths[0], width, groups), nn.Conv2d(width, outside, 1))

    def forward(self, x: Tensor, t: Tensor, features: Tensor) -> Tensor:
        emb = self.mlp(sinusoids(t, self.width).to(self.mlp[0].weight.dtype))  # (B,width)
        kept = []
        for i, (first, second, down) in enumerate(self.downs):
            x = eased(self, second, eased(self, first, x, emb), emb)
            if i == 0:
                x = x + self.cond_proj(features)
            kept.append(x)
            x = down(x)
        x = eased(self, self.mid_block2, eased(self, self.mid_block1, x, emb), emb)
        for first, second, up in self.ups:
            x = up(eased(self, second, eased(self, first, torch.cat([x, kept.pop()], 1), emb), emb))
        return self.final_conv(x)


class SRDiff(ModelMixin, ConfigMixin):
    """(x (B,in,H,W), t (B,), low_res (B,in,H/scale,W/scale) in [-1, 1]) -> the noise in x, (B,out,H,W).

    channels, dim_mults: the width of each scale of the U-Net, finest first, is their product; dim_mults begin with 1.
    rrdb_blocks, rrdb_features: depth and width of the encoder. scale: 2, 4 or 8. groups: of the U-Net's norms; 0: it
    has none. The encoder's own picture is clamped to [-1, 1] in evaluation alone, so that gradients flow in training.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: int = 64,
        dim_mults: tuple[int, ...] = (1, 2, 2, 4),
        rrdb_blocks: int = 8,
        rrdb_features: int = 32,
        scale: int = 4,
        groups: int = 0,
        sample_size: int | None = None,
    ) -> None:
        super().__init__()
        if scale not in (2, 4, 8):
            raise InputError(f"SRDiff enlarges 2, 4 or 8 times, not {scale}")
        if rrdb_blocks < 2 or rrdb_features % 2 or channels % 2 or channels < 4 or dim_mults[0] != 1:
            raise InputError(
                "SRDiff needs rrdb_blocks >= 2, even channels >= 4, even rrdb_features and dim_mults from 1, not "
                f"{rrdb_blocks}, {channels}, {rrdb_features} and {','.join(map(str, dim_mults))}"
            )
        if groups and channels % groups:
            raise InputError(f"groups = {groups} does not divide {channels}, the width of a scale")
        self.rrdb = Encoder(in_channels, rrdb_features, rrdb_blocks, scale)
        told = (rrdb_blocks + 1) // 3 * rrdb_features
        self.unet = Noise(in_channels, out_channels, channels, tuple(dim_mults), told, scale, groups)

    @property
    def conv_in(self) -> nn.Module:
        return self.unet.downs[0][0].block1.block[1]

    @property
    def conv_out(self) -> nn.Module:
        return self.unet.final_conv[-1]

    @property
    def multiple(self) -> int:
        """The sides of x are divisible by this."""
        return max(self.config.scale, 2 ** (len(self.config.dim_mults) - 1))

    def features(self, low_res: Tensor) -> Tensor:
        """What the U-Net is told of a picture (B,in,h,w) in [-1, 1]: (B,F,h,w). One call serves a whole chain."""
        return torch.cat(self.rrdb.features(self._small(low_res))[2::3], 1)

    def upscaled(self, low_res: Tensor) -> Tensor:
        """The encoder's own enlargement of (B,in,h,w): (B,in,H,W) in [-1, 1]; beyond that in training."""
        picture = self.rrdb(self._small(low_res))
        return picture if self.training else picture.clamp(-1, 1)

    def _small(self, low_res: Tensor) -> Tensor:
        if low_res.ndim != 4 or low_res.shape[1] != self.config.in_channels:
            raise InputError(f"low_res is (B,{self.config.in_channels},h,w), not {tuple(low_res.shape)}")
        return low_res

    def forward(
        self,
        x: Tensor | None = None,
        t: Tensor | float | None = None,
        low_res: Tensor | None = None,
        features: Tensor | None = None,
        pretrain: bool = False,
        return_dict: bool = True,
    ) -> UNetOutput | tuple[Tensor] | Tensor:
        """features: `features(low_res)`, in place of low_res. pretrain: take low_res alone, and return `upscaled`."""
        if pretrain:
            if low_res is None or not (x is None and t is None and features is None):
                raise InputError("pretraining of the encoder takes low_res, the small picture, and nothing else")
            return self.upscaled(low_res)
        if x is None or t is None:
            raise InputError("SRDiff takes x, the noisy picture, and t, its time")
        if (low_res is None) == (features is None):
            raise InputError("SRDiff is told low_res, the small picture, or its features, and not both")
        self._check(x, low_res if features is None else features)
        if features is None:
            features = self.features(low_res)
        t = torch.as_tensor(t, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        out = self.unet(x, t.reshape(-1).expand(len(x)), features)
        return UNetOutput(sample=out) if return_dict else (out,)

    def _check(self, x: Tensor, told: Tensor) -> None:
        c = self.config
        if x.ndim != 4 or x.shape[1] != c.in_channels:
            raise InputError(f"this SRDiff network takes (B,{c.in_channels},H,W), not {tuple(x.shape)}")
        height, width = x.shape[-2:]
        least = 2 ** len(c.dim_mults)  # reflection needs two pixels on the coarsest scale
        if height % self.multiple or width % self.multiple or min(height, width) < least:
            raise InputError(
                f"this SRDiff network takes sides divisible by {self.multiple}, from {least} on, not {height} x {width}"
            )
        wanted = (height // c.scale, width // c.scale)
        if tuple(told.shape[-2:]) != wanted:
            raise InputError(
                f"for x of {height} x {width} the small picture is {wanted[0]} x {wanted[1]}, "
                f"not {told.shape[-2]} x {told.shape[-1]}"
            )
