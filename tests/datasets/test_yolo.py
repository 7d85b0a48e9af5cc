"""YOLO: our own way there and back loses nothing; other people's sets are read; ultralytics accepts ours."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from made import SIZE_WH, datasets, picture, same_smears

from blastdet.core.errors import FormatError
from blastdet.core.types import PLATELET, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import yolo


def foreign(root: Path, label: str | None = "0 0.5 0.5 0.25 0.5\n", **data: object) -> Path:
    picture(root / "train" / "images" / "a.jpg")
    if label is not None:
        (root / "train" / "labels").mkdir()
        (root / "train" / "labels" / "a.txt").write_text(label)
    document = {"path": "/no/such/machine", "train": "../train/images", "names": ["WBC", "Platelets"], **data}
    (root / "data.yaml").write_text(yaml.safe_dump(document))
    return root


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_there_and_back_loses_nothing(pictures: Path, data: st.DataObject) -> None:
    dataset = data.draw(datasets(pictures))
    with TemporaryDirectory() as folder:
        yolo.write(dataset, Path(folder))
        back = yolo.read(Path(folder))
    same_smears(dataset, back, tolerance=1e-3)
    assert (back.name, back.dropped, back.notes) == (dataset.name, dataset.dropped, dataset.notes)


def test_sides_of_a_gigapixel_slide_come_back(tmp_path: Path) -> None:
    sample = Sample(tmp_path / "a.png", (100_000, 70_000), truth=Detections([[99_990.25, 1.5, 99_999.75, 69_999.5]]))
    text = yolo._label_text(sample, ("wbc",))
    _, cx, _cy, w, _h = (float(v) for v in text.split())
    assert (cx + w / 2) * 100_000 == pytest.approx(99_999.75, abs=1e-3)


def test_ignored_cells_and_points_are_no_labels_but_are_told(tmp_path: Path) -> None:
    nan = float("nan")
    truth = Detections(
        [[1, 1, 9, 9], [2, 2, 8, 8], [nan] * 4], point_xy=[[5, 5], [5, 5], [30, 30]], ignore=[False, True, False]
    )
    path = picture(tmp_path / "in" / "a.jpg")
    written = yolo.write(
        Dataset("x", path.parent, (Sample(path, SIZE_WH, split="train", annotated=("wbc",), truth=truth),)),
        tmp_path / "o",
    )
    assert len((tmp_path / "o" / "labels" / "train" / "a.txt").read_text().splitlines()) == 1
    assert "2 cells without box or to be ignored" in written.notes[-1]
    assert len(yolo.read(tmp_path / "o").samples[0].truth) == 3


def test_what_yolo_takes_for_background_is_told(tmp_path: Path) -> None:
    path = picture(tmp_path / "in" / "a.jpg")
    sample = Sample(path, SIZE_WH, split="train", annotated=(), truth=Detections([[1, 1, 9, 9]]))
    written = yolo.write(Dataset("x", path.parent, (sample,)), tmp_path / "o")
    assert "1 pictures do not annotate wbc" in written.notes[-1]


def test_a_picture_nobody_annotated_is_not_trained_as_empty(tmp_path: Path) -> None:
    path = picture(tmp_path / "in" / "a.jpg")
    yolo.write(Dataset("x", path.parent, (Sample(path, SIZE_WH, split="train"),)), tmp_path / "o")
    assert not list((tmp_path / "o" / "images" / "train").iterdir())
    back = yolo.read(tmp_path / "o").samples[0]
    assert back.truth is None and back.split == "train"


def test_edited_labels_win_over_the_sidecar(tmp_path: Path) -> None:
    path = picture(tmp_path / "in" / "a.jpg")
    truth = Detections([[1, 1, 9, 9]], cell_type=["x"])
    yolo.write(Dataset("x", path.parent, (Sample(path, SIZE_WH, split="val", truth=truth),)), tmp_path / "o")
    with (tmp_path / "o" / "labels" / "val" / "a.txt").open("a") as file:
        file.write("0 0.5 0.5 0.1 0.1\n")
    back = yolo.read(tmp_path / "o")
    assert len(back.samples[0].truth) == 2 and back.samples[0].truth.cell_type is None
    assert "labels changed" in back.notes[-1]


def test_foreign_set_with_a_path_of_another_machine(tmp_path: Path) -> None:
    root = foreign(tmp_path, "0 0.5 0.5 0.25 0.5\n\n1 0.999 0.5 0.01 0.1\r\n")
    picture(root / "train" / "images" / "b.jpg")
    a, b = yolo.read(root, mpp=(0.1, 0.1))
    assert a.truth.boxes_xyxy[0].tolist() == [24, 12, 40, 36]
    assert a.truth.boxes_xyxy[1, 2] == 64  # cut at the edge
    assert a.truth.label.tolist() == [WBC, PLATELET]
    assert (a.split, a.mpp, a.annotated) == ("train", (0.1, 0.1), ("wbc", "platelet"))
    assert b.truth is None


def test_foreign_list_file_and_numbered_names(tmp_path: Path) -> None:
    root = foreign(tmp_path, names={0: "Neutrophil"}, train="list.txt")
    (root / "list.txt").write_text("./train/images/a.jpg\n")
    with pytest.raises(FormatError, match="'Neutrophil' found, blast, wbc, rbc, platelet expected"):
        yolo.read(root)
    assert len(yolo.read(root / "data.yaml", class_map={"Neutrophil": "wbc"})) == 1


def test_zero_box_is_dropped_by_name(tmp_path: Path) -> None:
    dataset = yolo.read(foreign(tmp_path, "0 0.5 0.5 0 0.5\n0 .5 .5 .1 .1\n"))
    assert dataset.dropped == ("a.txt: box 1 of 2 without area",)
    assert len(dataset.samples[0].truth) == 1


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("0 0.5 0.5 0.25", "4 numbers found, 5 expected"),
        ("0 0 0 1 1 0 1", "7 numbers found"),
        ("WBC 0.5 0.5 0.1 0.1", "numbers 'class cx cy w h' expected"),
        ("0 12 14 30 20", "shares of the picture"),
        ("0 nan 0.5 0.1 0.1", "shares of the picture"),
        ("0 -0.5 0.5 0.1 0.1", "shares of the picture"),
        ("7 0.5 0.5 0.1 0.1", "class 7 found, 0..1 of data.yaml expected"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 found"),
    ],
)
def test_faulty_label_line_is_named(tmp_path: Path, label: str, words: str) -> None:
    with pytest.raises(FormatError) as caught:
        yolo.read(foreign(tmp_path, label))
    assert words in str(caught.value) and "a.txt:1" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "a mapping with train"),
        ("train: train/images", "names None found"),
        ("train: nowhere\nnames: [WBC]", "'nowhere' found, but there is no such"),
        ("train: data.yaml\nnames: [WBC]", "a folder or a .txt list expected"),
    ],
)
def test_faulty_yaml(tmp_path: Path, text: str, words: str) -> None:
    (foreign(tmp_path) / "data.yaml").write_text(text)
    with pytest.raises(FormatError) as caught:
        yolo.read(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a sidecar of blastdet"),
        ('{"format": "blastdet sidecar", "smears": {"train/images/a.jpg": {"mpp": 3}}}', r"record of a\.jpg is faulty"),
        ('{"format": "blastdet sidecar", "smears": []}', r"smears \[\] found, a dict expected"),
    ],
)
def test_faulty_sidecar(tmp_path: Path, text: str, words: str) -> None:
    (foreign(tmp_path) / "blastdet.json").write_text(text)
    with pytest.raises(FormatError, match=words):
        yolo.read(tmp_path)


def test_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no data\.yaml found"):
        yolo.read(tmp_path)


def test_ultralytics_finds_everything_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "YOLO_AUTOINSTALL", "false")
    monkeypatch.setitem(os.environ, "YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    check = pytest.importorskip("ultralytics.data.utils").check_det_dataset
    paths = [picture(tmp_path / "in" / f"{name}.jpg") for name in ("a", "b")]
    smears = tuple(
        Sample(path, SIZE_WH, split=split, annotated=("wbc", "platelet"), truth=Detections([[1, 1, 9, 9]]))
        for path, split in zip(paths, ("train", "val"), strict=True)
    )
    yolo.write(Dataset("x", tmp_path / "in", smears), tmp_path / "o")
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)  # with a folder of the same name in it, to mislead
    for name in (tmp_path / "o" / "data.yaml", Path("o/data.yaml")):
        data = check(str(name), autodownload=False)
        assert data["names"] == {0: "wbc", 1: "platelet"}
        assert Path(data["val"]) == tmp_path / "o" / "images" / "val"
