"""Shortcut probes: crops with the same labels that do not show the cell. What a classifier tells by them is no cell."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.constants import LARGEST_CELL_UM
from blastdet.core.types import RGB, Scale
from blastdet.imaging.cell_crops import CONTEXT, Box, crop
from blastdet.imaging.io import Source

NEGATIVE_CONTROLS = ("covered", "elsewhere")
"""The cell under a disc of one size, in a window of one size, where other cells may show; an equal window of the same
smear without any nucleated cell."""

WINDOW_UM, DISC_UM = LARGEST_CELL_UM, 20.0
_GREY = (128, 128, 128)
_TRIES = 60
_LEAST_PX = 16


def windows(
    probe: str,
    boxes_xyxy: NDArray[np.float32],
    picture: tuple[tuple[int, int], Scale],
    cells: NDArray[np.float32],
    marks: NDArray[np.float32],
) -> NDArray[np.float32]:
    """What is cut out in the place of each cell: boxes whose crops are `WINDOW_UM` a side.

    Parameters
    ----------
    probe : one of PROBES
    boxes_xyxy : (n, 4)
        The cells, in pixels of the smear.
    picture : ((int, int), (float, float))
        Width and height in pixels; µm per pixel along x and y.
    cells : (m, 4)
        All nucleated cells: no window elsewhere touches one.
    marks : (k, 4)
        Burnt-in marks: no window shows one.

    Returns
    -------
    (n, 4)
        NaN where there is no such window, `_TRIES` draws found no free place, or the picture is smaller than a window,
        or a window than 16 pixels.
        The same cells give the same windows.
    """
    size_wh, mpp = picture
    half = WINDOW_UM / 2 / np.array(mpp)
    rng = np.random.default_rng(np.frombuffer(boxes_xyxy.astype("<f4").tobytes(), np.uint32))
    found = np.full((len(boxes_xyxy), 4), np.nan, np.float32)
    size = np.array(size_wh, np.float64)
    if (size < 2 * half).any() or 2 * half.max() < _LEAST_PX:
        return found  # reflections would be shown, or next to nothing
    for row, box in zip(found, boxes_xyxy.reshape(-1, 2, 2).astype(np.float64), strict=True):
        if probe == "covered":
            middle = box.mean(axis=0)
            place = middle if _is_free(middle, half, marks) else None
        else:
            place = _free_place(size, half, np.concatenate([cells, marks]), rng)
        if place is not None:
            row[:2], row[2:] = place - half / CONTEXT, place + half / CONTEXT
    return found


def _is_free(middle: NDArray[np.float64], half: NDArray[np.float64], taken: NDArray[np.float32]) -> bool:
    return not ((taken[:, :2] < middle + half) & (taken[:, 2:] > middle - half)).all(axis=1).any()


def _free_place(
    size: NDArray[np.float64], half: NDArray[np.float64], taken: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Middle of a window that lies on the picture and touches nothing of `taken`."""
    draws = (rng.uniform(half, size - half) for _ in range(_TRIES))
    return next((middle for middle in draws if _is_free(middle, half, taken)), None)


def crop_of(probe: str, source: Source, box_xyxy: Box, mpp: Scale) -> RGB:
    """The crop of a box, its middle covered where the probe says so; without a probe, `crops.crop`."""
    rgb = crop(source, box_xyxy, mpp)
    if probe != "covered":
        return rgb
    side = len(rgb)
    radius = round(side * DISC_UM / WINDOW_UM / 2)
    return np.asarray(cv2.circle(rgb.copy(), (side // 2, side // 2), radius, _GREY, cv2.FILLED), np.uint8)
