"""PBC with boxes: YOLO boxes, types from the table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lookalike
import numpy as np
import pytest

from blastdet.core.errors import FormatError
from blastdet.core.types import WBC
from blastdet.datasets.published import pbc


def pbc_copy(root: Path, rows: dict[str, str]) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    lines = [f"{name},X,{kind},0,train" for name, kind in rows.items()]
    (root / "labels.csv").write_text("\n".join(["image,prefix,cell_type,yolo_class,source_split", *lines]))
    for name in rows:
        lookalike.image_file(root / "images" / name, (360, 363), [(180, 180)], width=110)
        (root / "labels" / name).with_suffix(".txt").write_text("0 0.511111 0.498623 0.350000 0.347107\n")
    return root


def test_box_and_type(tmp_path: Path) -> None:
    pbc_copy(tmp_path, {"ERB_1.jpg": "erythroblast", "IG_1.jpg": "immature_granulocyte"})
    assert pbc.matches(tmp_path) and not pbc.matches(tmp_path / "images")
    first, second = pbc.read(tmp_path)
    assert first.truth is not None and second.truth is not None
    assert first.truth.boxes_xyxy.tolist() == [pytest.approx([121, 118, 247, 244], abs=1e-3)]
    assert first.truth.label.tolist() == [WBC] == second.truth.label.tolist()
    assert [list(sample.truth.cell_type) for sample in (first, second)] == [["erythroblast"], ["immature_granulocyte"]]  # type: ignore[union-attr, arg-type]
    assert (first.annotated, first.mpp, first.split, first.truth.origin.tolist()) == (
        ("wbc",),
        (0.1, 0.1),
        None,
        ["human"],
    )  # type: ignore[union-attr]


def test_box_that_reaches_over_the_edge_is_cut(tmp_path: Path) -> None:
    pbc_copy(tmp_path, {"LY_1.jpg": "lymphocyte"})
    (tmp_path / "labels/LY_1.txt").write_text("4 0.9 0.5 0.4 1.0")
    (sample,) = pbc.read(tmp_path)
    assert sample.truth is not None
    assert sample.truth.boxes_xyxy.tolist() == [pytest.approx([252, 0, 360, 363], abs=1e-3)]


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.1",
        "0 0.5 0.5 0.1 0.1 0.9",
        "0 a 0.5 0.1 0.1",
        "0 1.5 0.5 0.1 0.1",
        "0 nan 0.5 0.1 0.1",
        "0 0.5 0.5 0 0.1",
        "0.5",
    ],
)
def test_malformed_box_is_an_error_with_file_and_line(tmp_path: Path, line: str) -> None:
    pbc_copy(tmp_path, {"LY_1.jpg": "lymphocyte"})
    (tmp_path / "labels/LY_1.txt").write_text(f"\n{line}\n")
    with pytest.raises(FormatError, match=r"LY_1\.txt: .*line 2"):
        pbc.read(tmp_path)


def test_images_and_table_must_agree(tmp_path: Path) -> None:
    pbc_copy(tmp_path, {"LY_1.jpg": "lymphocyte", "LY_2.jpg": "lymphocyte"})
    (tmp_path / "labels/LY_2.txt").unlink()
    dataset = pbc.read(tmp_path)
    assert dataset.samples[1].truth is None and dataset.samples[1].annotated == ()
    assert dataset.notes == ("labels/LY_2.txt: missing, LY_2.jpg is read as not annotated",)
    (tmp_path / "images/LY_1.jpg").rename(tmp_path / "images/LY_3.jpg")
    with pytest.raises(FormatError, match=r"LY_1\.jpg: expected this image, listed in labels\.csv"):
        pbc.read(tmp_path)
    lookalike.image_file(tmp_path / "images/LY_1.jpg", (360, 363))
    with pytest.raises(FormatError, match=r"LY_3\.jpg: expected a row in labels\.csv"):
        pbc.read(tmp_path)


def test_a_table_without_the_column_is_refused(tmp_path: Path) -> None:
    pbc_copy(tmp_path, {"LY_1.jpg": "lymphocyte"})
    (tmp_path / "labels.csv").write_text("image,kind\nLY_1.jpg,lymphocyte\n")
    assert not pbc.matches(tmp_path)
    with pytest.raises(FormatError, match="expected columns image and cell_type, got image, kind"):
        pbc.read(tmp_path)
    (tmp_path / "labels.csv").write_text("image,cell_type\nLY_1.jpg\n")
    with pytest.raises(FormatError, match="line 2: expected image and cell_type, got an empty field"):
        pbc.read(tmp_path)


@pytest.mark.realdata
def test_real_pbc(data_dir: Path) -> None:
    dataset = pbc.read(data_dir / "pbc_wbc")
    types = Counter(
        str(sample.truth.cell_type[0]) for sample in dataset if sample.truth and sample.truth.cell_type is not None
    )
    assert types == {
        "basophil": 300, "eosinophil": 300, "erythroblast": 300, "immature_granulocyte": 70, "metamyelocyte": 125,
        "myelocyte": 125, "promyelocyte": 125, "lymphocyte": 300, "monocyte": 300, "band_neutrophil": 200,
        "segmented_neutrophil": 200, "neutrophil": 30,
    }  # fmt: skip
    assert sum(len(sample.truth) for sample in dataset if sample.truth is not None) == 2375
    assert {sample.size_wh for sample in dataset} == {(360, 363)}
    assert not dataset.notes and not dataset.dropped and dataset.classes == ("wbc",)
    side = np.concatenate([np.diff(sample.truth.boxes_xyxy[:, ::2]) for sample in dataset if sample.truth is not None])
    assert 100 < np.median(side) < 180 and pbc.matches(data_dir / "pbc_wbc")
