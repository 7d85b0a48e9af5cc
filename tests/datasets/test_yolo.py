"""YOLO: a round trip loses nothing; datasets of other programs are read; ultralytics accepts what is written."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from made import SIZE_WH, datasets, image_file, same_smears

from blastdet.core.errors import FormatError
from blastdet.core.types import PLATELET, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import registry, yolo


def foreign(root: Path, label: str | None = "0 0.5 0.5 0.25 0.5\n", **data: object) -> Path:
    image_file(root / "train" / "images" / "a.jpg")
    if label is not None:
        (root / "train" / "labels").mkdir()
        (root / "train" / "labels" / "a.txt").write_text(label)
    document = {"path": "/no/such/machine", "train": "../train/images", "names": ["WBC", "Platelets"], **data}
    (root / "data.yaml").write_text(yaml.safe_dump(document))
    return root


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_round_trip_loses_nothing(image_files: Path, data: st.DataObject) -> None:
    dataset = data.draw(datasets(image_files))
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


def test_ignored_cells_and_points_are_only_in_the_sidecar(tmp_path: Path) -> None:
    nan = float("nan")
    truth = Detections(
        [[1, 1, 9, 9], [2, 2, 8, 8], [nan] * 4], point_xy=[[5, 5], [5, 5], [30, 30]], ignore=[False, True, False]
    )
    path = image_file(tmp_path / "in" / "a.jpg")
    written = yolo.write(
        Dataset("x", path.parent, (Sample(path, SIZE_WH, split="train", annotated=("wbc",), truth=truth),)),
        tmp_path / "o",
    )
    assert len((tmp_path / "o" / "labels" / "train" / "a.txt").read_text().splitlines()) == 1
    assert "2 ignored cells or cells without a box" in written.notes[-1]
    assert len(yolo.read(tmp_path / "o").samples[0].truth) == 3


def test_what_becomes_background_is_noted(tmp_path: Path) -> None:
    path = image_file(tmp_path / "in" / "a.jpg")
    sample = Sample(path, SIZE_WH, split="train", annotated=(), truth=Detections([[1, 1, 9, 9]]))
    written = yolo.write(Dataset("x", path.parent, (sample,)), tmp_path / "o")
    assert "1 images do not annotate wbc" in written.notes[-1]


def test_an_image_without_annotations_is_not_trained_as_empty(tmp_path: Path) -> None:
    path = image_file(tmp_path / "in" / "a.jpg")
    yolo.write(Dataset("x", path.parent, (Sample(path, SIZE_WH, split="train"),)), tmp_path / "o")
    assert not list((tmp_path / "o" / "images" / "train").iterdir())
    back = yolo.read(tmp_path / "o").samples[0]
    assert back.truth is None and back.split == "train"


def test_dataset_with_a_path_of_another_machine(tmp_path: Path) -> None:
    root = foreign(tmp_path, "0 0.5 0.5 0.25 0.5\n\n1 0.999 0.5 0.01 0.1\r\n")
    image_file(root / "train" / "images" / "b.jpg")
    a, b = yolo.read(root, mpp=(0.1, 0.1))
    assert a.truth.boxes_xyxy[0].tolist() == [24, 12, 40, 36]
    assert a.truth.boxes_xyxy[1, 2] == 64  # cut at the edge
    assert a.truth.label.tolist() == [WBC, PLATELET]
    assert (a.split, a.mpp, a.annotated) == ("train", (0.1, 0.1), ("wbc", "platelet"))
    assert b.truth is None


def test_list_file_and_numbered_names(tmp_path: Path) -> None:
    root = foreign(tmp_path, names={0: "Leukocyte"}, train="list.txt")
    (root / "list.txt").write_text("./train/images/a.jpg\n")
    with pytest.raises(FormatError, match=r"expected a class out of blast, .*, got 'Leukocyte'"):
        yolo.read(root)
    assert len(yolo.read(root / "data.yaml", class_map={"Leukocyte": "wbc"})) == 1


def test_zero_box_is_dropped_by_name(tmp_path: Path) -> None:
    dataset = yolo.read(foreign(tmp_path, "0 0.5 0.5 0 0.5\n0 .5 .5 .1 .1\n"))
    assert dataset.dropped == ("a.txt: line 1 (0 0.5 0.5 0 0.5): box without area",)
    assert len(dataset.samples[0].truth) == 1


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (
            "0 0.5 0.5 0.25",
            "expected five numbers 'class cx cy w h', or a class and three points",
        ),
        ("0 0 0 1 1 0", "expected five numbers"),
        ("WBC 0.5 0.5 0.1 0.1", "expected five numbers 'class cx cy w h', or a class and three points"),
        ("0 12 14 30 20", "(0 12 14 30 20): expected fractions of the image"),
        ("0 nan 0.5 0.1 0.1", "expected five numbers"),
        ("0 -1.5 0.5 0.1 0.1", "expected fractions of the image"),
        ("7 0.5 0.5 0.1 0.1", "expected a class number from 0 to 1 of the names, got 7"),
        ("0.5 0.5 0.5 0.1 0.1", "of the names, got 0.5"),
    ],
)
def test_faulty_label_line_is_named(tmp_path: Path, label: str, words: str) -> None:
    with pytest.raises(FormatError) as caught:
        yolo.read(foreign(tmp_path, label))
    assert words in str(caught.value) and "a.txt: line 1" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "expected valid YAML"),
        ("- 1", "expected a mapping with train"),
        ("train: train/images", "as names, got None"),
        ("train: nowhere\nnames: [WBC]", "expected an existing folder or list, got data.yaml: train: 'nowhere'"),
        ("train: data.yaml\nnames: [WBC]", "expected a folder or a .txt list as train, got 'data.yaml'"),
    ],
)
def test_faulty_yaml(tmp_path: Path, text: str, words: str) -> None:
    (foreign(tmp_path) / "data.yaml").write_text(text)
    with pytest.raises(FormatError) as caught:
        yolo.read(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"expected a data\.yaml"):
        yolo.read(tmp_path)


def test_ultralytics_finds_everything_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "YOLO_AUTOINSTALL", "false")
    monkeypatch.setitem(os.environ, "YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    check = pytest.importorskip("ultralytics.data.utils").check_det_dataset
    paths = [image_file(tmp_path / "in" / f"{name}.jpg") for name in ("a", "b")]
    samples = tuple(
        Sample(path, SIZE_WH, split=split, annotated=("wbc", "platelet"), truth=Detections([[1, 1, 9, 9]]))
        for path, split in zip(paths, ("train", "val"), strict=True)
    )
    yolo.write(Dataset("x", tmp_path / "in", samples), tmp_path / "o")
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)  # with a folder of the same name in it, to mislead
    for name in (tmp_path / "o" / "data.yaml", Path("o/data.yaml")):
        data = check(str(name), autodownload=False)
        assert data["names"] == {0: "wbc", 1: "platelet"}
        assert Path(data["val"]) == tmp_path / "o" / "images" / "val"


def test_records_keep_faults(tmp_path: Path) -> None:
    root = foreign(tmp_path, "0 0.5 0.5 0.2 0\n\n1 1.2 0.5 0.2 0.5\n9 0.5 0.5 0.1 0.1\n0 0.5\n")
    for name, text in (("none", ""), ("binary", "\udcff")):
        (root / "train" / "labels" / f"{name}.txt").write_text(text, errors="surrogateescape")
    (root / "train" / "notes.txt").write_text("not a label file")
    a, binary, none = yolo.read_records(root)
    assert (a.image, a.split) == (root / "train" / "images" / "a.jpg", "train")
    assert [(box.name, box.extent_wh) for box in a.boxes] == [("WBC", (12.8, 0)), ("Platelets", (12.8, 24))]
    assert a.boxes[1].xyxy == pytest.approx((70.4, 12, 83.2, 36))
    assert a.problem == "line 4: expected a class number from 0 to 1 of the names, got 9"
    assert binary.problem == "expected a UTF-8 text file, got other bytes"
    assert (none.image, none.boxes, none.problem) == (None, (), None)


def test_records_without_a_list_of_names_have_numbers(tmp_path: Path) -> None:
    root = foreign(tmp_path, "3 0.5 0.5 0.25 0.5")
    (root / "data.yaml").write_text("a: [")
    assert [box.name for record in yolo.read_records(root) for box in record.boxes] == ["3"]


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"a\.jpg: expected each image once, got it in train and val"):
        yolo.read(foreign(tmp_path, val="train/images"))


def test_an_image_listed_twice_counts_once(tmp_path: Path) -> None:
    once = yolo.read(foreign(tmp_path, train="train/images"))
    root = foreign(tmp_path / "again", train=["train/images", "train/images", "same", "list.txt"])
    (root / "same").symlink_to("train/images")
    (root / "list.txt").write_text("train/images/a.jpg\n./train/../train/images/a.jpg\n")
    assert [sample.path.name for sample in yolo.read(root)] == [sample.path.name for sample in once]


def test_names_that_aliases_make_huge_are_refused(tmp_path: Path) -> None:
    root = foreign(tmp_path)
    lists = [f"- &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (root / "data.yaml").write_text("\n".join(["train: train/images", "names:", "- &a0 [x]", *lists]))
    with pytest.raises(FormatError, match="aliases that expand to more"):
        yolo.read(root)


@pytest.mark.parametrize("stem", ["test", "test.1", "train.0001", "val.rf.abc", "classes.1", "README"])
def test_an_image_named_like_a_list_has_its_label_file(tmp_path: Path, stem: str) -> None:
    image_file(tmp_path / f"{stem}.jpg")
    (tmp_path / f"{stem}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "classes.txt").write_text("WBC\n")
    (tmp_path / "README.roboflow.txt").write_text("about\n")
    (sample,) = registry.read(tmp_path)
    assert len(sample.truth) == 1


def test_a_blank_line_in_the_list_of_classes_keeps_its_number(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("2 0.5 0.5 0.25 0.5\n")
    (tmp_path / "classes.txt").write_text("RBC\n\nWBC\n")
    (sample,) = registry.read(tmp_path)
    assert sample.truth.label.tolist() == [WBC]
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    with pytest.raises(FormatError, match="got 1"):
        registry.read(tmp_path)


def test_key_points_without_a_data_yaml_are_noted(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    (tmp_path / "classes.txt").write_text("WBC\n")
    (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1 .2 .3\n0 .6 .6 .1 .1 .2 .3\n")
    (note,) = registry.read(tmp_path).notes
    assert note.startswith(
        "every line has 7 numbers, read as a class and the points of an outline. If they are key points"
    )
    (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1 .2 .3\n0 .6 .6 .1 .1\n")
    assert registry.read(tmp_path).notes == ()


def test_key_points_are_refused_with_a_folder_of_images_too(tmp_path: Path) -> None:
    root = foreign(tmp_path, kpt_shape=[1, 2])
    with pytest.raises(FormatError, match="got key points"):
        yolo.read(root, images=root / "train" / "images")
