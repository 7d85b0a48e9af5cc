"""Which detection found which cell, on one smear: pure arrays, no files, no classes.

Two ways, both in use. `match_greedy` is COCO's: the best score chooses first, separately at every IoU threshold;
average precision rests on it. `match_optimal` (in `confusion`) pairs one to one as well as possible at one
threshold; the confusion matrices rest on that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def to_xywh(boxes_xyxy: ArrayLike) -> Floats:
    """Boxes (n, 4) as COCO writes them: x, y, width, height, float64."""
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def coco_iou(detected_xywh: Floats, truth_xywh: Floats, region: Bools) -> Floats:
    """Intersection over union in COCO's own arithmetic, so that no threshold falls on the other side.

    Parameters
    ----------
    detected_xywh : float64 (d, 4)
    truth_xywh : float64 (g, 4)
    region : bool (g,)
        True for an area to ignore: the divisor is then the area of the detection alone (COCO's "crowd").

    Returns
    -------
    float64 (d, g)
    """
    d, g = detected_xywh[:, None, :], truth_xywh[None, :, :]
    size = np.minimum(d[..., 2:] + d[..., :2], g[..., 2:] + g[..., :2]) - np.maximum(d[..., :2], g[..., :2])
    shared = np.where((size > 0).all(axis=-1), size[..., 0] * size[..., 1], 0.0)
    d_area, g_area = d[..., 2] * d[..., 3], g[..., 2] * g[..., 3]
    union = np.where(region, d_area, d_area + g_area - shared)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0), np.float64)


def match_greedy(iou: Floats, ignored: Bools, region: Bools, thresholds: Floats) -> Ints:
    """COCO's matching on one smear and one class, at all thresholds at once.

    In order of score each detection takes the free cell it overlaps most (of equals the last). A cell to be
    found goes before an ignored one; a region can be taken any number of times.

    Parameters
    ----------
    iou : float64 (d, g)
        Detections in descending order of score.
    ignored, region : bool (g,)
        Truth that neither counts as found nor as missed; a region (`coco_iou`) is always ignored too.
    thresholds : float64 (t,)
        Ascending.

    Returns
    -------
    int64 (t, d)
        Index of the cell that each detection found, -1 for none.

    Source: the protocol of pycocotools' ``COCOeval.evaluateImg``, which the tests compare with.
    """
    limits = np.minimum(thresholds, 1 - 1e-10)
    match = np.full((len(limits), len(iou)), -1, np.int64)
    if not iou.size:
        return match
    near = iou >= limits[0]
    alone = (near.sum(axis=1) == 1) & (near & (near.sum(axis=0) == 1)).any(axis=1)
    _match_alone(iou, near, np.flatnonzero(alone), limits, match)
    contested = np.flatnonzero(near.any(axis=1) & ~alone)
    free = np.ones((len(limits), iou.shape[1]), bool)
    for d in contested:
        _match_contested(iou[d], np.flatnonzero(near[d]), limits, (ignored, region, free), match[:, d])
    return match


def _match_alone(iou: Floats, near: Bools, rows: Ints, limits: Floats, match: Ints) -> None:
    """Pairs without a rival on either side need no order: nearly all cells of a good detector."""
    columns = near[rows].argmax(axis=1)
    match[:, rows] = np.where(iou[rows, columns][None, :] >= limits[:, None], columns[None, :], -1)


def _match_contested(row: Floats, near: Ints, limits: Floats, truth: tuple[Bools, Bools, Bools], match: Ints) -> None:
    ignored, region, free = truth
    # Worst first, cells to ignore before all others: the last one that is free and near enough wins. The sort is
    # stable, hence of equals the last in the order of the truth.
    order = near[np.lexsort((row[near], ~ignored[near]))]
    for t, limit in enumerate(limits):
        for g in order[::-1]:
            if row[g] >= limit and (free[t, g] or region[g]):
                match[t] = g
                free[t, g] = False
                break
