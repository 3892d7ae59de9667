"""Holes of the kinds that people have. Each is a function (height, width, rng) -> bool (H,W), True = hole."""

import cv2
import numpy as np

WORDS = "restore the photograph as it was before the ink and the years came over it "


def text(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Lines of writing across the picture, strokes 3-4 px wide."""
    canvas = np.zeros((height, width), np.uint8)
    for y in range(30, height, 60):
        begin = int(rng.integers(len(WORDS)))
        line = (WORDS[begin:] + WORDS)[: width // 15]
        cv2.putText(canvas, line, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 255, 3, cv2.LINE_8)
    return canvas > 0


def scratches(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Long wavering lines, 2-5 px wide, and specks."""
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(12):
        start = rng.uniform((0, 0), (width, height))
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.3, 1.0) * max(height, width)
        along = np.linspace(0, length, 40)[:, None] * [np.cos(angle), np.sin(angle)]
        points = start - along.mean(0) + along + np.cumsum(rng.normal(0, 1.2, (40, 2)), 0)
        cv2.polylines(canvas, [points.astype(np.int32)], False, 255, int(rng.integers(2, 6)))
    for _ in range(40):
        cv2.circle(
            canvas, tuple(int(v) for v in rng.uniform((0, 0), (width, height))), int(rng.integers(1, 4)), 255, -1
        )
    return canvas > 0


def blocks(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Squares of 16, 24 and 32 px, one to about 128 x 128 px."""
    canvas = np.zeros((height, width), bool)
    for _ in range(max(1, height * width // 128**2)):
        side = int(rng.choice([16, 24, 32]))
        top, left = int(rng.integers(8, height - side - 8)), int(rng.integers(8, width - side - 8))
        canvas[top : top + side, left : left + side] = True
    return canvas


KINDS = {"text": text, "scratches": scratches, "blocks": blocks}
