"""Classifiers exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastdet.core.card_fields.blast_probability import Floats, logit, sigmoid
from blastdet.core.errors import WeightsError, last_line
from blastdet.core.model_card import HEAD, Card
from blastdet.core.types import RGB
from blastdet.models.classifier import FEATURES, OUTPUTS, ClassifierOutput, framed, prepare
from blastdet.models.features import features as hand_made
from blastdet.models.linear_head import read_head
from blastdet.models.onnx_detector import model_file, onnx_session, to_blob

BATCH = 32
"""Crops per batch; limits memory."""


class BlastEvidence(NamedTuple):
    """What a classifier bases its blast probability on, for n crops.

    Parameters
    ----------
    logit : float64 (n,)
        Of the blast probability, calibrated and adapted as the card says.
    features : float32 (n, f)
        Input of the last layer; (n, 0) of a model that does not output it.
    distance : float32 (n,)
        As in `ClassifierOutput`.
    """

    logit: Floats
    features: NDArray[np.float32]
    distance: NDArray[np.float32]


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
        self.card, self.folder = card, folder
        self._path = model_file(card, folder, ".onnx")
        self._session = onnx_session(self._path, device)
        self.head = read_head(folder / HEAD) if HEAD in card.files else None
        if self.head is not None and not self.has_features:
            raise WeightsError(f"{self._path}: expected the output {FEATURES}, which {HEAD} is applied to, got none")
        self([np.zeros((8, 8, 3), np.uint8)], [card.mpp])

    def __call__(self, crops: Sequence[RGB], mpp: Sequence[float]) -> ClassifierOutput:
        """See `blastdet.models.classifier.Classifier`."""
        rows = [ClassifierOutput(np.empty((0, len(self.card.classes)), np.float32), np.empty(0, np.float32))]
        rows += [self._judge(batch) for batch in self._framed(crops, mpp)]
        return ClassifierOutput(*(np.concatenate(column) for column in zip(*rows, strict=True)))

    def evidence(self, crops: Sequence[RGB], mpp: Sequence[float]) -> BlastEvidence:
        """Logit of the blast probability, features and distance of each crop; parameters as for a call.

        Needs a classifier with the class ``blast``, and at least one crop.
        """
        names = (FEATURES,) if self.has_features else ()
        rows = []
        for batch in self._framed(crops, mpp):
            probability, distance, features = self._outputs(batch, names)
            rows.append(BlastEvidence(self._logit(probability, features), features, distance))
        return BlastEvidence(*(np.concatenate(column) for column in zip(*rows, strict=True)))

    def _framed(self, crops: Sequence[RGB], mpp: Sequence[float]) -> Iterator[list[RGB]]:
        """Batches of crops at the scale and size of the model."""
        card, side = self.card, self.card.input.wh[0]
        for start in range(0, len(crops), BATCH):
            chunk = zip(crops[start : start + BATCH], mpp[start : start + BATCH], strict=True)
            ready = (prepare(rgb, scale, card.mpp, card.input.low_pass) for rgb, scale in chunk)
            yield [framed(rgb, side, card.input.pad_value) for rgb in ready]

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
        names = () if self.head is None else (FEATURES,)
        probability, distance, features = self._outputs(framed_crops, names)
        if self.card.calibration is None and self.head is None:
            return ClassifierOutput(probability, distance)
        blast = sigmoid(self._logit(probability, features))
        return ClassifierOutput(_with_blast(probability, blast, self.card.classes.index("blast")), distance)

    def _logit(self, probability: NDArray[np.float32], features: NDArray[np.float32]) -> Floats:
        """Calibrated and adapted logit of the blast probability (n,)."""
        blast, calibration = probability[:, self.card.classes.index("blast")], self.card.calibration
        given = logit(blast) if calibration is None else calibration.logit(blast)
        return given if self.head is None else self.head(given, features)

    def _outputs(self, framed_crops: Sequence[RGB], more: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """Probability and distance as the file outputs them, and features, (n, 0) unless `more` names them."""
        batch = self._inputs(framed_crops)
        found = self._run(batch, (*OUTPUTS, *more))
        expected = [(len(batch), len(self.card.classes)), (len(batch),)]
        if [part.shape for part in found[:2]] != expected:
            raise WeightsError(
                f"{self._path}: expected outputs of shape {expected}, got {[part.shape for part in found[:2]]}"
            )
        if not np.isfinite(found[1]).all() or not np.allclose(np.abs(found[0]).sum(axis=1), 1, atol=1e-3):  # or NaN
            raise WeightsError(f"{self._path}: expected probabilities, got other numbers. Check input in card.json.")
        features = found[2] if more else np.empty((len(batch), 0), np.float32)
        if self.head is not None and features.shape != (len(batch), len(self.head.weights)):
            raise WeightsError(
                f"{self._path}: expected {len(self.head.weights)} features as in {HEAD}, got {features.shape[1:]}"
            )
        return found[0], found[1], features

    def _run(self, batch: NDArray[np.float32], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        try:
            found = self._session.run(list(outputs), {self._session.get_inputs()[0].name: batch})
        except Exception as error:  # onnxruntime raises bare Exceptions of its own C++ types
            raise WeightsError(f"{self._path}: cannot be run ({last_line(error)})") from error
        return [np.asarray(part, np.float32) for part in found]


def _with_blast(probability: NDArray[np.float32], wanted: Floats, blast: int) -> NDArray[np.float32]:
    """Probabilities (n, classes) with another blast probability (n,), and the others rescaled to sum to 1."""
    others = np.maximum(probability.astype(np.float64), 1e-12)  # avoids 0 / 0 if the blast probability is 1
    others[:, blast] = 0
    found = others * ((1 - wanted) / others.sum(axis=1))[:, None]
    found[:, blast] = wanted
    return np.asarray(found, np.float32)
