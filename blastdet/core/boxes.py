"""Box geometry as pure array functions. Boxes are float (n, 4) in ``x1, y1, x2, y2`` format, half-open, in pixels."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float32]
Floats = NDArray[np.float64]

ALL_PAIRS_UP_TO = 100
"""Number of boxes above which a grid finds overlaps faster than a comparison of all pairs (7 times at 1,500 boxes)."""

OPENCV_UP_TO = 5_000
"""Number of boxes up to which OpenCV's suppression is faster than the grid (10 times at 4,000 boxes with 400 kept)."""

BATCH = 1 << 16
"""Boxes whose neighbours are searched for at once; limits memory."""

_LARGE = 4  # times the median side: larger boxes are few, and are compared with all others


def area(boxes_xyxy: ArrayLike) -> Floats:
    """Area of each box in px².

    Returns
    -------
    float64 (n,)
        0 for empty and inverted boxes.

    Examples
    --------
    >>> area([[0, 0, 2, 3], [5, 5, 4, 9]]).tolist()
    [6.0, 0.0]
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    return np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)


def pair_iou(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> Floats:
    """Intersection over union of corresponding rows.

    Returns
    -------
    float64 (n,)
        0 for NaN boxes.

    Examples
    --------
    >>> pair_iou([[0, 0, 4, 4]], [[0, 0, 4, 2]]).tolist()
    [0.5]
    """
    a = np.asarray(a_xyxy, np.float64).reshape(-1, 4)
    b = np.asarray(b_xyxy, np.float64).reshape(-1, 4)
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    inter = np.clip(width, 0, None) * np.clip(height, 0, None)
    union = area(a) + area(b) - inter
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, np.nan_to_num(inter / union), 0.0)


def iou_matrix(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> Floats:
    """Intersection over union of all pairs of boxes, float64 (n, m).

    Examples
    --------
    >>> iou_matrix([[0, 0, 4, 4]], [[0, 0, 4, 2], [9, 9, 12, 12]]).tolist()
    [[0.5, 0.0]]
    """
    a = np.asarray(a_xyxy, np.float64).reshape(-1, 4)
    b = np.asarray(b_xyxy, np.float64).reshape(-1, 4)
    rows, columns = np.indices((len(a), len(b))).reshape(2, -1)
    return pair_iou(a[rows], b[columns]).reshape(len(a), len(b))


def clip(boxes_xyxy: ArrayLike, size_wh: tuple[float, float]) -> Boxes:
    """Clip boxes to an image. Returns float32 (n, 4).

    Parameters
    ----------
    size_wh : (float, float)
        Width and height of the image in pixels.

    Examples
    --------
    >>> clip([[-5, -5, 20, 8]], (10, 6)).tolist()
    [[0.0, 0.0, 10.0, 6.0]]
    """
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    limit = np.array([*size_wh, *size_wh], np.float32)
    return np.asarray(np.clip(boxes, 0, limit), np.float32)


def scale(boxes_xyxy: ArrayLike, factor_xy: tuple[float, float]) -> Boxes:
    """Scale boxes by a factor along x and y. Returns float32 (n, 4).

    Examples
    --------
    >>> scale([[1, 2, 3, 4]], (2, 10)).tolist()
    [[2.0, 20.0, 6.0, 40.0]]
    """
    factor = np.array([*factor_xy, *factor_xy], np.float64)
    return np.asarray(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4) * factor, np.float32)


def shift(boxes_xyxy: ArrayLike, offset_xy: tuple[float, float]) -> Boxes:
    """Shift boxes along x and y. Returns float32 (n, 4).

    Examples
    --------
    >>> shift([[1, 2, 3, 4]], (1, -1)).tolist()
    [[2.0, 1.0, 4.0, 3.0]]
    """
    offset = np.array([*offset_xy, *offset_xy], np.float64)
    return np.asarray(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4) + offset, np.float32)


def squares(centres_xy: ArrayLike, side_xy: tuple[float, float]) -> Boxes:
    """Boxes of one size around points, float32 (n, 4).

    Parameters
    ----------
    side_xy : (float, float)
        Width and height of the boxes in pixels.

    Examples
    --------
    >>> squares([[10, 20]], (4, 6)).tolist()
    [[8.0, 17.0, 12.0, 23.0]]
    """
    centres = np.asarray(centres_xy, np.float64).reshape(-1, 2)
    half = np.asarray(side_xy, np.float64) / 2
    return np.asarray(np.concatenate([centres - half, centres + half], axis=1), np.float32)


def overlapping_pairs(
    boxes_xyxy: ArrayLike, *, all_pairs_up_to: int = ALL_PAIRS_UP_TO, batch: int = BATCH
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find all pairs of boxes that share area.

    Small sets are compared pair by pair. Large ones are sorted into a grid, so that time and memory grow with the
    number of boxes and not with its square.

    Parameters
    ----------
    boxes_xyxy : (n, 4)
    all_pairs_up_to : int
        Number of boxes above which the grid is used. Changes the speed, not the result.
    batch : int
        Boxes whose neighbours are searched for at once. Changes the memory, not the result.

    Returns
    -------
    i, j : int64 (m,)
        Indices of the boxes of each pair, with ``i < j``.

    Examples
    --------
    >>> i, j = overlapping_pairs([[0, 0, 4, 4], [9, 9, 12, 12], [2, 2, 6, 6]])
    >>> i.tolist(), j.tolist()
    ([0], [2])
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    i, j = np.concatenate([np.empty((2, 0), np.int64), *_overlaps(boxes, all_pairs_up_to, batch)], axis=1)
    return i, j


def _overlaps(boxes: Floats, all_pairs_up_to: int = ALL_PAIRS_UP_TO, batch: int = BATCH) -> Iterator[NDArray[np.int64]]:
    """Yield all pairs of boxes that share area, in several arrays (2, m)."""
    all_pairs = len(boxes) <= all_pairs_up_to
    pairs = [np.stack(np.triu_indices(len(boxes), k=1))] if all_pairs else _grid_pairs(boxes, batch)
    for i, j in pairs:
        touch = (np.minimum(boxes[i, 2:], boxes[j, 2:]) > np.maximum(boxes[i, :2], boxes[j, :2])).all(axis=1)
        yield np.stack([i[touch], j[touch]])


def _grid_pairs(boxes: Floats, batch: int = BATCH) -> Iterator[NDArray[np.int64]]:
    """Yield all pairs of boxes in the same field of a grid or in adjacent fields, as `_overlaps`."""
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    large = side > _LARGE * np.median(side)
    if large.sum() > len(boxes) // 100:
        large[:] = False
    every = np.arange(len(boxes))
    for k in np.flatnonzero(large):  # a grid as wide as these few boxes would be of no use
        other = every[~large | (every > k)]
        yield np.stack([np.minimum(k, other), np.maximum(k, other)])
    usual = np.flatnonzero(~large)
    for pairs in _mesh_pairs(boxes[usual], max(float(side[usual].max()), 1.0), batch):
        yield usual[pairs]


def _mesh_pairs(boxes: Floats, mesh: float, batch: int) -> Iterator[NDArray[np.int64]]:
    """As `_grid_pairs`, for boxes that are not larger than the mesh."""
    cell = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2 / mesh).astype(np.int64)
    cell -= cell.min(axis=0) - 1
    row_length = int(cell[:, 0].max()) + 2
    key = cell[:, 1] * row_length + cell[:, 0]
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    for start in range(0, len(boxes), batch):
        some = key[start : start + batch]
        for step in (0, 1, row_length - 1, row_length, row_length + 1):  # each pair of fields once
            first = np.searchsorted(sorted_key, some + step, "left")
            count = np.searchsorted(sorted_key, some + step, "right") - first
            left = np.repeat(np.arange(start, start + len(some)), count)
            within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            right = order[np.repeat(first, count) + within]
            keep = left < right if step == 0 else left != right
            yield np.stack([np.minimum(left, right)[keep], np.maximum(left, right)[keep]])


def suppress(
    boxes_xyxy: ArrayLike, score: ArrayLike, iou: float, *, opencv_up_to: int = OPENCV_UP_TO
) -> NDArray[np.int64]:
    """Greedy, class-agnostic non-maximum suppression.

    Parameters
    ----------
    boxes_xyxy : (n, 4)
    score : (n,)
    iou : float
        A box is removed if its IoU with a better box is more than this (by more than 1e-6). Boxes with equal scores are
        ordered by position (y1, x1, y2, x2), so that the result does not depend on the order of the input.
    opencv_up_to : int
        Number of boxes above which the grid is used instead of OpenCV. Changes the speed, not the result.

    Returns
    -------
    int64 (k,)
        Indices of the boxes kept, best first. Empty boxes and boxes with NaN or infinity are always kept.

    Examples
    --------
    >>> suppress([[0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]], [0.5, 0.9, 0.8], iou=0.5).tolist()
    [1, 2]
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    rank = np.lexsort((boxes[:, 2], boxes[:, 3], boxes[:, 0], boxes[:, 1], -np.asarray(score, np.float64)))
    ranked = boxes[rank]
    alive = ~((area(ranked) > 0) & np.isfinite(ranked).all(axis=1))  # these overlap nothing
    solid = np.flatnonzero(~alive)
    alive[solid] = (_suppress_with_opencv if len(solid) <= opencv_up_to else _suppress_with_grid)(ranked[solid], iou)
    return rank[alive]


