"""Smears drawn with circles, for tests of segmentation: realistic enough to segment, exact to the pixel."""

from __future__ import annotations

import cv2
import numpy as np

from blastdet.core.types import RGB

BACKGROUND, RED, CYTOPLASM, NUCLEUS = (238, 234, 230), (214, 170, 165), (190, 175, 220), (95, 45, 140)
STAINS = {
    "pink on cream": (BACKGROUND, RED, CYTOPLASM, NUCLEUS),
    "grey-blue on lilac": ((225, 220, 238), (165, 175, 190), (165, 150, 215), (100, 60, 170)),
    "dark red on green-grey": ((180, 200, 188), (130, 75, 90), (120, 110, 150), (60, 30, 95)),
}


def sample(cells_xyr: list[tuple[int, int, int]], stain: str = "pink on cream", seed: int = 0) -> RGB:
    """Red cells on a loose grid, nucleated cells at the given places, a little noise."""
    background, red, cytoplasm, nucleus = STAINS[stain]
    image = np.full((360, 480, 3), background, np.uint8)
    for x in range(40, 480, 80):
        for y in range(40, 360, 80):
            if all(np.hypot(x - cx, y - cy) > r + 30 for cx, cy, r in cells_xyr):
                cv2.circle(image, (x, y), 24, red, cv2.FILLED, cv2.LINE_AA)
    for x, y, radius in cells_xyr:
        cv2.circle(image, (x, y), radius, cytoplasm, cv2.FILLED, cv2.LINE_AA)
    for x, y, radius in cells_xyr:
        cv2.circle(image, (x, y), int(0.75 * radius), nucleus, cv2.FILLED, cv2.LINE_AA)
    noise = np.random.default_rng(seed).normal(0, 2, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1.0) + noise, 0, 255).astype(np.uint8)


def box(x: int, y: int, radius: int) -> list[float]:
    return [x - radius, y - radius, x + radius, y + radius]
