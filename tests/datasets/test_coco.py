"""COCO: lossless for datasets of blastdet, tolerant of other programs, strict about faults."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import SIZE_WH, cells, datasets, image_file, same_cells, same_smears

from blastdet.core.errors import FormatError
from blastdet.core.types import RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import coco
from blastdet.datasets.formats.coco_results import read_results

IMAGE = {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}
CELL = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}


def document(tmp_path: Path, name: str = "instances_train2017.json", **parts: Any) -> Path:
    image_file(tmp_path / "a.jpg")
    whole = {"images": [IMAGE], "annotations": [CELL], "categories": [{"id": 3, "name": "WBC"}], **parts}
    path = tmp_path / name
    path.write_text(json.dumps(whole))
    return path


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_round_trip_loses_nothing(image_files: Path, data: st.DataObject) -> None:
    dataset = data.draw(datasets(image_files))
    with TemporaryDirectory() as folder:
        coco.write(dataset, Path(folder))
        back = coco.read(Path(folder))
    same_smears(dataset, back)
    assert (back.name, set(back.dropped), set(back.notes)) == (dataset.name, set(dataset.dropped), set(dataset.notes))


@given(found=cells())
@settings(max_examples=40, deadline=None)
def test_a_document_of_detections_comes_back(image_files: Path, found: Detections) -> None:
    found = found[~np.isnan(found.boxes_xyxy).any(axis=1)]
    scored = found.with_columns(score=found.score, origin=["model"] * len(found))
    sample = Sample(image_files / "0.png", SIZE_WH, truth=scored)
    whole = coco.to_document(Dataset("run", image_files, (sample,)))
    for annotation in whole["annotations"]:
        annotation.setdefault("score", 1.0)  # left out where all are 1, as in truth
    with TemporaryDirectory() as folder:
        path = Path(folder) / "detections.coco.json"
        path.write_text(json.dumps(whole))
        same_cells(read_results(path, Dataset("set", image_files, (sample,)))[0], scored)


def test_dataset_of_another_program(tmp_path: Path) -> None:
    sample = coco.read(document(tmp_path), mpp=(0.5, 0.5)).samples[0]
    assert sample.truth.boxes_xyxy.tolist() == [[1, 2, 4, 6]]
    assert (sample.split, sample.mpp, sample.annotated, sample.truth.label.tolist()) == (
        "train",
        (0.5, 0.5),
        ("wbc",),
        [WBC],
    )
    assert sample.truth.ignore is None


def test_folders_and_unused_category_of_roboflow(tmp_path: Path) -> None:
    kinds = [{"id": 0, "name": "cells-7x3q"}, {"id": 3, "name": "RBC"}]
    for name in ("train", "valid"):
        (tmp_path / name).mkdir()
        document(tmp_path / name, "_annotations.coco.json", categories=kinds)
    dataset = coco.read(tmp_path)
    assert [s.split for s in dataset] == ["train", "val"]
    assert dataset.samples[0].truth.label.tolist() == [RBC]


def test_images_in_the_coco_folders(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    file = document(tmp_path / "annotations", "instances_val.json")
    (tmp_path / "annotations" / "a.jpg").unlink()
    image_file(tmp_path / "images" / "val" / "a.jpg")
    assert coco.read(tmp_path).samples[0].path == tmp_path / "images" / "val" / "a.jpg"
    assert coco.read(file).root == tmp_path


def test_crowd_is_ignored_and_empty_box_dropped(tmp_path: Path) -> None:
    rows = [CELL, {**CELL, "id": 2, "iscrowd": 1}, {**CELL, "id": 3, "bbox": [5, 5, 0, 9]}]
    dataset = coco.read(document(tmp_path, annotations=rows))
    assert dataset.samples[0].truth.ignore.tolist() == [False, True]
    assert len(dataset.dropped) == 1 and "annotation 3" in dataset.dropped[0]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"images": 3}, "expected a list of objects as 'images'"),
        ({"annotations": [3]}, "expected a list of objects as 'annotations'"),
        ({"categories": [{"id": 3}]}, "expected a category with id (a whole number) and name"),
        (
            {"categories": [{"id": 3, "name": "Leukocyte"}]},
            "rbc, platelet, got 'Leukocyte'",
        ),
        ({"categories": []}, "expected one of [] as category_id, got 3"),
        ({"images": [{**IMAGE, "width": "x"}]}, "image 'a.jpg' is faulty"),
        ({"images": [IMAGE, IMAGE]}, "got two images with id 7"),
        ({"images": [{**IMAGE, "width": 65}]}, "a.jpg: expected the size of the image, 64x48, got 65x48"),
        ({"images": [{**IMAGE, "file_name": "b.jpg"}]}, "expected the image b.jpg in"),
        ({"images": [{**IMAGE, "mpp": 0}]}, "a.jpg: mpp: expected µm/px between 0.001 and 100, got 0"),
        ({"images": [{**IMAGE, "mpp": [0.5, "x"]}]}, "a.jpg: mpp: expected a number"),
        (
            {"images": [{**IMAGE, "annotated": ["cat"]}]},
            "platelet as annotated, got ['cat']",
        ),
        (
            {"annotations": [{**CELL, "image_id": 8}]},
            "expected the id of a listed image as image_id, got 8",
        ),
        ({"annotations": [{**CELL, "bbox": [1, 2, 3]}]}, "as bbox, got [1, 2, 3]"),
        ({"annotations": [{**CELL, "bbox": [1, 2, 3, float("nan")]}]}, "expected four numbers"),
        ({"annotations": [{**CELL, "bbox": [1, 2, -3, 4]}]}, "expected a size of 0 or more"),
        ({"annotations": [{**CELL, "bbox": None}]}, "as bbox, got None"),
        ({"annotations": [{**CELL, "point_xy": [1]}]}, "point_xy"),
    ],
)
def test_faulty_document_is_one_line_with_the_file(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    path = document(tmp_path, **parts)
    with pytest.raises(FormatError) as caught:
        coco.read(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "instances" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "expected valid JSON"), ("[" * 100_000, "expected valid JSON"), ("[]", "got a list")]
)
def test_faulty_json(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=words):
        coco.read(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(FormatError, match="expected a UTF-8 text file"):
        coco.read(path)
    with pytest.raises(FormatError, match=r"expected annotations/"):
        coco.read(image_file(tmp_path / "e" / "a.jpg").parent)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"categories": [{"id": 3, "name": "WBC"}, {"id": 3, "name": "RBC"}]},
            "got two categories with id 3: WBC and RBC",
        ),
        ({"images": [IMAGE, {**IMAGE, "id": 8}]}, "one entry for each image, got two for a.jpg"),
        (
            {"images": [IMAGE, {**IMAGE, "id": 8, "file_name": "./a.jpg"}]},
            "one entry for each image, got two for a.jpg",
        ),
    ],
)
def test_duplicates_are_refused(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words) as error:
        coco.read(document(tmp_path, **parts))
    assert "\n" not in str(error.value)


def test_an_image_in_two_files_is_refused(tmp_path: Path) -> None:
    document(tmp_path)
    document(tmp_path, "instances_val2017.json")
    with pytest.raises(FormatError, match=r"got two for a\.jpg"):
        coco.read(tmp_path)


def test_records_keep_faults(tmp_path: Path) -> None:
    images = [{**IMAGE, "width": 40}, {"id": 8, "file_name": "z.png"}, {"id": 9}]
    rows = [
        {**CELL, "bbox": [10, 5, -3, 8]},
        {**CELL, "id": 2, "bbox": []},
        {**CELL, "id": 3, "bbox": [5, 5, 0, 0], "has_box": False},
        {**CELL, "id": 4, "image_id": 77},
    ]
    path = document(tmp_path, "instances_val.json", images=images, annotations=rows)
    (tmp_path / "other.json").write_text("[1, 2")
    (tmp_path / "settings.json").write_text('{"images": 3}')
    whole, one, two = coco.read_records(tmp_path)
    assert whole.image is None and whole.problem is not None and whole.problem.startswith("image 9 is faulty")
    assert (one.file, one.image, one.split, one.size_wh) == (path, tmp_path / "a.jpg", "val", (40, 48))
    assert [(box.name, box.xyxy, box.extent_wh, box.is_point) for box in one.boxes] == [
        ("WBC", (10, 5, 7, 13), (-3, 8), False),
        ("WBC", (5, 5, 5, 5), (0, 0), True),
    ]
    assert one.problem == "annotation 2: expected four numbers x, y, width, height as bbox, got []"
    assert (two.image, two.name, two.size_wh) == (None, "z.png", None)


@pytest.mark.parametrize(
    "text",
    ['{"images": [{}], "annotations": []}', '{"images": [3], "annotations": []}', '{"images": [], "annotations": [5]}'],
)
def test_a_hostile_document_is_one_record_with_a_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert [record.problem is not None for record in coco.read_records(tmp_path)] == [True]


def test_one_number_is_the_scale_of_square_pixels(tmp_path: Path) -> None:
    path = document(tmp_path, images=[{**IMAGE, "mpp": 0.5}])
    assert coco.read(path, mpp=(0.1, 0.1)).samples[0].mpp == (0.5, 0.5)


@pytest.mark.parametrize("change", [{"file_name": "x" * 5000}, {"mpp": 10**400}])
def test_values_beyond_all_bounds_are_format_errors(tmp_path: Path, change: dict[str, object]) -> None:
    image_file(tmp_path / "a.jpg")
    entry = {"id": 1, "file_name": "a.jpg", "width": SIZE_WH[0], "height": SIZE_WH[1], **change}
    categories = [{"id": 1, "name": "wbc"}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": [entry], "annotations": [], "categories": categories}))
    with pytest.raises(FormatError):
        coco.read(path)


@pytest.mark.parametrize("how", ["absolute", "above"])
def test_an_image_outside_the_dataset_is_not_read(tmp_path: Path, how: str) -> None:
    secret = image_file(tmp_path / "elsewhere" / "deep" / "secret.jpg")
    name = str(secret) if how == "absolute" else "../../elsewhere/deep/secret.jpg"
    (tmp_path / "a" / "b").mkdir(parents=True)
    path = document(tmp_path / "a" / "b", images=[{**IMAGE, "file_name": name}])
    with pytest.raises(FormatError, match=r"expected the image .*secret\.jpg"):
        coco.read(path)
    with pytest.raises(FormatError, match=r"expected the image .*secret\.jpg"):
        coco.read(path, images=tmp_path / "a")
    assert [record.image for record in coco.read_records(tmp_path / "a")] == [None]
    own = image_file(tmp_path / "a" / "b" / "x" / "secret.jpg")  # by its name, the image of the dataset
    assert coco.read(path).samples[0].path == own


def test_the_folder_above_may_be_named(tmp_path: Path) -> None:
    image = image_file(tmp_path / "pictures" / "b.jpg")
    (tmp_path / "annotations").mkdir()
    path = document(tmp_path / "annotations", images=[{**IMAGE, "file_name": "../pictures/b.jpg"}])
    assert coco.read(path).samples[0].path == image


def test_an_image_in_another_folder_than_stated_is_noted(tmp_path: Path) -> None:
    image = image_file(tmp_path / "p2" / "001.jpg")
    dataset = coco.read(document(tmp_path, images=[{**IMAGE, "file_name": "p1/001.jpg"}]))
    assert dataset.samples[0].path == image
    assert dataset.notes == (
        "1 image was found by name in another folder than stated; first: p1/001.jpg, read from p2/001.jpg",
    )
