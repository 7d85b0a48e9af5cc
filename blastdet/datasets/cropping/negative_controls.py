"""Negative controls: crops with the label of a cell that do not show the cell.

A classifier that predicts the label from such crops uses a shortcut, such as stain, sharpness or neighbouring cells.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.constants import LARGEST_CELL_UM
from blastdet.core.types import RGB, Scale
from blastdet.imaging.cell_crops import CONTEXT, Box, crop
from blastdet.imaging.io import Source

NEGATIVE_CONTROLS = ("covered", "elsewhere")
"""``covered``: a window of fixed size with a disc of fixed size over the cell; other cells may be visible.
``elsewhere``: a window of the same size in the same image, without any nucleated cell."""

WINDOW_UM, DISC_UM = LARGEST_CELL_UM, 20.0
_GREY = (128, 128, 128)
_TRIES = 60
_LEAST_PX = 16


def windows(
    control: str,
    boxes_xyxy: NDArray[np.float32],
    image: tuple[tuple[int, int], Scale],
    cells: NDArray[np.float32],
    marks: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Windows of a negative control, one for each cell.

    Parameters
    ----------
    control : str
        One of `NEGATIVE_CONTROLS`.
    boxes_xyxy : float32 (n, 4)
        The cells, in pixels of the image.
    image : ((int, int), (float, float))
        Width and height in pixels, and µm per pixel along x and y.
    cells : float32 (m, 4)
        All nucleated cells. A window elsewhere does not touch any of them.
    marks : float32 (k, 4)
        Burnt-in marks. No window shows any of them.

    Returns
    -------
    float32 (n, 4)
        Boxes whose crops are squares of `WINDOW_UM`. NaN if there is no such window: no free place was found in 60
        random draws, the image is smaller than the window, or the window is smaller than 16 pixels. The same cells
        always give the same windows.
    """
    size_wh, mpp = image
    half = WINDOW_UM / 2 / np.array(mpp)
    rng = np.random.default_rng(np.frombuffer(boxes_xyxy.astype("<f4").tobytes(), np.uint32))
    found = np.full((len(boxes_xyxy), 4), np.nan, np.float32)
    size = np.array(size_wh, np.float64)
    if (size < 2 * half).any() or 2 * half.max() < _LEAST_PX:
        return found  # the crop would show reflections, or too few pixels
    for row, box in zip(found, boxes_xyxy.reshape(-1, 2, 2).astype(np.float64), strict=True):
        if control == "covered":
            centre = box.mean(axis=0)
            place = centre if _is_free(centre, half, marks) else None
        else:
            place = _free_place(size, half, np.concatenate([cells, marks]), rng)
        if place is not None:
            row[:2], row[2:] = place - half / CONTEXT, place + half / CONTEXT
    return found


def _is_free(centre: NDArray[np.float64], half: NDArray[np.float64], taken: NDArray[np.float32]) -> bool:
    return not ((taken[:, :2] < centre + half) & (taken[:, 2:] > centre - half)).all(axis=1).any()


def _free_place(
    size: NDArray[np.float64], half: NDArray[np.float64], taken: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Centre of a window inside the image that touches nothing of `taken`."""
    draws = (rng.uniform(half, size - half) for _ in range(_TRIES))
    return next((centre for centre in draws if _is_free(centre, half, taken)), None)


def crop_of(control: str, source: Source, box_xyxy: Box, mpp: Scale) -> RGB:
    """Crop of a box, with a grey disc over its centre for the control ``covered``."""
    rgb = crop(source, box_xyxy, mpp)
    if control != "covered":
        return rgb
    side = len(rgb)
    radius = round(side * DISC_UM / WINDOW_UM / 2)
    return np.asarray(cv2.circle(rgb.copy(), (side // 2, side // 2), radius, _GREY, cv2.FILLED), np.uint8)
