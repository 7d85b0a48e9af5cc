"""Second stage: the interface of crop classifiers, and the preprocessing of crops."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.model_card import Card
from blastdet.core.types import RGB
from blastdet.imaging.io import resize
from blastdet.models.detector import card_of


class ClassifierOutput(NamedTuple):
    """Output of a classifier for n crops.

    Parameters
    ----------
    probability : float32 (n, classes)
        Calibrated; each row sums to 1.
    distance : float32 (n,)
        From the training data, in feature space: about 1 for similar cells; see `RejectionRule`.
    """

    probability: NDArray[np.float32]
    distance: NDArray[np.float32]


OUTPUTS = ClassifierOutput._fields
"""Output names of an exported model."""

FEATURES = "features"
"""Name of another output of networks, the input of their last layer; also the input name of models trained on these."""


class Classifier(Protocol):
    """Interface of crop classifiers. Calls do not change its state."""

    @property
    def card(self) -> Card: ...

    def __call__(self, crops: Sequence[RGB], mpp: Sequence[float]) -> ClassifierOutput:
        """Classify crops.

        Parameters
        ----------
        crops : sequence of uint8 (s, s, 3)
            Square RGB crops of any size from one pixel; see `blastdet.imaging.cell_crops`.
        mpp : sequence of float
            µm per pixel of each crop.

        Returns
        -------
        ClassifierOutput
            Probability of each class, and distance from the training data, for each crop.
        """
        ...


def given_not_blast(probability: NDArray[np.floating[Any]], classes: Sequence[str]) -> NDArray[np.float64]:
    """Probability of each class, given that the cell is not a blast, float64 (n, classes); 0 for ``blast`` itself.

    It does not change when the blast probability is calibrated.

    Parameters
    ----------
    probability : float (n, classes)
        Each row sums to 1.
    classes : sequence of str
        Including ``blast``.

    Examples
    --------
    >>> given_not_blast(np.array([[0.5, 0.1, 0.4]]), ["blast", "wbc", "erythroblast"]).round(2).tolist()
    [[0.0, 0.2, 0.8]]
    """
    given = probability.astype(np.float64)
    blast = list(classes).index("blast")
    rest = np.maximum(1 - given[:, [blast]], 1e-9)
    given[:, blast] = 0
    return np.minimum(given / rest, 1.0)


def erythroblast_given_not_blast(probability: NDArray[np.floating[Any]], classes: Sequence[str]) -> NDArray[np.float64]:
    """Probability of an erythroblast, given that the cell is not a blast, float64 (n,).

    It does not change when the blast probability is calibrated.

    Parameters
    ----------
    classes : sequence of str
        Including ``blast`` and ``erythroblast``.

    Examples
    --------
    >>> erythroblast_given_not_blast(np.array([[0.5, 0.1, 0.4]]), ["blast", "wbc", "erythroblast"]).round(2).tolist()
    [0.8]
    """
    given: NDArray[np.float64] = given_not_blast(probability, classes)[:, list(classes).index("erythroblast")]
    return given


def load_classifier(weights: str | os.PathLike[str], device: str = "auto") -> Classifier:
    """Load a classifier; parameters as for `blastdet.models.detector.load_detector`.

    Raises `WeightsError` if the weights are missing, modified, or not those of a classifier.

    Examples
    --------
    >>> load_classifier("differential", device="cpu").card.task
    'classify'
    """
    from blastdet.models.onnx_classifier import OnnxClassifier

    return OnnxClassifier(*card_of(weights, "classify"), device)


def uncalibrated(weights: str | os.PathLike[str], device: str = "auto") -> Classifier:
    """`load_classifier` without the calibration of the card, for fitting another one to it."""
    from blastdet.models.onnx_classifier import OnnxClassifier

    card, folder = card_of(weights, "classify")
    return OnnxClassifier(card.model_copy(update={"calibration": None, "adaptation": None}), folder, device)


def prepare(rgb: RGB, mpp: float, to_mpp: float, low_pass: float) -> RGB:
    """Resample a crop to the scale of the classifier, and blur it. Returns uint8 (t, t, 3).

    Images with a high resolution are reduced, those with a low resolution are enlarged. The Gaussian blur then makes
    sharpness alike, so that it says as little as possible about the source of an image.

    Parameters
    ----------
    rgb : uint8 (s, s, 3)
    mpp : float
        µm per pixel of the crop.
    to_mpp : float
        µm per pixel of the result.
    low_pass : float
        Sigma of the Gaussian blur, in pixels of the result; 0: none.

    Examples
    --------
    >>> prepare(np.zeros((40, 40, 3), np.uint8), mpp=0.1, to_mpp=0.2, low_pass=0.5).shape
    (20, 20, 3)
    """
    side = max(round(len(rgb) * mpp / to_mpp), 1)
    scaled = resize(rgb, (side, side))
    if low_pass:
        scaled = np.asarray(cv2.GaussianBlur(scaled, (0, 0), low_pass, borderType=cv2.BORDER_REPLICATE), np.uint8)
    return scaled


def framed(rgb: RGB, side: int, pad_value: int) -> RGB:
    """Crop or pad a square image around its centre. Returns uint8 (side, side, 3).

    Parameters
    ----------
    pad_value : int
        Grey level of the padding.

    Examples
    --------
    >>> framed(np.zeros((20, 20, 3), np.uint8), side=32, pad_value=114)[0, 0].tolist()
    [114, 114, 114]
    """
    canvas = np.full((side, side, 3), pad_value, np.uint8)
    n = min(len(rgb), side)
    there, here = (side - n) // 2, (len(rgb) - n) // 2
    canvas[there : there + n, there : there + n] = rgb[here : here + n, here : here + n]
    return canvas
