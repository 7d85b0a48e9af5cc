"""Cells as a CSV table, one row for each cell, for spreadsheets and statistics. This format is only written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blastdet.core.atomic_io import write_text
from blastdet.core.columns import CELL_COLUMNS, cell_rows
from blastdet.core.types import Dataset, Detections
from blastdet.datasets.annotations.files import formula_free

FILE_NAME = "cells.csv"


def write(dataset: Dataset, path: Path) -> Dataset:
    """Write ``cells.csv`` into the folder `path`, and return `dataset` unchanged."""
    write_text(Path(path) / FILE_NAME, _lines(dataset))
    return dataset


def _lines(dataset: Dataset) -> Iterator[str]:
    yield line(CELL_COLUMNS)
    for sample in dataset:
        for row in cell_rows(sample.truth or Detections.empty(), sample.mpp):
            yield line([dataset.file_name(sample), sample.split or "", *row])


def renamed(table: str, image: str) -> str:
    """The table of one image, with another name in its first column.

    Examples
    --------
    >>> renamed("image,split\\na.jpg,\\n", "b.jpg")
    'image,split\\nb.jpg,\\n'
    """
    head, *rows = csv.reader(io.StringIO(table, newline=""))
    return "".join([line(head), *(line([image, *row[1:]]) for row in rows)])


def line(fields: Iterable[Any]) -> str:
    """One line of a CSV file, with quotes where needed, and no field that a spreadsheet would run as a formula."""
    text, row = io.StringIO(), [formula_free(field) if isinstance(field, str) else field for field in fields]
    # csv.writer quotes a bare carriage return only if its own line terminator contains one.
    bare = any("\r" in str(field) for field in row)
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL).writerow(row)
    return text.getvalue()
