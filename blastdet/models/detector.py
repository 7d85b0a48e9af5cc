"""First stage: the interface of detectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import Card, find_weights, read_card
from blastdet.core.types import RGB, Detections

SCORE_FLOOR = 0.01
"""Lowest score that a detector reports. The thresholds of the card are applied later, in the pipeline."""


class Detector(Protocol):
    """Interface of detectors. Calls do not change its state."""

    @property
    def card(self) -> Card: ...

    def __call__(self, images: Sequence[RGB]) -> list[Detections]:
        """Detect cells.

        Parameters
        ----------
        images : sequence of uint8 (h, w, 3)
            RGB at the card's µm/px, and not larger than its input.

        Returns
        -------
        list of Detections
            Cells of each image in its own pixels, one box per cell, with scores from `SCORE_FLOOR`.
        """
        ...


def load_detector(weights: str | os.PathLike[str], device: str = "auto") -> Detector:
    """Load a detector.

    Raises `WeightsError` if the weights are missing, modified, or not those of a detector.

    Parameters
    ----------
    weights : str or path
        Weights folder, or name of a shipped model, such as ``"default"``.
    device : {"auto", "cpu", "cuda", "cuda:N"}
        ``"auto"``: CUDA if ONNX Runtime supports it, otherwise the CPU.

    Examples
    --------
    >>> detector = load_detector("default", device="cpu")
    >>> detector.card.classes
    ('wbc', 'rbc', 'platelet')
    """
    from blastdet.models.onnx_detector import OnnxDetector

    return OnnxDetector(*card_of(weights, "detect"), device)


def card_of(weights: str | os.PathLike[str], task: str) -> tuple[Card, Path]:
    """Card and folder of weights, which must be for `task`; otherwise `WeightsError`."""
    folder = find_weights(weights)
    card = read_card(folder)
    if card.task != task:
        hint = " To use a classifier, set it as second_stage in the card of a detector." if task == "detect" else ""
        raise WeightsError(f"{folder}: expected a model with task {task}, got task {card.task}.{hint}")
    return card, folder
