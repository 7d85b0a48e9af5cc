"""Masks of COCO: the box around them, as pycocotools finds it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.datasets.annotations.exported import box_around
from blastdet.datasets.formats.coco_document import _decompressed, _with_box


@given(st.integers(1, 9), st.integers(1, 9), st.data())
@settings(max_examples=80, deadline=None)
def test_the_box_of_a_mask_is_that_of_pycocotools(height: int, width: int, data: st.DataObject) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    flat = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(flat, np.uint8).reshape(height, width)
    if not mask.any():
        mask[0, 0] = 1
    packed = mask_tools.encode(np.asfortranarray(mask))
    text = packed["counts"].decode()
    counts = _decompressed(text)
    assert sum(counts) == height * width
    ys, xs = np.nonzero(mask)
    box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
    for form in (text, counts):
        row = _with_box({"segmentation": {"size": [height, width], "counts": form}})
        assert row["bbox"] == box


def test_large_runs_are_decompressed() -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((3000, 4000), np.uint8, order="F")
    mask[1000:2000, 1500:3500] = 1
    packed = mask_tools.encode(mask)
    row = _with_box({"segmentation": {"size": [3000, 4000], "counts": packed["counts"].decode()}, "bbox": None})
    assert row["bbox"] == [1500, 1000, 2000, 1000]


@pytest.mark.parametrize(
    "shape", [{"size": [2, 2], "counts": [1, -3]}, {"counts": [1]}, [[1, 2, 3]], [["x", "y"]], [[]]]
)
def test_faulty_segmentations(shape: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        _with_box({"segmentation": shape})


def test_boxes_around_points_are_finite() -> None:
    assert box_around([(1, 2), (0, 5)]) == (0, 2, 1, 5)
    for points in ([], [(float("nan"), 1)], [(1e300, 1)]):
        with pytest.raises(ValueError, match="finite"):
            box_around(points)
