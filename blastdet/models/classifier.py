"""Second stage: classifiers of crops, all of which answer one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import Card, find_weights, read_card
from blastdet.core.types import RGB
from blastdet.imaging.io import resize


class ClassifierOutput(NamedTuple):
    """What a classifier says of n crops.

    Parameters
    ----------
    probability : float32 (n, classes)
        Calibrated; each row adds up to 1.
    distance : float32 (n,)
        From what was learnt, in feature space: about 1 for cells like those; see `RejectionRule`.
    """

    probability: NDArray[np.float32]
    distance: NDArray[np.float32]


OUTPUTS = ClassifierOutput._fields
"""Names of an exported model's outputs."""

FEATURES = "features"
"""Name of a further output of networks: what their last layer sees; and the input of models that see only such."""


class Classifier(Protocol):
    """Says how likely each class is; holds no state that a call changes."""

    @property
    def card(self) -> Card: ...

    def __call__(self, crops: Sequence[RGB], mpp: Sequence[float]) -> ClassifierOutput:
        """Probability of each class and distance from what was learnt, for each crop.

        Parameters
        ----------
        crops : sequence of uint8 (s, s, 3)
            Of any size, one pixel included: see `blastdet.imaging.cell_crops`.
        mpp : sequence of float
            µm per pixel of each.
        """
        ...


def red_among_others(probability: NDArray[np.floating[Any]], classes: Sequence[str]) -> NDArray[np.float64]:
    """Probability (n,) of an erythroblast if it is no blast: the same before and after the blast's is calibrated.

    Parameters
    ----------
    probability : (n, classes)
    classes : sequence of str
        With ``blast`` and ``erythroblast``.
    """
    given = probability.astype(np.float64)
    rest = np.maximum(1 - given[:, list(classes).index("blast")], 1e-9)
    return np.minimum(given[:, list(classes).index("erythroblast")] / rest, 1.0)


def load_classifier(weights: str | os.PathLike[str], device: str = "auto") -> Classifier:
    """Classifier of a weights folder or of a shipped model's name; `device` as for detectors.

    Raises
    ------
    WeightsError
        If the weights are missing, tampered with, or not those of a classifier.
    """
    from blastdet.models.onnx_classifier import OnnxClassifier

    folder: Path = find_weights(weights)
    card = read_card(folder)
    if card.task != "classify":
        raise WeightsError(f"{folder}: weights to {card.task} found, to classify expected")
    return OnnxClassifier(card, folder, device)


def prepare(rgb: RGB, mpp: float, to_mpp: float, low_pass: float) -> RGB:
    """A crop at the classifier's µm/px, sharpness evened out.

    Crops of a fine microscope are reduced, those of a coarse one enlarged; then all go through one Gaussian, so that
    sharpness says as little as possible about where a cell comes from.
    """
    side = max(round(len(rgb) * mpp / to_mpp), 1)
    scaled = resize(rgb, (side, side))
    if low_pass:
        scaled = np.asarray(cv2.GaussianBlur(scaled, (0, 0), low_pass, borderType=cv2.BORDER_REPLICATE), np.uint8)
    return scaled


def framed(rgb: RGB, side: int, pad_value: int) -> RGB:
    """A square crop in the middle of a square of `side` pixels: cut, or surrounded by grey."""
    canvas = np.full((side, side, 3), pad_value, np.uint8)
    n = min(len(rgb), side)
    there, here = (side - n) // 2, (len(rgb) - n) // 2
    canvas[there : there + n, there : there + n] = rgb[here : here + n, here : here + n]
    return canvas
