"""Cells of a part of an image, in pixels of the whole one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.errors import ImageError, shown
from blastdet.core.types import RGB, Detections, WidthHeight
from blastdet.imaging.io import DerivedSource, Source, open_smear
from blastdet.inference.model import Model, Options, Progress
from blastdet.inference.result import Result
from blastdet.inference.scale import estimate_scale

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


class RegionSource(DerivedSource):
    """A `Source` of the pixels of a region; beyond its edges the image goes on.

    Parameters
    ----------
    source : Source
        Closed with this one.
    region : (int, int, int, int)
        See `check_region`.
    """

    def __init__(self, source: Source, region: Region) -> None:
        super().__init__(source)
        self._x, self._y, x2, y2 = region
        self.size_wh = (x2 - self._x, y2 - self._y)

    def read(self, box_xyxy: Any = None, scale_xy: tuple[float, float] = (1.0, 1.0)) -> RGB:
        """See `Source.read`."""
        x1, y1, x2, y2 = box_xyxy or (0, 0, *self.size_wh)
        return self._source.read((x1 + self._x, y1 + self._y, x2 + self._x, y2 + self._y), scale_xy)


def analyze_region(
    model: Model, path: str | Path, region: Sequence[Any], options: Options, progress: Progress | None = None
) -> Result:
    """Detect, classify and count the cells of a region of an image file.

    Parameters
    ----------
    model : Model
    path : str or Path
    region : sequence of int
        x1, y1, x2, y2 in pixels, half-open.
    options : Options
    progress : callable, optional
        See `Model`.

    Returns
    -------
    Result
        Boxes are in pixels of the image. Densities are per area of the region, which is in `Result.parameters`.

    Raises
    ------
    ImageError, ScaleError
        As for a call of the model; also if the region is not on the image.
    """
    with open_smear(path) as source:
        box = check_region(region, source.size_wh)
        part = model.normalize_stain(RegionSource(source, box))
        found = model.analyze_source(part, estimate_scale(part, options.mpp, model.detector), options, progress)
        return replace(
            found,
            size_wh=source.size_wh,
            detections=_moved(found.detections, box),
            candidates=_moved(found.candidates, box),
            parameters={**found.parameters, "region": list(box)},
        )


def _moved(cells: Detections, region: Region) -> Detections:
    x, y = region[:2]
    return cells.with_columns(boxes_xyxy=cells.boxes_xyxy + np.array([x, y, x, y], np.float32))
