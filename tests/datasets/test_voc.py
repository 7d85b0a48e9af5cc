"""Pascal VOC: boxes, classes, splits, faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import image_file, voc, voc_xml

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


def test_box_outside_the_image_is_dropped_by_name(tmp_path: Path) -> None:
    dataset = reader.read(voc(tmp_path, {"a": voc_xml([("RBC", 70, 10, 90, 20)])}))
    assert len(dataset.samples[0].truth) == 0
    assert "outside" in dataset.dropped[0]


def test_an_image_without_xml_has_no_truth(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([])})
    image_file(root / "JPEGImages" / "b.jpg")
    a, b = reader.read(root)
    assert a.truth is not None and len(a.truth) == 0
    assert b.truth is None and b.annotated == ()


def test_an_unknown_class_is_refused_unless_it_is_mapped(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([("Leukocyte", 1, 1, 4, 4)])})
    with pytest.raises(FormatError, match=r"a class out of blast, .* 'Leukocyte' \(1\)\. Map it: --map Leukocyte=wbc"):
        reader.read(root)
    assert reader.read(root, class_map={"Leukocyte": "wbc"}).samples[0].truth.label.tolist() == [WBC]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object>", "expected well-formed XML"),
        ("", "expected well-formed XML"),
        ("\x00\xff", "expected well-formed XML"),
        ("<html/>", "expected the root element <annotation>"),
        (voc_xml([], (63, 48)), "expected the size of the image, 64x48, got 63x48"),
        (voc_xml([("RBC", 1, "x", 3, 4)]), "expected a number as bndbox/ymin, got 'x'"),
        (voc_xml([("RBC", 1, "nan", 3, 4)]), "expected a number as bndbox/ymin, got 'nan'"),
        (voc_xml([("RBC", 1, 2, "inf", 4)]), "expected a number as bndbox/xmax, got 'inf'"),
        (voc_xml([("RBC", 1, 2, 3, 4)]).replace("<ymax>4</ymax>", ""), "expected bndbox/ymax in <object>"),
        (voc_xml([("RBC", 1, 2, 3, 4)]).replace("<name>RBC</name>", ""), "expected a name for every object"),
    ],
)
def test_faulty_xml_is_one_line_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FormatError) as caught:
        reader.read(voc(tmp_path, {"a": text}))
    assert words in str(caught.value) and "a.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_faulty_folders(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="expected annotation files of this format, got none"):
        reader.read(tmp_path)
    root = voc(tmp_path, {"a": voc_xml([])})
    (root / "Annotations" / "b.xml").write_text(voc_xml([]))
    with pytest.raises(FormatError, match=r"got 1 of 2; first missing: 'b'\. Pass the folder .*: --images"):
        reader.read(root)
    (root / "Annotations" / "b.xml").unlink()
    image_file(root / "JPEGImages" / "a.png")
    with pytest.raises(FormatError, match=r"a\.xml: a: expected one image of that name, got two: a\.jpg, a\.png"):
        reader.read(root)


@pytest.mark.parametrize(
    ("sets", "words"),
    [({"train": ["a"], "test": ["a"]}, "got a, also in train"), ({"val": ["z"]}, "got z, which has no image")],
)
def test_faulty_sets(tmp_path: Path, sets: dict[str, list[str]], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        reader.read(voc(tmp_path, {"a": voc_xml([])}, sets))


def test_splits_come_from_the_lists(tmp_path: Path) -> None:
    root = voc(tmp_path, {name: voc_xml([]) for name in "abcd"}, {"train": ["a"], "val": ["b"], "test": ["c 1"]})
    dataset = reader.read(root, mpp=(0.1, 0.2))
    assert [sample.split for sample in dataset] == ["train", "val", "test", None]
    assert {(sample.mpp, sample.group) for sample in dataset} == {((0.1, 0.2), None)}


def test_every_class_that_occurs_is_annotated_everywhere(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": voc_xml([("RBC", 1, 1, 4, 4)]), "b": voc_xml([("WBC", 1, 1, 4, 4)])})
    assert [sample.annotated for sample in reader.read(root)] == [("wbc", "rbc")] * 2


def test_records_keep_faults(tmp_path: Path) -> None:
    boxes = [("RBC", 9, 5, 4, 9), ("Parasite", 1, 1, 4, 4), ("RBC", 1, "x", 3, 4), ("WBC", 5, "y", 6, 7)]
    root = voc(tmp_path, {"a": voc_xml(boxes, (640, 480)), "b": "<annotation>", "c": "<html/>"}, {"test": ["a"]})
    a, b = reader.read_records(root)
    assert (a.image, a.split, a.folder, a.size_wh) == (root / "JPEGImages" / "a.jpg", "test", "RBC", (640, 480))
    assert [(box.name, box.xyxy, box.extent_wh) for box in a.boxes] == [
        ("RBC", (8, 4, 4, 9), (-5, 4)),
        ("Parasite", (0, 0, 4, 4), (3, 3)),
    ]
    assert a.problem == "expected a number as bndbox/ymin, got 'x'"
    assert (b.image, b.boxes) == (root / "JPEGImages" / "b.jpg", ())
    assert b.problem is not None and b.problem.startswith("expected well-formed XML")
