"""Estimation of µm per pixel from the red cells in an image.

Red cells have a diameter of about 7.5 µm. The size of the most common population of round, moderately dense cells
without a nucleus therefore gives the scale of each axis. Microcytosis and macrocytosis bias the scale by the same
factor. `red_cells` detects the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.constants import RED_CELL_UM
from blastdet.core.types import RGB, Scale
from blastdet.segmentation.red_cells import EllipseFits, Floats, density_plane, find_ellipses, no_ellipses

MARGIN = 1.08
"""Ratio of annotated boxes to fitted ellipses: people draw boxes around the whole edge, fits end at its middle."""

_SIDE = 800  # pixels: longest side of the image that is analysed

# Tuned on BCCD train and on central parts of PBC images.
_CYTOPLASM = 0.3  # of the thickest nucleus: centres of red cells are farther from a nucleus than this
_WHOLE = 5  # with this many complete cells, cells cut by the border are not used
_FEWEST = 2


@dataclass(frozen=True, eq=False)
class MppEstimate:
    """Scale of an image as estimated from its red cells.

    Parameters
    ----------
    mpp : (float, float) or None
        µm per pixel along x and y; ``None`` if it cannot be estimated.
    n_cells : int
        Red cells used.
    diameter_px : (float, float) or None
        Median width and height of the red cells in pixels.
    aspect : float
        Median of height over width of the red cells; 1 unless `squeezed`.
    squeezed : bool
        Whether the image is stretched along one axis by more than 10 %.
    confidence : float
        From 0 to 1: 0.1 per cell used.
    reason : str
        One line: what the estimate is based on, or why there is none.
    boxes_xyxy : float32 (n_cells, 4)
        Boxes of the red cells used, in pixels of the image.
    """

    mpp: Scale | None
    n_cells: int
    diameter_px: tuple[float, float] | None
    aspect: float
    squeezed: bool
    confidence: float
    reason: str
    boxes_xyxy: NDArray[np.float32]


def estimate_mpp(rgb: RGB) -> MppEstimate:
    """Estimate µm per pixel along x and y from the red cells in an image.

    Returns
    -------
    MppEstimate
        With ``mpp=None`` and a reason if there are too few red cells, or if their sizes do not agree.

    Examples
    --------
    >>> from blastdet.synth.render import SynthConfig, render
    >>> image, _ = render(SynthConfig(size_wh=(640, 480), mpp=0.1), seed=1)
    >>> estimate = estimate_mpp(image)
    >>> 0.08 < estimate.mpp[0] < 0.12
    True
    """
    height, width = rgb.shape[:2]
    factor = min(_SIDE / max(height, width), 1.0)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    found, reason = _search(small)
    to_full = np.array([width / size[0], height / size[1]])
    if factor < 0.6:  # cells may be too small in the reduced image: try its centre at full resolution
        left, top = max((width - _SIDE) // 2, 0), max((height - _SIDE) // 2, 0)
        middle = np.ascontiguousarray(rgb[top : top + _SIDE, left : left + _SIDE])
        closer, _ = _search(middle)
        if _coverage(closer, middle) > _coverage(found, small):
            shifted = closer.centre + np.array([left, top])
            found, to_full = EllipseFits(shifted, closer.half, closer.quality, closer.visible), np.ones(2)
    return _report(found, to_full) if len(found) >= _FEWEST else _unknown(reason)


def _coverage(fits: EllipseFits, rgb: RGB) -> float:
    """Fraction of an image that is covered by red cells, weighted by their quality."""
    return float((fits.quality * fits.half.prod(axis=1)).sum() / (rgb.shape[0] * rgb.shape[1]))


def _search(rgb: RGB) -> tuple[EllipseFits, str]:
    """Red cells of one image, and the reason if there are too few."""
    plane, nuclei = density_plane(rgb)
    if plane is None:
        return no_ellipses(), "nothing stands out from the background"
    found = _population(_plausible(find_ellipses(plane, nuclei), nuclei))
    return found, f"expected at least {_FEWEST} red cells of one size, got {len(found)}"


def _unknown(reason: str) -> MppEstimate:
    return MppEstimate(None, 0, None, 1.0, False, 0.0, reason, np.empty((0, 4), np.float32))


def _report(found: EllipseFits, to_full: Floats) -> MppEstimate:
    half = found.half * to_full * MARGIN
    centre = found.centre * to_full
    width, height = (2 * np.median(half, axis=0)).tolist()
    both = float(np.sqrt(width * height))
    log_aspect = np.log(half[:, 1] / half[:, 0])
    aspect = float(np.exp(np.median(log_aspect)))
    error = 1.25 * float(log_aspect.std()) / np.sqrt(len(found))
    squeezed = len(found) >= 5 and bool(abs(np.log(aspect)) > np.log(1.1) + error)
    aspect = aspect if squeezed else 1.0
    diameter = float(both / np.sqrt(aspect)), float(both * np.sqrt(aspect))
    return MppEstimate(
        mpp=(RED_CELL_UM / diameter[0], RED_CELL_UM / diameter[1]),
        n_cells=len(found),
        diameter_px=diameter,
        aspect=aspect,
        squeezed=squeezed,
        confidence=float(min(len(found) / 10, 1.0)),
        reason=f"{len(found)} red cells of {diameter[0]:.1f} x {diameter[1]:.1f} px",
        boxes_xyxy=np.concatenate([centre - half, centre + half], axis=1).astype(np.float32),
    )


def _plausible(fits: EllipseFits, nuclei: NDArray[np.bool_]) -> EllipseFits:
    """Remove fits inside nucleated cells, and fits with an impossible size relative to the nuclei.

    The thickest nucleus of an image measures from 4 µm (the lobe of a neutrophil) to 15 µm (a large blast).
    """
    contours, _ = cv2.findContours(nuclei.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    whole = cv2.drawContours(np.zeros(nuclei.shape, np.uint8), contours, -1, 1, cv2.FILLED)
    thickness = 2 * float(cv2.distanceTransform(whole, cv2.DIST_L2, 5).max())
    if thickness < 8:
        return fits
    away = cv2.distanceTransform(1 - whole, cv2.DIST_L2, 5)
    columns, rows = np.clip(np.rint(fits.centre).astype(int), 0, np.array(nuclei.shape[::-1]) - 1).T
    outside = away[rows, columns] > _CYTOPLASM * thickness
    return fits[outside & (fits.diameter > 0.4 * thickness) & (fits.diameter < 2.5 * thickness)]


def _population(fits: EllipseFits) -> EllipseFits:
    """Fits of the most common size."""
    whole = fits.visible >= 0.9
    if whole.sum() >= _WHOLE:
        fits = fits[whole]
    if not len(fits):
        return fits
    size = np.log(fits.diameter)
    weight = fits.quality * fits.diameter * fits.visible
    kernel = np.exp(-0.5 * ((size[:, None] - size[None]) / 0.15) ** 2)
    mode = size[int((kernel @ weight).argmax())]
    return fits[np.abs(size - mode) < np.log(1.35)]
