"""Images of single cells: which cell, its scale, its type, the run and its files."""

from __future__ import annotations

import csv
import os
import re
from contextlib import closing

import numpy as np
import pytest
from made import limited_files

from blastdet.core.errors import BlastdetError, ConfigError, ImageError, ScaleError, WeightsError
from blastdet.imaging.cell_crops import crop
from blastdet.imaging.io import open_image, write_image
from blastdet.inference.model import Model
from blastdet.inference.run_log import RunLog
from blastdet.inference.scale import ScaleEstimate
from blastdet.inference.second_stage import classify_cells
from blastdet.inference.single_cells import gallery
from blastdet.inference.single_cells.cell_run import CellRun, failures, summary
from blastdet.inference.single_cells.cell_scale import CellOptions, FirstLook, settled, to_measure
from blastdet.inference.single_cells.central_cell import central_cell, isolated_box
from blastdet.inference.single_cells.classification import SHOWN_PX, decide
from blastdet.models.classifier import ClassifierOutput
from blastdet.models.fake_classifier import FakeClassifier, fake_classifier_card, fake_types_card, type_blue
from blastdet.models.fake_detector import FakeDetector

GREY = (200, 200, 205)
MPP = (0.5, 0.5)
GIVEN = CellOptions(mpp=0.5)


def image(*cells, ground=GREY, side=80):
    """Squares of (x, y, side, colour) on a ground of one colour."""
    rgb = np.full((side, side, 3), ground, np.uint8)
    for x, y, width, colour in cells:
        rgb[y : y + width, x : x + width] = colour
    return rgb


def blue(cell_type):
    """A colour that the fake detector takes for a nucleated cell, and the fake classifier for that type."""
    return 0, 0, type_blue(cell_type)


@pytest.fixture
def model(tmp_path):
    return Model(FakeDetector(), tmp_path, FakeClassifier(fake_types_card()))


def at_centre(rgb):
    return central_cell(open_image(rgb), MPP, FakeDetector())


def test_the_cell_that_contains_the_centre_is_taken_not_its_larger_neighbour():
    found = at_centre(image((30, 30, 20, blue("monocyte")), (52, 20, 26, blue("monocyte"))))
    assert found.box_xyxy == (30, 30, 50, 50) and not found.note


def test_the_nearest_cell_is_taken_if_none_is_in_the_centre_and_a_note_says_so():
    found = at_centre(image((4, 30, 20, blue("monocyte")), (70, 4, 8, blue("monocyte"))))
    assert found.box_xyxy == (4, 30, 24, 50)
    assert found.note == "no cell in the centre: the nearest is classified, 13 µm away"


def test_the_middle_is_taken_where_no_cell_is_detected():
    found = at_centre(image())
    x1, y1, x2, y2 = found.box_xyxy
    assert (x1 + x2) / 2 == (y1 + y2) / 2 == 40 and (x2 - x1) * MPP[0] == pytest.approx(15)
    assert "middle of the image" in found.note


def test_the_middle_of_a_small_image_leaves_the_crop_inside():
    x1, _, x2, _ = at_centre(image(side=20)).box_xyxy
    assert (x2 - x1) * 1.3 == pytest.approx(20)


def test_a_smear_is_named_as_one():
    # nine cells, the central one contains the centre
    cells = [(x, y, 10, blue("monocyte")) for x in (5, 35, 60) for y in (5, 35, 60)]
    assert "blastdet detect" in at_centre(image(*cells)).note


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255)])
def test_a_cell_on_plain_ground_has_its_own_box(ground):
    source = open_image(image((20, 10, 40, (90, 40, 120)), ground=ground))
    assert isolated_box(source) == (20, 10, 60, 50)
    assert isolated_box(open_image(image((20, 10, 40, (90, 40, 120))))) is None


def test_a_slide_is_no_image_of_one_cell():
    with pytest.raises(ImageError, match=r"one cell, got 6000 x 6000 px\. Use blastdet detect"):
        isolated_box(open_image(np.zeros((6000, 6000, 3), np.uint8)))


