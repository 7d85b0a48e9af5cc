"""A PDF of one page for an image: overlay, differential, blasts and uncertain cells, method and limits."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blastdet import __version__
from blastdet.core.atomic_io import write_bytes
from blastdet.core.columns import shown_as
from blastdet.core.constants import HEX, RESEARCH_USE
from blastdet.core.errors import DependencyError, one_line
from blastdet.core.types import RGB
from blastdet.imaging import drawing
from blastdet.imaging.io import Source
from blastdet.inference.differential import beside, progress, spoken_type, why_no_percentages
from blastdet.inference.outputs.method import method_lines
from blastdet.inference.outputs.run_totals import PLURALS, Entry, RunTotals, all_cells, entry_of
from blastdet.inference.result import Result
from blastdet.viewer.pictures import crops_of

_A4 = (8.27, 11.69)
_SHOWN, _COLUMNS, _FEW_SHOWN = 20, 10, 5  # crops
_OVERLAY_PX = 1500
_LARGER = 1.6  # lines and labels of the overlay: it is printed smaller than on a screen
_TABLE_TOP, _ROW, _GALLERY_TOP = 0.462, 0.0145, 0.283
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
        What the overlay leaves out, see `Result.without`; it is counted all the same.

    Raises
    ------
    DependencyError
        If matplotlib is not installed.
    OSError
        If the file cannot be written.
    """
    return write_bytes(path, pdf_bytes(result, totals, source, hidden))


def pdf_bytes(
    result: Result, totals: RunTotals, source: Source, hidden: Collection[str] = (), review: str = ""
) -> bytes:
    """What `write_pdf` writes; `review` says who looked at it."""
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
    _differential(figure, result)
    _counts(figure, result)
    _gallery(figure, result, source)
    _words(figure, result, totals, review)
    # no date: equal runs give equal bytes
    about = {"CreationDate": None, "ModDate": None, "Title": f"{result.name} - blastdet", "Subject": RESEARCH_USE}
    content = io.BytesIO()
    figure.savefig(content, format="pdf", dpi=200, metadata=about)
    return content.getvalue()


