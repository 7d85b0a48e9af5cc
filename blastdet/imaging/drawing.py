"""The smear with its cells drawn in, legible at 300 pixels and at 12 megapixels."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from blastdet.core.constants import COLOURS, RESEARCH_USE, UNSURE_COLOUR
from blastdet.core.types import CELL_CLASSES, RGB, Detections, Scale, WidthHeight
from blastdet.imaging.io import Source

_SHORTEST, _LONGEST = 900, 4200  # sides of an overlay in pixels: small images are enlarged, huge ones reduced
_NARROWEST_CAPTION = 60
_TAGGED = 40  # pixels of a typical white cell that leaves room for a label
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(source: Source, cells: Detections, mpp: Scale, counts: Mapping[str, int]) -> RGB:
    """The image with boxes, a number at each nucleated cell, and a caption with counts and a scale bar.

    The number is the blast probability if a second stage classified the cell, else the detector's score.

    Parameters
    ----------
    source : Source
    cells : Detections
        In pixels of the image.
    mpp : (float, float)
        µm per pixel of the image along x and y.
    counts : mapping of str to int
        For the caption.

    Returns
    -------
    uint8 (h, w, 3)
        Square pixels; the longer side between 900 and 4200 pixels where the image allows.
    """
    scale = _scale(source.size_wh, mpp)
    canvas = _canvas(source, scale)
    height, width = canvas.shape[:2]
    unit = max(width, height) / 1600  # line width 1 and text height 12 px on an image of 1600
    order = np.argsort(cells.label)[::-1]  # white cells last, on top
    boxes = cells.boxes_xyxy * np.array([*scale, *scale])
    unsure = np.zeros(len(cells), bool) if cells.unsure is None else cells.unsure
    names = [CELL_CLASSES[label] for label in cells.label]
    colours = [UNSURE_COLOUR if unsure[i] else COLOURS[name] for i, name in enumerate(names)]
    white = [i for i in order if names[i] in ("blast", "wbc")]
    typical = float(np.median((boxes[white, 2:] - boxes[white, :2]).max(axis=1))) if white else 0.0
    thin = min(unit, typical / _TAGGED) if white else unit  # lines and tags must not hide the cells
    for i in order:
        _box(canvas, boxes[i], colours[i], _line(names[i], thin))
    for i in white if typical >= _TAGGED else ():
        _tag(canvas, _words(cells, i), boxes[i], colours[i], thin)
    if width < _NARROWEST_CAPTION:
        return canvas
    classified = cells.blast_probability is not None
    ten_um = round(10 / mpp[0] * width / source.size_wh[0])
    return np.concatenate([canvas, _caption(counts, classified, ten_um, width, unit)])


def _canvas(source: Source, scale: tuple[float, float]) -> RGB:
    """The image at a scale. Enlarging needs no anti-aliasing, so OpenCV does it ten times as fast."""
    if min(scale) < 1.0:
        return np.ascontiguousarray(source.read(None, scale))
    width, height = source.size_wh
    size = round(width * scale[0]), round(height * scale[1])
    return np.asarray(cv2.resize(source.read(), size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _words(cells: Detections, i: int) -> str:
    """``blast .97``, ``unsure .45``, ``erythroblast .02``, or ``wbc 0.88`` of a detector alone."""
    name = CELL_CLASSES[cells.label[i]]
    if cells.blast_probability is None or np.isnan(cells.blast_probability[i]):
        return f"{name} {cells.score[i]:.2f}"
    if cells.unsure is not None and cells.unsure[i]:
        name = "unsure"
    elif cells.cell_type is not None and cells.cell_type[i]:
        name = str(cells.cell_type[i])
    return f"{name} {cells.blast_probability[i]:.2f}".replace(" 0.", " .")


def _scale(size_wh: WidthHeight, mpp: Scale) -> tuple[float, float]:
    """Enlargement that makes pixels square and the overlay neither tiny nor huge."""
    finest = min(mpp)
    square = (mpp[0] / finest, mpp[1] / finest)
    longest = max(size_wh[0] * square[0], size_wh[1] * square[1])
    factor = min(max(1.0, _SHORTEST / longest), _LONGEST / longest)
    width, height = size_wh
    return max(square[0] * factor, 1 / width), max(square[1] * factor, 1 / height)  # at least one pixel a side


def _line(name: str, unit: float) -> int:
    return max(1, round(unit * (2.2 if name in ("blast", "wbc") else 1.0)))


def _box(canvas: RGB, box: np.ndarray, colour: tuple[int, int, int], line: int) -> None:
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, line, cv2.LINE_AA)


def _tag(canvas: RGB, text: str, box: np.ndarray, colour: tuple[int, int, int], unit: float) -> None:
    """A filled label above the box, or inside it if there is no room above; always within the image."""
    size = max(0.38, 0.5 * unit)
    line = max(1, round(unit))
    (width, height), below = cv2.getTextSize(text, _FONT, size, line)
    pad = max(2, round(2 * unit))
    x = int(np.clip(round(float(box[0])), 0, max(canvas.shape[1] - width - 2 * pad - 1, 0)))
    y = round(float(box[1])) - height - below - 2 * pad
    y = y if y >= 0 else round(float(box[1]))
    cv2.rectangle(canvas, (x, y), (x + width + 2 * pad, y + height + below + 2 * pad), colour, -1)
    cv2.putText(canvas, text, (x + pad, y + height + pad), _FONT, size, (255, 255, 255), line, cv2.LINE_AA)


def _caption(counts: Mapping[str, int], classified: bool, ten_um: int, width: int, unit: float) -> RGB:
    """A strip below the image: counts in their colours, a scale bar of 10 µm, the research-use notice."""
    size, line = max(0.4, 0.6 * unit), max(1, round(unit))
    row = round(max(18, 30 * unit))
    strip = np.full((2 * row, width, 3), 255, np.uint8)
    x = round(10 * unit)
    bold = max(1, round(1.6 * unit))
    for text, colour in _counted(counts):
        cv2.putText(strip, text, (x, round(row * 0.7)), _FONT, size, colour, bold, cv2.LINE_AA)
        x += cv2.getTextSize(text, _FONT, size, bold)[0][0] + round(24 * unit)
    right = width - round(10 * unit)
    cv2.rectangle(strip, (right - ten_um, round(row * 0.55)), (right, round(row * 0.7)), (0, 0, 0), -1)
    words = cv2.getTextSize("10 um", _FONT, size * 0.8, line)[0][0]
    at = right - max(ten_um, words), round(row * 0.45)
    cv2.putText(strip, "10 um", at, _FONT, size * 0.8, (0, 0, 0), line, cv2.LINE_AA)
    what = "blast probability" if classified else "score"
    text = f"{RESEARCH_USE} Numbers in the image: {what}."
    fits = width / max(cv2.getTextSize(text, _FONT, size * 0.8, line)[0][0] + 20, 1)
    at = (round(10 * unit), round(row * 1.7))
    cv2.putText(strip, text, at, _FONT, size * 0.8 * min(fits, 1), (90, 90, 90), line, cv2.LINE_AA)
    return strip


def _counted(counts: Mapping[str, int]) -> list[tuple[str, tuple[int, int, int]]]:
    """Counts of the caption, each in its colour."""
    colours = {**COLOURS, "unsure": UNSURE_COLOUR}
    return [(f"{name} {n}", colours.get(name, COLOURS["wbc"])) for name, n in counts.items()]
