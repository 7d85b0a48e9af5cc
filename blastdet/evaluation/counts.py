"""Counts per image: error, agreement, and false detections against sensitivity (FROC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from blastdet.core.statistics import Interval, clopper_pearson
from blastdet.core.types import BLAST, CELL_CLASSES, Dataset, Detections
from blastdet.evaluation.average_precision import APResult
from blastdet.evaluation.intervals import RESAMPLES, bootstrap_statistic
from blastdet.evaluation.match_table import Floats, Ints, groups_of


@dataclass(frozen=True)
class Agreement:
    """Agreement of the counts per image with the true counts.

    Parameters
    ----------
    name : str
        What is counted.
    n : int
        Number of images.
    true_total, found_total : float
    mean_absolute_error : float
    bias : float
        Mean of found minus true (Bland and Altman).
    limits : (float, float)
        Limits of agreement: bias ± 1.96 standard deviations of the differences.
    concordance : float
        Lin's coefficient: agreement with the line of identity.
    intervals : dict of str to Interval
        For ``mean_absolute_error``, ``bias`` and ``concordance``.
    """

    name: str
    n: int
    true_total: float
    found_total: float
    mean_absolute_error: float
    bias: float
    limits: tuple[float, float]
    concordance: float
    intervals: dict[str, Interval]


def bland_altman(true: ArrayLike, found: ArrayLike) -> tuple[float, float, float]:
    """Bias and limits of agreement of two measurements of the same quantity.

    Returns
    -------
    bias, low, high : float
        Mean difference (found - true), and ± 1.96 sample standard deviations around it; NaN for fewer than two.

    Source: J. M. Bland and D. G. Altman, Lancet 327 (1986) 307-310.
    """
    difference = np.asarray(found, np.float64) - np.asarray(true, np.float64)
    if not len(difference):
        return float("nan"), float("nan"), float("nan")
    bias = float(difference.mean())
    spread = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else float("nan")
    return bias, bias - spread, bias + spread


def concordance(true: ArrayLike, found: ArrayLike) -> float:
    """Lin's concordance correlation coefficient (with 1/n variances, as in the paper); NaN if nothing varies.

    Source: L. I.-K. Lin, Biometrics 45 (1989) 255-268.
    """
    x, y = np.asarray(true, np.float64), np.asarray(found, np.float64)
    sums = {"n": np.array([len(x)]), "x": x.sum(), "y": y.sum(), "xx": x @ x, "yy": y @ y, "xy": x @ y}
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(_concordance({key: np.atleast_1d(np.float64(value)) for key, value in sums.items()})[0])


def _concordance(sums: Mapping[str, Floats]) -> Floats:
    n = sums["n"]
    mean_x, mean_y = sums["x"] / n, sums["y"] / n
    var_x, var_y = sums["xx"] / n - mean_x**2, sums["yy"] / n - mean_y**2
    covariance = sums["xy"] / n - mean_x * mean_y
    below = var_x + var_y + (mean_x - mean_y) ** 2
    return np.asarray(np.where(below > 1e-12, 2 * covariance / below, np.nan))


def agreement(name: str, true: ArrayLike, found: ArrayLike, group: Ints, resamples: int = RESAMPLES) -> Agreement:
    """Agreement of counts per image. Images with NaN are left out."""
    x, y = np.asarray(true, np.float64), np.asarray(found, np.float64)
    known = ~(np.isnan(x) | np.isnan(y))
    x, y, group = x[known], y[known], np.unique(group[known], return_inverse=True)[1]
    columns = {"n": np.ones(len(x)), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y, "off": abs(y - x)}
    statistics = {
        "mean_absolute_error": lambda s: s["off"] / s["n"],
        "bias": lambda s: (s["y"] - s["x"]) / s["n"],
        "concordance": _concordance,
    }
    bias, low, high = bland_altman(x, y)
    return Agreement(
        name,
        len(x),
        float(x.sum()),
        float(y.sum()),
        float(columns["off"].mean()) if len(x) else float("nan"),
        bias,
        (low, high),
        concordance(x, y),
        {key: bootstrap_statistic(columns, f, group, resamples) for key, f in statistics.items()},
    )


def coverage(low: ArrayLike, high: ArrayLike, true: ArrayLike) -> tuple[int, int]:
    """Number of intervals that contain the true value, and number of intervals; NaN intervals are skipped."""
    a, b, x = (np.asarray(values, np.float64) for values in (low, high, true))
    known = ~(np.isnan(a) | np.isnan(b) | np.isnan(x))
    return int(((a <= x) & (x <= b))[known].sum()), int(known.sum())


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Number of cells per image: true and found, (s,) each. NaN where the class is not annotated."""

    true: dict[str, Floats]
    found: dict[str, Floats]


