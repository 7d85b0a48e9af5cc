"""What a run writes for its page, and what its workbook says of rows that do not fit."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from blastdet.core.errors import ConfigError
from blastdet.imaging.io import write_image
from blastdet.inference.batch import Batch, Output
from blastdet.inference.model import Model, Options
from blastdet.inference.outputs import run_tables
from blastdet.inference.outputs.jobs import Job
from blastdet.models.fake_classifier import FakeClassifier, fake_types_card, type_blue
from blastdet.models.fake_detector import MARKS, FakeDetector, fake_card

SHEET = "out/page/cells/a.jpg"


def run(folder: Path, n_white: int, existing: str = "refuse", kind: str = "html") -> str:
    """Process one image with white discs and a red cell; returns what is said of it."""
    rgb = np.full((96, 256, 3), 255, np.uint8)
    rgb[60:75, 10:25] = MARKS["rbc"]
    for i in range(n_white):
        cv2.circle(rgb, (25 + 45 * i, 28), 12, (0, 0, type_blue("lymphocyte")), cv2.FILLED)
    write_image(folder / "a.png", rgb)
    model = Model(FakeDetector(fake_card(0.5, (256, 256))), folder, FakeClassifier(fake_types_card()))
    batch = Batch([Job(folder / "a.png", "a.png")], model, Options(mpp=0.5), Output(folder / "out", (kind,), existing))
    try:
        (outcome,) = batch
        batch.finish()
    finally:
        batch.close()
    assert outcome.error is None, outcome.error
    return outcome.text


def test_an_image_without_its_sheet_is_not_finished(tmp_path):
    run(tmp_path, 2)
    before = (tmp_path / SHEET).read_bytes()
    assert "already finished" in run(tmp_path, 2, "resume")
    (tmp_path / SHEET).unlink()
    assert "already finished" not in run(tmp_path, 2, "resume")
    assert (tmp_path / SHEET).read_bytes() == before


def test_an_image_without_white_cells_has_no_sheet_and_is_finished(tmp_path):
    run(tmp_path, 0)
    assert not (tmp_path / SHEET).exists()
    assert "already finished" in run(tmp_path, 0, "resume")


def test_a_sheet_of_another_program_is_not_replaced(tmp_path):
    (tmp_path / SHEET).parent.mkdir(parents=True)
    (tmp_path / SHEET).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"a\.jpg"):
        run(tmp_path, 2)
    assert (tmp_path / SHEET).read_bytes() == b"mine"


@pytest.mark.parametrize(("n", "said"), [(3, []), (5, ["White cells: 2 more rows do not fit on the sheet."])])
def test_rows_that_do_not_fit_on_a_sheet_are_counted(tmp_path, monkeypatch, n, said):
    monkeypatch.setattr(run_tables, "_SHEET_ROWS", 3)
    run(tmp_path, n, kind="xlsx")
    with zipfile.ZipFile(tmp_path / "out/summary.xlsx") as book:
        cells, about = (book.read(f"xl/worksheets/sheet{k}.xml").decode() for k in (3, 4))
    assert cells.count("<row ") == 4  # the heading, and three
    assert [text for text in re.findall(r"<t[^>]*>([^<]*)</t>", about) if text.startswith("White cells")] == [
        f"{line} All are in cells.csv (--format csv)" for line in said
    ]
