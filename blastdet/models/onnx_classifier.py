"""Classifiers exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import WeightsError, last_line
from blastdet.core.model_card import Card
from blastdet.core.types import RGB
from blastdet.models.classifier import FEATURES, OUTPUTS, ClassifierOutput, framed, prepare
from blastdet.models.features import features as hand_made
from blastdet.models.onnx_detector import model_file, onnx_session, to_blob

BATCH = 32
"""Crops per batch; limits memory."""


class OnnxClassifier:
    """A classifier that ONNX Runtime runs; see `blastdet.models.classifier.Classifier`.

    Parameters
    ----------
    card : Card
    folder : Path
        Weights folder.
    device : {"auto", "cpu", "cuda", "cuda:N"}

    Raises
    ------
    WeightsError
        If the model cannot be loaded or run.
    """

    def __init__(self, card: Card, folder: Path, device: str = "auto") -> None:
        self.card = card
        self._path = model_file(card, folder, ".onnx")
        self._session = onnx_session(self._path, device)
        self([np.zeros((8, 8, 3), np.uint8)], [card.mpp])

    def __call__(self, crops: Sequence[RGB], mpp: Sequence[float]) -> ClassifierOutput:
        """See `blastdet.models.classifier.Classifier`."""
        card, side = self.card, self.card.input.wh[0]
        rows = [ClassifierOutput(np.empty((0, len(card.classes)), np.float32), np.empty(0, np.float32))]
        for start in range(0, len(crops), BATCH):
            chunk = zip(crops[start : start + BATCH], mpp[start : start + BATCH], strict=True)
            ready = (prepare(rgb, scale, card.mpp, card.input.low_pass) for rgb, scale in chunk)
            rows.append(self._judge([framed(rgb, side, card.input.pad_value) for rgb in ready]))
        return ClassifierOutput(*(np.concatenate(column) for column in zip(*rows, strict=True)))

    @property
    def has_features(self) -> bool:
        """Whether the model is a network that also outputs the input of its last layer."""
        return FEATURES in [output.name for output in self._session.get_outputs()]

    def features(self, framed_crops: Sequence[RGB]) -> NDArray[np.float32]:
        """Features of a network: the input of its last layer, float32 (n, f).

        Crops are those of `prepare` and `framed`.
        """
        found: list[NDArray[np.float32]] = self._run(self._inputs(framed_crops), (FEATURES,))
        return found[0]

    def _inputs(self, framed_crops: Sequence[RGB]) -> NDArray[np.float32]:
        if self.card.sees == "hand-made features":
            return np.stack([hand_made(rgb, self.card.mpp) for rgb in framed_crops])
        side = self.card.input.wh[0]
        return np.stack([to_blob(rgb, (side, side), self.card.input) for rgb in framed_crops])

    def _judge(self, framed_crops: Sequence[RGB]) -> ClassifierOutput:
        batch = self._inputs(framed_crops)
        found = self._run(batch, OUTPUTS)
        expected = [(len(batch), len(self.card.classes)), (len(batch),)]
        if [part.shape for part in found] != expected:
            raise WeightsError(
                f"{self._path}: expected outputs of shape {expected}, got {[part.shape for part in found]}"
            )
        if not np.isfinite(found[1]).all() or not np.allclose(np.abs(found[0]).sum(axis=1), 1, atol=1e-3):  # or NaN
            raise WeightsError(f"{self._path}: expected probabilities, got other numbers. Check input in card.json.")
        return ClassifierOutput(_calibrated(found[0], self.card), found[1])

    def _run(self, batch: NDArray[np.float32], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        try:
            found = self._session.run(list(outputs), {self._session.get_inputs()[0].name: batch})
        except Exception as error:  # onnxruntime raises bare Exceptions of its own C++ types
            raise WeightsError(f"{self._path}: cannot be run ({last_line(error)})") from error
        return [np.asarray(part, np.float32) for part in found]


def _calibrated(probability: NDArray[np.float32], card: Card) -> NDArray[np.float32]:
    """Probabilities (n, classes) with the blast probability calibrated, and the others rescaled to sum to 1."""
    if card.calibration is None:
        return probability
    blast = card.classes.index("blast")
    wanted = card.calibration.apply(probability[:, blast])
    others = np.maximum(probability.astype(np.float64), 1e-12)  # avoids 0 / 0 if the blast probability is 1
    others[:, blast] = 0
    found = others * ((1 - wanted) / others.sum(axis=1))[:, None]
    found[:, blast] = wanted
    return np.asarray(found, np.float32)
