"""Columns of Detections: read-only, validated, indexed together, in one order. Datasets and samples."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blastdet.core.columns import CELL_COLUMNS
from blastdet.core.errors import DependencyError
from blastdet.core.types import COLUMNS, Dataset, Detections, Sample


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
def test_sorting_does_not_depend_on_the_input_order(n, seed, random):
    cells = _cells(n, seed)
    shuffled = cells[random.sample(range(n), n)]
    np.testing.assert_array_equal(cells.sorted().boxes_xyxy, shuffled.sorted().boxes_xyxy)
    np.testing.assert_array_equal(cells.sorted().score, shuffled.sorted().score)
    key = cells.sorted().boxes_xyxy[:, [1, 0]]
    assert (np.lexsort((key[:, 1], key[:, 0])) == np.arange(n)).all()


@given(st.integers(0, 20), st.integers(0, 99))
def test_concatenated_parts_equal_the_whole(n, seed):
    cells = _cells(n, seed)
    whole = Detections.concatenate([cells[: n // 2], Detections.empty(), cells[n // 2 :]])
    for name in ("boxes_xyxy", "score", "label") + (("id", "ignore") if n else ()):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cells, name))


def test_concatenation_fills_a_column_that_only_some_parts_have():
    some = Detections([[0, 0, 1, 1]], id=["a"], blast_probability=[0.5], point_xy=[[1, 2]], ignore=[True])
    whole = Detections.concatenate([some, Detections([[2, 2, 3, 3]])])
    assert whole.id.tolist() == ["a", ""] and whole.ignore.tolist() == [True, False]
    assert np.isnan(whole.blast_probability[1]) and np.isnan(whole.point_xy[1]).all()


def test_columns_are_read_only_copies():
    mine = np.array([[0, 0, 1, 1]], np.float32)
    cells = Detections(mine)
    mine[:] = 9
    assert cells.boxes_xyxy.tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError, match="read-only"):
        cells.score[0] = 0.5
    with pytest.raises(AttributeError):
        cells.score = mine
    for index in (slice(0, 1), [True], [0]):
        chosen = cells[index]
        assert chosen.score.base is None and not chosen.score.flags.writeable and chosen.id is None


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"boxes_xyxy": [[0, 0, 1]]}, "boxes_xyxy: expected float32 of shape (n, 4), got shape (1, 3)"),
        ({"boxes_xyxy": [0, 0, 1, 1]}, "boxes_xyxy: expected float32 of shape (n, 4), got shape (4,)"),
        ({"boxes_xyxy": 3}, "boxes_xyxy: expected float32 of shape (n, 4), got shape ()"),
        ({"boxes_xyxy": [[0, 0, 1], [0]]}, "boxes_xyxy: expected float32 of shape (n, 4), got [[0, 0, 1], [0]]"),
        ({"score": [1, 1]}, "score: expected float32 of shape (1,), got shape (2,)"),
        ({"score": ["high"]}, "score: expected float32 of shape (1,), got ['high']"),
        ({"score": [1.5]}, "score: expected numbers from 0 to 1, got 1.5"),
        ({"score": [-0.5]}, "score: expected numbers from 0 to 1, got -0.5"),
        ({"score": [float("nan")]}, "score: expected numbers from 0 to 1, got nan"),
        ({"boxes_xyxy": [[5, 0, 2.5, 9]]}, "boxes_xyxy: expected x1 < x2 and y1 < y2, got 5, 0, 2.5, 9"),
        ({"boxes_xyxy": [[0, 3, 2, 3]]}, "boxes_xyxy: expected x1 < x2 and y1 < y2, got 0, 3, 2, 3"),
        ({"label": [4]}, "label: expected integers from 0 to 3, got 4"),
        ({"label": [-1]}, "label: expected integers from 0 to 3, got -1"),
        ({"label": [0.5]}, "label: expected int64 of shape (1,), got [0.5]"),
        ({"label": [float("nan")]}, "label: expected int64 of shape (1,), got [nan]"),
        ({"label": ["wbc"]}, "label: expected int64 of shape (1,), got ['wbc']"),
        ({"point_xy": [[1, 2, 3]]}, "point_xy: expected float32 of shape (1, 2), got shape (1, 3)"),
        ({"id": "c1"}, "id: expected str of shape (1,), got shape ()"),
    ],
)
def test_an_invalid_column_raises_an_error_that_names_it(columns, line):
    with pytest.raises(ValueError, match=f"^Detections.{re.escape(line)}$"):
        Detections(**{"boxes_xyxy": [[0, 0, 1, 1]], **columns})


def _all_columns(n):
    """Detections with all columns, and different values in every row."""
    kinds = {"f": lambda size: (np.arange(size) + 0.5) / max(size, 1), "i": lambda size: np.arange(size) % 4}
    kinds |= {"b": lambda size: np.arange(size) % 3 == 0, "U": lambda size: np.array([f"r{i}" for i in range(size)])}
    columns = {}
    for name, (dtype, row) in COLUMNS.items():
        shape = (n, *row)
        columns[name] = kinds[np.dtype(dtype).kind](int(np.prod(shape))).reshape(shape)
    return Detections(**columns)


@st.composite
def _indices(draw):
    """A number of rows, and an index of any supported form into them."""
    n = draw(st.integers(0, 12))
    mask = st.lists(st.booleans(), min_size=n, max_size=n)
    forms = [st.slices(n), mask, mask.map(lambda values: np.array(values, bool)), st.just([])]
    if n:
        one = st.integers(-n, n - 1)
        many = st.lists(one, max_size=8)
        forms += [one, one.map(np.int64), many, many.map(lambda values: np.array(values, np.int32))]
    return n, draw(st.one_of(forms))


@given(_indices())
def test_indexing_follows_numpy_in_every_column(case):
    n, index = case
    cells = _all_columns(n)
    chosen = cells[index]
    rows = [index] if isinstance(index, (int, np.integer)) else index
    if isinstance(rows, list):
        rows = np.array(rows, bool if n and rows and isinstance(rows[0], bool) else np.int64)
    for name in Detections.columns():
        np.testing.assert_array_equal(getattr(chosen, name), getattr(cells, name)[rows], err_msg=name)
        assert getattr(chosen, name).dtype.kind == getattr(cells, name).dtype.kind


@pytest.mark.parametrize(
    ("index", "line"),
    [
        ([True, False], "expected a mask of length 3, got length 2"),
        (np.ones(4, bool), "expected a mask of length 3, got length 4"),
        (3, "expected indices from -3 to 2, got 3"),
        (-4, "expected indices from -3 to 2, got -4"),
        ([0, 7], "expected indices from -3 to 2, got 7"),
        (1.0, "expected an integer, a slice, a boolean mask or a sequence of integers, got 1.0"),
        ([0.0, 1.0], "sequence of integers, got float64 of shape (2,)"),
        (np.zeros((3, 1), int), "sequence of integers, got int64 of shape (3, 1)"),
        (np.ones((3, 3), bool), "sequence of integers, got bool of shape (3, 3)"),
        ((0, 1), "sequence of integers, got a tuple; pass a list"),
        ([[0], [0, 1]], "sequence of integers, got [[0], [0, 1]]"),
        (True, "sequence of integers, got True"),
        (None, "sequence of integers, got None"),
        ("score", "sequence of integers, got 'score'"),
    ],
)
def test_an_invalid_index_raises_an_error_with_what_was_expected(index, line):
    with pytest.raises(IndexError, match=re.escape(line) + "$"):
        _all_columns(3)[index]


def test_an_index_into_no_rows():
    with pytest.raises(IndexError, match="expected no index, since there are no rows, got 0"):
        Detections.empty()[0]


def test_iteration_yields_one_row_detections_in_order():
    cells = _all_columns(4)
    rows = list(cells)
    assert [len(row) for row in rows] == [1, 1, 1, 1]
    assert [str(row.id[0]) for row in rows] == ["r0", "r1", "r2", "r3"]
    whole = Detections.concatenate(rows)
    for name in Detections.columns():
        np.testing.assert_array_equal(getattr(whole, name), getattr(cells, name))
    assert list(Detections.empty()) == []


def test_columns_fields_and_parameters_have_the_same_order():
    parameters = tuple(inspect.signature(Detections).parameters)
    assert Detections.columns() == parameters == tuple(field.name for field in fields(Detections))


def test_counts_leave_out_ignored_cells():
    cells = Detections([[0, 0, 1, 1]] * 3, label=[1, 1, 2], ignore=[True, False, False])
    assert cells.counts() == {"blast": 0, "wbc": 1, "rbc": 1, "platelet": 0}
    assert len(cells.with_classes("wbc", "rbc")) == 3 and len(cells.with_classes("blast")) == 0


def test_a_cell_without_a_box_uses_its_point():
    cells = Detections([[np.nan] * 4, [0, 0, 4, 4]], point_xy=[[7, 8], [np.nan, np.nan]])
    np.testing.assert_array_equal(cells.centres_xy, [[7, 8], [2, 2]])
    assert np.isnan(cells.sorted().boxes_xyxy[1]).all()


def test_dataset_views(tmp_path):
    samples = (
        Sample(tmp_path / "a/x.png", (10, 10), split="train", annotated=("wbc",)),
        Sample(tmp_path / "y.png", (10, 10), split="test", truth=Detections([[0, 0, 1, 1]], label=[3])),
    )
    dataset = Dataset("d", tmp_path, samples)
    assert dataset.classes == ("wbc", "platelet")
    assert [sample.path.name for sample in dataset.with_split("test")] == ["y.png"]
    assert [dataset.file_name(sample) for sample in dataset] == ["a/x.png", "y.png"]
    assert dataset.file_name(Sample(tmp_path.parent / "z.png", (1, 1))) == "z.png"


def test_above_threshold_uses_the_threshold_of_each_class():
    cells = Detections([[0, 0, 1, 1]] * 4, label=[0, 1, 1, 2], score=[1.0, 0.5, 0.25, 1.0])
    assert cells.above_threshold({"wbc": 0.5, "blast": 1.0}).tolist() == [True, True, False, False]
    assert not cells.above_threshold({}).any() and Detections.empty().above_threshold({"wbc": 0.5}).shape == (0,)


def _dataset(name="two <b>"):
    first = Detections(
        [[0, 0, 10, 20], [1, 1, 3, 3], [5, 5, 9, 9]],
        label=[1, 0, 2],
        score=[0.75, 1, 1],
        ignore=[False, False, True],
        cell_type=["lymphocyte", "", ""],
        blast_probability=[0.25, np.nan, np.nan],
    )
    samples = (
        Sample(Path("/r/a.png"), (64, 48), (0.1, 0.2), "p1", "train", truth=first),
        Sample(Path("/r/b.png"), (64, 48), None, None, "val", truth=Detections([[1, 2, 3, 4]], label=[0])),
        Sample(Path("/r/c.png"), (64, 48)),
    )
    return Dataset(name, Path("/r"), samples)


def test_dataset_is_printed_as_one_line():
    assert repr(_dataset("two")) == (
        "<Dataset two: 3 images; cells: blast 2, wbc 1, rbc 0; splits: train 1, val 1, no split 1>"
    )
    assert repr(Dataset("none", Path(), ())) == "<Dataset none: 0 images; cells: none; splits: none>"


def test_dataset_shows_images_and_cells_of_each_split_in_a_notebook():
    table = ElementTree.fromstring(_dataset()._repr_html_())
    assert table.findtext("caption") == "two <b>"
    rows = [[cell.text for cell in row] for row in table.iter("tr")]
    assert rows == [
        ["split", "images", "blast", "wbc", "rbc"],
        ["train", "1", "1", "1", "0"],
        ["val", "1", "1", "0", "0"],
        ["no split", "1", "0", "0", "0"],
        ["all", "3", "2", "1", "0"],
    ]


def test_dataset_as_a_data_frame_has_one_row_per_cell():
    frame = _dataset().to_pandas()
    assert list(frame.columns) == ["image", "split", "group", *CELL_COLUMNS[2:]]
    assert frame["image"].tolist() == ["a.png"] * 3 + ["b.png"]
    assert frame["group"].tolist() == ["p1", "p1", "p1", ""]
    assert frame["class"].tolist() == ["wbc", "blast", "rbc", "blast"]
    assert frame.loc[0, ["x1", "y2", "score", "width_um", "height_um", "blast_probability"]].tolist() == [
        0, 20, 0.75, 1, 4, 0.25,
    ]  # fmt: skip
    assert frame["width_um"].isna().tolist() == [False, False, False, True]  # b.png has no scale
    assert frame["ignore"].tolist() == [0, 0, 1, 0]
    assert Dataset("none", Path(), ()).to_pandas().empty


def test_a_data_frame_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyError, match=r"^pandas: not installed\. Run: pip install 'blastdet\[notebook\]'"):
        _dataset().to_pandas()
