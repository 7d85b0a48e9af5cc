"""Per-cell confusion matrices of annotated cells and detections, with missed cells and false detections.

Two matchings, one to one and optimal (`best_pairs`), at one IoU threshold and one score per class:

class-blind
    Localization first: a detection may match a cell of any class, and then the two labels are compared.
class-aware
    A detection only matches a cell of its own class, so that the matrix has no entries between different classes.

A cell that is neither matched nor ignored is missed, and such a detection is false. Detection has no true negatives, so
specificity and accuracy are given for matched cells only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes
from blastdet.core.constants import MATCH_IOU
from blastdet.core.statistics import Interval
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.evaluation.intervals import RESAMPLES, ratio_interval
from blastdet.evaluation.match_table import Bools, Floats, Ints, groups_of, is_scored

Matching = Literal["class-blind", "class-aware"]
MATCHINGS: tuple[Matching, ...] = ("class-blind", "class-aware")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """All cells and detections: one row for each matched pair, each missed cell and each false detection.

    Parameters
    ----------
    sample : int64 (n,)
        Index of the image in the dataset.
    truth, found : int64 (n,)
        Row in the truth of the image and in its candidates; -1 for a false detection and for a missed cell.
    truth_label, found_label : int64 (n,)
        Index into `CELL_CLASSES`, or -1 as above.
    """

    sample: Ints
    truth: Ints
    found: Ints
    truth_label: Ints
    found_label: Ints


@dataclass(frozen=True, eq=False)
class Confusion:
    """A confusion matrix with the thresholds it holds for.

    Parameters
    ----------
    matching : {"class-blind", "class-aware"}
    classes : tuple of str
    iou : float
    thresholds : dict of str to float
        Score from which a detection of each class takes part.
    per_smear : int64 (s, k + 1, k + 1)
        Rows: truth of each class, then ``false``. Columns: predicted as each class, then ``missed``.
    group : int64 (s,)
    outcomes : Outcomes
    """

    matching: Matching
    classes: tuple[str, ...]
    iou: float
    thresholds: dict[str, float]
    per_smear: Ints
    group: Ints
    outcomes: Outcomes

    @property
    def matrix(self) -> Ints:
        """Sum over all images, (k + 1, k + 1)."""
        return np.asarray(self.per_smear.sum(axis=0), np.int64)

    @property
    def title(self) -> str:
        """Everything a reader must know before reading the numbers."""
        return f"{self.matching} matching, {self.rule}"

    @property
    def rule(self) -> str:
        """Lowest IoU of a match, and lowest score of a detection."""
        scores = {f"{self.thresholds.get(name, 1.0):.3g}" for name in self.classes}
        if len(scores) > 1:
            listed = ", ".join(f"{name} {self.thresholds.get(name, 1.0):.3g}" for name in self.classes)
        else:
            listed = scores.pop()
        return f"IoU ≥ {self.iou:g}, score ≥ {listed}"


def best_pairs(allowed: Bools, gain: Floats) -> tuple[Ints, Ints]:
    """Optimal one-to-one pairs of rows and columns: as many as possible, then with the greatest total gain.

    Parameters
    ----------
    allowed : bool (n, m)
        Which pairs may be made.
    gain : float64 (n, m)
        Between 0 and 1.

    Returns
    -------
    rows, columns : int64 (k,)
        Rows ascending.
    """
    from scipy.optimize import linear_sum_assignment

    near_rows, near_columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    part = np.ix_(near_rows, near_columns)
    one_pair = min(allowed[part].shape) + 1.0  # worth more than all gains together
    rows, columns = linear_sum_assignment(np.where(allowed[part], one_pair + gain[part], 0.0), maximize=True)
    rows, columns = near_rows[rows], near_columns[columns]
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def confusion(
    dataset: Dataset,
    candidates: Sequence[Detections],
    classes: Sequence[str],
    thresholds: Mapping[str, float],
    matching: Matching = "class-blind",
    iou: float = MATCH_IOU,
) -> Confusion:
    """Match detections at the operating point with the truth, and count.

    On an image that does not annotate a class, unmatched detections of that class are left out.
    Unmatched detections on ignored regions are left out too.

    Parameters
    ----------
    candidates : sequence of Detections
        One for each image.
    thresholds : mapping of str to float
        Operating score of each class. Classes without a score are left out.
    """
    limits = {name: value for name, value in thresholds.items() if name in classes}
    parts = [
        _match_image(index, sample, found, (limits, iou, matching))
        for index, (sample, found) in enumerate(zip(dataset, candidates, strict=True))
        if sample.truth is not None
    ]
    rows = np.concatenate([np.empty((0, 5), np.int64), *parts])
    outcomes = Outcomes(*rows.T)
    position = np.full(len(CELL_CLASSES) + 1, len(classes))  # the last entry serves label -1
    position[[CELL_CLASSES.index(name) for name in classes]] = np.arange(len(classes))
    per_smear = np.zeros((len(dataset), len(classes) + 1, len(classes) + 1), np.int64)
    np.add.at(per_smear, (outcomes.sample, position[outcomes.truth_label], position[outcomes.found_label]), 1)
    return Confusion(matching, tuple(classes), iou, dict(thresholds), per_smear, groups_of(dataset), outcomes)


def _match_image(
    index: int, sample: Sample, candidates: Detections, how: tuple[Mapping[str, float], float, Matching]
) -> Ints:
    """Rows ``sample, truth, found, truth label, found label`` of one image."""
    assert sample.truth is not None
    thresholds, iou, matching = how
    known = np.array([is_scored(sample, name) for name in CELL_CLASSES])
    ignored = np.zeros(len(sample.truth), bool) if sample.truth.ignore is None else sample.truth.ignore
    cells = np.flatnonzero(~ignored & known[sample.truth.label])
    found = np.flatnonzero(candidates.above_threshold(thresholds))
    truth_label, found_label = sample.truth.label[cells], candidates.label[found]
    overlap = boxes.iou_matrix(sample.truth.boxes_xyxy[cells], candidates.boxes_xyxy[found])
    allowed = overlap >= iou
    if matching == "class-aware":
        allowed &= truth_label[:, None] == found_label[None, :]
    t, f = best_pairs(allowed, overlap)
    missed = np.setdiff1d(np.arange(len(cells)), t)
    false = np.setdiff1d(np.arange(len(found)), f)
    hidden = _on_region(candidates.boxes_xyxy[found[false]], sample.truth.boxes_xyxy[ignored], iou)
    false = false[~hidden & known[found_label[false]]]
    none_t, none_f = np.full(len(false), -1), np.full(len(missed), -1)
    return np.stack(
        [
            np.full(len(t) + len(missed) + len(false), index),
            np.concatenate([cells[t], cells[missed], none_t]),
            np.concatenate([found[f], none_f, found[false]]),
            np.concatenate([truth_label[t], truth_label[missed], none_t]),
            np.concatenate([found_label[f], none_f, found_label[false]]),
        ],
        axis=1,
    )


def _on_region(found_xyxy: NDArray[np.float32], regions_xyxy: NDArray[np.float32], part: float) -> Bools:
    """Mask of the boxes with at least this fraction of their area on an ignored region."""
    found = found_xyxy.astype(np.float64)[:, None]
    regions = regions_xyxy.astype(np.float64)[None]  # a region with NaN overlaps nothing
    shared = np.minimum(found[..., 2:], regions[..., 2:]) - np.maximum(found[..., :2], regions[..., :2])
    area = np.prod(np.clip(np.nan_to_num(shared), 0, None), axis=2)
    return np.asarray((area >= part * boxes.area(found_xyxy)[:, None]).any(axis=1))


@dataclass(frozen=True)
class Figure:
    """A value, its 95 % interval, and the number of cells it is from."""

    name: str
    value: float
    interval: Interval
    n: int


def class_figures(result: Confusion, name: str, resamples: int = RESAMPLES) -> list[Figure]:
    """Sensitivity, precision and F1 of a class; specificity and accuracy over matched cells (class-blind only).

    F1 is 2 TP / (2 TP + FP + FN). Intervals: bootstrap over groups.
    """
    k = result.classes.index(name)
    counts = result.per_smear
    tp, truth, found = counts[:, k, k], counts[:, k, :].sum(axis=1), counts[:, :, k].sum(axis=1)
    figures = [("sensitivity", tp, truth), ("precision", tp, found), ("F1", 2 * tp, truth + found)]
    if result.matching == "class-blind":
        matched = counts[:, :-1, :-1]
        everything = matched.sum(axis=(1, 2))
        mine, called = matched[:, k, :].sum(axis=1), matched[:, :, k].sum(axis=1)
        right_elsewhere = everything - mine - called + tp
        figures.append(("specificity over matched cells", right_elsewhere, everything - mine))
        figures.append(("accuracy over matched cells", right_elsewhere + tp, everything))
    return _ratios(figures, result.group, resamples)


def joint_figures(result: Confusion, resamples: int = RESAMPLES) -> list[Figure]:
    """Localisation and classification apart and jointly, over all classes; from the class-blind matching."""
    counts = result.per_smear
    truth, found = counts[:, :-1, :].sum(axis=(1, 2)), counts[:, :, :-1].sum(axis=(1, 2))
    matched = counts[:, :-1, :-1].sum(axis=(1, 2))
    right = np.trace(counts[:, :-1, :-1], axis1=1, axis2=2)
    figures = [
        ("localisation: cells found, of any class", matched, truth),
        ("localisation: boxes that are a cell, of any class", matched, found),
        ("classification: correct class among found cells", right, matched),
        ("jointly: cells found and correctly classified", right, truth),
    ]
    return _ratios(figures, result.group, resamples)


def _ratios(figures: Sequence[tuple[str, Ints, Ints]], group: Ints, resamples: int) -> list[Figure]:
    made = []
    for name, part, whole in figures:
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(np.float64(part.sum()) / whole.sum())
        made.append(Figure(name, value, ratio_interval(part, whole, group, resamples), int(whole.sum())))
    return made
