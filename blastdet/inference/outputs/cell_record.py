"""The cells of one image as the run log keeps them for the page and the workbook: columns of short numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.core.columns import by_type, shown_as
from blastdet.core.constants import CELL_TYPES, PALETTE, UNLIKE_TRAINING
from blastdet.core.types import CELL_CLASSES, Detections

_COLUMNS = ("box", "label", "kind", "score", "p", "blast", "unlike")
_LARGEST = 1e9  # of a coordinate in pixels


def cell_record(cells: Detections) -> dict[str, list[Any]]:
    """Columns of the detected cells of one image, in canonical order.

    Returns
    -------
    dict
        ``box``: x1, y1, x2, y2 of each cell in a row, to 0.1 px; ``label``; ``kind``: what the cell is shown as;
        ``score``; ``p``: probability of the type that is named, of a blast where none is, else ``None``; ``blast``:
        blast probability; ``unlike``: rows of cells unlike the training data; ``likely``: the three likeliest types
        with their probabilities, by row, where a second stage tells types apart.
    """
    kinds = shown_as(cells)
    blast = _or_none(cells.blast_probability, len(cells))
    unlike = [] if cells.unsure_reason is None else np.flatnonzero(cells.unsure_reason == UNLIKE_TRAINING).tolist()
    return {
        "box": [_short(side) for side in cells.boxes_xyxy.reshape(-1).tolist()],
        "label": cells.label.tolist(),
        "kind": kinds,
        "score": [round(value, 3) for value in cells.score.tolist()],
        "p": [_named(cells, i, kind, blast[i]) for i, kind in enumerate(kinds)],
        "blast": blast,
        "unlike": unlike,
        "likely": _likely(cells),
    }


def is_cell_record(value: Any) -> bool:
    """Whether a value has the form of what `cell_record` returns: someone may have edited the run log."""
    if not isinstance(value, dict) or not all(isinstance(value.get(name), list) for name in _COLUMNS):
        return False
    n, likely = len(value["label"]), value.get("likely")
    rows = {str(row) for row in range(n)}
    return (
        all(len(value[name]) == n for name in ("kind", "score", "p", "blast"))
        and len(value["box"]) == 4 * n
        and all(_is_number(side) for side in (*value["box"], *value["score"]))
        and all(p is None or _is_number(p) for p in (*value["p"], *value["blast"]))
        and all(type(label) is int and 0 <= label < len(CELL_CLASSES) for label in value["label"])
        and all(isinstance(kind, str) and kind in PALETTE for kind in value["kind"])
        and all(type(row) is int and 0 <= row < n for row in value["unlike"])
        and isinstance(likely, dict)
        and all(row in rows and _are_likely(types) for row, types in likely.items())
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST  # false for NaN


def _are_likely(types: Any) -> bool:
    return isinstance(types, list) and all(
        isinstance(pair, list) and len(pair) == 2 and pair[0] in CELL_TYPES and _is_number(pair[1]) for pair in types
    )


def _named(cells: Detections, i: int, kind: str, blast: float | None) -> float | None:
    if cells.type_probability is None or kind not in CELL_TYPES or blast is None:
        return blast
    value = float(cells.type_probability[i, CELL_TYPES.index(kind)])
    return blast if np.isnan(value) else round(value, 3)


def _likely(cells: Detections) -> dict[str, list[list[Any]]]:
    if cells.type_probability is None:
        return {}
    rows = np.flatnonzero(~np.isnan(cells.type_probability).all(axis=1)).tolist()
    found = {}
    for row in rows:
        best = sorted(by_type(cells.type_probability[row]).items(), key=lambda item: -item[1])[:3]
        found[str(row)] = [[name, round(p, 3)] for name, p in best]
    return found


def _or_none(values: NDArray[np.float32] | None, n: int) -> list[float | None]:
    if values is None:
        return [None] * n
    return [None if value != value else round(value, 3) for value in values.tolist()]


def _short(value: float) -> float | int:
    value = round(value, 1)
    return int(value) if value == int(value) else value
