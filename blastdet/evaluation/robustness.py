"""How much worse does it get? One split under blur, JPEG, another stain, another light and a wrong scale.

Each disturbance is applied to the whole picture, before anything else looks at it, at levels that are stated in the
units a microscopist knows. Nothing is drawn at random, so that two model see the same pictures.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from blastdet.core.atomic_io import write_text
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import ScaleError
from blastdet.core.palette import HEX
from blastdet.core.types import RGB, Dataset, Detections, Sample, Scale
from blastdet.evaluation.average_precision import average_precision
from blastdet.evaluation.counts import agreements
from blastdet.evaluation.evaluate import as_nucleated, by_class_probability
from blastdet.evaluation.intervals import ap_intervals
from blastdet.evaluation.reporting.text import with_interval
from blastdet.imaging.io import read_image, write_image
from blastdet.inference.model import Model, Options

_LOWEST_SCORE = 0.01
_RESAMPLES = 300

Apply = Callable[[RGB, float, Scale], RGB]


@dataclass(frozen=True)
class Corruption:
    """One way in which pictures differ from those of a training set.

    Parameters
    ----------
    what : str
        With its unit, for the axis of a plot.
    none : float
        The level that changes nothing.
    levels : tuple of float
    apply : callable
        From a picture, a level and µm/px to the picture as it would have been. ``None``: it is the scale that is told
        wrong, by this factor.
    """

    what: str
    none: float
    levels: tuple[float, ...]
    apply: Apply | None


def blur(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """Out of focus by a Gaussian of so many µm (standard deviation)."""
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), level / mpp[0], sigmaY=level / mpp[1]), np.uint8)


def jpeg(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """Coded as JPEG of a quality from 1 to 100."""
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(level)])[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def stain(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """Stained for longer or shorter: optical density times a factor."""
    light = (np.arange(256) + 1.0) / 256
    return np.asarray(np.clip(256 * light**level - 1, 0, 255).astype(np.uint8)[rgb], np.uint8)


def hue(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """Redder (above 0) or bluer: optical density of green and blue times 1 + level, that of red times 1 - level."""
    out = [stain(rgb[..., channel], 1 - level if channel == 0 else 1 + level, mpp) for channel in range(3)]
    return np.stack(out, axis=-1)


def lamp(rgb: RGB, level: float, mpp: Scale) -> RGB:
    """More or less light: all channels times a factor, clipped as a camera does."""
    table = np.clip(np.arange(256) * level + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(table[rgb], np.uint8)


CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption("blur, µm", 0.0, (0.1, 0.2, 0.4, 0.8), blur),
    "jpeg": Corruption("JPEG quality", 100.0, (80.0, 50.0, 25.0, 10.0), jpeg),
    "stain": Corruption("stain, times", 1.0, (0.5, 0.75, 1.33, 2.0), stain),
    "hue": Corruption("hue, to red", 0.0, (-0.3, -0.15, 0.15, 0.3), hue),
    "light": Corruption("light, times", 1.0, (0.6, 0.8, 1.15, 1.3), lamp),
    "mpp": Corruption("µm/px told, times", 1.0, (0.75, 0.9, 1.1, 1.25), None),
}
"""Name of each disturbance -> what it is."""


@dataclass(frozen=True)
class Row:
    """What a model does on disturbed pictures.

    Parameters
    ----------
    disturbance, level
        Of `CORRUPTIONS`.
    name : str
        Class, or ``"all"``.
    ap50, ap50_low, ap50_high : float
        With the 95 % interval over groups.
    count_bias, count_error : float
        Cells found less cells there, per smear: mean, and mean of the absolute values. NaN for ``"all"``.
    """

    disturbance: str
    level: float
    name: str
    ap50: float
    ap50_low: float
    ap50_high: float
    count_bias: float
    count_error: float


def stress(
    dataset: Dataset,
    model: Model,
    names: Sequence[str] = tuple(CORRUPTIONS),
    progress: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Measure a model on a data set as it is, and under every level of some disturbances.

    Parameters
    ----------
    dataset : Dataset
        Every smear with truth and µm/px.
    model : Model
    names : sequence of str
        Keys of `CORRUPTIONS`.
    progress : callable
        Called once for each smear and level: see `steps`.

    Returns
    -------
    list of Row
        The level that changes nothing stands among the others of its disturbance, in order.

    Raises
    ------
    BlastdetError
        If a smear has no µm/px, or a picture cannot be read.
    """
    for sample in dataset:
        if sample.mpp is None:
            raise ScaleError(
                f"{sample.path}: µm/px unknown; stress needs the scale of every picture, give it with --mpp"
            )
    truth = as_nucleated(dataset) if "blast" not in model.classes else dataset
    plain = _measure(truth, _found(dataset, model, None, 0.0, progress), model)
    rows = []
    for name in names:
        disturbance = CORRUPTIONS[name]
        for level in sorted((disturbance.none, *disturbance.levels)):
            figures = plain
            if level != disturbance.none:
                figures = _measure(truth, _found(dataset, model, disturbance, level, progress), model)
            rows += [Row(name, level, of, *numbers) for of, numbers in figures.items()]
    return rows


def steps(dataset: Dataset, names: Sequence[str]) -> int:
    """How often `stress` calls its progress."""
    return len(dataset) * (1 + sum(len(CORRUPTIONS[name].levels) for name in names))


