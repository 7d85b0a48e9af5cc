"""The smear with its cells drawn in, legible at 300 pixels and at 12 megapixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blastdet.core.columns import shown_as
from blastdet.core.constants import CELL_TYPES, COLOURS, PALETTE, RESEARCH_USE
from blastdet.core.types import CELL_CLASSES, NUCLEATED, RGB, UNLIKE_TRAINING, Detections, Scale, WidthHeight
from blastdet.imaging.io import Source

_SHORTEST, _LONGEST = 900, 4200  # sides of an overlay in pixels: small images are enlarged, huge ones reduced
_NARROWEST_CAPTION = 60
_UNITS = 1600  # pixels of an image on which a line is 1 px wide and text 12 px high
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_MOST_COVERED = 0.25  # of another cell, by a label
_CONTRAST = 3.2  # of white text; WCAG 2 asks for 3 in large letters
_TAGGED = 40  # pixels of a typical white cell that leaves room for a label


def draw(source: Source, cells: Detections, mpp: Scale, counts: Mapping[str, int], title: str = "") -> RGB:
    """The image with boxes, a number at each nucleated cell, and a caption with counts and a scale bar.

    Colours are those of `PALETTE`. The number is the probability of the type that is named, or of a blast where none
    is, if a second stage classified the cell; else it is the detector's score.

    Parameters
    ----------
    source : Source
    cells : Detections
        In pixels of the image.
    mpp : (float, float)
        µm per pixel of the image along x and y.
    counts : mapping of str to int
        For the caption. Names of `PALETTE`, with spaces; others get the colour of white cells.
    title : str
        Name of the image, for the caption.

    Returns
    -------
    uint8 (h, w, 3)
        Square pixels; the longer side between 900 and 4200 pixels where the image allows.
    """
    canvas = draw_cells(source, cells, mpp)
    height, width = canvas.shape[:2]
    if width < _NARROWEST_CAPTION:
        return canvas
    ten_um = round(10 / mpp[0] * width / source.size_wh[0])
    scale_text = f"{mpp[0]:.4g} µm/px" if abs(mpp[0] / mpp[1] - 1) < 1e-6 else f"{mpp[0]:.4g} x {mpp[1]:.4g} µm/px"
    about = f"{title}, {scale_text}." if title else f"{scale_text}."
    unit = max(width, height) / _UNITS
    return np.concatenate([canvas, _caption(counts, (about, legend(cells)), ten_um, width, unit)])


def draw_cells(source: Source, cells: Detections, mpp: Scale, larger: float = 1.0) -> RGB:
    """The image with boxes and labels as in `draw`, without the caption.

    Parameters
    ----------
    source, cells, mpp
        As in `draw`.
    larger : float
        Factor of labels and of the boxes of nucleated cells, for a picture that is shown small.

    Returns
    -------
    uint8 (h, w, 3)
    """
    scale = _scale(source.size_wh, mpp)
    canvas = _canvas(source, scale)
    unit = max(canvas.shape[:2]) / _UNITS * larger
    order = np.argsort(cells.label)[::-1]  # white cells last, on top
    boxes = cells.boxes_xyxy * np.array([*scale, *scale])
    names = [CELL_CLASSES[label] for label in cells.label]
    colours = [PALETTE[name] for name in shown_as(cells)]
    white = [i for i in order if names[i] in NUCLEATED]
    typical = float(np.median((boxes[white, 2:] - boxes[white, :2]).max(axis=1))) if white else 0.0
    thin = min(unit, typical / _TAGGED) if white else unit  # lines and tags must not hide the cells
    for i in order:
        line = _line(names[i], thin if names[i] in NUCLEATED else thin / larger)
        if names[i] in NUCLEATED and _ink(colours[i]) == _BLACK:  # a bright line is lost on a pale background
            line += 2
            _box(canvas, boxes[i], _BLACK, line + 2)
        _box(canvas, boxes[i], colours[i], line)
    if typical >= _TAGGED:
        canvas = _with_tags(canvas, [(tag_text(cells, i), boxes[i], colours[i]) for i in white], thin)
    return canvas


def _canvas(source: Source, scale: tuple[float, float]) -> RGB:
    """The image at a scale. Enlarging needs no anti-aliasing, so OpenCV does it ten times as fast."""
    if min(scale) < 1.0:
        return np.ascontiguousarray(source.read(None, scale))
    width, height = source.size_wh
    size = round(width * scale[0]), round(height * scale[1])
    return np.asarray(cv2.resize(source.read(), size, interpolation=cv2.INTER_LINEAR), np.uint8)


def tag_text(cells: Detections, i: int) -> str:
    """``blast .97``, ``monocyte .91``, ``unsure .45``, or ``wbc 0.88`` of a detector alone.

    A cell unlike the training data is just that: its probability would explain nothing. One that a person typed has
    no number.
    """
    name = CELL_CLASSES[cells.label[i]]
    if name == "wbc" and cells.cell_type is not None:
        name = "other wbc"  # beside types, as tables say
    if cells.origin is not None and cells.origin[i] == "human":
        cell_type = "" if cells.cell_type is None else str(cells.cell_type[i])
        return (cell_type or name).replace("_", " ")
    if cells.blast_probability is None or np.isnan(cells.blast_probability[i]):
        return f"{name} {cells.score[i]:.2f}"
    if cells.unsure is not None and cells.unsure[i]:
        if cells.unsure_reason is not None and cells.unsure_reason[i] == UNLIKE_TRAINING:
            return UNLIKE_TRAINING
        name = "unsure"
    elif cells.cell_type is not None and cells.cell_type[i]:
        name = str(cells.cell_type[i])
        if cells.type_probability is not None and name in CELL_TYPES:
            return _numbered(name, cells.type_probability[i, CELL_TYPES.index(name)])
    if name == "other wbc":  # the probability of a blast would be read as that of the name
        return "other wbc"
    return _numbered(name, cells.blast_probability[i])


def _numbered(name: str, probability: float) -> str:
    return f"{name.replace('_', ' ')} {probability:.2f}".replace(" 0.", " .")


def _scale(size_wh: WidthHeight, mpp: Scale) -> tuple[float, float]:
    """Enlargement that makes pixels square and the overlay neither tiny nor huge."""
    finest = min(mpp)
    square = (mpp[0] / finest, mpp[1] / finest)
    longest = max(size_wh[0] * square[0], size_wh[1] * square[1])
    factor = min(max(1.0, _SHORTEST / longest), _LONGEST / longest)
    width, height = size_wh
    return max(square[0] * factor, 1 / width), max(square[1] * factor, 1 / height)  # at least one pixel a side


def _line(name: str, unit: float) -> int:
    return max(1, round(unit * (2.2 if name in NUCLEATED else 1.0)))


def _box(canvas: RGB, box: np.ndarray, colour: tuple[int, int, int], line: int) -> None:
    x1, y1, x2, y2 = (round(float(side)) for side in box)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, line, cv2.LINE_AA)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font: narrower and easier to read than OpenCV's strokes."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _with_tags(canvas: RGB, tags: Sequence[tuple[str, np.ndarray, tuple[int, int, int]]], unit: float) -> RGB:
    """The canvas with a filled label for each text, box and colour; none where it would cover much of another cell."""
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    cells = np.array([box for _, box, _ in tags], np.float64).reshape(-1, 4)
    taken, n = np.empty_like(cells), 0
    for k, (text, box, colour) in enumerate(tags):
        for place in _places(picture.size, text, box, unit):
            over_cells = _covered(place, cells)
            over_cells[k] = 0.0  # its own may be covered, where there is no other room
            if over_cells.max() <= _MOST_COVERED and not _covered(place, taken[:n]).any():
                taken[n], n = place, n + 1
                _tag(pen, place, text, colour, unit)
                break
    return np.array(picture)


def _covered(place: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The part of each of other boxes that a label covers."""
    sides = np.minimum(place[2:], others[:, 2:]) - np.maximum(place[:2], others[:, :2])
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    covered: np.ndarray = np.prod(sides.clip(0), axis=1) / areas.clip(1)
    return covered


