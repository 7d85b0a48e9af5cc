"""Cells as a reviewer sees them: truth and detection paired as `evaluate` pairs them, sorted into views."""

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
"""Hits that overlap less than this are worth a look: at IoU 0.5 they would be none."""

TWICE = 0.6
"""Two boxes of one side that overlap as much are taken for one cell."""

UNCERTAIN = 0.15
"""Scores this close to the operating threshold could have gone either way."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cell:
    """One cell, one detection, or both where they are a pair.

    Parameters
    ----------
    smear : int
        Index in the data set.
    kind : {"hit", "confused", "missed", "false"}
        As in `blastdet evaluate`, class-blind matching.
    truth, found : int
        Row in the smear's truth and in the model's candidates; -1 where there is none.
    true_class, found_class : str
        Empty where there is none.
    truth_box, found_box : (float, float, float, float) or None
        In full-smear pixels.
    iou, score, blast_probability, suspicion : float
        NaN where there is none. `suspicion`: how sure the model contradicts the label, 0 to 1.
    unsure : bool
        The second stage's flag.
    near : bool
        The score lies close to its threshold.
    margin : float
        How far the score lies from its threshold, or the blast probability from a half where that is less; NaN where
        nothing was found.
    cell_type : str
    twice : bool
        Another cell of the same side, annotated or found, lies on it.
    novelty : float
        Distance from what the second stage learnt, over the limit of its card: above 1 it is unlike anything seen. NaN
        where no second stage looked.
    """

    sample: int
    kind: str
    truth: int
    found: int
    true_class: str
    found_class: str
    truth_box: Box | None
    found_box: Box | None
    iou: float
    score: float
    blast_probability: float
    suspicion: float
    unsure: bool
    near: bool
    margin: float
    cell_type: str
    twice: bool = False
    novelty: float = float("nan")

    @property
    def name(self) -> str:
        """Its class: as annotated, or as found where nobody annotated it."""
        return self.true_class or self.found_class

    @property
    def box(self) -> Box:
        """Where to look."""
        found = self.truth_box or self.found_box
        assert found is not None
        return found


@dataclass(frozen=True)
class View:
    """Some cells, most telling first."""

    title: str
    holds: Callable[[Cell], bool]
    order: Callable[[Cell], float]


VIEWS: dict[str, View] = {
    "missed": View(
        "missed white cells", lambda c: c.kind == "missed" and c.true_class in NUCLEATED, lambda c: -_size(c)
    ),
    "missed_blasts": View(
        "missed blasts",
        lambda c: c.true_class == "blast" and c.found_class != "blast",
        lambda c: -_known(c.suspicion),
    ),
    "false": View("false white cells", lambda c: c.kind == "false" and c.found_class in NUCLEATED, lambda c: -c.score),
    "false_blasts": View(
        "false blasts",
        lambda c: c.found_class == "blast" and c.true_class != "blast",
        lambda c: -_known(c.blast_probability),
    ),
    "confused": View("confused classes", lambda c: c.kind == "confused", lambda c: -c.score),
    "low_iou": View("hits that overlap little", lambda c: c.kind == "hit" and c.iou < LOW_IOU, lambda c: c.iou),
    "uncertain": View("uncertain", lambda c: c.unsure or c.near, lambda c: c.margin),
    "label_errors": View(
        "likely label errors",
        # Where the second stage is out of its depth, it is no witness against the label.
        lambda c: c.suspicion > 0.5 and not (c.kind == "confused" and (c.unsure or c.novelty > 1)),
        lambda c: -c.suspicion,
    ),
    "unlike": View("unlike anything seen", lambda c: c.novelty > 1, lambda c: -c.novelty),
    "twice": View("annotated or found twice", lambda c: c.twice, lambda c: -_size(c)),
    "other_errors": View(
        "missed and false red cells and platelets",
        lambda c: c.kind in ("missed", "false") and c.name not in NUCLEATED,
        lambda c: -_known(c.suspicion),
    ),
}
"""Name of each saved view -> what it shows."""


def _known(value: float, instead: float = 0.0) -> float:
    return instead if value != value else value


def _size(cell: Cell) -> float:
    x1, y1, x2, y2 = cell.box
    return (x2 - x1) * (y2 - y1)


def cells_of(dataset: Dataset, predictions: Predictions) -> tuple[Dataset, list[Cell]]:
    """Pair truth and detections of every smear that somebody annotated.

    Returns
    -------
    dataset : Dataset
        As the model sees it: to a detector of nucleated cells, blasts of the truth are ``wbc``. µm/px that the data set
        does not know are those that the model ran with.
    cells : list of Cell
        In the order of smears.

    Raises
    ------
    BlastdetError
        If the predictions are not of this data set, or the two have no class in common.
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
    doubled = _doubled(dataset, predictions)
    return dataset, [_cell(dataset, predictions, result, i, doubled) for i in range(len(rows.sample))]


