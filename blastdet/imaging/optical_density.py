"""Optical density: how much light a stained cell absorbs, relative to the empty background.

Light that passes a stained cell is absorbed in proportion to the amount of stain (Lambert-Beer), so densities add up
where colours do not. `to_density` and `to_levels` are the only conversions between grey levels and densities (natural
logarithm). Both take the background and an offset: a larger offset damps noise in dark pixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastdet.core.types import RGB

__all__ = [
    "OFFSET",
    "absorbance",
    "background_colour",
    "channel_range",
    "density_table",
    "faults_of",
    "first_mode",
    "mean_density",
    "middle_levels",
    "to_density",
    "to_levels",
]

Image32 = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]

SHARPNESS_MPP = 0.3
"""µm/px at which `faults_of` measures sharpness."""

_CLOSE = 1e-3  # of the width of a bin; far more than rounding
_BLACK, _GROUND = 40, 16  # grey levels
_COLOURLESS = 8.0  # grey levels between the channels; smears have 24 and more
_PALE = 0.06  # decadic density of the darkest against the lightest parts; smears have 0.10 and more
_SHARP = 0.12  # Laplacian over the range of grey; sharp smears have 0.24 and more, blurred by 1 µm up to 0.10

OFFSET = 8.0
"""Offset in grey levels that segmentation and stain normalization use. The shipped models depend on this value."""


def to_density(levels: Floats, background: ArrayLike, offset: float = OFFSET) -> Floats:
    """Optical density of grey levels: ``log(background + offset) - log(levels + offset)``.

    Parameters
    ----------
    levels : float array, any shape
        Grey levels, 0 to 255. Computed in the precision of this array.
    background : float or float array
        Grey level of the empty background; broadcasts against `levels`.
    offset : float
        Added to both. Must be above 0 if a level can be 0.

    Returns
    -------
    float array
        Natural logarithm; negative where `levels` is brighter than the background.

    Examples
    --------
    >>> to_density(np.array([255.0, 127.0]), 255.0, offset=1).round(3).tolist()
    [0.0, 0.693]
    """
    light = np.asarray(background, levels.dtype)
    return np.asarray(np.log(light + offset) - np.log(levels + offset))


def to_levels(density: Floats, background: ArrayLike, offset: float = OFFSET) -> Floats:
    """Grey levels of an optical density, the inverse of `to_density`; neither rounded nor clipped.

    Parameters
    ----------
    density : float array, any shape
        Computed in the precision of this array.
    background : float or float array
        Grey level of the empty background; broadcasts against `density`.
    offset : float
        The offset that `to_density` was given.

    Examples
    --------
    >>> to_levels(np.array([0.0, np.log(2)]), 255.0, offset=1).round(1).tolist()
    [255.0, 127.0]
    """
    light = np.asarray(background, density.dtype)
    return np.asarray((light + offset) * np.exp(-density) - offset)


def background_colour(rgb: RGB, shown: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Colour of the empty background: the brightest mode of the image that is more than a few highlights.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    shown : bool (h, w), optional
        Pixels to measure; at least one. Default: all.

    Returns
    -------
    float32 (3,)
        Grey level of each channel.
    """
    blurred = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    channels = [channel.ravel() if shown is None else channel[shown] for channel in cv2.split(blurred)]
    light = channels[0].astype(np.uint16) + channels[1] + channels[2]
    histogram = _histogram(light, 6 * 128).reshape(128, 6).sum(axis=1)
    histogram = np.convolve(histogram, [1, 2, 3, 2, 1], "same")
    padded = np.pad(histogram, 1)
    mode = (histogram >= padded[:-2]) & (histogram >= padded[2:]) & (histogram > 0.15 * histogram.max())
    level = 6 * int(np.flatnonzero(mode)[-1]) + 3
    near = np.flatnonzero(np.abs(light.view(np.int16) - level) <= 18)
    if not len(near):
        return np.array([channel.max() for channel in channels], np.float32)
    return np.array([np.mean(middle_levels(channel[near])) for channel in channels], np.float32)


