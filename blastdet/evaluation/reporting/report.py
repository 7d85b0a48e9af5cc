"""Write the whole report: the HTML page, its plots, JSON and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blastdet.core.atomic_io import check_names, refuse_existing
from blastdet.evaluation.comparison import Comparison
from blastdet.evaluation.evaluate import Evaluation
from blastdet.evaluation.reporting.html_report import PAGE_FILES, write_page
from blastdet.evaluation.reporting.tables import TABLE_FILES, write_tables


def check_report(out: Path, overwrite: bool = False, *, from_python: bool = False) -> None:
    """Refuse a folder with an earlier report, or with other files that a report would replace.

    Raises `ConfigError`.

    Parameters
    ----------
    out, overwrite
        As for `write_report`.
    from_python : bool
        See `blastdet.core.atomic_io.refuse_existing`.
    """
    check_names(out)
    refuse_existing((out / name for name in (*PAGE_FILES, *TABLE_FILES)), overwrite, from_python=from_python)


def write_report(
    evaluations: Sequence[Evaluation], out: Path, comparisons: Sequence[Comparison] = (), *, overwrite: bool = False
) -> list[Path]:
    """Write a report on one or more evaluations into a folder.

    Raises `ConfigError` if a file exists already. Raises `DependencyError` if jinja2 or matplotlib is not installed.
    Raises `BlastdetError` if a file cannot be written.

    Parameters
    ----------
    comparisons : sequence of Comparison, optional
        Comparisons among the evaluations, for the page and ``comparison.csv``.
    overwrite : bool
        Replace an earlier report in the folder.

    Returns
    -------
    list of Path
        ``report.html``, the folder of its plots, ``metrics.json`` and the CSV files.
    """
    check_report(out, overwrite, from_python=True)
    return [*write_page(evaluations, out, comparisons), *write_tables(evaluations, out, comparisons)]
