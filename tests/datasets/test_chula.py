"""Chula RBC-12: points, types, and which images count as annotated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lookalike
import numpy as np
import pytest

from blastdet.core.errors import FormatError
from blastdet.core.types import RBC
from blastdet.datasets.published import chula


def chula_copy(root: Path, label: str | None) -> Path:
    lookalike.image_file(root / "Dataset/1.jpg", (640, 480))
    (root / "Label").mkdir()
    if label is not None:
        (root / "Label/1.txt").write_text(label)
    return root


def test_points_and_types(tmp_path: Path) -> None:
    chula_copy(tmp_path, "594 95 0\r\n\r\n601 151 12\r\n601 151 3\r\n640 5 0\r\n")
    assert chula.matches(tmp_path) and not chula.matches(tmp_path / "Label")
    dataset = chula.read(tmp_path)
    (sample,) = dataset
    assert sample.truth is not None and sample.truth.point_xy is not None and sample.truth.cell_type is not None
    assert sample.truth.point_xy.tolist() == [[594, 95], [601, 151]]
    assert sample.truth.cell_type.tolist() == ["normal", "elliptocyte"]
    assert sample.truth.label.tolist() == [RBC, RBC] and np.isnan(sample.truth.boxes_xyxy).all()
    assert sample.annotated == ()
    assert dataset.dropped == (
        "Label/1.txt: point (601, 151) is listed twice",
        "Label/1.txt: point (640, 5) is outside the image of 640 x 480 px",
    )


@pytest.mark.parametrize(("label", "word"), [(None, "missing"), ("", "empty"), ("\n", "empty")])
def test_without_points_is_not_annotated(tmp_path: Path, label: str | None, word: str) -> None:
    dataset = chula.read(chula_copy(tmp_path, label))
    assert dataset.samples[0].truth is None and dataset.samples[0].annotated == ()
    assert dataset.notes == (f"Label/1.txt: {word}, its image is read as not annotated",)


@pytest.mark.parametrize(("n", "annotated"), [(59, ()), (60, ("rbc",))])
def test_only_dense_images_are_completely_annotated(tmp_path: Path, n: int, annotated: tuple[str, ...]) -> None:
    (sample,) = chula.read(chula_copy(tmp_path, "".join(f"{i} {i} 0\n" for i in range(n))))
    assert sample.annotated == annotated


@pytest.mark.parametrize("line", ["1 2", "1 2 13", "1 2 -1", "1 2 0 4", "a b c", "1.5 2 0"])
def test_malformed_line_is_an_error_with_file_and_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(FormatError, match=r"^Label/1\.txt: line 2: expected 'x y type' with a type from 0 to 12, got "):
        chula.read(chula_copy(tmp_path, f"1 1 0\n{line}\n"))


@pytest.mark.realdata
def test_real_chula(data_dir: Path) -> None:
    dataset = chula.read(data_dir / "chula_rbc12")
    assert chula.matches(data_dir / "chula_rbc12")
    truths = [sample.truth for sample in dataset if sample.truth is not None]
    types = Counter(str(kind) for truth in truths if truth.cell_type is not None for kind in truth.cell_type)
    expected = (846, 138, 46, 551, 395, 260, 221, 73, 157, 195, 52, 176, 217)
    assert [types[name] for name in chula.CELL_TYPES] == list(expected)
    assert (len(dataset), len(truths), sum(len(truth) for truth in truths), dataset.dropped) == (120, 115, 3327, ())
    dense = sorted(int(sample.path.stem) for sample in dataset if sample.annotated)
    assert dense == [1, 5, 22, 26, 42, 95, 100, 222, 240, 264, 300, 305, 320, 389]
    unlabelled = sorted(int(sample.path.stem) for sample in dataset if sample.truth is None)
    assert unlabelled == [53, 56, 114, 358, 454]
