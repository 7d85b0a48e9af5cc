"""How far a figure can be trusted: the bootstrap over groups, and exact intervals for single proportions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from blastdet.evaluation.match_table import ClassMatches, MatchTable, precision_recall
from blastdet.evaluation.matching import Floats, Ints

RESAMPLES = 1000
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A 95 % interval.

    Parameters
    ----------
    low, high : float
    method : str
        ``"bootstrap over 328 groups"``, ``"Wilson"``, …
    """

    low: float
    high: float
    method: str


def group_weights(group: Ints, resamples: int = RESAMPLES, seed: int = 0) -> Ints:
    """How often each smear counts in each resample.

    Groups are drawn with replacement, as many as there are; all smears of a group come together. The same
    `group` and `seed` give the same draws, so that two models can be compared pair by pair.

    Returns
    -------
    int64 (resamples, s)
    """
    n = int(group.max()) + 1 if len(group) else 0
    if not n:
        return np.zeros((resamples, 0), np.int64)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.asarray(drawn[:, group], np.int64)


def spread_over_groups(samples: ArrayLike, n_groups: int, resamples: int, how: str = "bootstrap") -> Interval:
    """Interval of bootstrap samples over groups; none where there is but one group, whose resamples are all alike."""
    if n_groups < 2:
        return Interval(float("nan"), float("nan"), "none: one group only")
    return percentile_interval(samples, f"{how} over {n_groups} groups, {resamples} resamples")


def percentile_interval(samples: ArrayLike, method: str) -> Interval:
    """2.5th and 97.5th percentile of bootstrap samples; resamples without a value are passed over."""
    known = np.asarray(samples, np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return Interval(float("nan"), float("nan"), method)
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(float(low), float(high), method)


def bootstrap_ap(table: MatchTable, weights: Ints) -> dict[str, dict[str, Floats]]:
    """AP, AP50, AP75 and AR of every class in every resample, from the match table alone.

    Parameters
    ----------
    table : MatchTable
    weights : int64 (b, s)
        From `group_weights`.

    Returns
    -------
    dict of str to dict of str to float64 (b,)
        Class (and ``"all"``, the mean over classes that have truth in the resample) to figure to samples.
    """
    samples = {name: np.array([_figures(matches, w) for w in weights]) for name, matches in table.classes.items()}
    stacked = np.stack(list(samples.values()))
    known = (~np.isnan(stacked)).sum(axis=0)
    total = np.nansum(stacked, axis=0)
    samples["all"] = np.divide(total, known, out=np.full(total.shape, np.nan), where=known > 0)
    return {name: dict(zip(("AP", "AP50", "AP75", "AR"), s.T, strict=True)) for name, s in samples.items()}


def _figures(matches: ClassMatches, weight: Ints) -> tuple[float, float, float, float]:
    precision, recall = precision_recall(matches, weight)
    by_threshold = precision.mean(axis=1)
    return float(by_threshold.mean()), float(by_threshold[0]), float(by_threshold[5]), float(recall.mean())


def ap_intervals(table: MatchTable, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """95 % intervals over groups of every average precision, by class and over ``"all"``."""
    samples = bootstrap_ap(table, group_weights(table.group, resamples, seed))
    return {
        name: {figure: spread_over_groups(values, table.n_groups, resamples) for figure, values in figures.items()}
        for name, figures in samples.items()
    }


def bootstrap_statistic(
    columns: Mapping[str, ArrayLike],
    statistic: Callable[[Mapping[str, Floats]], Floats],
    group: Ints,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """95 % interval over groups of a figure that is computed from sums over smears.

    Parameters
    ----------
    columns : mapping of str to float (s,)
        Something counted on each smear (true positives, cells, …).
    statistic : callable
        From the sums, each (b,), to the figure, (b,). NaN where it has no value.
    group : int64 (s,)
    """
    weights = group_weights(group, resamples, seed).astype(np.float64)
    sums = {name: np.asarray(weights @ np.asarray(values, np.float64)) for name, values in columns.items()}
    n_groups = len(np.unique(group))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(sums)
    return spread_over_groups(values, n_groups, resamples)


def ratio_interval(
    part: ArrayLike, whole: ArrayLike, group: Ints, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """95 % interval over groups of sum(part) / sum(whole), a figure between 0 and 1.

    Where the figure is exactly 0 or 1 every resample says the same and the bootstrap has no width: there it is
    Clopper and Pearson's with each group that has cells as one trial, which errs on the wide side.

    Parameters
    ----------
    part, whole : (s,)
        Counted on each smear; part <= whole.
    group : int64 (s,)
    """
    above, below = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    n_groups = len(np.unique(group))
    if below.sum() > 0 and above.sum() in (0, below.sum()):
        n = len(np.unique(group[below > 0]))
        exact = clopper_pearson(n if above.sum() else 0, n)
        return Interval(exact.low, exact.high, f"Clopper-Pearson on {n} groups (all alike)")
    weights = group_weights(group, resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (weights @ above) / (weights @ below)
    return spread_over_groups(values, n_groups, resamples)


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a proportion; only fair where every group gives one cell.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    if n == 0:
        return Interval(float("nan"), float("nan"), "Wilson")
    p, z2 = successes / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Interval(max(low, 0.0), min(high, 1.0), "Wilson")


def clopper_pearson(successes: int, n: int) -> Interval:
    """The exact interval of a proportion.

    Source: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934) 404-413.
    """
    if n == 0:
        return Interval(float("nan"), float("nan"), "Clopper-Pearson")
    low = 0.0 if successes == 0 else 1 - _largest_share(n - successes, n)
    high = 1.0 if successes == n else _largest_share(successes, n)
    return Interval(low, high, "Clopper-Pearson")


def _largest_share(successes: int, n: int) -> float:
    """The share under which so few successes, or fewer, come up in 2.5 % of all samples.

    By bisection on the binomial sum, so that the base installation needs no scipy.
    """
    k = np.arange(successes + 1)
    log_ways = np.concatenate([[0.0], np.cumsum(np.log((n - k[:-1]) / (k[:-1] + 1)))])
    low, high = successes / n, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        log_share = log_ways + k * np.log(middle) + (n - k) * np.log1p(-middle)
        if np.exp(log_share).sum() > 0.025:
            low = middle
        else:
            high = middle
    return low
