"""``blastdet robustness``: a model on blurred, compressed, restained, darker and wrongly scaled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import Mpp, reading_options, renamed
from blastdet.cli._printing import echo, echo_notes

_PATH = click.Path(path_type=Path)


@click.command(cls=renamed(format="from"))
@click.option("--data", required=True, type=_PATH, help="Dataset: name (bccd), folder, JSON or YAML file.")
@click.option("--from", "format", default="auto", show_default=True, help="Format of the dataset.")
@click.option("--split", default="val", show_default=True, help="train, val, test, or all.")
@click.option("--weights", default="default", show_default=True, help="Name of a shipped model, or a weights folder.")
@click.option("--out", required=True, type=_PATH, help="Folder for the table and curves.")
@reading_options
@click.option(
    "--only",
    multiple=True,
    help="blur, jpeg, stain, hue, brightness or mpp. Repeatable. [default: all]",
)
@click.option("--mpp", type=Mpp("data"), default="data", show_default=True, help="µm per pixel of the images.")
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
def command(data: Path, only: tuple[str, ...], weights: str, device: str, out: Path, **reading: Any) -> None:
    """Measure how much accuracy a model loses on corrupted images.

    Every image of the split is blurred, compressed as JPEG, stained more and less, shifted to red and blue, made
    brighter and darker, and given a wrong µm/px. Prints AP50 with its 95 % interval and the error of the counts at each
    level, and writes robustness.json, robustness.csv and robustness.png to the folder of --out.

    \b
    Examples:
      blastdet robustness --data bccd --split val --out robustness
      blastdet robustness --data bccd --only blur --only mpp --weights runs/mine/weights --out robustness

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.cli._progress import file_reporter
    from blastdet.core.errors import ConfigError
    from blastdet.core.packages import require
    from blastdet.datasets.annotations.files import check_replaced
    from blastdet.datasets.convert import check_folder

    require("evaluate", "pycocotools", "matplotlib")
    from blastdet.evaluation.predict import load_for, read_datasets
    from blastdet.evaluation.robustness.measure import measure_robustness, steps
    from blastdet.evaluation.robustness.output import FILES, as_text, write

    names = _names(only)
    check_folder(out, True, FILES[0], [path for path in (data, reading["images"]) if path])
    check_replaced(out / FILES[1], "disturbance,level", "robustness")
    dataset = read_datasets(data, **reading)[0]
    if not any(sample.truth is not None and sample.annotated for sample in dataset):
        raise ConfigError(f"{data}: expected at least one annotated image, got none")
    echo_notes(dataset)
    models = load_for(weights, dataset, device)
    with file_reporter(steps(dataset, names), "robustness") as step:
        rows = measure_robustness(dataset, models, names, step)
    echo(as_text(rows))
    title = f"{models.card.name} on {dataset.name}, {reading['split']}, {len(dataset)} images"
    for path in write(rows, title, out):
        echo(f"wrote {path}")


def _names(only: tuple[str, ...]) -> list[str]:
    """Corruptions to measure, in the order of the table."""
    from blastdet.core.errors import ConfigError
    from blastdet.evaluation.robustness.corruptions import CORRUPTIONS, RENAMED

    for name in only:
        if name in RENAMED:
            echo(f"note: --only {name} is now --only {RENAMED[name]}", err=True)
        elif name not in CORRUPTIONS:
            raise ConfigError(f"--only: expected one of {', '.join(CORRUPTIONS)}, got {name}")
    chosen = {RENAMED.get(name, name) for name in only}
    return [name for name in CORRUPTIONS if name in chosen or not chosen]
