"""Boxes for cells that are annotated with points: nucleated cells by `nuclei`, red cells by `red_cells`."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes
from blastdet.core.constants import RED_CELL_UM
from blastdet.core.mpp import check_mpp
from blastdet.core.types import BLAST, RBC, RGB, WBC, Detections, Scale
from blastdet.segmentation import nuclei
from blastdet.segmentation.mpp_estimation import MARGIN
from blastdet.segmentation.red_cells import RADIUS, density_plane, fit_ellipses


def boxes_from_points(rgb: RGB, cells: Detections, mpp: Scale) -> Detections:
    """Segment the cell around each point, and use its extent as box. Existing boxes are kept.

    Raises `ScaleError` if `mpp` is not a scale.

    Parameters
    ----------
    cells : Detections
        Cells with a `point_xy` and a box of NaN get a box.

    Returns
    -------
    Detections
        In canonical order. New boxes have the ``origin`` ``"segment"``. Points of platelets, and points where no cell
        is found, keep a box of NaN.

    Examples
    --------
    >>> from blastdet.synth.render import SynthConfig, render
    >>> image, truth = render(SynthConfig(size_wh=(640, 480), mpp=0.1, white_cells=0, overlap=0), seed=1)
    >>> cells = truth.with_classes("rbc")
    >>> points = cells.with_columns(boxes_xyxy=np.full((len(cells), 4), np.nan), point_xy=cells.centres_xy)
    >>> found = boxes_from_points(image, points, (0.1, 0.1))
    >>> bool(np.isfinite(found.boxes_xyxy).all(axis=1).mean() > 0.5)
    True
    """
    mpp = check_mpp(mpp)
    if cells.point_xy is None:
        return cells
    open_ = np.isnan(cells.boxes_xyxy[:, 0])
    found = np.full((len(cells), 4), np.nan, np.float32)
    nucleated = open_ & np.isin(cells.label, (BLAST, WBC))
    red = open_ & np.isin(cells.label, RBC)
    if nucleated.any():
        found[nucleated] = nuclei.nucleated_boxes_from_points(rgb, cells.point_xy[nucleated], mpp)
    if red.any():
        found[red] = red_cell_boxes_from_points(rgb, cells.point_xy[red], mpp)
    found = boxes.clip(found, (rgb.shape[1], rgb.shape[0]))
    segmented: NDArray[np.bool_] = np.asarray(np.isfinite(found).all(axis=1))
    origin = np.full(len(cells), "", "<U7") if cells.origin is None else cells.origin.astype("<U7")
    return cells.with_columns(
        boxes_xyxy=np.where(segmented[:, None], found, cells.boxes_xyxy), origin=np.where(segmented, "segment", origin)
    ).sorted()


def red_cell_boxes_from_points(rgb: RGB, points_xy: NDArray[np.floating], mpp: Scale) -> NDArray[np.float32]:
    """Segment the red cell around each given centre.

    On every sixth image of BCCD train, with the centres of the annotated boxes, 65 % of the cells get a box. The median
    IoU is 0.83, and 98.6 % of the boxes are above 0.5. Cells in clumps have no complete edge and get no box. Raises
    `ScaleError` if `mpp` is not a scale.

    Returns
    -------
    float32 (n, 4)
        NaN where no red cell is found.
    """
    mpp = check_mpp(mpp)
    points = np.asarray(points_xy, np.float64).reshape(-1, 2)
    nothing = np.full((len(points), 4), np.nan, np.float32)
    work = RED_CELL_UM / (2 * RADIUS)
    size = max(round(rgb.shape[1] * mpp[0] / work), 1), max(round(rgb.shape[0] * mpp[1] / work), 1)
    method = cv2.INTER_AREA if min(mpp) < work else cv2.INTER_LINEAR
    plane, _ = density_plane(np.asarray(cv2.resize(rgb, size, interpolation=method), np.uint8))
    if plane is None:
        return nothing
    ratio = np.array([rgb.shape[1] / size[0], rgb.shape[0] / size[1]])
    fits, kept = fit_ellipses(plane, points / ratio - 0.5)
    # an ellipse that does not contain the point is that of a neighbouring cell
    kept &= (np.abs((points / ratio - 0.5 - fits.centre) / np.nan_to_num(fits.half, nan=1.0)) < 1).all(axis=1)
    centre, half = (fits.centre + 0.5) * ratio, fits.half * ratio * MARGIN
    return np.where(kept[:, None], np.concatenate([centre - half, centre + half], axis=1), nothing).astype(np.float32)
