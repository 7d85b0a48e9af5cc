"""The worst errors of a model: what to look at before trusting any number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blastdet.core import boxes
from blastdet.core.types import CELL_CLASSES, Dataset, Detections
from blastdet.evaluation.confusion import Confusion


@dataclass(frozen=True)
class CellError:
    """One cell that was missed, falsely detected, or given the wrong class.

    Parameters
    ----------
    sample : int
        Index in the dataset.
    kind : str
        ``"missed"``, ``"false"`` or ``"wrong class"``.
    truth_class, found_class : str
        Empty if there is none.
    box_xyxy : tuple of float
        Position, full-image pixels.
    score : float
        Score of the detection; for a missed cell, the highest score of any candidate on it, 0 if there is none.
    badness : float
        In [0, 1]: how confident the model was in its error.
    """

    sample: int
    kind: str
    truth_class: str
    found_class: str
    box_xyxy: tuple[float, float, float, float]
    score: float
    badness: float


def worst_errors(dataset: Dataset, candidates: Sequence[Detections], result: Confusion, n: int = 30) -> list[CellError]:
    """The `n` worst errors, taken in turn from every kind and class so that all kinds are represented."""
    rows = result.outcomes
    kinds: dict[tuple[int, int], list[CellError]] = defaultdict(list)
    for i in np.flatnonzero(rows.truth_label != rows.found_label):
        error = _describe(dataset, candidates, result, int(i))
        kinds[int(rows.truth_label[i]), int(rows.found_label[i])].append(error)
    ranked = [
        (rank, -error.badness, key, error)
        for key, errors in kinds.items()
        for rank, error in enumerate(sorted(errors, key=lambda e: -e.badness))
    ]
    return [error for *_, error in sorted(ranked, key=lambda row: row[:3])[:n]]


def _describe(dataset: Dataset, candidates: Sequence[Detections], result: Confusion, row: int) -> CellError:
    rows = result.outcomes
    sample, t, f = int(rows.sample[row]), int(rows.truth[row]), int(rows.found[row])
    truth, found = dataset.samples[sample].truth, candidates[sample]
    assert truth is not None
    if f >= 0:
        score = float(found.score[f])
        box, badness = found.boxes_xyxy[f], score
    else:
        box = truth.boxes_xyxy[t]
        near = boxes.pair_iou(np.broadcast_to(box, found.boxes_xyxy.shape), found.boxes_xyxy) >= result.iou
        score = float(found.score[near].max()) if near.any() else 0.0
        badness = 1 - score
    x1, y1, x2, y2 = (float(value) for value in box)
    return CellError(
        sample,
        "missed" if f < 0 else "false" if t < 0 else "wrong class",
        _name(int(rows.truth_label[row])),
        _name(int(rows.found_label[row])),
        (x1, y1, x2, y2),
        score,
        badness,
    )


def _name(label: int) -> str:
    return CELL_CLASSES[label] if label >= 0 else ""
