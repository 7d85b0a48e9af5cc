"""The overview of a large TIFF: the image reduced once, so that what shows much of it does not read all of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from blastdet.core.errors import ImageError
from blastdet.core.types import RGB, WidthHeight
from blastdet.imaging.io import Box, DerivedSource, Source, open_smear
from blastdet.service.compute.pipe import DamagedOverviewError
from blastdet.service.compute.tiles import TILE_PX

LONGEST_PX = 8192
"""Of an overview, in pixels; an image with no longer side needs none."""

_ENLARGED = 1.05  # a picture may be this much larger than its overview: it does not show, and saves reading the image
_ROWS = 512  # of the image that are in memory at once; a row of most tiles
_QUALITY = 92


def reduction_of(size_wh: WidthHeight) -> int:
    """By how much an overview is smaller: a power of two; 1 where none is needed.

    Examples
    --------
    >>> reduction_of((8192, 5000)), reduction_of((20000, 15000)), reduction_of((100_000, 80_000))
    (1, 4, 16)
    """
    return 1 << max(0, (-(-max(size_wh) // LONGEST_PX) - 1).bit_length())


def overview_size(size_wh: WidthHeight) -> WidthHeight:
    """Size of the overview of an image."""
    k = reduction_of(size_wh)
    return -(-size_wh[0] // k), -(-size_wh[1] // k)


class WithOverview(DerivedSource):
    """A `Source` that reads from its overview what is asked for at a scale about as low as that.

    Parameters
    ----------
    source, overview : Source
        Both are closed with this one.
    """

    def __init__(self, source: Source, overview: Source) -> None:
        super().__init__(source)
        self._overview, self._k = overview, reduction_of(source.size_wh)

    def read(self, box_xyxy: Box | None = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        """See `Source.read`."""
        k = self._k
        if max(scale_xy) * k > _ENLARGED:
            return self._source.read(box_xyxy, scale_xy)
        x1, y1, x2, y2 = box_xyxy or (0.0, 0.0, *self.size_wh)
        try:
            return self._overview.read((x1 / k, y1 / k, x2 / k, y2 / k), (scale_xy[0] * k, scale_xy[1] * k))
        except ImageError as error:
            raise DamagedOverviewError(str(error)) from error

    def close(self) -> None:
        """See `Source.close`."""
        try:
            super().close()
        finally:
            self._overview.close()


def open_overview(path: str) -> Source:
    """As `open_smear`; raises `DamagedOverviewError`."""
    try:
        return open_smear(path)
    except ImageError as error:
        raise DamagedOverviewError(str(error)) from error


def overview_of(source: Source, progress: Callable[[int, int], None]) -> bytes:
    """The overview as a TIFF in JPEG tiles; at most some hundred rows of the image are in memory."""
    import tifffile

    width, height = overview_size(source.size_wh)
    content = io.BytesIO()
    tifffile.imwrite(
        content,
        _tiles(source, progress),
        shape=(height, width, 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": _QUALITY},
        metadata=None,
    )
    return content.getvalue()


def _tiles(source: Source, progress: Callable[[int, int], None]) -> Iterator[RGB]:
    """Tiles of the overview, row by row."""
    width, height = overview_size(source.size_wh)
    columns, n_bands = -(-width // TILE_PX), -(-height // TILE_PX)
    for i in range(n_bands):
        band = np.zeros((TILE_PX, columns * TILE_PX, 3), np.uint8)
        rows = min(TILE_PX, height - i * TILE_PX)
        _fill(band[:rows, :width], source, i * TILE_PX)
        progress(i + 1, n_bands)
        for column in range(columns):
            yield np.ascontiguousarray(band[:, column * TILE_PX : (column + 1) * TILE_PX])


def _fill(band: RGB, source: Source, top: int) -> None:
    """Reduce what rows from `top` on show; beyond the edge of the image its last pixels are repeated."""
    k = reduction_of(source.size_wh)
    rows, width = band.shape[:2]
    step = max(1, _ROWS // k)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        box = (0.0, float((top + first) * k), float(width * k), float((top + last) * k))
        band[first:last] = cv2.resize(source.read(box), (width, last - first), interpolation=cv2.INTER_AREA)
