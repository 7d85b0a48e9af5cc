"""Corrections: reading, appending, merging, and applying them to a dataset."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import SIZE_WH, damaged, image_file
from plain_corrections import plainly_corrected

from blastdet.core.errors import FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import BLAST, CELL_CLASSES, COLUMNS, PLATELET, RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.apply_corrections import apply_corrections, correct_sample, replay_corrections
from blastdet.datasets.corrections import Correction, append_corrections, merge_corrections, read_corrections
from blastdet.datasets.formats import registry
from blastdet.imaging.io import write_image

REPO = Path(__file__).resolve().parents[2]
BOXES = [[60 * (i % 5) + 5, 60 * (i // 5) + 5, 60 * (i % 5) + 45, 60 * (i // 5) + 45] for i in range(20)]


def make(folder: Path) -> Dataset:
    """Two images of 20 cells, blasts and white cells in turn."""
    samples = []
    for i in range(2):
        path = folder / f"s{i}.png"
        write_image(path, np.full((250, 310, 3), 230 - i, np.uint8))
        truth = Detections(BOXES, label=np.arange(20) % 2)
        samples.append(Sample(path, (310, 250), annotated=("blast", "wbc"), truth=truth))
    return Dataset("made", folder, tuple(samples))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make(tmp_path)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(tmp_path_factory.mktemp("made"))


def _correction(dataset: Dataset, sample: int, box: Any, op: str, **changes: Any) -> Correction:
    path = dataset.samples[sample].path
    about = {"who": "A", "when": "2026-01-01T00:00:00Z", "image": path.name, "image_sha256": sha256_of(path)}
    return Correction(**about, box_xyxy=tuple(float(v) for v in box), op=op, **changes)


def test_each_operation_changes_the_truth(dataset):
    boxes = dataset.samples[0].truth.boxes_xyxy
    moved = (10.0, 10.0, 52.0, 52.0)
    lines = [
        _correction(dataset, 0, boxes[1], "class", old_class="wbc", new_class="blast"),
        _correction(dataset, 0, boxes[2], "delete", old_class="blast"),
        _correction(dataset, 0, boxes[3], "ignore", old_class="wbc"),
        _correction(dataset, 0, boxes[0], "class", old_class="blast", new_class="blast", new_box_xyxy=moved),
        _correction(dataset, 0, (250, 200, 300, 240), "class", new_class="rbc"),
        _correction(dataset, 0, boxes[5], "ok", old_class="wbc"),
        _correction(dataset, 0, (1, 1, 9, 9), "delete"),  # a false detection: nothing to take out
    ]
    after, counts = replay_corrections(dataset, lines)
    assert counts == {"relabelled": 1, "deleted": 1, "ignored": 1, "moved": 1, "added": 1, "confirmed": 1}
    truth = after.samples[0].truth
    assert len(truth) == 20 and truth.ignore.sum() == 1 and (truth.origin == "human").sum() == 5
    assert truth.label[np.abs(truth.boxes_xyxy - boxes[1]).max(axis=1) < 1].tolist() == [0]
    assert truth.label[np.abs(truth.boxes_xyxy - (250, 200, 300, 240)).max(axis=1) < 1].tolist() == [2]
    assert any(np.array_equal(box, moved) for box in truth.boxes_xyxy)
    again, _ = replay_corrections(after, lines)
    _same(again, after)
    assert after.samples[1] is dataset.samples[1]


def _same(a: Dataset, b: Dataset) -> None:
    for one, other in zip(a, b, strict=True):
        for name in ("boxes_xyxy", "label", "ignore", "origin"):
            np.testing.assert_array_equal(getattr(one.truth, name), getattr(other.truth, name))


OPS = st.sampled_from(["class", "ignore", "delete", "ok"])


@given(
    st.lists(st.tuples(st.integers(0, 24), OPS, st.sampled_from(["blast", "wbc", "rbc"]), st.booleans()), max_size=12)
)
def test_replaying_twice_changes_nothing(made_once, said):
    """Whatever is said of cells that are there, or of boxes that a model drew, in whatever order."""
    dataset = made_once
    boxes = [*dataset.samples[0].truth.boxes_xyxy.tolist(), *[[5 + i, 230, 30 + i, 245] for i in range(0, 250, 50)]]
    lines = []
    for i, op, name, move in said:
        to = tuple(side + 3.0 for side in boxes[i]) if move and op == "class" else None
        lines.append(_correction(dataset, 0, boxes[i], op, new_class=name if op == "class" else "", new_box_xyxy=to))
    once, _ = replay_corrections(dataset, lines)
    twice, _ = replay_corrections(once, lines)
    _same(twice, once)
    last, _ = replay_corrections(dataset, lines + lines)
    _same(last, once)


SIDE = st.integers(0, 12).map(lambda n: n * 0.25)  # boxes that are the same, nearly the same, and others
BOX = st.builds(lambda x, y, w, h: (x, y, x + 20 + w, y + 20 + h), SIDE, SIDE, SIDE, SIDE)
NAME = st.sampled_from(["", "any", *CELL_CLASSES])
SAID = st.builds(
    Correction,
    image=st.just("a.png"),
    image_sha256=st.sampled_from([*["a" * 64] * 9, ""]),
    box_xyxy=st.none() | BOX,
    op=st.sampled_from(["class", "ignore", "delete", "ok", "undo", "annotate", "unannotate"]),
    old_class=NAME,
    new_class=NAME,
    new_box_xyxy=st.none() | BOX | st.just((50.0, 50.0, 400.0, 60.0)),
    new_type=st.sampled_from(["", "lymphocyte", "immature granulocyte"]),
).filter(lambda one: one.op != "class" or one.new_class in CELL_CLASSES)


@st.composite
def smears(draw) -> Sample:
    """A smear without truth, or with cells in some columns."""
    n = draw(st.integers(-1, 8))
    if n < 0:
        return Sample(Path("a.png"), (60, 60), annotated=draw(st.sampled_from([(), ("wbc",)])))
    boxes = np.array(draw(st.lists(BOX, min_size=n, max_size=n)), np.float32).reshape(n, 4)
    columns: dict[str, Any] = {"label": [draw(st.integers(0, 3)) for _ in range(n)]}
    if draw(st.booleans()):
        columns["ignore"] = [draw(st.booleans()) for _ in range(n)]
    if draw(st.booleans()):
        columns["cell_type"] = [draw(st.sampled_from(["", "lymphocyte"])) for _ in range(n)]
    if draw(st.booleans()):
        columns |= {"origin": ["model"] * n, "id": [f"c{i}" for i in range(n)], "score": np.linspace(0, 1, n)}
    if draw(st.booleans()):
        columns["unsure"] = [draw(st.booleans()) for _ in range(n)]
    if n and draw(st.booleans()):  # one is known by its centre only
        boxes[0], columns["point_xy"] = np.nan, np.ones((n, 2))
    return Sample(Path("a.png"), (60, 60), annotated=("wbc",), truth=Detections(boxes, **columns))


@given(smears(), st.lists(SAID, max_size=12))
@settings(max_examples=400)
def test_many_corrections_at_once_equal_one_after_the_other(sample, said):
    try:
        expected, counts = plainly_corrected(sample, said)
    except FormatError as error:
        with pytest.raises(FormatError) as raised:
            correct_sample(sample, said)
        assert str(raised.value) == str(error)
        return
    found, n = correct_sample(sample, said)
    assert (found.annotated, n) == (expected.annotated, counts)
    assert (found.truth is None) == (expected.truth is None)
    for name in COLUMNS if found.truth is not None else ():
        np.testing.assert_array_equal(getattr(found.truth, name), getattr(expected.truth, name), name)


@pytest.mark.parametrize("where", ["of cells", "added", "added close together"])
def test_the_work_does_not_grow_with_the_square_of_the_number_of_corrections(where):
    """Of 20,000 corrections of 20,000 cells, each looked at all others, and made new arrays: minutes, now 1 s."""
    grid = np.stack(np.meshgrid(np.arange(200), np.arange(100)), -1).reshape(-1, 2) * 50.0
    cells = np.concatenate([grid, grid + 40], 1)
    boxes = {"of cells": cells, "added": cells + 7}.get(where)
    if boxes is None:
        boxes = np.stack(np.meshgrid(*[np.arange(12) * 0.51] * 4), -1).reshape(-1, 4)[: len(cells)]
        boxes += np.array([100, 100, 120, 120])
    sample = Sample(Path("a"), (10_100, 5100), annotated=("wbc",), truth=Detections(cells))
    about = {"image_sha256": "a" * 64, "op": "class", "new_class": "blast"}
    said = [Correction(**about, box_xyxy=tuple(box)) for box in boxes.tolist()]
    began = time.monotonic()
    after, counts = correct_sample(sample, said)
    assert time.monotonic() - began < 60
    is_new = where != "of cells"
    assert counts == {"added" if is_new else "relabelled": len(cells)}
    assert len(after.truth) == len(cells) * (1 + is_new)


def test_appending_keeps_earlier_corrections(dataset, tmp_path):
    boxes = dataset.samples[0].truth.boxes_xyxy
    lines = [_correction(dataset, 0, box, "class", new_class="rbc") for box in boxes[:3]]
    path = tmp_path / "deep/corrections.jsonl"
    assert [append_corrections(path, some) for some in (lines[:2], lines, lines)] == [2, 1, 0]
    assert read_corrections(path) == lines
    other = [_correction(dataset, 0, boxes[0], "class", new_class="wbc")]
    append_corrections(path, other)
    after, _ = replay_corrections(dataset, read_corrections(path))
    assert after.samples[0].truth.label[:3].tolist() == [1, 2, 2]  # the last word on a cell counts


def test_a_cell_moved_to_a_deleted_cell_is_kept_on_replay(dataset):
    boxes = dataset.samples[0].truth.boxes_xyxy
    there = tuple(float(v) for v in boxes[1])
    lines = [
        _correction(dataset, 0, boxes[0], "class", old_class="blast", new_class="blast", new_box_xyxy=there),
        _correction(dataset, 0, boxes[1], "delete", old_class="wbc"),
    ]
    after, counts = replay_corrections(dataset, lines)
    assert counts == {"moved": 1, "deleted": 1} and len(after.samples[0].truth) == 19
    again = replay_corrections(after, lines)[0].samples[0].truth.sorted()
    np.testing.assert_array_equal(again.boxes_xyxy, after.samples[0].truth.sorted().boxes_xyxy)
    np.testing.assert_array_equal(again.label, after.samples[0].truth.sorted().label)


def test_the_last_line_counts_when_boxes_differ_by_rounding(dataset):
    boxes = dataset.samples[0].truth.boxes_xyxy
    lines = [
        _correction(dataset, 0, boxes[0] + 0.3, "delete", old_class="blast"),
        _correction(dataset, 0, boxes[0], "class", old_class="blast", new_class="wbc"),
        _correction(dataset, 0, (250, 200, 300, 240), "class", new_class="rbc"),
        _correction(dataset, 0, (250.2, 200.2, 300.2, 240.2), "class", new_class="wbc"),
    ]
    after, counts = replay_corrections(dataset, lines)
    assert counts == {"relabelled": 1, "added": 1} and len(after.samples[0].truth) == 21
    _same(replay_corrections(after, lines)[0], after)


def test_merging_files_keeps_the_latest_correction(dataset):
    box = dataset.samples[0].truth.boxes_xyxy[0]
    early = replace(_correction(dataset, 0, box, "ok", old_class="blast"), when="2026-01-01T10:00:00.500Z")
    late = replace(
        _correction(dataset, 0, box, "class", old_class="blast", new_class="wbc"), when="2026-01-01T12:00:00+01:00"
    )
    for files in ([[early], [late]], [[late], [early]]):
        lines, disagree = merge_corrections(files)
        assert lines == [early, late] and disagree == 1
    odd = replace(early, when="yesterday")
    # The order within a file counts, whatever its times:
    assert merge_corrections([[late, odd], [early]]) == ([early, late, odd], 0)


def test_corrections_of_other_images_are_counted(dataset):
    stranger = replace(_correction(dataset, 0, (0, 0, 9, 9), "delete"), image_sha256="f" * 64)
    assert replay_corrections(dataset, [stranger])[1] == {"of other images": 1}


GOOD = {"image_sha256": "a" * 64, "box_xyxy": [0, 0, 5, 5], "op": "delete"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"op": "burn"}, "op: expected one of class, ignore, delete, ok, undo, annotate, unannotate, got 'burn'"),
        ({"op": "class", "new_class": "cat"}, "new_class: expected one of blast, wbc, rbc, platelet, got 'cat'"),
        ({"box_xyxy": [0, 0, 0, 5]}, "box_xyxy: expected [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got"),
        ({"box_xyxy": [0, 0, "5", 5]}, "box_xyxy: expected [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got"),
        ({"box_xyxy": [0, 0, float("nan"), 5]}, "x1 < x2 and y1 < y2, got [0, 0, nan, 5]"),
        ({"new_box_xyxy": 3}, "new_box_xyxy: expected [x1"),
        ({"image_sha256": "12"}, "image_sha256: expected 64 hexadecimal digits, got"),
        ({"image_sha256": "A" * 64}, "image_sha256: expected 64 hexadecimal digits, got"),
        ({"op": "ignore", "new_class": "foo"}, "new_class: expected one of blast, wbc, rbc, platelet, got 'foo'"),
        ({"op": "ignore", "old_class": "foo"}, "old_class: expected one of blast, wbc, rbc, platelet, any, got 'foo'"),
        ({"image_sha256": ""}, "expected image or image_sha256, got neither"),
        ({"op": "unannotate"}, "old_class: expected one of"),
        ({"op": "unannotate", "old_class": "wbc"}, "box_xyxy: expected none with unannotate"),
        ({"who": 3}, "who: expected text, got 3"),
        ({"who": "a\ud800"}, "who: expected text, got 'a\\ud800'"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_faulty_line_gives_a_one_line_error(change, line, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, **change}) + "\n")
    with pytest.raises(FormatError, match="line 3: ") as caught:
        read_corrections(path)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "not json", "[" * 100000, "\x00"])
def test_a_hostile_file_gives_a_one_line_error(text, tmp_path):
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(FormatError, match="line 1"):
        read_corrections(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    "box", [(5000, 5000, 5100, 5100), (-500, -500, -400, -400), (300, 10, 400, 60), (5, 5, 5.2, 60)]
)
def test_a_box_outside_the_image_is_an_error(dataset, box):
    first = dataset.samples[0].truth.boxes_xyxy[0]
    for change in ({"box": box}, {"box": first, "new_box_xyxy": tuple(map(float, box))}):
        line = _correction(dataset, 0, change.pop("box"), "class", new_class="wbc", **change)
        with pytest.raises(FormatError, match="expected a box on the image of 310 x 250 px, got"):
            replay_corrections(dataset, [line])


def test_windows_line_ends_and_odd_names_are_read(dataset, tmp_path):
    one = replace(_correction(dataset, 0, (0, 0, 9, 9), "ok"), who="A\u2028B")
    append_corrections(tmp_path / "c.jsonl", [one])
    text = (tmp_path / "c.jsonl").read_text(encoding="utf-8")
    (tmp_path / "c.jsonl").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_corrections(tmp_path / "c.jsonl") == [one]


def test_appending_to_a_file_without_a_final_newline(dataset, tmp_path):
    boxes = dataset.samples[0].truth.boxes_xyxy
    path = tmp_path / "c.jsonl"
    append_corrections(path, [_correction(dataset, 0, boxes[0], "ok")])
    path.write_text(path.read_text().rstrip("\n"))
    append_corrections(path, [_correction(dataset, 0, boxes[1], "ok")])
    assert len(read_corrections(path)) == 2


def test_each_copy_of_an_image_is_corrected(dataset, tmp_path):
    first = dataset.samples[0]
    copy = tmp_path / "copy.png"
    copy.write_bytes(first.path.read_bytes())
    both = replace(dataset, samples=(first, replace(first, path=copy)))
    lines = [_correction(dataset, 0, first.truth.boxes_xyxy[0], "delete")]
    after, counts = replay_corrections(both, lines)
    assert counts == {"deleted": 2} and [len(sample.truth) for sample in after] == [19, 19]


@pytest.mark.parametrize("second", ["class", "delete"])
def test_a_cell_moved_onto_another_is_not_confused_with_it(dataset, second):
    a, b = dataset.samples[0].truth.boxes_xyxy[:2]
    moved = _correction(dataset, 0, a, "class", new_class="wbc", new_box_xyxy=tuple(b.tolist()))
    said = {"new_class": "blast"} if second == "class" else {}
    after, _ = replay_corrections(dataset, [moved, _correction(dataset, 0, b, second, **said)])
    truth = after.samples[0].truth
    at_b = truth.label[(np.abs(truth.boxes_xyxy - b) < 1).all(axis=1)].tolist()
    assert at_b == ([1, 0] if second == "class" else [1])


def test_a_correction_survives_json(dataset: Dataset, tmp_path: Path) -> None:
    one = _correction(dataset, 0, (0, 0, 5, 5), "class", new_class="rbc", new_box_xyxy=(1.0, 1.0, 6.0, 6.0))
    assert json.loads(json.dumps(asdict(one)))["new_box_xyxy"] == [1.0, 1.0, 6.0, 6.0]
    for row in (one, replace(one, reason="blurred")):
        append_corrections(tmp_path / "c.jsonl", [row])
    assert read_corrections(tmp_path / "c.jsonl") == [one, replace(one, reason="blurred")]
    assert "reason" not in (tmp_path / "c.jsonl").read_text().splitlines()[0]


def test_unannotate_removes_a_class_once(dataset: Dataset, tmp_path: Path) -> None:
    path, sha256 = tmp_path / "c.jsonl", sha256_of(dataset.samples[0].path)
    path.write_text(json.dumps({"image_sha256": sha256, "op": "unannotate", "old_class": "wbc"}) + "\n")
    corrected = apply_corrections(dataset, path)
    assert [sample.annotated for sample in corrected] == [("blast",), ("blast", "wbc")]
    assert corrected.notes == ("corrections of c.jsonl: 40 cells before, 40 after; 1 unannotated",)
    assert apply_corrections(corrected, path) == corrected


def test_corrections_of_another_dataset_are_an_error(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    there = _correction(dataset, 0, BOXES[0], "ok")
    append_corrections(path, [replace(there, image_sha256="f" * 64)])
    with pytest.raises(FormatError, match=r"c\.jsonl: expected corrections of images in made, got 1 of others"):
        apply_corrections(dataset, path)
    append_corrections(path, [there])
    assert "1 confirmed, 1 of other images" in apply_corrections(dataset, path).notes[0]


def test_of_two_cells_with_one_box_the_class_decides(dataset: Dataset) -> None:
    sample = dataset.samples[0]
    doubled = Detections.concatenate([sample.truth, Detections([BOXES[0]], label=[RBC])])
    dataset = replace(dataset, samples=(replace(sample, truth=doubled),))
    after, counts = replay_corrections(dataset, [_correction(dataset, 0, BOXES[0], "delete", old_class="rbc")])
    assert counts == {"deleted": 1} and after.samples[0].truth.label.tolist() == sample.truth.label.tolist()


def by_name(tmp_path: Path, *rows: Any, old: bool) -> Sample:
    """One image with three cells, corrected by a file that gives only the name of the image."""
    image_file(tmp_path / "a.jpg")
    truth = Detections([[0, 0, 4, 4], [0, 0, 4, 4], [5, 5, 9, 9]], label=[WBC, RBC, RBC], origin=["human"] * 3)
    sample = Sample(tmp_path / "a.jpg", SIZE_WH, annotated=("wbc", "rbc"), truth=truth)
    path = tmp_path / ("c.json" if old else "c.jsonl")
    path.write_text(json.dumps({"corrections": rows}) if old else "\n".join(map(json.dumps, rows)))
    corrected = apply_corrections(Dataset("x", tmp_path, (sample,)), path)
    assert len(truth) == 3 and sample.annotated == ("wbc", "rbc")
    return corrected.samples[0]


def row(op: str, name: str, box: Any = None) -> dict[str, Any]:
    """A line of the list that earlier versions used."""
    return {"image": "a.jpg", "op": op, "class": name, "reason": "r"} | ({"box_xyxy": box} if box else {})


def line(op: str, box: Any = None, old: str = "", new: str = "") -> dict[str, Any]:
    return {"image": "a.jpg", "op": op, "box_xyxy": box, "old_class": old, "new_class": new}


OLD_ROWS = (
    row("remove", "rbc", [0, 0, 4, 4]),
    row("relabel", "platelet", [5, 5, 9, 9]),
    row("add", "blast", [10, 10, 20, 20]),
    row("unannotate", "rbc"),
)
LINES = (
    line("delete", [0, 0, 4, 4], "rbc"),
    line("class", [5, 5, 9, 9], "rbc", "platelet"),
    line("class", [10, 10, 20, 20], "", "blast"),
    line("unannotate", None, "rbc"),
)


@pytest.mark.parametrize("old", [True, False])
def test_images_are_identified_by_name_in_both_formats(tmp_path: Path, old: bool) -> None:
    sample = by_name(tmp_path, *(OLD_ROWS if old else LINES), old=old)
    assert sample.truth.boxes_xyxy.tolist() == [[0, 0, 4, 4], [5, 5, 9, 9], [10, 10, 20, 20]]
    assert sample.truth.label.tolist() == [WBC, PLATELET, BLAST]
    assert sample.truth.origin.tolist() == ["human"] * 3
    assert sample.annotated == ("wbc",)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (row("remove", "wbc", [5, 5, 9, 9]), "expected one wbc with the box [5.0, 5.0, 9.0, 9.0], got 0"),
        (row("relabel", "wbc", [0, 0, 4, 4]), "expected one cell with the box [0.0, 0.0, 4.0, 4.0], got 2"),
        (row("relabel", "wbc", [0, 0, 5, 4]), "got 0"),
        (row("unannotate", "blast"), "expected blast to be an annotated class"),
        (
            {**row("unannotate", "rbc"), "image": "b.jpg"},
            "b.jpg: expected one annotated image of this name in x, got 0",
        ),
        (row("delete", "rbc", [0, 0, 4, 4]), "op: expected one of add, relabel, remove, unannotate, got 'delete'"),
        (row("add", "cell", [0, 0, 4, 4]), "class: expected one of blast, wbc, rbc, platelet, got 'cell'"),
        (row("add", "wbc"), "box_xyxy: expected [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got None"),
        (row("add", "wbc", [4, 0, 4, 4]), "got [4, 0, 4, 4]"),
        (3, "expected an object with an 'image', got 3"),
        (line("delete", [5, 5, 9, 9], "wbc"), "expected one wbc with the box [5.0, 5.0, 9.0, 9.0], got 0"),
        (line("class", [0, 0, 4, 4], "any", "wbc"), "expected one cell with the box [0.0, 0.0, 4.0, 4.0], got 2"),
        ({**line("ok", [5, 5, 9, 9]), "image": "b.jpg"}, "expected one annotated image of this name in x, got 0"),
    ],
)
def test_a_correction_that_does_not_fit_is_an_error(tmp_path: Path, fault: Any, text: str) -> None:
    old = not (isinstance(fault, dict) and "new_class" in fault)
    with pytest.raises(FormatError, match=r"c\.json") as caught:
        by_name(tmp_path, fault, old=old)
    assert text in str(caught.value)


def test_two_images_of_one_name_are_an_error(dataset: Dataset, tmp_path: Path) -> None:
    first = dataset.samples[0]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/s0.png").write_bytes(first.path.read_bytes())
    both = replace(dataset, samples=(first, replace(first, path=tmp_path / "b/s0.png")))
    with pytest.raises(FormatError, match=r"s0\.png: expected one annotated image of this name in made, got 2"):
        replay_corrections(both, [Correction(image="s0.png", op="delete", box_xyxy=(5.0, 5.0, 45.0, 45.0))])


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_without_a_list_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(FormatError, match=r"c\.json"):
        read_corrections(tmp_path / "c.json")


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("old", [True, False])
def test_a_damaged_file_is_read_or_gives_a_one_line_error(dataset: Dataset, old: bool, data: st.DataObject) -> None:
    path = dataset.root / ("c.json" if old else "c.jsonl")
    add = {"image": "s0.png", "op": "add", "class": "wbc", "box_xyxy": [1, 1, 3, 3]}
    whole = {"corrections": [add]} if old else {**GOOD, "image": "s0.png", "new_box_xyxy": [1, 1, 3, 3]}
    path.write_text(json.dumps(data.draw(damaged(whole))))
    try:
        apply_corrections(dataset, path)
    except FormatError as error:
        assert "\n" not in str(error) and path.name in str(error)


@pytest.fixture(scope="module")
def bccd(data_dir: Path) -> Dataset:
    return registry.read(data_dir / "bccd")


@pytest.mark.realdata
def test_corrections_of_bccd(bccd: Dataset) -> None:
    dataset = apply_corrections(bccd, REPO / "datasets" / "bccd_corrections.jsonl")
    counts = {name: sum(s.truth.counts()[name] for s in dataset) for name in ("wbc", "rbc", "platelet")}
    assert counts == {"wbc": 372 + 2 - 1 + 4, "rbc": 4153 - 8, "platelet": 361 - 2 + 1}
    assert all(s.truth.counts()["wbc"] for s in dataset)
    assert sum("rbc" not in s.annotated for s in dataset) == 15
    for sample in dataset:
        inside = np.clip(sample.truth.boxes_xyxy, 0, [640, 480, 640, 480])
        np.testing.assert_array_equal(inside, sample.truth.boxes_xyxy)


@pytest.mark.realdata
def test_the_old_list_of_bccd_gives_the_same_dataset(bccd: Dataset, tmp_path: Path) -> None:
    """The list of earlier versions, as it is made from the lines of today."""
    rows = []
    for one in read_corrections(REPO / "datasets" / "bccd_corrections.jsonl"):
        op = {"delete": "remove", "class": "relabel" if one.old_class else "add"}.get(one.op, one.op)
        rows.append({"image": one.image, "op": op, "box_xyxy": one.box_xyxy, "class": one.new_class or one.old_class})
    (tmp_path / "old.json").write_text(json.dumps({"corrections": rows}))
    new = apply_corrections(bccd, REPO / "datasets" / "bccd_corrections.jsonl")
    for a, b in zip(apply_corrections(bccd, tmp_path / "old.json"), new, strict=True):
        assert replace(a, truth=None) == replace(b, truth=None)
        for column in fields(Detections):
            np.testing.assert_array_equal(getattr(a.truth, column.name), getattr(b.truth, column.name))


def test_a_deletion_by_name_must_fit_without_a_class_too(dataset: Dataset) -> None:
    line = Correction(image="s0.png", box_xyxy=(100.5, 100.5, 120, 120), op="delete")
    with pytest.raises(FormatError, match="expected one cell with the box"):
        replay_corrections(dataset, [line])
