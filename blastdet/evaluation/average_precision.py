"""Average precision by the COCO protocol, with the match table it is counted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blastdet.core.types import Dataset, Detections
from blastdet.evaluation.match_table import MAX_DETS, Floats, MatchTable, Size, is_scored, match, precision_recall
from blastdet.evaluation.predict import check_predictions, scored_classes


@dataclass(frozen=True, eq=False)
class APResult:
    """Average precision and recall of one model on one dataset.

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
        What was not evaluated, and why.
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
    known = values[~np.isnan(values)]  # flat and in order: rounded as in pycocotools
    return float(np.mean(known)) if known.size else float("nan")


def average_precision(
    dataset: Dataset, predictions: Sequence[Detections], max_dets: int = MAX_DETS, source: str = "predictions"
) -> APResult:
    """Average precision of predictions on a dataset.

    Annotations marked ``ignore`` hide detections of every class. A class is evaluated only on images that annotate it
    with boxes. Raises `FormatError` or `ConfigError`: predictions that cannot be evaluated
    (`predict.check_predictions`, `predict.scored_classes`). Raises `DependencyError` if pycocotools is not installed.

    Parameters
    ----------
    dataset : Dataset
        Images without annotations are skipped.
    predictions : sequence of Detections
        One for each image, in full-image pixels, with scores down to 0.01 or so for complete curves.
    max_dets : int
        Detections per class and image that count.
    source : str
        Where the predictions come from, for messages.
    """
    check_predictions(dataset, predictions, source)
    classes, notes = scored_classes(dataset, predictions, source)
    (table,) = match(dataset, predictions, classes, max_dets)
    return from_table(table, max_dets, (*notes, *_scope_notes(dataset, classes)))


def average_precision_by_size(
    dataset: Dataset, predictions: Sequence[Detections], sizes_um: Sequence[Size], max_dets: int = MAX_DETS
) -> dict[Size, APResult]:
    """Average precision of the cells of each size; see `match_table.match`."""
    classes, _ = scored_classes(dataset, predictions, "predictions")
    tables = match(dataset, predictions, classes, max_dets, sizes_um)
    return {size: from_table(table, max_dets) for size, table in zip(sizes_um, tables, strict=True)}


def from_table(table: MatchTable, max_dets: int = MAX_DETS, notes: tuple[str, ...] = ()) -> APResult:
    """Average precision of a match table."""
    curves = [precision_recall(matches) for matches in table.classes.values()]
    return APResult(
        table,
        np.stack([precision for precision, _ in curves], axis=2),
        np.stack([recall for _, recall in curves], axis=1),
        {name: int(matches.n_truth.sum()) for name, matches in table.classes.items()},
        max_dets,
        notes,
    )


def _scope_notes(dataset: Dataset, classes: tuple[str, ...]) -> list[str]:
    skipped = sum(sample.truth is None for sample in dataset)
    notes = [f"{skipped} of {len(dataset)} images have no annotations and were skipped"] if skipped else []
    for name in classes:
        scored = sum(is_scored(sample, name) for sample in dataset)
        if scored < len(dataset) - skipped:
            notes.append(f"{name}: evaluated on the {scored} of {len(dataset)} images that annotate it with boxes")
    return notes
