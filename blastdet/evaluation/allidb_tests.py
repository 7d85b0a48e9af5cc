"""The two tests of ALL-IDB1: is the image positive, and which cells are blasts?

Annotations are one centroid per cell, without boxes. A detection finds a cell if the centroid lies inside its
box, the box being 5 to 30 µm long on each side; pairs are one to one, as many as possible, the nearest centres first
(Hungarian method). All white cells take part in the pairing, then the labels are compared.

Source of the tests: R. Donida Labati, V. Piuri, F. Scotti, "ALL-IDB: the acute lymphoblastic leukemia image database
for image processing", IEEE ICIP 2011.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blastdet.core.statistics import Interval
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample, Scale
from blastdet.evaluation.confusion import best_pairs
from blastdet.evaluation.intervals import RESAMPLES, ratio_interval
from blastdet.evaluation.match_table import Bools, Floats, Ints, groups_of

SIDE_UM = (5.0, 30.0)
"""Sides a box may have to count as a white cell, µm."""

IMAGE_K = (1, 2, 3, 5)
"""Numbers of blasts from which an image is called positive."""


@dataclass(frozen=True)
class Verdicts:
    """True and false positives and negatives, with the figures made of them.

    Parameters
    ----------
    name : str
    tp, fp, fn : int
    tn : int, optional
        ``None`` where negatives are unknown: then specificity and CE are, too.
    sensitivity, specificity : Interval
        95 %, bootstrap over groups; NaN where unknown.
    false_blasts : int
        Blasts detected where there is no white cell; part of `fp`.
    """

    name: str
    tp: int
    fp: int
    fn: int
    tn: int | None
    sensitivity: Interval
    specificity: Interval
    false_blasts: int = 0

    @property
    def sensitivity_value(self) -> float:
        """TP / (TP + FN)."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else float("nan")

    @property
    def specificity_value(self) -> float:
        """TN / (TN + FP), FP being negatives called positive (without `false_blasts`); NaN where unknown."""
        wrong = self.fp - self.false_blasts
        return self.tn / (self.tn + wrong) if self.tn is not None and self.tn + wrong else float("nan")

    @property
    def error(self) -> int | None:
        """The classification error CE = FP + FN; ``None`` where negatives are unknown."""
        return None if self.tn is None else self.fp + self.fn


@dataclass(frozen=True, eq=False)
class CellTest:
    """The cell test, and what a reader must know about the boxes.

    Parameters
    ----------
    verdicts : Verdicts
    several : int
        Boxes that hold several centroids: two cells in one box, of which only one can be found.
    wrong_size : int
        Blast detections left out of the pairing for their size; they count as false blasts.
    notes : tuple of str
    """

    verdicts: Verdicts
    several: int
    wrong_size: int
    notes: tuple[str, ...]


def match_points(points_xy: Floats, boxes_xyxy: Floats, usable: Bools) -> tuple[Ints, Ints, int]:
    """Pair centroids with boxes that hold them, one to one, nearest centres first.

    Parameters
    ----------
    usable : bool (m,)
        Boxes that may be paired.

    Returns
    -------
    points, boxes : int64 (k,)
    several : int
        Usable boxes that hold more than one centroid.
    """
    points, boxes = np.asarray(points_xy, np.float64)[:, None, :], np.asarray(boxes_xyxy, np.float64)[None, :, :]
    inside = ((points >= boxes[..., :2]) & (points < boxes[..., 2:])).all(axis=2) & usable[None, :]
    distance = np.linalg.norm(points - (boxes[..., :2] + boxes[..., 2:]) / 2, axis=2)
    farthest = float(distance[inside].max()) if inside.any() else 1.0
    rows, columns = best_pairs(inside, 1 - distance / max(farthest, 1e-9))
    return rows, columns, int((inside.sum(axis=0) > 1).sum())


def cell_test(
    dataset: Dataset,
    candidates: Sequence[Detections],
    thresholds: Mapping[str, float],
    mpp: Sequence[Scale | None] | None = None,
    resamples: int = RESAMPLES,
) -> CellTest:
    """The cell test: blasts are the positives, the other white cells the negatives.

    FP are other white cells called blast, and blasts detected where there is no white cell (`false_blasts`). If an
    image does not annotate the other white cells, negatives are unknown. Then only sensitivity and false blasts have a
    value, and a false blast may be a white cell that is not annotated.

    Parameters
    ----------
    mpp : sequence of (float, float), optional
        µm/px of each image, if it is not in the dataset. Box sizes are not checked if it is unknown.
    """
    scales = [sample.mpp for sample in dataset] if mpp is None else list(mpp)
    judged = [sample.truth is not None and "blast" in sample.annotated for sample in dataset]
    others = all("wbc" in sample.annotated for sample, is_judged in zip(dataset, judged, strict=True) if is_judged)
    rows = np.zeros((len(dataset), 7))
    for i, (sample, found) in enumerate(zip(dataset, candidates, strict=True)):
        if judged[i]:
            rows[i] = _judge(sample, found, thresholds, scales[i])
    tp, fn, fp_cells, tn, false_blasts, several, wrong_size = rows.T
    columns = {"tp": tp, "fn": fn, "fp": fp_cells, "tn": tn}
    verdicts = Verdicts(
        "cell test",
        int(tp.sum()),
        int((fp_cells + false_blasts).sum()),
        int(fn.sum()),
        int(tn.sum()) if others else None,
        *_intervals(columns, groups_of(dataset), others, resamples),
        int(false_blasts.sum()),
    )
    notes = _notes(others, sum(scale is None for scale, j in zip(scales, judged, strict=True) if j))
    return CellTest(verdicts, int(several.sum()), int(wrong_size.sum()), notes)


