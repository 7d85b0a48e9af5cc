"""GeoJSON for QuPath: detections, one file for each image, and back."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from made import SIZE_WH, cells, image_file, same_cells

from blastdet.core.constants import PALETTE, TYPE_COLOURS
from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, RBC, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats import geojson


def feature(**change: Any) -> dict[str, Any]:
    corners = [[1, 2], [5, 2], [5, 9], [1, 9], [1, 2]]
    whole = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"objectType": "annotation", "classification": {"name": "WBC", "color": [1, 2, 3]}},
    }
    return whole | change


def written(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(document))
    return path


@given(found=cells())
@settings(max_examples=60, deadline=None)
def test_a_round_trip_loses_nothing(found: Detections) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.geojson"
        geojson.write_cells(path, found, (0.1, 0.2))
        back = geojson.read_cells(path)
    for name in ("blast_probability", "type_probability"):
        if len(found) and (column := getattr(found, name)) is not None and np.isnan(column).all():
            found = found.with_columns(**{name: None})  # QuPath cannot store an unknown number
    same_cells(found, back)


def test_features_are_what_qupath_calls_detections() -> None:
    found = Detections([[1, 2, 11, 22]], score=[0.5], label=[WBC], blast_probability=[0.25], cell_type=["monocyte"])
    (cell,) = geojson.feature_collection(found, (0.1, 0.2), "slide")["features"]
    assert cell["type"] == "Feature" and uuid.UUID(cell["id"])
    assert cell["geometry"] == {"type": "Polygon", "coordinates": [[[1, 2], [11, 2], [11, 22], [1, 22], [1, 2]]]}
    properties = cell["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"] == {"names": ["wbc", "monocyte"], "color": list(TYPE_COLOURS["monocyte"])}
    assert properties["measurements"] == {"Score": 0.5, "Blast probability": 0.25, "Width µm": 1.0, "Height µm": 4.0}
    assert properties["metadata"] == {"cell_type": "monocyte"}  # where QuPath stores text


def test_classes_say_as_what_a_cell_counts() -> None:
    """QuPath gives each class one colour, so that what has a colour of its own is a class derived from another."""
    found = Detections(
        [[0, 0, 1, 1]] * 5,
        label=[BLAST, WBC, WBC, WBC, RBC],
        cell_type=["", "smudge", "", "of its own", ""],
        unsure=[False, False, True, False, False],
    )
    classes = [cell["properties"]["classification"] for cell in geojson.feature_collection(found)["features"]]
    assert [one.get("names", one.get("name")) for one in classes] == [
        "blast",
        ["wbc", "smudge"],
        ["wbc", "unsure"],
        "wbc",
        "rbc",
    ]
    assert [one["color"] for one in classes] == [
        list(PALETTE[name]) for name in ("blast", "smudge", "unsure", "wbc", "rbc")
    ]


def test_the_same_run_gives_the_same_ids_and_no_id_twice() -> None:
    found = Detections([[0, 0, 1, 1]] * 3)
    first, second = (geojson.feature_collection(found, None, "a")["features"] for _ in range(2))
    assert first == second
    assert len({cell["id"] for cell in first}) == 3
    assert geojson.feature_collection(found, None, "b")["features"][0]["id"] != first[0]["id"]


def test_a_round_trip_of_a_dataset(tmp_path: Path) -> None:
    samples = tuple(
        Sample(image_file(tmp_path / "in" / f"{n}.jpg"), SIZE_WH, mpp=(0.1, 0.1), split=s, truth=t)
        for n, s, t in (
            ("a", "train", Detections([[1, 1, 9, 9]])),
            ("b", "test", Detections.empty()),
            ("c", None, None),
        )
    )
    geojson.write(Dataset("x", tmp_path / "in", samples), tmp_path / "o")
    back = geojson.read(tmp_path / "o", mpp=(0.1, 0.1))
    assert {s.path.stem: (s.split, len(s.truth), s.mpp) for s in back} == {
        "a": ("train", 1, (0.1, 0.1)),
        "b": ("test", 0, (0.1, 0.1)),
    }
    assert back.samples[0].annotated == ("wbc",)


def test_exports_of_old_and_new_qupath(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    old = feature()
    old["properties"]["measurements"] = [{"name": "Score", "value": 0.75}, {"name": "Area", "value": 3}]
    two = {"type": "MultiPolygon", "coordinates": [[[[1, 1], [2, 1], [2, 4]]], [[[7, 2], [9, 2], [9, 3]]]]}
    point = feature(geometry={"type": "Point", "coordinates": [3, 4]})
    path = written(tmp_path, [old, feature(geometry=two), point])
    truth = geojson.read(path, class_map={"WBC": "rbc"}).samples[0].truth
    np.testing.assert_array_equal(truth.boxes_xyxy, [[1, 2, 5, 9], [1, 1, 9, 4], [np.nan] * 4])
    np.testing.assert_array_equal(truth.point_xy, [[np.nan] * 2, [np.nan] * 2, [3, 4]])
    assert truth.score.tolist() == [0.75, 1, 1] and set(truth.label) == {RBC}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"type": "x"}, "got no list of features"),
        (3, "got no list of features"),
        ([3], "feature 1 is faulty"),
        ([feature(), feature(properties=3)], "feature 2 is faulty"),
        (
            [feature(geometry={"type": "LineString", "coordinates": [[1, 1], [2, 2]]})],
            "Polygon or Point, got 'LineString'",
        ),
        ([feature(geometry={"type": "Polygon", "coordinates": []})], "feature 1 is faulty"),
        (
            [feature(properties={"classification": {"name": "Tumor"}})],
            "expected a class out of blast, wbc, rbc, platelet, got 'Tumor'",
        ),
    ],
)
def test_faulty_file_is_one_line_with_its_name(tmp_path: Path, document: Any, words: str) -> None:
    path = written(tmp_path, document)
    with pytest.raises(FormatError) as caught:
        geojson.read_cells(path)
    assert words in str(caught.value) and "a.geojson" in str(caught.value) and "\n" not in str(caught.value)


def test_no_json_no_image_nothing(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"expected \.geojson files"):
        geojson.read(tmp_path)
    path = written(tmp_path, [feature()])
    with pytest.raises(FormatError, match=r"expected an image a\.\*"):
        geojson.read(path)
    path.write_text("{")
    with pytest.raises(FormatError, match="expected valid JSON"):
        geojson.read_cells(path)


def test_records_keep_faults(tmp_path: Path) -> None:
    flat = {"type": "Polygon", "coordinates": [[[1, 2], [5, 2], [1, 2]]]}
    point = {"type": "Point", "coordinates": [3, 4]}
    features = [feature(geometry=flat), feature(geometry=point), {"geometry": None}, feature()]
    path = written(tmp_path, features)
    (tmp_path / "b.geojson").write_text("{")
    image_file(tmp_path / "b.jpg")
    a, b = geojson.read_records(tmp_path)
    assert (a.file, a.image, a.split) == (path, None, None)
    assert [(box.extent_wh[1], box.is_point) for box in a.boxes if not box.is_point] == [(0, False), (7, False)]
    assert [box.source for box in a.boxes] == ["feature 1", "feature 2", "feature 4"]
    assert a.problem is not None and a.problem.startswith("feature 3 is faulty")
    assert b.image == tmp_path / "b.jpg"
    assert b.problem is not None and b.problem.startswith("expected valid JSON")


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon", "coordinates": [[[1, 2], [float("nan"), 2], [5, 9]]]},
        {"type": "Point", "coordinates": [float("nan"), 2]},
    ],
)
def test_coordinates_that_are_not_finite_are_refused(tmp_path: Path, geometry: dict[str, Any]) -> None:
    path = written(tmp_path, {"features": [feature(geometry=geometry)]})
    with pytest.raises(FormatError, match="expected finite coordinates"):
        geojson.read_cells(path)


def test_regions_without_a_class_are_left_out_by_name(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    field = feature(properties={"objectType": "annotation", "name": "Field 1"})
    path = written(tmp_path, {"features": [field, feature(properties={"classification": None}), feature()]})
    dataset = geojson.read(path)
    assert dataset.samples[0].truth.label.tolist() == [WBC]
    assert dataset.dropped == (
        "a.geojson: feature 1 (Field 1): no class, left out",
        "a.geojson: feature 2: no class, left out",
    )


@pytest.mark.parametrize("about", [{"name": "RBC"}, {"names": ["rbc", "normal"]}, "RBC"])
def test_the_class_in_every_form_of_qupath(tmp_path: Path, about: Any) -> None:
    image_file(tmp_path / "a.jpg")
    path = written(tmp_path, [feature(properties={"classification": about})])
    assert geojson.read(path).samples[0].truth.label.tolist() == [RBC]


def test_the_whole_name_of_the_image_or_another_folder(tmp_path: Path) -> None:
    image = image_file(tmp_path / "export" / "a.jpg")
    image_file(tmp_path / "export" / "a.png")
    (tmp_path / "export" / "a.jpg.geojson").write_text(json.dumps([feature()]))
    assert [sample.path for sample in geojson.read(tmp_path / "export")] == [image]
    moved = image.rename(tmp_path / "a.jpg")
    with pytest.raises(FormatError, match=r"a\.jpg\.geojson: expected an image .* --images DIR"):
        geojson.read(tmp_path / "export")
    (tmp_path / "photos").mkdir()
    moved = moved.rename(tmp_path / "photos" / "a.jpg")
    assert [sample.path for sample in geojson.read(tmp_path / "export", images=tmp_path / "photos")] == [moved]
