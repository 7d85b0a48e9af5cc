"""Tile grid, ownership of cells, stitching; works on arrays only.

An image is cut into overlapping tiles. Each tile owns a core, and the cores partition the image. A cell belongs to the
tile whose core contains its centre, so every cell is reported once, by a tile that contains all of it. Merging tiles by
the overlap of boxes would leave fragments or lose small neighbours (docs/decisions/0002-tiles-own-cells.md).

Own code, since the libraries merge by overlap.
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
    """One tile of a grid, in pixels of the image that was cut.

    Parameters
    ----------
    box_xyxy : (int, int, int, int)
        The pixels that the detector gets.
    core_xyxy : (float, float, float, float)
        The part that the tile owns; infinite at the edges of the image.
    """

    box_xyxy: tuple[int, int, int, int]
    core_xyxy: tuple[float, float, float, float]

    @property
    def size_wh(self) -> WidthHeight:
        """Width and height in pixels."""
        x1, y1, x2, y2 = self.box_xyxy
        return x2 - x1, y2 - y1


def tile_grid(size_wh: WidthHeight, tile_wh: WidthHeight, overlap: int, multiple: int = 1) -> Iterator[Tile]:
    """Tiles that cover an image evenly, row by row: as few as possible, all of the smallest size that suffices.

    Raises `ConfigError` if a tile is not larger than the overlap.

    Parameters
    ----------
    size_wh : (int, int)
        Size of the image.
    tile_wh : (int, int)
        Largest tile; a smaller image is one tile of its own size.
    overlap : int
        Least overlap of neighbours in pixels. A cell up to this size lies whole in the tile that owns it.
    multiple : int
        Sides of tiles are rounded up to a multiple of this, within `tile_wh`.
    """
    if min(tile_wh) <= overlap:
        raise ConfigError(f"expected tiles larger than the overlap of {overlap} px, got {tile_wh[0]} x {tile_wh[1]} px")
    columns = list(_intervals(size_wh[0], tile_wh[0], overlap, multiple))
    for y1, y2, top, bottom in _intervals(size_wh[1], tile_wh[1], overlap, multiple):
        for x1, x2, left, right in columns:
            yield Tile((x1, y1, x2, y2), (left, top, right, bottom))


def _intervals(length: int, largest: int, overlap: int, multiple: int) -> Iterator[tuple[int, int, float, float]]:
    """Start, stop and owned interval of the tiles along one axis."""
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
    """Mask of the cells (in pixels of the whole image) whose centre lies in the core of a tile, bool (n,).

    `slack` widens the core by some pixels. Two tiles locate the same cell slightly differently; without slack, a cell
    whose centre falls just outside the core of both would be lost. `stitch` removes the duplicates.
    """
    x1, y1, x2, y2 = tile.core_xyxy
    centre = cells.centres_xy.astype(np.float64)
    inside = (centre[:, 0] >= x1 - slack) & (centre[:, 0] < x2 + slack)
    return np.asarray(inside & (centre[:, 1] >= y1 - slack) & (centre[:, 1] < y2 + slack))


def place(cells: Detections, tile: Tile, slack: float = 0.0) -> Detections:
    """Cells that a tile owns, moved from pixels of the tile to pixels of the whole image."""
    moved = cells.with_columns(boxes_xyxy=boxes.shift(cells.boxes_xyxy, tile.box_xyxy[:2]))
    return moved[owned(moved, tile, slack)]


def stitch(parts: list[Detections], iou: float) -> Detections:
    """The cells of all tiles without duplicates, in canonical order."""
    cells = Detections.concatenate(parts)
    return cells[boxes.suppress(cells.boxes_xyxy, cells.score, iou)].sorted()
