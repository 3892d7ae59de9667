"""Make the pictures of the README and the guides with the code as it is: python benchmarks/gallery.py"""

from pathlib import Path

from PIL import Image

import restore

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


def main():
    PICTURES.mkdir(exist_ok=True)
    damaged = Image.open(SAMPLES / "kitten-scratched.png").convert("RGB")
    restored = restore.inpaint(damaged, SAMPLES / "kitten-mask.png")
    side_by_side([damaged, restored]).save(PICTURES / "kitten.jpg", quality=90)


if __name__ == "__main__":
    main()
