"""A detector over an image of any size: tiles at the card's µm/px, stitched to one box per cell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from blastdet.core import boxes
from blastdet.core.constants import LARGEST_CELL_UM
from blastdet.core.parallel import map_ordered, workers
from blastdet.core.types import RGB, Detections, Scale
from blastdet.imaging.io import Source
from blastdet.imaging.tiling import Tile, place, stitch, tile_grid
from blastdet.inference.scale import scaled_size
from blastdet.models.detector import Detector

SMALLEST_SIDE_UM = 1.0
"""Narrower boxes are slivers of cells beyond the edge of the image; the smallest platelet is 1.5 µm wide."""

BATCH = 8
"""Tiles of a large image that a detector gets at once; bounds memory."""

_SLACK_PX = 2.0


def find_cells(
    source: Source, mpp: Scale, detector: Detector, progress: Callable[[int, int], None] | None = None
) -> Detections:
    """All cells of a source down to the detector's score floor, in full-smear pixels and canonical order."""
    card = detector.card
    scaled_wh = scaled_size(source.size_wh, mpp, card.mpp, source.path)
    scale_xy = (scaled_wh[0] / source.size_wh[0], scaled_wh[1] / source.size_wh[1])
    overlap = round(LARGEST_CELL_UM / card.mpp)
    tiles = list(tile_grid(scaled_wh, card.input.wh, overlap, card.input.stride))

    def look(batch: list[Tile]) -> list[Detections]:
        images = [_read(source, tile, scale_xy) for tile in batch]
        return [place(cells, tile, _SLACK_PX) for cells, tile in zip(detector(images), batch, strict=True)]

    parts: list[Detections] = []
    for _, found in map_ordered(look, _batches(tiles), workers()):  # one reads while another computes
        parts += found
        if progress is not None:
            progress(len(parts), len(tiles))
    cells = stitch(parts, card.suppression_iou)
    sides = cells.boxes_xyxy[:, 2:] - cells.boxes_xyxy[:, :2]
    cells = cells[sides.min(axis=1, initial=np.inf) >= SMALLEST_SIDE_UM / card.mpp]
    xyxy = boxes.clip(boxes.scale(cells.boxes_xyxy, (1 / scale_xy[0], 1 / scale_xy[1])), source.size_wh)
    return cells.with_columns(boxes_xyxy=xyxy).sorted()


def _read(source: Source, tile: Tile, scale_xy: tuple[float, float]) -> RGB:
    x1, y1, x2, y2 = tile.box_xyxy
    box = (x1 / scale_xy[0], y1 / scale_xy[1], x2 / scale_xy[0], y2 / scale_xy[1])
    return source.read(box, scale_xy)


def _batches(tiles: list[Tile]) -> list[list[Tile]]:
    """Tiles that go together; those of a small smear one by one, for every core to have some."""
    size = BATCH if len(tiles) > 4 * BATCH else 1
    return [tiles[i : i + size] for i in range(0, len(tiles), size)]
