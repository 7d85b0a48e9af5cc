"""``blastdet stress``: a model under blur, JPEG, other stains and light, and a wrong scale."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from blastdet.robustness import Row

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
    from blastdet.cli.evaluate import Asked, read_datasets
    from blastdet.errors import ConfigError
    from blastdet.formats.convert import check_folder
    from blastdet.formats.files import check_replaced

    require("evaluate", "pycocotools", "scipy", "matplotlib")
    from blastdet.pipeline import load_models
    from blastdet.robustness import DISTURBANCES, steps, stress

    if unknown := [name for name in only if name not in DISTURBANCES]:
        raise ConfigError(f"--only {unknown[0]}: one of {', '.join(DISTURBANCES)} expected")
    if options["mpp"] == "auto":
        raise ConfigError("--mpp auto: stress compares with a known scale; data, X or X,Y expected")
    names = [name for name in DISTURBANCES if name in only or not only]
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
    if not any(smear.truth is not None and smear.annotated for smear in dataset):
        raise ConfigError(f"{asked.data}: no smear with annotated classes found, at least one expected")
    annotated = {name for smear in dataset for name in smear.annotated}
    models = load_models(weights, asked.device, second_stage="blast" in annotated)
    with file_reporter(steps(dataset, names), "stress") as step:
        rows = stress(dataset, models, names, step)
    click.echo(as_text(rows))
    for path in write(rows, f"{models.card.name} on {dataset.name}, {asked.split}, {len(dataset)} smears", asked.out):
        click.echo(f"wrote {path}")


def as_text(rows: Sequence[Row]) -> str:
    """One line for each disturbance, level and class."""
    from blastdet.evaluation.output import with_interval

    lines = [f"{'disturbance':<12}{'level':>7}  {'class':<9}{'AP50':<24}count error a smear (bias)"]
    for row in rows:
        counted = "" if row.count_error != row.count_error else f"{row.count_error:.2f} ({row.count_bias:+.2f})"
        ap50 = with_interval(row.ap50, row.ap50_low, row.ap50_high)
        lines.append(f"{row.disturbance:<12}{row.level:>7g}  {row.name:<9}{ap50:<24}{counted}".rstrip())
    return "\n".join(lines)


def write(rows: Sequence[Row], title: str, out: Path) -> list[Path]:
    """Table as JSON and CSV, and the curves as PNG."""
    from blastdet.formats.files import write_text
    from blastdet.robustness import table
    from blastdet.types import RESEARCH_USE

    content = table(rows)
    document = {"notice": RESEARCH_USE, "title": title, "rows": content}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(content[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
    write_text(out / "stress.json", json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(out / "stress.csv", text.getvalue())
    draw(rows, title, out / "stress.png")
    return [out / name for name in ("stress.json", "stress.csv", "stress.png")]


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """AP50 over the level of each disturbance, a curve a class with its interval; the dotted line changes nothing."""
    from matplotlib.figure import Figure

    from blastdet.evaluation.plots import COLOURS
    from blastdet.robustness import DISTURBANCES
    from blastdet.types import RESEARCH_USE

    shown = list(dict.fromkeys(row.disturbance for row in rows))
    columns = min(len(shown), 3)
    down = -(-len(shown) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * down + 0.5), layout="constrained")
    for place, name in enumerate(shown, 1):
        axes = figure.add_subplot(down, columns, place)
        for of in dict.fromkeys(row.name for row in rows if row.name != "all"):
            mine = [row for row in rows if (row.disturbance, row.name) == (name, of)]
            levels = [row.level for row in mine]
            axes.plot(levels, [row.ap50 for row in mine], marker="o", ms=3, color=COLOURS[of], label=of)
            axes.fill_between(
                levels, [r.ap50_low for r in mine], [r.ap50_high for r in mine], color=COLOURS[of], alpha=0.15, lw=0
            )
        axes.axvline(DISTURBANCES[name].none, color="0.5", ls=":", lw=1)
        axes.set(ylim=(-0.02, 1.02), xlabel=DISTURBANCES[name].what, ylabel="AP50")
        if place == 1:
            axes.legend(loc="lower left", fontsize=8, frameon=False)
    figure.suptitle(f"{title}\n{RESEARCH_USE}", fontsize=8)
    figure.savefig(path, dpi=140)
