"""How close two pictures are: PSNR, SSIM and LPIPS, by the definitions that the literature quotes."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from restore import images
from restore.errors import InputError
from restore.picture import Picture, one_line, shape_of

WINDOW = 11  # pixels: the side of SSIM's Gaussian window, of deviation 1.5


def luma_y(rgb: Tensor) -> Tensor:
    """(B,3,H,W) in [0, 1] -> (B,1,H,W): MATLAB's Y' (rgb2ycbcr), from 16/255 to 235/255, not rounded.

    Papers on super-resolution quote PSNR and SSIM of this one. It is the Rec. 601 luma of `restore.images.luma`, scaled
    by 219/255: PSNR of it is 1.32 dB above that of the luma over the full range."""
    r, g, b = rgb.split(1, dim=1)
    return (65.481 * r + 128.553 * g + 24.966 * b + 16) / 255


def psnr(a: Tensor, b: Tensor, *, crop: int = 0, y_only: bool = False) -> Tensor:
    """-10 log10 of the mean squared error over pixels and channels, in dB; infinite for equal pictures.

    a, b: (B,3,H,W) floats in [0, 1]. crop: pixels left out on each side. y_only: compare `luma_y`. Gives (B,) float64.
    Raises InputError."""
    a, b = _pair(a, b, crop, y_only)
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor, *, crop: int = 0, y_only: bool = False) -> Tensor:
    """Structural similarity, channel by channel and averaged (Wang et al. 2004, eq. 13: K1 = 0.01, K2 = 0.03).

    The mean is over the Gaussian windows, 11 x 11 of deviation 1.5, that lie inside the picture, as in the authors'
    code and in skimage's structural_similarity(gaussian_weights=True, use_sample_covariance=False). Arguments and
    answer as of `psnr`. InputError for pictures smaller than a window."""
    a, b = _pair(a, b, crop, y_only)
    if min(a.shape[2:]) < WINDOW:
        raise InputError(f"SSIM needs at least {WINDOW} x {WINDOW} pixels, and there are {a.shape[3]} x {a.shape[2]}")
    channels = zip(a.flatten(0, 1).cpu().numpy(), b.flatten(0, 1).cpu().numpy(), strict=True)
    means = [_ssim_map(x, y).mean() for x, y in channels]
    return torch.tensor(means, dtype=torch.float64).reshape(a.shape[:2]).mean(1)


def _ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # (H,W) float64 -> (H-10,W-10); kornia's equals it in float64, at seven times the time, and not in float32
    def mean(values: np.ndarray) -> np.ndarray:
        inside = slice(WINDOW // 2, -(WINDOW // 2))
        return cv2.GaussianBlur(values, (WINDOW, WINDOW), 1.5)[inside, inside]

    c1, c2 = 0.01**2, 0.03**2
    mx, my = mean(x), mean(y)
    covariance, vx, vy = mean(x * y) - mx * my, mean(x * x) - mx * mx, mean(y * y) - my * my
    return (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))


def _pair(a: Tensor, b: Tensor, crop: int, y_only: bool) -> tuple[Tensor, Tensor]:  # (B,3 or 1,h,w) float64
    for x in (a, b):
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise InputError(f"expected floats of shape (B,3,H,W) in [0, 1], got {shape_of(x)} of {x.dtype}")
    if a.shape != b.shape:
        raise InputError(f"cannot compare {shape_of(a)} with {shape_of(b)}: bring them to one size first")
    h, w = a.shape[2] - 2 * crop, a.shape[3] - 2 * crop
    if crop < 0 or min(h, w) < 1:
        raise InputError(f"cannot crop {crop} pixels on each side of {a.shape[3]} x {a.shape[2]}: leave some inside")
    a, b = (x[..., crop : crop + h, crop : crop + w].double() for x in (a, b))
    return (luma_y(a), luma_y(b)) if y_only else (a, b)


# ---------------------------------------------------------------- LPIPS


class _Net(NamedTuple):
    """The features of a torchvision network, in stages; LPIPS compares what comes out of each."""

    stages: tuple[tuple[tuple[int, int, int, int], ...], ...]  # convolutions: channels, kernel, stride, padding
    pools: tuple[int, ...]  # window of the maximum before each stage, at stride 2; 0: none
    least: int  # side of the smallest picture, in pixels


def _vgg(*counts: tuple[int, int]) -> tuple[tuple[tuple[int, int, int, int], ...], ...]:
    return tuple(((channels, 3, 1, 1),) * count for channels, count in counts)


NETS = {
    "AlexNet": _Net(
        (((64, 11, 4, 2),), ((192, 5, 1, 2),), ((384, 3, 1, 1),), ((256, 3, 1, 1),), ((256, 3, 1, 1),)),
        pools=(0, 3, 3, 0, 0),
        least=31,
    ),
    "VGG16": _Net(_vgg((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), pools=(0, 2, 2, 2, 2), least=16),
}


class LPIPS(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, eq. 1) of AlexNet's or VGG16's features; 0 for equal pictures.

    A call takes a, b (B,3,H,W) in [0, 1] and crop, and gives (B,) float32; it scales its input as version 0.1 of the
    authors' code does. No weights are bundled: see `from_files`. Raises InputError for pictures that are too small."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.net = name, NETS[name]
        layers, channels, self.taps = [], 3, []
        for stage, pool in zip(self.net.stages, self.net.pools, strict=True):
            layers += [nn.MaxPool2d(pool, 2)] if pool else []
            for out, kernel, stride, padding in stage:
                layers += [nn.Conv2d(channels, out, kernel, stride, padding), nn.ReLU(inplace=True)]
                channels = out
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)  # numbered as by torchvision
        self.weights = nn.ParameterList(torch.zeros(1, stage[-1][0], 1, 1) for stage in self.net.stages)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_files(cls, backbone: str | Path, linear: str | Path) -> Self:
        """With the weights of two files, .pth or .safetensors.

        backbone: AlexNet or VGG16 as torchvision saves them (alexnet-owt-7be5be79.pth, vgg16-397923af.pth; the
        classifier is not needed). linear: lpips/weights/v0.1/alex.pth or vgg.pth of the authors' repository. Raises
        InputError for files that cannot be read or do not hold these."""
        body, heads = _read_weights(backbone), _read_weights(linear)
        first = body.get("features.0.weight")
        model = cls("AlexNet" if first is not None and first.shape[-1:] == (11,) else "VGG16")
        needed = {name: value for name, value in model.state_dict().items() if name.startswith("features")}
        kind = "AlexNet or VGG16" if first is None else model.name
        _fill(needed, body, f"{backbone} does not hold the features of {kind} as torchvision names them")
        needed = {f"lin{k}.model.1.weight": weight for k, weight in enumerate(model.weights)}
        _fill(needed, heads, f"{linear} does not hold the linear layers of LPIPS v0.1 for {model.name}")
        return model

    def forward(self, a: Tensor, b: Tensor, *, crop: int = 0) -> Tensor:
        a, b = _pair(a, b, crop, y_only=False)
        least = self.net.least
        if min(a.shape[2:]) < least:
            shown = f"LPIPS of {self.name} needs at least {least} x {least} pixels"
            raise InputError(f"{shown}, and there are {a.shape[3]} x {a.shape[2]}")
        x = (torch.cat([a, b]).to(self.shift) * 2 - 1 - self.shift) / self.scale  # (2B,3,H,W)
        total, weights = torch.zeros(len(a)).to(x), iter(self.weights)
        for k, layer in enumerate(self.features):
            x = layer(x)  # (2B,C,h,w)
            if k in self.taps:
                one, other = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)).chunk(2)
                total = total + ((one - other).square() * next(weights)).sum(1).mean((1, 2))
        return total


def _read_weights(path: str | Path) -> dict[str, Tensor]:
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or one_line(e)}") from e
    except pickle.UnpicklingError as e:  # its message tells how to run whatever the file says
        raise InputError(f"{path} is damaged, or holds more than weights: give a state dict, or .safetensors") from e
    except Exception as e:  # torch and safetensors each raise their own
        raise InputError(f"{path} is not a file of weights, .pth or .safetensors ({one_line(e)[:80]})") from e
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds something else than named tensors: give a state dict, .pth or .safetensors")
    return found


def _fill(needed: dict[str, Tensor], found: dict[str, Tensor], complaint: str) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{complaint}: missing {', '.join(missing[:3])}{more}")
    for name, value in needed.items():
        if found[name].shape != value.shape:
            raise InputError(f"{complaint}: {name} is {shape_of(found[name])}, not {shape_of(value)}")
        value.copy_(found[name])


# ---------------------------------------------------------------- pictures


class Score(NamedTuple):
    """How close two pictures are; each (B,)."""

    psnr: Tensor  # dB
    ssim: Tensor
    lpips: Tensor | None = None


def score(a: Any, b: Any, *, crop: int = 0, y_only: bool = False, lpips: LPIPS | None = None) -> Score:
    """PSNR, SSIM and, with its weights, LPIPS of two pictures of any kind that `restore.images.read` takes.

    Pictures of 16 bits are compared at 16 bits. Transparency is left out, with a warning where the two differ in it.
    LPIPS is of the colours, whatever y_only says. Raises InputError where the sizes differ."""
    first, other = images.read(a), images.read(b)
    if first.rgb.shape != other.rgb.shape:
        counts = [f" in {len(p.rgb)} pictures" if len(first.rgb) != len(other.rgb) else "" for p in (first, other)]
        sizes = [f"{p.name} is {p.rgb.shape[3]} x {p.rgb.shape[2]}" for p in (first, other)]
        both = ", ".join(size + count for size, count in zip(sizes, counts, strict=True))
        raise InputError(f"{both}: bring them to one size first")
    if not _same_alpha(first, other):
        warnings.warn(f"{first.name} and {other.name} differ in transparency: it is left out", stacklevel=2)
    of = {"crop": crop, "y_only": y_only}
    try:
        distance = None if lpips is None else lpips(first.rgb, other.rgb, crop=crop).cpu()
        return Score(psnr(first.rgb, other.rgb, **of), ssim(first.rgb, other.rgb, **of), distance)
    except InputError as e:  # too small, or cropped too much
        raise InputError(f"{first.name}: {e}") from None


def _same_alpha(a: Picture, b: Picture) -> bool:
    first, other = (torch.ones(()) if p.alpha is None else p.alpha for p in (a, b))
    return bool(((first - other).abs() < 1 / 510).all())  # to within the rounding of 8 bits
