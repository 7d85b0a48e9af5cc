"""Classical segmentation of nucleated cells: from a centroid to a box, and weak boxes where nobody drew any.

Everything is measured relative to the picture's own background and red cells, never against a fixed colour: nuclei
absorb red and green light more than blue under every Romanowsky stain, haemoglobin does not. The constants were chosen
on BCCD train.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastdet.core.errors import ScaleError
from blastdet.core.types import RGB, WBC, Detections, Scale
from blastdet.imaging.optical_density import Image32, absorbance, first_mode, mean_density

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

WORK_MPP = 0.3125
"""µm per pixel that the work is done at: 24 pixels across a red cell."""

_LONGEST_SIDE = 30_000
_UNSCALED_SIDE = 512  # longest side to work at where µm/px is not known
_MIN_NUCLEUS_UM2 = 9.0  # a platelet covers about 7 µm², the nucleus of a small lymphocyte 30
_CYTOPLASM = 0.10  # part of a nucleus's colour that cytoplasm shows at least
_REACH_UM = 6.5  # cytoplasm further than this from every nucleus pixel belongs to something else


def nucleus_mask(rgb: RGB, mpp: Scale | None = None) -> Mask:
    """Pixels of nuclei.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    mpp : (float, float), optional
        µm per pixel along x and y. Without it the picture is worked on at 512 pixels, and no size is asked for.

    Returns
    -------
    bool (h, w)
    """
    work = _to_work(rgb, mpp)
    feature = _smooth(_nuclear_feature(absorbance(work)))
    nuclei = _nuclei(feature, _MIN_NUCLEUS_UM2 / WORK_MPP**2 if mpp else 12)
    full = cv2.resize(nuclei.astype(np.uint8), rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(full, bool)


def segment_cells(rgb: RGB, mpp: Scale) -> Detections:
    """Nucleated cells found without any hint: weak boxes, origin ``segment``.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    mpp : (float, float)
        µm per pixel along x and y.

    Returns
    -------
    Detections
        Class ``wbc``, score 1, in canonical order.
    """
    work = _to_work(rgb, mpp)
    density = absorbance(work)
    feature = _smooth(_nuclear_feature(density))
    nuclei = _nuclei(feature, _MIN_NUCLEUS_UM2 / WORK_MPP**2)
    if not nuclei.any():
        return Detections.empty()
    cells = _cell_mask(feature, nuclei)
    seeds = _with_nucleus(_split(cells), nuclei)
    labels = _spread(seeds, cells, round(2 * _REACH_UM / WORK_MPP))
    boxes = _boxes(labels, int(labels.max()))
    boxes = boxes[~np.isnan(boxes[:, 0])]
    found = Detections(_to_full(boxes, rgb, work), label=np.full(len(boxes), WBC))
    return found.with_columns(origin=np.full(len(found), "segment")).sorted()


def cell_masks(rgb: RGB, points_xy: ArrayLike, mpp: Scale) -> Labels:
    """Whole cells (nucleus and cytoplasm) around given centres, touching cells split.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    points_xy : (n, 2)
        One point inside each cell, in pixels.
    mpp : (float, float)
        µm per pixel along x and y.

    Returns
    -------
    int32 (h, w)
        0 outside, ``i + 1`` in the cell of point i.
    """
    labels = _seeded(rgb, np.asarray(points_xy, np.float64).reshape(-1, 2), mpp)
    full = cv2.resize(labels.astype(np.float32), rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(full, np.int32)


def nucleated_boxes_from_points(rgb: RGB, points_xy: ArrayLike, mpp: Scale) -> NDArray[np.float32]:
    """Box of the whole cell around each given centre, float32 (n, 4); parameters as for `cell_masks`."""
    points = np.asarray(points_xy, np.float64).reshape(-1, 2)
    labels = _seeded(rgb, points, mpp)
    return _to_full(_boxes(labels, len(points)), rgb, labels)


def _to_work(rgb: RGB, mpp: Scale | None) -> RGB:
    height, width = rgb.shape[:2]
    factor_x, factor_y = (m / WORK_MPP for m in mpp) if mpp else (_UNSCALED_SIDE / max(height, width),) * 2
    if mpp is None and factor_x >= 1:
        return rgb
    size = max(round(width * factor_x), 1), max(round(height * factor_y), 1)
    if max(size) > _LONGEST_SIDE:
        raise ScaleError(f"{width} x {height} pixels of {mpp} µm: {size[0]} x {size[1]} to work on, too many")
    method = cv2.INTER_AREA if factor_x * factor_y < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=method), np.uint8)


def _to_full(boxes: NDArray[np.float32], full: NDArray[np.uint8], work: NDArray[np.generic]) -> NDArray[np.float32]:
    factor = np.array([full.shape[1] / work.shape[1], full.shape[0] / work.shape[0]] * 2)
    return np.asarray(boxes * factor, np.float32)


def _nuclear_feature(density: Image32) -> Image32:
    """Green and red absorbed beyond blue, less what the red cells of this picture absorb so."""
    purple = density[..., 0] / 2 + density[..., 1] - density[..., 2]
    total = mean_density(density)
    stained = total > max(0.3 * float(np.percentile(total, 95)), 0.04)
    hue = first_mode(purple[stained] / total[stained]) if stained.any() else 0.0
    return np.asarray(purple - np.clip(hue, 0.0, 1.5) * total, np.float32)


def _smooth(image: Image32) -> Image32:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.8), np.float32)


def _threshold(values: NDArray[np.float32]) -> float:
    """Otsu's threshold on a square-root histogram, so that one cell in a large field still counts as a class."""
    low, high = np.percentile(values, [0.5, 99.95])
    if high - low < 1e-3:
        return float("inf")
    count, edges = np.histogram(values, bins=128, range=(float(low), float(high)))
    weight = np.sqrt(count)
    centre = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(weight), weight.sum()
    first = np.cumsum(weight * centre)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (first[-1] * below / total - first) ** 2 / (below * (total - below))
    if np.isnan(between[:-1]).all():  # all but a few pixels are equal: one class
        return float("inf")
    return float(centre[int(np.nanargmax(between[:-1]))])


