"""Latent diffusion: model space is the code of an autoencoder (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from restore.codec import Codec
from restore.errors import InputError, OutOfMemory, out_of_memory
from restore.tiling import blended

WHOLE = 1024  # pixels: pictures up to this side are coded whole, larger ones in tiles
TILES = (512, 256, 128)  # pixels: the sides of tiles to try, in turn, as memory runs out
OVERLAP = 4  # neighbours share this part of a tile: a quarter


class Latents:
    """The codec of a diffusers `AutoencoderKL` or `VQModel`: z = (code - shift) * scale, in cells of `factor` pixels.

    net: in float32, whatever the precision of the prior: these decoders overflow in float16. shift, scale: numbers, or
    (1,C,1,1). KL: the code is the mean of the posterior, without noise. VQ: it is what comes before the quantisation,
    which is a part of decoding, as in `LDMPipeline`. Large pictures are coded in tiles, blended where they overlap;
    when memory runs out the tiles get smaller, and OutOfMemory is raised at the smallest."""

    latent = True

    def __init__(
        self, net: nn.Module, *, factor: int, channels: int, scale: float | Tensor = 1.0, shift: float | Tensor = 0.0
    ) -> None:
        self.net, self.factor, self.channels = net.eval().requires_grad_(False), factor, channels
        self.scale, self.shift = torch.as_tensor(scale), torch.as_tensor(shift)

    @classmethod
    def of(cls, net: nn.Module, scaling_factor: float | None = None) -> Latents:
        """With the numbers of the network's own configuration, or another scaling factor. Raises InputError for one
        that takes no RGB pictures."""
        config = net.config
        if config.in_channels != 3 or config.out_channels != 3:
            raise InputError(f"an autoencoder of {config.in_channels} channels: pictures have 3")
        channels = getattr(config, "vq_embed_dim", None) or config.latent_channels
        scale = torch.tensor(scaling_factor or config.scaling_factor or 1.0)
        shift = torch.tensor(getattr(config, "shift_factor", None) or 0.0)
        mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean and std:  # (code - mean) * scaling_factor / std, in the place of the shift
            shift, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
            scale = scale / std
        factor = 2 ** (len(config.block_out_channels) - 1)
        return cls(net, factor=factor, channels=channels, scale=scale, shift=shift)

    def to(self, device: torch.device) -> None:
        """Move to a device; the precision stays float32."""
        self.net.to(device)
        self.scale, self.shift = self.scale.to(device), self.shift.to(device)

    def agrees(self, other: Codec) -> bool:
        """Whether the two have one latent space in common: the same weights and the same scale."""
        if self is other:
            return True
        if not isinstance(other, Latents) or (self.factor, self.channels) != (other.factor, other.channels):
            return False
        mine, theirs = ({**codec.net.state_dict(), "": codec.scale, " ": codec.shift} for codec in (self, other))
        return mine.keys() == theirs.keys() and all(torch.equal(mine[k].cpu(), theirs[k].cpu()) for k in mine)

    def std(self, noise_std: float) -> float:
        """0 stays 0. InputError for any other: noise of pixels is no noise of latents."""
        if noise_std:
            raise InputError("noise of pixels is not white in the latents of an autoencoder: take a prior of pixels")
        return 0.0

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """(B,3,H,W) in [0, 1], sides divisible by `factor` -> (B,C,H/factor,W/factor)."""

        def code(tile: Tensor) -> Tensor:
            found = self.net.encode(tile * 2 - 1)
            return found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents

        found = self._tiled(code, image.float(), taken=self.factor)
        return (found - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """(B,C,h,w) -> (B,3,h*factor,w*factor) in [0, 1], not clamped."""
        code = x.to(self.scale.device).float() / self.scale + self.shift
        return (self._tiled(lambda tile: self.net.decode(tile).sample, code, given=self.factor) + 1) / 2

    def _tiled(self, ask: Callable[[Tensor], Tensor], x: Tensor, taken: int = 1, given: int = 1) -> Tensor:
        pixels = max(x.shape[-2:]) // taken * self.factor
        smaller = [size for size in TILES if size < pixels]
        for size in [None, *smaller] if pixels <= WHOLE else smaller:
            try:
                with torch.autocast(x.device.type, enabled=False):
                    if size is None:
                        return ask(x)
                    cells = size // self.factor
                    options = {"grid": 1, "taken": taken, "given": given}
                    return blended(lambda tile: [ask(tile)], x, cells, cells // OVERLAP, **options)[0]
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
        raise OutOfMemory("out of memory in the autoencoder of the latents: free some, or change --device")
