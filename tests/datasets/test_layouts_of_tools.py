"""Folders as annotation programs export them, read without an option: LabelImg, CVAT, Label Studio, Roboflow, COCO.

The look-alikes hold one white cell at (16, 12, 32, 36) in an image of 64 x 48 px.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from made import image_file, voc_xml

from blastdet.core.errors import FormatError
from blastdet.core.types import WBC
from blastdet.datasets.formats import registry
from blastdet.datasets.reading import read_dataset

BOX = [16, 12, 32, 36]
LINE = "1 0.375 0.5 0.25 0.5\n"
OUTLINE = "1 0.25 0.25 0.5 0.3 0.4 0.75\n"
XML = voc_xml([("WBC", 17, 13, 32, 36)])


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def coco(path: Path, name: str, categories: tuple[str, ...] = ("RBC", "WBC"), **change: Any) -> None:
    """A COCO document with the cell in the last category."""
    row = {
        "id": 1,
        "image_id": 7,
        "category_id": len(categories) - 1,
        "bbox": [16, 12, 16, 24],
        "area": 384,
        "iscrowd": 0,
    }
    document = {
        "images": [{"id": 7, "file_name": name, "width": 64, "height": 48}],
        "annotations": [{**row, "segmentation": [], **change}],
        "categories": [{"id": i, "name": one, "supercategory": "none"} for i, one in enumerate(categories)],
    }
    text(path, json.dumps(document))


def labelimg_voc(root: Path) -> None:
    image_file(root / "a.jpg")
    text(root / "a.xml", XML)


def labelimg_yolo(root: Path) -> None:
    image_file(root / "a.jpg")
    text(root / "a.txt", LINE)
    text(root / "classes.txt", "RBC\nWBC\n")


def cvat_yolo(root: Path) -> None:
    image_file(root / "obj_train_data" / "a.jpg")
    text(root / "obj_train_data" / "a.txt", LINE)
    text(root / "obj.names", "RBC\nWBC\n")
    text(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    text(root / "train.txt", "data/obj_train_data/a.jpg\n")


def cvat_ultralytics(root: Path) -> None:
    image_file(root / "images" / "train" / "a.jpg")
    text(root / "labels" / "train" / "a.txt", LINE)
    text(root / "train.txt", "data/images/train/a.jpg\n")
    text(root / "data.yaml", "path: .\ntrain: train.txt\nnames:\n  0: RBC\n  1: WBC\n")


def cvat_voc(root: Path) -> None:
    image_file(root / "JPEGImages" / "a.jpg")
    image_file(root / "SegmentationClass" / "a.png")
    text(root / "Annotations" / "a.xml", XML)
    text(root / "ImageSets" / "Main" / "default.txt", "a\n")
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nWBC:1,2,3::\n")


def cvat_coco(root: Path) -> None:
    image_file(root / "images" / "default" / "a.jpg")
    coco(root / "annotations" / "instances_default.json", "a.jpg")


def label_studio_coco(root: Path) -> None:
    image_file(root / "images" / "1a2b3c4d-a b.jpg")
    coco(root / "result.json", "images\\1a2b3c4d-a%20b.jpg")


def label_studio_media(root: Path) -> None:
    image_file(root / "images" / "1a2b3c4d-a.jpg")
    coco(root / "result.json", "..\\..\\label-studio\\media\\upload\\4\\1a2b3c4d-a.jpg")


def label_studio_yolo(root: Path) -> None:
    image_file(root / "images" / "1a2b3c4d-a.jpg")
    text(root / "labels" / "1a2b3c4d-a.txt", LINE)
    text(root / "classes.txt", "RBC\nWBC\n")
    text(root / "notes.json", json.dumps({"categories": [], "info": {}}))


def label_studio_voc(root: Path) -> None:
    image_file(root / "images" / "a.jpg")
    text(root / "Annotations" / "a.xml", XML)


def roboflow_yolo(root: Path) -> None:
    image_file(root / "train" / "images" / "a_jpg.rf.0123.jpg")
    text(root / "train" / "labels" / "a_jpg.rf.0123.txt", OUTLINE)
    text(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['RBC', 'WBC', 'unused']\n")
    (root / "valid" / "images").mkdir(parents=True)
    text(root / "README.roboflow.txt", "Provided by a user\n")


def roboflow_coco(root: Path) -> None:
    image_file(root / "train" / "a.jpg")
    coco(root / "train" / "_annotations.coco.json", "a.jpg", ("cells-of-blood", "RBC", "WBC"))


def roboflow_voc(root: Path) -> None:
    image_file(root / "train" / "a.jpg")
    text(root / "train" / "a.xml", XML)


def coco_2017(root: Path) -> None:
    image_file(root / "train2017" / "a.jpg")
    coco(root / "annotations" / "instances_train2017.json", "a.jpg")
    text(root / "annotations" / "captions_train2017.json", json.dumps({"images": [], "annotations": []}))


def coco_outline(root: Path) -> None:
    image_file(root / "a.jpg")
    coco(root / "anything.json", "a.jpg", bbox=[], segmentation=[[16, 12, 32, 20, 20, 36]])


def coco_mask(root: Path) -> None:
    image_file(root / "a.jpg")
    counts = [16 * 48 + 12, *([24, 24] * 15), 24, 32 * 48 + 12]
    coco(root / "anything.json", "a.jpg", bbox=[0, 0, 0, 0], segmentation={"size": [48, 64], "counts": counts})


LAYOUTS: list[Callable[[Path], None]] = [
    labelimg_voc,
    labelimg_yolo,
    cvat_yolo,
    cvat_ultralytics,
    cvat_voc,
    cvat_coco,
    label_studio_coco,
    label_studio_media,
    label_studio_yolo,
    label_studio_voc,
    roboflow_yolo,
    roboflow_coco,
    roboflow_voc,
    coco_2017,
    coco_outline,
    coco_mask,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_an_export_is_read_as_it_is(
    tmp_path: Path, layout: Callable[[Path], None], zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "my export"
    layout(root)
    if zipped:
        with ZipFile(tmp_path / "export.zip", "w") as archive:
            for file in sorted(path for path in root.rglob("*") if path.is_file()):
                archive.write(file, f"my export/{file.relative_to(root).as_posix()}")
    (sample,) = dataset = read_dataset(tmp_path / "export.zip" if zipped else root)
    assert sample.truth is not None and sample.truth.label.tolist() == [WBC]
    assert sample.truth.boxes_xyxy.tolist() == [BOX]
    lost = zipped and layout is roboflow_yolo  # the empty folder of its val split
    assert "wbc" in sample.annotated and len(dataset.dropped) == lost
    if "train" in {part.name.removesuffix("2017") for part in root.rglob("*")}:
        assert sample.split == "train" or zipped  # the common folder of all files is not kept


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_images_may_be_elsewhere(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    root = tmp_path / "export"
    layout(root)
    (tmp_path / "mine").mkdir()
    for image in sorted(root.rglob("*.jpg")):
        image.rename(tmp_path / "mine" / image.name)
    (sample,) = read_dataset(root, images=tmp_path / "mine")
    assert sample.truth is not None and sample.truth.boxes_xyxy.tolist() == [BOX]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height><depth>3</depth></size>"])
def test_voc_without_size(tmp_path: Path, size: str) -> None:
    image_file(tmp_path / "a.jpg")
    start, end = XML.index("<size>"), XML.index("</size>") + len("</size>")
    text(tmp_path / "a.xml", XML[:start] + size + XML[end:])
    (sample,) = registry.read(tmp_path)
    assert sample.truth is not None and sample.truth.boxes_xyxy.tolist() == [BOX]


def test_both_unicode_forms_of_a_name_are_one(tmp_path: Path) -> None:
    image_file(tmp_path / "images" / f"{unicodedata.normalize('NFD', 'Müller')}.jpg")
    coco(tmp_path / "annotations" / "instances_train.json", f"{unicodedata.normalize('NFC', 'Müller')}.jpg")
    assert len(registry.read(tmp_path)) == 1
    text(tmp_path / "voc" / f"{unicodedata.normalize('NFC', 'Müller')}.xml", XML)
    assert len(registry.read(tmp_path / "voc", images=tmp_path / "images")) == 1


def test_all_unknown_classes_are_in_one_message_with_the_options(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    names = ["Leukocyte", "Leukocyte", "Erythro cyte", "Region"]
    text(tmp_path / "a.xml", voc_xml([(name, 17, 13, 32, 36) for name in names]))
    with pytest.raises(FormatError) as caught:
        registry.read(tmp_path)
    message = str(caught.value)
    assert "got 'Leukocyte' (2), 'Erythro cyte' (1), 'Region' (1). Map them:" in message
    assert "--map Leukocyte=wbc --map 'Erythro cyte=rbc' --map Region= (NAME= leaves a class out" in message
    class_map = {"Leukocyte": "wbc", "Erythro cyte": "rbc", "Region": ""}
    dataset = registry.read(tmp_path, class_map=class_map)
    assert dataset.samples[0].truth.counts() == {"blast": 0, "wbc": 2, "rbc": 1, "platelet": 0}
    assert dataset.dropped == ("1 region of the class 'Region': left out",)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_class_is_left_out_in_every_format(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    layout(tmp_path)
    dataset = registry.read(tmp_path, class_map={"WBC": ""})
    assert [len(sample.truth) for sample in dataset] == [0]
    assert "wbc" not in dataset.classes and dataset.dropped == ("1 region of the class 'WBC': left out",)


def test_key_points_are_not_taken_for_outlines(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    text(tmp_path / "data.yaml", (tmp_path / "data.yaml").read_text() + "kpt_shape: [2, 3]\n")
    with pytest.raises(FormatError, match="got key points"):
        registry.read(tmp_path)
