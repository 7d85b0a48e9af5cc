"""Tiled detection equals detection in the whole image, for any tile size and overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core import boxes
from blastdet.core.errors import ConfigError
from blastdet.core.types import Detections
from blastdet.imaging.tiling import Tile, owned, place, stitch, tile_grid

SIZES = st.tuples(st.integers(1, 900), st.integers(1, 900))


@given(SIZES, st.integers(60, 300), st.integers(60, 300), st.integers(0, 59))
@settings(max_examples=100, deadline=None)
def test_cores_partition_the_image(size_wh, width, height, overlap):
    tiles = list(tile_grid(size_wh, (width, height), overlap))
    x, y = np.meshgrid(np.arange(size_wh[0]) + 0.5, np.arange(size_wh[1]) + 0.5)
    owners = np.zeros(x.shape, int)
    covered = np.zeros(x.shape, int)
    for tile in tiles:
        x1, y1, x2, y2 = tile.core_xyxy
        owners += (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        x1, y1, x2, y2 = tile.box_xyxy
        assert 0 <= x1 < x2 <= size_wh[0] and 0 <= y1 < y2 <= size_wh[1]
        assert x2 - x1 <= width and y2 - y1 <= height
        covered[y1:y2, x1:x2] += 1
    assert (owners == 1).all()
    assert (covered >= 1).all()


@given(SIZES, st.integers(60, 300), st.integers(1, 59))
@settings(max_examples=60, deadline=None)
def test_neighbours_share_at_least_the_overlap(size_wh, side, overlap):
    tiles = list(tile_grid(size_wh, (side, side), overlap))
    row = sorted({(t.box_xyxy[0], t.box_xyxy[2]) for t in tiles})
    assert all(left[1] - right[0] >= overlap for left, right in itertools.pairwise(row))


@given(st.integers(1, 900), st.integers(2, 10), st.integers(0, 59))
@settings(max_examples=200, deadline=None)
def test_the_number_and_the_size_of_tiles_are_minimal(length, eights, overlap):
    """Compared with a search for the smallest number of tiles, then for the smallest tiles."""
    largest = 64 + 8 * eights
    tiles = list(tile_grid((length, 1), (largest, 99), overlap, 8))

    def reach(side: int, n: int) -> int:
        return n * side - (n - 1) * overlap

    n = next(n for n in itertools.count(1) if reach(largest, n) >= length)
    assert len(tiles) == n
    (side,) = {tile.size_wh[0] for tile in tiles}
    assert side == length or side == next(s for s in range(8, largest + 1, 8) if s > overlap and reach(s, n) >= length)


def _detect(cells: Detections, tile: Tile) -> Detections:
    """A perfect detector applied to one tile: boxes are clipped to it, cells outside are not found."""
    x1, y1, x2, y2 = tile.box_xyxy
    cut = boxes.clip(boxes.shift(cells.boxes_xyxy, (-x1, -y1)), (x2 - x1, y2 - y1))
    inside = boxes.area(cut) > 0
    return cells[inside].with_columns(boxes_xyxy=cut[inside])


@st.composite
def scenes(draw):
    """Cells with integer coordinates, so that ties in position, score and overlap occur."""
    size = draw(st.tuples(st.integers(80, 500), st.integers(80, 500)))
    n = draw(st.integers(0, 40))
    number = st.integers(0, 10_000)
    rows = draw(
        st.lists(st.tuples(number, number, st.integers(4, 30), st.integers(4, 30), st.integers(1, 4)), max_size=n)
    )
    xyxy = [(x % size[0], y % size[1], x % size[0] + w, y % size[1] + h) for x, y, w, h, _ in rows]
    cells = Detections(boxes.clip(xyxy, size), [row[4] / 4 for row in rows], [row[4] % 4 for row in rows])
    return size, cells[boxes.area(cells.boxes_xyxy) > 0]


@given(scenes(), st.integers(70, 200), st.integers(30, 60), st.sampled_from([0.0, 2.0]))
@settings(max_examples=200, deadline=None)
def test_tiled_equals_whole(scene, side, overlap, slack):
    size, cells = scene
    whole = stitch([cells], iou=0.5)
    parts = [place(_detect(cells, tile), tile, slack) for tile in tile_grid(size, (side, side + 7), overlap)]
    tiled = stitch(parts, iou=0.5)
    np.testing.assert_array_equal(tiled.boxes_xyxy, whole.boxes_xyxy)
    np.testing.assert_array_equal(tiled.score, whole.score)


def test_a_cell_across_two_tiles_is_reported_once_and_complete():
    cells = Detections([[95, 40, 125, 70]])
    parts = [place(_detect(cells, tile), tile) for tile in tile_grid((200, 100), (120, 100), 40)]
    assert sum(len(part) for part in parts) == 1
    np.testing.assert_array_equal(stitch(parts, 0.5).boxes_xyxy, cells.boxes_xyxy)


def test_a_tile_owns_the_cells_with_their_centre_in_its_core():
    tile = Tile((0, 0, 100, 100), (-np.inf, -np.inf, 80, np.inf))
    cells = Detections([[70, 0, 90, 10], [69, 0, 90, 10], [0, 0, 4, 4]])
    np.testing.assert_array_equal(owned(cells, tile), [False, True, True])
    np.testing.assert_array_equal(owned(cells, tile, slack=1), [True, True, True])


def test_tiles_not_larger_than_the_overlap_raise_an_error():
    with pytest.raises(ConfigError, match="expected tiles larger than the overlap of 32 px, got 64 x 32 px"):
        list(tile_grid((100, 100), (64, 32), 32))
