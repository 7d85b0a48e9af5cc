"""The YOLO sidecar: edited labels, faulty records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made import SIZE_WH, image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.formats import yolo, yolo_sidecar


def test_edited_labels_win_over_the_sidecar(tmp_path: Path) -> None:
    path = image_file(tmp_path / "in" / "a.jpg")
    truth = Detections([[1, 1, 9, 9]], cell_type=["x"])
    yolo.write(Dataset("x", path.parent, (Sample(path, SIZE_WH, split="val", truth=truth),)), tmp_path / "o")
    with (tmp_path / "o" / "labels" / "val" / "a.txt").open("a") as file:
        file.write("0 0.5 0.5 0.1 0.1\n")
    back = yolo.read(tmp_path / "o")
    assert len(back.samples[0].truth) == 2 and back.samples[0].truth.cell_type is None
    assert "labels changed" in back.notes[-1]


def _written(tmp_path: Path) -> Path:
    path = image_file(tmp_path / "in" / "a.jpg")
    sample = Sample(path, SIZE_WH, split="train", truth=Detections([[1, 1, 9, 9]]))
    yolo.write(Dataset("x", path.parent, (sample,)), tmp_path / "o")
    return tmp_path / "o"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "expected valid JSON"),
        ("[]", "expected a sidecar written by blastdet"),
        ('{"format": "blastdet sidecar", "smears": {"images/train/a.jpg": {"mpp": 3}}}', r"record of a\.jpg is faulty"),
        ('{"format": "blastdet sidecar", "smears": []}', r"expected a dict as smears, got \[\]"),
    ],
)
def test_a_faulty_sidecar_is_refused(tmp_path: Path, text: str, words: str) -> None:
    root = _written(tmp_path)
    (root / "blastdet.json").write_text(text)
    with pytest.raises(FormatError, match=words):
        yolo.read(root)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mpp", 1000, r"a\.jpg: mpp: expected µm/px between 0\.001 and 100, got 1000"),
        ("split", "holdout", "as group, label, split and cluster"),
        ("annotated", ["cat"], "as annotated, got"),
    ],
)
def test_a_faulty_value_is_refused(tmp_path: Path, key: str, value: object, words: str) -> None:
    root = _written(tmp_path)
    document = json.loads((root / "blastdet.json").read_text())
    document["smears"]["images/train/a.jpg"][key] = value
    (root / "blastdet.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match=words):
        yolo.read(root)


def test_columns_are_those_of_detections() -> None:
    """A new column of `Detections` is stored without a change here; `made.cells` draws every column."""
    assert {"boxes_xyxy", "label", *yolo_sidecar.EXTRA} == set(Detections.columns())


@pytest.mark.parametrize("rows", [[0, 0], [-1, 0], [0.5, 1], [1, 0], [0, 3]])
def test_faulty_rows_of_hidden_cells_are_refused(tmp_path: Path, rows: list[float]) -> None:
    root = _written(tmp_path)
    document = json.loads((root / "blastdet.json").read_text())
    cells = document["smears"]["images/train/a.jpg"]["cells"]
    cells |= {"n": 3, "hidden": {"row": rows, "label": ["wbc"] * 2, "boxes_xyxy": [[1, 1, 9, 9]] * 2}}
    (root / "blastdet.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match="expected different rows from 0 to 2 in order"):
        yolo.read(root)