def test_a_cell_is_classified_like_the_same_cell_by_detect(model):
    """Training, `detect` and `classify` see the same crop."""
    rgb = image((30, 30, 20, blue("eosinophil")))
    cell = model.classify(rgb, mpp=0.5)
    seen = model.classifier.seen[-1]
    source = open_image(rgb)
    by_detect = classify_cells(source, FakeDetector()([rgb])[0], MPP, model.classifier)
    assert model.classifier.seen[-1] == seen == crop(source, cell.box_xyxy, MPP, 0.5).shape
    assert cell.cell_type == by_detect.cell_type[0] == "eosinophil"
    assert cell.probability["eosinophil"] == pytest.approx(float(by_detect.type_probability[0].max()))
    assert cell.image.shape == (SHOWN_PX, SHOWN_PX, 3) and not cell.unsure


def test_a_list_gives_a_list_and_a_detector_alone_is_refused(model, tmp_path):
    rgb = image((30, 30, 20, (250, 0, 250)))
    first, second = model.classify([rgb, image((30, 30, 20, blue("basophil")))], mpp=0.5)
    assert (first.cell_type, second.cell_type) == ("blast", "basophil")
    assert "image 1: blast, blast probability 0.98" in repr(first)
    with pytest.raises(WeightsError, match="second stage"):
        Model(FakeDetector(), tmp_path).classify(rgb, mpp=0.5)


def test_an_uncertain_cell_keeps_its_best_type():
    card = fake_types_card()
    row = np.full((1, 9), 0.05)
    row[0, 0], row[0, 4] = 0.45, 0.2
    assert decide(ClassifierOutput(row, np.array([1.0])), card) == (["eosinophil"], ["between classes"])


def test_a_classifier_without_types_says_wbc_or_erythroblast():
    rows = np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    types, _ = decide(ClassifierOutput(rows, np.ones(3)), fake_classifier_card())
    assert types == ["blast", "wbc", "erythroblast"]


# --- scale


def look(x=None, n=20, isolated=None, size=(80, 80)):
    if isolated is not None:
        return FirstLook(size, isolated, ScaleEstimate(None, "unknown", reason="none"))
    return FirstLook(size, None, None if x is None else ScaleEstimate((x, x), "red_cells", n))


def test_without_red_cells_a_cell_on_plain_ground_is_refused(model):
    rgb = image((20, 10, 40, (90, 40, 120)), ground=(0, 0, 0))
    with pytest.raises(ScaleError, match=r"one cell on plain ground.*Pass --mpp .*--cell-um"):
        model.classify(rgb)
    cell = model.classify(rgb, cell_um=10)
    assert cell.mpp == (0.25, 0.25)
    assert cell.scale.describe() == "assumed: the median of 1 cell is 10 µm wide"


def test_the_assumed_width_is_that_of_the_median_cell_so_sizes_still_differ():
    looks = [look(isolated=(0, 0, side, side)) for side in (100, 200, 400)]
    assert [scale.mpp[0] for scale in settled(looks, CellOptions(cell_um=10))] == pytest.approx([0.05] * 3)


def test_measurements_that_agree_give_one_scale_to_all_images_of_a_size():
    looks = [look(x) for x in (0.09, 0.1, 0.1, 0.1, 0.11)] + [look(), look(0.05, size=(50, 50))]
    scales = settled(looks, CellOptions())
    assert [scale.mpp[0] for scale in scales] == pytest.approx([0.1] * 6 + [0.05])
    assert {scale.describe() for scale in scales[:6]} == {"red cells of 5 other images of this size"}
    assert to_measure(looks) == []


def test_measurements_that_do_not_agree_count_for_their_own_image_only():
    looks = [look(x) for x in (0.05, 0.05, 0.05, 0.1, 0.1, 0.1)] + [look(0.2, n=2)]
    assert [scale.mpp[0] for scale in settled(looks, CellOptions())][:6] == [0.05] * 3 + [0.1] * 3
    assert to_measure([*looks, look()]) == [[7]]


def test_few_of_many_images_of_one_size_are_measured_at_first():
    ((first, *rest),) = to_measure([look() for _ in range(480)])
    assert len(rest) == 47 and first == 0 and rest[-1] == 470


def test_a_stated_scale_is_not_overruled():
    stated = FirstLook((80, 80), None, ScaleEstimate((0.3, 0.3), "dataset"))
    assert settled([stated, *[look(0.1) for _ in range(6)]], CellOptions())[0].mpp == (0.3, 0.3)


@pytest.mark.parametrize("width", [1, 100, "x", True])
def test_an_impossible_width_is_refused(width):
    with pytest.raises(ConfigError, match="cell_um: expected a width from 4 to 24 µm"):
        CellOptions(cell_um=width)


