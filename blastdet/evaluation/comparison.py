"""Compare two models on the same images, with paired intervals.

Both are drawn with the same resamples of the same groups, so that difficulty of the images cancels out. Whether the
intervals of two models overlap says little; the interval of the difference counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blastdet.core.errors import ConfigError
from blastdet.core.statistics import Interval
from blastdet.evaluation.confusion import Confusion
from blastdet.evaluation.evaluate import FIGURES, Evaluation
from blastdet.evaluation.intervals import RESAMPLES, bootstrap_ap, group_weights, spread_over_groups
from blastdet.evaluation.match_table import Floats, Ints

if TYPE_CHECKING:
    import pandas as pd


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
        """Which model is higher, if the interval excludes zero."""
        if not (self.interval.low > 0 or self.interval.high < 0):
            return "cannot be told apart"
        return "B higher" if self.interval.low > 0 else "A higher"


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Two models on one dataset. In a notebook it shows the table of differences.

    Attributes
    ----------
    a, b : Evaluation
    names : (str, str)
        What the two models are called.
    differences : list of Difference
    """

    a: Evaluation
    b: Evaluation
    names: tuple[str, str]
    differences: list[Difference]

    def to_pandas(self) -> pd.DataFrame:
        """One row for each class and figure: both values, their difference B - A with its 95 % interval, the verdict.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        from blastdet.evaluation.reporting.tables import as_frame, difference_rows

        return as_frame(difference_rows(self))

    def report(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write ``comparison.csv`` and the report of both models into a folder.

        Parameters
        ----------
        folder : str or path
            Made if it does not exist.
        overwrite : bool
            Replace an earlier report.

        Returns
        -------
        list of Path

        Raises
        ------
        ConfigError
            If a file exists already.
        """
        from blastdet.evaluation.reporting.report import write_report

        return write_report([self.a, self.b], Path(folder), [self], overwrite=overwrite)

    def __repr__(self) -> str:
        from blastdet.evaluation.reporting.text import comparison_as_text

        return comparison_as_text(self)

    def _repr_html_(self) -> str:
        from blastdet.evaluation.reporting.html_report import comparison_table

        return comparison_table(self)


def compare(
    a: Evaluation, b: Evaluation, *, names: tuple[str, str] | None = None, resamples: int = RESAMPLES
) -> Comparison:
    """Differences in average precision, sensitivity, precision and F1 of two models on one dataset.

    Parameters
    ----------
    a, b : Evaluation
        Of the same images.
    names : (str, str), optional
        What to call the two models. Default: the names in their predictions.
    resamples : int
        Bootstrap resamples.

    Raises
    ------
    ConfigError
        If the two were not measured on the same images, or have no class in common.
    """
    if [sample.path for sample in a.dataset] != [sample.path for sample in b.dataset]:
        raise ConfigError(f"expected two evaluations of the same images, got {a.title} and {b.title}")
    if not set(a.ap.classes) & set(b.ap.classes):
        raise ConfigError(f"expected evaluations with a class in common, got {a.ap.classes} and {b.ap.classes}")
    weights = group_weights(a.ap.table.group, resamples)
    differences = [*_precision_differences(a, b, weights), *_cell_differences(a, b, weights)]
    return Comparison(a, b, names or (a.predictions.name, b.predictions.name), differences)


def _spread(samples: Floats, sides: Sequence[Evaluation], name: str) -> Interval:
    tables = [side.ap.table for side in sides]
    n = tables[0].n_groups if max(table.n_groups_with(name) for table in tables) > 1 else 1
    return spread_over_groups(samples, n, len(samples), "paired bootstrap")


def _precision_differences(a: Evaluation, b: Evaluation, weights: Ints) -> list[Difference]:
    samples_a, samples_b = bootstrap_ap(a.ap.table, weights), bootstrap_ap(b.ap.table, weights)
    differences = []
    for name in [*(n for n in a.ap.classes if n in b.ap.classes and a.ap.n_truth[n]), "all"]:
        key = None if name == "all" else name
        for figure in FIGURES:
            interval = _spread(samples_b[name][figure] - samples_a[name][figure], (a, b), name)
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
            interval = _spread(samples_b - samples_a, (a, b), name)
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
