"""Hand-made features of one white cell: shape, colour and texture, as used in the literature on leukaemia.

All are measured at the µm/px of the caller, within the nucleus found by `blastdet.segmentation.nuclei`, so that they
are comparable across microscopes as far as the resolution allows. `FEATURES` lists them with unit and source.
Co-occurrence and binary patterns come from scikit-image. Run lengths are our own code: scikit-image has none, and
mahotas and pyradiomics are heavy dependencies for one function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import RGB
from blastdet.segmentation.nuclei import cell_masks, nucleus_mask

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

LEVELS = 16
"""Number of grey levels for texture, from the darkest to the lightest pixel of the nucleus."""

_STEPS = ((0, 1), (1, 1), (1, 0), (1, -1))  # 0°, 45°, 90°, 135°; texture is averaged over them
_HARALICK = "Haralick, Shanmugam & Dinstein 1973, doi:10.1109/TSMC.1973.4309314"
_GALLOWAY = "Galloway 1975, doi:10.1016/S0146-664X(75)80008-6"
_CHU = "Chu, Sehgal & Greenleaf 1990, doi:10.1016/0167-8655(90)90112-F"
_OJALA = "Ojala, Pietikäinen & Mäenpää 2002, doi:10.1109/TPAMI.2002.1017623"
_STRICKER = "Stricker & Orengo 1995, doi:10.1117/12.205308"
_PLAIN = "plane geometry"


@dataclass(frozen=True)
class Feature:
    """Name, unit and source of one feature.

    Parameters
    ----------
    name : str
    unit : str
        Empty for a dimensionless number.
    source : str
        Publication that defines it.
    """

    name: str
    unit: str
    source: str


def _shape(part: str) -> list[Feature]:
    units = {"area": "µm²", "perimeter": "µm", "circularity": "", "solidity": "", "eccentricity": ""}
    return [Feature(f"{part} {name}", unit, _PLAIN) for name, unit in units.items()]


_MOMENTS = ("mean", "standard deviation", "skewness")
_SPACES: dict[str, tuple[int, tuple[str, str, str]]] = {
    "RGB": (-1, ("red", "green", "blue")),
    "HSV": (cv2.COLOR_RGB2HSV, ("hue", "saturation", "value")),
    "Lab": (cv2.COLOR_RGB2LAB, ("L", "a", "b")),
}
_GLCM = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
_GLRLM = ("short runs", "long runs", "grey-level non-uniformity", "run-length non-uniformity", "run percentage")
_GREY_RUNS = ("low grey-level runs", "high grey-level runs")

FEATURES: tuple[Feature, ...] = (
    *_shape("nucleus"),
    *_shape("cell"),
    Feature("nucleus to cell area", "", _PLAIN),
    Feature("nucleus to cytoplasm area", "", _PLAIN),
    *(
        Feature(f"{space} {channel} {moment}", "grey levels" if moment != "skewness" else "", _STRICKER)
        for space, (_, channels) in _SPACES.items()
        for channel in channels
        for moment in _MOMENTS
    ),
    *(Feature(f"GLCM {name}", "bits" if name == "entropy" else "", _HARALICK) for name in _GLCM),
    *(Feature(f"GLRLM {name}", "", _GALLOWAY) for name in _GLRLM),
    *(Feature(f"GLRLM {name}", "", _CHU) for name in _GREY_RUNS),
    *(Feature(f"LBP {i}", "", _OJALA) for i in range(10)),
)
"""Name, unit and source of every entry of `features`, in order. LBP 0 to 8: fraction of uniform patterns with this many
neighbours that are not darker; LBP 9: fraction of all other patterns."""


def features(rgb: RGB, mpp: float) -> NDArray[np.float32]:
    """Compute the features of the cell in the centre of a crop.

    Parameters
    ----------
    rgb : uint8 (n, n, 3)
        RGB; see `blastdet.imaging.cell_crops`.
    mpp : float
        µm per pixel.

    Returns
    -------
    float32 (len(FEATURES),)
        Always finite. If no nucleus is found, a disc that fills the box of the cell is used instead.

    Examples
    --------
    >>> row = features(np.full((40, 40, 3), 240, np.uint8), mpp=0.3)
    >>> row.shape == (len(FEATURES),)
    True
    """
    nucleus, cell = masks(rgb, mpp)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    levels = _levels(grey, nucleus)
    areas = nucleus.sum(), cell.sum()
    row = [
        *_geometry(nucleus, mpp),
        *_geometry(cell, mpp),
        areas[0] / areas[1],
        areas[0] / max(areas[1] - areas[0], 1),
        *_colour_moments(rgb, nucleus),
        *glcm(levels, nucleus),
        *np.mean([glrlm(levels, nucleus, step) for step in _STEPS], axis=0),
        *lbp(grey, nucleus),
    ]
    return np.asarray(row, np.float32)


def masks(rgb: RGB, mpp: float) -> tuple[Mask, Mask]:
    """Segment the nucleus and the whole cell in the centre of a crop.

    Returns
    -------
    nucleus, cell : bool (n, n)
        Never empty. The nucleus is part of the cell.
    """
    side = len(rgb)
    middle = side / 2
    cell = cell_masks(rgb, [[middle, middle]], (mpp, mpp)) == 1
    nucleus = nucleus_mask(rgb, (mpp, mpp)) & cell
    if nucleus.any():
        return nucleus, cell
    ys, xs = np.ogrid[:side, :side]
    radius = max(side / 2 / 1.3, 0.75)  # at least the central pixel
    disc = np.hypot(ys + 0.5 - middle, xs + 0.5 - middle) <= radius
    return disc, disc


def _geometry(mask: Mask, mpp: float) -> tuple[float, float, float, float, float]:
    """Area (µm²), perimeter (µm), circularity, solidity and eccentricity of a mask."""
    area = float(mask.sum())
    around, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    perimeter = sum(_length(contour[:, 0]) for contour in around)
    ys, xs = np.nonzero(mask)
    # corners of the pixels, so that the hull of one pixel has an area
    corners = np.concatenate([np.stack([xs + dx, ys + dy], 1) for dx in (0, 1) for dy in (0, 1)]).astype(np.float32)
    solidity = area / cv2.contourArea(cv2.convexHull(corners))
    small, large = np.linalg.eigvalsh(np.cov(np.stack([xs, ys]), bias=True))
    circularity = min(4 * np.pi * area / max(perimeter, 1e-6) ** 2, 1.0) if perimeter else 1.0
    eccentricity = float(np.sqrt(max(1 - max(small, 0.0) / large, 0.0))) if large > 0 else 0.0
    return area * mpp**2, perimeter * mpp, circularity, solidity, eccentricity


def _length(points: NDArray[np.int32]) -> float:
    """Length of a closed contour through pixel centres (n, 2), moved outwards by half a pixel.

    Steps of the contour are weighted by 0.948 (straight) and 1.340 (diagonal), which removes the bias of a staircase:
    Vossepoel & Smeulders 1982, doi:10.1016/0146-664X(82)90034-0, without the corner count.
    """
    if len(points) < 2:
        return float(np.pi)
    steps = np.abs(np.roll(points, -1, axis=0) - points).sum(axis=1)
    return float(0.948 * (steps == 1).sum() + 1.340 * (steps == 2).sum() + np.pi)


def _colour_moments(rgb: RGB, mask: Mask) -> Iterator[float]:
    for code, _ in _SPACES.values():
        pixels = (rgb if code < 0 else cv2.cvtColor(rgb, code))[mask].astype(np.float64)
        for values in pixels.T:
            deviation = values - values.mean()
            spread = np.sqrt((deviation**2).mean())
            yield from (values.mean(), spread, (deviation**3).mean() / spread**3 if spread > 1e-9 else 0.0)


def _levels(grey: NDArray[np.uint8], mask: Mask) -> NDArray[np.int64]:
    """Quantize grey levels to 0 ... LEVELS - 1 over the range of the masked pixels."""
    low, high = (float(v) for v in (grey[mask].min(), grey[mask].max()))
    scaled = (grey.astype(np.float64) - low) / max(high - low, 1.0) * LEVELS
    return np.clip(scaled.astype(np.int64), 0, LEVELS - 1)


def glcm(levels: NDArray[np.int64], mask: Mask) -> Floats:
    """Texture features of the grey-level co-occurrence matrix, averaged over four directions.

    Parameters
    ----------
    levels : int64 (h, w)
        Grey levels from 0 to LEVELS - 1.
    mask : bool (h, w)
        Only pairs with both pixels in the mask count.

    Returns
    -------
    float64 (6,)
        Contrast, dissimilarity, homogeneity, energy, correlation and entropy (bits). A direction without pairs counts
        as uniform: 0, 0, 1, 1, 1, 0.

    Examples
    --------
    >>> glcm(np.zeros((4, 4), np.int64), np.ones((4, 4), bool)).tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    """
    from skimage.feature import graycomatrix, graycoprops

    inside = np.where(mask, levels + 1, 0).astype(np.uint8)  # level 0 collects the pairs to be left out
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = graycomatrix(inside, [1], angles, LEVELS + 1, symmetric=True)[1:, 1:]
    names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
    values = np.stack([graycoprops(matrix, name)[0] for name in names])
    values[5] /= np.log(2)
    flat = matrix.sum(axis=(0, 1))[0] == 0
    values[:, flat] = np.array([0, 0, 1, 1, 1, 0])[:, None]
    return np.asarray(values.mean(axis=1))


def glrlm(levels: NDArray[np.int64], mask: Mask, step: tuple[int, int]) -> Floats:
    """Texture features of runs of equal grey level along one direction, within a mask, float64 (7,).

    Five features by Galloway and two by Chu et al.; see `FEATURES`. Non-uniformities are divided by the number of runs,
    so that they do not grow with the nucleus.

    Parameters
    ----------
    levels : int64 (h, w)
        Grey levels from 0 to LEVELS - 1.
    mask : bool (h, w)
        Not empty.
    step : (int, int)
        Direction as rows and columns: ``(0, 1)``, ``(1, 1)``, ``(1, 0)`` or ``(1, -1)``.

    Examples
    --------
    >>> glrlm(np.zeros((1, 4), np.int64), np.ones((1, 4), bool), (0, 1)).tolist()
    [0.0625, 16.0, 1.0, 1.0, 0.25, 1.0, 1.0]
    """
    grey, length = _runs(levels, mask, step)
    n = len(grey)
    by_grey, by_length = np.bincount(grey), np.bincount(length)
    level = grey + 1.0
    return np.array(
        [
            (1 / length**2).mean(),
            (length.astype(np.float64) ** 2).mean(),
            (by_grey.astype(np.float64) ** 2).sum() / n**2,
            (by_length.astype(np.float64) ** 2).sum() / n**2,
            n / mask.sum(),
            (1 / level**2).mean(),
            (level**2).mean(),
        ]
    )


def _shifted(mask: Mask, step: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the pixels that have a neighbour one step further, and of these neighbours."""
    dy, dx = step
    h, w = mask.shape
    here = slice(0, h - dy), slice(max(0, -dx), w - max(0, dx))
    there = slice(dy, h), slice(max(0, dx), w + min(0, dx))
    return here, there


