"""Which candidate is chosen, by cross-validation over smears, and its figures on cells left out of the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.core.card_fields.blast_probability import AdaptationMetric, sigmoid
from blastdet.core.card_fields.blast_probability import logit as logit_of
from blastdet.core.statistics import auroc, percentile_interval
from blastdet.inference.adaptation.fitting import (
    CANDIDATES,
    LAST_LAYER,
    UNCHANGED,
    Candidate,
    Flags,
    Floats,
    LabelledCells,
    log_losses,
)

EVEN = 0.5
"""Blast probability from which an adapted model calls a blast: it is calibrated at equal weight of the classes."""

LEAST_OF_A_CLASS = 5
"""Blasts, and other cells, that an adaptation needs at least."""

_MOST_FOLDS = 20
_CELL_FOLDS = 5
_LEAST_TO_FIT = 2  # cells of each class in what remains of a fold
_ENOUGH_SMEARS = 5  # from which smears, instead of cells, are drawn for intervals
_RESAMPLES = 1000
_WORSE = 0.02  # of balanced accuracy that a better calibration may cost
_CHANCE_ERRORS = 1.28  # standard errors that one in ten exceeds by chance


@dataclass(frozen=True, eq=False)
class Folds:
    """How cells are left out.

    Parameters
    ----------
    fold : int64 (n,)
        Fold of each cell.
    description : str
        For people and the card.
    by_smear : bool
        Whether no smear is in two folds.
    notes : tuple of str
    """

    fold: NDArray[np.int64]
    description: str
    by_smear: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen candidate.

    Parameters
    ----------
    candidate : Candidate
    folds : Folds
    losses : dict of Candidate to float
        Cross-validated log-loss of each.
    logit : float64 (n,)
        Cross-validated, of the chosen candidate.
    is_blind : bool
        Whether even its logits may rank blasts and others by chance; see `is_chance`.
    reason : str
    """

    candidate: Candidate
    folds: Folds
    losses: dict[Candidate, float]
    logit: Floats
    is_blind: bool
    reason: str


def folds_of(cells: LabelledCells) -> Folds:
    """Leave one smear out; where that is impossible, five folds of cells."""
    smears, index = np.unique(cells.smear, return_inverse=True)
    if len(smears) > 1:
        fold = index % _MOST_FOLDS
        if all(_can_fit(cells[fold != k]) for k in np.unique(fold)):
            n = len(smears)
            words = "leave one smear out" if n <= _MOST_FOLDS else f"{_MOST_FOLDS} folds of {n} smears"
            return Folds(fold.astype(np.int64), words, by_smear=True)
        note = (
            "one smear holds nearly all blasts, or all others: the stain could tell them apart, features are not used"
        )
    else:
        note = "the cells are of one smear: figures for other smears may be worse"
    fold = np.empty(len(cells), np.int64)
    rng = np.random.default_rng(0)
    for blast in (False, True):
        some = np.flatnonzero(cells.is_blast == blast)
        fold[rng.permutation(some)] = np.arange(len(some)) % _CELL_FOLDS
    return Folds(fold, f"{_CELL_FOLDS} folds of cells", by_smear=False, notes=(note,))


def _can_fit(cells: LabelledCells) -> bool:
    blasts = int(cells.is_blast.sum())
    return min(blasts, len(cells) - blasts) >= _LEAST_TO_FIT


def cross_validated(candidate: Candidate, cells: LabelledCells, folds: Folds) -> Floats:
    """Logit of each cell (n,), by a fit to the cells of the other folds."""
    logit = np.empty(len(cells))
    for k in np.unique(folds.fold):
        mine = folds.fold == k
        logit[mine] = candidate.fit(cells[~mine])(cells.logit[mine], cells.features[mine])
    return logit


def choose(cells: LabelledCells, candidates: Sequence[Candidate] = CANDIDATES) -> Choice:
    """The least change whose cross-validated log-loss is within half a standard error of the lowest.

    The standard error is that of the difference to the candidate with the lowest loss, over cells. A whole one, as in
    L. Breiman et al., "Classification and regression trees", 1984, section 3.4.3, is asked of the unchanged model: it
    stays where nothing is better by that much. Beyond that, it would cost 0.02 of balanced accuracy
    (benchmarks/adaptation.py).
    """
    folds = folds_of(cells)
    confounded = not folds.by_smear and len(np.unique(cells.smear)) > 1
    if confounded or not cells.features.shape[1]:
        candidates = [one for one in candidates if one.method != LAST_LAYER]
    logits = {one: cross_validated(one, cells, folds) for one in candidates}
    losses = {one: cells.weight * log_losses(logit, cells.is_blast) for one, logit in logits.items()}
    best = min(candidates, key=lambda one: float(losses[one].sum()))
    errors = {one: 1.0 if one.method == UNCHANGED else 0.5 for one in candidates}
    chosen = next(one for one in candidates if _within(losses[one] - losses[best], errors[one]))
    totals = {one: float(loss.sum()) for one, loss in losses.items()}
    shown = ", ".join(f"{one.name} {total:.3f}" for one, total in totals.items())
    return Choice(
        chosen, folds, totals, logits[chosen], is_chance(logits[chosen], cells.is_blast), f"log-loss: {shown}"
    )