def _found(
    dataset: Dataset, model: Model, disturbance: Corruption | None, level: float, progress: Callable[[], None]
) -> list[Detections]:
    found = []
    with tempfile.TemporaryDirectory(prefix="blastdet-") as folder:
        for sample in dataset:
            path, mpp = _disturbed(sample, disturbance, level, Path(folder))
            found.append(model.analyze(path, Options(mpp, _LOWEST_SCORE)).candidates)
            progress()
    return found


def _disturbed(sample: Sample, disturbance: Corruption | None, level: float, folder: Path) -> tuple[Path, Scale]:
    """Picture and µm/px that the model is given."""
    assert sample.mpp is not None
    if disturbance is None:
        return sample.path, sample.mpp
    if disturbance.apply is None:
        return sample.path, (sample.mpp[0] * level, sample.mpp[1] * level)
    path = folder / "disturbed.png"
    write_image(path, disturbance.apply(read_image(sample.path), level, sample.mpp))
    return path, sample.mpp


def _measure(dataset: Dataset, found: Sequence[Detections], model: Model) -> dict[str, tuple[float, ...]]:
    """AP50 with its interval, and the errors of the counts, of each class and of all."""
    result = average_precision(dataset, [by_class_probability(part) for part in found])
    intervals = ap_intervals(result.table, _RESAMPLES)
    counted = {count.name: count for count in agreements(dataset, found, model.thresholds(), resamples=2)}
    figures: dict[str, tuple[float, ...]] = {}
    for name in (*(n for n in result.classes if result.n_truth[n]), "all"):
        interval = intervals[name]["AP50"]
        count = counted.get("white cells" if name == "wbc" else name)
        errors = (float("nan"), float("nan")) if count is None else (count.bias, count.mean_absolute_error)
        figures[name] = (result.figures(None if name == "all" else name)["AP50"], interval.low, interval.high, *errors)
    return figures


def table(rows: Sequence[Row]) -> list[Mapping[str, object]]:
    """Rows as plain mappings, for JSON and CSV; what has no value is ``None``."""
    return [{key: None if value != value else value for key, value in asdict(row).items()} for row in rows]


def as_text(rows: Sequence[Row]) -> str:
    """One line for each disturbance, level and class."""
    lines = [f"{'disturbance':<12}{'level':>7}  {'class':<9}{'AP50':<24}count error a smear (bias)"]
    for row in rows:
        counted = "" if row.count_error != row.count_error else f"{row.count_error:.2f} ({row.count_bias:+.2f})"
        ap50 = with_interval(row.ap50, row.ap50_low, row.ap50_high)
        lines.append(f"{row.disturbance:<12}{row.level:>7g}  {row.name:<9}{ap50:<24}{counted}".rstrip())
    return "\n".join(lines)


def write(rows: Sequence[Row], title: str, out: Path) -> list[Path]:
    """Table as JSON and CSV, and the curves as PNG."""
    content = table(rows)
    document = {"notice": RESEARCH_USE, "title": title, "rows": content}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(content[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
    write_text(out / "stress.json", json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(out / "stress.csv", text.getvalue())
    draw(rows, title, out / "stress.png")
    return [out / name for name in ("stress.json", "stress.csv", "stress.png")]


_LEAST = 0.01
"""Errors of counts below this are drawn at it: the axis is logarithmic."""


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """AP50 and error of counts over the level of each disturbance, a curve a class; the dotted line changes nothing.

    AP50 with its interval; counts as the mean absolute error of a smear.
    """
    from matplotlib.figure import Figure

    shown = list(dict.fromkeys(row.disturbance for row in rows))
    columns = min(len(shown), 3)
    down = -(-len(shown) // columns)
    figure = Figure(figsize=(3.6 * columns, 4.6 * down + 0.5), layout="constrained")
    panels = figure.subplots(2 * down, columns, squeeze=False, height_ratios=[3, 2] * down)
    for spare in panels.ravel():
        spare.set_axis_off()
    for place, name in enumerate(shown):
        upper, lower = (panels[2 * (place // columns) + k, place % columns] for k in (0, 1))
        for of in dict.fromkeys(row.name for row in rows if row.name != "all"):
            mine = [row for row in rows if (row.disturbance, row.name) == (name, of)]
            levels, look = [row.level for row in mine], {"color": HEX[of], "marker": "o", "ms": 3}
            upper.plot(levels, [row.ap50 for row in mine], label=of, **look)
            low, high = [row.ap50_low for row in mine], [row.ap50_high for row in mine]
            upper.fill_between(levels, low, high, color=HEX[of], alpha=0.15, lw=0)
            lower.plot(levels, [max(row.count_error, _LEAST) for row in mine], **look)
        upper.set(ylim=(-0.02, 1.02), ylabel="AP50", xticklabels=[])
        lower.set(yscale="log", ylabel="cells off, a smear", xlabel=CORRUPTIONS[name].what)
        for axes in (upper, lower):
            axes.set_axis_on()
            axes.axvline(CORRUPTIONS[name].none, color="0.5", ls=":", lw=1)
        if place == 0 and upper.get_legend_handles_labels()[0]:
            upper.legend(loc="lower left", fontsize=8, frameon=False)
    figure.suptitle(f"{title}\n{RESEARCH_USE}", fontsize=8)
    figure.savefig(path, dpi=140)
