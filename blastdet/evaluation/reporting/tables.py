"""An evaluation as JSON, CSV and data frames."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blastdet import __version__
from blastdet.core import atomic_io
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import BlastdetError
from blastdet.core.packages import needed
from blastdet.evaluation.allidb_tests import Verdicts
from blastdet.evaluation.comparison import Comparison
from blastdet.evaluation.confusion import Confusion, Figure
from blastdet.evaluation.evaluate import Evaluation, describe_data
from blastdet.evaluation.match_table import RECALL_POINTS
from blastdet.evaluation.reporting.text import HOW_MATCHED, all_notes

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILES = (
    "metrics.json",
    "per_class.csv",
    "figures.csv",
    "confusion.csv",
    "precision_recall.csv",
    "froc.csv",
    "comparison.csv",
)
"""What `write_tables` writes, the last only for comparisons."""


def as_json(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Everything that was measured, in plain values (NaN becomes null: JSON has none)."""
    document = {
        "notice": RESEARCH_USE,
        "blastdet": __version__,
        "how_matched": list(HOW_MATCHED),
        "evaluations": [_evaluation_json(evaluation) for evaluation in evaluations],
    }
    plain = _plain(document)
    assert isinstance(plain, dict)
    return plain


def _evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "data": describe_data(evaluation.dataset),
        "model": {"name": evaluation.predictions.name, **evaluation.predictions.about},
        "thresholds": evaluation.predictions.thresholds,
        "average_precision": {
            "max_dets": evaluation.ap.max_dets,
            "checked_against": f"pycocotools {version('pycocotools')}",
            "intervals": evaluation.intervals["all"]["AP"].method,
            "rows": evaluation.rows,
            "by_cell_size_um": {f"{a:g}-{b:g}": _size_json(evaluation, (a, b)) for a, b in evaluation.by_size},
        },
        "confusion": [_confusion_json(evaluation, result) for result in evaluation.confusions],
        "localisation_and_classification": evaluation.joint,
        "slices": evaluation.slices,
        "counts_per_smear": evaluation.counts,
        "blast_share_intervals": dict(zip(("hold_the_truth", "smears"), evaluation.fraction_coverage, strict=True)),
        "image_tests": [_verdict_json(verdicts) for verdicts in evaluation.images],
        "cell_test": _cell_test_json(evaluation),
        "calibration_error": {name: curve.error for name, curve in evaluation.calibration.items()},
        "notes": all_notes(evaluation),
    }


def _size_json(evaluation: Evaluation, size: tuple[float, float]) -> dict[str, Any]:
    result = evaluation.by_size[size]
    return {name: {"n_truth": n, **result.figures(name)} for name, n in result.n_truth.items() if n}


def _confusion_json(evaluation: Evaluation, result: Confusion) -> dict[str, Any]:
    return {
        "title": result.title,
        "matching": result.matching,
        "iou": result.iou,
        "thresholds": {name: result.thresholds.get(name) for name in result.classes},
        "rows": [*result.classes, "false"],
        "columns": [*result.classes, "missed"],
        "matrix": result.matrix,
        "per_class": evaluation.cells[result.matching],
    }


def _verdict_json(verdicts: Verdicts) -> dict[str, Any]:
    values = {"sensitivity": verdicts.sensitivity_value, "specificity": verdicts.specificity_value}
    intervals = {"sensitivity_ci95": verdicts.sensitivity, "specificity_ci95": verdicts.specificity}
    counts = {key: getattr(verdicts, key) for key in ("name", "tp", "fp", "fn", "tn", "false_blasts")}
    return {**counts, "CE": verdicts.error, **values, **intervals}


