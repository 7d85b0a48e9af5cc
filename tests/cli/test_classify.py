"""``blastdet classify`` on real images, and ``evaluate`` on what it writes."""

from __future__ import annotations

import csv

import lookalike
import numpy as np
import pytest
from detecting import SMEAR, run_here

from blastdet.datasets.formats.coco import read as read_coco
from blastdet.imaging.io import read_image, write_image


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classify")
    lookalike.cnmc(folder / "cnmc", folds=1, subjects=1, cells=1)
    for file in (folder / "cnmc").rglob("*.bmp"):  # as published: the cell on black
        rgb = read_image(file)
        rgb[np.all(rgb == lookalike.GROUND, axis=2)] = 0
        write_image(file, rgb)
    run_here("classify", "cnmc", "--cell-um", "12", "--out", "out", cwd=folder)
    return folder


def test_black_ground_is_refused_without_a_scale_and_the_line_says_what_to_pass(classified):
    done = run_here("classify", "cnmc", "--out", "none", cwd=classified, code=2)
    assert "Pass --mpp (µm per pixel), or --cell-um" in done.output
    assert not (classified / "none/cells.csv").exists()


def test_the_table_is_evaluated_with_the_dataset(classified):
    with (classified / "out/cells.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == ["fold_0/all/UID_1_1_1_all.bmp", "fold_0/hem/UID_H1_1_1_hem.bmp"]
    assert {row["mpp_source"] for row in rows} == {"assumed: the median of 2 cells is 12 µm wide"}
    done = run_here(
        "evaluate", "--data", "cnmc", "--classifications", "out/cells.csv", "--out", "types", cwd=classified
    )
    assert "2 cells of 2 groups, 1 blast, 1 other" in done.output
    assert (classified / "types/classification.json").is_file()


def test_evaluate_compares_types_alone(classified):
    words = ("--data", "cnmc", "--classifications", "out/cells.csv", "--weights", "default", "--out", "x")
    assert "neither --weights" in run_here("evaluate", *words, cwd=classified, code=2).output
    words = (*words[:4], "--max-dets", "500", "--device", "cpu", "--out", "x")
    assert "got --max-dets, --device. Leave them out" in run_here("evaluate", *words, cwd=classified, code=2).output


def test_detect_names_classify_for_an_image_that_is_no_smear(classified):
    done = run_here("detect", "cnmc/fold_0/all", "--out", "smears", cwd=classified, code=2)
    assert "blastdet classify" in done.output
    done = run_here("detect", "cnmc/fold_0/all", "--mpp", "0.05", "--out", "smears", cwd=classified)
    assert "note: one cell on plain ground, no smear: use blastdet classify" in done.output


def test_detect_names_classify_where_one_cell_fills_the_image(classified):
    """A white cell of the demo smear alone; not the smear itself."""
    rgb = read_image(SMEAR)
    truth = read_coco(SMEAR.with_name("truth.json")).samples[0].truth.with_classes("wbc")
    x1, y1, x2, y2 = truth.boxes_xyxy[0].round().astype(int)
    write_image(classified / "close.png", rgb[max(y1 - 8, 0) : y2 + 8, max(x1 - 8, 0) : x2 + 8].copy())
    done = run_here("detect", "close.png", "--mpp", "0.1", "--out", "close", cwd=classified)
    assert "one cell fills the image: use blastdet classify" in done.output
    assert "classify" not in run_here("detect", SMEAR, "--mpp", "0.1", "--out", "smear", cwd=classified).output
