"""Robustness as text, JSON, CSV and curves."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blastdet.core.atomic_io import write_figure, write_text
from blastdet.core.constants import HEX, RESEARCH_USE
from blastdet.core.errors import DependencyError
from blastdet.evaluation.reporting.text import with_interval
from blastdet.evaluation.robustness.corruptions import CORRUPTIONS
from blastdet.evaluation.robustness.measure import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = ("robustness.json", "robustness.csv", "robustness.png")


def table(rows: Sequence[Row]) -> list[Mapping[str, object]]:
    """Rows as plain mappings, for JSON and CSV; NaN becomes ``None``."""
    keys = {"corruption": "disturbance"}  # its key in the files since the first version
    return [{keys.get(k, k): None if value != value else value for k, value in asdict(row).items()} for row in rows]


def as_text(rows: Sequence[Row]) -> str:
    """One line for each corruption, level and class."""
    lines = [f"{'corruption':<12}{'level':>7}  {'class':<9}{'AP50':<24}count error per image (bias)"]
    for row in rows:
        counted = "" if row.count_error != row.count_error else f"{row.count_error:.2f} ({row.count_bias:+.2f})"
        ap50 = with_interval(row.ap50, row.ap50_low, row.ap50_high)
        lines.append(f"{row.corruption:<12}{row.level:>7g}  {row.name:<9}{ap50:<24}{counted}".rstrip())
    return "\n".join(lines)


def write(rows: Sequence[Row], title: str, out: Path) -> list[Path]:
    """Write the table as JSON and CSV, and the curves as PNG; returns the paths."""
    content = table(rows)
    document = {"notice": RESEARCH_USE, "title": title, "rows": content}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(content[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
    paths = [out / name for name in FILES]
    write_text(paths[0], json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(paths[1], text.getvalue())
    draw(rows, title, paths[2])
    return paths


_LEAST = 0.01
"""Count errors below this are drawn at this value, because the axis is logarithmic."""


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Plot AP50 (with its interval) and mean absolute count error against the level of each corruption.

    One curve for each class. A dotted line marks the level that changes nothing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("matplotlib: not installed. Run: pip install 'blastdet[evaluate]'") from None

    shown = list(dict.fromkeys(row.corruption for row in rows))
    columns = min(len(shown), 3)
    down = -(-len(shown) // columns)
    figure = Figure(figsize=(3.6 * columns, 4.6 * down + 0.5), layout="constrained")  # draws without pyplot, with Agg
    panels = figure.subplots(2 * down, columns, squeeze=False, height_ratios=[3, 2] * down)
    for spare in panels.ravel():
        spare.set_axis_off()
    for place, name in enumerate(shown):
        upper, lower = (panels[2 * (place // columns) + k, place % columns] for k in (0, 1))
        _curves(upper, lower, [row for row in rows if row.corruption == name], name)
        if place == 0 and upper.get_legend_handles_labels()[0]:
            upper.legend(loc="lower left", fontsize=8, frameon=False)
    figure.suptitle(f"{title}\n{RESEARCH_USE}", fontsize=8, parse_math=False)  # a name may contain a $
    write_figure(path, figure, 140)


def _curves(upper: Axes, lower: Axes, rows: Sequence[Row], name: str) -> None:
    for of in dict.fromkeys(row.name for row in rows if row.name != "all"):
        mine = [row for row in rows if row.name == of]
        levels, look = [row.level for row in mine], dict[str, Any](color=HEX[of], marker="o", ms=3)
        upper.plot(levels, [row.ap50 for row in mine], label=of, **look)
        low, high = [row.ap50_low for row in mine], [row.ap50_high for row in mine]
        upper.fill_between(levels, low, high, color=HEX[of], alpha=0.15, lw=0)
        lower.plot(levels, [max(row.count_error, _LEAST) for row in mine], **look)
    upper.set(ylim=(-0.02, 1.02), ylabel="AP50", xticklabels=[])
    lower.set(yscale="log", ylabel="count error per image", xlabel=CORRUPTIONS[name].what)
    for axes in (upper, lower):
        axes.set_axis_on()
        axes.axvline(CORRUPTIONS[name].none, color="0.5", ls=":", lw=1)
