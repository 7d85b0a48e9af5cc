"""VGG Image Annotator: projects, annotations as JSON of both versions, and as CSV."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import image_file

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, RBC, WBC
from blastdet.datasets.formats import registry

SHAPES: list[tuple[dict[str, Any], list[float]]] = [
    ({"name": "rect", "x": 1, "y": 2, "width": 10, "height": 20}, [1, 2, 11, 22]),
    ({"name": "circle", "cx": 30, "cy": 20, "r": 5}, [25, 15, 35, 25]),
    ({"name": "ellipse", "cx": 30, "cy": 20, "rx": 6, "ry": 3, "theta": math.pi / 2}, [27, 14, 33, 26]),
    ({"name": "polygon", "all_points_x": [5, 15, 9], "all_points_y": [5, 7, 30]}, [5, 5, 15, 30]),
    ({"name": "polyline", "all_points_x": [5, 15], "all_points_y": [5, 7]}, [5, 5, 15, 7]),
]


def entry(*regions: tuple[dict[str, Any], Any], old: bool = False) -> dict[str, Any]:
    listed: Any = [{"shape_attributes": shape, "region_attributes": about} for shape, about in regions]
    if old:
        listed = {str(i): one for i, one in enumerate(listed)}
    return {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": listed, "file_attributes": {}}}


@pytest.mark.parametrize("form", ["project", "json", "old"])
def test_every_shape_becomes_its_box(tmp_path: Path, form: str) -> None:
    image_file(tmp_path / "a.jpg")
    document: Any = entry(*((shape, {"type": "wbc"}) for shape, _ in SHAPES), old=form == "old")
    if form == "project":
        options = {"region": {"type": {"type": "radio", "options": {"wbc": "", "rbc": ""}}}, "file": {}}
        document = {"_via_settings": {}, "_via_img_metadata": document, "_via_attributes": options}
    (tmp_path / "via.json").write_text(json.dumps(document))
    (sample,) = registry.read(tmp_path)
    assert sample.truth is not None and sample.truth.label.tolist() == [WBC] * 5
    np.testing.assert_allclose(sample.truth.boxes_xyxy, [box for _, box in SHAPES], atol=1e-4)
    assert sample.annotated == (("wbc", "rbc") if form == "project" else ("wbc",))


def test_the_table(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    image_file(tmp_path / "b.jpg")
    rows = ["#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    shape = json.dumps(SHAPES[0][0]).replace('"', '""')
    rows += [f'a.jpg,123,"{{}}",1,0,"{shape}","{{""cell"":""RBC""}}"', 'b.jpg,123,"{}",0,0,"{}","{}"']
    (tmp_path / "via_export.csv").write_text("\n".join(rows))
    a, b = registry.read(tmp_path)
    assert a.truth.boxes_xyxy.tolist() == [[1, 2, 11, 22]] and a.truth.label.tolist() == [RBC]
    assert len(b.truth) == 0
    assert registry.detect_format(tmp_path / "via_export.csv") == "via"


@pytest.mark.parametrize(
    "about", [{"x": "blast"}, {"note": "big", "Class": "blast"}, {"class": {"blast": True}}, {"label": " blast "}]
)
def test_the_attribute_that_is_the_class(tmp_path: Path, about: Any) -> None:
    image_file(tmp_path / "a.jpg")
    (tmp_path / "via.json").write_text(json.dumps(entry((SHAPES[0][0], about))))
    assert registry.read(tmp_path).samples[0].truth.label.tolist() == [BLAST]


def test_points_and_regions_without_a_class_are_left_out_by_name(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    point = {"name": "point", "cx": 1, "cy": 1}
    (tmp_path / "v.json").write_text(
        json.dumps(entry((point, {"t": "wbc"}), (SHAPES[0][0], {}), (SHAPES[1][0], {"t": "wbc"})))
    )
    dataset = registry.read(tmp_path)
    assert len(dataset.samples[0].truth) == 1
    assert dataset.dropped == ("v.json: a.jpg: region 1: a point, left out", "1 region without a class: left out")


@pytest.mark.parametrize(
    "shape", [{}, {"name": "rect"}, {"name": "rect", "x": "x", "y": 1, "width": 1, "height": 1}, {"name": "spiral"}]
)
def test_faults_are_one_line(tmp_path: Path, shape: dict[str, Any]) -> None:
    image_file(tmp_path / "a.jpg")
    (tmp_path / "v.json").write_text(json.dumps(entry((shape, {"t": "wbc"}))))
    with pytest.raises(FormatError, match=r"v\.json: a\.jpg: region 1 is faulty") as caught:
        registry.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_images_that_nobody_may_have_looked_at_are_noted(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        image_file(tmp_path / name)
    document = {**entry((SHAPES[0][0], {"t": "wbc"})), "b.jpg1": {"filename": "b.jpg", "regions": []}}
    (tmp_path / "v.json").write_text(json.dumps(document))
    dataset = registry.read(tmp_path)
    assert [len(sample.truth) for sample in dataset] == [1, 0]
    assert dataset.notes == (
        "1 image has no region and counts as an image without cells; first: b.jpg. "
        "Remove from the export what is not labelled yet",
    )
