"""All figures of one model on one data set, gathered in one object; `output` writes it, `report` draws it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blastdet.core.statistics import Interval
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample
from blastdet.evaluation.allidb_tests import IMAGE_K, CellTest, Verdicts, cell_test, image_test
from blastdet.evaluation.average_precision import MAX_DETS, APResult, average_precision, check_against_pycocotools
from blastdet.evaluation.confusion import MATCHINGS, Confusion, Figure, class_figures, confusion, joint_figures
from blastdet.evaluation.counts import Agreement, Froc, agreements, froc, share_coverage
from blastdet.evaluation.intervals import RESAMPLES, ap_intervals
from blastdet.evaluation.operating_points import Reliability, Sweep, reliability, sweep
from blastdet.evaluation.predict import Predictions
from blastdet.evaluation.reporting.worst_errors import CellError, worst_errors
from blastdet.evaluation.subgroups import SIZES_UM, Slice, slices

FIGURES = ("AP50", "AP75", "AP", "AR")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one model on one data set; one part for each module that computes it."""

    dataset: Dataset
    predictions: Predictions
    ap: APResult
    intervals: dict[str, dict[str, Interval]]
    pycocotools: str
    by_size: dict[tuple[float, float], APResult]
    confusions: tuple[Confusion, ...]
    cells: dict[str, dict[str, list[Figure]]]
    joint: list[Figure]
    counts: list[Agreement]
    share_coverage: tuple[int, int]
    frocs: dict[str, Froc]
    sweeps: dict[str, Sweep]
    calibration: dict[str, Reliability]
    images: list[Verdicts]
    cell_test: CellTest | None
    worst: list[CellError]
    slices: list[Slice]

    @property
    def title(self) -> str:
        """Model and data."""
        return f"{self.predictions.name} on {self.dataset.name}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each class and one for all of them: truth and every average precision with its interval."""
        rows = []
        for name in (*self.ap.classes, "all"):
            truth = sum(self.ap.n_truth.values()) if name == "all" else self.ap.n_truth[name]
            row: dict[str, Any] = {"model": self.predictions.name, "data": self.dataset.name, "class": name}
            row["n_truth"] = truth
            figures = self.ap.figures(None if name == "all" else name)
            for figure in FIGURES:
                interval = self.intervals[name][figure]
                row |= {figure: figures[figure], f"{figure}_low": interval.low, f"{figure}_high": interval.high}
            rows.append(row)
        return rows


def evaluate(
    dataset: Dataset, predictions: Predictions, max_dets: int = MAX_DETS, resamples: int = RESAMPLES
) -> Evaluation:
    """Measure one model on one data set, everything with intervals over groups.

    Raises
    ------
    BlastdetError
        Predictions that cannot be scored, or average precision that is not pycocotools'.
    """
    if predictions.nucleated:
        dataset = as_nucleated(dataset)
    found, thresholds = predictions.candidates, predictions.thresholds
    ranked = [by_class_probability(part) for part in found]
    ap = average_precision(dataset, ranked, max_dets, predictions.name)
    version = check_against_pycocotools(dataset, ranked, ap)
    confusions = tuple(confusion(dataset, found, ap.classes, thresholds, how) for how in MATCHINGS)
    judged = [name for name in ap.classes if ap.n_truth[name]]
    with_blasts = "blast" in ap.classes
    return Evaluation(
        dataset,
        predictions,
        ap,
        ap_intervals(ap.table, resamples),
        version,
        _by_size(dataset, ranked, max_dets),
        confusions,
        {c.matching: {name: class_figures(c, name, resamples) for name in judged} for c in confusions},
        joint_figures(confusions[0], resamples),
        agreements(dataset, found, thresholds, resamples),
        share_coverage(dataset, found, thresholds),
        {name: froc(dataset, ap, name) for name in judged if name in ("blast", "wbc")},
        {name: sweep(ap.table.classes[name]) for name in judged},
        {name: reliability(ap.table.classes[name]) for name in judged},
        [image_test(dataset, found, thresholds, k, resamples) for k in IMAGE_K] if with_blasts else [],
        cell_test(dataset, found, thresholds, predictions.mpp, resamples) if with_blasts else None,
        worst_errors(dataset, found, confusions[0]),
        slices(dataset, confusions[1], resamples),
    )


def _by_size(dataset: Dataset, ranked: Sequence[Detections], max_dets: int) -> dict[tuple[float, float], APResult]:
    """Average precision by cell size; nothing where a smear's µm/px is unknown."""
    if any(sample.mpp is None for sample in dataset):
        return {}
    return {size: average_precision(dataset, ranked, max_dets, size_um=size) for size in SIZES_UM}


def as_nucleated(dataset: Dataset) -> Dataset:
    """The same data set as a detector of nucleated cells sees it: blasts are ``wbc``, too.

    A smear annotates ``wbc`` in this sense only if it annotates both.
    """
    if "blast" not in dataset.classes:
        return dataset
    note = "wbc: any nucleated cell, for the model tells no blasts from other white cells"
    return replace(dataset, samples=tuple(_as_nucleated(sample) for sample in dataset), notes=(*dataset.notes, note))


def _as_nucleated(sample: Sample) -> Sample:
    both = {"blast", "wbc"} <= set(sample.annotated)
    annotated = tuple(name for name in sample.annotated if name not in ("blast", "wbc"))
    truth = sample.truth
    if truth is not None:
        truth = truth.with_columns(label=np.where(truth.label == BLAST, WBC, truth.label))
    return replace(sample, annotated=("wbc", *annotated) if both else annotated, truth=truth)


def by_class_probability(found: Detections) -> Detections:
    """Detections as average precision must rank them after a second stage.

    A nucleated cell stands for both classes: as a blast with score x probability, as another white cell with
    score x (1 - probability). Where no second stage looked nothing changes.
    """
    if found.blast_probability is None:
        return found
    p = found.blast_probability
    staged = ~np.isnan(p) & np.isin(found.label, (BLAST, WBC))
    if not staged.any():
        return found
    cells = found[staged]
    as_blast = cells.with_columns(score=cells.score * p[staged], label=np.full(len(cells), BLAST))
    as_other = cells.with_columns(score=cells.score * (1 - p[staged]), label=np.full(len(cells), WBC))
    return Detections.concatenate([found[~staged], as_blast, as_other])


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Name, size, classes and fingerprint of a data set."""
    groups = {sample.group if sample.group is not None else i for i, sample in enumerate(dataset)}
    return {
        "name": dataset.name,
        "splits": sorted({sample.split for sample in dataset if sample.split is not None}),
        "n_smears": len(dataset),
        "n_groups": len(groups),
        "classes": list(dataset.classes),
        "truth_fingerprint": truth_fingerprint(dataset),
        "notes": list(dataset.notes),
        "dropped": list(dataset.dropped),
    }


def truth_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over names, sizes and truth of all smears: the same for the same labels, whoever reads them."""
    digest = hashlib.sha256()
    for sample in dataset:
        digest.update(f"{sample.path.name} {sample.size_wh} {sorted(sample.annotated)}".encode())
        for column in _truth_columns(sample.truth):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _truth_columns(truth: Detections | None) -> Sequence[np.ndarray[Any, Any]]:
    if truth is None:
        return [np.frombuffer(b"nobody", np.uint8)]
    truth = truth.sorted()
    ignore = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore
    return [truth.boxes_xyxy, truth.label, truth.centres_xy, ignore]
