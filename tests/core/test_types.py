"""The columns of Detections: read-only, checked, filtered together, in one order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blastdet.core.types import Dataset, Detections, Sample


def _cells(n, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 50, (n, 2))
    return Detections(
        np.hstack([corner, corner + rng.integers(1, 9, (n, 2))]),
        rng.integers(1, 5, n) / 4,
        rng.integers(0, 4, n),
        id=[f"c{i}" for i in range(n)],
        ignore=rng.random(n) < 0.3,
    )


@given(st.integers(0, 30), st.integers(0, 99), st.randoms())
def test_sorting_does_not_depend_on_the_order_given(n, seed, random):
    cells = _cells(n, seed)
    shuffled = cells[random.sample(range(n), n)]
    np.testing.assert_array_equal(cells.sorted().boxes_xyxy, shuffled.sorted().boxes_xyxy)
    np.testing.assert_array_equal(cells.sorted().score, shuffled.sorted().score)
    key = cells.sorted().boxes_xyxy[:, [1, 0]]
    assert (np.lexsort((key[:, 1], key[:, 0])) == np.arange(n)).all()


@given(st.integers(0, 20), st.integers(0, 99))
def test_concatenating_parts_gives_the_whole(n, seed):
    cells = _cells(n, seed)
    whole = Detections.concatenate([cells[: n // 2], Detections.empty(), cells[n // 2 :]])
    for name in ("boxes_xyxy", "score", "label") + (("id", "ignore") if n else ()):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cells, name))


def test_a_column_that_only_some_have_is_unknown_elsewhere():
    some = Detections([[0, 0, 1, 1]], id=["a"], blast_probability=[0.5], point_xy=[[1, 2]], ignore=[True])
    whole = Detections.concatenate([some, Detections([[2, 2, 3, 3]])])
    assert whole.id.tolist() == ["a", ""] and whole.ignore.tolist() == [True, False]
    assert np.isnan(whole.blast_probability[1]) and np.isnan(whole.point_xy[1]).all()


def test_columns_are_read_only_copies():
    mine = np.zeros((1, 4), np.float32)
    cells = Detections(mine)
    mine[:] = 9
    assert (cells.boxes_xyxy == 0).all()
    with pytest.raises(ValueError, match="read-only"):
        cells.score[0] = 0.5
    with pytest.raises(AttributeError):
        cells.score = mine


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"boxes_xyxy": [[0, 0, 1]]}, r"boxes_xyxy: shape \(1, 3\) found"),
        ({"boxes_xyxy": [[0, 0, 1, 1]], "score": [1, 1]}, r"score: shape \(2,\) found, \(1,\) expected"),
        ({"boxes_xyxy": [[0, 0, 1, 1]], "label": [4]}, r"label: 4\.\.4 found"),
        ({"boxes_xyxy": [[0, 0, 1, 1]], "point_xy": [[1, 2, 3]]}, "point_xy: shape"),
    ],
)
def test_columns_that_do_not_fit(columns, line):
    with pytest.raises(ValueError, match=line):
        Detections(**columns)


def test_counts_leave_ignored_cells_out():
    cells = Detections(np.zeros((3, 4)), label=[1, 1, 2], ignore=[True, False, False])
    assert cells.counts() == {"blast": 0, "wbc": 1, "rbc": 1, "platelet": 0}
    assert len(cells.with_classes("wbc", "rbc")) == 3 and len(cells.with_classes("blast")) == 0


def test_a_point_stands_in_for_a_box_that_nobody_drew():
    cells = Detections([[np.nan] * 4, [0, 0, 4, 4]], point_xy=[[7, 8], [np.nan, np.nan]])
    np.testing.assert_array_equal(cells.centres_xy, [[7, 8], [2, 2]])
    assert np.isnan(cells.sorted().boxes_xyxy[1]).all()


def test_data_set_views(tmp_path):
    smears = (
        Sample(tmp_path / "a/x.png", (10, 10), split="train", annotated=("wbc",)),
        Sample(tmp_path / "y.png", (10, 10), split="test", truth=Detections([[0, 0, 1, 1]], label=[3])),
    )
    dataset = Dataset("d", tmp_path, smears)
    assert dataset.classes == ("wbc", "platelet")
    assert [smear.path.name for smear in dataset.with_split("test")] == ["y.png"]
    assert [dataset.file_name(smear) for smear in dataset] == ["a/x.png", "y.png"]
    assert dataset.file_name(Sample(tmp_path.parent / "z.png", (1, 1))) == "z.png"


def test_reach_is_at_or_above_the_threshold_of_the_own_class() -> None:
    cells = Detections(np.zeros((4, 4)), label=[0, 1, 1, 2], score=[1.0, 0.5, 0.25, 1.0])
    assert cells.above_threshold({"wbc": 0.5, "blast": 1.0}).tolist() == [True, True, False, False]
    assert not cells.above_threshold({}).any() and Detections.empty().above_threshold({"wbc": 0.5}).shape == (0,)
