"""Classical segmentation of nucleated cells: boxes from given points, and weak boxes without any annotation.

All measurements are relative to the background and the red cells of the same image, never to a fixed colour: under
every Romanowsky stain, nuclei absorb red and green light more than blue, and haemoglobin does not. The constants were
chosen on BCCD train.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastdet.core.constants import LARGEST_CELL_UM
from blastdet.core.errors import ScaleError
from blastdet.core.mpp import check_mpp
from blastdet.core.types import RGB, WBC, Detections, Scale
from blastdet.imaging.optical_density import Image32, absorbance, first_mode, mean_density

__all__ = ["WORK_MPP", "cell_masks", "nucleated_boxes_from_points", "nucleus_mask", "segment_cells"]

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

WORK_MPP = 0.3125
"""Working resolution in µm per pixel: a red cell is 24 pixels wide."""

_LONGEST_SIDE = 30_000
_UNSCALED_SIDE = 512  # longest side of the working image if the scale is unknown
_MIN_NUCLEUS_UM2 = 9.0  # a platelet covers about 7 µm², the nucleus of a small lymphocyte 30
_CYTOPLASM = 0.10  # lowest colour of cytoplasm, as a fraction of that of nuclei
_REACH_UM = 6.5  # largest distance of cytoplasm from the nearest nucleus
_MOST_JOINED_UM = 2 * LARGEST_CELL_UM  # joined lobes never span more; keeps the work small if a whole image is stained
_SEED_REACH_UM = 8.0  # largest distance of a nucleus pixel from the point that it belongs to


def nucleus_mask(rgb: RGB, mpp: Scale | None = None) -> Mask:
    """Mask of the pixels of nuclei, bool (h, w).

    Raises `ScaleError` if `mpp` is not a scale.

    Parameters
    ----------
    mpp : (float, float), optional
        µm per pixel along x and y. If not given, the image is processed at 512 pixels and only specks are removed.

    Examples
    --------
    >>> blank = np.full((60, 80, 3), 240, np.uint8)
    >>> int(nucleus_mask(blank, (0.1, 0.1)).sum())
    0
    """
    work = _to_work(rgb, None if mpp is None else check_mpp(mpp))
    feature = _smooth(_nuclear_feature(absorbance(work)))
    nuclei = _nuclei(feature, _MIN_NUCLEUS_UM2 / WORK_MPP**2 if mpp is not None else 12)
    full = cv2.resize(nuclei.astype(np.uint8), rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(full, bool)


def segment_cells(rgb: RGB, mpp: Scale) -> Detections:
    """Weak boxes of all nucleated cells, without any annotation.

    Raises `ScaleError` if `mpp` is not a scale, or the image would be too large at `WORK_MPP`.

    Returns
    -------
    Detections
        Class ``wbc``, score 1, origin ``segment``, in canonical order.
    """
    work = _to_work(rgb, check_mpp(mpp))
    feature = _smooth(_nuclear_feature(absorbance(work)))
    nuclei = _nuclei(feature, _MIN_NUCLEUS_UM2 / WORK_MPP**2)
    if not nuclei.any():
        return Detections.empty()
    cells = _cell_mask(feature, nuclei)
    labels = _grown(_with_nucleus(_split(cells), nuclei), cells)
    boxes = _boxes(labels, int(labels.max()))
    boxes = boxes[~np.isnan(boxes[:, 0])]
    found = Detections(_to_full(boxes, rgb, work), label=np.full(len(boxes), WBC))
    return found.with_columns(origin=np.full(len(found), "segment")).sorted()


def cell_masks(rgb: RGB, points_xy: ArrayLike, mpp: Scale) -> Labels:
    """Whole cells (nucleus and cytoplasm) around given points; touching cells are separated.

    Raises `ScaleError` if `mpp` is not a scale, or the image would be too large at `WORK_MPP`.

    Parameters
    ----------
    points_xy : (n, 2)
        One point inside each cell, in pixels.

    Returns
    -------
    int32 (h, w)
        ``i + 1`` in the cell of point i, 0 elsewhere.
    """
    labels = _seeded(rgb, np.asarray(points_xy, np.float64).reshape(-1, 2), check_mpp(mpp))
    full = cv2.resize(labels.astype(np.float32), rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(full, np.int32)


def nucleated_boxes_from_points(rgb: RGB, points_xy: ArrayLike, mpp: Scale) -> NDArray[np.float32]:
    """Box of the whole cell around each given point.

    Parameters and errors are those of `cell_masks`.

    Returns
    -------
    float32 (n, 4)
        In pixels of the image; NaN if there is no nucleus at the point.
    """
    points = np.asarray(points_xy, np.float64).reshape(-1, 2)
    labels = _seeded(rgb, points, check_mpp(mpp))
    return _to_full(_boxes(labels, len(points)), rgb, labels)


def _to_work(rgb: RGB, mpp: Scale | None) -> RGB:
    height, width = rgb.shape[:2]
    factor_x, factor_y = (m / WORK_MPP for m in mpp) if mpp else (_UNSCALED_SIDE / max(height, width),) * 2
    if mpp is None and factor_x >= 1:
        return rgb
    size = max(round(width * factor_x), 1), max(round(height * factor_y), 1)
    if max(size) > _LONGEST_SIDE:
        raise ScaleError(
            f"expected at most {_LONGEST_SIDE} pixels a side at {WORK_MPP} µm/px, got {size[0]} x {size[1]} "
            f"for an image of {width} x {height} pixels at {mpp} µm/px"
        )
    method = cv2.INTER_AREA if factor_x * factor_y < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=method), np.uint8)


def _to_full(boxes: NDArray[np.float32], full: NDArray[np.uint8], work: NDArray[np.generic]) -> NDArray[np.float32]:
    factor = np.array([full.shape[1] / work.shape[1], full.shape[0] / work.shape[0]] * 2)
    return np.asarray(boxes * factor, np.float32)


def _nuclear_feature(density: Image32) -> Image32:
    """Absorbance of green and red beyond blue, minus that of the red cells of this image."""
    purple = density[..., 0] / 2 + density[..., 1] - density[..., 2]
    total = mean_density(density)
    stained = total > max(0.3 * float(np.percentile(total, 95)), 0.04)
    hue = first_mode(purple[stained] / total[stained]) if stained.any() else 0.0
    return np.asarray(purple - np.clip(hue, 0.0, 1.5) * total, np.float32)


def _smooth(image: Image32) -> Image32:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.8), np.float32)


def _threshold(values: NDArray[np.float32]) -> float:
    """Otsu's threshold on a square-root histogram, so that a single cell in a large field still forms a class."""
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
    if np.isnan(between[:-1]).all():  # nearly all pixels are equal: there is one class only
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
    """The nucleus pixels of every label that has enough of them to be a cell."""
    seeds = np.where(nuclei, labels, 0)
    area = np.bincount(seeds.ravel(), minlength=int(labels.max()) + 1) * WORK_MPP**2
    return np.where(area[seeds] >= _MIN_NUCLEUS_UM2, seeds, 0).astype(np.int32)


