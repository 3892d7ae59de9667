"""Enlarging four times by a conditional prior, beside DDRM and DPIR with an unconditional one, at several budgets.

python benchmarks/conditional.py PICTURE_FOLDER [--conditional photo-x4|FOLDER] [--prior photo] [--size 256] [--limit N]
    [--rows NAME ...] [--sheet OUTPUT.jpg]

With --sheet, crops side by side at twice the size in place of the table.
Sharpness: the root mean square of the differences between neighbouring pixels, of that of the truth. Gap: the root mean
square of what the answer, made smaller again, differs from what was given, of 255. Pictures and scores as in photos.py.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import photos
import torch
from contact import GAP, SIDE, TOP, ZOOM, crop, window
from PIL import Image, ImageDraw, ImageFont

import restore
from restore import images, tasks
from restore.degrade import degrade

ROWS = [  # (name, which prior, options)
    *((f"ddrm, {steps} steps", "prior", {"method": "ddrm", "steps": steps}) for steps in (2, 5, 10, 20)),
    *((f"dpir, {steps} steps", "prior", {"method": "dpir", "steps": steps}) for steps in (2, 6, 12)),
    *(
        (f"{method}, {steps} steps{', consistent' * more}", "conditional",
         {"method": method, "steps": steps, "consistent": more})
        for method, steps in (
            ("ddim", 1), ("ddim", 2), ("ddim", 4), ("ddim", 10), ("dpm++", 10), ("heun", 10), ("ddpm", 20),
        )
        for more in (False, True)
    ),
]  # fmt: skip


def sharpness(picture):
    return np.sqrt(sum(np.square(np.diff(picture.astype(float), axis=axis)).mean() for axis in (0, 1)))


def gap(answer, given):
    again = degrade(answer, scale=answer.shape[0] // given.shape[0]).astype(float)
    return np.sqrt(np.square(again - given).mean())


CROPS = [  # (picture, row and column of a crop)
    ("roman-colosseum", (60, 120)), ("kodim05", (250, 500)), ("budgie-branch", (60, 180)), ("kodim04", (220, 190)),
    ("kodim08", (300, 560)),
]  # fmt: skip


def sheet(folder, priors, task):
    """Given, bicubic, DPIR, the conditional prior's mean and one of its answers, truth."""
    scale = priors["conditional"].condition.scale
    asked = {
        "dpir, 12 calls": ("prior", tasks.Upscale(scale=scale)),
        "1 call": ("conditional", tasks.Upscale(method="ddim", steps=1, consistent=True)),
        "10 calls": ("conditional", tasks.Upscale(method="ddim", steps=10, consistent=True)),
    }
    side, titles = SIDE * ZOOM + GAP, ["given", "bicubic", *asked, "truth"]
    out = Image.new("RGB", (side * len(titles), TOP + side * len(CROPS)), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(15)
    for i, title in enumerate(titles):
        draw.text((i * side, 2), title, "black", font)
    for j, (name, corner) in enumerate(CROPS):
        part, corner = window(np.array(Image.open(folder / f"{name}.png").convert("RGB")), corner)
        case = task.damage(part, None)
        found = [request.run(images.read(case.given), priors[which]).images[0] for which, request in asked.values()]
        for i, picture in enumerate([case.given, bicubic(case.given, scale), *found, case.truth]):
            out.paste(crop(picture, corner, case.truth), (i * side, TOP + j * side))
    return out


def bicubic(given, scale):
    return np.array(Image.fromarray(given).resize((scale * given.shape[1], scale * given.shape[0]), Image.BICUBIC))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--conditional", default="photo-x4")
    parser.add_argument("--prior", default="photo")
    parser.add_argument("--size", type=int, default=256, help="centre crops of at most this side")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--rows", nargs="+", help="only those whose name holds one of these")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sheet", type=Path, help="draw crops side by side into this file")
    args = parser.parse_args()
    paths = [path for path in sorted(args.folder.iterdir()) if path.suffix.lower() in photos.SUFFIXES][: args.limit]
    if not paths:
        parser.error(f"no pictures in {args.folder}")
    priors = {name: restore.load_prior(getattr(args, name), device=args.device) for name in ("prior", "conditional")}
    scale = priors["conditional"].condition.scale
    pictures = [photos.centre(np.array(Image.open(path).convert("RGB")), args.size) for path in paths]
    task = photos.enlarging(scale)
    cases = [task.damage(picture, None) for picture in pictures]
    if args.sheet:
        return sheet(args.folder, priors, task).save(args.sheet, quality=88)
    runs = {"bicubic": lambda given: (bicubic(given, scale), 0)}
    for name, which, options in ROWS:
        request, prior = tasks.Upscale(scale=scale, **options), priors[which]

        def run(given, request=request, prior=prior):
            result = request.run(images.read(given), prior)
            return result.images[0], result.info.calls

        runs[f"{args.conditional if which == 'conditional' else args.prior}: {name}"] = run
    runs[f"{args.prior}: dpir, 12 steps"](cases[0].given)  # the first call of a network costs more than the others
    print("| method | PSNR (dB) | SSIM | sharpness | gap | seconds | calls |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in photos.chosen(runs, args.rows, parser.error):
        found = []
        for case in cases:
            begin = time.perf_counter()
            answer, calls = runs[name](case.given)
            seconds = time.perf_counter() - begin
            psnr, ssim = photos.score(case, answer, scale)
            sharp = sharpness(answer) / sharpness(case.truth)
            found.append([psnr, ssim, sharp, gap(answer, case.given), seconds, calls])
        psnr, ssim, sharp, off, seconds, calls = np.mean(found, axis=0)
        print(f"| {name} | {psnr:.2f} | {ssim:.4f} | {sharp:.2f} | {off:.2f} | {seconds:.2f} | {calls:g} |", flush=True)
    print(f"\nMeans over {len(paths)} pictures, centre crops of {args.size} px, on {photos.machine(priors['prior'])}, "
          f"threads: {torch.get_num_threads()}, {str(priors['prior'].dtype).removeprefix('torch.')}")  # fmt: skip


if __name__ == "__main__":
    main()
