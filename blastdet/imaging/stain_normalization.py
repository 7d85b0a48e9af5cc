"""Stain normalization: every image is converted to the light and stain of one reference laboratory.

The colours of the empty background and of the red cells are measured in each image, since every blood film shows both.
A factor on the optical density of each channel brings both to fixed values. Whatever differs from a red cell, above
all a nucleus, then differs in the same way in every laboratory. Models with ``colour: canonical`` in their card expect
such images. An image of one cell on plain ground shows neither: its own colour takes their place, see `isolated_cells`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import RGB
from blastdet.imaging import isolated_cells
from blastdet.imaging.io import Source
from blastdet.imaging.optical_density import background_colour, density_table, first_mode, to_levels

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
_LEAST = 0.02  # fraction of the image that red cells must cover


class StainNormalizedSource:
    """A `Source` whose pixels are normalized when they are read.

    Parameters
    ----------
    source : Source
        Its colours are measured once, here.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.size_wh, self.mpp, self.notes = source.path, source.size_wh, source.mpp, source.notes
        glance = _glance(source)
        cell = isolated_cells.cell_mask(glance)
        self.shows_one_cell = cell is not None
        """Whether it is the image of one cell on plain ground; such images have no red cells to measure."""
        self._table = table(glance) if cell is None else isolated_cells.table(glance, cell)

    def read(self, box_xyxy: object = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        """See `Source.read`."""
        rgb = self._source.read(box_xyxy, scale_xy)  # type: ignore[arg-type]
        normalized = apply(rgb, self._table)
        if self.shows_one_cell:
            normalized[isolated_cells.on_ground(rgb)] = round(BACKGROUND)
        return normalized

    def close(self) -> None:
        """See `Source.close`."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def normalize_stain(source: Source, colour: str) -> Source:
    """The source as a model expects it.

    `colour` is ``InputSpec.colour`` of the model's card; ``"canonical"`` turns normalization on.
    """
    return StainNormalizedSource(source) if colour == "canonical" else source


def apply(rgb: RGB, colours: NDArray[np.uint8]) -> RGB:
    """An image (h, w, 3) converted by a look-up table of `table`, uint8 (h, w, 3)."""
    return np.asarray(cv2.LUT(rgb, colours[None]), np.uint8)


def table(rgb: RGB) -> NDArray[np.uint8]:
    """The normalized grey level of each grey level of each channel, as measured on one image.

    Returns
    -------
    uint8 (256, 3)
        Only the background is corrected if no red cells are found.
    """
    density = density_table(background_colour(rgb))
    levels = to_levels(density * _factor(rgb, density), BACKGROUND)
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _factor(rgb: RGB, density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factor (3,) on the optical density of each channel; `density` (256, 3) is that of each grey level."""
    found = red_cell_density(rgb, density)
    if found is None:
        return np.ones(3, np.float32)
    # The limit keeps noise of a channel that absorbs little from being amplified.
    return np.asarray(np.clip(np.array(RED_CELL) / np.maximum(found, 0.02), *_FACTORS), np.float32)


def red_cell_density(rgb: RGB, density: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Median optical density of the red cells of an image.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    density : float32 (256, 3)
        That of each grey level of each channel: see `blastdet.imaging.optical_density.density_table`.

    Returns
    -------
    float64 (3,) or None
        ``None`` if no red cells are found.
    """
    # One contiguous array per channel: several times as fast as interleaved channels.
    levels = [np.ascontiguousarray(rgb[..., channel]).ravel() for channel in range(3)]
    red, green, blue = (density[:, channel][level] for channel, level in enumerate(levels))
    total = (red + green + blue) / np.float32(3)
    stained = total > max(_STAINED * float(np.percentile(total, 95)), 0.04)
    if stained.mean() < _LEAST:
        return None
    where = np.flatnonzero(stained)
    hue = (red[where] / 2 + green[where] - blue[where]) / total[where]
    # Red cells are the least purple of all stained things.
    cells = where[np.abs(hue - first_mode(hue)) < _SAME_HUE]
    if len(cells) < _LEAST * total.size:
        return None
    return np.array([np.median(density[:, channel][level[cells]]) for channel, level in enumerate(levels)], np.float64)


def _glance(source: Source) -> RGB:
    width, height = source.size_wh
    w, h = min(width, _WINDOW), min(height, _WINDOW)
    x, y = (width - w) // 2, (height - h) // 2
    factor = min(1.0, _LOOK / max(w, h))
    return source.read((x, y, x + w, y + h), (max(factor, 1 / w), max(factor, 1 / h)))  # at least one pixel a side