def _cell_test_json(evaluation: Evaluation) -> dict[str, Any] | None:
    test = evaluation.cell_test
    if test is None:
        return None
    sizes = {"boxes_holding_several_centroids": test.several, "blasts_of_wrong_size": test.wrong_size}
    return {**_verdict_json(test.verdicts), **sizes, "notes": list(test.notes)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def figure_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every per-cell and counting figure in one long table."""
    rows = []
    for result in evaluation.confusions:
        for name, figures in evaluation.cells[result.matching].items():
            rows += [_figure_row(evaluation, result.title, name, figure) for figure in figures]
    rows += [_figure_row(evaluation, evaluation.confusions[0].title, "all", figure) for figure in evaluation.joint]
    for part in evaluation.slices:
        made = Figure(f"sensitivity, {part.slice}", part.sensitivity, part.interval, part.n)
        rows.append(_figure_row(evaluation, evaluation.confusions[1].title, part.name, made))
    for count in evaluation.counts:
        for figure, interval in count.intervals.items():
            made = Figure(figure, getattr(count, figure), interval, count.n)
            rows.append(_figure_row(evaluation, "count per smear", count.name, made))
    return rows


def _figure_row(evaluation: Evaluation, how: str, name: str, figure: Figure) -> dict[str, Any]:
    where = {"model": evaluation.predictions.name, "data": evaluation.dataset.name, "how": how, "class": name}
    interval = figure.interval
    numbers = {"value": figure.value, "low": interval.low, "high": interval.high, "n": figure.n}
    return {**where, "figure": figure.name, **numbers, "interval": interval.method}


def confusion_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Confusion matrices as one row for each entry."""
    return [
        {
            "model": evaluation.predictions.name,
            "data": evaluation.dataset.name,
            "how": result.title,
            "truth": truth,
            "predicted": predicted,
            "cells": int(result.matrix[i, j]),
        }
        for result in evaluation.confusions
        for i, truth in enumerate((*result.classes, "false"))
        for j, predicted in enumerate((*result.classes, "missed"))
        if not (i == j == len(result.classes))
    ]


def curve_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Precision at 101 levels of recall, IoU 0.5."""
    return [
        {
            "model": evaluation.predictions.name,
            "data": evaluation.dataset.name,
            "class": name,
            "recall": float(recall),
            "precision": float(precision),
        }
        for k, name in enumerate(evaluation.ap.classes)
        if evaluation.ap.n_truth[name]
        for recall, precision in zip(RECALL_POINTS, evaluation.ap.precision[0, :, k], strict=True)
    ]


def froc_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Free-response curves: sensitivity and false detections at every score."""
    rows: list[dict[str, Any]] = []
    for name, curve in evaluation.frocs.items():
        about = {"model": evaluation.predictions.name, "data": evaluation.dataset.name, "class": name}
        columns = (curve.score, curve.sensitivity, curve.false_per_field, curve.false_per_100_white)
        names = ("score", "sensitivity", "false_per_field", "false_per_100_white_cells")
        rows += [about | dict(zip(names, map(float, values), strict=True)) for values in zip(*columns, strict=True)]
    return rows


def difference_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Differences of two models as rows."""
    name_a, name_b = comparison.names
    return [
        {
            "data": comparison.a.dataset.name,
            "class": d.name,
            "figure": d.figure,
            "A": name_a,
            "B": name_b,
            "value_A": d.a,
            "value_B": d.b,
            "difference": d.difference,
            "low": d.interval.low,
            "high": d.interval.high,
            "verdict": d.verdict,
            "interval": d.interval.method,
        }
        for d in comparison.differences
    ]


def as_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a pandas data frame."""
    frame: pd.DataFrame = needed("pandas", "notebook").DataFrame(rows)
    return frame


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys as CSV text; NaN is written as an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def write_tables(evaluations: Sequence[Evaluation], out: Path, comparisons: Sequence[Comparison] = ()) -> list[Path]:
    """Write ``metrics.json`` and the CSV files into the folder `out`; returns their paths."""
    texts = [json.dumps(as_json(evaluations), indent=1, ensure_ascii=False) + "\n"]
    for rows_of in (lambda evaluation: evaluation.rows, figure_rows, confusion_rows, curve_rows, froc_rows):
        texts.append(as_csv([row for evaluation in evaluations for row in rows_of(evaluation)]))
    if comparisons:
        texts.append(as_csv([row for comparison in comparisons for row in difference_rows(comparison)]))
    return [write_text(out / name, text) for name, text in zip(TABLE_FILES, texts, strict=False)]


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically."""
    try:
        return atomic_io.write_text(path, text)
    except OSError as error:
        raise BlastdetError(f"{path}: could not be written ({error.strerror or error})") from None
