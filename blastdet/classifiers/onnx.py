"""Classifiers exported to ONNX, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.cards import Card
from blastdet.classifiers import framed, prepare
from blastdet.detectors.onnx import onnx_session, to_blob
from blastdet.errors import WeightsError
from blastdet.types import RGB

BATCH = 64
"""Crops that run at once; bounds memory."""


class OnnxClassifier:
    """A classifier that ONNX Runtime runs; see `blastdet.classifiers.Classifier`."""

    def __init__(self, card: Card, folder: Path, device: str = "auto") -> None:
        models = [name for name in card.files if name.endswith(".onnx")]
        if len(models) != 1:
            raise WeightsError(f"{folder}: {len(models)} .onnx files named by the card, 1 expected")
        self.card = card
        self._path = folder / models[0]
        self._session = onnx_session(self._path, device)
        self([np.zeros((8, 8, 3), np.uint8)], [card.mpp])

    def __call__(self, crops: Sequence[RGB], mpp: Sequence[float]) -> NDArray[np.float32]:
        """See `blastdet.classifiers.Classifier`."""
        card, side = self.card, self.card.input.wh[0]
        rows = [np.empty((0, len(card.classes)), np.float32)]
        for start in range(0, len(crops), BATCH):
            chunk = zip(crops[start : start + BATCH], mpp[start : start + BATCH], strict=True)
            ready = (prepare(rgb, scale, card.mpp, card.input.low_pass) for rgb, scale in chunk)
            blobs = [to_blob(framed(rgb, side, card.input.pad_value), (side, side), card.input) for rgb in ready]
            rows.append(self._run(np.stack(blobs)))
        return np.concatenate(rows)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            found = self._session.run(None, {self._session.get_inputs()[0].name: batch})[0]
        except Exception as error:  # onnxruntime raises bare Exceptions of its own C++ types
            raise WeightsError(f"{self._path}: cannot be run ({str(error).splitlines()[0]})") from error
        expected = (len(batch), len(self.card.classes))
        if found.shape != expected:
            raise WeightsError(f"{self._path}: output {found.shape} found, {expected} expected")
        return np.asarray(found, np.float32)