def _nuclei(feature: Image32, min_area: float) -> Mask:
    cut = _threshold(feature.ravel())
    mask = feature > cut
    rest = feature[~mask]
    if not mask.any() or feature[mask].mean() - rest.mean() < max(0.06, 2 * rest.std()):
        return np.zeros(feature.shape, bool)
    opened = cv2.morphologyEx(
        mask.astype(np.uint8), cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    )
    return _drop_small(opened.astype(bool), min_area)


def _drop_small(mask: Mask, min_area: float) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area
    keep[0] = False
    return np.asarray(keep[labels], bool)


def _with_nucleus(labels: Labels, nuclei: Mask) -> Labels:
    """The nucleus pixels of every label that holds enough of them to be a cell."""
    seeds = np.where(nuclei, labels, 0)
    area = np.bincount(seeds.ravel(), minlength=int(labels.max()) + 1) * WORK_MPP**2
    return np.where(area[seeds] >= _MIN_NUCLEUS_UM2, seeds, 0).astype(np.int32)


def _split(cells: Mask) -> Labels:
    """One label a cell: blobs that touch are parted at their necks."""
    # a cell cut by the border goes on outside, so that its depth is not measured from the border
    padded = cv2.copyMakeBorder(cells.astype(np.uint8), 6, 6, 6, 6, cv2.BORDER_REPLICATE)
    inner = _smooth(np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5), np.float32)[6:-6, 6:-6])
    peak = (inner >= cv2.dilate(inner, _disc(2.5))) & (inner > 1)
    _, seeds = cv2.connectedComponents(cv2.dilate(peak.astype(np.uint8), _disc(0.6)))
    labels = np.asarray(seeds, np.int32)
    inner = np.minimum(inner, max(inner.shape))  # without a pixel outside, depth has no end
    for level in np.arange(inner.max(), -0.5, -0.5):  # watershed: from the middle of every blob outwards
        labels = _spread(labels, (inner > max(level, 0)) & cells, 3)
    return _join_lobes(labels, inner)


