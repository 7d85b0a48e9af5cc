"""Results of an earlier run that are not as they were written, copies of an image, and a full disk."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from made import limited_files

from blastdet.imaging.io import write_image
from blastdet.inference.batch import Batch, Output
from blastdet.inference.model import Model, Options
from blastdet.inference.outputs.jobs import Job
from blastdet.models.fake_classifier import FakeClassifier, fake_types_card, type_blue
from blastdet.models.fake_detector import FakeDetector, fake_card

FORMATS = ("json", "csv", "overlay", "html")


def field(path: Path, n_white: int = 2) -> Job:
    rgb = np.full((96, 256, 3), 255, np.uint8)
    for i in range(n_white):
        cv2.circle(rgb, (25 + 45 * i, 28), 12, (0, 0, type_blue("lymphocyte")), cv2.FILLED)
    write_image(path, rgb)
    return Job(path, path.name)


def batch(folder: Path, jobs: list[Job], existing: str = "refuse", formats: tuple[str, ...] = FORMATS) -> Batch:
    model = Model(FakeDetector(fake_card(0.5, (256, 256))), folder, FakeClassifier(fake_types_card()))
    return Batch(jobs, model, Options(mpp=0.5), Output(folder / "out", formats, existing))


def run(folder: Path, jobs: list[Job], existing: str = "refuse") -> tuple[Batch, list[str]]:
    made = batch(folder, jobs, existing)
    try:
        list(made)
        totals, _ = made.finish()
    finally:
        made.close()
    assert not made.failed, made.failed
    return made, totals.remarks()


@pytest.mark.parametrize(
    ("file", "content"),
    [("a.overlay.jpg", b""), ("a.csv", b"image,cell\nx"), ("a.json", b"{"), ("page/images/a.jpg", b"\xff\xd8")],
)
def test_an_image_with_a_damaged_result_is_done_again_with_a_note(tmp_path, file, content):
    jobs = [field(tmp_path / "a.png"), field(tmp_path / "b.png", 3)]
    run(tmp_path, jobs)
    whole = (tmp_path / "out" / file).read_bytes()
    (tmp_path / "out" / file).write_bytes(content)
    made, _ = run(tmp_path, jobs, "resume")
    note = f"note: done again, a result is missing or not as it was written: a.png ({file})"
    assert made.redone_notes() == [note] and (tmp_path / "out" / file).read_bytes() == whole
    made, _ = run(tmp_path, jobs, "resume")
    assert made.redone_notes() == []


def test_a_count_edited_in_the_run_log_is_not_believed(tmp_path):
    jobs = [field(tmp_path / "a.png")]
    run(tmp_path, jobs)
    log, before = tmp_path / "out/run.jsonl", (tmp_path / "out/summary.csv").read_bytes()
    head, line = log.read_text().splitlines()
    entry = json.loads(line)
    entry["counts"]["wbc"] += 40
    log.write_text(f"{head}\n{json.dumps(entry)}\n")
    made, _ = run(tmp_path, jobs, "resume")
    assert made.redone == {"a.png": "run.jsonl"} and (tmp_path / "out/summary.csv").read_bytes() == before


def test_a_copy_of_an_image_is_named(tmp_path):
    jobs = [field(tmp_path / "a.png"), field(tmp_path / "b.png"), field(tmp_path / "c.png", 3)]
    _, (note,) = run(tmp_path, jobs)
    assert note.startswith("1 image is a copy of another one (a.png = b.png)")
    assert "A field or a cell counts once: remove the copies" in (tmp_path / "out/index.html").read_text("utf-8")


def test_a_full_disk_while_the_pdf_is_written_is_named(tmp_path):
    made = batch(tmp_path, [field(tmp_path / "a.png")], formats=("pdf",))
    with limited_files(10_000), closing(made):
        list(made)
    assert made.failed == {"a.png": f"a.png: results cannot be written to {tmp_path / 'out'} (File too large)"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "run.jsonl"]
