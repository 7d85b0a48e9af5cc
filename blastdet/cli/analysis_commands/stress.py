"""``blastdet stress``: a model under blur, JPEG, other stains and light, and a wrong scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--data", required=True, type=_PATH, help="Data set: a folder, or its JSON or YAML file.")
@click.option("--format", default="auto", show_default=True, help="Format of the data set.")
@click.option("--split", default="val", show_default=True, help="train, val, test, or all.")
@click.option("--weights", default="default", show_default=True, help="A shipped model's name or a weights folder.")
@click.option("--out", required=True, type=_PATH, help="Folder for table and curves.")
@click.option("--images", type=_PATH, help="COCO: folder of the pictures, where they lie elsewhere.")
@click.option("--only", multiple=True, help="One disturbance: blur, jpeg, stain, hue, light or mpp. May be repeated.")
@click.option("--mpp", default="data", show_default=True, help="µm/px: data (as the set says), X or X,Y.")
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
def command(only: tuple[str, ...], weights: str, **options: Any) -> None:
    """Measure a model on disturbed pictures: how much blur, compression, stain or error of scale does it bear?

    Every picture of the split is shown blurred, as poor JPEG, stained more and less, redder and bluer, brighter and
    darker, and with a wrong µm/px. Prints AP50 with its 95 % interval and the error of the counts at each level, and
    writes stress.json, stress.csv and stress.png to the folder of --out.

    \b
    Examples:
      blastdet stress --data bccd --split val --out stress
      blastdet stress --data bccd --only blur --only mpp --weights runs/mine/weights --out stress

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.cli._extras import require
    from blastdet.cli._progress import file_reporter
    from blastdet.cli.analysis_commands.evaluate import Asked, read_datasets
    from blastdet.core.errors import ConfigError
    from blastdet.datasets.convert import check_folder
    from blastdet.datasets.formats.files import check_replaced

    require("evaluate", "pycocotools", "scipy", "matplotlib")
    from blastdet.evaluation.robustness import CORRUPTIONS, as_text, steps, stress, write
    from blastdet.inference.pipeline import load_models

    if unknown := [name for name in only if name not in CORRUPTIONS]:
        raise ConfigError(f"--only {unknown[0]}: one of {', '.join(CORRUPTIONS)} expected")
    if options["mpp"] == "auto":
        raise ConfigError("--mpp auto: stress compares with a known scale; data, X or X,Y expected")
    names = [name for name in CORRUPTIONS if name in only or not only]
    rest: dict[str, Any] = {
        "weights": (weights,),
        "detections": (),
        "other": None,
        "corrections": None,
        "threshold": None,
    }
    asked = Asked(**options, **rest, max_dets=500)
    check_folder(asked.out, True, "stress.json", [path for path in (asked.data, asked.images) if path])
    check_replaced(asked.out / "stress.csv", "disturbance,level", "stress")
    dataset = read_datasets(asked)[0]
    if not any(sample.truth is not None and sample.annotated for sample in dataset):
        raise ConfigError(f"{asked.data}: no smear with annotated classes found, at least one expected")
    annotated = {name for sample in dataset for name in sample.annotated}
    models = load_models(weights, asked.device, second_stage="blast" in annotated)
    with file_reporter(steps(dataset, names), "stress") as step:
        rows = stress(dataset, models, names, step)
    click.echo(as_text(rows))
    for path in write(rows, f"{models.card.name} on {dataset.name}, {asked.split}, {len(dataset)} smears", asked.out):
        click.echo(f"wrote {path}")
