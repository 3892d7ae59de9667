"""Inpainting quality inside the holes: restore beside OpenCV's and scikit-image's classical methods.

python benchmarks/inpaint.py PICTURE_FOLDER [--prior photo] [--size 0] [--methods dpir ddrm ...]

Prints, for each kind of hole, PSNR (dB) over the hole's pixels and SSIM averaged over them, the mean over the
pictures, and the seconds a picture takes. Pictures and holes are the same for all methods.
"""

import argparse
import time
from pathlib import Path

import cv2
import masks
import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity
from skimage.restoration import inpaint_biharmonic

import restore


def telea(image, hole):
    return cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)


def navier_stokes(image, hole):
    return cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_NS)


def biharmonic(image, hole):
    filled = inpaint_biharmonic(image / 255.0, hole, channel_axis=-1)
    return (filled.clip(0, 1) * 255).round().astype(np.uint8)


def ours(prior, **options):
    return lambda image, hole: restore.inpaint(image, hole, prior=prior, **options)


def score(truth, answer, hole):
    """(PSNR, SSIM) inside the hole."""
    error = (truth.astype(float) - answer)[hole]
    _, ssim = structural_similarity(truth, answer, channel_axis=-1, full=True)
    return 10 * np.log10(255**2 / np.mean(error**2)), ssim[hole].mean()


def centre(image, size):
    height, width = (min(side, size) if size else side for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--size", type=int, default=0, help="centre crops of at most this side; 0 = whole pictures")
    parser.add_argument("--methods", nargs="+", help="only the methods whose name holds one of these")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    prior = restore.load_prior(args.prior, device=args.device)
    methods = {
        "cv2 TELEA": telea,
        "cv2 NS": navier_stokes,
        "biharmonic (skimage)": biharmonic,
        "restore dpir (default)": ours(prior),
        "restore ddrm": ours(prior, method="ddrm"),
        "restore repaint": ours(prior, method="repaint"),
        "mean of 4 ddrm samples": lambda image, hole: (
            np.mean(restore.inpaint(image, hole, prior=prior, samples=4), axis=0).round().astype(np.uint8)
        ),
    }
    if args.methods:
        methods = {name: run for name, run in methods.items() if any(word in name for word in args.methods)}
    pictures = [centre(np.array(Image.open(p).convert("RGB")), args.size) for p in sorted(args.folder.glob("*.png"))]
    print(f"{len(pictures)} pictures of {args.folder.name}, prior {prior.name}, {prior.device}, {prior.dtype}\n")
    print(f"{'':28}" + "".join(f"{kind:>22}" for kind in masks.KINDS))
    print(f"{'':28}" + "   PSNR   SSIM      s " * len(masks.KINDS))
    for name, method in methods.items():
        cells = []
        for number, kind in enumerate(masks.KINDS.values()):
            found, seconds = [], 0.0
            for i, truth in enumerate(pictures):
                hole = kind(*truth.shape[:2], np.random.default_rng((number, i)))
                damaged = np.where(hole[..., None], 255, truth).astype(np.uint8)
                begin = time.perf_counter()
                answer = method(damaged, hole)
                seconds += time.perf_counter() - begin
                found.append(score(truth, answer, hole))
            psnr, ssim = np.mean(found, axis=0)
            cells.append(f"{psnr:7.2f} {ssim:6.4f} {seconds / len(pictures):6.2f} ")
        print(f"{name:28}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
