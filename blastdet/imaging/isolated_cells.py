"""Images of one cell that was cut out of its smear and put on plain black or white ground.

A round field of view on black, as a phone at the eyepiece takes it, has such ground too, but shows a smear.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import RGB
from blastdet.imaging.optical_density import background_colour, channel_range, to_density, to_levels

__all__ = ["CELL", "cell_box", "cell_mask", "even", "field_of_view", "on_black", "on_ground", "table"]

CELL = (0.40, 0.62, 0.20)
"""Median optical density (natural logarithm) of an isolated cell in each channel after normalization."""

_BACKGROUND = 240.0  # that of normalized smears
_BLACK = 24  # highest grey level of black ground; JPEG adds noise to it
_PLAIN = 0.9  # fraction of the border of an image that is ground
_SMALLEST, _LARGEST = 0.02, 0.8  # of the image; less or more is not a cell
_SOLID = 0.55  # of its convex hull; a cell is round, or dented where a neighbour was cut off
_MODE = 0.1  # fraction of a smear that has the colour of the empty background, at least
_LIT = 100  # grey level; the background of a smear is brighter
_NOT_PURPLE = 0.95  # green light of the background relative to red and blue; pale cytoplasm absorbs more of it
_RIM = 5  # pixels between ground and image that mix both
_FACTORS = (0.1, 10.0)

Mask = NDArray[np.bool_]


def on_ground(rgb: RGB) -> Mask:
    """Pixels (h, w) that are plain black or pure white: never the colour of a cell."""
    lowest, highest = channel_range(rgb)
    return np.asarray((highest <= _BLACK) | (lowest == 255))


def on_black(rgb: RGB) -> Mask:
    """Pixels (h, w) that are plain black."""
    return np.asarray(channel_range(rgb)[1] <= _BLACK)


def cell_mask(rgb: RGB) -> Mask | None:
    """The cell of an image with plain ground.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)

    Returns
    -------
    bool (h, w) or None
        The largest part that is not ground. ``None`` where the border of the image is not plain, as in any image of a
        smear, nothing is left, or it is no single cell but a smear on black ground: it shows empty background, is too
        large or ragged.

    Examples
    --------
    >>> image = np.zeros((40, 40, 3), np.uint8)
    >>> image[10:30, 12:28] = (90, 40, 120)
    >>> cell_mask(image).sum().item()
    320
    """
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])[None]
    if on_ground(border).mean() < _PLAIN:  # as in nearly all images
        return None
    ground = on_ground(rgb)
    n, labels, stats, _ = cv2.connectedComponentsWithStats((~ground).astype(np.uint8), connectivity=4)
    if n < 2 or not _SMALLEST <= stats[1:, cv2.CC_STAT_AREA].max() / ground.size <= _LARGEST:
        return None
    part = np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))
    return None if _solidity(part) < _SOLID or _shows_background(rgb, part) else part


def _solidity(part: Mask) -> float:
    """Area relative to that of the convex hull."""
    hull = cv2.convexHull(cv2.findNonZero(part.astype(np.uint8)))
    return float(part.sum() / max(cv2.contourArea(hull), 1.0))


def _shows_background(rgb: RGB, part: Mask) -> bool:
    """Whether a good part of some pixels is bright and without stain, as between the cells of a smear."""
    inner = _without_rim(part)
    light = background_colour(rgb, inner)
    smooth = cv2.GaussianBlur(rgb, (0, 0), 1.0)[inner].sum(axis=1, dtype=np.float32)
    near = np.abs(smooth - light.sum()) <= 18
    purple = light[1] < _NOT_PURPLE * (light[0] + light[2]) / 2
    return bool(near.mean() >= _MODE and light.mean() >= _LIT and not purple)


def _without_rim(part: Mask) -> Mask:
    """Pixels that are not at the edge of a part; the part itself where it is too small."""
    # What lies beyond the image is no edge.
    inner = cv2.erode(part.astype(np.uint8), np.ones((_RIM, _RIM), np.uint8)).astype(bool)
    return inner if inner.any() else part


def field_of_view(rgb: RGB) -> Mask | None:
    """Pixels (h, w) that show something, of an image whose corners are black ground; ``None`` without such ground."""
    black = on_black(rgb)
    if not black[[0, 0, -1, -1], [0, -1, 0, -1]].any():
        return None
    _, labels = cv2.connectedComponents(black.astype(np.uint8), connectivity=4)
    corners = {int(labels[y, x]) for y in (0, -1) for x in (0, -1)} - {0}
    ground = np.isin(labels, list(corners))
    if not _SMALLEST <= ground.mean() <= 1 - _SMALLEST:
        return None
    return _without_rim(~ground)


def cell_box(rgb: RGB) -> tuple[float, float, float, float] | None:
    """The box (x1, y1, x2, y2) of the cell of an image with plain ground; ``None`` as in `cell_mask`."""
    cell = cell_mask(rgb)
    if cell is None:
        return None
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def table(rgb: RGB, cell: Mask) -> NDArray[np.uint8]:
    """The normalized grey level of each grey level of each channel, for which the cell has the median colour `CELL`.

    Without a red cell or an empty background, the cell itself is all there is to normalize the stain by.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    cell : bool (h, w)

    Returns
    -------
    uint8 (256, 3)
    """
    levels = np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, axis=1)
    density = to_density(levels, _BACKGROUND)
    median = to_density(np.median(rgb[cell], axis=0).astype(np.float32), _BACKGROUND)
    factor = np.clip(np.array(CELL, np.float32) / np.maximum(median, 0.02), *_FACTORS)
    return np.asarray(np.clip(np.rint(to_levels(density * factor, _BACKGROUND)), 0, 255), np.uint8)


def even(rgb: RGB, cell: Mask) -> RGB:
    """The normalized cell on the background of normalized smears, uint8 (h, w, 3)."""
    out = np.full_like(rgb, round(_BACKGROUND))
    if cell.any():
        out[cell] = cv2.LUT(rgb, table(rgb, cell)[None])[cell]
    return out
