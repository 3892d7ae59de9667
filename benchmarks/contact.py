"""Good and bad, side by side at twice the size: python benchmarks/contact.py PICTURES OUTPUT.jpg [--sheet good|bad]

Each row is a crop of 128 px of a picture that the prior has not seen: as it was given, by a classical method (the best
of results.md that is at hand), by restore with its defaults, and as it was. What is damaged is a window of 256 px
round the crop, as in photos.py.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from photos import TASKS, damage, restored, unlearned
from PIL import Image, ImageDraw, ImageFont

import restore

SIDE, ZOOM, GAP, LEFT, TOP = 128, 2, 6, 150, 22


class Row(NamedTuple):
    """A crop, and what happens to it."""

    task: str
    picture: str
    corner: tuple[int, int]  # of the crop: row, column
    classical: str  # the method's name in photos.py
    remark: str


SHEETS = {
    "good": [
        Row("denoise 25", "kodim07", (190, 290), "BM3D", "noise 25"),
        Row("denoise 50", "kodim03", (60, 20), "BM3D", "noise 50"),
        Row("x4", "roman-colosseum", (60, 120), "bicubic (cv2)", "x4"),
        Row("deblur motion:15,30", "kodim05", (250, 500), "Richardson-Lucy (skimage)", "motion blur"),
        Row("deblur gaussian:2", "kodim08", (120, 380), "Richardson-Lucy (skimage)", "Gaussian blur"),
        Row("text", "kodim04", (260, 170), "biharmonic (skimage)", "text"),
        Row("scratches", "budgie-branch", (60, 180), "biharmonic (skimage)", "scratches"),
    ],
    "bad": [
        Row("denoise 50", "kitten-on-lawn", (230, 20), "BM3D", "grass turns\nto paint"),
        Row("x4", "kodim08", (300, 560), "bicubic (cv2)", "letters:\nnot read"),
        Row("x4", "kodim04", (220, 190), "bicubic (cv2)", "a face:\nnot known"),
        Row("blocks", "kodim05", (250, 400), "TELEA (cv2)", "wide holes:\nonly smooth"),
        Row("blocks", "kodim01", (130, 200), "TELEA (cv2)", "patterns end"),
        Row("colorize", "the-spices-of-life", (100, 200), "gray", "colours:\nguessed"),
    ],
}


def window(image, corner, size=256):
    """(a window of the picture round the crop, where the crop begins in it)."""
    starts = [
        max(0, min(side - size, begin - (size - SIDE) // 2)) for side, begin in zip(image.shape, corner, strict=False)
    ]
    top, left = starts
    return np.ascontiguousarray(image[top : top + size, left : left + size]), [
        begin - start for begin, start in zip(corner, starts, strict=True)
    ]


def crop(image, corner, truth):
    """The crop, enlarged; a picture smaller than the truth by a whole factor is shown pixel by pixel."""
    factor = truth.shape[0] // image.shape[0]
    image = np.kron(image, np.ones((factor, factor, 1), np.uint8)) if factor > 1 else image
    top, left = corner
    part = image[top : top + SIDE, left : left + SIDE]
    return Image.fromarray(cv2.resize(part, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC))


def tiles(row, folder, prior):
    """Given, classical, restore, truth: four pictures of one row."""
    image = np.array(Image.open(folder / f"{row.picture}.png").convert("RGB"))
    part, corner = window(image, row.corner)
    task = TASKS[row.task]
    case = damage(row.task, part, np.random.default_rng(0))
    border = (part.shape[0] - case.truth.shape[0]) // 2  # deblurring looks at the inner part
    corner = [max(0, min(begin - border, case.truth.shape[0] - SIDE)) for begin in corner]
    name = row.classical if row.classical in task.classical else next(iter(task.classical))
    classical = list(task.classical[name].values())
    answers = [unlearned(method, case)[0] for method in classical]
    best = min(answers, key=lambda answer: np.square(answer.astype(float) - case.truth).mean())
    default = next(request for label, request in task.ours.items() if "(default)" in label)
    found = restored(default, prior, case)[0]
    return [crop(x, corner, case.truth) for x in (case.given, best, found, case.truth)]


def sheet(rows, folder, prior):
    """All rows, with their names."""
    side = SIDE * ZOOM
    out = Image.new("RGB", (LEFT + 4 * (side + GAP), TOP + len(rows) * (side + GAP)), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(15)
    for i, title in enumerate(("given", "classical", "restore", "truth")):
        draw.text((LEFT + i * (side + GAP), 2), title, "black", font)
    for j, row in enumerate(rows):
        print(f"{row.task}: {row.picture}", file=sys.stderr)
        top = TOP + j * (side + GAP)
        words = f"{row.remark}\n\n{row.task}\n{row.picture}\n{row.classical}"
        draw.multiline_text((4, top + 4), words.replace(" (", "\n("), "black", font)
        for i, tile in enumerate(tiles(row, folder, prior)):
            out.paste(tile, (LEFT + i * (side + GAP), top))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--sheet", choices=SHEETS, default="good")
    parser.add_argument("--prior", default="photo")
    args = parser.parse_args()
    sheet(SHEETS[args.sheet], args.folder, restore.load_prior(args.prior)).save(args.output, quality=88)


if __name__ == "__main__":
    main()
