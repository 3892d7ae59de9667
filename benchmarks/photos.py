"""Quality on photographs: every task of restore beside the classical methods for it, in one Markdown table.

python benchmarks/photos.py PICTURE_FOLDER [--size N] [--limit N] [--tasks x4 deblur ...] [--methods dpir ...]

Pictures are damaged once, with 8 bits as a file has them, and given to all methods of the task alike. Where a classical
method has a setting, several are tried and the best on average is shown; restore's run with their defaults.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import classical
import cv2
import masks
import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity

import restore
from restore import images, metrics, tasks
from restore.degrade import degrade
from restore.kernels import read_kernel

NOTES = """
Means over {pictures}.
What is given has 8 bits: noise is clipped and rounded. PSNR and SSIM are of the colours: of x2 and x4 (bicubic,
antialiased) without a border of 2 and 4 pixels, of inpainting inside the holes alone. Deblurring: noise of sigma 2, and
the truth is the part that the blur of the whole picture reaches. Denoising: all are told sigma, except where it is
estimated; BM3D "unclipped" has restore's correction of noise that was cut off at black and white. What a classical
method names after a comma is the best of several settings for this task and these pictures; restore's methods run with
their defaults. Bold: the best PSNR of a task. Seconds and network calls are for a picture; calls of inpainting see the
surroundings of holes alone.

