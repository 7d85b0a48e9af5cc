"""How many of the white cells are blasts, and how far that number can be trusted."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np

from blastdet.core.errors import counted
from blastdet.core.model_card import Card, ValidationCounts
from blastdet.core.statistics import clopper_pearson, percentile_interval
from blastdet.core.types import Detections
from blastdet.inference.differential import DIFFERENTIAL_CELLS, FEW, WhiteCells, count_types

_RESAMPLES = 2000
_LEAST_SPREAD = 0.3  # of logits over laboratories: a few may be alike by chance


@dataclass(frozen=True, kw_only=True)
class BlastFraction(WhiteCells):
    """White cells of one smear as the second stage classifies them, and the fraction of blasts.

    Parameters
    ----------
    blasts, others, unsure, called, erythroblasts, smudges, unlike, reviewed, reviewed_blasts, types
        See `WhiteCells`.
    interval : (float, float)
        95 % interval of blasts / n for the number of cells counted alone (Clopper-Pearson); NaN where `n` is 0.
    corrected : float, optional
        Fraction of blasts after the correction of Rogan and Gladen, from `called`; what people said of the cells that
        they reviewed is taken as it is. ``None`` where the card does not state sensitivity and specificity, where
        people reviewed every white cell, or where there is none.
    corrected_interval : (float, float), optional
        95 % interval for the number of cells counted and for how well sensitivity and specificity are known. ``None``
        with a fraction of 0 where fewer cells are called blasts than the classifier's false positives explain.
    over_laboratories : bool
        Whether the error rates were measured in laboratories left out of training.

    Examples
    --------
    >>> found = BlastFraction(blasts=12, others=120, unsure=5, called=14, interval=(0.046, 0.148))
    >>> found.n, round(found.value, 3)
    (137, 0.088)
    """

    interval: tuple[float, float]
    corrected: float | None = None
    corrected_interval: tuple[float, float] | None = None
    over_laboratories: bool = False

    @property
    def value(self) -> float:
        """Blasts over white cells; NaN without white cells, or where the stain is unknown."""
        return self.blasts / self.n if self.n and self.is_known_stain else float("nan")

    @property
    def range_with_unsure(self) -> tuple[float, float]:
        """The fraction if no uncertain cell is a blast, and if all are; NaN as `value`."""
        return self.value, self.value + (self.unsure / self.n if self.n else 0.0)

    def summary(self) -> list[str]:
        """Three sentences at most: the finding with one interval, what it depends on, what to do.

        Never a diagnosis.
        """
        if not self.n:
            return ["No white cells detected."]
        if not self.is_known_stain:
            return [f"{self._unknown()}.", "Check the cells by eye, or adapt the classifier to this laboratory."]
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

    def _unknown(self) -> str:
        return (
            f"{self.unlike} of {counted(self.n, 'white cell')} are unlike the training data: this stain or camera is "
            "unknown to the classifier, and no blast fraction is given"
        )

    def _finding(self) -> str:
        if not self.states_percentages:
            return self._finding_of_few()
        start = f"Blasts: {self.blasts} of {counted(self.n, 'white cell')}, {_percent(self.value)}"
        if self.corrected is None and not self.is_reviewed:
            return f"{start} (95 % CI of counting alone {_range(self.interval)})."
        found = f"{start} (95 % CI {_range(self.printed_interval)})"
        if self.corrected is None or self.corrected >= 1:  # cut off at 1, it would be read as a finding
            return f"{found}."
        if self.corrected_interval is None:
            return f"{found}, no more than this classifier's false positives explain."
        return f"{found}; {_percent(self.corrected)} when corrected for the classifier's error rates."

    def _finding_of_few(self) -> str:
        """What the number leaves open, first: a point estimate of so few cells would be read as a result."""
        is_one = 1 in (self.blasts, self.n)
        called = "is called a blast" if is_one else "are called blasts"
        by_review = "is a blast by review" if is_one else "are blasts by review"
        explained = self.corrected is not None and self.corrected_interval is None
        noise = ", no more than this classifier's false positives explain" if explained else ""
        low, high = self.printed_interval
        between = f"{math.floor(100 * low)} to {math.ceil(100 * high)} %"  # outwards: never narrower
        is_of_people = self.is_reviewed or 0 < self.blasts == self.reviewed_blasts
        found = f"{self.blasts} of {counted(self.n, 'white cell')} {by_review if is_of_people else called}{noise}"
        if self.corrected is None and not self.is_reviewed:
            left = f"counting alone leaves {between} open (95 % CI)"
        else:
            left = f"the true share may be anywhere from {between} (95 % CI)"
        return f"Too few cells for a percentage: {found}; {left}."

    def _dependence(self) -> list[str]:
        parts = [self._coverage()]
        if self.unsure:
            verb, pronoun = ("is", "it") if self.unsure == 1 else ("are", "them")
            both = f"{self.blasts} to {self.blasts + self.unsure} blasts of {counted(self.n, 'cell')}"
            between = _range(self.range_with_unsure) if self.states_percentages else both
            parts.append(f"{counted(self.unsure, 'cell')} {verb} uncertain ({between} with {pronoun})")
        return ["; ".join(parts) + "."]

    def _coverage(self) -> str:
        """What the interval covers."""
        if self.is_reviewed:
            return "Every white cell was reviewed, so the interval covers counting only"
        if self.corrected is None:
            return "The classifier's errors come on top: how often it errs is not known"
        if self.corrected_interval is None:
            return "The interval covers counting only, not the classifier's errors"
        where = "in laboratories left out of its training" if self.over_laboratories else "on its validation stains"
        left = self.n - self.reviewed
        were = "was" if left == 1 else "were"
        what = f" and, for {counted(left, 'cell')} that {were} not reviewed," if self.reviewed else " and"
        return f"The interval covers counting{what} the classifier's error rates {where}"

    def _advice(self) -> list[str]:
        todo = []
        if self.unsure:
            todo.append(f"check the uncertain {'cell' if self.unsure == 1 else 'cells'} by eye")
        if self.n < DIFFERENTIAL_CELLS:
            more = counted(DIFFERENTIAL_CELLS - self.n, "more cell")
            todo.append(f"count {more} for a {DIFFERENTIAL_CELLS}-cell differential")
        text = " and ".join(todo)
        return [f"{text[0].upper()}{text[1:]}."] if todo else []

    def warning(self) -> str | None:
        """A line for a smear on which the classifier rejects most of its own answers."""
        if self.n and not self.is_known_stain:
            return self._unknown()
        if self.n < FEW or 2 * self.unsure <= self.n:
            return None
        return (
            f"{self.unsure} of {self.n} white cells are uncertain. This stain may differ from what the classifier was "
            "trained on: do not use the blast fraction"
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
    return combine([count_types(cells, card.classes)], card)


def combine(fields: Sequence[WhiteCells], card: Card) -> BlastFraction:
    """Blast fraction of several fields of one smear."""
    return fraction_of(reduce(operator.add, fields), card.trials)


def fraction_of(total: WhiteCells, trials: Sequence[ValidationCounts]) -> BlastFraction:
    """Blast fraction of counted cells, with an interval for the error rates of `trials`."""
    if not total.is_known_stain:
        return BlastFraction(**vars(total.parts), interval=(float("nan"), float("nan")))
    exact = clopper_pearson(total.blasts, total.n)
    corrected, interval = corrected_fraction(total, trials)
    return BlastFraction(
        **vars(total.parts),
        interval=(exact.low, exact.high),
        corrected=corrected,
        corrected_interval=interval,
        over_laboratories=bool(trials) and all(trial.laboratory for trial in trials),
    )


def corrected_fraction(
    total: WhiteCells, trials: Sequence[ValidationCounts], seed: int = 0
) -> tuple[float | None, tuple[float, float] | None]:
    """Fraction of blasts corrected for missed and false ones, clipped to [0, 1], with its 95 % interval.

    The correction concerns cells that were not reviewed. What a person said of the others is taken as it is, and the
    fraction is the most likely one of all cells together: who reviews only the cells that are called blasts leaves the
    missed ones among the rest.

    Source: W. J. Rogan and B. Gladen, Am. J. Epidemiol. 107 (1978) 71-76. The interval is a bootstrap over both the
    cells of the smear (drawn from Jeffreys' posterior) and the error rates. Where these were measured in laboratories
    left out of training, each draw takes the rates of a smear of one more laboratory, which may be better or worse than
    all of these; where such a draw is no better than chance, it tells nothing, and any fraction is equally likely.
    Otherwise each draw takes the rates over resampled clusters.

    Parameters
    ----------
    total : WhiteCells
    trials : sequence of ValidationCounts
        Of the card; without them, or where every cell was reviewed, there is no correction.
    """
    rows = tuple((t.laboratory, t.blasts_called, t.blasts, t.others_called, t.others) for t in trials)
    point, sensitivity, false, rng = _error_rates(rows, seed)
    if total.reviewed == total.n or point is None:
        return None, None
    called = total.called - total.reviewed_blasts
    left = np.array([called, total.n - total.reviewed - called], np.float64)
    known = np.array([total.reviewed_blasts, total.reviewed - total.reviewed_blasts], np.float64)
    rates = np.array(point)[:, None]
    rng = copy.deepcopy(rng)
    # Jeffreys: 0 of n does not make the fraction 0 for certain.
    if total.reviewed:
        cells = np.concatenate([known, left])
        fraction = _most_likely(cells[:, None] / total.n, *rates)[0]
        parts = rng.dirichlet(cells + 0.5, size=_RESAMPLES).T
        drawn, certain, open_ = _most_likely(parts, sensitivity, false), parts[0], parts[2] + parts[3]
    else:
        fraction = _rogan_gladen(left[:1] / total.n, *rates)[0]
        apparent = rng.beta(left[0] + 0.5, left[1] + 0.5, size=_RESAMPLES)
        drawn, certain, open_ = _rogan_gladen(apparent, sensitivity, false), 0.0, 1.0
    if all(t.laboratory for t in trials):
        drawn = np.where(np.isnan(drawn), certain + open_ * rng.random(_RESAMPLES), drawn)
    spread = percentile_interval(drawn, "bootstrap over cells and clusters")
    if np.isnan([fraction, spread.low]).any():
        return None, None
    if spread.high == 0:  # clipped throughout: a width of zero would be read as certainty
        return float(fraction), None
    return float(fraction), (spread.low, spread.high)


_Row = tuple[str, int, int, int, int]  # laboratory, blasts called, blasts, others called, others


@cache
def _error_rates(
    rows: tuple[_Row, ...], seed: int
) -> tuple[tuple[float, float] | None, np.ndarray, np.ndarray, np.random.Generator]:
    """Sensitivity and false positive rate, drawn ones (b,) of each, and the generator that goes on from there.

    They are the same for each smear. The rates are ``None`` where blasts or other cells are missing.
    """
    rng = np.random.default_rng(seed)
    if not (sum(row[2] for row in rows) and sum(row[4] for row in rows)):
        return None, np.empty(0), np.empty(0), rng
    if all(row[0] for row in rows):
        first = _rates_by_laboratory([(lab, k, of) for lab, k, of, _, _ in rows], rng)
        second = _rates_by_laboratory([(lab, k, of) for lab, _, _, k, of in rows], rng)
        return (first[0], second[0]), first[1], second[1], rng
    table = np.array([row[1:] for row in rows], np.float64)
    sums = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=_RESAMPLES) @ table
    whole = table.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (whole[0] / whole[1], whole[2] / whole[3]), sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3], rng


def _rates_by_laboratory(rows: Sequence[tuple[str, int, int]], rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Mean rate over laboratories, and drawn rates (b,) of a smear of another laboratory.

    Logits of the rates are taken to be normal over laboratories. Few laboratories say little about how far the next one
    may lie, hence Student's t. The smear differs from its laboratory as a patient or cluster drawn at random does.
    """
    known = [row for row in rows if row[2]]
    names = sorted({lab for lab, _, _ in known})
    of = {name: np.array([row[1:] for row in known if row[0] == name], np.float64) for name in names}
    centres = np.array([_logit(*table.sum(axis=0)) for table in of.values()])
    n = len(names)
    spread = max(float(centres.std(ddof=1)), _LEAST_SPREAD) if n > 1 else 1.0
    laboratory = centres.mean() + spread * np.sqrt(1 + 1 / n) * rng.standard_t(max(n - 1, 1), size=_RESAMPLES)
    apart = [_logit(*table.T) - centre for table, centre in zip(of.values(), centres, strict=True)]
    which, rank = rng.integers(n, size=_RESAMPLES), rng.random(_RESAMPLES)
    smear = np.array([apart[k][int(r * len(apart[k]))] for k, r in zip(which, rank, strict=True)])
    drawn = 1 / (1 + np.exp(-np.clip(laboratory + smear, -50, 50)))
    return float(np.mean([table[:, 0].sum() / table[:, 1].sum() for table in of.values()])), drawn


def _logit(called: Any, of: Any) -> Any:
    """Of a rate, pulled away from 0 and 1 by half a cell."""
    return np.log((called + 0.5) / (of - called + 0.5))


def _rogan_gladen(fraction: np.ndarray, sensitivity: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Corrected fractions (b,) of apparent ones (b,); NaN where the test is no better than chance."""
    with np.errstate(invalid="ignore", divide="ignore"):
        corrected = (fraction - false) / (sensitivity - false)
    return np.where(sensitivity > false, np.clip(corrected, 0, 1), np.nan)


def _most_likely(parts: np.ndarray, sensitivity: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Fractions of blasts (b,) of greatest likelihood; NaN where the test is no better than chance.

    Parameters
    ----------
    parts : ndarray, float64 (4, b)
        Fractions of cells: blasts and others by review; called and not called blasts, of those that were not reviewed.
    sensitivity, false : ndarray, float64 (b,)
    """
    blasts, others, called, rest = parts
    gain = sensitivity - false
    low, high = np.zeros(parts.shape[1]), np.ones(parts.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        for _ in range(40):  # the logarithm of the likelihood is concave
            p = (low + high) / 2
            slope = (
                blasts / p
                - others / (1 - p)
                + called * gain / (false + p * gain)
                - rest * gain / (1 - false - p * gain)
            )
            low, high = np.where(slope > 0, p, low), np.where(slope > 0, high, p)
    return np.where(gain > 0, (low + high) / 2, np.nan)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _range(sides: tuple[float, float]) -> str:
    return f"{100 * sides[0]:.1f}–{100 * sides[1]:.1f} %"
