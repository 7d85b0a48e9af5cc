"""Classified single cells against annotated ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import BLAST, PLATELET, WBC, Dataset, Detections, Sample
from blastdet.evaluation.single_cell_types import OTHER, check_classification, evaluate_cell_types


def sample(name, group, label, cell_type="", ignore=False):
    truth = Detections(
        np.full((1, 4), np.nan), label=[label], point_xy=[[5, 5]], cell_type=[cell_type], ignore=[ignore]
    )
    return Sample(Path("/set") / name, (10, 10), group=group, truth=truth)


DATA = Dataset(
    "small",
    Path("/set"),
    (
        sample("p/1.png", "p", BLAST),
        sample("p/2.png", "p", BLAST),
        sample("q/3.png", "q", WBC, "lymphocyte"),
        sample("q/4.png", "q", WBC, "promyelocyte"),
        sample("r/5.png", "r", WBC),
        sample("r/6.png", "r", WBC, "promyelocyte", ignore=True),
        sample("r/7.png", "r", PLATELET),
        sample("r/8.png", "r", WBC, "monocyte"),
    ),
)
ROWS = [
    ("p/1.png", "blast", 0.9, 0),
    ("p/2.png", "lymphocyte", 0.3, 1),
    ("q/3.png", "lymphocyte", 0.1, 0),
    ("q/4.png", "immature_granulocyte", 0.2, 0),
    ("r/5.png", "blast", 0.8, 0),
    ("r/6.png", "blast", 0.9, 0),
]


def write(path, rows=ROWS):
    text = "image,cell_type,blast_probability,unsure\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows)
    path.write_text(text)
    return path


def test_figures_at_the_threshold_and_what_is_left_out(tmp_path):
    found = evaluate_cell_types(DATA, write(tmp_path / "cells.csv"), resamples=50)
    assert (found.n_cells, found.n_groups, found.n_blasts, found.n_missing, found.n_ignored) == (5, 3, 2, 1, 2)
    values = {figure.name: (round(figure.value, 3), figure.n) for figure in found.figures}
    assert values["AUROC, blast against other"] == (round(5 / 6, 3), 5)
    assert values["sensitivity"] == (0.5, 2) and values["specificity"] == (0.667, 3)
    assert values["sensitivity, unsure cells apart"] == (1.0, 1)
    assert values["unsure cells"] == (0.2, 5)
    assert found.rows == ("blast", "lymphocyte", "immature_granulocyte", OTHER)
    assert found.columns == ("blast", "lymphocyte", "immature_granulocyte")
    assert found.matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert values["correct type"] == (0.75, 4)
    assert values["macro F1 over 3 types"][0] == round((2 / 3 + 2 / 3 + 1) / 3, 3)


def test_the_figures_are_printed_and_written(tmp_path):
    found = evaluate_cell_types(DATA, write(tmp_path / "cells.csv"), resamples=50)
    assert "1 annotated cell was not classified and is not counted" in repr(found) and "Research Use Only" in repr(
        found
    )
    assert "  blast  lymphocyte  immature\n" in repr(found)  # names in full, columns as wide as they are
    table = repr(found).splitlines()[-6:-1]
    assert len({len(row) for row in table}) == 1, table
    document, table = found.write(tmp_path / "out")
    assert json.loads(document.read_text("utf-8"))["n_blasts"] == 2
    assert table.read_text("utf-8").splitlines()[1] == "blast,1,1,0"


def test_images_are_found_by_file_name_in_another_folder(tmp_path):
    rows = [(f"elsewhere/{Path(name).name}", *rest) for name, *rest in ROWS]
    assert evaluate_cell_types(DATA, write(tmp_path / "cells.csv", rows), resamples=10).n_cells == 5


def test_it_is_said_if_patients_are_not_named(tmp_path):
    alone = replace(DATA, samples=tuple(replace(sample, group=None) for sample in DATA))
    table = write(tmp_path / "cells.csv")
    assert "patients are not named" in repr(evaluate_cell_types(alone, table, resamples=10))
    assert "patients are not named" not in repr(evaluate_cell_types(DATA, table, resamples=10))


@pytest.mark.parametrize(
    "rows", [[("x.png", "blast", 0.9, 0)], [("p/1.png", "blast", "nan", 0)], [("p/1.png", "blast", 0.9, "True")]]
)
def test_a_foreign_or_faulty_table_is_refused(tmp_path, rows):
    with pytest.raises(
        FormatError, match=r"none of them|expected 0 to 1, got 'nan'|line 2: unsure: expected 0 or 1, got 'True'"
    ):
        evaluate_cell_types(DATA, write(tmp_path / "cells.csv", rows))


def test_an_earlier_report_is_refused_before_anything_is_computed(tmp_path):
    check_classification(tmp_path, False)
    (tmp_path / "classification.json").touch()
    with pytest.raises(ConfigError, match="--overwrite"):
        check_classification(tmp_path, False)
    check_classification(tmp_path, True)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            (*ROWS[0][:1], "lymphocyte", 0.1, 0),
            "line 8: expected one line for each image, got another one for 'p/1.png'",
        ),
        (("r/7.png", "", 0.1, 0), "line 8: cell_type: expected a type, got ''"),
        (("r/7.png", "t" * 999, 0.1, 0), "line 8: cell_type: expected a type, got 'ttt"),
    ],
)
def test_an_image_has_one_type_with_a_name(tmp_path, row, line):
    write(tmp_path / "cells.csv", [*ROWS, row])
    with pytest.raises(FormatError, match=line):
        evaluate_cell_types(DATA, tmp_path / "cells.csv")
