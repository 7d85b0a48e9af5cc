"""Geometry of boxes as pure array functions. Boxes are float (n, 4), ``x1, y1, x2, y2``, half-open."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float32]
Floats = NDArray[np.float64]

# Above this many boxes the grid is faster than all pairs (measured: 7 times at 1,500).
_FEW = 100
# Up to this many, OpenCV's plain loop over all boxes kept is faster still (10 times at 4,000 with 400 kept).
_MANY = 5_000
_LARGE = 4  # times the median side: few boxes are, and they are compared with all
_TOGETHER = 1 << 16  # boxes whose neighbours are looked at together: bounds memory


def area(boxes_xyxy: ArrayLike) -> Floats:
    """Area of each box in px², (n,); 0 for a box without extent."""
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    return np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)


def pair_iou(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> Floats:
    """Intersection over union of row i of `a_xyxy` with row i of `b_xyxy`, (n,); NaN boxes give 0."""
    a = np.asarray(a_xyxy, np.float64).reshape(-1, 4)
    b = np.asarray(b_xyxy, np.float64).reshape(-1, 4)
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    inter = np.clip(width, 0, None) * np.clip(height, 0, None)
    union = area(a) + area(b) - inter
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, np.nan_to_num(inter / union), 0.0)


def iou_matrix(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> Floats:
    """Intersection over union of every box of `a_xyxy` with every box of `b_xyxy`, (n, m)."""
    a = np.asarray(a_xyxy, np.float64).reshape(-1, 4)
    b = np.asarray(b_xyxy, np.float64).reshape(-1, 4)
    rows, columns = np.indices((len(a), len(b))).reshape(2, -1)
    return pair_iou(a[rows], b[columns]).reshape(len(a), len(b))


def clip(boxes_xyxy: ArrayLike, size_wh: tuple[float, float]) -> Boxes:
    """Boxes cut to an image of `size_wh` pixels."""
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    limit = np.array([*size_wh, *size_wh], np.float32)
    return np.asarray(np.clip(boxes, 0, limit), np.float32)


def scale(boxes_xyxy: ArrayLike, factor_xy: tuple[float, float]) -> Boxes:
    """Boxes multiplied by a factor along x and along y."""
    factor = np.array([*factor_xy, *factor_xy], np.float64)
    return np.asarray(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4) * factor, np.float32)


def shift(boxes_xyxy: ArrayLike, offset_xy: tuple[float, float]) -> Boxes:
    """Boxes moved by an offset along x and along y."""
    offset = np.array([*offset_xy, *offset_xy], np.float64)
    return np.asarray(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4) + offset, np.float32)


def squares(centres_xy: ArrayLike, side_xy: tuple[float, float]) -> Boxes:
    """Boxes of one size around centres (n, 2)."""
    centres = np.asarray(centres_xy, np.float64).reshape(-1, 2)
    half = np.asarray(side_xy, np.float64) / 2
    return np.asarray(np.concatenate([centres - half, centres + half], axis=1), np.float32)


def overlapping_pairs(boxes_xyxy: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pair ``i < j`` of boxes that share area, as two index arrays.

    Small sets are compared all with all; large ones through a grid whose mesh is the largest side, so that
    time and memory grow with the number of boxes and not with its square.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    i, j = np.concatenate([np.empty((2, 0), np.int64), *_touching(boxes)], axis=1)
    return i, j


def _touching(boxes: Floats) -> Iterator[NDArray[np.int64]]:
    """Every pair of boxes that share area, as arrays (2, m), a part of them at a time."""
    pairs = [np.stack(np.triu_indices(len(boxes), k=1))] if len(boxes) <= _FEW else _grid_pairs(boxes)
    for i, j in pairs:
        touch = (np.minimum(boxes[i, 2:], boxes[j, 2:]) > np.maximum(boxes[i, :2], boxes[j, :2])).all(axis=1)
        yield np.stack([i[touch], j[touch]])


def _grid_pairs(boxes: Floats) -> Iterator[NDArray[np.int64]]:
    """Every pair of boxes in the same field of a grid or in two that touch, as `_touching`."""
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    large = side > _LARGE * np.median(side)
    if large.sum() > len(boxes) // 100:
        large[:] = False
    every = np.arange(len(boxes))
    for k in np.flatnonzero(large):  # a wide mesh for the sake of a few would compare all with all
        other = every[~large | (every > k)]
        yield np.stack([np.minimum(k, other), np.maximum(k, other)])
    usual = np.flatnonzero(~large)
    for pairs in _mesh_pairs(boxes[usual], max(float(side[usual].max()), 1.0)):
        yield usual[pairs]


def _mesh_pairs(boxes: Floats, mesh: float) -> Iterator[NDArray[np.int64]]:
    """As `_grid_pairs`, of boxes that are no larger than the mesh."""
    cell = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2 / mesh).astype(np.int64)
    cell -= cell.min(axis=0) - 1
    row_length = int(cell[:, 0].max()) + 2
    key = cell[:, 1] * row_length + cell[:, 0]
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    for start in range(0, len(boxes), _TOGETHER):
        some = key[start : start + _TOGETHER]
        for step in (0, 1, row_length - 1, row_length, row_length + 1):  # each unordered pair of fields once
            first = np.searchsorted(sorted_key, some + step, "left")
            count = np.searchsorted(sorted_key, some + step, "right") - first
            left = np.repeat(np.arange(start, start + len(some)), count)
            within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            right = order[np.repeat(first, count) + within]
            keep = left < right if step == 0 else left != right
            yield np.stack([np.minimum(left, right)[keep], np.maximum(left, right)[keep]])


def suppress(boxes_xyxy: ArrayLike, score: ArrayLike, iou: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression, blind to class: one cell, one box.

    Parameters
    ----------
    boxes_xyxy : (n, 4)
    score : (n,)
    iou : float
        A box goes if it overlaps a better one by more than this (to a millionth). Equal scores are settled by position
        (y1, x1, y2, x2), so that the result does not depend on the order of the input.

    Returns
    -------
    int64 (k,)
        Indices of the boxes kept, best first.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    rank = np.lexsort((boxes[:, 2], boxes[:, 3], boxes[:, 0], boxes[:, 1], -np.asarray(score, np.float64)))
    ranked = boxes[rank]
    alive = ~((area(ranked) > 0) & np.isfinite(ranked).all(axis=1))  # what overlaps nothing stays
    solid = np.flatnonzero(~alive)
    alive[solid] = (_suppress_few if len(solid) <= _MANY else _suppress_many)(ranked[solid], iou)
    return rank[alive]


def _suppress_few(ranked: Floats, iou: float) -> NDArray[np.bool_]:
    """Which of the boxes stay, best first."""
    alive = np.zeros(len(ranked), bool)
    xywh = np.concatenate([ranked[:, :2], ranked[:, 2:] - ranked[:, :2]], axis=1)
    equal = np.ones(len(ranked))  # among equal scores the earlier box is the better one
    # It computes in float32: an overlap of just so much would sometimes count as more.
    kept = cv2.dnn.NMSBoxes(xywh, equal, 0.0, iou + 1e-6)  # type: ignore[arg-type]  # it takes arrays
    alive[np.asarray(kept, np.int64)] = True
    return alive


def _suppress_many(ranked: Floats, iou: float) -> NDArray[np.bool_]:
    """As `_suppress_few`, in a time that grows with the number of boxes alone."""
    rivals = (pair[:, pair_iou(ranked[pair[0]], ranked[pair[1]]) > iou] for pair in _touching(ranked))
    i, j = np.concatenate([np.empty((2, 0), np.int64), *rivals], axis=1)
    order = np.lexsort((j, i))
    i, j = i[order], j[order]
    first = np.searchsorted(i, np.arange(len(ranked) + 1))
    alive = np.ones(len(ranked), bool)
    for k in np.unique(i):  # in order of rank, so that a box removed earlier removes no other
        if alive[k]:
            alive[j[first[k] : first[k + 1]]] = False
    return alive