def count_cells(dataset: Dataset, candidates: Sequence[Detections], thresholds: Mapping[str, float]) -> ImageCounts:
    """Count white cells (see `Detections.is_white`), blasts, their fraction, and the other classes.

    Counts are NaN on images where the class is not annotated. The blast fraction is in percent of white cells, and NaN
    on images without white cells.
    """
    found = [part[part.above_threshold(thresholds)] for part in candidates]
    true = [sample.truth if sample.truth is not None else Detections.empty() for sample in dataset]
    names = ("white cells", "blast", "blast share (%)", "rbc", "platelet")
    known = {
        name: np.array([_is_known(sample.annotated, name) and sample.truth is not None for sample in dataset])
        for name in names
    }
    sides = []
    for side in (true, found):
        counted = {name: np.array([_count(part, name) for part in side], np.float64) for name in names}
        sides.append({name: np.where(known[name], values, np.nan) for name, values in counted.items()})
    return ImageCounts(*sides)


def fraction_coverage(
    dataset: Dataset, candidates: Sequence[Detections], thresholds: Mapping[str, float]
) -> tuple[int, int]:
    """Number of images whose 95 % interval contains the true blast fraction, and number of images with both.

    The interval is the one of `blastdet detect`: Clopper and Pearson's, of the certain blasts among all white cells. It
    only covers the sampling of cells. If it misses the true fraction on more than 5 % of images, the model has errors.
    """
    true = count_cells(dataset, candidates, thresholds).true["blast share (%)"] / 100
    stated = []
    for part in candidates:
        part = part[part.above_threshold(thresholds)]
        white = part.is_white
        sure = np.ones(len(part), bool) if part.unsure is None else ~part.unsure
        exact = clopper_pearson(int((white & sure & (part.label == BLAST)).sum()), int(white.sum()))
        stated.append((exact.low, exact.high))
    low, high = np.array(stated).reshape(-1, 2).T
    return coverage(low, high, true)


def _is_known(annotated: tuple[str, ...], name: str) -> bool:
    if name == "white cells":
        return "wbc" in annotated
    if name == "blast share (%)":
        return "wbc" in annotated and "blast" in annotated
    return name in annotated


def _count(part: Detections, name: str) -> float:
    if part.ignore is not None:
        part = part[~part.ignore]
    if name in CELL_CLASSES:
        return float((part.label == CELL_CLASSES.index(name)).sum())
    white = part.is_white
    if name == "white cells":
        return float(white.sum())
    return 100 * float((part.label == BLAST).sum()) / float(white.sum()) if white.any() else float("nan")


def agreements(
    dataset: Dataset, candidates: Sequence[Detections], thresholds: Mapping[str, float], resamples: int = RESAMPLES
) -> list[Agreement]:
    """Agreement of every count that the dataset annotates."""
    counts, group = count_cells(dataset, candidates, thresholds), groups_of(dataset)
    judged = [name for name in counts.true if not np.isnan(counts.true[name] + counts.found[name]).all()]
    return [agreement(name, counts.true[name], counts.found[name], group, resamples) for name in judged]


@dataclass(frozen=True, eq=False)
class Froc:
    """Sensitivity against false detections, over all scores; one row for each distinct score, highest first.

    Parameters
    ----------
    name : str
        The class.
    score, sensitivity, false_per_field, false_per_100_white : float64 (n,)
        The last is NaN if no white cells are annotated.
    """

    name: str
    score: Floats
    sensitivity: Floats
    false_per_field: Floats
    false_per_100_white: Floats


def froc(dataset: Dataset, result: APResult, name: str) -> Froc:
    """Free-response curve of a class at IoU 0.5, from the match table.

    Source: P. C. Bunch et al., J. Appl. Photogr. Eng. 4 (1978) 166-171.
    """
    matches = result.table.classes[name]
    scored = np.array([sample.truth is not None and name in sample.annotated for sample in dataset])
    true = count_cells(dataset, [Detections.empty()] * len(dataset), {}).true["white cells"]
    white = float(true[scored].sum())  # NaN if one of these images does not annotate white cells
    last = np.flatnonzero(np.append(np.diff(matches.score) != 0, True)) if len(matches.score) else np.empty(0, np.int64)
    found = np.cumsum(matches.found[0])[last]
    false = np.cumsum(~matches.found[0] & ~matches.ignored[0])[last].astype(np.float64)
    total = max(int(matches.n_truth.sum()), 1)
    return Froc(
        name,
        matches.score[last],
        found / total,
        false / max(int(scored.sum()), 1),
        100 * false / white if white > 0 else np.full(len(last), np.nan),
    )