{machine}
"""
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")


class Case(NamedTuple):
    """A damaged picture."""

    truth: np.ndarray  # (H,W,3) uint8
    given: np.ndarray  # (h,w,3) uint8
    hole: np.ndarray | None = None  # (H,W) bool


class Task(NamedTuple):
    """What is done to a picture, and who undoes it."""

    damage: Callable[[np.ndarray, np.random.Generator], Case]
    classical: dict[str, dict[str, Callable]]
    ours: dict[str, tasks.Options]
    crop: int = 0  # pixels of the border that are not scored


class Row(NamedTuple):
    """A line of the table; the means over the pictures."""

    task: str
    method: str
    psnr: float  # dB
    ssim: float
    seconds: float
    calls: float
    each: list[list[float]]  # (PSNR, SSIM, seconds, calls) of each picture


# ---------------------------------------------------------------- the tasks


def ours(options, **given):
    """Every method of a task with its defaults: {name: request}."""
    chosen = options(**given).chosen
    named = {name: f"restore {name}{' (default)' * (name == chosen)}" for name in options.METHODS}
    return {label: options(method=name, **given) for name, label in named.items()}


def inpainting(kind):
    def damage(image, rng):
        hole = masks.KINDS[kind](*image.shape[:2], rng)
        return Case(image, degrade(image, mask=hole), hole)

    mean = {"restore ddrm, mean of 4": tasks.Inpaint(method="ddrm", samples=4)}
    return Task(damage, classical.fillers(), ours(tasks.Inpaint) | mean)


def denoising(sigma):
    def damage(image, rng):
        return Case(image, degrade(image, noise_std=sigma / 255, seed=int(rng.integers(2**31))))

    blind = {f"restore {tasks.Denoise().chosen}, sigma estimated": tasks.Denoise()}
    return Task(damage, classical.denoisers(sigma), ours(tasks.Denoise, noise_std=sigma / 255) | blind)


def enlarging(scale):
    def damage(image, rng):
        height, width = (side // scale * scale for side in image.shape[:2])
        return Case(image[:height, :width], degrade(image, scale=scale))

    return Task(damage, classical.enlargers(scale), ours(tasks.Upscale, scale=scale), crop=scale)


def deblurring(kernel, sigma=2):
    weights = read_kernel(kernel).numpy()

    def damage(image, rng):
        """The truth is the inner part, which the blur of the whole picture reaches without knowing what lies beyond."""
        inner = tuple(slice(side // 2, -(side // 2)) for side in weights.shape)
        blurred = degrade(image, kernel=kernel, noise_std=sigma / 255, seed=int(rng.integers(2**31)))
        return Case(*(np.ascontiguousarray(x[inner]) for x in (image, blurred)))

    return Task(damage, classical.deblurrers(weights), ours(tasks.Deblur, kernel=kernel))


def colorizing():
    def damage(image, rng):
        return Case(image, degrade(image, gray=True))

    return Task(damage, {"gray": {"": lambda given: given}}, ours(tasks.Colorize))


TASKS = {  # the place in here seeds the damage: new ones go to the end
    **{kind: inpainting(kind) for kind in masks.KINDS},
    **{f"denoise {sigma}": denoising(sigma) for sigma in (15, 25, 50)},
    **{f"x{scale}": enlarging(scale) for scale in (2, 4)},
    **{f"deblur {kernel}": deblurring(kernel) for kernel in ("gaussian:2", "motion:15,30", "disk:4")},
    "colorize": colorizing(),
}


def damage(task, image, rng):
    """A picture (H,W,3) of uint8, damaged as the task wants it."""
    return TASKS[task].damage(image, rng)


def restored(request, prior, case):
    """(the answer of restore, or the mean of several; the network calls that it took)."""
    mask = [] if case.hole is None else [case.hole]
    result = request.run(images.read(case.given), *mask, prior)
    return np.mean(result.images, axis=0).round().astype(np.uint8), result.info.calls


def unlearned(method, case):
    """(the answer of a classical method, no network calls)."""
    return method(*(x for x in (case.given, case.hole) if x is not None)), 0


def methods(task, prior, qualities=()):
    """{name: {setting: function Case -> (answer, network calls)}}, of the classical methods and ours; the default one
    at other qualities too."""
    found = {
        name: {setting: partial(unlearned, method) for setting, method in variants.items()}
        for name, variants in TASKS[task].classical.items()
    }
    requests, usual = dict(TASKS[task].ours), " (default)"
    for name in [name for name in requests if usual in name]:
        requests |= {name.replace(usual, f", {q}"): replace(requests[name], quality=q) for q in qualities}
    return found | {name: {"": partial(restored, request, prior)} for name, request in requests.items()}


# ---------------------------------------------------------------- the measuring


def score(case, answer, crop=0):
    """(PSNR, SSIM) of the colours; of an inpainting, over the pixels of the holes alone."""
    if case.hole is None:
        return [float(value) for value in metrics.score(case.truth, answer, crop=crop)[:2]]
    error = (case.truth.astype(float) - answer)[case.hole]
    _, ssim = structural_similarity(case.truth, answer, channel_axis=-1, full=True)
    return [10 * np.log10(255**2 / np.mean(error**2)), ssim[case.hole].mean()]


def measure(task, name, variants, cases):
    """The Row of a method, with the setting that has the best mean PSNR."""
    rows = []
    for setting, run in variants.items():
        label, each = f"{name}, {setting}" if setting else name, []
        for case in cases:
            print(f"\r\033[K{task}: {label}, {len(each) + 1} of {len(cases)}", end="", file=sys.stderr, flush=True)
            begin = time.perf_counter()
            answer, calls = run(case)
            seconds = time.perf_counter() - begin
            each.append([*score(case, answer, TASKS[task].crop), seconds, calls])
        rows.append(Row(task, label, *np.mean(each, axis=0).tolist(), each))
        print(f"\r\033[K{task}: {label}: {rows[-1].psnr:.2f} dB, {rows[-1].seconds:.2f} s", file=sys.stderr)
    return max(rows, key=lambda row: row.psnr)


def markdown(rows):
    """The lines of a task, its best PSNR in bold."""
    best = f"{max(row.psnr for row in rows):.2f}"
    for task, method, psnr, ssim, seconds, calls, _ in rows:
        shown = f"**{best}**" if f"{psnr:.2f}" == best else f"{psnr:.2f}"
        yield f"| {task} | {method} | {shown} | {ssim:.4f} | {seconds:.2f} | {round(calls, 1):g} |"


def machine(prior):
    """Where the network ran."""
    if prior.device.type == "cuda":
        return torch.cuda.get_device_name(prior.device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor() or platform.machine()])[0]


def centre(image, size):
    """The middle (size,size) of a picture (H,W,3), or all of it at size 0."""
    height, width = (min(side, size or side) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def chosen(names, words, complain):
    """Those of the names that hold one of the words."""
    found = [name for name in names if not words or any(word in name for word in words)]
    return found or complain(f"none of {', '.join(names)} holds {' or '.join(words)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--size", type=int, default=0, help="centre crops of at most this side; 0 = whole pictures")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--tasks", nargs="+", help=f"only those whose name holds one of these: {', '.join(TASKS)}")
    parser.add_argument("--methods", nargs="+", help="only the methods whose name holds one of these")
    parser.add_argument("--quality", nargs="+", default=(), help="the default methods at these too: draft best")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path, help="write the table to this file too, with the numbers of each picture")
    args = parser.parse_args()

    names = chosen(TASKS, args.tasks, parser.error)
    chosen([name for task in names for name in methods(task, None, args.quality)], args.methods, parser.error)
    paths = [path for path in sorted(args.folder.iterdir()) if path.suffix.lower() in SUFFIXES][: args.limit]
    if not paths:
        parser.error(f"no pictures in {args.folder}")
    prior = restore.load_prior(args.prior, device=args.device, dtype=args.dtype)
    pictures = [centre(np.array(Image.open(path).convert("RGB")), args.size) for path in paths]
    restore.denoise(pictures[0], prior=prior, noise_std=0.1)  # the first call of a network costs more than the others
    cv2.setNumThreads(torch.get_num_threads())
    if not classical.BM3D:
        print(classical.INSTALL, file=sys.stderr)
    print("| task | method | PSNR (dB) | SSIM | seconds | network calls |\n| --- | --- | ---: | ---: | ---: | ---: |")
    table = []
    for task in names:
        number = list(TASKS).index(task)
        cases = [damage(task, image, np.random.default_rng((number, i))) for i, image in enumerate(pictures)]
        every = methods(task, prior, args.quality)
        rows = [measure(task, name, every[name], cases) for name in chosen(every, args.methods, lambda _: [])]
        print(*markdown(rows), sep="\n", end="\n" * bool(rows), flush=True)
        table += [row._asdict() for row in rows]
        if args.json:
            facts = {"pictures": [path.name for path in paths], "size": args.size, "machine": machine(prior)}
            args.json.write_text(json.dumps({**facts, "rows": table}, indent=1))
    size = f"centre crops of {args.size} px" if args.size else "whole"
    precision = str(prior.dtype).removeprefix("torch.")
    ran = f"{machine(prior)}, threads: {torch.get_num_threads()}, {precision}, torch {torch.__version__}"
    pictures = f"{len(paths)} pictures of {args.folder.name}, {size}, with the prior {prior.name}"
    print(NOTES.format(pictures=pictures, machine=ran))


if __name__ == "__main__":
    main()
