"""The columns of `Detections`: their types, checks of values and indices, and cells as rows of a table."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastdet.core.constants import CELL_CLASSES, CELL_TYPES, NOT_WHITE
from blastdet.core.errors import shown
from blastdet.core.packages import needed

if TYPE_CHECKING:
    from blastdet.core.types import Detections, Scale

COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "boxes_xyxy": (np.float32, (4,)),
    "score": (np.float32, ()),
    "label": (np.int64, ()),
    "id": (np.str_, ()),
    "point_xy": (np.float32, (2,)),
    "ignore": (np.bool_, ()),
    "origin": (np.str_, ()),
    "cell_type": (np.str_, ()),
    "blast_probability": (np.float32, ()),
    "unsure": (np.bool_, ()),
    "unsure_reason": (np.str_, ()),
    "type_probability": (np.float32, (len(CELL_TYPES),)),
}
"""Columns of `Detections`, in order: dtype, and shape of one row. Writers and tests derive their lists from here."""

PROBABILITY = "probability_"
"""Prefix of the columns of tables with the probability of each cell type."""

TYPE_COLUMNS: tuple[str, ...] = tuple(f"{PROBABILITY}{name}" for name in CELL_TYPES)
"""Columns of tables for `Detections.type_probability`, in the order of `CELL_TYPES`."""

Index = SupportsIndex | slice | Sequence[int] | Sequence[bool] | NDArray[Any]

CELL_COLUMNS: tuple[str, ...] = (
    "image",
    "split",
    "cell",
    "class",
    "x1",
    "y1",
    "x2",
    "y2",
    "score",
    "width_um",
    "height_um",
    "point_x",
    "point_y",
    "origin",
    "cell_type",
    "blast_probability",
    "unsure",
    "unsure_reason",
    "ignore",
    "counted_as",
    *TYPE_COLUMNS,
)
"""Columns of a table with one row for each cell, in order."""

_TEXT = ("image", "split", "group", "cell", "class", "origin", "cell_type", "unsure_reason", "counted_as")


def checked_column(name: str, value: ArrayLike, n: int | None) -> NDArray[Any]:
    """A read-only copy of a column of `n` rows (any number if None), with its type and shape checked."""
    dtype, row = COLUMNS[name]
    shape = ", ".join(map(str, ("n" if n is None else n, *row))) + ("" if row else ",")
    expected = f"{dtype.__name__.strip('_')} of shape ({shape})"
    try:
        # Always a copy: no caller can change it afterwards.
        array = np.array(_exact.get(dtype, np.asarray)(value), dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"Detections.{name}: expected {expected}, got {shown(value)}") from None
    if array.ndim and not len(array):
        array = array.reshape(0, *row)
    if array.ndim != 1 + len(row) or array.shape[1:] != row or (n is not None and len(array) != n):
        raise ValueError(f"Detections.{name}: expected {expected}, got shape {array.shape}")
    if array.dtype.kind == "f" and np.isinf(array).any():  # NaN is unknown
        raise ValueError(f"Detections.{name}: expected finite numbers, got infinity")
    array.setflags(write=False)
    return array


def rows_of(column: NDArray[Any], rows: slice | NDArray[Any]) -> NDArray[Any]:
    """A read-only copy of some rows of a column, which needs no second check."""
    chosen = np.array(column[rows])
    chosen.setflags(write=False)
    return chosen


def column_or_unknown(part: Detections, name: str) -> NDArray[Any]:
    """A column of `part`; NaN, False or an empty string in each row if it has none."""
    column = getattr(part, name)
    if column is not None:
        return np.asarray(column)
    dtype, row = COLUMNS[name]
    unknown = {np.float32: np.nan, np.bool_: False, np.str_: ""}[dtype]
    return np.full((len(part), *row), unknown, dtype=dtype)


def check_values(boxes: NDArray[np.float32], score: NDArray[np.float32]) -> None:
    """Refuse boxes without area, and scores outside [0, 1]. A box of NaN is allowed: its cell has only a point."""
    unknown = np.isnan(boxes)
    if (half := unknown.any(axis=1) & ~unknown.all(axis=1)).any():
        box = ", ".join(f"{side:g}" for side in boxes[half][0].tolist())
        raise ValueError(f"Detections.boxes_xyxy: expected four numbers, or NaN four times, got {box}")
    if (flat := boxes[:, 2:] <= boxes[:, :2]).any():
        box = ", ".join(f"{side:g}" for side in boxes[flat.any(axis=1)][0].tolist())
        raise ValueError(f"Detections.boxes_xyxy: expected x1 < x2 and y1 < y2, got {box}")
    if len(score) and not (score.min() >= 0 and score.max() <= 1):  # NaN is neither
        wrong = score[~((score >= 0) & (score <= 1))][0]
        raise ValueError(f"Detections.score: expected numbers from 0 to 1, got {wrong:g}")


def _integers(value: ArrayLike) -> NDArray[Any]:
    """Values that are whole numbers, so that a conversion to integers loses nothing."""
    array = np.asarray(value)
    if array.dtype.kind == "f" and not (array == np.rint(array)).all():
        raise ValueError
    return array


def _flags(value: ArrayLike) -> NDArray[Any]:
    """Values that are true or false, also as 0 and 1: a text such as ``"no"`` would count as true."""
    array = np.asarray(value)
    if array.dtype.kind in "USO" or not ((array == 0) | (array == 1)).all():
        raise ValueError
    return array


_exact = {np.int64: _integers, np.bool_: _flags}


def checked_rows(index: Index, n: int) -> slice | NDArray[Any]:
    """An index into `n` rows as a slice, a mask (n,) or integers (m,); anything else is an IndexError."""
    if isinstance(index, slice):
        return index
    forms = "an integer, a slice, a boolean mask or a sequence of integers"
    if isinstance(index, tuple):
        raise IndexError(f"Detections: expected {forms}, got a tuple; pass a list")
    try:
        array = np.asarray(index)
    except ValueError:  # rows of different lengths
        raise IndexError(f"Detections: expected {forms}, got {shown(index)}") from None
    if array.ndim == 0 and array.dtype.kind in "iu":
        array = array[None]
    if array.ndim == 1 and not len(array) and not isinstance(index, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no type of its own
    if array.ndim != 1 or array.dtype.kind not in "biu":
        raise IndexError(f"Detections: expected {forms}, got {_described(index, array)}")
    if array.dtype.kind == "b":
        if len(array) != n:
            raise IndexError(f"Detections: expected a mask of length {n}, got length {len(array)}")
        return array
    outside = (array < -n) | (array >= n)
    if outside.any():
        wrong = array[outside][0]
        allowed = f"indices from {-n} to {n - 1}" if n else "no index, since there are no rows"
        raise IndexError(f"Detections: expected {allowed}, got {wrong}")
    return array


def _described(index: object, array: NDArray[Any]) -> str:
    if array.dtype == object or array.dtype.kind in "US" or not array.ndim:
        return f"{shown(index)}"
    return f"{array.dtype} of shape {array.shape}"


def counted_as(cells: Detections) -> list[str]:
    """What each cell is counted as: its class; erythroblast or smudge; ``unsure`` where the classifier is uncertain."""
    kinds = [CELL_CLASSES[label] for label in cells.label]
    if cells.cell_type is not None:
        types = cells.cell_type.tolist()
        kinds = [name if name in NOT_WHITE else kind for kind, name in zip(kinds, types, strict=True)]
    if cells.unsure is not None:
        kinds = ["unsure" if unsure else kind for kind, unsure in zip(kinds, cells.unsure.tolist(), strict=True)]
    return kinds


def shown_as(cells: Detections) -> list[str]:
    """What colour and legend call each cell: its type where one of `CELL_TYPES` is known, else as `counted_as`."""
    kinds = counted_as(cells)
    if cells.cell_type is None:
        return kinds
    types = cells.cell_type.tolist()
    return [name if kind == "wbc" and name in CELL_TYPES else kind for kind, name in zip(kinds, types, strict=True)]


def cell_rows(cells: Detections, mpp: Scale | None) -> Iterator[list[Any]]:
    """Fields of each cell, from the column ``cell`` on. Unknown values are empty.

    Parameters
    ----------
    cells : Detections
    mpp : (float, float), optional
        µm/px; without it, sizes in µm are empty.
    """
    kinds, unknown = counted_as(cells), [""] * len(TYPE_COLUMNS)
    types = cells.type_probability
    for i in range(len(cells)):
        x1, y1, x2, y2 = (_shortest(v) for v in cells.boxes_xyxy[i])
        name = str(cells.id[i]) if cells.id is not None else str(i + 1)
        point = ["", ""] if cells.point_xy is None else [_shortest(v) for v in cells.point_xy[i]]
        size_um = ["", ""] if mpp is None or x1 == "" else [f"{(x2 - x1) * mpp[0]:.3f}", f"{(y2 - y1) * mpp[1]:.3f}"]
        yield [
            name,
            CELL_CLASSES[cells.label[i]],
            *(x1, y1, x2, y2),
            _shortest(cells.score[i]),
            *size_um,
            *point,
            "" if cells.origin is None else str(cells.origin[i]),
            "" if cells.cell_type is None else str(cells.cell_type[i]),
            "" if cells.blast_probability is None else _shortest(cells.blast_probability[i]),
            "" if cells.unsure is None else int(cells.unsure[i]),
            "" if cells.unsure_reason is None else str(cells.unsure_reason[i]),
            int(cells.ignore is not None and cells.ignore[i]),
            kinds[i],
            *(unknown if types is None else map(_shortest, types[i])),
        ]


def _shortest(value: Any) -> Any:
    """A float32 with its shortest exact digits, or an empty string for NaN."""
    return "" if math.isnan(value) else float(str(value))


def by_type(row: NDArray[np.float32]) -> dict[str, float]:
    """Probability of each type that is known, from a row (k,) of `Detections.type_probability`; shortest exact digits.

    Examples
    --------
    >>> row = np.full(9, np.nan, np.float32)
    >>> row[:2] = 0.9, 0.1
    >>> by_type(row)
    {'blast': 0.9, 'lymphocyte': 0.1}
    """
    return {name: float(str(value)) for name, value in zip(CELL_TYPES, row, strict=True) if not math.isnan(value)}


def cell_frame(rows: Iterable[Sequence[Any]], columns: Sequence[str] = CELL_COLUMNS) -> Any:
    """Rows as a ``pandas.DataFrame``. Numbers are numbers, and NaN where the field is empty.

    Raises
    ------
    DependencyError
        If pandas is not installed.
    """
    pandas = needed("pandas", "notebook")
    frame = pandas.DataFrame(list(rows), columns=list(columns))
    numbers = [name for name in columns if name not in _TEXT]
    return frame.assign(**frame[numbers].apply(pandas.to_numeric))


def html_table(head: Iterable[object], rows: Iterable[Iterable[object]], caption: str = "") -> str:
    """A table as HTML, with all texts escaped. The first column is aligned to the left, the others to the right."""

    def line(cells: Iterable[object], tag: str) -> str:
        styled = [
            f'<{tag} style="text-align:{"right" if i else "left"}">{html.escape(str(cell))}</{tag}>'
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(styled)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