def _notes(others: bool, unscaled: int) -> tuple[str, ...]:
    notes = []
    if not others:
        notes.append(
            "no centroids of the other white cells (--other): no specificity, no CE; only sensitivity and false blasts"
        )
    if unscaled:
        notes.append(f"µm/px unknown for {unscaled} images: box sizes were not checked there")
    return tuple(notes)


def _judge(sample: Sample, found: Detections, thresholds: Mapping[str, float], mpp: Scale | None) -> tuple[int, ...]:
    """tp, fn, others called blast, tn, blasts on no white cell, boxes with several centroids, blasts of wrong size."""
    assert sample.truth is not None
    truth = sample.truth[np.isin(sample.truth.label, (BLAST, WBC))]
    if truth.ignore is not None:
        truth = truth[~truth.ignore]
    found = found[np.isin(found.label, (BLAST, WBC)) & found.above_threshold(thresholds)]
    usable = _has_size(found.boxes_xyxy.astype(np.float64), mpp)
    points, boxes, several = match_points(_points(truth), found.boxes_xyxy.astype(np.float64), usable)
    called = np.zeros(len(truth), bool)
    called[points] = found.label[boxes] == BLAST
    is_blast, blast_box = truth.label == BLAST, found.label == BLAST
    tp, fp = int((called & is_blast).sum()), int((called & ~is_blast).sum())
    nowhere = int(blast_box.sum()) - tp - fp
    return (
        tp,
        int(is_blast.sum()) - tp,
        fp,
        int((~is_blast).sum()) - fp,
        nowhere,
        several,
        int((blast_box & ~usable).sum()),
    )


def _points(truth: Detections) -> Floats:
    """Annotated centroids, or else the centres of the boxes."""
    centres = (truth.boxes_xyxy[:, :2] + truth.boxes_xyxy[:, 2:]) / 2
    if truth.point_xy is not None:
        centres = np.where(np.isnan(truth.point_xy), centres, truth.point_xy)
    return centres.astype(np.float64)


def _has_size(boxes: Floats, mpp: Scale | None) -> Bools:
    if mpp is None:
        return np.ones(len(boxes), bool)
    sides = (boxes[:, 2:] - boxes[:, :2]) * np.array(mpp)
    return np.asarray(((sides >= SIDE_UM[0]) & (sides <= SIDE_UM[1])).all(axis=1))


def image_test(
    dataset: Dataset,
    candidates: Sequence[Detections],
    thresholds: Mapping[str, float],
    k: int = 1,
    resamples: int = RESAMPLES,
) -> Verdicts:
    """The image test: an image with at least `k` detected blasts is called positive.

    The truth is positive if its label is ``"all"``, negative if it is ``"healthy"``. Otherwise it is positive if it has
    an annotated blast. Images without label and annotations are skipped.
    """
    is_positive = [_is_positive(sample) for sample in dataset]
    known = np.array([value is not None for value in is_positive])
    positive = np.array([bool(value) for value in is_positive])
    limit = thresholds.get("blast", 2.0)
    called = np.array([int(((f.label == BLAST) & (f.score >= limit)).sum()) >= k for f in candidates], bool)
    columns = {
        "tp": known & positive & called,
        "fn": known & positive & ~called,
        "fp": known & ~positive & called,
        "tn": known & ~positive & ~called,
    }
    tp, fn, fp, tn = (int(column.sum()) for column in columns.values())
    floats = {name: column.astype(np.float64) for name, column in columns.items()}
    name = f"image test, at least {k} blast{'s' if k > 1 else ''}"
    return Verdicts(name, tp, fp, fn, tn, *_intervals(floats, groups_of(dataset), True, resamples))


def _is_positive(sample: Sample) -> bool | None:
    if sample.label in ("all", "healthy"):
        return sample.label == "all"
    if sample.truth is None or "blast" not in sample.annotated:
        return None
    return bool((sample.truth.label == BLAST).any())


def _intervals(
    columns: Mapping[str, Floats], group: Ints, negatives: bool, resamples: int
) -> tuple[Interval, Interval]:
    sensitivity = ratio_interval(columns["tp"], columns["tp"] + columns["fn"], group, resamples)
    if not negatives:
        return sensitivity, Interval(float("nan"), float("nan"), "unknown negatives")
    return sensitivity, ratio_interval(columns["tn"], columns["tn"] + columns["fp"], group, resamples)
