"""Confidence intervals of proportions and of bootstrap samples; the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval.

    Parameters
    ----------
    low, high : float
    method : str
        ``"bootstrap over 328 groups"``, ``"Wilson"``, …
    """

    low: float
    high: float
    method: str


def percentile_interval(samples: ArrayLike, method: str) -> Interval:
    """Percentile interval of bootstrap samples: their 2.5th and 97.5th percentile.

    Parameters
    ----------
    samples : (n,)
        NaN values are ignored.
    method : str
        Description of the method; see `Interval`.

    Returns
    -------
    Interval
        NaN if there are no samples.

    Examples
    --------
    >>> percentile_interval(range(101), "bootstrap")
    Interval(low=2.5, high=97.5, method='bootstrap')
    """
    known = np.asarray(samples, np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return Interval(float("nan"), float("nan"), method)
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(float(low), float(high), method)


def clopper_pearson(successes: int, n: int) -> Interval:
    """Exact interval of a proportion.

    Returns
    -------
    Interval
        NaN if `n` is 0.

    References
    ----------
    C. J. Clopper and E. S. Pearson, Biometrika 26 (1934) 404-413.

    Examples
    --------
    >>> interval = clopper_pearson(0, 30)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.0, 0.116)
    """
    if n == 0:
        return Interval(float("nan"), float("nan"), "Clopper-Pearson")
    from scipy.special import betaincinv  # scipy.stats has it too, but takes half a second to import

    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, 0.025))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 0.975))
    return Interval(low, high, "Clopper-Pearson")


def auroc(score: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Probability that a positive item scores higher than another one; ties count half.

    Returns
    -------
    float
        NaN if all items are of one kind.

    Examples
    --------
    >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True]))
    0.875
    """
    return float(weighted_auroc(score, positive)(np.ones(len(score))))


def weighted_auroc(score: NDArray[Any], positive: NDArray[np.bool_]) -> Callable[[NDArray[Any]], Any]:
    """The area under the ROC curve as a function of weights; sorts once for all resamples.

    Returns
    -------
    callable
        Weights (n,) give a float, weights (b, n) a float64 array (b,). NaN where items of one kind have no weight.

    Examples
    --------
    >>> area = weighted_auroc(np.array([0.1, 0.4, 0.4]), np.array([False, True, False]))
    >>> area(np.array([[1, 1, 1], [1, 1, 0]])).tolist()
    [0.75, 1.0]
    """
    order = np.argsort(score, kind="stable")
    ranked, is_positive = score[order], positive[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # equal scores form a tie

    def area(weight: NDArray[Any]) -> Any:
        mine = weight[..., order].astype(np.float64)
        hits = np.add.reduceat(mine * is_positive, starts, axis=-1)
        others = np.add.reduceat(mine * ~is_positive, starts, axis=-1)
        below = np.cumsum(others, axis=-1) - others / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (hits * below).sum(axis=-1) / (hits.sum(axis=-1) * others.sum(axis=-1))
        return float(found) if weight.ndim == 1 else found

    return area
