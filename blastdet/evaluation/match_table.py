"""The match table: which detections are right, at every IoU threshold. Everything else is counted from it.

pycocotools matches detections with annotated cells, once. Average precision, curves, the bootstrap over groups and
comparisons of two models are computed from the table, without looking at a box again.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastdet.core.errors import DependencyError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)

MAX_DETS = 500
"""Number of detections per class and image that count. COCO's 100 is too few for a blood smear."""

Size = tuple[float, float]
"""Range of cell sizes, µm: the square root of the box's area is at least the first and less than the second."""


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """All detections of one class, highest score first, with the result of matching.

    Parameters
    ----------
    score : float64 (n,)
        Descending.
    sample : int64 (n,)
        Index of the image in the dataset.
    found : bool (t, n)
        True positive at each IoU threshold.
    ignored : bool (t, n)
        Neither right nor wrong at each IoU threshold.
    n_truth : int64 (s,)
        Cells to be found in each image.
    """

    score: Floats
    sample: Ints
    found: Bools
    ignored: Bools
    n_truth: Ints

    @cached_property
    def found_at(self) -> list[Ints]:
        """Indices of the true positives at each IoU threshold."""
        return [np.flatnonzero(row) for row in self.found]

    @cached_property
    def any_ignored(self) -> bool:
        """Whether any detection is ignored at any threshold."""
        return bool(self.ignored.any())


@dataclass(frozen=True, eq=False)
class MatchTable:
    """The matches of all classes on one dataset.

    Parameters
    ----------
    classes : dict of str to ClassMatches
        In the order of `CELL_CLASSES`.
    group : int64 (s,)
        Number of the group of each image, 0 … n_groups - 1.
    """

    classes: dict[str, ClassMatches]
    group: Ints

    @property
    def n_groups(self) -> int:
        """Number of groups, the units that the bootstrap draws."""
        return int(self.group.max()) + 1 if len(self.group) else 0

    def n_groups_with(self, name: str) -> int:
        """Number of groups with a cell or a detection of a class, or of any class if `name` is ``"all"``.

        Resamples differ in nothing else: of one such group all are equal.
        """
        some = self.classes.values() if name == "all" else [self.classes[name]]
        images = [np.concatenate([np.flatnonzero(one.n_truth), one.sample]) for one in some]
        return len(np.unique(self.group[np.concatenate(images)])) if images else 0


def groups_of(dataset: Dataset) -> Ints:
    """Number of the group of each image, (s,); an image without a group is a group of its own."""
    keys = [f"group {s.group}" if s.group is not None else f"image {i}" for i, s in enumerate(dataset)]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64)


