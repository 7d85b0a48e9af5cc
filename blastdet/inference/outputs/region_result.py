"""Cells of a part of an image, in pixels of the whole one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.types import Detections
from blastdet.imaging.io import open_smear
from blastdet.imaging.region import Region, RegionSource, check_region
from blastdet.inference.model import Model, Options, Progress
from blastdet.inference.result import Result
from blastdet.inference.scale import estimate_scale


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
