"""Real images under another stain: red cells, nuclei and background moved apart in optical density.

A jitter of the whole image (`imaging.augmentation.jitter_stain`) changes red cells and nuclei alike. Laboratories
differ in more than that: old eosin or an alkaline buffer turns red cells blue, violet or grey while nuclei stay purple.
Here the two stains of an image are measured and separated as in colour deconvolution (Ruifrok and Johnston 2001), and
each is given another hue. What two stains do not explain stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastdet.core.errors import ConfigError
from blastdet.core.types import RGB
from blastdet.imaging.optical_density import absorbance, background_colour, density_table, mean_density, to_levels
from blastdet.imaging.stain_normalization import BACKGROUND, RED_CELL, red_cell_density

__all__ = [
    "CANONICAL",
    "NUCLEAR_HUES",
    "RED_CELL_HUES",
    "Stains",
    "hue_of",
    "measure_stains",
    "restain",
    "restain_randomly",
    "separate",
]

RED_CELL_HUES: dict[str, tuple[float, float, float]] = {
    "violet": (0.98, 1.45, 0.57),
    "blue": (1.35, 1.05, 0.60),
    "grey": (1.00, 1.05, 0.95),
    "brown": (0.65, 1.02, 1.33),
}
"""Optical density of red cells in each channel, relative to its mean, under stains that differ from the usual pink."""

NUCLEAR_HUES: dict[str, tuple[float, float, float]] = {
    "purple": (1.13, 1.47, 0.40),
    "blue": (1.65, 1.10, 0.25),
    "red-violet": (0.80, 1.60, 0.60),
}
"""The same for nuclei."""

_LOOK = 512  # longest side in pixels of the image that the stains are measured on
_NUCLEI = 0.5  # of the purple of the most purple parts
_TYPICAL_NUCLEUS = 0.65 * np.array(NUCLEAR_HUES["purple"])
_FEWEST = 0.002  # fraction of the image that nuclei must cover to be measured
_MOST_STACKED = 2.0  # no more red cells than this lie above one another


@dataclass(frozen=True)
class Stains:
    """The colours of one image.

    Parameters
    ----------
    background : float32 (3,)
        Grey level of the empty background.
    red_cell, nucleus : float64 (3,)
        Optical density (natural logarithm) in each channel.
    """

    background: NDArray[np.float32]
    red_cell: NDArray[np.float64]
    nucleus: NDArray[np.float64]


CANONICAL = Stains(np.full(3, BACKGROUND, np.float32), np.array(RED_CELL), _TYPICAL_NUCLEUS)
"""The colours of a normalized image, where they cannot be measured."""


def measure_stains(rgb: RGB) -> Stains | None:
    """The colours of the background, the red cells and the nuclei of an image of a smear.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)

    Returns
    -------
    Stains or None
        ``None`` if no red cells are found. Without nuclei, theirs is a typical colour.

    Examples
    --------
    >>> measure_stains(np.full((40, 40, 3), 240, np.uint8)) is None
    True
    """
    factor = _LOOK / max(rgb.shape[:2])
    if factor < 1:
        size = max(round(rgb.shape[1] * factor), 1), max(round(rgb.shape[0] * factor), 1)
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    background = background_colour(rgb)
    red = red_cell_density(rgb, density_table(background))
    if red is None:
        return None
    density = absorbance(rgb)
    return Stains(background, red, _nuclear_density(density.reshape(-1, 3), red))


def _nuclear_density(density: NDArray[np.float32], red: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median density of the pixels that are much more purple and darker than red cells."""
    purple = density @ np.array([0.5, 1.0, -1.0], np.float32)
    excess = purple - density.mean(axis=1) * np.float32(red @ [0.5, 1.0, -1.0] / red.mean())
    nuclei = (excess > max(_NUCLEI * float(np.percentile(excess, 99.5)), 0.08)) & (
        density.mean(axis=1) > 1.2 * red.mean()
    )
    if nuclei.mean() < _FEWEST:
        return np.asarray(_TYPICAL_NUCLEUS, np.float64)
    return np.asarray(np.median(density[nuclei], axis=0), np.float64)


def restain(
    rgb: RGB,
    red_cells: str | ArrayLike | None = None,
    strength: float = 1.0,
    *,
    nuclei: str | ArrayLike | None = None,
    background: ArrayLike | None = None,
    stains: Stains | None = None,
) -> RGB:
    """A real image as another stain would show it.

    The mean optical density of every pixel stays the same: darker nuclei remain darker ones. An image without red cells
    is returned as it is.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    red_cells, nuclei : str or (3,), optional
        Name in `RED_CELL_HUES` or `NUCLEAR_HUES`, or the density in each channel relative to its mean. Default: as it
        is.
    strength : float, default 1
        0 returns the image unchanged, 1 reaches the hues and the background given.
    background : (3,), optional
        Grey level of the empty background. Default: as it is.
    stains : Stains, optional
        Measured in this image if not given.

    Returns
    -------
    uint8 (h, w, 3)

    Raises
    ------
    ConfigError
        If a hue is unknown, or `strength` is not from 0 to 1.

    Examples
    --------
    >>> from blastdet.imaging.io import open_smear
    >>> smear = open_smear("datasets/demo/smear.jpg").read()
    >>> before, after = (measure_stains(image).red_cell for image in (smear, restain(smear, "blue")))
    >>> bool(after[0] / after[2] > 1.5 * before[0] / before[2])  # they absorb red light more, blue light less
    True
    """
    hues = hue_of(red_cells, RED_CELL_HUES), hue_of(nuclei, NUCLEAR_HUES)
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength: expected a number from 0 to 1, got {strength!r:.40}")
    if strength == 0 or (red_cells is None and nuclei is None and background is None):
        return rgb
    stains = stains or measure_stains(rgb)
    if stains is None:
        return rgb
    light = stains.background
    if background is not None:
        light = light + strength * (np.asarray(background, np.float32) - light)
    levels = to_levels(_restained_density(rgb, stains, hues, strength), light)
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _restained_density(
    rgb: RGB, stains: Stains, hues: Sequence[NDArray[np.float64] | None], strength: float
) -> NDArray[np.float32]:
    """Optical density (h, w, 3) with red cells and nuclei moved towards their hues, where there are any."""
    density = np.asarray(cv2.LUT(rgb, density_table(stains.background)[None]), np.float32)
    out = density.copy()
    for amount, own, hue in zip(separate(density, stains), (stains.red_cell, stains.nucleus), hues, strict=True):
        if hue is not None:
            change = strength * (own.mean() * hue - own)
            out += amount[..., None] * change.astype(np.float32)
    return out