def _doubled(dataset: Dataset, predictions: Predictions) -> list[tuple[set[int], set[int]]]:
    """Rows of truth and of detections that lie on another one, for each smear."""
    made = []
    for sample, found in zip(dataset, predictions.candidates, strict=True):
        sure = np.flatnonzero(found.above_threshold(predictions.thresholds))
        annotated = _on_another(np.empty((0, 4)) if sample.truth is None else sample.truth.boxes_xyxy)
        made.append((set(annotated), {int(sure[i]) for i in _on_another(found.boxes_xyxy[sure])}))
    return made


def _on_another(boxes_xyxy: np.ndarray[Any, Any]) -> list[int]:
    i, j = boxes.overlapping_pairs(boxes_xyxy.astype(np.float64))
    same = boxes.pair_iou(boxes_xyxy[i], boxes_xyxy[j]) >= TWICE
    return [int(row) for row in np.union1d(i[same], j[same])]


def _cell(
    dataset: Dataset,
    predictions: Predictions,
    result: Confusion,
    row: int,
    doubled: Sequence[tuple[set[int], set[int]]],
) -> Cell:
    rows = result.outcomes
    sample, t, f = int(rows.sample[row]), int(rows.truth[row]), int(rows.found[row])
    truth, found = dataset.samples[sample].truth, predictions.candidates[sample]
    assert truth is not None
    truth_box = _box(truth, t)
    found_box = _box(found, f)
    iou = float("nan")
    if truth_box is not None and found_box is not None:
        iou = float(boxes.iou_matrix(np.array([truth_box]), np.array([found_box]))[0, 0])
    true_class = CELL_CLASSES[rows.truth_label[row]] if t >= 0 else ""
    found_class = CELL_CLASSES[rows.found_label[row]] if f >= 0 else ""
    score = float(found.score[f]) if f >= 0 else float("nan")
    blast = found.blast_probability
    probability = float(blast[f]) if f >= 0 and blast is not None else float("nan")
    limit = predictions.thresholds.get(found_class, 2.0)
    return Cell(
        sample=sample,
        kind="false" if t < 0 else "missed" if f < 0 else "hit" if true_class == found_class else "confused",
        truth=t,
        found=f,
        true_class=true_class,
        found_class=found_class,
        truth_box=truth_box,
        found_box=found_box,
        iou=iou,
        score=score,
        blast_probability=probability,
        suspicion=_suspicion(truth, found, (t, f)),
        unsure=bool(f >= 0 and found.unsure is not None and found.unsure[f]),
        near=bool(f >= 0 and abs(score - limit) < UNCERTAIN),
        margin=float(np.nanmin([abs(score - limit), abs(probability - 0.5)])) if f >= 0 else float("nan"),
        twice=t in doubled[sample][0] or f in doubled[sample][1],
        cell_type=str(found.cell_type[f]) if f >= 0 and found.cell_type is not None else "",
    )


def _box(cells: Detections, row: int) -> Box | None:
    if row < 0 or np.isnan(cells.boxes_xyxy[row]).any():
        return None
    x1, y1, x2, y2 = (float(side) for side in cells.boxes_xyxy[row])
    return x1, y1, x2, y2


def _suspicion(truth: Detections, found: Detections, pair: tuple[int, int]) -> float:
    """How sure the model is that the label is wrong: of another class, not there, or missing."""
    t, f = pair
    if t < 0:
        return _sure(found, f)
    if f >= 0:
        return 0.5 * (1 - _sure(found, f)) if truth.label[t] == found.label[f] else _sure(found, f)
    on_it = boxes.iou_matrix(truth.boxes_xyxy[t : t + 1], found.boxes_xyxy)[0] >= 0.5
    return 0.5 * (1 - float(found.score[on_it].max(initial=0.0)))


def _sure(found: Detections, row: int) -> float:
    """Score of a detection times the probability of its class, where a second stage gave one."""
    score, label = float(found.score[row]), found.label[row]
    blast = float("nan") if found.blast_probability is None else float(found.blast_probability[row])
    if blast != blast or label not in (BLAST, WBC):
        return score
    return score * (blast if label == BLAST else 1 - blast)


def in_view(cells: Sequence[Cell], name: str) -> list[Cell]:
    """Cells of a view, in its order; then by smear and row, so that the order is one."""
    view = VIEWS[name]
    chosen = [cell for cell in cells if view.holds(cell)]
    return sorted(chosen, key=lambda c: (view.order(c), c.sample, c.truth, c.found))


def by_smear(dataset: Dataset, cells: Sequence[Cell]) -> list[list[int]]:
    """Which of the cells lie on each smear."""
    rows: list[list[int]] = [[] for _ in dataset]
    for row, cell in enumerate(cells):
        rows[cell.sample].append(row)
    return rows


def seen_twice(dataset: Dataset, sha256: Sequence[str]) -> list[int]:
    """Smears that show the same field as another one, those of one field together.

    Parameters
    ----------
    dataset : Dataset
        Its groups say which fields overlap.
    sha256 : sequence of str
        Of each smear's file.
    """
    found: list[int] = []
    for values in (sha256, [sample.group for sample in dataset]):
        together: dict[str, list[int]] = {}
        for i, value in enumerate(values):
            if value is not None:
                together.setdefault(value, []).append(i)
        found += [i for some in together.values() if len(some) > 1 for i in some]
    return list(dict.fromkeys(found))
