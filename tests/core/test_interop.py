"""Conversion of Detections from and to supervision, Ultralytics and COCO. FiftyOne: tests/review/test_session.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Detections

SIDE = st.floats(0, 500, width=32)


@st.composite
def cells(draw: st.DrawFn) -> Detections:
    """Up to six cells, some with optional columns."""
    n = draw(st.integers(0, 6))
    corner = np.array(draw(st.lists(st.tuples(SIDE, SIDE), min_size=n, max_size=n)), np.float32).reshape(n, 2)
    size = np.array(draw(st.lists(st.tuples(SIDE, SIDE), min_size=n, max_size=n)), np.float32).reshape(n, 2) + 1
    label = draw(st.lists(st.integers(0, len(CELL_CLASSES) - 1), min_size=n, max_size=n))
    score = draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    columns: dict[str, Any] = {"ignore": draw(flags)} if draw(st.booleans()) else {}
    return Detections(np.concatenate([corner, corner + size], axis=1), score=score, label=label, **columns)


def check_same(a: Detections, b: Detections) -> None:
    np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-3)
    np.testing.assert_allclose(a.score, b.score, atol=1e-6)
    np.testing.assert_array_equal(a.label, b.label)


def ignored(one: Detections) -> list[bool]:
    return [False] * len(one) if one.ignore is None else one.ignore.tolist()


@given(cells())
@settings(deadline=None)
def test_supervision_round_trip(before: Detections) -> None:
    converted = before.to_supervision()
    assert type(converted).__module__.startswith("supervision") and len(converted) == len(before)
    after = Detections.from_supervision(converted)
    check_same(before, after)
    assert ignored(before) == ignored(after)


def test_supervision_keeps_optional_columns() -> None:
    extra: dict[str, Any] = {"cell_type": ["a", ""], "blast_probability": [0.5, np.nan], "unsure": [True, False]}
    extra["unsure_reason"] = ["between classes", ""]
    before = Detections([[0, 0, 9, 9], [1, 1, 5, 5]], **extra)
    after = Detections.from_supervision(before.to_supervision()[::-1])[::-1]
    for name, values in extra.items():
        np.testing.assert_array_equal(getattr(after, name), np.array(values, getattr(after, name).dtype))


@given(cells())
@settings(deadline=None)
def test_coco_round_trip(before: Detections) -> None:
    annotations, categories = before.to_coco(image_id=3)
    assert all(row["image_id"] == 3 for row in annotations)
    after = Detections.from_coco(annotations, categories)
    check_same(before, after)
    assert ignored(before) == ignored(after)


def test_pycocotools_reads_the_annotations() -> None:
    from pycocotools.coco import COCO

    before = Detections([[0, 0, 9, 9], [1, 2, 5, 8]], label=[0, 2])
    annotations, categories = before.to_coco()
    coco = COCO()
    coco.dataset = {"images": [{"id": 1}], "annotations": annotations, "categories": categories}
    coco.createIndex()
    after = Detections.from_coco(coco.loadAnns(coco.getAnnIds(imgIds=[1])), coco.loadCats(coco.getCatIds()))
    check_same(before, after)


@given(cells())
@settings(deadline=None, max_examples=20)
def test_ultralytics_results(before: Detections) -> None:
    torch = pytest.importorskip("torch")
    results = pytest.importorskip("ultralytics.engine.results")
    rows = np.concatenate([before.boxes_xyxy, before.score[:, None], before.label[:, None] + 10], axis=1)
    names = {index + 10: name.upper() for index, name in enumerate(CELL_CLASSES)}
    boxes = torch.from_numpy(rows.astype(np.float32))
    result = results.Results(np.zeros((1100, 1100, 3), np.uint8), "a.jpg", names, boxes=boxes)
    check_same(before, Detections.from_ultralytics(result))
    result.names = dict.fromkeys(names, "Leukocyte")
    after = Detections.from_ultralytics(result, class_map={"Leukocyte": "wbc"})
    assert after.counts() == {**dict.fromkeys(CELL_CLASSES, 0), "wbc": len(before)}


def test_ultralytics_boxes_without_area_are_left_out() -> None:
    boxes = np.array([[0, 0, 9, 9], [9, 3, 9, 8]], np.float32)
    found = SimpleNamespace(xyxy=boxes, conf=np.array([0.5, 0.9]), cls=np.array([0, 1]))
    found.cpu = lambda: SimpleNamespace(numpy=lambda: found)
    cells = Detections.from_ultralytics(SimpleNamespace(boxes=found, names={0: "wbc", 1: "rbc"}))
    assert (cells.boxes_xyxy.tolist(), cells.label.tolist()) == ([[0, 0, 9, 9]], [1])
    found.conf = found.conf + 1
    with pytest.raises(FormatError, match=r"^ultralytics: Detections\.score: expected numbers from 0 to 1, got 1\.5$"):
        Detections.from_ultralytics(SimpleNamespace(boxes=found, names={0: "wbc", 1: "rbc"}))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Detections.from_supervision, "expected supervision.Detections, got a list"),
        (Detections.from_ultralytics, "expected one ultralytics Results, got a list"),
        (Detections.from_fiftyone, "expected fiftyone.Detections or a fiftyone.Sample, got a list"),
    ],
)
def test_another_object_is_an_error_in_one_line(given: Callable[[Any], Detections], expected: str) -> None:
    with pytest.raises(FormatError, match=f"^{re.escape(expected)}$"):
        given([1])


@pytest.mark.parametrize("given", [[1], "text", [None], 5, {"annotations": []}])
def test_another_object_than_coco_annotations_is_an_error(given: Any) -> None:
    with pytest.raises(FormatError, match=r"^COCO: expected annotations with category_id and bbox"):
        Detections.from_coco(given, [{"id": 1, "name": "wbc"}])


def test_ultralytics_results_without_boxes_are_an_error() -> None:
    results = pytest.importorskip("ultralytics.engine.results")
    result = results.Results(np.zeros((9, 9, 3), np.uint8), "a.jpg", {0: "wbc"})
    with pytest.raises(FormatError, match="expected detection results with boxes"):
        Detections.from_ultralytics(result)


def test_unknown_classes_are_listed_in_one_error() -> None:
    categories = [{"id": 1, "name": "Leukocyte"}, {"id": 2, "name": "Erythrocyte"}, {"id": 3, "name": "Platelets"}]
    annotations = [{"bbox": [0, 0, 5, 5], "category_id": index} for index in (2, 1, 2, 3, 9)]
    with pytest.raises(FormatError) as caught:
        Detections.from_coco(annotations, categories)
    listed = (
        "Unknown classes: Erythrocyte (2), Leukocyte (1), id 9 (1). Map them: class_map={'Erythrocyte': 'wbc', ...}"
    )
    assert str(caught.value) == listed
    mapped = {"Leukocyte": "wbc", "Erythrocyte": "rbc", "id 9": "blast"}
    assert Detections.from_coco(annotations, categories, mapped).label.tolist() == [2, 1, 2, 3, 0]
    with pytest.raises(FormatError, match="class_map: expected classes blast, wbc, rbc, platelet, got 'cell'"):
        Detections.from_coco(annotations, categories, {"Leukocyte": "cell"})


def test_supervision_without_names_needs_a_class_map() -> None:
    """Class id 0 of another model must not become a blast."""
    import supervision

    boxes = np.array([[0, 0, 9, 9]], np.float32)
    found = supervision.Detections(xyxy=boxes, class_id=np.array([0]))
    with pytest.raises(FormatError, match=r"Unknown classes: 0 \(1\)"):
        Detections.from_supervision(found)
    assert Detections.from_supervision(found, {"0": "rbc"}).label.tolist() == [2]
    with pytest.raises(FormatError, match="got neither"):
        Detections.from_supervision(supervision.Detections(xyxy=boxes))
    assert len(Detections.from_supervision(supervision.Detections.empty())) == 0


@pytest.mark.parametrize("row", [{}, {"category_id": 1}, {"category_id": 1, "bbox": [1, 2, 3]}, 3, {"category_id": []}])
def test_faulty_coco_annotations_give_a_one_line_error(row: Any) -> None:
    with pytest.raises(FormatError, match="COCO: expected annotations") as caught:
        Detections.from_coco([row], [{"id": 1, "name": "wbc"}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"bbox": [1, 2, float("nan"), 4]}, "four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, "no area"),
        ({"bbox": [1, 2, 3, 4, 5, 6, 7, 8]}, "four finite numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "OverflowError"),
        ({"score": None}, "a number from 0 to 1"),
        ({"score": 7}, "a number from 0 to 1"),
    ],
)
def test_a_faulty_coco_annotation_is_refused(row: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        Detections.from_coco([{"bbox": [1, 2, 3, 4], "category_id": 1, **row}], [{"id": 1, "name": "wbc"}])


def test_coco_categories_with_one_id_are_refused() -> None:
    with pytest.raises(FormatError, match="two categories have one id"):
        Detections.from_coco([], [{"id": 1, "name": "wbc"}, {"id": 1, "name": "rbc"}])


@pytest.mark.parametrize("column", [{"ignore": ["no"]}, {"unsure": [np.nan]}, {"ignore": [2]}, {"label": [2**70]}])
def test_values_that_would_be_read_as_others_are_refused(column: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Detections.{next(iter(column))}: expected"):
        Detections([[0, 0, 9, 9]], **column)
