"""Which unlabelled smears are worth labelling next: where the model is uncertain, and unlike those chosen already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.evaluation.predict import Predictions
from blastdet.imaging.io import open_smear
from blastdet.review.cells import UNCERTAIN

_THUMBNAIL = 96


@dataclass(frozen=True)
class Suggestion:
    """One smear to label.

    Parameters
    ----------
    sample : int
        Index in the dataset.
    uncertainty : float
        Mean doubt about its nucleated cells, 0 to 1; a smear without any has 0.
    distance : float
        From the nearest smear that is labelled or was suggested before, in spreads of the set; infinite for the first
        where nothing is labelled.
    why : str
    """

    sample: int
    uncertainty: float
    distance: float
    why: str


def suggest(dataset: Dataset, predictions: Predictions, n: int) -> list[Suggestion]:
    """The `n` unlabelled smears with the highest uncertainty times distance, one after another.

    A smear is unlabelled where nobody annotated it, or no cell is annotated. Distance is between mean and spread of
    colour, sharpness, and number of cells of each class, all in spreads of the set.
    """
    open_ = [i for i, smear in enumerate(dataset) if not len(smear.truth or ())]
    doubts = {i: _doubt(predictions, i) for i in open_}
    looks = np.array([_look(smear, predictions.candidates[i]) for i, smear in enumerate(dataset)])
    looks = (looks - looks.mean(axis=0)) / np.maximum(looks.std(axis=0), 1e-9) / np.sqrt(looks.shape[1])
    nearest = np.full(len(dataset), np.inf)
    for i, smear in enumerate(dataset):
        if len(smear.truth or ()):
            nearest = np.minimum(nearest, _apart(looks, i))
    chosen: list[Suggestion] = []
    while open_ and len(chosen) < n:
        best = max(open_, key=lambda i: (_worth(doubts[i][0], float(nearest[i])), -i))
        chosen.append(Suggestion(best, doubts[best][0], float(nearest[best]), _why(doubts[best], nearest[best])))
        open_.remove(best)
        nearest = np.minimum(nearest, _apart(looks, best))
    return chosen


def _worth(doubt: float, distance: float) -> float:
    return (doubt + 0.02) * min(distance, 10.0)  # a smear without a doubtful cell may still be like nothing known


def _apart(looks: NDArray[np.float64], i: int) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(((looks - looks[i]) ** 2).sum(axis=1)))


def _doubt(predictions: Predictions, smear: int) -> tuple[float, int, int]:
    """Mean doubt about nucleated cells, how many are doubtful, and how many there are."""
    cells = predictions.candidates[smear].with_classes("blast", "wbc")
    limit = np.array([predictions.thresholds.get(name, 0.5) for name in CELL_CLASSES])[cells.label]
    cells, limit = cells[cells.score >= limit - UNCERTAIN], limit[cells.score >= limit - UNCERTAIN]
    if not len(cells):
        return 0.0, 0, 0
    near = np.clip(1 - np.abs(cells.score - limit) / UNCERTAIN, 0, 1)
    if cells.blast_probability is not None:
        near = np.maximum(near, np.nan_to_num(1 - 2 * np.abs(cells.blast_probability - 0.5)))
    if cells.unsure is not None:
        near = np.maximum(near, cells.unsure)
    return float(near.mean()), int((near > 0.5).sum()), len(cells)


def _look(smear: Sample, found: Detections) -> list[float]:
    with open_smear(smear.path) as source:
        scale = min(1.0, _THUMBNAIL / max(smear.size_wh))
        small = source.read(None, (max(scale, 1 / smear.size_wh[0]), max(scale, 1 / smear.size_wh[1])))
    plain = small.reshape(-1, 3).astype(np.float64)
    sharp = float(np.log1p(cv2.Laplacian(small, cv2.CV_32F).var()))
    counts = [np.log1p(number) for number in found.counts().values()]
    return [*plain.mean(axis=0), *plain.std(axis=0), sharp, *counts]


def _why(doubt: tuple[float, int, int], distance: float) -> str:
    mean, doubtful, n = doubt
    cells = (
        f"{doubtful} of {n} nucleated cells doubtful (on average {mean:.0%} in doubt)"
        if n
        else "no nucleated cell found"
    )
    if np.isinf(distance):
        return f"{cells}; the first of its set"
    return f"{cells}; {distance:.1f} spreads from the nearest smear that is labelled or listed above"


def as_lines(dataset: Dataset, chosen: Sequence[Suggestion]) -> list[str]:
    """One line each, the most useful first."""
    return [f"{i:>3}  {dataset.file_name(dataset.samples[s.sample])}: {s.why}" for i, s in enumerate(chosen, 1)]
