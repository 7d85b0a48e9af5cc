"""``blastdet evaluate``: measure models, or detections from any program, on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blastdet.cli._options import measurement_options, renamed
from blastdet.cli._printing import echo, echo_notes

if TYPE_CHECKING:
    from blastdet.core.types import Dataset
    from blastdet.evaluation.predict import Predictions

_PATH = click.Path(path_type=Path)
READING = ("format", "split", "images", "class_map", "annotated", "other", "corrections", "mpp")
"""Options that say how a dataset is read; see `evaluation.predict.read_datasets`."""

_OF_DETECTORS = ("threshold", "max_dets", "device")


@click.command(cls=renamed(format="from"))
@click.option(
    "--data",
    "places",
    required=True,
    multiple=True,
    type=_PATH,
    help="Dataset: name (bccd), folder, JSON or YAML file. Repeatable.",
)
@click.option("--from", "format", default="auto", show_default=True, help="Format of the dataset.")
@click.option("--split", default="test", show_default=True, help="train, val, test, or all.")
@click.option(
    "--weights", multiple=True, help="Name of a shipped model, or a weights folder. Repeatable. [default: default]"
)
@click.option("--detections", multiple=True, type=_PATH, help="COCO results (JSON), instead of a model. Repeatable.")
@click.option(
    "--classifications", type=_PATH, help="cells.csv of `blastdet classify`, instead of a model: types are compared."
)
@click.option("--out", required=True, type=_PATH, help="Folder for the report.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier report in --out.")
@measurement_options
def command(places: tuple[Path, ...], out: Path, overwrite: bool, max_dets: int, **options: Any) -> None:
    """Measure models, or detections from any program, on a dataset.

    Prints average precision (COCO protocol) with 95 % intervals from a bootstrap over groups, and writes report.html,
    its plots, metrics.json and CSV files to the folder of --out.

    \b
    Examples:
      blastdet evaluate --data bccd --split test --out report
      blastdet evaluate --data bccd --detections detections.coco.json --out report
      blastdet evaluate --data bccd --data other/truth.json --split all --out both
      blastdet evaluate --data cnmc2019 --classifications blastdet-cells/cells.csv --out types

    A detections file is a COCO results list, or the detections.coco.json that `blastdet detect --format coco
    --min-score 0.01` writes. Its scores should go down to 0.01; otherwise the precision-recall curves are cut off.

    With --classifications, each image of the dataset shows one annotated cell. Printed are AUROC of the blast
    probability, sensitivity and specificity at the model's threshold, and the confusion of types, for all images unless
    --split is given.

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.core.errors import ConfigError

    if options["classifications"] is not None:
        _compare_types(places, out, overwrite, options)
        return
    from blastdet.core.packages import require

    for name in ("detections", "images", "other", "corrections"):
        if len(places) > 1 and options[name]:
            raise ConfigError(f"--{name}: expected one --data with this option, got {len(places)}")
    if not options["weights"] and not options["detections"]:
        options["weights"] = ("default",)
    require("evaluate", "pycocotools", "scipy", "matplotlib", "jinja2")
    from blastdet.datasets.convert import check_no_file
    from blastdet.evaluation.evaluate import EvaluateOptions, evaluate
    from blastdet.evaluation.predict import check_annotated, read_datasets
    from blastdet.evaluation.reporting.report import check_report, write_report

    check_no_file(out)
    check_report(out, overwrite)
    reading = {name: options[name] for name in READING}
    datasets = [read_datasets(place, **reading) for place in places]  # read all before anything is measured
    for versions in datasets:
        echo_notes(versions[-1])
        for version in versions:
            check_annotated(version)
    evaluations, figures = [], EvaluateOptions(max_dets=max_dets)
    for versions in datasets:
        for found in run_models(versions[0], options):
            evaluations += [evaluate(dataset, found, options=figures) for dataset in versions]
    for evaluation in evaluations:
        echo(f"{evaluation}\n")
    for path in write_report(evaluations, out, overwrite=overwrite):
        echo(f"wrote {path}")


def _compare_types(places: tuple[Path, ...], out: Path, overwrite: bool, options: dict[str, Any]) -> None:
    from blastdet.core.errors import ConfigError
    from blastdet.datasets.convert import check_no_file
    from blastdet.evaluation.predict import read_datasets
    from blastdet.evaluation.single_cell_types import check_classification, evaluate_cell_types

    if len(places) > 1 or options["weights"] or options["detections"]:
        raise ConfigError("--classifications: expected one --data, and neither --weights nor --detections")
    if idle := [f"--{name.replace('_', '-')}" for name in _OF_DETECTORS if _is_given(name)]:
        raise ConfigError(f"--classifications: expected no options of detectors, got {', '.join(idle)}. Leave them out")
    check_no_file(out)
    check_classification(out, overwrite)
    reading = {name: options[name] for name in READING} | ({} if _is_given("split") else {"split": "all"})
    dataset = read_datasets(places[0], **reading)[-1]
    echo_notes(dataset)
    found = evaluate_cell_types(dataset, options["classifications"])
    echo(found)
    for path in found.write(out, overwrite=overwrite):
        echo(f"wrote {path}")


def _is_given(name: str) -> bool:
    """Whether the user gave an option."""
    return click.get_current_context().get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def run_models(dataset: Dataset, options: dict[str, Any], failed: list[str] | None = None) -> list[Predictions]:
    """Predictions of all --detections and --weights, with a progress bar."""
    from blastdet.cli._progress import file_reporter
    from blastdet.evaluation.predict import from_file, from_model, load_for

    weights, threshold = options["weights"], options["threshold"]
    found = [from_file(path, dataset, threshold) for path in options["detections"]]
    how = {"mpp": options["mpp"], "threshold": threshold, "failed": failed}
    with file_reporter(len(dataset) * len(weights), ", ".join(weights)) as step:
        for name in weights:
            found.append(from_model(load_for(name, dataset, options["device"]), dataset, **how, progress=step))
    return found
