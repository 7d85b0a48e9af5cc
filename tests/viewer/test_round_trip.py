"""What a page shows after corrections is what its exported lines make of the images: on every page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from viewing import lines_of

from blastdet.core.constants import CELL_CLASSES
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.apply_corrections import replay_corrections
from blastdet.datasets.reading import read_dataset
from blastdet.evaluation.predict import Predictions
from blastdet.imaging.io import write_image
from blastdet.inference.batch import Batch, Output
from blastdet.inference.model import Model, Options
from blastdet.inference.outputs.jobs import Job
from blastdet.models.fake_classifier import FakeClassifier, fake_types_card, type_blue
from blastdet.models.fake_detector import MARKS, FakeDetector, fake_card
from blastdet.review.page import write_page
from blastdet.review.review import make_review

pytestmark = pytest.mark.browser

SIZE = (256, 96)

RUN = """(steps) => {
  const off = new Set(), places = (image, picks) => [...new Set(picks.map((pick) => pick % image.kind.length))];
  corrections.clear(); past.length = 0;
  for (const image of images) {
    image.first.length = image.box.length = 4 * image.base; image.kind.length = image.base;
    for (let row = 0; row < image.base; row++) refresh(image.i, row);
  }
  cells.keep();
  for (const [what, at, picks, name, by] of steps) {
    const image = images[at % images.length], i = image.i, rows = places(image, picks);
    const cells = rows.map((row) => [i, row]);
    if (what === "class") correct(cells, "class", name);
    else if (what === "move") {
      const row = rows[0], [x1, y1, x2, y2] = boxOf(image, row);
      const to = [x1 + by[0], y1 + by[1], x2 + by[0], y2 + by[1] + 3.1].map(ROUND);
      const within = to[0] >= 0 && to[1] >= 0 && to[2] <= image.width && to[3] <= image.height;
      if (image.kind[row] !== GONE && within) correct([cells[0]], "move", "", to);
    } else if (what === "add") addCell(i, [100 + by[0], 40 + by[1], 120 + by[0], 61 + by[1]].map(ROUND), name);
    else if (what === "undo") undo();
    else if (what === "hide") { if (off.has(KIND[name])) off.delete(KIND[name]); else off.add(KIND[name]); }
    else if (what === "confirm") confirmImage(i, (kind) => !off.has(kind));
    else correct(cells, what);
  }
}"""

SHOWN = """() => images.map((image) => {
  const complete = DATA.classes.filter((name) => corrections.has(annotates(image.i, name))), cells = [];
  for (let row = 0; row < image.kind.length; row++) {
    const kind = KINDS[image.kind[row]], isLabel = correctionAt(image.i, row) || oldOf(image, row) >= 0;
    const known = isLabel || complete.includes(kind.class);
    if (known && kind.name !== "deleted") cells.push([...boxOf(image, row), kind.class, kind.type]);
  }
  return [complete, cells];
})"""

Cells = list[list[Any]]


@dataclass
class Shown:
    """A page in the browser, and the dataset that its corrections are for."""

    page: Any
    dataset: Dataset
    folder: Path

    def on_page(self) -> list[tuple[list[str], Cells]]:
        return [(complete, sorted(cells)) for complete, cells in self.page.evaluate(SHOWN)]

    def applied(self) -> list[tuple[list[str], Cells]]:
        """The same of the dataset with the exported lines; of an ignored cell only the box."""
        after, _ = replay_corrections(self.dataset, lines_of(self.page, self.folder))
        before = [sample.annotated for sample in self.dataset]
        found = zip(after, before, strict=True)
        return [([n for n in sample.annotated if n not in old], _cells(sample.truth)) for sample, old in found]


def _cells(truth: Detections | None) -> Cells:
    cells: Cells = []
    for row in range(0 if truth is None else len(truth)):
        assert truth is not None
        ignored = truth.ignore is not None and truth.ignore[row]
        named = ("", "") if ignored else (CELL_CLASSES[truth.label[row]], _type(truth, row))
        cells.append([*(round(float(side), 1) for side in truth.boxes_xyxy[row]), *named])
    return sorted(cells)


def _type(truth: Detections, row: int) -> str:
    return "" if truth.cell_type is None else str(truth.cell_type[row])


def _field(path: Path, white: tuple[Any, ...]) -> None:
    """White discs in colours that the fake classifier reads, and two red cells."""
    rgb = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
    for i, colour in enumerate(white):
        cv2.circle(rgb, (25 + 45 * i, 28), 12, colour, cv2.FILLED)
    for i in range(2):
        rgb[60:75, 10 + 30 * i : 25 + 30 * i] = MARKS["rbc"]
    write_image(path, rgb)


def _run(folder: Path, second_stage: bool) -> tuple[Path, Dataset]:
    """The page of a run on a folder that nobody labelled, and that folder read as such."""
    (folder / "in").mkdir()
    _field(folder / "in/a.png", ((0, 0, type_blue("lymphocyte")), (0, 0, type_blue("monocyte")), (0, 60, 255)))
    _field(folder / "in/b.png", ((0, 0, type_blue("blast")), (0, 0, type_blue("lymphocyte"))))
    classifier = FakeClassifier(fake_types_card()) if second_stage else None
    model = Model(FakeDetector(fake_card(0.5, (256, 256))), folder, classifier)
    jobs = [Job(path, path.name) for path in sorted((folder / "in").iterdir())]
    batch = Batch(jobs, model, Options(mpp=0.5), Output(folder / "out", ("html",)))
    assert all(outcome.error is None for outcome in batch)
    batch.finish()
    batch.close()
    return folder / "out/index.html", read_dataset(folder / "in", format="images")


def _review(folder: Path) -> tuple[Path, Dataset]:
    """A review page of two labelled images: hits, one cell missed, one false, one of another class, one ignored."""
    boxes = np.array([[10 + 40 * i, 10, 34 + 40 * i, 36] for i in range(5)], np.float32)
    samples, found = [], []
    for number in range(2):
        path = folder / f"{number}.png"
        write_image(path, np.full((SIZE[1], SIZE[0], 3), 220 - number, np.uint8))
        truth = Detections(boxes[:4], label=[0, 1, 2, 1]).with_columns(ignore=np.arange(4) == 3)
        samples.append(Sample(path, SIZE, (0.3, 0.3), annotated=("blast", "wbc", "rbc"), truth=truth))
        kept = boxes[1:] if number else np.delete(boxes, 2, axis=0)
        found.append(Detections(kept, label=[1, 2, 1, 1] if number else [1, 1, 1, 0], score=[0.9] * 4))
    dataset = Dataset("made", folder, tuple(samples))
    thresholds = dict.fromkeys(("blast", "wbc", "rbc"), 0.5)
    predictions = Predictions("m", tuple(found), thresholds, {"files": {"m": "ab" * 32}})
    return write_page(make_review(dataset, predictions), folder / "page"), dataset


PAGES: dict[str, Callable[[Path], tuple[Path, Dataset]]] = {
    "run": lambda folder: _run(folder, second_stage=True),
    "run without a second stage": lambda folder: _run(folder, second_stage=False),
    "review": _review,
}


@pytest.fixture(scope="module", params=PAGES)
def shown(request, browser, tmp_path_factory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("page")
    file, dataset = PAGES[request.param](folder)
    page = browser.new_page()
    page.goto(file.as_uri())
    yield Shown(page, dataset, folder)
    page.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["class", "ok", "ok", "ignore", "delete", "forget", "move", "add", "undo", "hide", "confirm"]),
        st.integers(0, 1),
        st.lists(st.integers(0, 9), min_size=1, max_size=3),
        st.sampled_from(["blast", "lymphocyte", "smudge", "wbc", "rbc", "platelet"]),
        st.tuples(st.floats(-30, 30), st.floats(-20, 20)).map(lambda by: [round(side, 1) for side in by]),
    ),
    max_size=14,
)


def test_the_exported_lines_make_what_is_shown(shown):
    """Random steps, then the page against `replay_corrections` of what it exports; a reload changes nothing."""

    @settings(max_examples=50, deadline=None)
    @given(STEPS)
    def check(steps: list[Any]) -> None:
        shown.page.evaluate(RUN, steps)
        assert shown.applied() == shown.on_page()

    check()


def test_a_reload_changes_nothing(shown):
    steps = [
        ["class", 0, [0], "smudge", [0, 0]],
        ["move", 0, [1], "", [2.5, 3]],
        ["add", 1, [0], "blast", [0, 0]],
        ["hide", 0, [0], "rbc", [0, 0]],
        ["confirm", 1, [0], "", [0, 0]],
    ]
    shown.page.evaluate(RUN, steps)
    before = shown.on_page()
    shown.page.reload()
    assert shown.on_page() == before == shown.applied()
