"""``blastdet compare``: two models on the same images, with paired intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import measurement_options, renamed
from blastdet.cli._printing import echo, echo_notes

_PATH = click.Path(path_type=Path)


@click.command(cls=renamed(format="from"))
@click.argument("a")
@click.argument("b")
@click.option("--data", required=True, type=_PATH, help="Dataset: name (bccd), folder, JSON or YAML file.")
@click.option("--from", "format", default="auto", show_default=True, help="Format of the dataset.")
@click.option("--split", default="test", show_default=True, help="train, val, test, or all.")
@click.option("--out", required=True, type=_PATH, help="Folder for the report.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier report in --out.")
@measurement_options
def command(a: str, b: str, overwrite: bool, **options: Any) -> None:
    """Compare two models on one dataset.

    A and B are names of shipped models, weights folders, or COCO results (files that end in .json). Every difference
    has a 95 % interval from a bootstrap that draws the same groups for both models, so that difficulty of the images
    cancels out.

    \b
    Example:
      blastdet compare default runs/mine/weights --data bccd --split test --out comparison

    Writes comparison.csv and what `blastdet evaluate` writes to the folder of --out.
    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.cli.analysis_commands.evaluate import READING, run_models
    from blastdet.core.packages import require

    require("evaluate", "pycocotools", "scipy", "matplotlib", "jinja2")
    from blastdet.datasets.convert import check_no_file
    from blastdet.evaluation.comparison import compare
    from blastdet.evaluation.evaluate import EvaluateOptions, evaluate
    from blastdet.evaluation.predict import read_datasets
    from blastdet.evaluation.reporting.report import check_report, write_report

    out = options["out"]
    check_no_file(out)
    check_report(out, overwrite)
    datasets = read_datasets(options["data"], **{name: options[name] for name in READING})
    echo_notes(datasets[-1])
    side_a, side_b = (run_models(datasets[0], {**options, **_side(name)})[0] for name in (a, b))
    if side_a.name != side_b.name:
        a, b = side_a.name, side_b.name
    comparisons, figures = [], EvaluateOptions(max_dets=options["max_dets"])
    for dataset in datasets:
        pair = [evaluate(dataset, side, options=figures) for side in (side_a, side_b)]
        comparisons.append(compare(*pair, names=(a, b)))
        echo(f"{comparisons[-1]}\n")
    evaluations = [side for comparison in comparisons for side in (comparison.a, comparison.b)]
    for path in write_report(evaluations, out, comparisons, overwrite=overwrite):
        echo(f"wrote {path}")


def _side(name: str) -> dict[str, tuple[object, ...]]:
    """A or B, as the options of `blastdet evaluate`."""
    if name.endswith(".json"):
        return {"detections": (Path(name),), "weights": ()}
    return {"detections": (), "weights": (name,)}