def restain_randomly(rgb: RGB, rng: np.random.Generator, stains: Stains | None = None) -> RGB:
    """An image under a random stain: red cells of any hue between those of `RED_CELL_HUES` and their own.

    In half of the images nuclei move as well, up to the hue of the red cells. Half are then normalized by their red
    cells, as `stain_normalization` does it: red cells are what they were, and nuclei have another hue or are paler.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    rng : numpy Generator
    stains : Stains, optional
        Measured in this image if not given.

    Examples
    --------
    >>> image = np.full((2, 2, 3), 240, np.uint8)
    >>> restain_randomly(image, np.random.default_rng(0)).shape
    (2, 2, 3)
    """
    stains = stains or measure_stains(rgb)
    if stains is None:
        return rgb
    # A pale stain may let more of one colour through than the background does; a hue has no negative density.
    own = stains.red_cell.clip(0) / stains.red_cell.clip(0).mean()
    red = rng.dirichlet(np.full(len(RED_CELL_HUES) + 1, 0.4)) @ np.array([*RED_CELL_HUES.values(), own])
    nuclei = None
    if rng.random() < 0.5:
        toward = red if rng.random() < 0.5 else np.array(list(NUCLEAR_HUES.values()))[rng.integers(len(NUCLEAR_HUES))]
        nuclei = stains.nucleus.clip(0) / stains.nucleus.clip(0).mean()
        nuclei = nuclei + rng.random() * (toward - nuclei)
    out = restain(rgb, red, nuclei=nuclei, stains=stains)
    if rng.random() < 0.5:
        return out
    darker = np.exp(rng.uniform(-0.2, 0.7))
    factor = np.clip(own / np.maximum(red * darker, 0.1), 0.35, 3).astype(np.float32)
    levels = to_levels(density_table(stains.background) * factor, stains.background)
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(out, table[None]), np.uint8)


def hue_of(hue: str | ArrayLike | None, known: dict[str, tuple[float, float, float]]) -> NDArray[np.float64] | None:
    """A hue by name or value as float64 (3,) with a mean of 1.

    Raises
    ------
    ConfigError
        If the name is unknown, or the value is no density.
    """
    if hue is None:
        return None
    if isinstance(hue, str):
        if hue not in known:
            raise ConfigError(f"hue: expected one of {', '.join(known)}, got {hue!r:.40}")
        hue = known[hue]
    value = np.asarray(hue, np.float64)
    if value.shape != (3,) or not np.isfinite(value).all() or (value < 0).any() or value.sum() <= 0:
        raise ConfigError(f"hue: expected the density of three channels, got {hue!r:.60}")
    return np.asarray(value / value.mean(), np.float64)


def separate(density: NDArray[np.float32], stains: Stains) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How much of the red cells' and of the nuclei's colour every pixel holds.

    Parameters
    ----------
    density : float32 (h, w, 3)
        Optical density relative to ``stains.background``.
    stains : Stains

    Returns
    -------
    red_cells, nuclei : float32 (h, w)
        1 where the density is that of a red cell or of a nucleus; never negative.
    """
    red, nucleus = stains.red_cell, stains.nucleus
    inverse = np.linalg.pinv(np.stack([red, nucleus], axis=1)).astype(np.float32)
    of_red, of_nucleus = density @ inverse[0], density @ inverse[1]
    # Where one of them would be negative, the other alone explains the pixel best.
    red_alone = density @ (red / (red @ red)).astype(np.float32)
    nucleus_alone = density @ (nucleus / (nucleus @ nucleus)).astype(np.float32)
    of_red, of_nucleus = (
        np.where(of_nucleus < 0, red_alone, np.where(of_red < 0, 0, of_red)),
        np.where(of_red < 0, nucleus_alone, np.where(of_nucleus < 0, 0, of_nucleus)),
    )
    # The colour of a dark nucleus is noisy: it must not pass for several layers of red cells.
    darkness = mean_density(density) / np.float32(red.mean())
    limit = np.clip(_MOST_STACKED - 0.5 * np.clip(darkness - 2, 0, 4), 0, _MOST_STACKED)
    return np.clip(of_red, 0, limit).astype(np.float32), np.maximum(of_nucleus, 0).astype(np.float32)