def match(
    dataset: Dataset,
    predictions: Sequence[Detections],
    classes: Sequence[str],
    max_dets: int = MAX_DETS,
    sizes_um: Sequence[Size] | None = None,
) -> list[MatchTable]:
    """Match detections with annotated cells by the COCO protocol.

    A detection may match a cell of its own class. In order of score, each takes the free cell it overlaps most.
    Annotations marked ``ignore`` are COCO's crowds for every class. A class is matched only on images that annotate it
    with boxes (`is_scored`). Raises `DependencyError` if pycocotools is not installed.

    Parameters
    ----------
    predictions : sequence of Detections
        One for each image.
    max_dets : int
        Detections per class and image that count.
    sizes_um : sequence of (float, float), optional
        One table for each range of cell sizes. Cells of another size are ignored, and so are unmatched detections of
        another size, as with COCO's areas. Images without µm/px have no cells of any size.

    Returns
    -------
    list of MatchTable
        One for each range; a single one without `sizes_um`.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        run = coco_eval(dataset, predictions, classes, max_dets, sizes_um)
        run.evaluate()
    n, ranges = len(dataset), len(run.params.areaRng)
    group, tables = groups_of(dataset), []
    for a in range(ranges):
        parts = {name: run.evalImgs[(k * ranges + a) * n : (k * ranges + a + 1) * n] for k, name in enumerate(classes)}
        matches = {name: _class_matches(images) for name, images in parts.items()}
        tables.append(MatchTable(matches, group))
    return tables


def _class_matches(images: Sequence[dict[str, Any] | None]) -> ClassMatches:
    """One class in one size range, from pycocotools' result for each image."""
    n_truth = np.zeros(len(images), np.int64)
    empty = np.empty((len(IOU_THRESHOLDS), 0), bool)
    scores, samples, found, ignored = [np.empty(0)], [np.empty(0, np.int64)], [empty], [empty]
    for index, image in enumerate(images):
        if image is None:  # neither cells nor detections
            continue
        n_truth[index] = np.count_nonzero(np.asarray(image["gtIgnore"]) == 0)
        hidden = np.asarray(image["dtIgnore"], bool)
        scores.append(np.asarray(image["dtScores"], np.float64))
        samples.append(np.full(len(image["dtScores"]), index, np.int64))
        found.append((image["dtMatches"] > 0) & ~hidden)
        ignored.append(hidden)
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    return ClassMatches(
        score[order],
        np.concatenate(samples)[order],
        np.concatenate(found, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
        n_truth,
    )


def coco_eval(
    dataset: Dataset,
    predictions: Sequence[Detections],
    classes: Sequence[str],
    max_dets: int = MAX_DETS,
    sizes_um: Sequence[Size] | None = None,
) -> Any:
    """A ``pycocotools.cocoeval.COCOeval`` of the two sides, ready to run; image i has the id i + 1.

    Its "area" is the size of a cell in µm, so that a size range means the same in images of any scale.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise DependencyError("pycocotools: not installed. Run: pip install 'blastdet[evaluate]'") from None
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
    run = COCOeval(*sides, "bbox")
    run.params.iouThrs, run.params.recThrs = IOU_THRESHOLDS, RECALL_POINTS
    run.params.maxDets = [max_dets]
    run.params.areaRng = [[-np.inf, np.inf]]
    if sizes_um is not None:
        run.params.areaRng = [[low, np.nextafter(high, low)] for low, high in sizes_um]  # COCO includes both ends
    return run


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
            rows = zip(boxes.tolist(), _size_um(boxes, sample).tolist(), region.tolist(), strict=True)
            for box, size, crowd in rows:
                truth.append({**common, "id": len(truth) + 1, "bbox": box, "area": size, "iscrowd": int(crowd)})
            mine = detections[detections.label == CELL_CLASSES.index(name)]
            boxes = to_xywh(mine.boxes_xyxy)
            rows = zip(boxes.tolist(), _size_um(boxes, sample).tolist(), mine.score.tolist(), strict=True)
            for box, size, score in rows:
                found.append({**common, "id": len(found) + 1, "bbox": box, "area": size, "score": score})
    return truth, found


def to_xywh(boxes_xyxy: ArrayLike) -> Floats:
    """Boxes (n, 4) as COCO stores them: x, y, width, height, float64."""
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def is_scored(sample: Sample, name: str) -> bool:
    """Whether detections of class `name` can be evaluated on this image: all its cells are annotated with boxes."""
    if sample.truth is None or name not in sample.annotated:
        return False
    return not np.isnan(_cells(sample.truth, name).boxes_xyxy).any()


def _cells(truth: Detections, name: str) -> Detections:
    mine = truth.label == CELL_CLASSES.index(name)
    return truth[mine if truth.ignore is None else mine & ~truth.ignore]


def _truth_columns(sample: Sample, name: str) -> tuple[Floats, Bools]:
    """Boxes (g, 4) as xywh that concern a class, and which of them are regions to ignore; cells first."""
    assert sample.truth is not None
    cells = to_xywh(_cells(sample.truth, name).boxes_xyxy)
    hidden = sample.truth.boxes_xyxy[sample.truth.ignore] if sample.truth.ignore is not None else np.empty((0, 4))
    regions = to_xywh(hidden[~np.isnan(hidden).any(axis=1)])
    return np.concatenate([cells, regions]), np.arange(len(cells) + len(regions)) >= len(cells)


def _size_um(boxes_xywh: Floats, sample: Sample) -> Floats:
    """Square root of each box's area in µm, (n,); -1, which is in no range, where the µm/px is unknown."""
    if sample.mpp is None:
        return np.full(len(boxes_xywh), -1.0)
    return np.asarray(np.sqrt(boxes_xywh[:, 2] * boxes_xywh[:, 3] * sample.mpp[0] * sample.mpp[1]), np.float64)


def precision_recall(matches: ClassMatches, weight: Ints | None = None) -> tuple[Floats, Floats]:
    """Precision at 101 levels of recall, and the highest recall, at every IoU threshold.

    `weight`, int64 (s,), is how often each image counts: a bootstrap is a choice of weights.

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
    for t, at in enumerate(matches.found_at):
        if matches.any_ignored:
            seen = np.cumsum(np.where(matches.ignored[t], 0, each))
        hits = np.cumsum(each[at])
        if len(at):
            precision[t], recall[t] = _interpolate(hits, seen[at], total)
    return precision, recall


def _interpolate(hits: Ints, seen: Ints, total: int) -> tuple[Floats, float]:
    """Only true positives raise recall, so the curve is computed there only; rounding as in pycocotools."""
    recall = hits / total
    envelope = np.maximum.accumulate((hits / (seen + np.spacing(1)))[::-1])[::-1]
    at = np.searchsorted(recall, RECALL_POINTS, side="left")
    return np.append(envelope, 0.0)[at], float(recall[-1])