def _suppress_with_opencv(ranked: Floats, iou: float) -> NDArray[np.bool_]:
    """Mask (n,) of the boxes to keep; `ranked` is sorted, best first."""
    alive = np.zeros(len(ranked), bool)
    xywh = np.concatenate([ranked[:, :2], ranked[:, 2:] - ranked[:, :2]], axis=1)
    equal = np.ones(len(ranked))  # of equal scores, OpenCV keeps the first
    # OpenCV computes in float32: without the margin, an IoU equal to the limit might exceed it.
    kept = cv2.dnn.NMSBoxes(xywh, equal, 0.0, iou + 1e-6)  # type: ignore[arg-type]  # arrays are accepted
    alive[np.asarray(kept, np.int64)] = True
    return alive


def _suppress_with_grid(ranked: Floats, iou: float) -> NDArray[np.bool_]:
    """As `_suppress_with_opencv`, in time proportional to the number of boxes."""
    rivals = (pair[:, pair_iou(ranked[pair[0]], ranked[pair[1]]) > iou] for pair in _overlaps(ranked))
    i, j = np.concatenate([np.empty((2, 0), np.int64), *rivals], axis=1)
    order = np.lexsort((j, i))
    i, j = i[order], j[order]
    first = np.searchsorted(i, np.arange(len(ranked) + 1))
    alive = np.ones(len(ranked), bool)
    for k in np.unique(i):  # best first: a box that is removed does not remove others
        if alive[k]:
            alive[j[first[k] : first[k + 1]]] = False
    return alive
