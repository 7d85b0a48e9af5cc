"""Curves as SVG in the colour of the surrounding text, so that one plot works in light mode, dark mode and print."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from blastdet.core.constants import HEX
from blastdet.core.errors import DependencyError
from blastdet.evaluation.counts import count_cells
from blastdet.evaluation.evaluate import Evaluation
from blastdet.evaluation.match_table import RECALL_POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#010203"  # replaced by currentColor

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}


def svg(draw: Callable[[Axes], None], name: str) -> str:
    """One plot as an SVG element without prologue.

    Raises `DependencyError` if matplotlib is not installed.

    Parameters
    ----------
    draw : callable
        Gets the axes.
    name : str
        Salt of the ids, so that plots on one page do not share any.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("matplotlib: not installed. Run: pip install 'blastdet[evaluate]'") from None
    file = io.StringIO()
    style: Any = {**_STYLE, "svg.hashsalt": name}  # matplotlib types every key as a literal
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.9, 3.0), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="(?:figure|axes|patch|line2d|text|legend|matplotlib\.axis|xtick|ytick)_?\d*"', "", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(name)}" ', 1)


FALSE = {"per_field": "per field", "per_100_white": "per 100 white cells"}
"""Axis labels of the two ways to count false detections in a free-response curve."""


def plots(evaluation: Evaluation, number: int) -> list[tuple[str, str]]:
    """Caption and SVG of every curve of the evaluation; `number` distinguishes evaluations on one page."""
    drawn: list[tuple[str, Callable[[Axes], None]]] = [
        ("Precision and recall at IoU 0.5; dots: operating points", lambda axes: _precision_recall(axes, evaluation)),
        (
            "F1 against score threshold (for information; choose thresholds on validation data)",
            lambda axes: _f1(axes, evaluation),
        ),
        ("Calibration: fraction of correct boxes against score", lambda axes: _calibration(axes, evaluation)),
    ]
    for of in ("per_field", "per_100_white") if evaluation.frocs else ():
        caption = f"FROC: sensitivity against false detections {FALSE[of]}"
        if not all(np.isnan(getattr(curve, f"false_{of}")).all() for curve in evaluation.frocs.values()):
            drawn.append((caption, lambda axes, of=of: _froc(axes, evaluation, of)))  # type: ignore[misc]
    counted = {count.name for count in evaluation.counts}
    for name in [n for n in ("white cells", "blast share (%)") if n in counted] or sorted(counted)[:1]:
        caption = f"Bland–Altman, {name} per image: bias and limits of agreement"
        drawn.append((caption, lambda axes, name=name: _bland_altman(axes, evaluation, name)))  # type: ignore[misc]
    return [(caption, svg(draw, f"{evaluation.title} {number}: {caption}")) for caption, draw in drawn]


def _legend(axes: Axes, **words: Any) -> None:
    """A legend if there is a curve: a dataset may have no cells."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**words)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)


def _precision_recall(axes: Axes, evaluation: Evaluation) -> None:
    for name, curve in evaluation.sweeps.items():
        k = evaluation.ap.classes.index(name)
        label = f"{name} {evaluation.ap.figures(name)['AP50']:.3f}"
        axes.plot(RECALL_POINTS, evaluation.ap.precision[0, :, k], color=HEX[name], label=label)
        at = np.flatnonzero(curve.score >= evaluation.predictions.thresholds.get(name, 2.0))
        if len(at):
            axes.plot(curve.sensitivity[at[-1]], curve.precision[at[-1]], "o", color=HEX[name], ms=5)
    _unit_square(axes, "recall", "precision")
    _legend(axes, loc="lower left", title="AP50", title_fontsize=8)


def _f1(axes: Axes, evaluation: Evaluation) -> None:
    for name, curve in evaluation.sweeps.items():
        axes.plot(curve.score, curve.f1, color=HEX[name], label=name)
        if name in evaluation.predictions.thresholds:
            axes.axvline(evaluation.predictions.thresholds[name], color=HEX[name], lw=0.8, ls=":")
    _unit_square(axes, "score threshold", "F1")
    _legend(axes, loc="lower left")


def _calibration(axes: Axes, evaluation: Evaluation) -> None:
    axes.plot([0, 1], [0, 1], color="#888888", lw=0.8, ls="--")
    for name, curve in evaluation.calibration.items():
        kept = curve.n > 0
        label = f"{name}, error {curve.error:.2f}"
        axes.plot(curve.mean_score[kept], curve.fraction_right[kept], "o-", ms=3, color=HEX[name], label=label)
    _unit_square(axes, "score", "fraction of correct boxes (IoU 0.5)")
    _legend(axes, loc="upper left")


def _froc(axes: Axes, evaluation: Evaluation, of: str) -> None:
    top = 1.0 if of == "per_field" else 10.0
    for name, curve in evaluation.frocs.items():
        false = getattr(curve, f"false_{of}")
        axes.step(false, curve.sensitivity, where="post", color=HEX[name], label=name)
        best = curve.sensitivity >= 0.99 * curve.sensitivity.max(initial=0)
        top = max(top, float(np.nanmin(false[best])) * 1.5 if (best & ~np.isnan(false)).any() else 0)
    axes.set(xlim=(0, top), ylim=(0, 1.02), xlabel=f"false detections {FALSE[of]}", ylabel="sensitivity")
    _legend(axes, loc="lower right")


def _bland_altman(axes: Axes, evaluation: Evaluation, name: str) -> None:
    counts = count_cells(evaluation.dataset, evaluation.predictions.candidates, evaluation.predictions.thresholds)
    agreement = next(count for count in evaluation.counts if count.name == name)
    true, found = counts.true[name], counts.found[name]
    known = ~(np.isnan(true) | np.isnan(found))
    pairs, times = np.unique(np.stack([(true + found)[known] / 2, (found - true)[known]]), axis=1, return_counts=True)
    axes.scatter(pairs[0], pairs[1], s=10 + 4 * times, color="#4a90d9", alpha=0.6, linewidths=0)
    axes.axhline(agreement.bias, color=_INK, lw=1)
    for limit in agreement.limits:
        if np.isfinite(limit):
            axes.axhline(limit, color=_INK, lw=0.8, ls="--")
    axes.set(xlabel=f"mean of annotated and detected {name}", ylabel="detected − annotated")