# --- a run


@pytest.fixture
def cells(tmp_path):
    folder = tmp_path / "cells"
    folder.mkdir()
    for name, kind in (("a", "lymphocyte"), ("b", "monocyte"), ("c", "lymphocyte")):
        write_image(folder / f"{name}.png", image((30, 30, 20, blue(kind))))
    write_image(folder / "d.png", image((30, 30, 20, (240, 250, 160))))
    (folder / "e.png").write_bytes(b"no image")
    return folder


def run(model, cells, out, existing="refuse", options=GIVEN):
    made = CellRun([cells], model, options, out, existing)
    said, warned = [], []
    try:
        names = [name for name, _ in made]
        failed = made.finish(said.append, warned.append)
    finally:
        made.close()
    return names, failed, said, warned


def rows_of(out):
    with (out / "cells.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_writes_a_row_for_each_image_and_goes_on_after_a_failure(model, cells, tmp_path):
    names, failed, said, warned = run(model, cells, tmp_path / "out")
    assert names == ["a.png", "b.png", "c.png", "d.png", "e.png"] and failed == 1
    rows = rows_of(tmp_path / "out")
    assert [row["cell_type"] for row in rows] == ["lymphocyte", "monocyte", "lymphocyte", "blast"]
    assert [row["unsure"] for row in rows] == ["0", "0", "0", "1"] and rows[3]["reason"] == "unlike training"
    assert rows[0]["probability_lymphocyte"] == "0.9" and rows[0]["blast_probability"] == "0.0"
    assert [rows[0][side] for side in ("x1", "y1", "x2", "y2")] == ["30.0", "30.0", "50.0", "50.0"]
    assert (rows[0]["mpp_x"], rows[0]["mpp_source"]) == ("0.5", "given")
    assert any(line.split() == ["lymphocyte", "2", "50.0", "0"] for line in said)
    assert said[-1].endswith("Not for use in diagnostic procedures.")
    assert len(warned) == 1 and "e.png" in warned[0]


def test_the_gallery_shows_every_cell_by_type_and_loads_nothing(model, cells, tmp_path):
    run(model, cells, tmp_path / "out")
    page = (tmp_path / "out/gallery.html").read_text("utf-8")
    assert page.count("<figure") == 4 and page.count('class="unsure"') == 1
    assert page.index('id="blast"') < page.index('id="lymphocyte"') < page.index('id="monocyte"')
    assert "Research Use Only" in page and "e.png" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)|https?://|<script", page)


def test_an_earlier_run_is_refused_continued_or_replaced(model, cells, tmp_path):
    out = tmp_path / "out"
    run(model, cells, out)
    before = [(out / name).read_bytes() for name in ("cells.csv", "gallery.html")]
    with pytest.raises(ConfigError, match="earlier run"):
        run(model, cells, out)
    write_image(cells / "f.png", image((30, 30, 20, blue("basophil"))))
    names, *_ = run(model, cells, out, "resume")
    assert names == ["e.png", "f.png"] and len(rows_of(out)) == 5
    (cells / "f.png").unlink()
    names, *_ = run(model, cells, out, "overwrite")
    assert len(names) == 5
    assert [(out / name).read_bytes() for name in ("cells.csv", "gallery.html")] == before


def test_added_images_that_change_the_scale_are_not_the_only_ones_classified_again(model, tmp_path):
    """The median cell is assumed to be 10 µm wide: larger cells make the scale of all smaller."""
    cells, out, options = tmp_path / "cells", tmp_path / "out", CellOptions(cell_um=10)
    cells.mkdir()
    for name in "ab":
        write_image(cells / f"{name}.png", image((20, 20, 20, (90, 40, 120)), ground=(0, 0, 0)))
    run(model, cells, out, options=options)
    assert run(model, cells, out, "resume", options)[0] == []
    for name in "cde":
        write_image(cells / f"{name}.png", image((20, 20, 40, (90, 40, 120)), ground=(0, 0, 0)))
    assert run(model, cells, out, "resume", options)[0] == [f"{name}.png" for name in "abcde"]
    assert {row["mpp_x"] for row in rows_of(out)} == {"0.25"}


