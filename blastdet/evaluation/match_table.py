"""The match table: every detection with its verdict, from which average precision is a matter of counting.

Matching is done once. Whatever is wanted afterwards (AP, curves, a bootstrap over groups, a difference between
two models) is computed from the table, never from boxes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from blastdet.evaluation.matching import Bools, Floats, Ints

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """All detections of one class, best score first, and what became of them.

    Parameters
    ----------
    score : float64 (n,)
        Descending.
    smear : int64 (n,)
        Index of the smear in the data set.
    found : bool (t, n)
        True positive at each IoU threshold.
    ignored : bool (t, n)
        Neither right nor wrong at each IoU threshold.
    n_truth : int64 (s,)
        Cells to be found on each smear.
    """

    score: Floats
    sample: Ints
    found: Bools
    ignored: Bools
    n_truth: Ints

    @cached_property
    def _found_at(self) -> list[Ints]:
        return [np.flatnonzero(row) for row in self.found]

    @cached_property
    def _anything_ignored(self) -> bool:
        return bool(self.ignored.any())


@dataclass(frozen=True, eq=False)
class MatchTable:
    """Verdicts of all classes on one data set.

    Parameters
    ----------
    classes : dict of str to ClassMatches
        In the order of `CELL_CLASSES`.
    iou_thresholds : float64 (t,)
    group : int64 (s,)
        Number of the group of each smear, 0 … n_groups - 1.
    """

    classes: dict[str, ClassMatches]
    iou_thresholds: Floats
    group: Ints

    @property
    def n_groups(self) -> int:
        """Number of groups, the units that a bootstrap draws."""
        return int(self.group.max()) + 1 if len(self.group) else 0


def precision_recall(matches: ClassMatches, weight: Ints | None = None) -> tuple[Floats, Floats]:
    """Precision at 101 levels of recall, and the highest recall, at every IoU threshold.

    Parameters
    ----------
    matches : ClassMatches
    weight : int64 (s,), optional
        How often each smear counts: a bootstrap is a choice of weights.

    Returns
    -------
    precision : float64 (t, 101)
        Interpolated as COCO does (highest precision at this recall or above); NaN if there is no truth.
    recall : float64 (t,)
    """
    n_thresholds = len(matches.found)
    total = int(matches.n_truth.sum() if weight is None else (matches.n_truth * weight).sum())
    if total == 0:
        return np.full((n_thresholds, len(RECALL_POINTS)), np.nan), np.full(n_thresholds, np.nan)
    precision = np.zeros((n_thresholds, len(RECALL_POINTS)))
    recall = np.zeros(n_thresholds)
    each = np.ones(len(matches.score), np.int64) if weight is None else weight[matches.sample]
    seen = np.cumsum(each)
    for t, at in enumerate(matches._found_at):
        if matches._anything_ignored:
            seen = np.cumsum(np.where(matches.ignored[t], 0, each))
        hits = np.cumsum(each[at])
        if len(at):
            precision[t], recall[t] = _interpolate(hits, seen[at], total)
    return precision, recall


def _interpolate(hits: Ints, seen: Ints, total: int) -> tuple[Floats, float]:
    """Only true positives raise recall, so the curve is needed at these alone; digits as pycocotools' own."""
    recall = hits / total
    envelope = np.maximum.accumulate((hits / (seen + np.spacing(1)))[::-1])[::-1]
    at = np.searchsorted(recall, RECALL_POINTS, side="left")
    return np.append(envelope, 0.0)[at], float(recall[-1])