def _text(figure: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text as it is: a dollar sign in a name is no formula."""
    figure.text(x, y, text, parse_math=False, va="top", family="DejaVu Sans", **style)


def _head(figure: Any, result: Result) -> None:
    name = "".join(letter if letter.isprintable() else "?" for letter in result.name)
    _text(figure, 0.06, 0.97, textwrap.shorten(name, 60, placeholder="…"), size=14, weight="bold")
    width, height = result.size_wh
    about = f"{width} × {height} px  ·  {result.mpp[0]:.3g} µm/px  ·  scale: {result.scale.describe()}"
    _text(figure, 0.06, 0.947, about, size=8, color=_SOFT)
    _text(figure, 0.94, 0.967, RESEARCH_USE, size=8, weight="bold", color="#8a5a00", ha="right")
    lines = [] if result.blast_fraction is None else result.blast_fraction.summary()
    unknown = result.blast_fraction is not None and not result.blast_fraction.is_known_stain
    first = textwrap.wrap(lines[0], 98) if lines else []
    colour = _ALERT if unknown else "black"
    _text(figure, 0.06, 0.93, "\n".join(first), size=9, weight="bold", color=colour)
    rest = textwrap.wrap(" ".join(lines[1:]), 125)
    _text(figure, 0.06, 0.926 - 0.0145 * len(first), "\n".join(rest), size=7.5, color=_SOFT)


def _overlay(figure: Any, result: Result, source: Source, hidden: Collection[str]) -> None:
    """The image with its cells; below it what the labels say, and a scale bar, as text that stays sharp."""
    shown = result.without(hidden)
    picture = Image.fromarray(drawing.draw_cells(source, shown, result.mpp, _LARGER))
    picture.thumbnail((_OVERLAY_PX, _OVERLAY_PX))
    axes = figure.add_axes((0.06, 0.498, 0.88, 0.368), anchor="N")
    axes.imshow(np.asarray(picture), interpolation="none")
    axes.axis("off")
    width = picture.width
    ten_um = 10 / result.mpp[0] * width / result.size_wh[0]
    axes.apply_aspect()
    below = axes.get_position()
    bar = figure.add_axes((below.x0, below.y0 - 0.006, below.width, 0.004))
    bar.set(xlim=(0, width), ylim=(0, 1))
    bar.axis("off")
    bar.plot([width - min(ten_um, width), width], [0.5, 0.5], color="black", lw=1.6, solid_capstyle="butt")
    _text(figure, below.x1, below.y0 - 0.008, "10 µm", size=6.5, ha="right")
    words = drawing.legend(shown) + (f" Not drawn: {', '.join(sorted(hidden))}." if hidden else "")
    lines = textwrap.wrap(words, max(20, int(165 * (below.x1 - 0.12))))  # they end before the scale bar
    _text(figure, 0.06, below.y0 - 0.008, "\n".join(lines), size=6.5, color=_SOFT)


def _swatch(figure: Any, x: float, y: float, kind: str) -> None:
    """The colour of a kind before its name; this is the legend of the boxes."""
    axes = figure.add_axes((x, y - 0.0095, 0.011, 0.0078))
    axes.set_facecolor(HEX[kind])
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_linewidth(0.3)


def _differential(figure: Any, result: Result) -> None:
    """White cells by type; with bars and intervals where percentages are stated."""
    found = result.blast_fraction
    if found is None or not found.n:
        return
    _text(figure, 0.06, _TABLE_TOP, f"Differential: {progress(found.n)}", size=9, weight="bold")
    if found.states_percentages:
        for x, text in zip((0.265, 0.325, 0.435), ("n", "%", "95 % CI (counting)"), strict=True):
            _text(figure, x, _TABLE_TOP - 0.0132, text, size=6, color=_SOFT, ha="right")
    for k, row in enumerate(result.differential):
        y = _TABLE_TOP - 0.022 - _ROW * k
        _swatch(figure, 0.06, y, row.cell_type)
        _text(figure, 0.08, y, spoken_type(row.cell_type), size=8)
        _text(figure, 0.265, y, str(row.n), size=8, ha="right")
        if not row.is_stated:
            continue
        for x, text in zip((0.325, 0.435), row.percentages, strict=True):
            _text(figure, x, y, text, size=8, ha="right")
        bar = figure.add_axes((0.45, y - 0.010, 0.16, 0.009))
        bar.set(xlim=(0, 1), ylim=(-0.5, 0.5))
        bar.axis("off")
        bar.barh([0], [1], color="#eceff2", height=1)
        bar.barh([0], [row.fraction], color=HEX[row.cell_type], height=1)
        bar.plot([row.interval.low, row.interval.high], [0, 0], color="black", lw=0.9, solid_capstyle="butt")
    extra = "; ".join([*([why] if (why := why_no_percentages(found)[:-1]) else []), *beside(found)])
    _text(figure, 0.06, _TABLE_TOP - 0.024 - _ROW * len(result.differential), extra, size=7, color=_SOFT)


def _counts(figure: Any, result: Result) -> None:
    """All cells, and how many there are per area. White cells are one row where the differential divides them."""
    counts = all_cells(result.counts, result.blast_fraction)
    _text(figure, 0.68, _TABLE_TOP, "All cells", size=9, weight="bold")
    _text(figure, 0.94, _TABLE_TOP, "per mm²", size=7.5, color=_SOFT, ha="right")
    for k, (kind, number) in enumerate(counts.items()):
        y = _TABLE_TOP - 0.022 - _ROW * k
        if kind != "wbc" or result.blast_fraction is None:  # the differential gives its parts their colours
            _swatch(figure, 0.68, y, kind)
        _text(figure, 0.70, y, PLURALS.get(kind, kind), size=8)
        _text(figure, 0.85, y, f"{number:,}", size=8, ha="right")
        _text(figure, 0.94, y, f"{number / result.area_mm2:,.0f}", size=8, ha="right")
    for k, line in enumerate(textwrap.wrap("; ".join(result.warnings), 55)[:5]):
        _text(figure, 0.68, _TABLE_TOP - 0.034 - _ROW * (len(counts) + k), line, size=6.5, color=_SOFT)


def _gallery(figure: Any, result: Result, source: Source) -> None:
    """Blasts by probability and uncertain cells, some of each; without either, the other white cells. Few are large."""
    kinds = np.array(result.kinds)
    blast = result.detections.blast_probability
    sure = np.zeros(len(kinds)) if blast is None else np.nan_to_num(blast)
    blasts, unsure, others = (
        np.flatnonzero(kinds == kind)[np.argsort(-sure[kinds == kind])].tolist() for kind in ("blast", "unsure", "wbc")
    )
    wanted, rows = blasts + unsure, blasts + unsure + others
    n_unsure = min(len(unsure), max(_SHOWN // 2, _SHOWN - len(blasts)))
    title = "Blasts and uncertain cells" if wanted else "White cells, none of them a blast or uncertain"
    title = title if result.blast_fraction is not None else "White cells"
    shown = blasts[: _SHOWN - n_unsure] + unsure[:n_unsure] if wanted else rows[:_SHOWN]
    if not shown:
        return
    of = f", {len(shown)} of {len(wanted or rows)}" if len(shown) < len(wanted or rows) else ""
    _text(figure, 0.06, _GALLERY_TOP, f"{title}{of}: each square is 22 µm wide", size=9, weight="bold")
    boxes = [tuple(box) for box in result.detections.boxes_xyxy[shown].astype(float).tolist()]
    times = 2.0 if len(shown) <= _FEW_SHOWN else 1.0
    names = shown_as(result.detections)
    for k, crop in enumerate(crops_of(source, boxes, result.mpp)):
        y, x = divmod(k, _COLUMNS)
        corner = (0.06 + 0.088 * times * x, _GALLERY_TOP - 0.018 - 0.06 * times - 0.072 * y)
        _crop(figure, crop, (*corner, 0.0848 * times, 0.06 * times), names[shown[k]])
        words = drawing.tag_text(result.detections, int(shown[k])).replace("granulocyte", "gran.")
        _text(figure, corner[0], corner[1] - 0.002, words, size=5 + times, color=_SOFT)


def _crop(figure: Any, crop: RGB, place: tuple[float, float, float, float], kind: str) -> None:
    axes = figure.add_axes(place)
    axes.imshow(crop)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(HEX[kind])
        side.set_linewidth(1.6)


def _words(figure: Any, result: Result, totals: RunTotals, review: str) -> None:
    _text(figure, 0.06, 0.118, "Method and limits", size=8, weight="bold")
    lines = textwrap.wrap(" ".join(method_lines(totals)), 165)
    _text(figure, 0.06, 0.104, "\n".join(lines), size=6, color=_SOFT, linespacing=1.35)
    if review:
        _text(figure, 0.06, 0.040, textwrap.shorten(review, 150, placeholder="…"), size=7.5, weight="bold")
    _text(figure, 0.06, 0.025, RESEARCH_USE, size=7, weight="bold", color=_SOFT)
    about = f"blastdet {__version__}  ·  sha256 of the image {result.image_sha256[:16]}"
    _text(figure, 0.94, 0.025, about, size=6, color=_SOFT, ha="right")


def totals_of(result: Result, entry: Entry, classifier: Any) -> RunTotals:
    """One image as a run of its own."""
    return RunTotals([entry], result.classes, classifier, result.model, {})


def pdf_of_result(
    result: Result, classifier: Any, source: Source, hidden: Collection[str] = (), review: str = ""
) -> bytes:
    """The report of one image as bytes, from its result and the card of the second stage; see `write_pdf`."""
    return pdf_bytes(result, totals_of(result, entry_of(result), classifier), source, hidden, review)