def _within(difference: Floats, errors: float) -> bool:
    """Whether the sum of weighted differences (n,) is at most that many of its standard errors."""
    n = len(difference)
    error = float(np.sqrt(n / max(n - 1, 1) * ((difference - difference.mean()) ** 2).sum()))
    return float(difference.sum()) <= errors * error + 1e-12


def figures(cells: LabelledCells, choice: Choice, threshold: float) -> tuple[AdaptationMetric, ...]:
    """Figures before, and after on cells left out of the fit, at equal weight of the classes.

    Parameters
    ----------
    threshold : float
        Blast probability from which the unchanged model calls a cell a blast. An adapted model does so from `EVEN` on.
    """
    point = float(logit_of(threshold))
    after = point if choice.candidate.method == UNCHANGED else float(logit_of(EVEN))
    pairs = _figures(cells, cells.logit, point), _figures(cells, choice.logit, after)
    return tuple(
        AdaptationMetric(
            metric=name,
            before=round(pairs[0][name][0], 4),
            after=round(pairs[1][name][0], 4),
            ci95_before=pairs[0][name][1],
            ci95_after=pairs[1][name][1],
        )
        for name in pairs[0]
    )


def refusal(choice: Choice, metrics: Sequence[AdaptationMetric]) -> str | None:
    """Why an adaptation is of no use, and what to do; ``None`` where it helps."""
    figure = {one.metric: one for one in metrics}
    accuracy, loss = figure["balanced accuracy"], figure["log-loss"]
    if choice.candidate.method == UNCHANGED:
        return (
            f"nothing is better than the model as it is (balanced accuracy {accuracy.before:.2f}, log-loss "
            f"{loss.before:.2f}). Nothing was written. Review more cells, or go on with the model as it is"
        )
    if choice.is_blind or accuracy.after < accuracy.before - _WORSE:
        return (
            f"balanced accuracy is {accuracy.before:.2f} before and {accuracy.after:.2f} after. Nothing was written. "
            "Check the labels, or review more cells and smears; or this laboratory is in the training data already"
        )
    return None


def _figures(cells: LabelledCells, logit: Floats, point: float) -> dict[str, tuple[float, tuple[float, float] | None]]:
    called, blast = logit >= point, cells.is_blast
    table = np.stack([blast & called, blast & ~called, ~blast & ~called, ~blast & called], axis=1)
    found: dict[str, tuple[float, tuple[float, float] | None]] = {}
    rates = _rates(table.sum(axis=0)[None])[0]
    drawn = _drawn(table.astype(np.float64), _units(cells))
    for name, columns in (("balanced accuracy", [0, 1]), ("sensitivity", [0]), ("specificity", [1])):
        spread = [percentile_interval(rates[:, columns].mean(axis=1), "bootstrap") for rates in drawn]
        low, high = np.nanmin([one.low for one in spread]), np.nanmax([one.high for one in spread])
        found[name] = float(rates[columns].mean()), (round(float(low), 4), round(float(high), 4))
    found["AUROC"] = auroc(logit, blast), None
    found["Brier score"] = float(cells.weight @ (sigmoid(logit) - blast) ** 2), None
    found["log-loss"] = float(cells.weight @ log_losses(logit, blast)), None
    return found


def _rates(sums: NDArray[Any]) -> Floats:
    """Sensitivity and specificity (b, 2) of sums (b, 4): blasts called and missed, others not called and called."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([sums[:, 0] / sums[:, :2].sum(axis=1), sums[:, 2] / sums[:, 2:].sum(axis=1)], axis=1)


def _drawn(table: Floats, unit: NDArray[np.int64]) -> list[Floats]:
    """Rates (resamples, 2) as the number of cells lets them vary and, with enough smears, as the smears vary.

    Those of cells are draws from Jeffreys' posterior, so that 24 right of 24 do not make a rate of 1 for certain.
    """
    rng, sums = np.random.default_rng(0), table.sum(axis=0)
    draws = [rng.beta(sums[k] + 0.5, sums[k + 1] + 0.5, size=_RESAMPLES) for k in (0, 2)]
    n = int(unit.max()) + 1
    if n == len(unit):
        return [np.stack(draws, axis=1)]
    of_units = np.stack([np.bincount(unit, column, minlength=n) for column in table.T], axis=1)
    resampled = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) @ of_units
    return [np.stack(draws, axis=1), _rates(resampled)]


def _units(cells: LabelledCells) -> NDArray[np.int64]:
    """What is drawn for intervals: smears if there are enough, else cells."""
    smears, index = np.unique(cells.smear, return_inverse=True)
    return np.asarray(index if len(smears) >= _ENOUGH_SMEARS else np.arange(len(cells)), np.int64)


def is_chance(score: Floats, is_blast: Flags) -> bool:
    """Whether an AUROC as high as that of `score` has a probability above 10 % where scores say nothing.

    Source: H. B. Mann and D. R. Whitney, Ann. Math. Stat. 18 (1947) 50-60, with the normal approximation.
    """
    n, n_blasts = len(is_blast), int(is_blast.sum())
    error = np.sqrt((n + 1) / 12 / n_blasts / (n - n_blasts))
    return bool(auroc(score, is_blast) - 0.5 <= _CHANCE_ERRORS * error)
