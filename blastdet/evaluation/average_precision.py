"""Average precision, equal to pycocotools' to the last digit, and the match table it rests on.

The matching is our own, over all IoU thresholds at once (`matching.match_greedy`); `pycocotools_figures` runs the
reference beside it, and `blastdet evaluate` stops if the two ever differ.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blastdet.core.errors import BlastdetError, DependencyError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.evaluation.intervals import groups_of
from blastdet.evaluation.match_table import IOU_THRESHOLDS, RECALL_POINTS, ClassMatches, MatchTable, precision_recall
from blastdet.evaluation.matching import Bools, Floats, coco_iou, match_greedy, to_xywh
from blastdet.evaluation.predict import check_predictions, scored_classes

MAX_DETS = 500
"""Detections per class and smear that count; COCO's 100 is fewer than a smear can hold."""


@dataclass(frozen=True, eq=False)
class APResult:
    """Average precision and recall of one model on one data set.

    Parameters
    ----------
    table : MatchTable
    precision : float64 (t, 101, k)
        By IoU threshold, recall and class; NaN for a class without truth.
    recall : float64 (t, k)
    n_truth : dict of str to int
        Cells to be found, by class.
    max_dets : int
    notes : tuple of str
        What was left out of the score, and why.
    """

    table: MatchTable
    precision: Floats
    recall: Floats
    n_truth: dict[str, int]
    max_dets: int
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that were scored."""
        return tuple(self.table.classes)

    def figures(self, name: str | None = None) -> dict[str, float]:
        """AP, AP50, AP75 and AR of a class, or over all classes with truth; NaN where there is none."""
        k = slice(None) if name is None else slice(self.classes.index(name), self.classes.index(name) + 1)
        return summarise(self.precision[:, :, k], self.recall[:, k])


def summarise(precision: Floats, recall: Floats) -> dict[str, float]:
    """COCO's four headline figures from curves (t, 101, k) and recalls (t, k)."""
    return {
        "AP": _mean(precision),
        "AP50": _mean(precision[[0]]),
        "AP75": _mean(precision[[5]]),
        "AR": _mean(recall),
    }


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]  # flat and in order: the same sum, to the last digit, as pycocotools'
    return float(np.mean(known)) if known.size else float("nan")


def average_precision(
    dataset: Dataset,
    predictions: Sequence[Detections],
    max_dets: int = MAX_DETS,
    source: str = "predictions",
    size_um: tuple[float, float] | None = None,
) -> APResult:
    """Average precision of predictions on a data set.

    Cells marked ``ignore`` hide detections of every class. A class is scored only on smears that annotate it, and
    where all its cells have a box.

    Parameters
    ----------
    dataset : Dataset
        Smears nobody annotated are passed over.
    predictions : sequence of Detections
        One for each smear, full-smear pixels, with scores as low as there are (0.01 gives the whole curve).
    max_dets : int
        Detections per class and smear that count.
    source : str
        Where the predictions come from, for messages.
    size_um : (float, float), optional
        Only cells of this size count (least, and less than; square root of the box's area, µm). A detection that
        finds no cell counts if its own size is in the range, as with COCO's areas.

    Raises
    ------
    FormatError, ConfigError
        Predictions that cannot be scored (`inputs.check_predictions`, `inputs.scored_classes`).
    """
    check_predictions(dataset, predictions, source)
    classes, notes = scored_classes(dataset, predictions, source)
    notes += _scope_notes(dataset, classes)
    pairs = list(zip(dataset, predictions, strict=True))
    table = MatchTable(
        {name: _match_class(pairs, name, max_dets, size_um) for name in classes}, IOU_THRESHOLDS, groups_of(dataset)
    )
    return from_table(table, max_dets, tuple(notes))


def from_table(table: MatchTable, max_dets: int = MAX_DETS, notes: tuple[str, ...] = ()) -> APResult:
    """The figures of a match table: counting only, no box is looked at."""
    curves = [precision_recall(matches) for matches in table.classes.values()]
    return APResult(
        table,
        np.stack([precision for precision, _ in curves], axis=2),
        np.stack([recall for _, recall in curves], axis=1),
        {name: int(matches.n_truth.sum()) for name, matches in table.classes.items()},
        max_dets,
        notes,
    )


def is_scored(sample: Sample, name: str) -> bool:
    """Whether this smear can tell a right detection of class `name` from a wrong one."""
    if sample.truth is None or name not in sample.annotated:
        return False
    return not np.isnan(_cells(sample.truth, name).boxes_xyxy).any()


def _cells(truth: Detections, name: str) -> Detections:
    mine = truth.label == CELL_CLASSES.index(name)
    return truth[mine if truth.ignore is None else mine & ~truth.ignore]


def _scope_notes(dataset: Dataset, classes: tuple[str, ...]) -> list[str]:
    nobody = sum(sample.truth is None for sample in dataset)
    notes = [f"{nobody} of {len(dataset)} smears: nobody annotated them, passed over"] if nobody else []
    for name in classes:
        scored = sum(is_scored(sample, name) for sample in dataset)
        if scored < len(dataset) - nobody:
            notes.append(
                f"{name}: scored on {scored} of {len(dataset)} smears, those that annotate all of it with boxes"
            )
    return notes


def _truth_columns(sample: Sample, name: str) -> tuple[Floats, Bools]:
    """Boxes (g, 4) as xywh that concern a class, and which are regions to ignore; cells first."""
    assert sample.truth is not None
    cells = to_xywh(_cells(sample.truth, name).boxes_xyxy)
    hidden = sample.truth.boxes_xyxy[sample.truth.ignore] if sample.truth.ignore is not None else np.empty((0, 4))
    regions = to_xywh(hidden[~np.isnan(hidden).any(axis=1)])
    return np.concatenate([cells, regions]), np.arange(len(cells) + len(regions)) >= len(cells)


