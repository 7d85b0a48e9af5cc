"""Detections of any program as COCO: a results list, or a complete document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made import SIZE_WH, image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import RBC, WBC, Dataset, Detections, Sample, SourceIds
from blastdet.datasets.formats import coco, yolo
from blastdet.datasets.formats.coco_results import ids_in_words, read_results

IMAGE = {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}
FOUND = {"image_id": "b", "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.25}


def a_set(tmp_path: Path, names: tuple[str, ...] = ("a.jpg", "b.jpg")) -> Dataset:
    paths = [image_file(tmp_path / name) for name in names]
    return Dataset("set", tmp_path, tuple(Sample(path, SIZE_WH, truth=Detections.empty()) for path in paths))


def results(tmp_path: Path, rows: Any) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    return path


def test_results_by_name_stem_number_and_id(tmp_path: Path) -> None:
    dataset = a_set(tmp_path, ("a.jpg", "b.jpg", "0042.jpg"))
    for image_id, place in (("b", 1), ("b.jpg", 1), ("elsewhere/a.jpg", 0), (42, 2)):
        found = read_results(results(tmp_path, [{**FOUND, "image_id": image_id}]), dataset)
        assert [len(f) for f in found] == [int(i == place) for i in range(3)]
        assert found[place].label.tolist() == [RBC]
        assert found[place].origin.tolist() == ["model"]
        assert found[place].score.tolist() == [0.25]


def test_results_by_the_ids_of_our_own_file(tmp_path: Path) -> None:
    samples = tuple(
        Sample(image_file(tmp_path / "in" / f"{i}.jpg"), SIZE_WH, split=split, truth=Detections([[1, 1, 5, 5]]))
        for i, split in ((9, "train"), (1, "test"))  # stems that are ids of the other image
    )
    dataset = coco.write(Dataset("x", tmp_path / "in", samples), tmp_path / "o")
    entry = json.loads((tmp_path / "o" / "annotations" / "instances_test.json").read_text())["images"][0]
    path = results(tmp_path, [{**FOUND, "image_id": entry["id"]}])
    assert [len(found) for found in read_results(path, dataset)] == [0, 1]
    assert [len(found) for found in read_results(path, dataset.with_split("test"))] == [1]
    assert [len(found) for found in read_results(path, dataset.with_split("train"))] == [0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": "z"}, "expected an image of set as image_id, got 'z'"),
        ({"image_id": None}, "as image_id, got None"),
        ({"score": float("nan")}, "as score, got nan"),
        ({"score": None}, "as score, got None"),
        ({"score": 1.5}, "expected a number from 0 to 1 as score, got 1.5"),
        ({"category_id": 9}, "expected one of [1, 2, 3, 4, 5] as category_id, got 9"),
        ({"bbox": [1, 2, float("inf"), 3]}, "as bbox, got [1, 2, inf, 3]"),
        ({"bbox": "1 2 3 4"}, "as bbox, got '1 2 3 4'"),
        ({"bbox": [1, 2, -3, 4]}, "expected a size of 0 or more"),
    ],
)
def test_faulty_results_name_file_and_number(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = results(tmp_path, [FOUND, {**FOUND, **change}])
    with pytest.raises(FormatError) as caught:
        read_results(path, a_set(tmp_path))
    assert words in str(caught.value) and "results.json: detection 2" in str(caught.value)


def truth_file(tmp_path: Path) -> Path:
    """A truth whose ids are neither ours nor the stems: 2.jpg has id 1, RBC has id 1."""
    for name in ("1", "2"):
        image_file(tmp_path / f"{name}.jpg")
    images = [{**IMAGE, "id": i, "file_name": name} for i, name in ((2, "1.jpg"), (1, "2.jpg"))]
    rows = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9]},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [50, 30, 40, 9]},  # beyond the image of 64 x 48
    ]
    truth = tmp_path / "gt.json"
    names = [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}]
    truth.write_text(json.dumps({"images": images, "annotations": rows, "categories": names}))
    return truth


def test_ids_of_a_list_mean_those_of_the_truth(tmp_path: Path) -> None:
    dataset = coco.read(truth_file(tmp_path))
    rows = json.loads((tmp_path / "gt.json").read_text())["annotations"]
    found = read_results(results(tmp_path, [{**row, "score": 0.9} for row in rows]), dataset)
    for sample, cells in zip(dataset, found, strict=True):
        assert sample.truth is not None and len(cells) == 1
        assert cells.label.tolist() == sample.truth.label.tolist()
        assert cells.boxes_xyxy.tolist() == sample.truth.boxes_xyxy.tolist()
    assert dataset.samples[1].truth.label.tolist() == [RBC]
    assert ids_in_words(dataset) == "category id of gt.json: 1 RBC = rbc, 2 WBC = wbc; image ids: those of the truth"
    with pytest.raises(FormatError, match=r"expected one of \[1, 2\] as category_id, got 3"):
        read_results(results(tmp_path, [{**rows[0], "category_id": 3, "score": 1}]), dataset)


def test_an_id_of_two_images_is_refused(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        truth_file(tmp_path / name).rename(tmp_path / name / "_annotations.coco.json")
    dataset = coco.read(tmp_path)
    path = results(tmp_path, [{**FOUND, "image_id": 1, "category_id": 1}])
    with pytest.raises(FormatError, match=r"expected one image with id 1, got 2\.jpg and 2\.jpg\. Name the one truth"):
        read_results(path, dataset)
    with pytest.raises(FormatError, match=r"expected one image with id 7, got 7\.jpg and 07\.jpg"):
        read_results(results(tmp_path, [{**FOUND, "image_id": 7}]), a_set(tmp_path, ("7.jpg", "07.jpg")))


def test_an_id_of_two_classes_is_refused(tmp_path: Path) -> None:
    ids = SourceIds("category id", ((1, "RBC", RBC), (1, "WBC", WBC)))
    dataset = replace(a_set(tmp_path), ids=ids)
    with pytest.raises(FormatError, match="expected one class for category id 1, got two"):
        read_results(results(tmp_path, [FOUND]), dataset)


def test_ids_of_yolo_are_indices(tmp_path: Path) -> None:
    sample = Sample(
        image_file(tmp_path / "in" / "5.jpg"), SIZE_WH, annotated=("rbc",), truth=Detections([[1, 1, 9, 9]])
    )
    yolo.write(Dataset("x", tmp_path / "in", (sample,)), tmp_path / "o")
    dataset = yolo.read(tmp_path / "o")
    assert ids_in_words(dataset) == "index in the names of data.yaml: 0 wbc, 1 rbc; image ids: stems of files"
    found = read_results(results(tmp_path, [{**FOUND, "image_id": 5, "category_id": 0}]), dataset)
    assert found[0].label.tolist() == [WBC]


def run_of(*names: str, **image: Any) -> dict[str, Any]:
    images = [{**IMAGE, "id": i, "file_name": name, **image} for i, name in enumerate(names)]
    rows = [{**FOUND, "image_id": 0, "category_id": 5}]
    return {"images": images, "annotations": rows, "categories": [{"id": 5, "name": "wbc"}]}


def test_document_of_a_whole_run_may_hold_more_than_the_set(tmp_path: Path) -> None:
    dataset = a_set(tmp_path)
    found = read_results(results(tmp_path, run_of("x/b.jpg", "x/a.jpg", "x/c.jpg")), dataset)
    assert [len(f) for f in found] == [0, 1]
    assert found[1].label.tolist() == [WBC]


@pytest.mark.parametrize(
    ("names", "image", "words"),
    [
        (("a.jpg",), {}, "expected all images of set, got 1 of 2; first missing: b.jpg"),
        (("a.jpg", "b.jpg", "x/a.jpg"), {}, "got another for a.jpg: x/a.jpg"),
        (("a.jpg", "b.jpg"), {"width": 32}, "a.jpg: expected the size of the image, (64, 48), got (32, 48)"),
    ],
)
def test_document_that_does_not_fit_the_set(
    tmp_path: Path, names: tuple[str, ...], image: dict[str, Any], words: str
) -> None:
    with pytest.raises(FormatError) as caught:
        read_results(results(tmp_path, run_of(*names, **image)), a_set(tmp_path))
    assert words in str(caught.value)


def test_results_that_are_neither(tmp_path: Path) -> None:
    for rows in (3, [3], "x"):
        with pytest.raises(FormatError, match="expected a COCO document or a list of results"):
            read_results(results(tmp_path, rows), a_set(tmp_path))


def test_a_document_need_not_state_the_size(tmp_path: Path) -> None:
    document = run_of("a.jpg", "b.jpg")
    for image in document["images"]:
        del image["width"], image["height"]
    assert [len(found) for found in read_results(results(tmp_path, document), a_set(tmp_path))] == [1, 0]
