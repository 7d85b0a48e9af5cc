"""Confidence intervals of proportions and of bootstrap samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


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
