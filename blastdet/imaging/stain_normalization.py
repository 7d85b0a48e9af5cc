"""Stain normalization: every image is converted to the light and stain of one reference laboratory.

The colours of the empty background and of the red cells are measured in each image, since every blood film shows both.
A factor on the optical density of each channel brings both to fixed values. Whatever differs from a red cell, above
all a nucleus, then differs in the same way in every laboratory. Models with ``colour: canonical`` in their card expect
such images. An image of one cell on plain ground shows neither: its own colour takes their place, see `isolated_cells`.
Black ground around a field of view is neither measured nor changed.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import RGB
from blastdet.imaging import isolated_cells
from blastdet.imaging.io import DerivedSource, Source
from blastdet.imaging.optical_density import background_colour, density_table, first_mode, middle_levels, to_levels

__all__ = ["BACKGROUND", "RED_CELL", "StainNormalizedSource", "apply", "normalize_stain", "red_cell_density", "table"]

BACKGROUND = 240.0
"""Grey level of the empty background after normalization."""

RED_CELL = (0.20, 0.33, 0.21)
"""Optical density (natural logarithm) of a red cell in each channel after normalization: a pale pink."""

_LOOK = 512  # longest side in pixels of the image that the colours are measured on
_WINDOW = 2400  # longest side of the centre that is used of a larger image
_STAINED = 0.35  # of the density of the darker parts; below lie the background and the pale centre of red cells
_SAME_HUE = 0.2
_FACTORS = (0.35, 3.0)  # corrections beyond this range are clipped
_GRID, _ROUNDS = 48, 12  # of the estimate of uneven light
_GREY = 0.9  # hue, see `red_cell_density`; shading is grey, 0.5
_EVEN = 0.08  # density; light that differs less over the image is even
_LEAST = 0.02  # fraction of the image that red cells must cover


class StainNormalizedSource(DerivedSource):
    """A `Source` whose pixels are normalized when they are read.

    Parameters
    ----------
    source : Source
        Its colours are measured once, here.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.stored = source
        glance = _glance(source)
        cell = isolated_cells.cell_mask(glance)
        self.shows_one_cell = cell is not None
        """Whether it is the image of one cell on plain ground; such images have no red cells to measure."""
        shown = isolated_cells.field_of_view(glance) if cell is None else None
        self._has_ground = shown is not None
        self._table = table(glance, shown) if cell is None else isolated_cells.table(glance, cell)

    def read(self, box_xyxy: object = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        """See `Source.read`."""
        rgb = self._source.read(box_xyxy, scale_xy)  # type: ignore[arg-type]
        normalized = apply(rgb, self._table)
        if self.shows_one_cell:
            normalized[isolated_cells.on_ground(rgb)] = round(BACKGROUND)
        elif self._has_ground:
            ground = isolated_cells.on_black(rgb)
            normalized[ground] = rgb[ground]
        return normalized


def normalize_stain(source: Source, colour: str) -> Source:
    """The source as a model expects it.

    `colour` is ``InputSpec.colour`` of the model's card; ``"canonical"`` turns normalization on.
    """
    return StainNormalizedSource(source) if colour == "canonical" else source


def apply(rgb: RGB, colours: NDArray[np.uint8]) -> RGB:
    """An image (h, w, 3) converted by a look-up table of `table`, uint8 (h, w, 3)."""
    return np.asarray(cv2.LUT(rgb, colours[None]), np.uint8)


def table(rgb: RGB, shown: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """The normalized grey level of each grey level of each channel, as measured on one image.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    shown : bool (h, w), optional
        Pixels to measure. Default: all.

    Returns
    -------
    uint8 (256, 3)
        Only the background is corrected if no red cells are found.
    """
    density = density_table(background_colour(rgb, shown))
    levels = to_levels(density * _factor(rgb, density, shown), BACKGROUND)
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _factor(rgb: RGB, density: NDArray[np.float32], shown: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Factor (3,) on the optical density of each channel; `density` (256, 3) is that of each grey level."""
    found = red_cell_density(rgb, density, shown)
    if found is None:
        return np.ones(3, np.float32)
    # The limit keeps noise of a channel that absorbs little from being amplified.
    return np.asarray(np.clip(np.array(RED_CELL) / np.maximum(found, 0.02), *_FACTORS), np.float32)


def red_cell_density(
    rgb: RGB, density: NDArray[np.float32], shown: NDArray[np.bool_] | None = None
) -> NDArray[np.float64] | None:
    """Median optical density of the red cells of an image.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    density : float32 (256, 3)
        That of each grey level of each channel: see `blastdet.imaging.optical_density.density_table`.
    shown : bool (h, w), optional
        Pixels to measure. Default: all.

    Returns
    -------
    float64 (3,) or None
        ``None`` if no red cells are found.
    """
    # One contiguous array per channel: several times as fast as interleaved channels.
    levels = [channel.ravel() for channel in cv2.split(rgb)]
    red, green, blue = (
        cv2.LUT(level, np.ascontiguousarray(density[:, channel])).ravel() for channel, level in enumerate(levels)
    )
    total = (red + green + blue) / np.float32(3)
    seen = total if shown is None else total[shown.ravel()]
    stained = total > max(_STAINED * float(np.percentile(seen, 95)), 0.04)
    if shown is not None:
        stained &= shown.ravel()
    if np.count_nonzero(stained) / seen.size < _LEAST:
        return None
    where = np.flatnonzero(stained)
    with np.errstate(divide="ignore", invalid="ignore"):  # of pixels that are left out
        hue = ((red / 2 + green - blue) / total)[where]
    # Red cells are the least purple of all stained things.
    mode = first_mode(hue)
    if mode < _GREY:
        even = _in_even_light((red, green, blue), where, total.reshape(rgb.shape[:2]), shown)
        if even is not None and (even_mode := first_mode(even[1])) > mode + _SAME_HUE:
            chosen = np.abs(even[1] - even_mode) < _SAME_HUE
            if np.count_nonzero(chosen) < _LEAST * seen.size:
                return None
            return np.array([np.median(channel[chosen]) for channel in even[0]], np.float64)
    cells = where[np.abs(hue - mode) < _SAME_HUE]
    if len(cells) < _LEAST * seen.size:
        return None
    middle = [density[middle_levels(level[cells]), channel] for channel, level in enumerate(levels)]
    return np.asarray(np.mean(middle, axis=1), np.float64)  # in the order of levels, so are the densities


def _in_even_light(
    channels: tuple[NDArray[np.float32], ...],
    where: NDArray[np.intp],
    total: NDArray[np.float32],
    shown: NDArray[np.bool_] | None,
) -> tuple[tuple[NDArray[np.float32], ...], NDArray[np.float32]] | None:
    """Densities and hues of stained pixels without those of uneven light; ``None`` where the light is even.

    Dark corners are grey, less purple than violet red cells, and would pass for them.

    Parameters
    ----------
    channels : tuple of float32 (n,)
        Density of all pixels.
    where : int (k,)
        The stained ones.
    total : float32 (h, w)
        Mean density.
    shown : bool (h, w) or None
        Pixels that take part in the estimate of the light; ``None`` for all.
    """
    height, width = total.shape
    size = min(width, _GRID), min(height, _GRID)
    used = np.ones(size[::-1], bool)
    if shown is not None:
        used = cv2.resize(shown.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999
    if not used.any():
        return None
    surface = _lower_surface(cv2.resize(total, size, interpolation=cv2.INTER_AREA).astype(np.float64), used)
    if surface[used].max() < _EVEN:
        return None
    light = cv2.resize(surface.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR).ravel()[where]
    above = total.ravel()[where] - light
    lit = above > _EVEN
    if not lit.any():
        return None
    where, light = where[lit], light[lit]
    red, green, blue = (channel[where] - light for channel in channels)
    return (red, green, blue), (red / 2 + green - blue) / above[lit]


def _lower_surface(density: NDArray[np.float64], used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Quadratic surface that lies below most of an image: least squares with small weights for what is above it.

    It is fitted to the pixels `used` only.
    """
    y, x = (np.linspace(-1, 1, n) for n in density.shape)
    grid_x, grid_y = (grid.ravel() for grid in np.meshgrid(x, y))
    terms = np.stack([np.ones(grid_x.size), grid_x, grid_y, grid_x**2, grid_x * grid_y, grid_y**2], axis=1)
    weight = used.ravel().astype(np.float64)
    surface = np.zeros(grid_x.size)
    for _ in range(_ROUNDS):
        weighted, before = terms * weight[:, None], weight
        surface = terms @ np.linalg.lstsq(weighted.T @ terms, weighted.T @ density.ravel(), rcond=None)[0]
        weight = np.where(density.ravel() > surface + 0.02, 0.01, 1.0) * used.ravel()
        if np.array_equal(weight, before):  # the next round would find the same surface
            break
    return surface.reshape(density.shape)


def _glance(source: Source) -> RGB:
    width, height = source.size_wh
    w, h = min(width, _WINDOW), min(height, _WINDOW)
    x, y = (width - w) // 2, (height - h) // 2
    factor = min(1.0, _LOOK / max(w, h))
    return source.read((x, y, x + w, y + h), (max(factor, 1 / w), max(factor, 1 / h)))  # at least one pixel a side
