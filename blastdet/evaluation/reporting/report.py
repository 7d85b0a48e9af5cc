"""Write the whole report: the HTML page, its plots, JSON and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blastdet.evaluation.comparison import Comparison
from blastdet.evaluation.evaluate import Evaluation
from blastdet.evaluation.reporting.html_report import write_page
from blastdet.evaluation.reporting.tables import write_tables


def write_report(evaluations: Sequence[Evaluation], out: Path, comparisons: Sequence[Comparison] = ()) -> list[Path]:
    """Write a report on one or more evaluations into a folder.

    Parameters
    ----------
    evaluations : sequence of Evaluation
    out : Path
        Folder; made if necessary.
    comparisons : sequence of Comparison, optional
        Comparisons among the evaluations, for the page and ``comparison.csv``.

    Returns
    -------
    list of Path
        ``report.html``, the folder of its plots, ``metrics.json`` and the CSV files.

    Raises
    ------
    DependencyError
        If jinja2 or matplotlib is not installed.
    BlastdetError
        If a file cannot be written.
    """
    return [*write_page(evaluations, out, comparisons), *write_tables(evaluations, out, comparisons)]
