"""How far a figure can be trusted: the bootstrap over groups, and exact intervals for single proportions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from blastdet.core.statistics import Interval, clopper_pearson, percentile_interval
from blastdet.evaluation.match_table import ClassMatches, Floats, Ints, MatchTable, precision_recall

RESAMPLES = 1000

ONE_GROUP = "none: one group only"
"""Method of an interval that is not given: all resamples of one group are equal."""


def group_weights(group: Ints, resamples: int = RESAMPLES, seed: int = 0) -> Ints:
    """Number of times that each image counts in each resample, int64 (resamples, s).

    As many groups as there are, are drawn with replacement, each with all its images. The same `group` and `seed` give
    the same draws, so that two models can be compared on the same resamples.
    """
    n = int(group.max()) + 1 if len(group) else 0
    if not n:
        return np.zeros((resamples, 0), np.int64)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.asarray(drawn[:, group], np.int64)


def spread_over_groups(samples: ArrayLike, n_groups: int, resamples: int, how: str = "bootstrap") -> Interval:
    """Interval of bootstrap samples over groups. One group has no interval, because all its resamples are equal."""
    if n_groups < 2:
        return Interval(float("nan"), float("nan"), ONE_GROUP)
    return percentile_interval(samples, f"{how} over {n_groups} groups, {resamples} resamples")


def bootstrap_ap(table: MatchTable, weights: Ints) -> dict[str, dict[str, Floats]]:
    """AP, AP50, AP75 and AR of every class in every resample, from the match table alone.

    `weights`, int64 (b, s), are from `group_weights`.

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


def ap_intervals(table: MatchTable, resamples: int = RESAMPLES) -> dict[str, dict[str, Interval]]:
    """95 % intervals over groups of every average precision, by class and over ``"all"``."""
    samples = bootstrap_ap(table, group_weights(table.group, resamples))
    groups = {name: table.n_groups if table.n_groups_with(name) > 1 else 1 for name in samples}
    return {
        name: {figure: spread_over_groups(values, groups[name], resamples) for figure, values in figures.items()}
        for name, figures in samples.items()
    }


def bootstrap_statistic(
    columns: Mapping[str, ArrayLike],
    statistic: Callable[[Mapping[str, Floats]], Floats],
    group: Ints,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % interval over groups of a figure that is computed from sums over images.

    Parameters
    ----------
    columns : mapping of str to float (s,)
        Counts of each image (true positives, cells, …).
    statistic : callable
        Computes the figure, (b,), from the sums, each (b,). NaN where it is undefined.
    group : int64 (s,)
    """
    weights = group_weights(group, resamples).astype(np.float64)
    sums = {name: np.asarray(weights @ np.asarray(values, np.float64)) for name, values in columns.items()}
    n_groups = len(np.unique(group))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(sums)
    return spread_over_groups(values, n_groups, resamples)


def ratio_interval(part: ArrayLike, whole: ArrayLike, group: Ints, resamples: int = RESAMPLES) -> Interval:
    """95 % interval over groups of sum(part) / sum(whole), a figure between 0 and 1.

    If the figure is exactly 0 or 1, all resamples are equal and the bootstrap interval has no width. Then the interval
    is Clopper and Pearson's, with each group that has cells as one trial. It is conservative (too wide). Otherwise, if
    all cells are of one group, there is no interval: the figure is the same in every resample that has cells.

    Parameters
    ----------
    part, whole : (s,)
        Counts of each image; part <= whole.
    group : int64 (s,)
    """
    above, below = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    n = len(np.unique(group[below > 0]))
    if n and above.sum() in (0, below.sum()):
        exact = clopper_pearson(n if above.sum() else 0, n)
        return Interval(exact.low, exact.high, f"Clopper-Pearson on {n} groups (all alike)")
    weights = group_weights(group, resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (weights @ above) / (weights @ below)
    return spread_over_groups(values, len(np.unique(group)) if n > 1 else n, resamples)