def _join_lobes(labels: Labels, inner: Image32) -> Labels:
    """Neighbours are one cell if their common border is thick and their union is convex."""
    joined = labels.copy()
    peak = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(peak, labels.ravel(), inner.ravel())
    parts = [_facing(labels, inner, *step) for step in ((0, 1), (1, 0), (1, 1), (1, -1))]
    saddles: dict[tuple[int, int], float] = {}
    for a, b, depth in zip(*(np.concatenate(column) for column in zip(*parts, strict=True)), strict=True):
        pair = int(min(a, b)), int(max(a, b))
        saddles[pair] = max(saddles.get(pair, 0.0), float(depth / min(peak[a], peak[b])))
    for (a, b), _ in sorted(saddles.items(), key=lambda item: (-item[1], item[0])):
        first, second = (int(joined[labels == i][0]) for i in (a, b))
        if first != second and saddles[a, b] > 0.6 and _solidity((joined == first) | (joined == second)) > 0.92:
            joined[joined == second] = first
    return joined


def _solidity(mask: Mask) -> float:
    """Area over area of the convex hull."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    return len(points) / max(cv2.contourArea(cv2.convexHull(points)), 1.0)


def _facing(labels: Labels, inner: Image32, shift_y: int, shift_x: int) -> tuple[Labels, Labels, Image32]:
    h, w = labels.shape
    here = (slice(0, h - shift_y), slice(max(0, -shift_x), w - max(0, shift_x)))
    there = (slice(shift_y, h), slice(max(0, shift_x), w + min(0, shift_x)))
    a, b = labels[here], labels[there]
    border = (a != b) & (a > 0) & (b > 0)
    return a[border], b[border], np.minimum(inner[here], inner[there])[border]


def _spread(labels: Labels, inside: Mask, steps: int) -> Labels:
    """Labels grown by `steps` pixels within a mask; where two meet, they stop."""
    # What OpenCV dilates fastest: 16 bits, unless there are more cells than that.
    grown = labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    square = np.ones((3, 3), np.uint8)
    for step in range(steps):
        free = inside & (grown == 0)
        if not free.any():
            break
        np.copyto(grown, cv2.dilate(grown, square if step % 2 else cross), where=free)
    return grown.astype(np.int32)


def _cell_mask(feature: Image32, nuclei: Mask) -> Mask:
    """Nuclei with the cytoplasm around them."""
    near = cv2.distanceTransform((~nuclei).astype(np.uint8), cv2.DIST_L2, 5) < _REACH_UM / WORK_MPP
    outside = feature[~near] if (~near).any() else feature[~nuclei]
    if not outside.size or not nuclei.any():
        return nuclei
    base, most = np.percentile(outside, [50, 90])
    level = float(np.median(feature[nuclei]))
    cell = near & (feature > max(base + _CYTOPLASM * (level - base), most))
    closed = cv2.morphologyEx((cell | nuclei).astype(np.uint8), cv2.MORPH_CLOSE, _disc(0.6))
    return np.asarray(cv2.morphologyEx(_filled(closed), cv2.MORPH_OPEN, _disc(1.2)), bool) | nuclei


def _filled(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros_like(mask), contours, -1, 1, cv2.FILLED), np.uint8)


def _disc(radius_um: float) -> NDArray[np.uint8]:
    side = 2 * max(round(radius_um / WORK_MPP), 1) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _boxes(labels: Labels, n: int) -> NDArray[np.float32]:
    boxes = np.full((n, 4), np.nan, np.float32)
    for i in range(n):
        ys, xs = np.nonzero(labels == i + 1)
        if len(xs):
            boxes[i] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return boxes


def _seeded(rgb: RGB, points: NDArray[np.float64], mpp: Scale) -> Labels:
    work = _to_work(rgb, mpp)
    density = absorbance(work)
    feature = _smooth(_nuclear_feature(density))
    nuclei = _nuclei(feature, 4)
    points = points * (work.shape[1] / rgb.shape[1], work.shape[0] / rgb.shape[0])
    seeds = _nearest(nuclei, points)
    return _spread(seeds, _cell_mask(feature, seeds > 0), round(2 * _REACH_UM / WORK_MPP))


def _nearest(nuclei: Mask, points: NDArray[np.float64]) -> Labels:
    """Each nucleus pixel to the nearest point within reach."""
    labels = np.zeros(nuclei.shape, np.int32)
    if not len(points):
        return labels
    ys, xs = np.nonzero(nuclei)
    squared = (xs[:, None] - points[:, 0]) ** 2 + (ys[:, None] - points[:, 1]) ** 2
    owner = squared.argmin(axis=1)
    labels[ys, xs] = np.where(squared.min(axis=1) < (8 / WORK_MPP) ** 2, owner + 1, 0)
    return labels
