"""Sizes of boxes, and which boxes touch the border."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blastdet.audit.subject import Subject, at_edge, box_of, sides, whole_cells
from blastdet.core.types import RBC, WBC, Dataset, Detections, Sample

BOXES = [[2, 10, 22, 30], [10, 10, 20, 50], [80, 10, 98, 30], [np.nan] * 4]


def _sample(**known: object) -> Sample:
    truth = Detections(BOXES, label=[WBC, RBC, RBC, RBC])
    return Sample(Path("/set/images/a.png"), (100, 60), truth=truth, **known)  # type: ignore[arg-type]


def test_sides_are_in_px_or_in_micrometres() -> None:
    np.testing.assert_allclose(sides(_sample()), [20, 20, np.sqrt(360), np.nan])
    np.testing.assert_allclose(sides(_sample(mpp=(0.1, 0.4)))[:2], [4, 4])


def test_boxes_within_two_px_of_the_border_may_be_cut() -> None:
    assert at_edge(_sample()).tolist() == [True, False, True, False]


def test_an_image_without_annotations_has_neither() -> None:
    bare = Sample(Path("a.png"), (100, 60))
    assert len(sides(bare)) == 0 and len(at_edge(bare)) == 0


def test_whole_cells_are_those_with_a_box_inside() -> None:
    whole = whole_cells(Dataset("set", Path("/set"), (_sample(), Sample(Path("b.png"), (9, 9)))))
    assert {label: side.tolist() for label, side in whole.items()} == {WBC: [], RBC: [pytest.approx(20)]}


def test_names_are_relative_to_the_root() -> None:
    subject = Subject(Dataset("set", Path("/set"), (_sample(),)))
    assert subject.name(Path("/set/images/a.png")) == "images/a.png"
    assert subject.name(Path("/set")) == "set"
    assert subject.name(Path("/elsewhere/b.png")) == "b.png"
    assert list(subject.samples) == [Path("/set/images/a.png")]


def test_a_box_of_a_finding_is_plain_numbers() -> None:
    box = box_of(np.array([1, 2, 3, 4], np.float32))
    assert box == (1.0, 2.0, 3.0, 4.0) and {type(side) for side in box} == {float}
