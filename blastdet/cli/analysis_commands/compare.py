"""``blastdet compare``: two models on the same smears, with paired intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blastdet.cli._options import Number

if TYPE_CHECKING:
    from blastdet.cli.analysis_commands.evaluate import Asked

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--data", required=True, type=_PATH, help="Data set: a folder, or its JSON or YAML file.")
@click.option("--format", default="auto", show_default=True, help="Format of the data set.")
@click.option("--split", default="test", show_default=True, help="train, val, test, or all.")
@click.option("--out", required=True, type=_PATH, help="Folder for the report.")
@click.option("--other", type=_PATH, help="ALL-IDB1: folder with the centroids of the other white cells.")
@click.option("--corrections", type=_PATH, help="Compare on corrected labels, too; both are printed.")
@click.option("--images", type=_PATH, help="COCO: folder of the pictures, where they lie elsewhere.")
@click.option("--mpp", default="data", show_default=True, help="µm/px: data (as the set says), auto, X or X,Y.")
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
@click.option("--threshold", type=Number(0, 1), help="Operating score. [default: the card's; 0.5 for files]")
@click.option("--max-dets", default=500, show_default=True, type=click.IntRange(1), help="Boxes per class and smear.")
def command(a: str, b: str, **options: Any) -> None:
    """Set two models side by side on one data set.

    A and B are shipped models, weights folders, or COCO results (files that end in .json). Every difference has a 95 %
    interval from a bootstrap that draws the same groups for both: what is hard for both cancels out.

    \b
    Example:
      blastdet compare default runs/mine/weights --data bccd --split test --out comparison

    Writes comparison.csv and what `blastdet evaluate` writes to the folder of --out.
    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.cli._extras import require
    from blastdet.cli.analysis_commands.evaluate import predictions_of, read_datasets

    require("evaluate", "pycocotools", "scipy", "matplotlib", "jinja2")
    from blastdet.datasets.convert import check_no_file
    from blastdet.evaluation import evaluate
    from blastdet.evaluation.comparison import compare
    from blastdet.evaluation.reporting import html_report, text

    check_no_file(options["out"])
    asked = [_as_asked(name, options) for name in (a, b)]
    datasets = read_datasets(asked[0])
    side_a, side_b = (predictions_of(one, datasets[0])[0] for one in asked)
    if side_a.name != side_b.name:
        a, b = side_a.name, side_b.name
    evaluations: list[evaluate.Evaluation] = []
    rows: list[dict[str, Any]] = []
    for truth in datasets:
        pair = [evaluate.evaluate(truth, side, asked[0].max_dets) for side in (side_a, side_b)]
        differences = compare(pair[0], pair[1])
        click.echo(text.differences_as_text(truth, a, b, differences) + "\n")
        rows += text.difference_rows(truth, a, b, differences)
        evaluations += pair
    out = asked[0].out
    written = [*html_report.write_report(evaluations, out, rows), *text.write_files(evaluations, out)]
    for path in [*written, text.write_text(out / "comparison.csv", text.as_csv(rows))]:
        click.echo(f"wrote {path}")


def _as_asked(name: str, options: dict[str, Any]) -> Asked:
    """One side of the comparison, as if `blastdet evaluate` had been asked for it."""
    from blastdet.cli.analysis_commands.evaluate import Asked

    if name.endswith(".json"):
        return Asked(**options, detections=(Path(name),), weights=())
    return Asked(**options, detections=(), weights=(name,))
