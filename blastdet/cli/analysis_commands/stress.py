"""``blastdet stress``: a model under blur, JPEG, other stains and light, and a wrong scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import Mpp

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--data", required=True, type=_PATH, help="Data set: a folder, or its JSON or YAML file.")
@click.option("--format", default="auto", show_default=True, help="Format of the data set.")
@click.option("--split", default="val", show_default=True, help="train, val, test, or all.")
@click.option("--weights", default="default", show_default=True, help="A shipped model's name or a weights folder.")
@click.option("--out", required=True, type=_PATH, help="Folder for table and curves.")
@click.option("--images", type=_PATH, help="COCO: folder of the pictures, where they lie elsewhere.")
@click.option("--only", multiple=True, help="One disturbance: blur, jpeg, stain, hue, light or mpp. May be repeated.")
@click.option(
    "--mpp", type=Mpp("data"), default="data", show_default=True, help="µm/px: data (as the set says), X or X,Y."
)
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
def command(data: Path, only: tuple[str, ...], weights: str, device: str, out: Path, **reading: Any) -> None:
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
    from blastdet.cli._progress import file_reporter
    from blastdet.core.errors import ConfigError
    from blastdet.core.extras import require
    from blastdet.datasets.convert import check_folder
    from blastdet.datasets.formats.files import check_replaced
    from blastdet.evaluation.predict import load_for, read_datasets

    require("evaluate", "pycocotools", "scipy", "matplotlib")
    from blastdet.evaluation.robustness import CORRUPTIONS, as_text, steps, stress, write

    if unknown := [name for name in only if name not in CORRUPTIONS]:
        raise ConfigError(f"--only {unknown[0]}: one of {', '.join(CORRUPTIONS)} expected")
    names = [name for name in CORRUPTIONS if name in only or not only]
    check_folder(out, True, "stress.json", [path for path in (data, reading["images"]) if path])
    check_replaced(out / "stress.csv", "disturbance,level", "stress")
    dataset = read_datasets(data, **reading)[0]
    if not any(sample.truth is not None and sample.annotated for sample in dataset):
        raise ConfigError(f"{data}: expected at least one annotated image, got none")
    models = load_for(weights, dataset, device)
    with file_reporter(steps(dataset, names), "stress") as step:
        rows = stress(dataset, models, names, step)
    click.echo(as_text(rows))
    title = f"{models.card.name} on {dataset.name}, {reading['split']}, {len(dataset)} smears"
    for path in write(rows, title, out):
        click.echo(f"wrote {path}")
