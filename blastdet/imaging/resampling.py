"""Resampling in blocks on the grid of the whole image: a tile equals the whole bit by bit, wherever it starts.

The filter is Pillow's triangle: anti-aliased when shrinking, bilinear when enlarging.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from blastdet.core.types import RGB, Scale, WidthHeight
from blastdet.imaging.pillow_reader import Window

_FILTER = Image.Resampling.BILINEAR
_STRIP_PIXELS = 4_000_000  # of the source that are resampled at once; bounds memory


def resample(window: Window, limit_wh: WidthHeight, start_xy: Scale, pitch_xy: Scale, size_wh: WidthHeight) -> RGB:
    """Pixel (i, j) of the result covers the source from start + i * pitch on, `pitch` wide."""
    out = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    if not out.size:
        return out
    if pitch_xy == (1.0, 1.0) and start_xy[0].is_integer() and start_xy[1].is_integer():
        x, y = (int(v) for v in start_xy)
        out[:] = _replicated(window, limit_wh, (x, y, x + size_wh[0], y + size_wh[1]))
        return out
    columns = list(spans(start_xy[0], pitch_xy[0], size_wh[0]))
    rows = list(spans(start_xy[1], pitch_xy[1], size_wh[1]))
    wide = columns[-1].right - columns[0].left
    together = max(_STRIP_PIXELS // (wide * max(row.right - row.left for row in rows)), 1)
    for i in range(0, len(rows), together):
        _resample_rows(window, limit_wh, columns, rows[i : i + together], out)
    return out


def _resample_rows(window: Window, limit_wh: WidthHeight, columns: list[Span], rows: list[Span], out: RGB) -> None:
    """Some rows of blocks of the result, one axis after the other: each call of Pillow does a whole strip.

    Pillow itself chooses the order of the axes by the sizes, and a tile would round differently.
    """
    top, bottom = rows[0].left, rows[-1].right
    strip = np.empty((bottom - top, out.shape[1], 3), np.uint8)
    for column in columns:
        piece = _replicated(window, limit_wh, (column.left, top, column.right, bottom))
        wide = (column.start, 0, column.end, len(piece))
        image = Image.fromarray(piece).resize((column.stop - column.first, len(piece)), _FILTER, box=wide)
        strip[:, column.first : column.stop] = np.asarray(image)
    for row in rows:
        image = Image.fromarray(strip[row.left - top : row.right - top])
        high = (0, row.start, out.shape[1], row.end)
        out[row.first : row.stop] = np.asarray(image.resize((out.shape[1], row.stop - row.first), _FILTER, box=high))


class Span(NamedTuple):
    """Output pixels [first, stop) of one axis: source pixels [left, right), of which [start, end) relative to left."""

    first: int
    stop: int
    left: int
    right: int
    start: float
    end: float


def spans(start: float, pitch: float, count: int) -> Iterator[Span]:
    """Cut one axis into blocks on the grid of the whole image, wherever the reading starts.

    Pillow takes the box as float32, and its rounding error would depend on where a tile starts. Start and pitch of a
    block are therefore multiples of 2**-15 px (coarser above 64-fold shrinking). Then all of Pillow's sums are exact
    and a tile equals the whole bit by bit, at the price of a shift of at most 0.003 px.
    """
    side = max(512, 2 ** math.ceil(math.log2(8 * pitch)))
    fine = 2**24 / side
    step = round(pitch * fine) / fine
    margin = math.ceil(max(1.0, pitch))  # reach of the filter
    length = min(128, int((side - 2 * margin - 2) / pitch))
    index = start / pitch
    first = math.floor(index + 1e-6)
    phase = index - first if index - first > 1e-6 else 0.0
    i, stop = first, first + count
    while i < stop:
        block = i // length * length
        end = min(block + length, stop)
        origin = round((block + phase) * pitch * fine) / fine
        x0, x1 = origin + (i - block) * step, origin + (end - block) * step
        left = math.floor(x0) - margin
        yield Span(i - first, end - first, left, math.ceil(x1) + margin, x0 - left, x1 - left)
        i = end


def _replicated(window: Window, limit_wh: WidthHeight, box: tuple[int, int, int, int]) -> RGB:
    """A window that may extend beyond the image; there the nearest pixel inside is repeated."""
    x0, y0, x1, y1 = box
    ax, bx, pad_x = _clipped(x0, x1, limit_wh[0])
    ay, by, pad_y = _clipped(y0, y1, limit_wh[1])
    inside = window(ax, ay, bx, by)
    if not any(pad_x + pad_y):
        return inside
    bordered = cv2.copyMakeBorder(inside, *pad_y, *pad_x, cv2.BORDER_REPLICATE)  # np.pad takes ten times as long
    return np.asarray(bordered, np.uint8)


def _clipped(start: int, stop: int, limit: int) -> tuple[int, int, tuple[int, int]]:
    """The part of [start, stop) inside [0, limit), at least one pixel, and how much is missing before and after."""
    a = min(max(start, 0), limit - 1)
    b = min(max(stop, a + 1), limit)
    missing = (stop - start) - (b - a)
    before = min(max(-start, 0), missing)
    return a, b, (before, missing - before)