def _split(cells: Mask) -> Labels:
    """One label per cell: touching cells are separated at their necks, by a watershed of the depth inside the mask."""
    from skimage.measure import label
    from skimage.segmentation import watershed

    # A cell cut by the border continues outside, so its depth is not measured from the border.
    padded = cv2.copyMakeBorder(cells.astype(np.uint8), 6, 6, 6, 6, cv2.BORDER_REPLICATE)
    depth = _smooth(np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5), np.float32)[6:-6, 6:-6])
    depth = np.minimum(depth, max(depth.shape))  # without a pixel outside the mask, the distance is infinite
    peak = (depth >= cv2.dilate(depth, _ellipse(2.5))) & (depth > 1)
    seeds = label(cv2.dilate(peak.astype(np.uint8), _ellipse(0.6)), connectivity=2)
    return _join_lobes(np.asarray(watershed(-depth, seeds, mask=cells), np.int32), depth)


@dataclass
class _Part:
    """A label or several joined labels: their numbers, and the rectangle of the image that holds them."""

    labels: list[int]
    rows: slice
    columns: slice

    @property
    def side(self) -> int:
        return int(max(self.rows.stop - self.rows.start, self.columns.stop - self.columns.start))

    def union(self, other: _Part) -> _Part:
        pairs = ((self.rows, other.rows), (self.columns, other.columns))
        rows, columns = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
        return _Part(self.labels + other.labels, rows, columns)


def _join_lobes(labels: Labels, depth: Image32) -> Labels:
    """Join neighbours whose common border is thick and whose union is convex: they are lobes of one cell."""
    from scipy import ndimage

    found = ndimage.find_objects(labels)
    part_of = [_Part([i], *place) if place else _Part([], slice(0), slice(0)) for i, place in enumerate(found, 1)]
    for (a, b), saddle in _saddles(labels, depth):
        first, second = part_of[a - 1], part_of[b - 1]
        if first is second or saddle <= 0.6:
            continue
        union = first.union(second)
        if union.side * WORK_MPP > _MOST_JOINED_UM:
            continue
        if _solidity(np.isin(labels[union.rows, union.columns], union.labels)) > 0.92:
            for i in union.labels:
                part_of[i - 1] = union
    new = np.array([0, *(part.labels[0] if part.labels else 0 for part in part_of)], np.int32)
    return np.asarray(new[labels], np.int32)


