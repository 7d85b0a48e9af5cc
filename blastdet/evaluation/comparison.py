"""Two models on the same smears: differences with paired intervals.

Both are drawn with the same resamples of the same groups, so that what is hard for both cancels out. Two intervals
that overlap say little; the interval of the difference is what counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blastdet.core.errors import ConfigError
from blastdet.core.statistics import Interval
from blastdet.evaluation.confusion import Confusion
from blastdet.evaluation.evaluate import FIGURES, Evaluation
from blastdet.evaluation.intervals import RESAMPLES, bootstrap_ap, group_weights, spread_over_groups
from blastdet.evaluation.matching import Floats, Ints


@dataclass(frozen=True)
class Difference:
    """One figure of two models.

    Parameters
    ----------
    name : str
        The class, or ``"all"``.
    figure : str
    a, b : float
    difference : float
        b - a.
    interval : Interval
        95 % of the difference, paired bootstrap over groups.
    """

    name: str
    figure: str
    a: float
    b: float
    difference: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """Which is higher, where the interval leaves zero out; else that it cannot be told."""
        if not (self.interval.low > 0 or self.interval.high < 0):
            return "cannot be told apart"
        return "B higher" if self.interval.low > 0 else "A higher"


def compare(a: Evaluation, b: Evaluation, resamples: int = RESAMPLES) -> list[Difference]:
    """Differences of average precision, sensitivity, precision and F1 of two models on one data set.

    Raises
    ------
    ConfigError
        If the two were not measured on the same smears, or share no class.
    """
    if [sample.path for sample in a.dataset] != [sample.path for sample in b.dataset]:
        raise ConfigError(f"{a.title} and {b.title}: different smears found, the same expected")
    weights = group_weights(a.ap.table.group, resamples)
    return [*_precision_differences(a, b, weights), *_cell_differences(a, b, weights)]


def _spread(samples: Floats, of: Evaluation) -> Interval:
    return spread_over_groups(samples, of.ap.table.n_groups, len(samples), "paired bootstrap")


def _precision_differences(a: Evaluation, b: Evaluation, weights: Ints) -> list[Difference]:
    samples_a, samples_b = bootstrap_ap(a.ap.table, weights), bootstrap_ap(b.ap.table, weights)
    differences = []
    for name in [*(n for n in a.ap.classes if n in b.ap.classes and a.ap.n_truth[n]), "all"]:
        key = None if name == "all" else name
        for figure in FIGURES:
            interval = _spread(samples_b[name][figure] - samples_a[name][figure], a)
            values = a.ap.figures(key)[figure], b.ap.figures(key)[figure]
            differences.append(Difference(name, figure, *values, values[1] - values[0], interval))
    return differences


def _cell_differences(a: Evaluation, b: Evaluation, weights: Ints) -> list[Difference]:
    """At each model's own operating point, class-aware matching."""
    sides = [next(c for c in side.confusions if c.matching == "class-aware") for side in (a, b)]
    differences = []
    for name in [n for n in a.ap.classes if n in b.ap.classes and a.ap.n_truth[n]]:
        ratios = [_ratios(side, name, weights) for side in sides]
        for figure in ratios[0]:
            (value_a, samples_a), (value_b, samples_b) = (side[figure] for side in ratios)
            interval = _spread(samples_b - samples_a, a)
            differences.append(Difference(name, figure, value_a, value_b, value_b - value_a, interval))
    return differences


def _ratios(result: Confusion, name: str, weights: Ints) -> dict[str, tuple[float, Floats]]:
    k, counts = result.classes.index(name), result.per_smear
    tp, truth, found = counts[:, k, k], counts[:, k, :].sum(axis=1), counts[:, :, k].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            figure: (float(np.float64(above.sum()) / below.sum()), (weights @ above) / (weights @ below))
            for figure, above, below in (
                ("sensitivity", tp, truth),
                ("precision", tp, found),
                ("F1", 2 * tp, truth + found),
            )
        }
