"""What to assume beyond the borders of a blurred photograph: python benchmarks/borders.py PICTURE_FOLDER

Windows of larger blurred pictures, with noise of 2 and 8 bits, are deblurred by DPIR under different assumptions.
Prints PSNR over the whole window, and over what is 16 pixels or more from its border.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import conv2d

import restore
from restore.algorithms import dpir
from restore.kernels import read_kernel
from restore.operators import Composed, Cosine, Fourier, Mask
from restore.regions import mirrored
from restore.tasks.common import walk

EDGE = 16  # pixels that a window has around it, more than any of the kernels reaches


def windows(folder, size, count):
    """(B,3,size+2*EDGE,..) in [0, 1]: the middles of the first pictures."""
    found = []
    for path in sorted(folder.glob("*.png"))[:count]:
        x = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255
        top, left = ((side - size) // 2 - EDGE for side in x.shape[-2:])
        found.append(x[:, top : top + size + 2 * EDGE, left : left + size + 2 * EDGE])
    return torch.stack(found)


def blurred(x, kernel, size):
    """Blur, and keep the window: nothing is made up at its borders."""
    y = conv2d(x, kernel.flip(0, 1).expand(3, 1, *kernel.shape), groups=3)
    top, left = (EDGE - side // 2 for side in kernel.shape)
    return y[..., top : top + size, left : left + size]


def tapered(y, kernel):
    """MATLAB's edgetaper: towards the borders the picture fades into its own circular blur."""

    def ramp(line, n):
        power = torch.fft.irfft(torch.fft.rfft(line, n - 1).abs() ** 2, n - 1)
        return 1 - torch.cat([power, power[:1]]) / power.max()

    inside = ramp(kernel.sum(1), y.shape[-2])[:, None] * ramp(kernel.sum(0), y.shape[-1])
    return inside * y + (1 - inside) * Fourier(kernel, y.shape[-2:]).A(y)


def assumptions(y, kernel):
    """name -> (operator, measurement, first guess, where the window begins)"""
    size = y.shape[-1]
    wide = mirrored(y, EDGE, EDGE, EDGE, EDGE)
    known = torch.zeros(wide.shape[-2:])
    known[EDGE : EDGE + size, EDGE : EDGE + size] = 1
    periodic, large = Fourier(kernel, (size, size)), Fourier(kernel, wide.shape[-2:])
    yield "periodic", (periodic, y, y, 0)
    yield "periodic, edge-tapered", (periodic, tapered(y, kernel), y, 0)
    yield "mirrored by 16 px, periodic", (large, wide, wide, EDGE)
    if torch.allclose(kernel, kernel.flip(0)) and torch.allclose(kernel, kernel.flip(1)):
        yield "mirror symmetric (DCT)", (Cosine(kernel, (size, size)), y, y, 0)
    for tolerance in (0.1, 0.01, 0.001):
        yield f"unknown (CG to {tolerance:g})", (Composed(Mask(known), large, tolerance), known * wide, wide, EDGE)


def psnr(a, b):
    return float((-10 * (a - b).square().mean((1, 2, 3)).log10()).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--limit", type=int, default=4, help="pictures")
    parser.add_argument("--kernels", nargs="+", default=["gaussian:2", "motion:15,30", "disk:4"])
    args = parser.parse_args()
    prior = restore.load_prior(args.prior)
    print("| kernel | beyond the borders | PSNR | 16 px inside | seconds a picture |\n|---|---|---|---|---|")
    for spec in args.kernels:
        kernel, sigma = read_kernel(spec).float(), 2 / 255
        x = windows(args.folder, args.size, args.limit)
        truth, y = x[..., EDGE:-EDGE, EDGE:-EDGE], blurred(x, kernel, args.size)
        y = y + sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
        y = prior.codec.encode((y.clamp(0, 1) * 255).round() / 255)
        levels = walk(prior, 12, 0.4)
        for name, (op, measured, guess, at) in assumptions(y, kernel):
            begin = time.perf_counter()
            found = restore.last(dpir(prior, op, measured, prior.codec.std(sigma), levels, start=guess))
            seconds = (time.perf_counter() - begin) / len(y)
            found = prior.codec.decode(found)[..., at : at + args.size, at : at + args.size]
            inner = [part[..., EDGE:-EDGE, EDGE:-EDGE] for part in (found, truth)]
            print(f"| {spec} | {name} | {psnr(found, truth):.2f} | {psnr(*inner):.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
