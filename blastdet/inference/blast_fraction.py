"""How many of the white cells are blasts, and how far that number can be trusted."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from blastdet.core.model_card import Card, ValidationCounts
from blastdet.core.statistics import Interval, clopper_pearson, percentile_interval
from blastdet.core.types import BLAST, Detections

DIFFERENTIAL_CELLS = 200
"""White cells of a differential count by eye (ICSH 2015: blasts are counted on 200 cells)."""

_RESAMPLES = 2000
_FEW = 10  # white cells; among fewer, most may be uncertain by chance


@dataclass(frozen=True)
class BlastFraction:
    """White cells of one smear as the second stage classifies them, and the fraction of blasts.

    Every white cell counts once: as a blast, as another white cell, or as uncertain where the classifier's answer is
    rejected. Erythroblasts are not white cells.

    Parameters
    ----------
    blasts, others, unsure : int
        White cells; their sum is `n`.
    called : int
        White cells at or above the operating threshold, uncertain ones included.
    erythroblasts : int
        Nucleated red cells, not in `n`.
    interval : (float, float)
        95 % interval of blasts / n for the number of cells counted alone (Clopper-Pearson); NaN where `n` is 0.
    corrected : float, optional
        Fraction of blasts after the correction of Rogan and Gladen, from `called`. ``None`` where the card does not
        state sensitivity and specificity, or there is no white cell.
    corrected_interval : (float, float), optional
        95 % interval for the number of cells counted and for how well sensitivity and specificity are known. ``None``
        with a fraction of 0 where fewer cells are called blasts than the classifier's false positives explain.

    Examples
    --------
    >>> found = BlastFraction(blasts=12, others=120, unsure=5, called=14, erythroblasts=0, interval=(0.046, 0.148))
    >>> found.n, round(found.value, 3)
    (137, 0.088)
    """

    blasts: int
    others: int
    unsure: int
    called: int
    erythroblasts: int
    interval: tuple[float, float]
    corrected: float | None = None
    corrected_interval: tuple[float, float] | None = None

    @property
    def n(self) -> int:
        """White cells."""
        return self.blasts + self.others + self.unsure

    @property
    def value(self) -> float:
        """Blasts over white cells; NaN without white cells."""
        return self.blasts / self.n if self.n else float("nan")

    @property
    def range_with_unsure(self) -> tuple[float, float]:
        """The fraction if no uncertain cell is a blast, and if all are; NaN without white cells."""
        return (self.value, (self.blasts + self.unsure) / self.n) if self.n else (float("nan"), float("nan"))

    @property
    def parts(self) -> tuple[int, int, int, int, int]:
        """Blasts, others, unsure, called, erythroblasts."""
        return self.blasts, self.others, self.unsure, self.called, self.erythroblasts

    def summary(self) -> list[str]:
        """Three sentences at most: the finding with one interval, what it depends on, what to do.

        Never a diagnosis.
        """
        if not self.n:
            return ["No white cells detected."]
        return [self._finding(), *self._dependence(), *self._advice()]

    @property
    def printed_interval(self) -> tuple[float, float]:
        """The one 95 % interval of the summary: never narrower than what counting so few cells leaves open.

        Where the card states error rates, it also covers the interval of the corrected fraction.
        """
        if self.corrected_interval is None:
            return self.interval
        (low, high), (corrected_low, corrected_high) = self.interval, self.corrected_interval
        return min(low, corrected_low), max(high, corrected_high)

    def _finding(self) -> str:
        start = f"Blasts: {self.blasts} of {_count(self.n, 'white cell')}, {_percent(self.value)}"
        found = f"{start} (95 % CI {_range(self.printed_interval)})"
        if self.corrected is None:
            return f"{found}."
        if self.corrected_interval is None:
            return f"{found}, no more than this classifier's false positives explain."
        return f"{found}; {_percent(self.corrected)} when corrected for the classifier's error rates."

    def _dependence(self) -> list[str]:
        if self.corrected_interval is None:
            parts = ["The interval covers counting only, not the classifier's errors"]
        else:
            parts = ["The interval covers counting and the classifier's error rates on its validation stains"]
        if self.unsure:
            verb = "is" if self.unsure == 1 else "are"
            parts.append(f"{_count(self.unsure, 'cell')} {verb} uncertain ({_range(self.range_with_unsure)} with them)")
        return ["; ".join(parts) + "."]

    def _advice(self) -> list[str]:
        todo = []
        if self.unsure:
            todo.append("check the uncertain cells by eye")
        if self.n < DIFFERENTIAL_CELLS:
            more = _count(DIFFERENTIAL_CELLS - self.n, "more cell")
            todo.append(f"count {more} for a {DIFFERENTIAL_CELLS}-cell differential")
        text = " and ".join(todo)
        return [f"{text[0].upper()}{text[1:]}."] if todo else []

    def warning(self) -> str | None:
        """A line for a smear on which the classifier rejects most of its own answers."""
        if self.n < _FEW or 2 * self.unsure <= self.n:
            return None
        return (
            f"{self.unsure} of {self.n} white cells are uncertain. This stain may differ from what the classifier was "
            "trained on: do not use the blast fraction"
        )


@dataclass(frozen=True)
class DifferentialRow:
    """One type of white cell: how many, what fraction of all white cells, and its 95 % interval (counting alone)."""

    cell_type: str
    n: int
    fraction: float
    interval: Interval

    @property
    def percentages(self) -> tuple[str, str]:
        """Fraction and interval as they are printed."""
        return _percent(self.fraction), _range((self.interval.low, self.interval.high))


def differential(found: BlastFraction) -> tuple[DifferentialRow, ...]:
    """White cells by type, each with an exact 95 % interval for the number of cells counted.

    Returns
    -------
    tuple of DifferentialRow
        ``blast``, ``wbc`` (other white cells) and ``unsure``.
    """
    kinds = {"blast": found.blasts, "wbc": found.others, "unsure": found.unsure}
    n = found.n
    return tuple(
        DifferentialRow(name, k, k / n if n else float("nan"), clopper_pearson(k, n)) for name, k in kinds.items()
    )


def count_white_cells(cells: Detections, card: Card) -> BlastFraction:
    """Blast fraction of one smear.

    Parameters
    ----------
    cells : Detections
        From `classify_cells`, at or above the detector's operating threshold.
    card : Card
        Of the classifier.
    """
    cells = cells.with_classes("blast", "wbc")
    white, called = cells.is_white, cells.label == BLAST
    uncertain = np.zeros(len(cells), bool) if cells.unsure is None else cells.unsure
    blasts, unsure = int((called & ~uncertain).sum()), int((uncertain & white).sum())
    n = int(white.sum())
    return combine([(blasts, n - blasts - unsure, unsure, int(called.sum()), len(cells) - n)], card)


def combine(fields: Sequence[tuple[int, int, int, int, int]], card: Card) -> BlastFraction:
    """Blast fraction of several fields of one smear, from `BlastFraction.parts` of each."""
    blasts, others, unsure, called, erythroblasts = (sum(column) for column in zip(*fields, strict=True))
    n = blasts + others + unsure
    exact = clopper_pearson(blasts, n)
    corrected, interval = corrected_fraction(called, n, card.trials)
    return BlastFraction(
        blasts=blasts,
        others=others,
        unsure=unsure,
        called=called,
        erythroblasts=erythroblasts,
        interval=(exact.low, exact.high),
        corrected=corrected,
        corrected_interval=interval,
    )


def corrected_fraction(
    called: int, n: int, trials: Sequence[ValidationCounts], seed: int = 0
) -> tuple[float | None, tuple[float, float] | None]:
    """Fraction of blasts corrected for missed and false ones, clipped to [0, 1], with its 95 % interval.

    Source: W. J. Rogan and B. Gladen, Am. J. Epidemiol. 107 (1978) 71-76. The interval is a bootstrap over both the
    cells of the smear (drawn from Jeffreys' posterior) and the clusters on which sensitivity and specificity were
    measured.

    Parameters
    ----------
    called : int
        Cells at or above the operating threshold.
    n : int
        White cells.
    trials : sequence of ValidationCounts
        Of the card; without them, or without cells, there is no correction.
    """
    rows = [[t.blasts_called, t.blasts, t.others_called, t.others] for t in trials]
    table = np.array(rows, np.float64).reshape(-1, 4)
    if not n or not (table[:, [1, 3]].sum(axis=0) > 0).all():
        return None, None
    point = _rogan_gladen(np.array([called / n]), table.sum(axis=0)[None])[0]
    drawn, rng = _resamples(tuple(map(tuple, rows)), seed)
    # Jeffreys: 0 of n does not make the fraction 0 for certain.
    apparent = copy.deepcopy(rng).beta(called + 0.5, n - called + 0.5, size=_RESAMPLES)
    spread = percentile_interval(_rogan_gladen(apparent, drawn), "bootstrap over cells and clusters")
    if np.isnan([point, spread.low]).any():
        return None, None
    if spread.high == 0:  # clipped throughout: a width of zero would be read as certainty
        return float(point), None
    return float(point), (spread.low, spread.high)


@cache
def _resamples(rows: tuple[tuple[int, ...], ...], seed: int) -> tuple[np.ndarray, np.random.Generator]:
    """Sums over resampled clusters, the same for each smear, and the generator that goes on from there."""
    rng, n = np.random.default_rng(seed), len(rows)
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) @ np.array(rows, np.float64), rng


def _rogan_gladen(fraction: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Corrected fractions (b,) of apparent ones (b,), by sums (b, 4); NaN where the test is no better than chance."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, false = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
        corrected = (fraction - false) / (sensitivity - false)
    return np.where(sensitivity > false, np.clip(corrected, 0, 1), np.nan)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _range(sides: tuple[float, float]) -> str:
    return f"{100 * sides[0]:.1f}–{100 * sides[1]:.1f} %"
