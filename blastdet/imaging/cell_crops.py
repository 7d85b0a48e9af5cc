"""Square crops around cells for the second stage: centred, with square pixels, reflected at borders."""

from __future__ import annotations

import cv2
import numpy as np

from blastdet.core.types import RGB, Scale
from blastdet.imaging.io import Source

CONTEXT = 1.3
"""Side of a crop relative to the longer side of its box, both in µm: the cell and a rim of background."""

Box = tuple[float, float, float, float]


def window(box_xyxy: Box, mpp: Scale) -> Box:
    """The square (in µm) around a box, in pixels; it may extend beyond the image."""
    x1, y1, x2, y2 = box_xyxy
    half = CONTEXT * max((x2 - x1) * mpp[0], (y2 - y1) * mpp[1]) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - half / mpp[0], y - half / mpp[1], x + half / mpp[0], y + half / mpp[1]


def crop(source: Source, box_xyxy: Box, mpp: Scale, to_mpp: float | None = None, *, ground: int | None = None) -> RGB:
    """The crop around one cell.

    Parameters
    ----------
    box_xyxy : (float, float, float, float)
        In pixels of the source; its centre lies in the image.
    to_mpp : float, optional
        µm per pixel of the crop. By default the finer of `mpp`, so that pixels are square without loss.
    ground : int, optional
        Grey value beyond the borders of the image. By default the image is reflected there, as models expect; to a
        person, a mirrored nucleus looks like a dividing cell.

    Returns
    -------
    uint8 (n, n, 3)
        At least one pixel a side.
    """
    pitch = to_mpp or min(mpp)
    sides = window(box_xyxy, mpp)
    side = max(round((sides[2] - sides[0]) * mpp[0] / pitch), 1)
    read, before, after = [], [], []
    for low, high, size, step in zip(
        sides[:2], sides[2:], source.size_wh, (pitch / mpp[0], pitch / mpp[1]), strict=True
    ):
        start = (low + high - side * step) / 2  # whole pixels around the same centre
        if step == 1:
            start = float(round(start))  # original pixels: half a pixel off centre rather than blurred
        # the pixels of the crop whose centre lies in the image; at least one
        first = min(max(int(np.ceil(-start / step - 0.5)), 0), side - 1)
        last = max(min(int(np.ceil((size - start) / step - 0.5)), side), first + 1)
        read.append((start + first * step, start + last * step, last - first))
        before.append(first)
        after.append(side - last)
    (x1, x2, n), (y1, y2, m) = read
    inside = source.read((x1, y1, x2, y2), (n / (x2 - x1), m / (y2 - y1)))
    kind, value = (cv2.BORDER_REFLECT, 0) if ground is None else (cv2.BORDER_CONSTANT, ground)
    margins = before[1], after[1], before[0], after[0]
    return np.asarray(cv2.copyMakeBorder(inside, *margins, kind, value=(value,) * 3), np.uint8)
