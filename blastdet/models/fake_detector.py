"""A detector without a model, for tests: it finds marks of pure colour, wherever in the image they lie."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from blastdet.core.model_card import Card, InputSpec, Threshold, Training
from blastdet.core.types import CELL_CLASSES, RGB, Detections

MARKS: dict[str, tuple[int, int, int]] = {"wbc": (0, 0, 255), "rbc": (255, 0, 0), "platelet": (0, 255, 0)}
"""Colour that stands for a cell of each class."""


def fake_card(mpp: float = 0.5, tile_wh: tuple[int, int] = (256, 256)) -> Card:
    """A card without files."""
    point = Threshold(value=0.5, chosen_on="nothing", criterion="fixed")
    training = Training(config={}, seed=0, commit="", data=(), epochs=0, device="cpu", duration_s=0)
    return Card(
        name="fake",
        task="detect",
        classes=tuple(MARKS),
        files={},
        mpp=mpp,
        input=InputSpec(wh=tile_wh),
        thresholds=dict.fromkeys(MARKS, point),
        training=training,
    )


class FakeDetector:
    """Each connected patch of a mark's colour is a cell; its score grows with its area."""

    def __init__(self, card: Card | None = None) -> None:
        self.card = card or fake_card()

    def __call__(self, images: Sequence[RGB]) -> list[Detections]:
        """Cells of each image; see `Detector`."""
        return [self._find(image) for image in images]

    @staticmethod
    def _find(image: RGB) -> Detections:
        parts = []
        for name, colour in MARKS.items():
            mask = (np.abs(image.astype(np.int16) - np.array(colour)).max(axis=2) < 100).astype(np.uint8)
            stats = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:].astype(np.float64)
            x, y, w, h, pixels = stats.T
            score = np.clip(0.5 + pixels / 10_000, 0, 1)
            parts.append(
                Detections(np.stack([x, y, x + w, y + h], 1), score, np.full(len(x), CELL_CLASSES.index(name)))
            )
        return Detections.concatenate(parts).sorted()
