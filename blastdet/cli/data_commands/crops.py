"""``blastdet crops``: the cells of a data set cut out, for the second stage or for anyone's classifier."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blastdet.cli._options import Mpp, Number, Numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blastdet.core.types import Dataset
    from blastdet.datasets.crop_dataset import Cells
    from blastdet.imaging.cell_crops import Box

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("data", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--weights", help="Cut out what this model finds, matched with the truth, instead of the truth.")
@click.option("--detections", type=_PATH, help="The same for anyone's detections: COCO results, as JSON.")
@click.option("--format", default="auto", show_default=True, help="Format of DATA.")
@click.option("--split", default="all", show_default=True, help="train, val, test, or all.")
@click.option("--images", type=_PATH, help="COCO: folder of the pictures, where they lie elsewhere.")
@click.option("--exclude", type=_PATH, help="COCO file whose pictures, and what shares a group with them, stay out.")
@click.option(
    "--mark",
    "marks",
    type=Numbers(4),
    multiple=True,
    metavar="X1,Y1,X2,Y2",
    help="A burnt-in scale bar or arrow, in pixels of every picture: cells whose crop shows it stay out. Repeatable.",
)
@click.option("--corrections", type=_PATH, help="Corrections of the annotations, JSON Lines.")
@click.option("--mpp", type=Mpp("data", "auto"), default="data", show_default=True, help="µm per pixel of the images.")
@click.option("--device", default="auto", show_default=True, help="Where a model runs: auto, cpu or cuda.")
@click.option("--threshold", type=Number(0, 1), help="Score from which detections count. [default: the card's; 0.5]")
@click.option(
    "--colour",
    type=click.Choice(["as it is", "canonical"]),
    default="as it is",
    show_default=True,
    help="canonical: film and red cells of each smear brought to fixed colours first.",
)
@click.option(
    "--probe",
    type=click.Choice(["covered", "elsewhere"]),
    help="Windows without the cell, under its label: what a classifier tells from them is a shortcut.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if an earlier run of crops wrote it.")
def command(**options: Any) -> None:
    """Cut the white cells of DATA out into the folder OUT.

    Crops are square (in µm), centred, 1.3 times the longer side of the box, reflected at borders, at the resolution of
    their smear. OUT/crops.csv has one row a crop: file, smear, group, cluster, split, class of the smear, label, cell
    type, box, score, µm/px.

    Without --weights or --detections the boxes of the truth are cut out. With one of them, what is found: it takes the
    label of the annotated cell it matches (IoU 0.5); "not a cell" where all white cells are annotated with boxes and
    none matches; else no label. A picture that cannot be read is named, and the others are done.

    A classifier may know a smear by its stain, its film or its sharpness. --probe shows it: train the same
    configuration on windows of 24 µm with the cell under a grey disc of 20 µm (covered; cells around it still show), or
    without any nucleated cell (elsewhere: one in the same smear for each of its cells), and compare "AUROC of blast" in
    the cards.

    \b
    Examples:
      blastdet crops bccd crops/bccd --split train
      blastdet crops all_fields crops/all_fields --weights default --colour canonical
      blastdet crops all_fields probe/all_fields --weights default --colour canonical --probe elsewhere

    Exit codes: 0 done, 1 some pictures cannot be read, 2 bad input. Research use only.
    """
    from blastdet.cli._progress import file_reporter
    from blastdet.core.atomic_io import new_folder
    from blastdet.datasets.convert import check_folder
    from blastdet.datasets.crop_dataset import RECORD, Cut, write_crops
    from blastdet.datasets.splits import without
    from blastdet.evaluation.predict import read_datasets

    overwrite, exclude, marks = (options.pop(name) for name in ("overwrite", "exclude", "marks"))
    how = Cut(options.pop("colour"), options.pop("probe") or "")
    data, out, detections = options["data"], options["out"], options["detections"]
    options |= {name: (options[name],) if options[name] else () for name in ("weights", "detections")}
    _check(options, marks)
    inputs = (data, options["images"], detections, options["corrections"], exclude)
    check_folder(out, overwrite, RECORD, [path for path in inputs if path])
    reading = {name: options[name] for name in ("format", "split", "images", "corrections", "mpp")}
    dataset = read_datasets(data, **reading)[-1]
    if exclude:
        dataset = without(dataset, exclude)
    _check_marks(dataset, marks)
    unread: list[str] = []
    if options["mpp"] == "auto" and not options["weights"]:
        dataset = _measured(dataset, unread)
    cells, lines = _cells(dataset, options, marks, how.probe, unread)
    with new_folder(out) as folder, file_reporter(len(dataset), "cutting") as step:
        rows, failed = write_crops(dataset, cells, folder, how, step)
    click.echo(f"read     {dataset.name}: {len(dataset)} pictures")
    for line in (*(f"dropped  {line}" for line in dataset.dropped), *(f"note     {line}" for line in dataset.notes)):
        click.echo(line)
    for line in lines:
        click.echo(line)
    kinds = Counter(row.label or f"nobody labelled ({row.smear_label or 'no class'})" for row in rows)
    click.echo(f"crops    {len(rows)}: " + (", ".join(f"{name} {n}" for name, n in sorted(kinds.items())) or "none"))
    click.echo(f"wrote    {out}")
    for line in (*unread, *failed):
        click.echo(f"failed   {line}", err=True)
    if unread or failed:
        raise click.exceptions.Exit(1)


def _check(options: dict[str, Any], marks: Sequence[Box]) -> None:
    from blastdet.core.errors import ConfigError

    for x1, y1, x2, y2 in marks:
        if x1 >= x2 or y1 >= y2:
            raise ConfigError(f"--mark {x1:g},{y1:g},{x2:g},{y2:g}: x1 < x2 and y1 < y2 expected")

    if options["weights"] and options["detections"]:
        raise ConfigError("--weights and --detections: both found, one at most expected")
    if options["threshold"] is not None and not (options["weights"] or options["detections"]):
        raise ConfigError("--threshold: of what? name --weights or --detections")


def _cells(
    dataset: Dataset, options: dict[str, Any], marks: Sequence[Box], probe: str, unread: list[str]
) -> tuple[list[Cells], list[str]]:
    """Cells of every smear off marks, or the windows of a probe, and lines that say how they were chosen."""
    from blastdet.cli.analysis_commands.evaluate import run_models
    from blastdet.datasets.crop_dataset import found_cells, off_marks, true_cells

    lines = []
    if options["weights"] or options["detections"]:
        (predictions,) = run_models(dataset, options, unread)
        cells = found_cells(dataset, predictions)
        points = ", ".join(f"{n} {v:g}" for n, v in predictions.thresholds.items() if n in ("blast", "wbc"))
        lines.append(f"scores   from {points}")
    else:
        cells = true_cells(dataset)
        if len(dataset) and all(sample.truth is None for sample in dataset):
            lines.append("note     nobody annotated these pictures; --weights default cuts out what the model finds")
    cells = [off_marks(mine, marks) for mine in cells]
    if probe:
        cells = list(_probed(dataset, cells, probe, marks))
    reasons: Counter[str] = Counter()
    for mine in cells:
        reasons.update(mine.left_out)
    if reasons:
        lines.append("left out " + ", ".join(f"{n} {why}" for why, n in reasons.items()))
    return cells, lines


def _probed(dataset: Dataset, cells: Sequence[Cells], probe: str, marks: Sequence[Box]) -> Iterator[Cells]:
    """A probe's windows; a smear that cannot be read keeps its cells, and is named when they are cut out."""
    from blastdet.cli._progress import file_reporter
    from blastdet.core.errors import ImageError
    from blastdet.datasets.crop_dataset import negative_control_cells

    with file_reporter(len(dataset), "placing windows") as step:
        for sample, mine in zip(dataset, cells, strict=True):
            try:
                yield negative_control_cells(sample, mine, probe, marks)
            except ImageError:
                yield mine
            step()


