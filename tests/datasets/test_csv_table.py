"""The CSV table: one row for each cell."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from made import SIZE_WH, cells, image_file

from blastdet.core.columns import CELL_COLUMNS, TYPE_COLUMNS, cell_rows
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.formats import csv_table


def _dataset(root: Path, truth: Detections) -> Dataset:
    paths = (image_file(root / name) for name in ("p/a.jpg", "b.jpg"))
    return Dataset("x", root, tuple(Sample(path, SIZE_WH, mpp=(0.1, 0.2), split="test", truth=truth) for path in paths))


def test_the_table_has_one_row_for_each_cell(tmp_path: Path) -> None:
    nan = float("nan")
    truth = Detections(
        [[1, 2, 11, 22], [nan] * 4],
        score=[0.1, 1],
        point_xy=[[nan, nan], [3, 4]],
        ignore=[True, False],
        cell_type=["a,b", ""],
        id=["x", "y"],
        blast_probability=[nan, 0.5],
    )
    dataset = _dataset(tmp_path, truth)
    csv_table.write(dataset, tmp_path / "o")
    rows = list(csv.DictReader((tmp_path / "o" / "cells.csv").read_text().splitlines()))
    assert tuple(rows[0]) == CELL_COLUMNS and len(rows) == 4
    first, second = rows[:2]
    assert (first["image"], first["split"], first["cell"], first["class"]) == ("p/a.jpg", "test", "x", "wbc")
    assert [float(first[k]) for k in ("x1", "y1", "x2", "y2", "score")] == [1, 2, 11, 22, 0.1]
    assert [float(first[k]) for k in ("width_um", "height_um")] == pytest.approx([1, 4])
    assert (first["cell_type"], first["ignore"], first["blast_probability"]) == ("a,b", "1", "")
    assert (second["x1"], second["width_um"], second["point_x"], second["blast_probability"]) == ("", "", "3.0", "0.5")


@given(found=cells())
@settings(max_examples=40, deadline=None)
def test_the_table_holds_every_column_of_detections(found: Detections) -> None:
    rows = [dict(zip(CELL_COLUMNS[2:], row, strict=True)) for row in cell_rows(found, (0.1, 0.2))]
    read = {
        "boxes_xyxy": [[_number(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in rows],
        "label": [CELL_CLASSES.index(row["class"]) for row in rows],
        "score": [row["score"] for row in rows],
        "id": [row["cell"] for row in rows],
        "point_xy": [[_number(row[side]) for side in ("point_x", "point_y")] for row in rows],
        "ignore": [bool(row["ignore"]) for row in rows],
        "origin": [row["origin"] for row in rows],
        "cell_type": [row["cell_type"] for row in rows],
        "blast_probability": [_number(row["blast_probability"]) for row in rows],
        "unsure": [bool(row["unsure"]) for row in rows],
        "unsure_reason": [row["unsure_reason"] for row in rows],
        "type_probability": [[_number(row[kind]) for kind in TYPE_COLUMNS] for row in rows],
    }
    assert set(read) == set(Detections.columns())
    for name, values in read.items():
        column = getattr(found, name)
        if column is not None and len(found):
            np.testing.assert_array_equal(np.array(values, column.dtype), column, err_msg=name)


def _number(field: object) -> float:
    return math.nan if field == "" else float(str(field))
