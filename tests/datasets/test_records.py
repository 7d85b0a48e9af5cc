"""Raw records: splits from names, images found again, and what becomes of faulty boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made import SIZE_WH, image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, RBC, WBC
from blastdet.datasets.annotations.records import (
    RawBox,
    RawRecord,
    cells_of,
    files_below,
    refuse_problem,
    split_of,
    to_dataset,
)


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("instances_train2017.json", "train"),
        ("annotations/instances_val.json", "val"),
        ("valid/_annotations.coco.json", "val"),
        ("Test/labels/a.txt", "test"),
        ("train/labels/val/a.txt", "val"),
        ("a-training-set/1.xml", "train"),
        ("labels/a.txt", None),
        ("contrast/latest.xml", None),
    ],
)
def test_the_split_comes_from_the_nearest_name(file: str, split: str | None) -> None:
    assert split_of(Path("train") / file, Path("train")) == split


def test_hidden_files_are_skipped(tmp_path: Path) -> None:
    for name in ("b.txt", "._a.txt", "a.txt", "deep/c.txt", "d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.relative_to(tmp_path).as_posix() for file in files_below(tmp_path, "*.txt")] == [
        "a.txt",
        "b.txt",
        "deep/c.txt",
    ]


def _box(name: str, x1: float, y1: float, x2: float, y2: float, *, is_point: bool = False) -> RawBox:
    return RawBox(name, (x1, y1, x2, y2), (x2 - x1, y2 - y1), f"line {x1:g}", is_point)


def test_boxes_are_clipped_and_faulty_ones_are_dropped_by_name() -> None:
    boxes = (_box("wbc", -5, -5, 9, 9), _box("rbc", 5, 5, 5, 9), _box("rbc", 9, 5, 7, 9), _box("rbc", 70, 5, 90, 9))
    cells, fitted = cells_of(RawRecord(Path("d/a.txt"), boxes=boxes), SIZE_WH, CELL_CLASSES.index)
    assert (cells.boxes_xyxy.tolist(), cells.label.tolist()) == ([[0, 0, 9, 9]], [WBC])
    assert cells.origin is not None and cells.origin.tolist() == ["human"]
    assert fitted.clipped == ["a.txt: line -5"]
    assert fitted.dropped == [
        "a.txt: line 5: box without area",
        "a.txt: line 9: box without area",
        "a.txt: line 70: box outside the image",
    ]


def test_only_a_record_with_a_problem_is_refused() -> None:
    refuse_problem(RawRecord(Path("a.txt")))
    with pytest.raises(FormatError, match=r"^a\.txt: line 3: expected five numbers$"):
        refuse_problem(RawRecord(Path("a.txt"), problem="line 3: expected five numbers"))


def test_a_dataset_of_what_is_valid(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    boxes = (_box("Leukocyte", 1, 1, 9, 9), _box("rbc", 2, 2, 9, 9), _box("rbc", 3, 3, 3, 3, is_point=True))
    good = RawRecord(tmp_path / "a.txt", image_file(tmp_path / "a.jpg"), "train", boxes=boxes)
    records = [
        good,
        RawRecord(tmp_path / "b.txt", broken),
        RawRecord(tmp_path / "c.txt"),
        replace(good, file=tmp_path / "d.txt", problem="expected XML"),
    ]
    dataset = to_dataset(records, tmp_path)
    (sample,) = dataset
    assert sample.truth is not None
    assert (sample.split, sample.annotated, sample.truth.label.tolist()) == ("train", ("rbc",), [RBC])
    assert [line.split(":")[0] for line in dataset.dropped] == ["c.txt", "d.txt", "a.txt", "a.txt", str(broken)]
    assert dataset.dropped[0] == "c.txt: no image c" and dataset.dropped[3] == "a.txt: line 3: point without a box"
    mapped = to_dataset([good], tmp_path, {"Leukocyte": "wbc"}).samples[0]
    assert mapped.truth is not None and mapped.truth.label.tolist() == [WBC, RBC]


def test_another_record_of_the_same_image_is_named(tmp_path: Path) -> None:
    image = image_file(tmp_path / "a.jpg")
    box = RawBox("wbc", (1, 1, 9, 9), (8, 8), "box 1")
    first = RawRecord(tmp_path / "a.xml", image=image, boxes=(box,))
    dataset = to_dataset([first, RawRecord(tmp_path / "b.xml", image=image)], tmp_path)
    assert len(dataset.samples[0].truth) == 1
    assert dataset.dropped == ("b.xml: a.jpg: another annotation of the same image",)