def _saddles(labels: Labels, depth: Image32) -> list[tuple[tuple[int, int], float]]:
    """Neighbouring labels, and the depth of their common border relative to the shallower one; deepest first."""
    peak = np.zeros(int(labels.max()) + 1, np.float32)
    inside = labels > 0
    np.maximum.at(peak, labels[inside], depth[inside])
    parts = [_facing(labels, depth, *step) for step in ((0, 1), (1, 0), (1, 1), (1, -1))]
    saddles: dict[tuple[int, int], float] = {}
    for a, b, border in zip(*(np.concatenate(column) for column in zip(*parts, strict=True)), strict=True):
        pair = int(min(a, b)), int(max(a, b))
        saddles[pair] = max(saddles.get(pair, 0.0), float(border / min(peak[a], peak[b])))
    return sorted(saddles.items(), key=lambda item: (-item[1], item[0]))


def _solidity(mask: Mask) -> float:
    """Area over area of the convex hull."""
    # Not regionprops: its hull encloses the corners of the pixels, and the limit was chosen for their centres.
    points = cv2.findNonZero(mask.astype(np.uint8))
    return len(points) / max(cv2.contourArea(cv2.convexHull(points)), 1.0)


def _facing(labels: Labels, depth: Image32, shift_y: int, shift_x: int) -> tuple[Labels, Labels, Image32]:
    """Labels on both sides of every border between two cells along one direction, and the lower depth of the two."""
    h, w = labels.shape
    here = (slice(0, h - shift_y), slice(max(0, -shift_x), w - max(0, shift_x)))
    there = (slice(shift_y, h), slice(max(0, shift_x), w + min(0, shift_x)))
    a, b = labels[here], labels[there]
    border = (a != b) & (a > 0) & (b > 0)
    return a[border], b[border], np.minimum(depth[here][border], depth[there][border])


def _grown(seeds: Labels, inside: Mask) -> Labels:
    """Expand labelled seeds to fill the parts of a mask that they touch; they meet halfway."""
    from skimage.segmentation import watershed

    away = cv2.distanceTransform((seeds == 0).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(watershed(away, seeds, mask=inside), np.int32)


def _cell_mask(feature: Image32, nuclei: Mask) -> Mask:
    """Mask of nuclei and the cytoplasm around them."""
    near = cv2.distanceTransform((~nuclei).astype(np.uint8), cv2.DIST_L2, 5) < _REACH_UM / WORK_MPP
    outside = feature[~near] if (~near).any() else feature[~nuclei]
    if not outside.size or not nuclei.any():
        return nuclei
    base, most = np.percentile(outside, [50, 90])
    level = float(np.median(feature[nuclei]))
    cell = near & (feature > max(base + _CYTOPLASM * (level - base), most))
    closed = cv2.morphologyEx((cell | nuclei).astype(np.uint8), cv2.MORPH_CLOSE, _ellipse(0.6))
    return np.asarray(cv2.morphologyEx(_filled(closed), cv2.MORPH_OPEN, _ellipse(1.2)), bool) | nuclei


def _filled(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros_like(mask), contours, -1, 1, cv2.FILLED), np.uint8)


def _ellipse(radius_um: float) -> NDArray[np.uint8]:
    side = 2 * max(round(radius_um / WORK_MPP), 1) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _boxes(labels: Labels, n: int) -> NDArray[np.float32]:
    """Box of each label 1 to n, float32 (n, 4); NaN for labels without pixels."""
    from scipy import ndimage

    boxes = np.full((n, 4), np.nan, np.float32)
    for i, place in enumerate(ndimage.find_objects(labels, n)):
        if place is not None:
            rows, columns = place
            boxes[i] = columns.start, rows.start, columns.stop, rows.stop
    return boxes


def _seeded(rgb: RGB, points: NDArray[np.float64], mpp: Scale) -> Labels:
    """Labels of the cells around points (n, 2) of the full image, at the working resolution."""
    work = _to_work(rgb, mpp)
    feature = _smooth(_nuclear_feature(absorbance(work)))
    nuclei = _nuclei(feature, 4)
    points = points * (work.shape[1] / rgb.shape[1], work.shape[0] / rgb.shape[0])
    seeds = _nearest(nuclei, points)
    return _grown(seeds, _cell_mask(feature, seeds > 0))


def _nearest(nuclei: Mask, points: NDArray[np.float64]) -> Labels:
    """Each nucleus pixel labelled with the nearest point, if one is within `_SEED_REACH_UM`."""
    from scipy.spatial import KDTree

    labels = np.zeros(nuclei.shape, np.int32)
    ys, xs = np.nonzero(nuclei)
    if not len(points) or not len(xs):
        return labels
    reach = _SEED_REACH_UM / WORK_MPP
    _, nearest = KDTree(points).query(np.stack([xs, ys], axis=1), distance_upper_bound=reach)
    labels[ys, xs] = np.where(nearest < len(points), nearest + 1, 0)
    return labels
