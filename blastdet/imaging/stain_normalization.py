"""Red cells as the ruler of colour: every picture is shown to a model in the light and stain of one laboratory.

What `ruler` does for size, this does for colour. A picture tells the colour of its empty film and of its red cells, the
one kind of cell that is on every film. A factor on each channel's optical density brings both to fixed values, so that
what differs from a red cell, a nucleus above all, differs in the same way wherever the film was stained.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import RGB
from blastdet.imaging.io import Source
from blastdet.imaging.optical_density import background_colour, densities, first_mode

FILM = 240.0
"""Grey level of the empty film as models see it."""

RED_CELL = (0.20, 0.33, 0.21)
"""Optical density (natural log) of a red cell above the film as models see it: a pale pink."""

_LOOK = 512  # longest side, in pixels, of what the colours are measured on
_WINDOW = 2400  # longest side of the part of a large smear that is looked at
_STAINED = 0.35  # of the density that the darker parts reach: less is film, or the pale middle of a red cell
_SAME_HUE = 0.2
_FACTORS = (0.35, 3.0)  # beyond this an answer is not believed
_LEAST = 0.02  # part of the picture that has to be red cells


class StainNormalizedSource:
    """A `Source` whose pixels come in canonical colours."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.size_wh, self.mpp, self.notes = source.path, source.size_wh, source.mpp, source.notes
        self._table = table(_glance(source))

    def read(self, box_xyxy: object = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        """See `Source.read`."""
        return apply(self._source.read(box_xyxy, scale_xy), self._table)  # type: ignore[arg-type]

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
    """A source as a model wants it: `colour` is that of its card."""
    return StainNormalizedSource(source) if colour == "canonical" else source


def apply(rgb: RGB, colours: NDArray[np.uint8]) -> RGB:
    """A picture through a table of `table`, one look-up a channel."""
    return np.asarray(cv2.LUT(rgb, colours[None]), np.uint8)


def table(rgb: RGB) -> NDArray[np.uint8]:
    """Canonical level of each level of each channel, uint8 (256, 3); without red cells only the light is evened."""
    film = background_colour(rgb)
    shown = (FILM + 8) * np.exp(-densities(film) * _factor(rgb, densities(film))) - 8
    return np.asarray(np.clip(np.rint(shown), 0, 255), np.uint8)


def _factor(rgb: RGB, density: NDArray[np.float32]) -> NDArray[np.float32]:
    """What to multiply the optical density of each channel by; `density` is that of each level (256, 3)."""
    # Channel by channel, each in one piece: several times as fast as numpy with the channels side by side.
    levels = [np.ascontiguousarray(rgb[..., channel]).ravel() for channel in range(3)]
    red, green, blue = (density[:, channel][level] for channel, level in enumerate(levels))
    total = (red + green + blue) / np.float32(3)
    stained = total > max(_STAINED * float(np.percentile(total, 95)), 0.04)
    one = np.ones(3, np.float32)
    if stained.mean() < _LEAST:
        return one
    where = np.flatnonzero(stained)
    hue = (red[where] / 2 + green[where] - blue[where]) / total[where]
    # Of all that is stained, red cells are the least purple.
    cells = where[np.abs(hue - first_mode(hue)) < _SAME_HUE]
    if len(cells) < _LEAST * total.size:
        return one
    found = np.array([np.median(density[:, channel][level[cells]]) for channel, level in enumerate(levels)])
    # Noise on a channel that hardly absorbs must not be blown up.
    return np.asarray(np.clip(np.array(RED_CELL) / np.maximum(found, 0.02), *_FACTORS), np.float32)


def _glance(source: Source) -> RGB:
    width, height = source.size_wh
    w, h = min(width, _WINDOW), min(height, _WINDOW)
    x, y = (width - w) // 2, (height - h) // 2
    factor = min(1.0, _LOOK / max(w, h))
    return source.read((x, y, x + w, y + h), (max(factor, 1 / w), max(factor, 1 / h)))  # at least a pixel is left
