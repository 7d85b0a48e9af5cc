"""First stage: detectors that all answer one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import Card, find_weights, read_card
from blastdet.core.types import RGB, Detections

SCORE_FLOOR = 0.01
"""Lowest score a detector reports; the operating threshold of the card is applied later, in the pipeline."""


class Detector(Protocol):
    """Finds cells; holds no state that a call changes."""

    @property
    def card(self) -> Card: ...

    def __call__(self, images: Sequence[RGB]) -> list[Detections]:
        """Cells of each image, in its own pixels, one box a cell, scores down to `SCORE_FLOOR`.

        Images are at the card's µm/px and not larger than its input.
        """
        ...


def load_detector(weights: str | os.PathLike[str], device: str = "auto") -> Detector:
    """Detector of a weights folder or of a shipped model's name.

    Parameters
    ----------
    weights : str or path
        Folder with a ``card.json``, or a name such as ``"default"``.
    device : {"auto", "cpu", "cuda", "cuda:N"}

    Raises
    ------
    WeightsError
        If the weights are missing, tampered with, or not those of a detector.
    """
    folder = find_weights(weights)
    card = read_card(folder)
    if card.task != "detect":
        hint = "; a classifier is the second_stage in the card of a detector" if card.task == "classify" else ""
        raise WeightsError(f"{folder}: weights to {card.task} found, to detect expected{hint}")
    from blastdet.models.onnx_detector import OnnxDetector

    return OnnxDetector(card, folder, device)
