"""Detections of any program as COCO: a results list, or a complete document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import SIZE_WH, image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import coco
from blastdet.datasets.formats.coco_results import read_results

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
