"""What a score means: precision and recall at every threshold, and how well scores are calibrated.

All of it is read off the match table at IoU 0.5. A threshold is chosen on validation data and then kept; on a test
set these curves are for looking at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastdet.evaluation.match_table import ClassMatches, Floats, Ints


@dataclass(frozen=True, eq=False)
class Sweep:
    """Figures at every distinct score, highest first; all float64 (n,)."""

    score: Floats
    sensitivity: Floats
    precision: Floats
    f1: Floats


def sweep(matches: ClassMatches) -> Sweep:
    """Sensitivity, precision and F1 of a class if every score in turn were the threshold."""
    counted = ~matches.ignored[0]
    score, found = matches.score[counted], matches.found[0][counted]
    last = np.flatnonzero(np.append(np.diff(score) != 0, True)) if len(score) else np.empty(0, np.int64)
    hits, seen, total = np.cumsum(found)[last], last + 1, int(matches.n_truth.sum())
    return Sweep(score[last], hits / max(total, 1), hits / seen, 2 * hits / (seen + total))


@dataclass(frozen=True, eq=False)
class Reliability:
    """Scores against how often they were right, in bins of equal width.

    Parameters
    ----------
    mean_score, fraction_right : float64 (bins,)
        NaN where a bin is empty.
    n : int64 (bins,)
    error : float
        Expected calibration error: mean distance of the two, weighted by `n`.
    """

    mean_score: Floats
    fraction_right: Floats
    n: Ints
    error: float


def reliability(matches: ClassMatches) -> Reliability:
    """Calibration of the scores of a class; detections below 0.05 are left out, for they drown all others.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    counted = ~matches.ignored[0] & (matches.score >= 0.05)
    return reliability_of(matches.score[counted], matches.found[0][counted])


def reliability_of(
    score: Floats, right: NDArray[np.bool_], weight: Floats | None = None, bins: int = 10
) -> Reliability:
    """Calibration of any scores: how often each was right, counted by weight (default: 1 each); see `reliability`."""
    weight = np.ones(len(score)) if weight is None else weight
    bin_of = np.minimum((score * bins).astype(np.int64), bins - 1)
    total = np.bincount(bin_of, weight, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_score = np.bincount(bin_of, weight * score, minlength=bins) / total
        share = np.bincount(bin_of, weight * right, minlength=bins) / total
        distance = float(np.nansum(np.abs(mean_score - share) * total) / total.sum()) if len(score) else float("nan")
    return Reliability(mean_score, share, np.bincount(bin_of, minlength=bins).astype(np.int64), distance)
