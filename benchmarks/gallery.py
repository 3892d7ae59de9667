"""Make the pictures of the README and the guides with the code as it is: python benchmarks/gallery.py"""

from pathlib import Path

from PIL import Image

import restore
from restore.degrade import degrade

ROOT = Path(__file__).parent.parent
SAMPLES, PICTURES = ROOT / "assets/images", ROOT / "docs/images"


def side_by_side(pictures, gap=8):
    width, height = sum(p.width for p in pictures) + gap * (len(pictures) - 1), pictures[0].height
    sheet = Image.new("RGB", (width, height), "white")
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width + gap
    return sheet


def stacked(rows, gap=8):
    sheet = Image.new("RGB", (rows[0].width, sum(p.height for p in rows) + gap * (len(rows) - 1)), "white")
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height + gap
    return sheet


def degraded_and_restored(truth, prior):
    """One row each: noise, a blur and a shrunk picture; what they became; what they were."""
    noisy = degrade(truth, noise_std=25 / 255)
    blurred = degrade(truth, kernel="motion:15,30", noise_std=2 / 255)
    small = degrade(truth, scale=4)
    yield noisy, restore.denoise(noisy, prior=prior)
    yield blurred, restore.deblur(blurred, "motion:15,30", prior=prior)
    yield small.resize(truth.size, Image.Resampling.NEAREST), restore.upscale(small, 4, prior=prior)


def main():
    PICTURES.mkdir(exist_ok=True)
    damaged = Image.open(SAMPLES / "kitten-scratched.png").convert("RGB")
    restored = restore.inpaint(damaged, SAMPLES / "kitten-mask.png")
    side_by_side([damaged, restored]).save(PICTURES / "kitten.jpg", quality=90)
    truth, prior = Image.open(SAMPLES / "colosseum.png").convert("RGB"), restore.load_prior("photo")
    rows = [side_by_side([*pair, truth]) for pair in degraded_and_restored(truth, prior)]
    stacked(rows).save(PICTURES / "tasks.jpg", quality=90)


if __name__ == "__main__":
    main()
