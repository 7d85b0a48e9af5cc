"""Tile grid, ownership of cells, stitching: pure arrays.

A smear is cut into tiles that overlap. Each tile owns a core, the cores partition the smear, and a cell belongs to
the tile whose core holds its centre; so every cell is reported once, by a tile that saw it whole. Merging tiles by
overlap of their boxes instead leaves fragments or swallows small neighbours (docs/decisions/0002-tiles-own-cells.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes
from blastdet.core.errors import ConfigError
from blastdet.core.types import Detections, WidthHeight


@dataclass(frozen=True)
class Tile:
    """One tile of a grid, in pixels of the picture that was cut.

    Parameters
    ----------
    box_xyxy : (int, int, int, int)
        What the detector sees.
    core_xyxy : (float, float, float, float)
        What the tile owns; infinite where it meets the edge of the picture.
    """

    box_xyxy: tuple[int, int, int, int]
    core_xyxy: tuple[float, float, float, float]

    @property
    def size_wh(self) -> WidthHeight:
        """Width and height in pixels."""
        x1, y1, x2, y2 = self.box_xyxy
        return x2 - x1, y2 - y1


def tile_grid(size_wh: WidthHeight, tile_wh: WidthHeight, overlap: int, multiple: int = 1) -> Iterator[Tile]:
    """Tiles that cover a picture evenly, row by row: as few as can be, and all of the smallest size that does.

    Parameters
    ----------
    size_wh : (int, int)
        The picture.
    tile_wh : (int, int)
        The largest tile; a smaller picture is one tile of its own size.
    overlap : int
        Pixels that neighbours share at least. A cell up to this size is whole in the tile that owns it.
    multiple : int
        Sides of tiles are rounded up to a multiple of this where that keeps them within `tile_wh`.

    Raises
    ------
    ConfigError
        If a tile is not larger than the overlap.
    """
    if min(tile_wh) <= overlap:
        raise ConfigError(
            f"tile of {tile_wh[0]} x {tile_wh[1]} px found, more than the overlap of {overlap} px expected"
        )
    columns = list(_intervals(size_wh[0], tile_wh[0], overlap, multiple))
    for y1, y2, top, bottom in _intervals(size_wh[1], tile_wh[1], overlap, multiple):
        for x1, x2, left, right in columns:
            yield Tile((x1, y1, x2, y2), (left, top, right, bottom))


def _intervals(length: int, largest: int, overlap: int, multiple: int) -> Iterator[tuple[int, int, float, float]]:
    """Start, stop, and owned stretch of the tiles along one axis."""
    n = max(math.ceil((length - overlap) / (largest - overlap)), 1)
    even = math.ceil((length + (n - 1) * overlap) / n)
    tile = min(-(-even // multiple) * multiple, largest)
    starts = [round(i * (length - tile) / (n - 1)) for i in range(n)] if n > 1 else [0]
    stops = [min(start + tile, length) for start in starts]
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        low = -np.inf if i == 0 else (start + stops[i - 1]) / 2
        high = np.inf if i == len(starts) - 1 else (starts[i + 1] + stop) / 2
        yield start, stop, low, high


def owned(cells: Detections, tile: Tile, slack: float = 0.0) -> NDArray[np.bool_]:
    """Which cells (in pixels of the whole picture) have their centre in the tile's core.

    `slack` widens the core by some pixels: two tiles see the same cell a little differently, and without slack one
    whose centre falls just beyond the border on both sides would belong to nobody. `stitch` removes the doubles.
    """
    x1, y1, x2, y2 = tile.core_xyxy
    centre = cells.centres_xy.astype(np.float64)
    inside = (centre[:, 0] >= x1 - slack) & (centre[:, 0] < x2 + slack)
    return np.asarray(inside & (centre[:, 1] >= y1 - slack) & (centre[:, 1] < y2 + slack))


def place(cells: Detections, tile: Tile, slack: float = 0.0) -> Detections:
    """Cells that a tile owns, moved from the pixels of the tile to those of the whole picture."""
    moved = cells.with_columns(boxes_xyxy=boxes.shift(cells.boxes_xyxy, tile.box_xyxy[:2]))
    return moved[owned(moved, tile, slack)]


def stitch(parts: list[Detections], iou: float) -> Detections:
    """One set of cells from the cells of all tiles: doubles suppressed, canonical order."""
    cells = Detections.concatenate(parts)
    return cells[boxes.suppress(cells.boxes_xyxy, cells.score, iou)].sorted()
