"""A `Result` as a JSON document from which it can be made again, exactly: for programs that keep results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.columns import COLUMNS
from blastdet.core.errors import FormatError
from blastdet.core.types import Detections
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.result import Result
from blastdet.inference.scale import ScaleEstimate

_VERSION = 1
_PLAIN = ("name", "image_sha256", "model", "parameters", "seconds")


def to_record(result: Result, classifier_classes: Sequence[str] = ()) -> dict[str, Any]:
    """A document of plain values, for `from_record`.

    Parameters
    ----------
    result : Result
        Its image is not part of the document.
    classifier_classes : sequence of str
        Classes of the second stage, with which corrected cells are counted again.

    Examples
    --------
    >>> import blastdet
    >>> result = blastdet.load("default", device="cpu")("datasets/demo/smear.jpg", mpp=0.1)
    >>> from_record(to_record(result)).counts == result.counts
    True
    """
    kept = _rows_of(result.detections, result.candidates)
    return {
        "record": _VERSION,
        **{name: getattr(result, name) for name in _PLAIN},
        "size_wh": list(result.size_wh),
        "scale": asdict(result.scale),
        "classes": list(result.classes),
        "classifier_classes": list(classifier_classes),
        "candidates": _columns(result.candidates),
        "detections": kept,
        "blast_fraction": None if result.blast_fraction is None else _plain(asdict(result.blast_fraction)),
        "warnings": list(result.warnings),
    }


def from_record(record: Mapping[str, Any], path: Path | None = None) -> Result:
    """The result that `to_record` was given.

    Parameters
    ----------
    record : mapping
    path : Path, optional
        The image file, for crops and overlays.

    Raises
    ------
    FormatError
        If it is no such document.
    """
    if record.get("record") != _VERSION:
        raise FormatError(f"result: expected a record of version {_VERSION}, got {record.get('record')!r:.40}")
    candidates = _detections(record["candidates"])
    fraction, scale = record["blast_fraction"], record["scale"]
    return Result(
        **{name: record[name] for name in _PLAIN},
        path=path,
        size_wh=(record["size_wh"][0], record["size_wh"][1]),
        scale=ScaleEstimate(**{**scale, "mpp": _pair(scale["mpp"]), "warnings": tuple(scale["warnings"])}),
        detections=candidates[np.array(record["detections"], np.int64)],
        candidates=candidates,
        classes=tuple(record["classes"]),
        blast_fraction=None if fraction is None else _fraction(fraction),
        warnings=tuple(record["warnings"]),
    )


def _rows_of(detections: Detections, candidates: Detections) -> list[int]:
    """Rows of the candidates that are detections; both are in canonical order."""
    left = iter(enumerate(_keys(candidates)))
    rows = [next((row for row, key in left if key == wanted), -1) for wanted in _keys(detections)]
    if -1 in rows:
        raise ValueError("Result.detections: expected rows of its candidates in their order, got others")
    return rows


def _keys(cells: Detections) -> list[tuple[float, ...]]:
    return [tuple(row) for row in np.column_stack([cells.boxes_xyxy, cells.score, cells.label]).tolist()]


def _columns(cells: Detections) -> dict[str, Any]:
    present = {name: getattr(cells, name) for name in COLUMNS}
    return {name: _plain(column.tolist()) for name, column in present.items() if column is not None}


def _detections(columns: Mapping[str, Any]) -> Detections:
    numbers = {name for name, (dtype, _) in COLUMNS.items() if dtype is np.float32}
    given = {name: np.array(rows, np.float32) if name in numbers else rows for name, rows in columns.items()}
    return Detections(**given)


def _plain(value: Any) -> Any:
    """The same without NaN, which JSON does not have: ``None`` stands for it."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _fraction(value: Mapping[str, Any]) -> BlastFraction:
    low, high = (math.nan if side is None else side for side in value["interval"])
    return BlastFraction(**{**value, "interval": (low, high), "corrected_interval": _pair(value["corrected_interval"])})


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))
