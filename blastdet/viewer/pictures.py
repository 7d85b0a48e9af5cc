"""Image files beside a page: the image itself, small enough for a browser, and a sheet with the crops of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from blastdet.core.types import RGB, Scale
from blastdet.imaging.cell_crops import CONTEXT, Box, crop
from blastdet.imaging.io import Source, write_image

LONGEST_PX = 3200
"""Longer side of an image on a page: what every browser still decodes without delay."""

MOST_CROPS = 1024
"""Crops on the sheet of one image; a browser keeps a sheet decoded."""

CROP = {"um": 22, "px": 128, "columns": 16, "times": 2.2}
"""The square around each cell: side in µm, in pixels of the sheet, crops in a row; side relative to the box where the
scale is unknown. All cells of known scale are shown at one scale, so that sizes compare."""

_GROUND = 138
"""Grey beyond the borders of an image, and where a sheet has no crop."""

QUALITY = 86
"""Of the JPEG files."""


def write_picture(source: Source, path: Path) -> None:
    """The image as a JPEG, reduced where it is larger than `LONGEST_PX`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, picture_of(source), QUALITY)


def picture_of(source: Source) -> RGB:
    """The image, reduced where it is larger than `LONGEST_PX`."""
    width, height = source.size_wh
    scale = min(1.0, LONGEST_PX / max(width, height))
    return source.read() if scale == 1.0 else source.read(None, (max(scale, 1 / width), max(scale, 1 / height)))


def write_sheet(source: Source, boxes: Sequence[Box], mpp: Scale | None, path: Path) -> int:
    """Crops around cells in rows of ``CROP["columns"]``, as one JPEG; nothing is written without cells.

    Returns
    -------
    int
        Number of rows.
    """
    if not boxes:
        return 0
    sheet = sheet_of(source, boxes, mpp)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, sheet, QUALITY)
    return len(sheet) // int(CROP["px"])


def sheet_of(source: Source, boxes: Sequence[Box], mpp: Scale | None) -> RGB:
    """The sheet that `write_sheet` writes, uint8; of no boxes, it has no row."""
    px, columns = int(CROP["px"]), int(CROP["columns"])
    rows = -(-len(boxes) // columns)
    sheet = np.full((rows * px, columns * px, 3), _GROUND, np.uint8)
    for i, crop_rgb in enumerate(crops_of(source, boxes, mpp)):
        y, x = divmod(i, columns)
        sheet[y * px : (y + 1) * px, x * px : (x + 1) * px] = crop_rgb
    return sheet


def crops_of(source: Source, boxes: Sequence[Box], mpp: Scale | None) -> list[RGB]:
    """The square around each cell, as `CROP` says; uint8 (px, px, 3) each."""
    return [_view(source, box, mpp) for box in boxes]


def _view(source: Source, box: Box, mpp: Scale | None) -> RGB:
    """The square around a cell."""
    scale = mpp or (1.0, 1.0)
    x1, y1, x2, y2 = box
    side = float(CROP["um"]) if mpp else CROP["times"] * max(x2 - x1, y2 - y1, 1.0)
    half = side / CONTEXT / 2
    width, height = source.size_wh
    x, y = min(max((x1 + x2) / 2, 0), width), min(max((y1 + y2) / 2, 0), height)
    around = (x - half / scale[0], y - half / scale[1], x + half / scale[0], y + half / scale[1])
    found = crop(source, around, scale, side / float(CROP["px"]), ground=_GROUND)
    px = int(CROP["px"])
    return found if found.shape[:2] == (px, px) else np.asarray(cv2.resize(found, (px, px)), np.uint8)
