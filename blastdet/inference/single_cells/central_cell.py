"""The one cell that an image is about: cut out on plain ground, or detected nearest to the centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blastdet.core.errors import ImageError
from blastdet.core.types import NUCLEATED, Detections, Scale
from blastdet.imaging.cell_crops import CONTEXT, Box
from blastdet.imaging.io import Source
from blastdet.imaging.isolated_cells import cell_box
from blastdet.inference.tiled_detection import find_cells
from blastdet.models.detector import Detector

LARGEST_MEGAPIXELS = 25
"""Larger images are smears. A camera field of 12 megapixels is taken, for the sake of the cell in its centre."""

_POSSIBLE = 0.05  # lowest score of a cell that contains the centre
_USUAL_UM = 15.0  # side of the square that is taken where no cell is detected: about a monocyte
_MANY = 6  # confident nucleated cells from which an image looks like a smear
_GLANCE = 1024  # longest side in pixels of the image that the ground is looked for on


@dataclass(frozen=True)
class CentralCell:
    """A box in pixels of the image, and a remark on how it was found where that is not plain."""

    box_xyxy: Box
    note: str = ""


def isolated_box(source: Source) -> Box | None:
    """Box of the cell of an image with plain black or white ground; ``None`` where the ground is not plain.

    `source` is in its own colours. Raises `ImageError` if it is too large to be the image of one cell.
    """
    width, height = source.size_wh
    if width * height > LARGEST_MEGAPIXELS * 10**6:
        raise ImageError(
            f"{source.path}: expected an image of one cell, got {width} x {height} px. Use blastdet detect"
        )
    factor = min(1.0, _GLANCE / max(width, height))
    rgb = source.read() if factor == 1 else source.read(None, (max(factor, 1 / width), max(factor, 1 / height)))
    found = cell_box(rgb)
    if found is None:
        return None
    x, y = width / rgb.shape[1], height / rgb.shape[0]
    return found[0] * x, found[1] * y, found[2] * x, found[3] * y


def central_cell(source: Source, mpp: Scale, detector: Detector) -> CentralCell:
    """The nucleated cell in the centre of an image without plain ground.

    In this order: a confident detection that contains the centre; a weak one that does; the confident one nearest to
    the centre; else the middle of the image. All but the first have a note.

    Parameters
    ----------
    source : Source
        In the colours of the detector.
    """
    cells = find_cells(source, mpp, detector).with_classes(*NUCLEATED)
    sure = cells[cells.above_threshold({name: point.value for name, point in detector.card.thresholds.items()})]
    centre = np.array(source.size_wh) / 2
    many = ""
    if len(sure) >= _MANY:
        many = f"{len(sure)} nucleated cells detected, the central one is classified. For smears, use blastdet detect"
    if len(inside := _containing(sure, centre)):
        return CentralCell(_box(inside, int(_apart(inside, centre).argmin())), many)
    if len(inside := _containing(cells[cells.score >= _POSSIBLE], centre)):
        best = int(inside.score.argmax())
        return CentralCell(_box(inside, best), f"cell detected with a low score ({inside.score[best]:.2f})")
    if len(sure):
        nearest = int(_apart(sure, centre).argmin())
        away = float(np.hypot(*((sure.centres_xy[nearest] - centre) * mpp)))
        note = f"no cell in the centre: the nearest is classified, {away:.0f} µm away"
        return CentralCell(_box(sure, nearest), note)
    return CentralCell(_middle(source, mpp), "no cell detected: the middle of the image is classified")


def _containing(cells: Detections, point: np.ndarray) -> Detections:
    boxes = cells.boxes_xyxy
    return cells[np.asarray((boxes[:, :2] <= point).all(axis=1) & (boxes[:, 2:] > point).all(axis=1))]


def _apart(cells: Detections, point: np.ndarray) -> np.ndarray:
    return np.asarray(((cells.centres_xy - point) ** 2).sum(axis=1))


def _box(cells: Detections, i: int) -> Box:
    x1, y1, x2, y2 = cells.boxes_xyxy[i].tolist()
    return x1, y1, x2, y2


def _middle(source: Source, mpp: Scale) -> Box:
    """A square as wide as a large cell; where the image is smaller, what leaves a crop within the image."""
    width, height = source.size_wh
    side_um = min(_USUAL_UM, width * mpp[0] / CONTEXT, height * mpp[1] / CONTEXT)
    half_x, half_y = side_um / mpp[0] / 2, side_um / mpp[1] / 2
    return width / 2 - half_x, height / 2 - half_y, width / 2 + half_x, height / 2 + half_y
