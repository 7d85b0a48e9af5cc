"""A PDF of one page for an image: overlay, differential, blasts and uncertain cells, method and limits."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blastdet.core.atomic_io import write_bytes
from blastdet.core.constants import HEX, RESEARCH_USE
from blastdet.core.errors import DependencyError, one_line
from blastdet.core.types import RGB
from blastdet.imaging import drawing
from blastdet.imaging.io import Source
from blastdet.inference.differential import beside, progress, spoken_type
from blastdet.inference.outputs.method import method_lines
from blastdet.inference.outputs.run_totals import Entry, RunTotals
from blastdet.inference.result import Result
from blastdet.viewer.pictures import crops_of

_A4 = (8.27, 11.69)
_SHOWN, _COLUMNS = 20, 10  # crops
_OVERLAY_PX = 1500
_SOFT, _ALERT = "#555555", "#9d1c1c"


def write_pdf(result: Result, totals: RunTotals, source: Source, path: Path, hidden: Collection[str] = ()) -> Path:
    """Write the report of one image.

    Parameters
    ----------
    result : Result
    totals : RunTotals
        Of this image alone.
    source : Source
        The image in its own colours.
    path : Path
    hidden : collection of str
        Classes that the overlay leaves out; they are counted all the same.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    OSError
        If the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_pdf import FigureCanvasPdf
        from matplotlib.figure import Figure
    except ImportError as error:
        message = f"matplotlib: cannot be imported ({one_line(error)}). Run: pip install 'blastdet[evaluate]'"
        raise DependencyError(message) from None
    figure = Figure(figsize=_A4)
    FigureCanvasPdf(figure)
    _head(figure, result)
    _overlay(figure, result, source, hidden)
    _counts(figure, result)
    _gallery(figure, result, source)
    _words(figure, totals)
    # no date: equal runs give equal bytes
    about = {"CreationDate": None, "ModDate": None, "Title": f"{result.name} - blastdet", "Subject": RESEARCH_USE}
    content = io.BytesIO()  # on a full disk, matplotlib fails while it tidies up, and hides the cause
    figure.savefig(content, format="pdf", dpi=200, metadata=about)
    return write_bytes(path, content.getvalue())


