"""Cells to review: truth and detections matched as in `evaluate`, and sorted into views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blastdet.core import boxes
from blastdet.core.types import BLAST, CELL_CLASSES, NUCLEATED, WBC, Dataset, Detections
from blastdet.evaluation.confusion import Confusion, confusion
from blastdet.evaluation.evaluate import as_nucleated
from blastdet.evaluation.predict import Predictions, check_predictions, scored_classes

LOW_IOU = 0.65
"""Hits with a lower IoU are worth reviewing: below 0.5 they would not be hits."""

DUPLICATE_IOU = 0.6
"""Two annotations, or two detections, with at least this IoU count as the same cell."""

UNCERTAIN = 0.15
"""A cell is uncertain if its score is closer than this to the operating threshold."""

NAN = float("nan")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cell:
    """One cell, one detection, or both where they are a pair.

    Parameters
    ----------
    sample : int
        Index in the dataset.
    kind : {"hit", "confused", "missed", "false"}
        Outcome of matching regardless of class, as in `blastdet evaluate`.
    truth, detection : int
        Row in the truth and in the model's candidates of the sample; -1 if there is none.
    true_class, detected_class : str
        Empty if there is none.
    truth_box, detected_box : (float, float, float, float) or None
        In pixels of the full image.
    iou, score, blast_probability, suspicion : float
        NaN if unknown. `suspicion`: confidence of the model that the label is wrong, 0 to 1.
    unsure : bool
        The second stage rejects the cell as uncertain.
    near : bool
        The score is close to its threshold.
    margin : float
        Distance of the score from its threshold, or of the blast probability from 0.5 if that is less; NaN without a
        detection.
    cell_type : str
    duplicate : bool
        Another annotation, or another detection, has almost the same box.
    novelty : float
        Distance from the training data of the second stage, divided by the limit in its card: above 1 the cell is out
        of distribution. NaN without a second stage.
    """

    sample: int
    kind: str
    truth: int
    detection: int
    true_class: str
    detected_class: str
    truth_box: Box | None
    detected_box: Box | None
    iou: float = NAN
    score: float = NAN
    blast_probability: float = NAN
    suspicion: float = NAN
    unsure: bool = False
    near: bool = False
    margin: float = NAN
    cell_type: str = ""
    duplicate: bool = False
    novelty: float = NAN

    @property
    def name(self) -> str:
        """The annotated class; that of the detection if the cell is not annotated."""
        return self.true_class or self.detected_class

    @property
    def box(self) -> Box:
        """The annotated box; that of the detection if the cell is not annotated."""
        box = self.truth_box or self.detected_box
        assert box is not None
        return box


@dataclass(frozen=True)
class View:
    """A selection of cells and their order."""

    title: str
    contains: Callable[[Cell], bool]
    order: Callable[[Cell], float]


VIEWS: dict[str, View] = {
    "missed": View(
        "missed white cells", lambda c: c.kind == "missed" and c.true_class in NUCLEATED, lambda c: -_size(c)
    ),
    "missed_blasts": View(
        "missed blasts",
        lambda c: c.true_class == "blast" and c.detected_class != "blast",
        lambda c: -_or_zero(c.suspicion),
    ),
    "false": View(
        "false white cells", lambda c: c.kind == "false" and c.detected_class in NUCLEATED, lambda c: -c.score
    ),
    "false_blasts": View(
        "false blasts",
        lambda c: c.detected_class == "blast" and c.true_class != "blast",
        lambda c: -_or_zero(c.blast_probability),
    ),
    "confused": View("confused classes", lambda c: c.kind == "confused", lambda c: -c.score),
    "low_iou": View("hits with low IoU", lambda c: c.kind == "hit" and c.iou < LOW_IOU, lambda c: c.iou),
    "uncertain": View("uncertain cells", lambda c: c.unsure or c.near, lambda c: c.margin),
    "label_errors": View(
        "likely label errors",
        # A second stage that is uncertain, or sees an unfamiliar cell, says nothing against the label.
        lambda c: c.suspicion > 0.5 and not (c.kind == "confused" and (c.unsure or c.novelty > 1)),
        lambda c: -c.suspicion,
    ),
    "unlike": View("unlike the training data", lambda c: c.novelty > 1, lambda c: -c.novelty),
    "duplicates": View("duplicate boxes", lambda c: c.duplicate, lambda c: -_size(c)),
    "other_errors": View(
        "missed and false red cells and platelets",
        lambda c: c.kind in ("missed", "false") and c.name not in NUCLEATED,
        lambda c: -_or_zero(c.suspicion),
    ),
}
"""Saved views by name."""


def _or_zero(value: float) -> float:
    return 0.0 if value != value else value


def _size(cell: Cell) -> float:
    x1, y1, x2, y2 = cell.box
    return (x2 - x1) * (y2 - y1)


def compare_cells(dataset: Dataset, predictions: Predictions) -> tuple[Dataset, list[Cell]]:
    """Match truth and detections of every annotated sample.

    Raises `BlastdetError` if the predictions belong to another dataset, or have no class in common with it.

    Returns
    -------
    dataset : Dataset
        With the classes of the model: for a detector of nucleated cells, annotated blasts are ``wbc``. Samples without
        µm/px get the scale that the model used.
    cells : list of Cell
        In the order of the samples.
    """
    if predictions.nucleated:
        dataset = as_nucleated(dataset)
    if predictions.mpp is not None:
        known = zip(dataset, predictions.mpp, strict=True)
        dataset = replace(dataset, samples=tuple(replace(sample, mpp=sample.mpp or mpp) for sample, mpp in known))
    check_predictions(dataset, predictions.candidates, predictions.name)
    classes, _ = scored_classes(dataset, predictions.candidates, predictions.name)
    result = confusion(dataset, predictions.candidates, classes, predictions.thresholds)
    rows = result.outcomes
    duplicates = _duplicates(dataset, predictions)
    return dataset, [_cell(dataset, predictions, result, i, duplicates) for i in range(len(rows.sample))]


def _duplicates(dataset: Dataset, predictions: Predictions) -> list[tuple[set[int], set[int]]]:
    """For each sample, rows of truth and of detections that duplicate another one."""
    duplicates = []
    for sample, candidates in zip(dataset, predictions.candidates, strict=True):
        detected = np.flatnonzero(candidates.above_threshold(predictions.thresholds))
        annotated = _duplicate_rows(np.empty((0, 4)) if sample.truth is None else sample.truth.boxes_xyxy)
        rows = _duplicate_rows(candidates.boxes_xyxy[detected])
        duplicates.append((set(annotated), {int(detected[i]) for i in rows}))
    return duplicates


def _duplicate_rows(boxes_xyxy: np.ndarray[Any, Any]) -> list[int]:
    i, j = boxes.overlapping_pairs(boxes_xyxy.astype(np.float64))
    same = boxes.pair_iou(boxes_xyxy[i], boxes_xyxy[j]) >= DUPLICATE_IOU
    return [int(row) for row in np.union1d(i[same], j[same])]


def _cell(
    dataset: Dataset,
    predictions: Predictions,
    result: Confusion,
    row: int,
    duplicates: Sequence[tuple[set[int], set[int]]],
) -> Cell:
    rows = result.outcomes
    sample, t, d = int(rows.sample[row]), int(rows.truth[row]), int(rows.found[row])
    truth, detections = dataset.samples[sample].truth, predictions.candidates[sample]
    assert truth is not None
    true_class = CELL_CLASSES[rows.truth_label[row]] if t >= 0 else ""
    detected_class = CELL_CLASSES[rows.found_label[row]] if d >= 0 else ""
    cell = Cell(
        sample=sample,
        kind="false" if t < 0 else "missed" if d < 0 else "hit" if true_class == detected_class else "confused",
        truth=t,
        detection=d,
        true_class=true_class,
        detected_class=detected_class,
        truth_box=_box(truth, t),
        detected_box=_box(detections, d),
        suspicion=_suspicion(truth, detections, (t, d)),
        duplicate=t in duplicates[sample][0] or d in duplicates[sample][1],
    )
    return cell if d < 0 else _with_detection(cell, detections, d, predictions.thresholds.get(detected_class, 2.0))


def _with_detection(cell: Cell, detections: Detections, row: int, threshold: float) -> Cell:
    """A cell with what the model says of it."""
    score = float(detections.score[row])
    blast = detections.blast_probability
    probability = NAN if blast is None else float(blast[row])
    iou = NAN
    if cell.truth_box is not None and cell.detected_box is not None:
        iou = float(boxes.iou_matrix(np.array([cell.truth_box]), np.array([cell.detected_box]))[0, 0])
    return replace(
        cell,
        iou=iou,
        score=score,
        blast_probability=probability,
        unsure=bool(detections.unsure is not None and detections.unsure[row]),
        near=bool(abs(score - threshold) < UNCERTAIN),
        margin=float(np.nanmin([abs(score - threshold), abs(probability - 0.5)])),
        cell_type="" if detections.cell_type is None else str(detections.cell_type[row]),
    )


def _box(cells: Detections, row: int) -> Box | None:
    if row < 0 or np.isnan(cells.boxes_xyxy[row]).any():
        return None
    x1, y1, x2, y2 = (float(side) for side in cells.boxes_xyxy[row])
    return x1, y1, x2, y2


def _suspicion(truth: Detections, detections: Detections, pair: tuple[int, int]) -> float:
    """Confidence of the model that the label is wrong: another class, no cell, or a missing label."""
    t, d = pair
    if t < 0:
        return _confidence(detections, d)
    if d >= 0:
        confidence = _confidence(detections, d)
        return 0.5 * (1 - confidence) if truth.label[t] == detections.label[d] else confidence
    here = boxes.iou_matrix(truth.boxes_xyxy[t : t + 1], detections.boxes_xyxy)[0] >= 0.5
    return 0.5 * (1 - float(detections.score[here].max(initial=0.0)))


def _confidence(detections: Detections, row: int) -> float:
    """Score of a detection times the probability of its class."""
    score, label = float(detections.score[row]), detections.label[row]
    blast = NAN if detections.blast_probability is None else float(detections.blast_probability[row])
    if blast != blast or label not in (BLAST, WBC):
        return score
    return score * (blast if label == BLAST else 1 - blast)


def in_view(cells: Sequence[Cell], name: str) -> list[Cell]:
    """Cells of a view in its order; ties by sample and row."""
    view = VIEWS[name]
    chosen = [cell for cell in cells if view.contains(cell)]
    return sorted(chosen, key=lambda c: (view.order(c), c.sample, c.truth, c.detection))


def rows_by_sample(dataset: Dataset, cells: Sequence[Cell]) -> list[list[int]]:
    """For each sample, the indices of its cells."""
    rows: list[list[int]] = [[] for _ in dataset]
    for row, cell in enumerate(cells):
        rows[cell.sample].append(row)
    return rows


def repeated_fields(dataset: Dataset, sha256: Sequence[str]) -> list[int]:
    """Samples that show the same field as another one; those of one field follow each other.

    Parameters
    ----------
    dataset : Dataset
        Overlapping fields have the same group.
    sha256 : sequence of str
        Hash of each sample's file.
    """
    repeated: list[int] = []
    for values in (sha256, [sample.group for sample in dataset]):
        together: dict[str, list[int]] = {}
        for i, value in enumerate(values):
            if value is not None:
                together.setdefault(value, []).append(i)
        repeated += [i for some in together.values() if len(some) > 1 for i in some]
    return list(dict.fromkeys(repeated))
