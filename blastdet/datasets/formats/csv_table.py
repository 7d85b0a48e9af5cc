"""Cells as a CSV table, one row for each cell, for spreadsheets and statistics. This format is only written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blastdet.core.atomic_io import write_text
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Scale

COLUMNS: tuple[str, ...] = (
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
    "ignore",
)
FILE_NAME = "cells.csv"


def write(dataset: Dataset, path: Path) -> Dataset:
    """Write ``cells.csv`` into the folder `path`, and return `dataset` unchanged."""
    write_text(Path(path) / FILE_NAME, _lines(dataset))
    return dataset


def _lines(dataset: Dataset) -> Iterator[str]:
    yield line(COLUMNS)
    for sample in dataset:
        for row in rows(sample.truth or Detections.empty(), sample.mpp):
            yield line([dataset.file_name(sample), sample.split or "", *row])


def line(fields: Iterable[Any]) -> str:
    """One line of a CSV file, with quotes where needed."""
    text, row = io.StringIO(), list(fields)
    # csv.writer quotes a bare carriage return only if its own line terminator contains one.
    bare = any("\r" in str(field) for field in row)
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL).writerow(row)
    return text.getvalue()


def rows(cells: Detections, mpp: Scale | None) -> Iterator[list[Any]]:
    """Fields of each cell, from the column ``cell`` on. Unknown values are empty.

    Parameters
    ----------
    cells : Detections
    mpp : (float, float), optional
        µm/px; without it, sizes in µm are empty.
    """
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
            int(cells.ignore is not None and cells.ignore[i]),
        ]


def _shortest(value: Any) -> Any:
    """A float32 with its shortest exact digits, or an empty string for NaN."""
    return "" if math.isnan(value) else float(str(value))
