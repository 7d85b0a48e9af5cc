"""An evaluation as text for the terminal, and the words that all outputs share."""

from __future__ import annotations

import math
from typing import Any

from blastdet.core.errors import counted
from blastdet.evaluation.allidb_tests import Verdicts
from blastdet.evaluation.comparison import Comparison
from blastdet.evaluation.confusion import Figure
from blastdet.evaluation.evaluate import Evaluation
from blastdet.evaluation.intervals import ONE_GROUP
from blastdet.evaluation.reporting.own_boxes import own_boxes_note

HOW_MATCHED = (
    "Average precision: COCO protocol (pycocotools), greedy by score within each class, IoU from 0.50 to 0.95.",
    "Class-blind confusion matrix: optimal one-to-one matching of boxes of all classes, then labels are compared.",
    "Class-aware confusion matrix: optimal one-to-one matching within each class.",
    "A region marked to ignore hides detections of every class. A class is evaluated only on images that annotate it.",
    "Intervals: 95 %, percentile bootstrap over groups. Images are resampled with their matches.",
    "Interval of a proportion that is exactly 0 or 1: Clopper-Pearson, with each group as one trial.",
    "A figure of cells that are all of one group has no interval, and says so.",
)


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """``0.957 [0.921, 0.984]``; a dash if there is no value."""
    if math.isnan(value):
        return "–"
    if math.isnan(low) or math.isnan(high):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def of_row(row: dict[str, Any], figure: str) -> str:
    """A figure of a row of `Evaluation.rows` with its interval."""
    return with_interval(row[figure], row[f"{figure}_low"], row[f"{figure}_high"])


def of_figure(figure: Figure) -> str:
    """A figure with its interval, or ``0.750 [one group]`` where its cells are all of one group."""
    text = with_interval(figure.value, figure.interval.low, figure.interval.high)
    return f"{text} [one group]" if figure.interval.method == ONE_GROUP and not math.isnan(figure.value) else text


def as_text(evaluation: Evaluation) -> str:
    """The headline table, per-cell figures and notes, for a terminal."""
    lines = [
        f"{evaluation.title}: {counted(len(evaluation.dataset), 'image')}",
        f"{'class':<10}{'truth':>7}  {'AP50 [95 % interval]':<26}AP50:95 [95 % interval]",
    ]
    for row in evaluation.rows:
        lines.append(f"{row['class']:<10}{row['n_truth']:>7}  {of_row(row, 'AP50'):<26}{of_row(row, 'AP')}")
    lines += ["", _cells_title(evaluation)]
    lines.append(f"{'class':<10}{'sensitivity':<26}{'precision':<26}F1")
    for name, figures in evaluation.cells["class-aware"].items():
        cells = [f"{of_figure(figure):<26}" for figure in figures]
        lines.append(f"{name:<10}{''.join(cells)}".rstrip())
    lines += [verdict_line(verdicts) for verdicts in evaluation.images[:1]]
    if evaluation.cell_test is not None:
        lines.append(verdict_line(evaluation.cell_test.verdicts))
        if evaluation.cell_test.several:
            lines.append(f"boxes with several centroids: {evaluation.cell_test.several}")
    return "\n".join([*lines, *(f"note: {note}" for note in all_notes(evaluation))])


def _cells_title(evaluation: Evaluation) -> str:
    aware = next(c for c in evaluation.confusions if c.matching == "class-aware")
    return f"per cell, {aware.title}"


def verdict_line(verdicts: Verdicts) -> str:
    """One line with all figures of an ALL-IDB1 test that are known."""
    sensitivity = with_interval(verdicts.sensitivity_value, verdicts.sensitivity.low, verdicts.sensitivity.high)
    start = f"{verdicts.name}: TP {verdicts.tp}, FN {verdicts.fn}, "
    if verdicts.tn is None:
        return f"{start}sensitivity {sensitivity}, false blasts {verdicts.false_blasts}"
    specificity = with_interval(verdicts.specificity_value, verdicts.specificity.low, verdicts.specificity.high)
    nowhere = f" ({verdicts.false_blasts} of them not on a white cell)" if verdicts.false_blasts else ""
    counts = f"TN {verdicts.tn}, FP {verdicts.fp}{nowhere}, errors {verdicts.error}"
    return f"{start}{counts}, sensitivity {sensitivity}, specificity {specificity}"


def all_notes(evaluation: Evaluation) -> list[str]:
    """What was left out or needs explanation, from all parts of the evaluation."""
    notes = [*evaluation.copies, *evaluation.ap.notes]
    notes += own_boxes_note(evaluation.dataset, evaluation.predictions)
    if "ids" in evaluation.predictions.about:
        notes.append(f"ids of {evaluation.predictions.name}: {evaluation.predictions.about['ids']}")
    if any(part.blast_probability is not None for part in evaluation.predictions.candidates):
        notes.append("blast, wbc: average precision ranks by score x class probability of the second stage")
    held, n = evaluation.fraction_coverage
    if n:
        what = "the 95 % interval of the blast fraction (sampling error only)"
        notes.append(f"{what} contains the true fraction in {held} of {n} images")
    if evaluation.ap.table.n_groups_with("all") < 2:
        notes.append("no intervals: all images are of one group, and nothing shows how much groups differ")
    if not evaluation.by_size:
        notes.append("no figures by cell size: the dataset has images without µm/px")
    if evaluation.cell_test is not None:
        notes += evaluation.cell_test.notes
    return notes


def _value(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def comparison_as_text(comparison: Comparison) -> str:
    """A comparison for the terminal; AP75 and AR are in the files."""
    dataset, (a, b) = comparison.a.dataset, comparison.names
    lines = [
        f"A {a}, B {b} on {dataset.name}: {counted(len(dataset), 'image')}",
        f"{'class':<10}{'figure':<13}{'A':>7}{'B':>8}  B - A [95 % interval, paired]",
    ]
    for d in comparison.differences:
        if d.figure not in ("AP75", "AR"):
            change = with_interval(d.difference, d.interval.low, d.interval.high)
            lines.append(f"{d.name:<10}{d.figure:<13}{_value(d.a):>7}{_value(d.b):>8}  {change:<26}{d.verdict}")
    return "\n".join(lines)