def middle_levels(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The two levels in the middle, int64 (2,), of at least one; their mean is the median.

    It takes a fraction of the time of `numpy.median`.

    Examples
    --------
    >>> middle_levels(np.array([9, 1, 5, 7], np.uint8)).tolist()
    [5, 7]
    """
    below, n = np.cumsum(_histogram(levels, 256)), len(levels)
    return np.searchsorted(below, [(n - 1) // 2, n // 2], "right")


def _histogram(values: NDArray[Any], n: int) -> NDArray[np.int64]:
    """How often each of 0 to n - 1 occurs in an array (k,) of uint8 or uint16; `numpy.bincount`, much faster."""
    return np.asarray(cv2.calcHist([values[None]], [0], None, [n], [0, n]).ravel(), np.int64)


def absorbance(rgb: RGB) -> Image32:
    """Optical density of each channel relative to `background_colour`, float32 (h, w, 3)."""
    return np.asarray(cv2.LUT(rgb, density_table(background_colour(rgb))[None]), np.float32)


def density_table(background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Optical density of each grey level of each channel, float32 (256, 3), for a background of float32 (3,)."""
    return np.asarray(to_density(np.arange(256, dtype=np.float32)[:, None], background), np.float32)


def mean_density(density: Image32) -> Image32:
    """Mean over the channels of `absorbance`, float32 (h, w)."""
    # numpy's mean over so short an axis is ten times slower
    return np.asarray((density[..., 0] + density[..., 1] + density[..., 2]) / 3, np.float32)


def channel_range(rgb: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The lowest and the highest channel of each pixel.

    Parameters
    ----------
    rgb : uint8 or float32 (h, w, 3)

    Returns
    -------
    lowest, highest : (h, w)
        Of the same type: ``rgb.min(axis=2)`` and ``rgb.max(axis=2)``, which take ten times as long.

    Examples
    --------
    >>> [found.tolist() for found in channel_range(np.array([[[9, 7, 8]]], np.uint8))]
    [[[7]], [[9]]]
    """
    red, green, blue = cv2.split(rgb)
    return cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)


def faults_of(rgb: RGB, mpp: float) -> tuple[str, ...]:
    """What makes an image unfit for counting cells by their stain, one line each; empty for a usable one.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
        As stored, at `mpp`, that is without stain normalization.
    mpp : float
        µm per pixel. Sharpness is measured at `SHARPNESS_MPP`, or at the image's own scale where that is coarser.

    Returns
    -------
    tuple of str
        The image is nearly black, has no colour, is hardly stained, or is blurred. The limits were chosen on about 25
        images of each of six datasets: all are usable, and all are blurred after a Gaussian of 1 µm.
    """
    factor = min(1.0, mpp / SHARPNESS_MPP)
    size = max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small.mean(axis=2)
    if (light := float(np.percentile(grey, 98))) < _BLACK:
        return (f"the image is nearly black: its brightest parts have {light:.0f} of 255",)
    faults = []
    lowest, highest = channel_range(small)
    if float(np.percentile(highest - lowest, 99.5)) < _COLOURLESS:
        faults.append("the image has no colour")
    shown = grey >= _GROUND  # black around a field of view is no stain
    dark, light = (float(value) for value in np.percentile(grey[shown], (0.5, 98)))
    if np.log10((light + 1) / (dark + 1)) < _PALE:
        faults.append("the image shows hardly any stain")
    elif min(size) > 2:
        edges = float(np.percentile(np.abs(cv2.Laplacian(grey, cv2.CV_32F))[shown], 99)) / max(light - dark, 1.0)
        if edges < _SHARP:
            faults.append("the image is blurred")
    return tuple(faults)


def first_mode(values: Floats) -> float:
    """The lowest mode that holds a good part of the values; values beyond ±1.5 are not counted."""
    count, edges = _bins(values)
    if not count.any():
        return float(np.median(values))
    smooth = np.pad(np.convolve(count, [1, 2, 3, 2, 1], "same"), 1)
    mode = (smooth[1:-1] >= smooth[:-2]) & (smooth[1:-1] >= smooth[2:]) & (smooth[1:-1] > 0.25 * smooth.max())
    return float(edges[int(np.flatnonzero(mode)[0])] + 0.025)


def _bins(values: Floats) -> tuple[NDArray[np.int64], Floats]:
    """`numpy.histogram` in 60 bins between ±1.5 of values without NaN, in a third of the time.

    Only values close to an edge are compared with it.
    """
    n, limit = 60, 1.5
    at = (values + values.dtype.type(limit)) * values.dtype.type(n / (2 * limit)) + values.dtype.type(1)
    index = np.clip(at, 0, n + 1).astype(np.uint8)
    close = np.flatnonzero(np.abs(at - np.rint(at)) < _CLOSE)
    exact, edges = np.histogram(values[close], n, (-limit, limit))
    count = _histogram(index, n + 2) - np.bincount(index[close], minlength=n + 2)
    return count[1:-1] + exact, edges
