"""A part of an image, read as if it were the whole one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blastdet.core.errors import ImageError, shown
from blastdet.core.types import RGB, WidthHeight
from blastdet.imaging.io import Source

Region = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the image, half-open."""


def check_region(region: Sequence[Any], size_wh: WidthHeight) -> Region:
    """A region as four integers on the image.

    Raises
    ------
    ImageError
        If it is anything else.

    Examples
    --------
    >>> check_region([0, 0, 100, 80], (640, 480))
    (0, 0, 100, 80)
    """
    width, height = size_wh
    if len(region) == 4 and all(type(side) is int for side in region):
        x1, y1, x2, y2 = region
        if 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height:
            return x1, y1, x2, y2
    on = f"on the image of {width} x {height} px"
    raise ImageError(f"region: expected [x1, y1, x2, y2] {on}, got {shown(region, 80)}")


class RegionSource:
    """A `Source` of the pixels of a region; beyond its edges the image goes on.

    Parameters
    ----------
    source : Source
        Closed with this one.
    region : (int, int, int, int)
        See `check_region`.
    """

    def __init__(self, source: Source, region: Region) -> None:
        self._source = source
        self._x, self._y, x2, y2 = region
        self.path, self.mpp, self.notes = source.path, source.mpp, source.notes
        self.size_wh = (x2 - self._x, y2 - self._y)

    def read(self, box_xyxy: Any = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        """See `Source.read`."""
        x1, y1, x2, y2 = box_xyxy or (0, 0, *self.size_wh)
        return self._source.read((x1 + self._x, y1 + self._y, x2 + self._x, y2 + self._y), scale_xy)

    def close(self) -> None:
        """See `Source.close`."""
        self._source.close()

    def __enter__(self) -> RegionSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
