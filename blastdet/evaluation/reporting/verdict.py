"""What an evaluation means for each class, in words: how many cells were found, and whether to rely on the count."""

from __future__ import annotations

from blastdet.core.statistics import clopper_pearson
from blastdet.evaluation.confusion import Confusion

ENOUGH_CELLS = 30
"""Annotated cells; from fewer, nothing is concluded."""

GOOD, POOR = 0.95, 0.8
"""Sensitivity and precision of a count to rely on, which the exact 95 % intervals of both must lie above; and below
which of either it should not be used."""

_SPOKEN = {"blast": "blasts", "wbc": "white cells", "rbc": "red cells", "platelet": "platelets"}


def verdicts(result: Confusion) -> list[tuple[str, str]]:
    """Class and sentence for each class that was annotated or detected.

    Parameters
    ----------
    result : Confusion
        Class-aware, at the operating point.

    Returns
    -------
    list of (str, str)
        ``("white cells", "990 of 1,000 found, 10 of 1,000 detections false: the count can be used.")``
    """
    matrix, lines = result.matrix, []
    for i, name in enumerate(result.classes):
        annotated, detected, found = int(matrix[i].sum()), int(matrix[:, i].sum()), int(matrix[i, i])
        if not annotated and not detected:
            continue
        false = f"{detected - found:,} of {detected:,} {'detection' if detected == 1 else 'detections'} false"
        text = f"{found:,} of {annotated:,} found, {false}: {_advice(found, annotated, detected)}."
        lines.append((_SPOKEN.get(name, name), text))
    return lines


def _advice(found: int, annotated: int, detected: int) -> str:
    if annotated < ENOUGH_CELLS:
        return "too few cells to judge"
    worst = min(found / annotated, found / detected if detected else 0.0)
    if worst >= GOOD and min(clopper_pearson(found, n).low for n in (annotated, detected)) >= GOOD:
        return "the count can be used"
    return "check the count by eye" if worst >= POOR else "do not count them with this model"
