"""All figures of one model on one dataset: `evaluate`, and the `Evaluation` it returns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blastdet.core.constants import MATCH_IOU
from blastdet.core.errors import ConfigError
from blastdet.core.statistics import Interval
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample
from blastdet.datasets.copies import copies_of_samples
from blastdet.evaluation.allidb_tests import IMAGE_K, CellTest, Verdicts, cell_test, image_test
from blastdet.evaluation.average_precision import APResult, average_precision, average_precision_by_size
from blastdet.evaluation.confusion import MATCHINGS, Confusion, Figure, class_figures, confusion, joint_figures
from blastdet.evaluation.counts import Agreement, Froc, agreements, fraction_coverage, froc
from blastdet.evaluation.intervals import RESAMPLES, ap_intervals
from blastdet.evaluation.match_table import MAX_DETS, Size
from blastdet.evaluation.operating_points import Reliability, Sweep, reliability, sweep
from blastdet.evaluation.predict import Mpp, Predictions, predict
from blastdet.evaluation.reporting.worst_errors import CellError, worst_errors
from blastdet.evaluation.subgroups import SIZES_UM, Slice, slices

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ("AP50", "AP75", "AP", "AR")

_SUMMARY = {"AP50": "AP50", "AP": "AP50:95", "precision": "precision", "sensitivity": "recall", "F1": "F1"}


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Figures of one model on one dataset. In a notebook it shows its summary table.

    Attributes
    ----------
    ap : APResult
        Average precision, with the match table.
    intervals : dict
        Class, or ``"all"``, to figure to 95 % interval.
    by_size : dict
        Average precision by cell size; empty if the µm/px of some image is unknown.
    confusions : tuple of Confusion
        Class-blind, then class-aware.
    cells : dict
        Matching to class to per-cell figures (sensitivity, precision, F1, …).
    joint : list of Figure
        Localisation and classification, separately and jointly.
    counts : list of Agreement
        Counts per image against true counts.
    fraction_coverage : (int, int)
        Images whose 95 % interval of the blast fraction contains the true fraction, and images with such an interval.
    frocs, sweeps, calibration : dict
        Curves of each class.
    images, cell_test
        The ALL-IDB1 tests, if blasts are annotated.
    worst : list of CellError
    slices : list of Slice
        Sensitivity in subgroups of cells.
    """

    dataset: Dataset
    predictions: Predictions
    ap: APResult
    intervals: dict[str, dict[str, Interval]]
    by_size: dict[Size, APResult]
    confusions: tuple[Confusion, ...]
    cells: dict[str, dict[str, list[Figure]]]
    joint: list[Figure]
    counts: list[Agreement]
    fraction_coverage: tuple[int, int]
    frocs: dict[str, Froc]
    sweeps: dict[str, Sweep]
    calibration: dict[str, Reliability]
    images: list[Verdicts]
    cell_test: CellTest | None
    worst: list[CellError]
    slices: list[Slice]

    @cached_property
    def copies(self) -> tuple[str, ...]:
        """A note on images of which the dataset has copies."""
        return copies_of_samples(self.dataset)

    @property
    def title(self) -> str:
        """Model and data."""
        return f"{self.predictions.name} on {self.dataset.name}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each class and one for all: number of annotated cells, average precision with intervals."""
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

    @property
    def summary(self) -> list[dict[str, Any]]:
        """What `to_pandas` returns, as a list of rows."""
        return [self._summary_row(row) for row in self.rows]

    def _summary_row(self, row: dict[str, Any]) -> dict[str, Any]:
        values = {name: (row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("AP50", "AP")}
        for figure in self.cells["class-aware"].get(row["class"], []):
            values[figure.name] = (figure.value, figure.interval.low, figure.interval.high)
        summary = {"class": row["class"], "n": row["n_truth"]}
        for name, column in _SUMMARY.items():
            value, low, high = values.get(name, (np.nan, np.nan, np.nan))
            summary |= {column: value, f"{column}_lower": low, f"{column}_upper": high}
        return summary

    def to_pandas(self) -> pd.DataFrame:
        """One row for each class, and one for all classes.

        Returns
        -------
        pandas.DataFrame
            Columns ``class``, ``n`` (annotated cells) and the figures ``AP50``, ``AP50:95``, ``precision``, ``recall``
            and ``F1``, each with ``_lower`` and ``_upper``, its 95 % interval over groups. Precision, recall and F1 are
            those at the operating point, class-aware matching; they have no value for ``all``.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        from blastdet.evaluation.reporting.tables import as_frame

        return as_frame(self.summary)

    def report(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write ``report.html``, its plots, ``metrics.json`` and CSV tables into a folder.

        Parameters
        ----------
        folder : str or path
            Made if it does not exist.
        overwrite : bool
            Replace an earlier report.

        Returns
        -------
        list of Path

        Raises
        ------
        ConfigError
            If a file exists already.
        """
        from blastdet.evaluation.reporting.report import write_report

        return write_report([self], Path(folder), overwrite=overwrite)

    def __repr__(self) -> str:
        from blastdet.evaluation.reporting.text import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from blastdet.evaluation.reporting.html_report import summary_table

        return summary_table(self)


@dataclass(frozen=True)
class EvaluateOptions:
    """How figures are computed.

    Parameters
    ----------
    iou : float
        Overlap from which a detection matches a cell in the confusion matrices. Average precision uses 0.50 to 0.95.
    max_dets : int
        Detections per class and image that count for average precision.
    resamples : int
        Bootstrap resamples of the intervals.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    iou: float = MATCH_IOU
    max_dets: int = MAX_DETS
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise ConfigError(f"iou: expected a number above 0, at most 1, got {self.iou}")
        for name in ("max_dets", "resamples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: expected a whole number from 1, got {value}")


def evaluate(
    data: Dataset,
    model: Any,
    *,
    mpp: Mpp = "data",
    threshold: float | None = None,
    options: EvaluateOptions = EvaluateOptions(),  # frozen
    progress: Callable[[], None] | None = None,
) -> Evaluation:
    """Measure a model, or detections from any program, on a dataset. Every figure has a 95 % interval over groups.

    Parameters
    ----------
    data : Dataset
        Annotated images, from `blastdet.read_dataset`.
    model : Model, Predictions, str or Path
        A loaded model, the name of a shipped model, a weights folder, a COCO results file (``.json``), or predictions.
    mpp : (float, float), "data", "auto" or None
        µm/px of the images.
    threshold : float, optional
        Operating point of all classes. Default: the model's own; 0.5 for files.
    options : EvaluateOptions
    progress : callable, optional
        Called after each image.

    Returns
    -------
    Evaluation

    Raises
    ------
    BlastdetError
        If the model or an image cannot be read, or the predictions cannot be evaluated.

    Examples
    --------
    >>> from pathlib import Path
    >>> from blastdet import Dataset, Detections, Sample
    >>> cells = Detections([(10, 10, 60, 60)])
    >>> data = Dataset("one", Path(), (Sample(Path("image.jpg"), (100, 100), annotated=("wbc",), truth=cells),))
    >>> evaluation = evaluate(data, Predictions("perfect", (cells,), {"wbc": 0.5}))
    >>> evaluation.summary[0]["class"], round(evaluation.summary[0]["AP50"], 3)
    ('wbc', 1.0)
    """
    predictions = predict(model, data, mpp=mpp, threshold=threshold, progress=progress)
    return _measured(as_nucleated(data) if predictions.nucleated else data, predictions, options)


def _measured(dataset: Dataset, predictions: Predictions, options: EvaluateOptions) -> Evaluation:
    """All figures of predictions that are there."""
    found, thresholds = predictions.candidates, predictions.thresholds
    max_dets, resamples = options.max_dets, options.resamples
    ranked = [by_class_probability(part) for part in found]
    ap = average_precision(dataset, ranked, max_dets, predictions.name)
    confusions = tuple(confusion(dataset, found, ap.classes, thresholds, how, options.iou) for how in MATCHINGS)
    present = [name for name in ap.classes if ap.n_truth[name]]
    with_blasts = "blast" in ap.classes
    return Evaluation(
        dataset,
        predictions,
        ap,
        ap_intervals(ap.table, resamples),
        _by_size(dataset, ranked, max_dets),
        confusions,
        {c.matching: {name: class_figures(c, name, resamples) for name in present} for c in confusions},
        joint_figures(confusions[0], resamples),
        agreements(dataset, found, thresholds, resamples),
        fraction_coverage(dataset, found, thresholds),
        {name: froc(dataset, ap, name) for name in present if name in ("blast", "wbc")},
        {name: sweep(ap.table.classes[name]) for name in present},
        {name: reliability(ap.table.classes[name]) for name in present},
        [image_test(dataset, found, thresholds, k, resamples) for k in IMAGE_K] if with_blasts else [],
        cell_test(dataset, found, thresholds, predictions.mpp, resamples) if with_blasts else None,
        worst_errors(dataset, found, confusions[0]),
        slices(dataset, confusions[1], resamples),
    )


def _by_size(dataset: Dataset, ranked: Sequence[Detections], max_dets: int) -> dict[Size, APResult]:
    """Average precision by cell size; empty if the µm/px of some image is unknown."""
    if any(sample.mpp is None for sample in dataset):
        return {}
    return average_precision_by_size(dataset, ranked, SIZES_UM, max_dets)


def as_nucleated(dataset: Dataset) -> Dataset:
    """The dataset as it applies to a detector of nucleated cells: blasts become ``wbc``.

    An image annotates ``wbc`` in this sense only if it annotates both classes.
    """
    if "blast" not in dataset.classes:
        return dataset
    note = "wbc: any nucleated cell, because the model does not distinguish blasts from other white cells"
    return replace(dataset, samples=tuple(_as_nucleated(sample) for sample in dataset), notes=(*dataset.notes, note))


def _as_nucleated(sample: Sample) -> Sample:
    both = {"blast", "wbc"} <= set(sample.annotated)
    annotated = tuple(name for name in sample.annotated if name not in ("blast", "wbc"))
    truth = sample.truth
    if truth is not None:
        truth = truth.with_columns(label=np.where(truth.label == BLAST, WBC, truth.label))
    return replace(sample, annotated=("wbc", *annotated) if both else annotated, truth=truth)


def by_class_probability(found: Detections) -> Detections:
    """Detections as average precision ranks them after a second stage.

    A nucleated cell counts for both classes: as a blast with score x probability, as another white cell with
    score x (1 - probability). Cells without a blast probability stay as they are.
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
    """Name, size, classes and fingerprint of a dataset."""
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
    """SHA-256 over names, sizes and annotations of all images: equal for equal labels, whatever format they were in."""
    digest = hashlib.sha256()
    for sample in dataset:
        digest.update(f"{sample.path.name} {sample.size_wh} {sorted(sample.annotated)}".encode())
        for column in _truth_columns(sample.truth):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _truth_columns(truth: Detections | None) -> Sequence[np.ndarray[Any, Any]]:
    if truth is None:
        return [np.frombuffer(b"nobody", np.uint8)]  # this value keeps fingerprints of earlier versions valid
    truth = truth.sorted()
    ignore = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore
    return [truth.boxes_xyxy, truth.label, truth.centres_xy, ignore]
