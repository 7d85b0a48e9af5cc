"""Crops of errors: the pixels as a JPEG in the page, boxes drawn over them as SVG."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from blastdet.core.errors import ImageError
from blastdet.core.types import CELL_CLASSES, RGB, Detections
from blastdet.evaluation.evaluate import Evaluation
from blastdet.evaluation.reporting.worst_errors import CellError
from blastdet.imaging.io import open_smear

SIDE_PX = 180
_AROUND = 2.2  # side of a crop over the longer side of the box


@dataclass(frozen=True)
class Box:
    """A box within a crop, in its pixels."""

    x: float
    y: float
    width: float
    height: float
    text: str
    focus: bool


@dataclass(frozen=True)
class Crop:
    """One error.

    Parameters
    ----------
    error : CellError
    file_name : str
    image : str
        ``data:`` URL of a JPEG of `SIDE_PX` x `SIDE_PX`; empty if the image cannot be read.
    truth, found : tuple of Box
        Boxes in view.
    """

    error: CellError
    file_name: str
    image: str
    truth: tuple[Box, ...]
    found: tuple[Box, ...]


def crops(evaluation: Evaluation) -> list[Crop]:
    """A crop of each of the worst errors."""
    return [_crop(evaluation, error) for error in evaluation.worst]


def _crop(evaluation: Evaluation, error: CellError) -> Crop:
    sample, candidates = evaluation.dataset.samples[error.sample], evaluation.predictions.candidates[error.sample]
    x1, y1, x2, y2 = error.box_xyxy
    longer = max(x2 - x1, y2 - y1)
    side = max(min(_AROUND * longer, *sample.size_wh), longer, 24.0)
    left, top = (
        float(np.clip((a + b - side) / 2, 0, max(length - side, 0)))  # near an edge the cell is off centre
        for a, b, length in ((x1, x2, sample.size_wh[0]), (y1, y2, sample.size_wh[1]))
    )
    view = (left, top, side)
    try:
        with open_smear(sample.path) as source:
            scale = SIDE_PX / side
            image = data_address(source.read((left, top, left + side, top + side), (scale, scale)))
    except ImageError:
        image = ""
    assert sample.truth is not None
    found = candidates[candidates.above_threshold(evaluation.predictions.thresholds)]
    return Crop(
        error,
        evaluation.dataset.file_name(sample),
        image,
        _in_view(sample.truth, view, error, False),
        _in_view(found, view, error, True),
    )


def data_address(rgb: RGB) -> str:
    """An image as a ``data:`` URL."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _in_view(cells: Detections, view: tuple[float, float, float], error: CellError, scored: bool) -> tuple[Box, ...]:
    left, top, side = view
    made = []
    for box, label, score in zip(cells.boxes_xyxy.tolist(), cells.label.tolist(), cells.score.tolist(), strict=True):
        x1, y1, x2, y2 = ((v - o) * SIDE_PX / side for v, o in zip(box, (left, top, left, top), strict=True))
        if not (x2 > 0 and y2 > 0 and x1 < SIDE_PX and y1 < SIDE_PX):  # NaN boxes fail, too
            continue
        text = f"{CELL_CLASSES[label]} {score:.2f}" if scored else CELL_CLASSES[label]
        made.append(Box(x1, y1, x2 - x1, y2 - y1, text, tuple(box) == error.box_xyxy))
    return tuple(made)
