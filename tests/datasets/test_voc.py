"""BCCD's VOC: boxes, names, sets, groups, faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import picture, voc, voc_xml

from blastdet.core.errors import FormatError
from blastdet.core.types import PLATELET, RBC, WBC
from blastdet.datasets.formats import voc as reader


def test_boxes_become_zero_based_half_open_and_stay_inside(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([("WBC", 1, 1, 64, 48), ("RBC", 0, -3, 70, 50), ("Platelets", 5, 6, 7, 8)])})
    truth = reader.read(root).samples[0].truth
    assert truth is not None
    assert truth.boxes_xyxy.tolist() == [[0, 0, 64, 48], [0, 0, 64, 48], [4, 5, 7, 8]]
    assert truth.label.tolist() == [WBC, RBC, PLATELET]
    assert set(truth.origin) == {"human"}


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (5, 9, 9, 5)])
def test_box_without_area_is_dropped_by_name(tmp_path: Path, box: tuple[int, ...]) -> None:
    dataset = reader.read(voc(tmp_path, {"a": voc_xml([("RBC", *box), ("RBC", 1, 1, 4, 4)])}))
    assert len(dataset.samples[0].truth) == 1
    assert len(dataset.dropped) == 1
    assert "a.xml" in dataset.dropped[0] and "without area" in dataset.dropped[0]


def test_box_outside_the_picture_is_dropped_by_name(tmp_path: Path) -> None:
    dataset = reader.read(voc(tmp_path, {"a": voc_xml([("RBC", 70, 10, 90, 20)])}))
    assert len(dataset.samples[0].truth) == 0
    assert "outside" in dataset.dropped[0]


def test_sets_groups_and_parent_folder(tmp_path: Path) -> None:
    sets = {"train": ["a"], "val": ["b"], "test": ["c 1"]}
    voc(tmp_path / "BCCD", {name: voc_xml([("RBC", 1, 1, 4, 4)]) for name in "abcd"}, sets)
    (tmp_path / "overlap_groups.csv").write_text("image,group\na.jpg,g1\nb.jpg,g1\nc,g2\n")
    for path in (tmp_path, tmp_path / "BCCD"):
        dataset = reader.read(path)
        assert [s.split for s in dataset] == ["train", "val", "test", None]
        assert [s.group for s in dataset] == ["g1", "g1", "g2", None]
        assert [s.mpp for s in dataset] == [None] * 4


def test_scale_of_bccd_is_noted_and_can_be_given(tmp_path: Path) -> None:
    root = voc(tmp_path, {"BloodImage_00000": voc_xml([])})
    dataset = reader.read(root)
    assert dataset.samples[0].mpp == pytest.approx((0.0714, 0.0714), abs=1e-4)
    assert "0.0714" in dataset.notes[0]
    assert reader.read(root, mpp=(0.1, 0.2)).samples[0].mpp == (0.1, 0.2)


def test_a_picture_without_xml_is_not_an_empty_one(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([])})
    picture(root / "JPEGImages" / "b.jpg")
    a, b = reader.read(root)
    assert a.truth is not None and len(a.truth) == 0
    assert b.truth is None and b.annotated == ()


def test_a_usual_class_that_is_missing_is_unknown_only_if_asked(tmp_path: Path) -> None:
    files = {f"i{n:02}": voc_xml([("RBC", 1, 1, 4, 4), ("WBC", 9, 9, 20, 20)][: 1 + n % 2]) for n in range(30)}
    files["odd"] = voc_xml([("WBC", 9, 9, 20, 20)])
    root = voc(tmp_path, files)
    assert all(s.annotated == ("wbc", "rbc") for s in reader.read(root))
    dataset = reader.read(root, as_published=False)
    assert [s.path.stem for s in dataset if "rbc" not in s.annotated] == ["odd"]
    assert all("wbc" in s.annotated for s in dataset)  # half of the pictures have none: nothing unusual
    assert dataset.notes == ("odd.jpg: no rbc box, taken as not annotated",)


def test_unknown_class_lists_both_sides_and_map_teaches_it(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([("Lymphocyte", 1, 1, 4, 4)])})
    with pytest.raises(FormatError, match=r"a\.xml: class 'Lymphocyte' found, blast, wbc, rbc, platelet expected"):
        reader.read(root)
    assert reader.read(root, class_map={"Lymphocyte": "wbc"}).samples[0].truth.label.tolist() == [WBC]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object>", "not well-formed"),
        ("", "not well-formed"),
        ("\x00\xff", "not well-formed"),
        ("<annotation/>", "no size/width"),
        (voc_xml([], (63, 48)), "size 63x48 stated, the picture is 64x48"),
        (voc_xml([("RBC", 1, "x", 3, 4)]), "ymin 'x' found"),
        (voc_xml([("RBC", 1, "nan", 3, 4)]), "ymin 'nan' found"),
        (voc_xml([("RBC", 1, 2, "inf", 4)]), "xmax 'inf' found"),
        (voc_xml([("RBC", 1, 2, 3, 4)]).replace("<ymax>4</ymax>", ""), "no bndbox/ymax"),
        (voc_xml([("RBC", 1, 2, 3, 4)]).replace("<name>RBC</name>", ""), "without a name"),
    ],
)
def test_faulty_xml_is_one_line_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FormatError) as caught:
        reader.read(voc(tmp_path, {"a": text}))
    assert words in str(caught.value) and "a.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_faulty_folders(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no folders Annotations and JPEGImages"):
        reader.read(tmp_path)
    root = voc(tmp_path, {"a": voc_xml([])})
    (root / "Annotations" / "b.xml").write_text(voc_xml([]))
    with pytest.raises(FormatError, match=r"b\.xml: no picture"):
        reader.read(root)
    (root / "Annotations" / "b.xml").unlink()
    picture(root / "JPEGImages" / "a.png")
    with pytest.raises(FormatError, match="a second picture named a"):
        reader.read(root)


@pytest.mark.parametrize(
    ("sets", "words"),
    [({"train": ["a"], "test": ["a"]}, "in train already"), ({"val": ["z"]}, "z listed, but there is no such picture")],
)
def test_faulty_sets(tmp_path: Path, sets: dict[str, list[str]], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        reader.read(voc(tmp_path, {"a": voc_xml([])}, sets))


def test_faulty_groups(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([])})
    (root / "overlap_groups.csv").write_text("file;group\n")
    with pytest.raises(FormatError, match="image and group expected"):
        reader.read(root)


@pytest.mark.realdata
def test_bccd_as_its_readme_counts_it(data_dir: Path) -> None:
    dataset = reader.read(data_dir / "bccd")
    counts = [sum(s.truth.counts()[name] for s in dataset) for name in ("wbc", "rbc", "platelet")]
    assert counts == [372, 4155 - 2, 361]
    assert [len(dataset.with_split(name)) for name in ("train", "val", "test")] == [205, 87, 72]
    assert len({s.group for s in dataset}) == 328
    assert [line.split(".")[0] for line in dataset.dropped] == ["BloodImage_00338", "BloodImage_00343"]
    assert {s.annotated for s in dataset} == {("wbc", "rbc", "platelet")}
    sides = np.concatenate([s.truth.with_classes("rbc").boxes_xyxy for s in dataset])
    assert np.median(sides[:, 2] - sides[:, 0]) == pytest.approx(reader.BCCD_RED_CELL_PX, abs=1.5)


@pytest.mark.realdata
def test_bccd_pictures_without_red_cells_are_those_of_its_readme(data_dir: Path) -> None:
    dataset = reader.read(data_dir / "bccd", as_published=False)
    numbers = [int(s.path.stem[-5:]) for s in dataset if "rbc" not in s.annotated]
    assert numbers == [134, 147, 150, 152, 224, 249, 250, 258, 267, 268, 303, 322, 327, 330, 350]
    numbers = [int(s.path.stem[-5:]) for s in dataset if "wbc" not in s.annotated]
    assert numbers == [133, 135, 171, 178, 228, 327]
