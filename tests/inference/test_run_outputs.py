"""Tables and printed lines of a whole run."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from blastdet.core.columns import shown_as
from blastdet.core.constants import COLOURS
from blastdet.imaging import drawing
from blastdet.imaging.io import read_image, write_image
from blastdet.inference.batch import Batch, Output
from blastdet.inference.blast_fraction import fraction_of
from blastdet.inference.differential import WhiteCells, differential
from blastdet.inference.model import Model, Options
from blastdet.inference.outputs.jobs import Job
from blastdet.inference.outputs.printed import Lines, Printer, run_lines
from blastdet.inference.outputs.run_tables import SUMMARY_COLUMNS
from blastdet.inference.outputs.run_totals import RunTotals, all_cells
from blastdet.models.fake_classifier import FakeClassifier, fake_types_card, type_blue
from blastdet.models.fake_detector import MARKS, FakeDetector, fake_card


def model(folder: Path, second_stage: bool = True) -> Model:
    classifier = FakeClassifier(fake_types_card()) if second_stage else None
    return Model(FakeDetector(fake_card(0.5, (256, 256))), folder, classifier)


LYMPHOCYTE, MONOCYTE, UNLIKE = (0, 0, type_blue("lymphocyte")), (0, 0, type_blue("monocyte")), (0, 60, 255)


def field(folder: Path, name: str, white: tuple[Any, ...] = (LYMPHOCYTE, MONOCYTE, MONOCYTE), n_red: int = 2) -> Job:
    """White discs in colours that the fake classifier reads, and red cells."""
    rgb = np.full((96, 256, 3), 255, np.uint8)
    for i, colour in enumerate(white):
        cv2.circle(rgb, (25 + 45 * i, 28), 12, colour, cv2.FILLED)
    for i in range(n_red):
        rgb[60:75, 10 + 30 * i : 25 + 30 * i] = MARKS["rbc"]
    write_image(folder / "image.png", rgb)
    path = folder / name
    (folder / "image.png").rename(path)
    return Job(path, name)


def run(folder: Path, jobs: list[Job], formats: tuple[str, ...], **options: Any) -> tuple[RunTotals, list[Path]]:
    made = model(folder, options.pop("second_stage", True))
    batch = Batch(jobs, made, Options(mpp=0.5), Output(folder / "out", formats, **options))
    try:
        outcomes = list(batch)
        assert not batch.failed, batch.failed
        assert len(outcomes) == len(jobs)
        return batch.finish()
    finally:
        batch.close()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def texts(path: Path, sheet: int) -> tuple[list[str], str]:
    """Strings of a worksheet, and its XML."""
    with zipfile.ZipFile(path) as book:
        xml = book.read(f"xl/worksheets/sheet{sheet}.xml").decode()
    return re.findall(r"<t[^>]*>([^<]*)</t>", xml), xml


def test_the_tables_of_a_run_add_up(tmp_path):
    jobs = [field(tmp_path, "a.png"), field(tmp_path, "b.png", n_red=3)]
    totals, files = run(tmp_path, jobs, ("csv", "xlsx"))
    assert [path.name for path in files] == ["summary.csv", "cells.csv", "summary.xlsx"]
    table = rows(tmp_path / "out/summary.csv")
    assert tuple(table[0]) == SUMMARY_COLUMNS
    assert [row["image"] for row in table] == ["a.png", "b.png"]
    assert [row["rbc"] for row in table] == ["2", "3"] and totals.counts["rbc"] == 5
    cells = rows(tmp_path / "out/cells.csv")
    assert [row["image"] for row in cells].count("b.png") == len(rows(tmp_path / "out/b.csv"))
    assert [row["monocyte"] for row in table] == ["2", "2"]
    assert [(row["few_cells"], row["white_cells"]) for row in table] == [("1", "3")] * 2 and table[0]["blast_fraction"]
    found = totals.blast_fraction
    assert found is not None and found.n == sum(int(row["white_cells"]) for row in table) == 6


def test_the_coco_file_says_what_is_printed(tmp_path):
    erythroblast = (0, 0, type_blue("erythroblast"))
    jobs = [field(tmp_path, "a.png"), field(tmp_path, "b.png", (LYMPHOCYTE, UNLIKE, erythroblast))]
    totals, files = run(tmp_path, jobs, ("coco",))
    document = json.loads((tmp_path / "out/detections.coco.json").read_text())
    names = {row["id"]: row["name"] for row in document["categories"]}
    cells = [(names[row["category_id"]], row["cell_type"]) for row in document["annotations"]]
    white = [cell for cell in cells if cell[0] in ("blast", "wbc", "unsure") and cell[1] != "erythroblast"]
    assert totals.blast_fraction is not None and len(white) == totals.blast_fraction.n == 5
    assert {name: [cell[0] for cell in cells].count(name) for name in ("rbc", "unsure")} == {"rbc": 4, "unsure": 1}
    lines = run_lines(totals, files)
    assert lines[-1] == f"wrote {tmp_path}/out/detections.coco.json (its wbc include 1 erythroblast)"
    assert sum(line.startswith("2 images counted as one smear.") for line in lines) == 1


def test_equal_runs_give_equal_workbooks(tmp_path):
    written = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        run(folder, [field(folder, "a.png")], ("xlsx",))
        written.append((folder / "out/summary.xlsx").read_bytes())
    assert written[0] == written[1]


def test_a_name_like_a_formula_stays_text(tmp_path):
    name = '=HYPERLINK("http:x","y").png'
    job = field(tmp_path, "a.png")
    run(tmp_path, [Job(job.path, name.replace("/", ""))], ("xlsx",))
    found, xml = texts(tmp_path / "out/summary.xlsx", 2)
    assert any(text.startswith("=HYPERLINK") for text in found)
    assert "<f>" not in xml and "hyperlink" not in xml.replace("HYPERLINK", "")


@pytest.mark.parametrize("name", ["summary.png", "cells.png"])
def test_an_image_named_like_a_table_keeps_both(tmp_path, name):
    run(tmp_path, [field(tmp_path, name)], ("csv",))
    assert (tmp_path / f"out/{name}.csv").is_file() and (tmp_path / "out/summary.csv").is_file()
    assert [row["image"] for row in rows(tmp_path / "out/summary.csv")] == [name]


def test_a_resumed_run_has_the_tables_of_an_uninterrupted_one(tmp_path):
    jobs = [field(tmp_path, "a.png"), field(tmp_path, "b.png")]
    run(tmp_path, jobs[:1], ("csv", "xlsx"))
    run(tmp_path, jobs, ("csv", "xlsx"), existing="resume")
    resumed = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*s*") if path.name != "run.jsonl"}
    run(tmp_path, jobs, ("csv", "xlsx"), existing="overwrite")
    assert resumed == {
        path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*s*") if path.name != "run.jsonl"
    }
    assert "cells.csv" in resumed and "summary.xlsx" in resumed


def test_the_overlay_leaves_out_a_hidden_class_and_counts_it(tmp_path):
    drawn = {}
    for name, hidden in (("with", ()), ("without", ("rbc",))):
        folder = tmp_path / name
        folder.mkdir()
        totals, _ = run(folder, [field(folder, "a.png")], ("overlay",), hidden=hidden)
        drawn[name] = read_image(folder / "out/a.overlay.jpg").astype(int)
        assert totals.counts["rbc"] == 2
    orange = {name: (np.abs(rgb - COLOURS["rbc"]).sum(axis=2) < 90) for name, rgb in drawn.items()}
    strip = drawn["with"].shape[0] * 3 // 4  # the caption counts them in their colour
    assert orange["with"][:strip].sum() > 100 > orange["without"][:strip].sum()
    assert orange["without"][strip:].sum() > 100


def test_an_unknown_stain_has_no_fraction_in_any_table(tmp_path):
    """Twelve white cells far from all that was learnt: the fraction is empty, the stain is named first."""
    jobs = [field(tmp_path, f"{i}.png", white=(UNLIKE,) * 3, n_red=0) for i in range(4)]
    folder = tmp_path
    batch = Batch(
        jobs,
        Model(FakeDetector(fake_card(0.5, (256, 256))), folder, FakeClassifier()),
        Options(mpp=0.5),
        Output(folder / "out", ("csv", "xlsx")),
    )
    list(batch)
    totals, files = batch.finish()
    batch.close()
    assert totals.blast_fraction is not None and not totals.blast_fraction.is_known_stain
    found, xml = texts(tmp_path / "out/summary.xlsx", 1)
    assert any("no blast fraction" in text for text in found) and "NaN" not in xml
    assert not any("%" in text and "CI" not in text for text in found)
    assert "no blast fraction" in run_lines(totals, files)[1]


def said(jobs: list[Job], folder: Path, detail: Any, second_stage: bool = True) -> list[str]:
    lines: list[str] = []
    made = model(folder, second_stage)
    batch = Batch(jobs, made, Options(mpp=0.5), Output(folder / detail, ("json",)))
    printer = Printer(lines.append, lines.append, detail, Lines([job.name for job in jobs], made.classes, second_stage))
    for outcome in batch:
        printer.image(outcome.text, outcome.error, outcome.entry)
    printer.end(*batch.finish(), len(jobs))
    batch.close()
    return lines


def test_brief_has_a_line_for_each_image_in_columns(tmp_path):
    jobs = [field(tmp_path, "a.png"), field(tmp_path, "much-longer-name.png")]
    lines = said(jobs, tmp_path, "brief")
    heading, first, second = lines[:3]
    assert heading.split()[:4] == ["image", "white", "cells", "blasts"]
    assert first.startswith("a.png") and second.startswith("much-longer-name.png")
    assert len({line.index(" s") if line is heading else len(line[: len(heading)]) for line in (first, second)}) == 1
    assert first.split()[1] == "3" and any(line.startswith("rbc ") and " 4 " in line for line in lines)


def test_without_a_second_stage_the_classes_of_the_detector_are_the_columns(tmp_path):
    heading, first = said([field(tmp_path, "a.png")], tmp_path, "brief", second_stage=False)[:2]
    assert "wbc" in heading and "blasts" not in heading
    assert first.split()[1] == "3"


def test_quiet_prints_only_what_failed(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    jobs = [field(tmp_path, "a.png"), Job(tmp_path / "bad.png", "bad.png")]
    lines = said(jobs, tmp_path, "quiet")
    assert lines[0].startswith("failed: ") and lines[1] == "1 of 2 failed:" and len(lines) == 3


def test_a_name_with_control_characters_is_shown_without_them():
    entry = {"name": "a\x1b[31m\n.png", "counts": {"wbc": 1}, "white_cells": None, "warnings": []}
    line = Lines([entry["name"]], ("wbc",), False).line({**entry, "mpp": [0.1, 0.1], "seconds": 1.0})
    assert "\x1b" not in line and "\n" not in line


def test_the_pdf_is_one_page_and_equal_runs_give_equal_bytes(tmp_path):
    """A name with a dollar sign is no formula of matplotlib."""
    written = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        run(folder, [field(folder, "a$b$_^{.png")], ("pdf",))
        written.append((folder / "out/a$b$_^{.pdf").read_bytes())
    assert written[0] == written[1] and written[0].startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", written[0])) == 1


@pytest.mark.parametrize(
    ("hidden", "left"),
    [
        ((), ["lymphocyte", "monocyte", "unsure", "rbc", "rbc"]),
        (("rbc",), ["lymphocyte", "monocyte", "unsure"]),
        (("wbc",), ["unsure", "rbc", "rbc"]),  # white cells of any type that are neither blasts nor uncertain
        (("unsure", "rbc"), ["lymphocyte", "monocyte"]),
    ],
)
def test_overlay_pdf_and_page_leave_out_what_the_table_counts_under_a_name(tmp_path, monkeypatch, hidden, left):
    drawn: list[list[str]] = []
    plain = drawing.draw_cells

    def draw_cells(source: Any, cells: Any, mpp: Any, larger: float = 1.0) -> Any:
        drawn.append(sorted(shown_as(cells)))
        return plain(source, cells, mpp, larger)

    monkeypatch.setattr(drawing, "draw_cells", draw_cells)
    job = field(tmp_path, "a.png", white=(LYMPHOCYTE, MONOCYTE, UNLIKE))
    totals, _ = run(tmp_path, [job], ("overlay", "pdf", "html"), hidden=hidden)
    assert drawn == [sorted(left)] * 2 and totals.counts["rbc"] == 2  # counted all the same
    page = (tmp_path / "out/index.html").read_text("utf-8")
    data, _ = json.JSONDecoder().raw_decode(page, page.index("const DATA = ") + len("const DATA = "))
    names = [data["kinds"][index]["name"] for index in data["images"][0]["kind"]]
    assert sorted(name for name in names if name not in data["hidden"]) == sorted(left)


def test_one_name_means_one_thing_beside_the_differential():
    """Beside types, "other wbc" are those of no type: all white cells are one row of the table of all cells."""
    counts = {"blast": 3, "wbc": 44, "unsure": 9, "erythroblast": 1, "rbc": 554}
    white = WhiteCells(3, 44, 9, 5, types={"lymphocyte": 39})
    assert [(row.cell_type, row.n) for row in differential(white)][-2:] == [("wbc", 5), ("unsure", 9)]
    assert all_cells(counts, white) == {"wbc": 56, "erythroblast": 1, "rbc": 554}
    assert all_cells({"wbc": 44, "rbc": 554}, None) == {"wbc": 44, "rbc": 554}


@pytest.mark.parametrize(("blasts", "stated"), [(60, True), (6, False)])
def test_the_pdf_says_what_its_intervals_cover(monkeypatch, blasts, stated):
    from matplotlib.figure import Figure

    from blastdet.inference.outputs import pdf_report

    said: list[str] = []
    monkeypatch.setattr(pdf_report, "_text", lambda f, x, y, text, **s: said.append(text))
    found = fraction_of(WhiteCells(blasts, 4, 0, blasts), ())
    pdf_report._differential(Figure(), SimpleNamespace(blast_fraction=found, differential=differential(found)))
    assert ("95 % CI (counting)" in said) == stated


def test_the_pdf_of_an_unknown_stain_states_no_fraction(tmp_path, monkeypatch):
    from blastdet.inference.outputs import pdf_report

    said: list[str] = []
    plain = pdf_report._text
    monkeypatch.setattr(pdf_report, "_text", lambda f, x, y, text, **s: (said.append(text), plain(f, x, y, text, **s)))
    job = field(tmp_path, "a.png", white=(UNLIKE,) * 5, n_red=0)
    second = read_image(job.path)
    write_image(job.path, np.concatenate([second, second, second]))  # fifteen white cells
    made = Model(FakeDetector(fake_card(0.5, (256, 256))), tmp_path, FakeClassifier())
    batch = Batch([job], made, Options(mpp=0.5), Output(tmp_path / "out", ("pdf", "html")))
    list(batch)
    assert not batch.failed
    totals, _ = batch.finish()
    batch.close()
    assert totals.blast_fraction is not None and not totals.blast_fraction.is_known_stain
    assert any("no blast fraction is given" in text.replace("\n", " ") for text in said)
    assert not [text for text in said if re.search(r"\d %", text.replace("95 %", ""))]
    page = (tmp_path / "out/index.html").read_text("utf-8")
    data, _ = json.JSONDecoder().raw_decode(page, page.index("const DATA = ") + len("const DATA = "))
    assert "no blast fraction is given" in data["unknown"] and data["sentences"] == []
    assert {(row["value"], row["percent"], row["ci"]) for row in data["differential"]["rows"]} == {(None, "–", "–")}


def test_the_pdf_of_few_cells_shows_numbers_and_each_colour_once_named(tmp_path, monkeypatch):
    """Three white cells: no percentage, no bar; white cells are one row of the table of all cells."""
    from blastdet.inference.outputs import pdf_report

    said: list[str] = []
    plain = pdf_report._text
    monkeypatch.setattr(pdf_report, "_text", lambda f, x, y, text, **s: (said.append(text), plain(f, x, y, text, **s)))
    run(tmp_path, [field(tmp_path, "a.png")], ("pdf",))
    assert said[said.index("monocyte") + 1] == "2" and said[said.index("white cells") + 1] == "3"
    assert "Fewer than 50 white cells: numbers only, no percentages" in said
    assert "White cells, none of them a blast or uncertain: each square is 22 µm wide" in said
    assert sum(text.startswith("monocyte ") for text in said) == 2  # below its crops
    assert not [t for t in said if re.search(r"\d %", t.replace("95 %", "")) and not t.startswith("Too few cells")]
    assert any("sha256 of the image" in text for text in said)