def _text(figure: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text as it is: a dollar sign in a name is no formula."""
    figure.text(x, y, text, parse_math=False, va="top", family="DejaVu Sans", **style)


def _head(figure: Any, result: Result) -> None:
    name = "".join(letter if letter.isprintable() else "?" for letter in result.name)
    _text(figure, 0.06, 0.97, textwrap.shorten(name, 60, placeholder="…"), size=14, weight="bold")
    width, height = result.size_wh
    about = f"{width} × {height} px, {result.mpp[0]:.4g} µm/px ({result.scale.describe()})"
    _text(figure, 0.06, 0.947, about, size=8, color=_SOFT)
    _text(figure, 0.94, 0.967, RESEARCH_USE, size=8, weight="bold", color="#8a5a00", ha="right")
    lines = [] if result.blast_fraction is None else result.blast_fraction.summary()
    unknown = result.blast_fraction is not None and not result.blast_fraction.is_known_stain
    first = textwrap.wrap(lines[0], 105) if lines else []
    colour = _ALERT if unknown else "black"
    _text(figure, 0.06, 0.93, "\n".join(first), size=9, weight="bold", color=colour)
    rest = textwrap.wrap(" ".join(lines[1:]), 125)
    _text(figure, 0.06, 0.926 - 0.0145 * len(first), "\n".join(rest), size=7.5, color=_SOFT)


def _overlay(figure: Any, result: Result, source: Source, hidden: Collection[str]) -> None:
    shown = result.detections.without_classes(hidden)
    picture = Image.fromarray(drawing.draw(source, shown, result.mpp, result.shown_counts, Path(result.name).name))
    picture.thumbnail((_OVERLAY_PX, _OVERLAY_PX))
    axes = figure.add_axes((0.06, 0.468, 0.88, 0.398), anchor="N")
    axes.imshow(np.asarray(picture), interpolation="none")
    axes.axis("off")


def _counts(figure: Any, result: Result) -> None:
    """The differential with bars and intervals on the left, all cells on the right."""
    top, step = 0.448, 0.0145
    found = result.blast_fraction
    if found is not None and found.n:
        _text(figure, 0.06, top, f"Differential: {progress(found.n)}", size=9, weight="bold")
        for k, row in enumerate(result.differential):
            y = top - 0.022 - step * k
            bar = figure.add_axes((0.43, y - 0.010, 0.16, 0.009))
            bar.set(xlim=(0, 1), ylim=(-0.5, 0.5))
            bar.axis("off")
            bar.barh([0], [1], color="#eceff2", height=1)
            if row.fraction == row.fraction:
                bar.barh([0], [row.fraction], color=HEX[row.cell_type], height=1)
                bar.plot([row.interval.low, row.interval.high], [0, 0], color="black", lw=0.9, solid_capstyle="butt")
            _text(figure, 0.06, y, spoken_type(row.cell_type), size=8)
            for x, text in zip((0.245, 0.305, 0.415), (str(row.n), *row.percentages), strict=True):
                _text(figure, x, y, text, size=8, ha="right")
        extra = "; ".join(beside(found))
        _text(figure, 0.06, top - 0.024 - step * len(result.differential), extra, size=7, color=_SOFT)
    _text(figure, 0.66, top, "All cells", size=9, weight="bold")
    _text(figure, 0.94, top, "per mm²", size=7.5, color=_SOFT, ha="right")
    for k, (name, number) in enumerate(result.named_counts.items()):
        y = top - 0.022 - step * k
        _text(figure, 0.66, y, name, size=8)
        _text(figure, 0.82, y, f"{number:,}", size=8, ha="right")
        _text(figure, 0.94, y, f"{number / result.area_mm2:,.0f}", size=8, ha="right")
    for k, line in enumerate(textwrap.wrap("; ".join(result.warnings), 55)[:5]):
        _text(figure, 0.66, top - 0.034 - step * (len(result.named_counts) + k), line, size=6.5, color=_SOFT)


def _gallery(figure: Any, result: Result, source: Source) -> None:
    """Blasts by probability, then uncertain cells; without either, the other white cells."""
    kinds = np.array(result.kinds)
    blast = result.detections.blast_probability
    sure = np.zeros(len(kinds)) if blast is None else np.nan_to_num(blast)
    rows = [
        i
        for kind in ("blast", "unsure", "wbc")
        for i in np.flatnonzero(kinds == kind)[np.argsort(-sure[kinds == kind])]
    ]
    wanted = [i for i in rows if kinds[i] in ("blast", "unsure")]
    title = "Blasts and uncertain cells" if wanted else "White cells"
    shown = (wanted or rows)[:_SHOWN]
    of = f", {len(shown)} of {len(wanted or rows)}" if len(shown) < len(wanted or rows) else ""
    top = 0.278
    _text(figure, 0.06, top, f"{title}{of}: each square is 22 µm wide", size=9, weight="bold")
    boxes = [tuple(box) for box in result.detections.boxes_xyxy[shown].astype(float).tolist()] if shown else []
    for k, crop in enumerate(crops_of(source, boxes, result.mpp)):
        y, x = divmod(k, _COLUMNS)
        _crop(figure, crop, (0.06 + 0.088 * x, top - 0.082 - 0.069 * y), str(kinds[shown[k]]))


def _crop(figure: Any, crop: RGB, corner: tuple[float, float], kind: str) -> None:
    axes = figure.add_axes((*corner, 0.084, 0.06))
    axes.imshow(crop)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(HEX[kind])
        side.set_linewidth(1.6)


def _words(figure: Any, totals: RunTotals) -> None:
    _text(figure, 0.06, 0.118, "Method and limits", size=8, weight="bold")
    lines = textwrap.wrap(" ".join(method_lines(totals)), 165)
    _text(figure, 0.06, 0.104, "\n".join(lines), size=6, color=_SOFT, linespacing=1.35)
    _text(figure, 0.06, 0.03, RESEARCH_USE, size=7, weight="bold", color=_SOFT)


def totals_of(result: Result, entry: Entry, classifier: Any) -> RunTotals:
    """One image as a run of its own."""
    return RunTotals([entry], result.classes, classifier, result.model, {})
