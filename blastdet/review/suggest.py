"""Suggest the images to label next: those on which the model is uncertain and that differ from the labelled ones."""

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
    """One image to label.

    Parameters
    ----------
    sample : int
        Index in the dataset.
    uncertainty : float
        Mean uncertainty of its nucleated cells, 0 to 1; 0 without any.
    distance : float
        Distance to the nearest image that is labelled or already suggested, in standard deviations of the dataset;
        infinite for the first suggestion if nothing is labelled.
    reason : str
    """

    sample: int
    uncertainty: float
    distance: float
    reason: str


def suggest(dataset: Dataset, predictions: Predictions, n: int) -> list[Suggestion]:
    """Greedily choose the `n` unlabelled images with the highest uncertainty times distance.

    An image is unlabelled if it has no annotated cell. The distance compares mean and standard deviation of the colour,
    sharpness, and the number of cells of each class, each divided by its standard deviation in the dataset.
    """
    unlabelled = [i for i, sample in enumerate(dataset) if not len(sample.truth or ())]
    doubts = {i: _uncertainty(predictions, i) for i in unlabelled}
    looks = np.array([_appearance(sample, predictions.candidates[i]) for i, sample in enumerate(dataset)])
    looks = (looks - looks.mean(axis=0)) / np.maximum(looks.std(axis=0), 1e-9) / np.sqrt(looks.shape[1])
    nearest = np.full(len(dataset), np.inf)
    for i, sample in enumerate(dataset):
        if len(sample.truth or ()):
            nearest = np.minimum(nearest, _distance(looks, i))
    chosen: list[Suggestion] = []
    while unlabelled and len(chosen) < n:
        best = max(unlabelled, key=lambda i: (_value(doubts[i][0], float(nearest[i])), -i))
        chosen.append(Suggestion(best, doubts[best][0], float(nearest[best]), _reason(doubts[best], nearest[best])))
        unlabelled.remove(best)
        nearest = np.minimum(nearest, _distance(looks, best))
    return chosen


def _value(doubt: float, distance: float) -> float:
    return (doubt + 0.02) * min(distance, 10.0)  # an image without uncertain cells may still be unlike all others


def _distance(looks: NDArray[np.float64], i: int) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(((looks - looks[i]) ** 2).sum(axis=1)))


def _uncertainty(predictions: Predictions, sample: int) -> tuple[float, int, int]:
    """Mean uncertainty of the nucleated cells, the number of uncertain ones, and the number of all."""
    cells = predictions.candidates[sample].with_classes("blast", "wbc")
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


def _appearance(sample: Sample, detections: Detections) -> list[float]:
    with open_smear(sample.path) as source:
        scale = min(1.0, _THUMBNAIL / max(sample.size_wh))
        small = source.read(None, (max(scale, 1 / sample.size_wh[0]), max(scale, 1 / sample.size_wh[1])))
    plain = small.reshape(-1, 3).astype(np.float64)
    sharp = float(np.log1p(cv2.Laplacian(small, cv2.CV_32F).var()))
    counts = [np.log1p(number) for number in detections.counts().values()]
    return [*plain.mean(axis=0), *plain.std(axis=0), sharp, *counts]


def _reason(uncertainty: tuple[float, int, int], distance: float) -> str:
    mean, uncertain, n = uncertainty
    cells = f"{uncertain} of {n} nucleated cells uncertain (mean uncertainty {mean:.0%})" if n else "no nucleated cells"
    if np.isinf(distance):
        return f"{cells}; first suggestion"
    return f"{cells}; {distance:.1f} standard deviations from the nearest image that is labelled or listed above"


def format_suggestions(dataset: Dataset, chosen: Sequence[Suggestion]) -> list[str]:
    """One line per suggestion, in order."""
    return [f"{i:>3}  {dataset.file_name(dataset.samples[s.sample])}: {s.reason}" for i, s in enumerate(chosen, 1)]
