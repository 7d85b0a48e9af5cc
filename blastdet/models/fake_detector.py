"""A detector for tests and examples, which finds marks of pure colour."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from blastdet.core.model_card import Card, InputSpec, Threshold, Training
from blastdet.core.types import CELL_CLASSES, RGB, Detections

MARKS: dict[str, tuple[int, int, int]] = {"wbc": (0, 0, 255), "rbc": (255, 0, 0), "platelet": (0, 255, 0)}
"""RGB colour that marks a cell of each class."""


def fake_card(mpp: float = 0.5, tile_wh: tuple[int, int] = (256, 256)) -> Card:
    """Card of `FakeDetector`, without files."""
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
    """Detect each connected region of a mark's colour as a cell. The score grows with the area.

    Examples
    --------
    >>> image = np.full((40, 40, 3), 255, np.uint8)
    >>> image[5:15, 10:20] = MARKS["wbc"]
    >>> FakeDetector()([image])[0].boxes_xyxy.tolist()
    [[10.0, 5.0, 20.0, 15.0]]
    """

    def __init__(self, card: Card | None = None) -> None:
        self.card = card or fake_card()

    def __call__(self, images: Sequence[RGB]) -> list[Detections]:
        """Detect cells; see `blastdet.models.detector.Detector`."""
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
