"""Label Studio's JSON: percent of the image, names of uploads, which annotation counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, RBC, WBC
from blastdet.datasets.formats import registry
from blastdet.datasets.tools import label_studio

SIZE = {"original_width": 64, "original_height": 48, "image_rotation": 0}


def region(kind: str, labels: list[str], **value: Any) -> dict[str, Any]:
    whole = {"id": "x", "type": kind, "from_name": "label", "to_name": "image", **SIZE}
    return {**whole, "value": {**value, **({kind: labels} if labels else {})}}


def rectangle(label: str, x: float, y: float, w: float, h: float, rotation: float = 0) -> dict[str, Any]:
    return region("rectanglelabels", [label], x=x, y=y, width=w, height=h, rotation=rotation)


def export(root: Path, *annotations: Any, image: str = "/data/upload/1/1a2b3c4d-my%20smear.jpg", **more: Any) -> Path:
    image_file(root / "my smear.jpg")
    tasks = [{"id": 1, "data": {"image": image}, "annotations": list(annotations), **more}]
    (root / "project-1-at-2026-01-01.json").write_text(json.dumps(tasks), encoding="utf-8")
    return root


def test_shapes_in_percent_become_boxes_in_pixels(tmp_path: Path) -> None:
    result = [
        rectangle("WBC", 50, 25, 25, 50),
        region("polygonlabels", ["RBC"], points=[[0, 0], [50, 10], [25, 100]], closed=True),
        region("ellipselabels", ["blast"], x=50, y=50, radiusX=25, radiusY=12.5, rotation=90),
        rectangle("WBC", 50, 50, 25, 25, rotation=90),
        {"type": "choices", "value": {"choices": ["good"]}, "from_name": "quality", "to_name": "image"},
    ]
    (sample,) = dataset = registry.read(export(tmp_path, {"result": result, "was_cancelled": False}))
    assert sample.truth is not None and sample.path == tmp_path / "my smear.jpg"
    # the last one is 16 x 12 px, turned about its corner (32, 24)
    boxes = [[32, 12, 48, 36], [0, 0, 32, 48], [26, 8, 38, 40], [20, 24, 32, 40]]
    np.testing.assert_allclose(sample.truth.boxes_xyxy, boxes, atol=1e-4)
    assert sample.truth.label.tolist() == [WBC, RBC, BLAST, WBC]
    assert dataset.dropped == ()


def test_without_the_size_it_comes_from_the_image(tmp_path: Path) -> None:
    one = rectangle("WBC", 50, 25, 25, 50)
    del one["original_width"], one["original_height"]
    (sample,) = registry.read(export(tmp_path, {"result": [one]}))
    assert sample.truth is not None and sample.truth.boxes_xyxy.tolist() == [[32, 12, 48, 36]]


def test_which_annotation_of_a_task_counts(tmp_path: Path) -> None:
    first, second, third = ({"result": [rectangle(name, 0, 0, 50, 50)]} for name in ("WBC", "RBC", "blast"))
    cancelled = {**third, "was_cancelled": True, "updated_at": "2026-03-01"}
    older, newer = {**first, "updated_at": "2026-01-01"}, {**second, "updated_at": "2026-02-01"}
    dataset = registry.read(export(tmp_path, older, newer, cancelled))
    assert dataset.samples[0].truth.label.tolist() == [RBC]
    assert dataset.dropped == ("project-1-at-2026-01-01.json: task 1: 1 other annotation of this task left out",)
    truth = registry.read(export(tmp_path, {**older, "ground_truth": True}, newer)).samples[0].truth
    assert truth.label.tolist() == [WBC]


@pytest.mark.parametrize("more", [(), ({"result": [], "was_cancelled": True},)])
def test_predictions_are_not_truth(tmp_path: Path, more: tuple[Any, ...]) -> None:
    prediction = {"result": [rectangle("WBC", 0, 0, 50, 50)], "score": 0.5}
    (sample,) = registry.read(export(tmp_path, *more, predictions=[prediction]))
    assert sample.truth is None and sample.annotated == ()


def test_an_empty_annotation_is_an_image_without_cells(tmp_path: Path) -> None:
    (sample,) = registry.read(export(tmp_path, {"result": []}))
    assert sample.truth is not None and len(sample.truth) == 0


def test_what_has_no_class_or_no_outline_is_left_out_by_name(tmp_path: Path) -> None:
    result = [
        rectangle("WBC", 50, 25, 25, 50),
        region("rectangle", [], x=0, y=0, width=5, height=5),
        region("brushlabels", ["WBC"], format="rle", rle=[0]),
    ]
    dataset = registry.read(export(tmp_path, {"result": result}))
    assert dataset.samples[0].truth.label.tolist() == [WBC]
    assert dataset.dropped == (
        "project-1-at-2026-01-01.json: task 1: region 3: brush, not a rectangle, polygon or ellipse, left out",
        "1 region without a class: left out",
    )
    only = registry.read(export(tmp_path, {"result": result[1:2]}), class_map={"": "blast"})
    assert only.samples[0].truth.label.tolist() == [BLAST]
    with pytest.raises(FormatError, match=r"got 1 without\. Give them one: --map =wbc"):
        registry.read(export(tmp_path, {"result": result[1:2]}))


def test_the_short_form(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    value = {"x": 50, "y": 25, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["WBC"], **SIZE}
    task = {"image": "/data/upload/1/1a2b3c4d-a.jpg", "id": 1, "label": [value], "annotator": 1, "annotation_id": 1}
    (tmp_path / "min.json").write_text(json.dumps([{**task, "lead_time": 1.5}]))
    (sample,) = registry.read(tmp_path)
    assert sample.truth is not None and sample.truth.boxes_xyxy.tolist() == [[32, 12, 48, 36]]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ([3], "task 1: region 1 is faulty"),
        (0.5, "task 1 is faulty"),
        ([rectangle("WBC", "x", 0, 1, 1)], "task 1: region 1 is faulty"),  # type: ignore[arg-type]
        ([rectangle("WBC", 1e400, 0, 1, 1)], "task 1: region 1 is faulty"),
        ([{**rectangle("WBC", 1, 0, 1, 1), "original_width": -4}], "expected the size of the image"),
        ([{**rectangle("WBC", 1, 0, 1, 1), "original_width": 63}], "expected the size of the image, 64x48, got 63x48"),
        ([rectangle("Leuko", 1, 0, 1, 1), rectangle("Ery", 2, 0, 1, 1)], "--map Leuko=wbc --map Ery="),
    ],
)
def test_faults_are_one_line(tmp_path: Path, result: list[Any], words: str) -> None:
    with pytest.raises(FormatError) as caught:
        label_studio.read(export(tmp_path, {"result": result}))
    assert words in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_region_that_is_written_twice_is_one_cell(tmp_path: Path) -> None:
    """`<Rectangle>` with `<Labels>` writes the shape, and the shape with its class, under one id."""
    place = {"x": 50, "y": 25, "width": 25, "height": 50, "rotation": 0}
    twice = [region("rectangle", [], **place), region("labels", ["WBC"], **place)]
    for result in (twice, twice[::-1]):
        dataset = registry.read(export(tmp_path, {"result": result}), class_map={"": "rbc"})
        assert dataset.samples[0].truth.label.tolist() == [WBC] and dataset.dropped == ()
    third = region("rectanglelabels", ["RBC"], **place)
    dataset = registry.read(export(tmp_path, {"result": [*twice, third]}))
    assert dataset.samples[0].truth.label.tolist() == [WBC]
    line = "task 1: region 3: a second class 'RBC' of the same region, left out"
    assert dataset.dropped == (f"project-1-at-2026-01-01.json: {line}",)
    other = {**twice[0], "id": "y"}  # another region at the same place
    assert (
        len(registry.read(export(tmp_path, {"result": [*twice, other]}), class_map={"": "rbc"}).samples[0].truth) == 2
    )