def _best(found: Detections, name: str, max_dets: int) -> Detections:
    mine = np.flatnonzero(found.label == CELL_CLASSES.index(name))
    return found[mine[np.argsort(-found.score[mine], kind="stable")][:max_dets]]


def _match_class(
    pairs: Sequence[tuple[Sample, Detections]], name: str, max_dets: int, size_um: tuple[float, float] | None
) -> ClassMatches:
    """Verdicts on all detections of one class, over all smears that can be scored for it."""
    n_truth = np.zeros(len(pairs), np.int64)
    empty = np.empty((len(IOU_THRESHOLDS), 0), bool)
    scores, smears, found, ignored = [np.empty(0)], [np.empty(0, np.int64)], [empty], [empty]
    for index, (sample, detections) in enumerate(pairs):
        if not is_scored(sample, name):
            continue
        best = _best(detections, name, max_dets)
        n_truth[index], right, void = _match_smear(sample, best, name, size_um)
        scores.append(best.score.astype(np.float64))
        smears.append(np.full(len(best), index, np.int64))
        found.append(right)
        ignored.append(void)
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    return ClassMatches(
        score[order],
        np.concatenate(smears)[order],
        np.concatenate(found, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
        n_truth,
    )


def _match_smear(
    sample: Sample, best: Detections, name: str, size_um: tuple[float, float] | None
) -> tuple[int, Bools, Bools]:
    truth, region = _truth_columns(sample, name)
    boxes = to_xywh(best.boxes_xyxy)
    passed_over = region | ~_in_range(truth, sample, size_um)
    match = match_greedy(coco_iou(boxes, truth, region), passed_over, region, IOU_THRESHOLDS)
    matched = match >= 0
    void = matched & np.append(passed_over, False)[match]
    void |= ~matched & ~_in_range(boxes, sample, size_um)
    return int((~passed_over).sum()), matched & ~void, void


def _in_range(boxes_xywh: Floats, sample: Sample, size_um: tuple[float, float] | None) -> Bools:
    if size_um is None:
        return np.ones(len(boxes_xywh), bool)
    if sample.mpp is None:
        return np.zeros(len(boxes_xywh), bool)
    side = np.sqrt(boxes_xywh[:, 2] * boxes_xywh[:, 3] * sample.mpp[0] * sample.mpp[1])
    return np.asarray((side >= size_um[0]) & (side < size_um[1]))


def coco_sides(dataset: Dataset, predictions: Sequence[Detections], classes: Sequence[str]) -> tuple[Any, Any]:
    """Truth and predictions as two ``pycocotools.coco.COCO`` objects; smear i has the id i + 1.

    Raises
    ------
    DependencyError
        If pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError:
        raise DependencyError("pycocotools is not installed: in the checkout, pip install -e '.[evaluate]'") from None
    sides = []
    for rows in _coco_annotations(dataset, predictions, classes):
        side = COCO()
        side.dataset = {
            "images": [{"id": i + 1} for i in range(len(dataset))],
            "annotations": rows,
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(classes)],
        }
        side.createIndex()
        sides.append(side)
    return sides[0], sides[1]


def pycocotools_figures(
    dataset: Dataset, predictions: Sequence[Detections], classes: Sequence[str], max_dets: int = MAX_DETS
) -> tuple[Floats, Floats]:
    """The same curves by pycocotools itself: precision (t, 101, k) and recall (t, k), NaN without truth."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        sides = coco_sides(dataset, predictions, classes)
        from pycocotools.cocoeval import COCOeval

        run = COCOeval(*sides, "bbox")
        run.params.maxDets = [max_dets]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    precision, recall = run.eval["precision"][:, :, :, 0, 0], run.eval["recall"][:, :, 0, 0]
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def _coco_annotations(
    dataset: Dataset, predictions: Sequence[Detections], classes: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for i, (sample, detections) in enumerate(zip(dataset, predictions, strict=True)):
        for k, name in enumerate(classes):
            if not is_scored(sample, name):
                continue
            common = {"image_id": i + 1, "category_id": k + 1}
            boxes, region = _truth_columns(sample, name)
            for box, crowd in zip(boxes.tolist(), region.tolist(), strict=True):
                row = {"id": len(truth) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)}
                truth.append({**common, **row})
            mine = detections[detections.label == CELL_CLASSES.index(name)]
            for box, score in zip(to_xywh(mine.boxes_xyxy).tolist(), mine.score.tolist(), strict=True):
                row = {"id": len(found) + 1, "bbox": box, "area": box[2] * box[3], "score": score}
                found.append({**common, **row})
    return truth, found


def check_against_pycocotools(dataset: Dataset, predictions: Sequence[Detections], result: APResult) -> str:
    """Run pycocotools beside our own counting and return its version; a difference in any digit is an error."""
    precision, recall = pycocotools_figures(dataset, predictions, result.classes, result.max_dets)
    same = np.array_equal(precision, result.precision, equal_nan=True)
    if not (same and np.array_equal(recall, result.recall, equal_nan=True)):
        raise BlastdetError(f"{dataset.root}: our average precision differs from pycocotools': please report this")
    from importlib.metadata import version

    return version("pycocotools")


__all__ = [
    "IOU_THRESHOLDS",
    "MAX_DETS",
    "RECALL_POINTS",
    "APResult",
    "average_precision",
    "check_against_pycocotools",
    "coco_sides",
    "from_table",
    "is_scored",
    "pycocotools_figures",
    "summarise",
]