def _runs(levels: NDArray[np.int64], mask: Mask, step: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Grey level and length (runs,) of every run along `step`."""
    here, there = _shifted(mask, step)
    same = np.zeros(mask.shape, bool)  # pixels that continue the run of the previous pixel
    same[there] = mask[here] & mask[there] & (levels[here] == levels[there])
    length = mask.astype(np.int64)  # of the run up to and including each pixel
    going = same
    while going.any():  # iteration n: pixels with at least n pixels before them in their run
        length[going] += 1
        onward = np.zeros_like(going)
        onward[there] = going[here]
        going = onward & same
    last = mask.copy()
    last[here] &= ~same[there]
    return levels[last], length[last]


def lbp(grey: NDArray[np.uint8], mask: Mask) -> Floats:
    """Frequencies of the rotation-invariant uniform local binary patterns (8 neighbours at distance 1) in a mask.

    Beyond the border of the image, the nearest pixel is repeated.

    Parameters
    ----------
    mask : bool (h, w)
        Not empty.

    Returns
    -------
    float64 (10,)
        Fractions that sum to 1.

    Examples
    --------
    >>> lbp(np.full((3, 3), 7, np.uint8), np.ones((3, 3), bool)).argmax()
    np.int64(8)
    """
    from skimage.feature import local_binary_pattern

    padded = np.pad(grey, 2, mode="edge")
    pattern = local_binary_pattern(padded, 8, 1, "uniform")[2:-2, 2:-2][mask].astype(np.int64)
    return np.bincount(pattern, minlength=10) / len(pattern)