def test_only_the_crops_that_a_large_gallery_shows_are_read(model, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_CROPS", 3)
    asked, entries = [], RunLog.entries
    monkeypatch.setattr(RunLog, "entries", lambda log, names: asked.append(names) or entries(log, names))
    run(model, cells, tmp_path / "out")
    page = (tmp_path / "out/gallery.html").read_text("utf-8")
    # one of each type, and 3 / 4 of the two lymphocytes are two
    assert sorted(asked[-1]) == ["a.png", "b.png", "c.png", "d.png"] and page.count("<figure") == 4
    monkeypatch.setattr(gallery, "MOST_CROPS", 2)
    run(model, cells, tmp_path / "less")
    page = (tmp_path / "less/gallery.html").read_text("utf-8")
    assert asked[-1] == ["d.png", "a.png", "b.png"] and page.count("<figure") == 3
    assert "The 3 most doubtful of 4 cells are shown" in page and "1 cell, 1 unsure" in page


def test_one_image_is_not_spoken_of_as_many():
    row = {"cell_type": "blast", "unsure": 0, "mpp_source": "given", "reason": "", "note": "far"}
    lines = summary([row], 0)
    assert "scale: given (1 image)" in lines and any(line.startswith("1 cell with a note") for line in lines)
    assert "scale: given (2 images)" in summary([row, row], 0)


def test_a_file_name_that_is_no_text_fails_alone(model, cells, tmp_path):
    (cells / "a.png").rename(os.fsdecode(os.fsencode(cells) + b"/\xff.png"))
    _, failed, _, warned = run(model, cells, tmp_path / "out")
    assert failed == 2 and any("not valid UTF-8" in line for line in warned)
    assert len(rows_of(tmp_path / "out")) == 3
    "".join(warned).encode()


def test_an_unknown_stain_is_said(model, cells, tmp_path):
    for name in "abc":
        write_image(cells / f"{name}.png", image((30, 30, 20, (10, 250, 170))))
    *_, said, _ = run(model, cells, tmp_path / "out")
    line = next(text for text in said if text.startswith("note: "))
    assert line.startswith("note: 4 of 4 cells are unlike the training data")
    assert line.removeprefix("note: ") in (tmp_path / "out/gallery.html").read_text("utf-8")


def test_many_failures_for_one_reason_are_one_line():
    many = {f"{i}.png": f"{i}.png: too dark" for i in range(10)}
    assert failures(many) == ["failed: 10 images (0.png, 1.png, 2.png and 7 more): too dark"]
    assert failures({"a.png": "a.png: too dark"}) == ["failed: a.png: too dark"]


def test_an_edited_entry_is_classified_again_with_a_note(model, cells, tmp_path):
    out = tmp_path / "out"
    run(model, cells, out)
    before = (out / "cells.csv").read_bytes()
    log = out / "run.jsonl"
    log.write_text(log.read_text("utf-8").replace('"cell_type": "monocyte"', '"cell_type": "blast"'), "utf-8")
    names, _, said, _ = run(model, cells, out, "resume")
    assert names == ["b.png", "e.png"] and (out / "cells.csv").read_bytes() == before
    assert "note: classified again, because run.jsonl is not as it was written: b.png" in said


def test_copies_of_a_cell_are_named(model, cells, tmp_path):
    said = run(model, cells, tmp_path / "out")[2]
    assert any(line.startswith("note: 1 image is a copy of another one (a.png = c.png)") for line in said)


def test_a_full_disk_is_one_line_with_the_path(model, cells, tmp_path):
    said = f"{tmp_path}/out/run.jsonl: cannot be written .File too large"
    with limited_files(2_000), pytest.raises(BlastdetError, match=said):
        run(model, cells, tmp_path / "out")


def test_failures_for_many_reasons_are_bounded():
    many = {f"{i}.png": f"{i}.png: reason {i}" for i in range(100)}
    lines = failures(many)
    assert len(lines) == 21 and lines[0] == "failed: 0.png: reason 0"
    assert lines[-1] == "failed: 80 images for other reasons, first: '20.png'"


def test_what_a_run_leaves_out_of_a_folder_is_named(model, cells, tmp_path):
    (cells / "notes.txt").write_text("x")
    (cells / "cell.czi").write_text("x")
    (tmp_path / "out").mkdir()
    with closing(CellRun([cells], model, GIVEN, tmp_path / "out")) as one:
        assert one.left_out == "left out: 2 files (1 .czi, 1 .txt), first: 'cell.czi'"
    with closing(CellRun(sorted(cells.glob("*.png")), model, GIVEN, tmp_path / "out2")) as named:
        assert named.left_out == ""