def _measured(dataset: Dataset, unread: list[str]) -> Dataset:
    """Smears with the µm/px that their red cells tell; the others are left out, and named in `unread`."""
    from blastdet.cli._progress import file_reporter
    from blastdet.core.errors import ImageError
    from blastdet.imaging.io import read_image
    from blastdet.segmentation.mpp_estimation import estimate_mpp

    smears = []
    with file_reporter(len(dataset), "measuring") as step:
        for sample in dataset:
            try:
                found = estimate_mpp(read_image(sample.path))
                if found.mpp is None:
                    unread.append(f"{sample.path}: too few red cells to measure by; give --mpp")
                else:
                    smears.append(replace(sample, mpp=found.mpp))
            except ImageError as error:
                unread.append(str(error))
            step()
    return replace(dataset, samples=tuple(smears))


def _check_marks(dataset: Dataset, marks: Sequence[Box]) -> None:
    """A mark that touches no picture is a slip, and would leave in what is to stay out."""
    from blastdet.core.errors import ConfigError

    for x1, y1, x2, y2 in marks:
        if len(dataset) and not any(x1 < w and y1 < h and x2 > 0 and y2 > 0 for w, h in (s.size_wh for s in dataset)):
            raise ConfigError(f"--mark {x1:g},{y1:g},{x2:g},{y2:g}: outside of every picture")