def _places(size_wh: WidthHeight, text: str, box: np.ndarray, unit: float) -> list[np.ndarray]:
    """Where a label may be: above its box, or inside it if there is no room above; else below. Always in the image."""
    font, pad = _tag_font(unit)
    ascent, descent = font.getmetrics()
    width, height = math.ceil(font.getlength(text)) + 2 * pad, ascent + descent + pad
    x = int(np.clip(round(float(box[0])), 0, max(size_wh[0] - width, 0)))
    top, bottom = round(float(box[1])), round(float(box[3]))
    tops = [top - height if top >= height else top, *([bottom] if bottom + height <= size_wh[1] else [])]
    return [np.array([x, y, x + width, y + height]) for y in tops]


def _tag_font(unit: float) -> tuple[ImageFont.FreeTypeFont, int]:
    return _font(round(max(11, 15 * unit))), max(2, round(2 * unit))


def _tag(pen: ImageDraw.ImageDraw, place: np.ndarray, text: str, colour: tuple[int, int, int], unit: float) -> None:
    font, pad = _tag_font(unit)
    x1, y1, x2, y2 = place.tolist()
    pen.rectangle((x1, y1, x2 - 1, y2 - 1), colour)
    pen.text((x1 + pad, y1 + pad // 2), text, _ink(colour), font)


def _ink(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on a colour: contrast by relative luminance, as WCAG 2 defines it."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _WHITE if 1.05 / (luminance + 0.05) >= _CONTRAST else _BLACK


def _write(
    strip: Image.Image,
    at: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    ink: tuple[int, int, int] = _BLACK,
) -> None:
    """Write text from a point on the base line on. The font has no µ: it is a u with the lower part of a p."""
    x, y = round(at[0]), round(at[1])
    plain, stem = _known(text).replace("µ", "u"), _known(text).replace("µ", "p")
    ImageDraw.Draw(strip).text((x, y), plain, ink, font, "ls")
    for k, letter in enumerate(_known(text)):
        if letter != "µ":
            continue
        mask = Image.new("L", strip.size)
        left = x + font.getlength(plain[:k])
        ImageDraw.Draw(mask).text((left, y), stem[k], 255, font, "ls")
        mask.paste(0, (0, 0, strip.width, y))
        strip.paste(ink, (0, 0), mask)


def _known(text: str) -> str:
    """Text in letters that the font has."""
    return "".join(letter if letter == "µ" or " " <= letter <= "~" or "À" <= letter <= "ÿ" else "?" for letter in text)


def legend(cells: Detections) -> str:
    """What the labels in the image say."""
    if cells.blast_probability is None:
        return "Numbers in the image: score."
    words = "Numbers in the image: blast probability."
    if cells.type_probability is not None:
        words = "Numbers in the image: probability of the type named; of a blast for unsure and other wbc."
    if cells.unsure_reason is not None and (cells.unsure_reason == UNLIKE_TRAINING).any():
        words += f" {UNLIKE_TRAINING.capitalize()}: unsure, whatever the probability."
    white = cells.with_classes(*NUCLEATED)
    if white.origin is not None and "human" in white.origin:
        words += " Without a number: typed by a person."
    return words


def _caption(counts: Mapping[str, int], words: tuple[str, str], ten_um: int, width: int, unit: float) -> RGB:
    """A strip below the image: counts on their colours, a scale bar, name and scale, the research-use notice."""
    row, edge = round(max(18, 30 * unit)), round(max(8, 12 * unit))
    large, small = round(max(12, 20 * unit)), max(11, 16 * unit)
    right = width - 2 * edge
    bar = max(ten_um, _font(round(small)).getlength("10 um"))
    labels, rows = _placed(counts, _font(large), (edge, right - bar - 3 * edge), edge)
    strip = Image.new("RGB", (width, (rows + 2) * row + 2 * edge), (255, 255, 255))
    pen = ImageDraw.Draw(strip)
    for text, colour, x, line in labels:
        y = line * row + edge * 0.6
        pen.rectangle((x, y + row * 0.08, x + _font(large).getlength(text) + edge, y + row * 0.92), colour)
        pen.text((x + edge / 2, y + row * 0.72), text, _ink(colour), _font(large), "ls")
    _ruler(strip, (right - ten_um, right), row + edge, _font(round(small)))
    about, explained = words
    for line, text in enumerate((about, f"{RESEARCH_USE} {explained}")):
        fits = (width - 2 * edge) / _font(round(small)).getlength(_known(text).replace("µ", "u"))
        font = _font(max(1, int(small * min(fits, 1))))
        _write(strip, (edge, edge * 1.2 + row * (rows + line + 0.6)), text, font, (60, 60, 60))
    return np.array(strip)


def _ruler(strip: Image.Image, between: tuple[int, int], bottom: int, font: ImageFont.FreeTypeFont) -> None:
    """A bar of 10 µm with ends, its length written above the middle."""
    left, right = between
    pen, thick = ImageDraw.Draw(strip), max(2, round(font.size / 6))
    pen.rectangle((left, bottom - thick, right, bottom), _BLACK)
    for x in (left, right - thick):
        pen.rectangle((x, bottom - 3 * thick, x + thick, bottom + thick), _BLACK)
    wide = font.getlength("10 um")
    start = min((left + right - wide) / 2, strip.width - wide - thick)
    _write(strip, (start, bottom - 4 * thick), "10 µm", font)


def _placed(
    counts: Mapping[str, int], font: ImageFont.FreeTypeFont, limits: tuple[float, float], edge: int
) -> tuple[list[tuple[str, tuple[int, int, int], float, int]], int]:
    """Text, colour, left side and row of each count between two limits, and the number of rows."""
    placed, (left, right) = [], limits
    x, line = left, 0
    for name, n in counts.items():
        text = f"{name} {n}"
        wide = font.getlength(text) + edge
        if x > left and x + wide > right:
            x, line = left, line + 1
        placed.append((text, PALETTE.get(name.replace(" ", "_"), COLOURS["wbc"]), x, line))
        x += wide + edge
    return placed, line + 1
