"""``blastdet crops``: cut the white cells out of a dataset, for the second stage or any other classifier."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blastdet.cli._options import Mpp, Number, Numbers, reading_options, renamed
from blastdet.cli._printing import echo, echo_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blastdet.core.types import Dataset
    from blastdet.datasets.cropping.crop_table import CropRow
    from blastdet.datasets.cropping.cutting import Cells
    from blastdet.imaging.cell_crops import Box

_READING = ("format", "split", "images", "class_map", "annotated", "corrections", "mpp")
_PATH = click.Path(path_type=Path)


@click.command(cls=renamed(format="from", probe="negative_control"))
@click.argument("data", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--weights", help="Cut out the cells that this model detects, instead of the annotated cells.")
@click.option("--detections", type=_PATH, help="Cut out the detections in this file (COCO results, JSON).")
@click.option("--from", "format", default="auto", show_default=True, help="Format of DATA.")
@click.option("--split", default="all", show_default=True, help="train, val, test, or all.")
@reading_options
@click.option("--exclude", type=_PATH, help="COCO file: leave out its images, and other images of their groups.")
@click.option(
    "--mark",
    "marks",
    type=Numbers(4),
    multiple=True,
    metavar="X1,Y1,X2,Y2",
    help="A burnt-in scale bar or arrow, in pixels: leave out cells whose crop shows it. Repeatable.",
)
@click.option("--corrections", type=_PATH, help="Corrections of the annotations, JSON Lines.")
@click.option("--mpp", type=Mpp("data", "auto"), default="data", show_default=True, help="µm per pixel of the images.")
@click.option("--device", default="auto", show_default=True, help="Where a model runs: auto, cpu or cuda.")
@click.option("--threshold", type=Number(0, 1), help="Minimum score. [default: the card's; 0.5 for files]")
@click.option(
    "--colour",
    type=click.Choice(["as it is", "canonical"]),
    default="as it is",
    show_default=True,
    help="canonical: normalise the colours of background and red cells of each image first.",
)
@click.option(
    "--negative-control",
    type=click.Choice(["covered", "elsewhere"]),
    help="Cut out windows that do not show the cell, with its label; see above.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if an earlier run of crops wrote it.")
def command(**options: Any) -> None:
    """Cut the white cells of the dataset DATA out and write them to the folder OUT.

    DATA is a folder, a file, or the name of an installed dataset such as bccd. Crops are square (in µm), centred on the
    cell, 1.3 times as wide as the longer side of its box, and at the resolution of the image. Beyond the border the
    image is reflected. OUT/crops.csv has one row per crop: file, image, group, cluster, split, class of the image,
    label, cell type, box, score, µm/px.

    By default the annotated cells are cut out. With --weights or --detections the detected cells are cut out, with the
    label of the annotated cell that they match (IoU at least 0.5). A detection without a match gets the label "not a
    cell" if all white cells of the image are annotated with boxes, otherwise no label. Images that cannot be read are
    listed, and the others are processed.

    --negative-control tests whether a classifier uses shortcuts such as stain, background or sharpness. Train the same
    configuration on windows of 24 µm that have the cell's label and do not show the cell: covered puts a grey disc of
    20 µm over it (cells around it remain visible), elsewhere takes a window without nucleated cells from the same
    image. Then compare "AUROC of blast" in the cards. A high value on a negative control is not due to the cells.

    \b
    Examples:
      blastdet crops bccd crops/bccd --split train
      blastdet crops all_fields crops/all_fields --weights default --colour canonical
      blastdet crops all_fields control/all_fields --weights default --colour canonical --negative-control elsewhere

    Exit codes: 0 done, 1 some images cannot be read, 2 bad input. Research use only.
    """
    from blastdet.cli._progress import file_reporter
    from blastdet.core.atomic_io import new_folder
    from blastdet.datasets.convert import check_folder
    from blastdet.datasets.cropping.crop_table import RECORD, Cut
    from blastdet.datasets.cropping.cutting import write_crops
    from blastdet.datasets.splits import without
    from blastdet.evaluation.predict import read_datasets

    overwrite, exclude, marks = (options.pop(name) for name in ("overwrite", "exclude", "marks"))
    how = Cut(options.pop("colour"), options.pop("negative_control") or "")
    data, out, detections = options["data"], options["out"], options["detections"]
    options |= {name: (options[name],) if options[name] else () for name in ("weights", "detections")}
    _check(options, marks)
    inputs = (data, options["images"], detections, options["corrections"], exclude)
    check_folder(out, overwrite, RECORD, [path for path in inputs if path])
    reading = {name: options[name] for name in _READING}
    dataset = read_datasets(data, **reading)[-1]
    if exclude:
        dataset = without(dataset, exclude)
    _check_marks(dataset, marks)
    unread: list[str] = []
    if options["mpp"] == "auto" and not options["weights"]:
        dataset = _measured(dataset, unread)
    cells, lines = _cells(dataset, options, marks, how.negative_control, unread)
    with new_folder(out) as folder, file_reporter(len(dataset), "cutting") as step:
        rows, failed = write_crops(dataset, cells, folder, how, step)
    _print(dataset, lines, rows)
    echo(f"wrote    {out}")
    for line in (*unread, *failed):
        echo_line(f"failed   {line}", err=True)
    if unread or failed:
        raise click.exceptions.Exit(1)


def _print(dataset: Dataset, lines: Sequence[str], rows: Sequence[CropRow]) -> None:
    echo(f"read     {dataset.name}: {len(dataset)} images")
    for line in (*(f"dropped  {line}" for line in dataset.dropped), *(f"note     {line}" for line in dataset.notes)):
        echo_line(line)
    for line in lines:
        echo(line)
    kinds = Counter(row.label or f"no label ({row.smear_label or 'no class'})" for row in rows)
    echo(f"crops    {len(rows)}: " + (", ".join(f"{name} {n}" for name, n in sorted(kinds.items())) or "none"))


def _check(options: dict[str, Any], marks: Sequence[Box]) -> None:
    from blastdet.core.errors import ConfigError

    for x1, y1, x2, y2 in marks:
        if x1 >= x2 or y1 >= y2:
            raise ConfigError(f"--mark {x1:g},{y1:g},{x2:g},{y2:g}: expected x1 < x2 and y1 < y2")

    if options["weights"] and options["detections"]:
        raise ConfigError("expected --weights or --detections, got both")
    if options["threshold"] is not None and not (options["weights"] or options["detections"]):
        raise ConfigError("--threshold: only for detected cells. Add --weights or --detections")


def _cells(
    dataset: Dataset, options: dict[str, Any], marks: Sequence[Box], control: str, unread: list[str]
) -> tuple[list[Cells], list[str]]:
    """Cells of every image, or the windows of a negative control; and lines that say how they were chosen."""
    from blastdet.cli.analysis_commands.evaluate import run_models
    from blastdet.datasets.cropping.cutting import annotated_cells, detected_cells, without_marks

    lines = []
    if options["weights"] or options["detections"]:
        (predictions,) = run_models(dataset, options, unread)
        cells = detected_cells(dataset, predictions.candidates, predictions.thresholds, predictions.mpp)
        points = ", ".join(f"{n} {v:g}" for n, v in predictions.thresholds.items() if n in ("blast", "wbc"))
        lines.append(f"scores   from {points}")
    else:
        cells = annotated_cells(dataset)
        if len(dataset) and all(sample.truth is None for sample in dataset):
            lines.append("note     these images are not annotated. To cut out detected cells, add --weights default")
    cells = [without_marks(mine, marks) for mine in cells]
    if control:
        cells = list(_windows(dataset, cells, control, marks))
    reasons: Counter[str] = Counter()
    for mine in cells:
        reasons.update(mine.left_out)
    if reasons:
        lines.append("left out " + ", ".join(f"{n} {why}" for why, n in reasons.items()))
    return cells, lines


def _windows(dataset: Dataset, cells: Sequence[Cells], control: str, marks: Sequence[Box]) -> Iterator[Cells]:
    """Windows of a negative control. An image that cannot be read keeps its cells, and fails when they are cut out."""
    from blastdet.cli._progress import file_reporter
    from blastdet.core.errors import ImageError
    from blastdet.datasets.cropping.cutting import negative_control_cells

    with file_reporter(len(dataset), "placing windows") as step:
        for sample, mine in zip(dataset, cells, strict=True):
            try:
                yield negative_control_cells(sample, mine, control, marks)
            except ImageError:
                yield mine
            step()


def _measured(dataset: Dataset, unread: list[str]) -> Dataset:
    """Estimate the µm/px of every image from its red cells; images without an estimate are left out, see `unread`."""
    from blastdet.cli._progress import file_reporter
    from blastdet.core.errors import ImageError
    from blastdet.imaging.io import read_image
    from blastdet.segmentation.mpp_estimation import estimate_mpp

    samples = []
    with file_reporter(len(dataset), "estimating µm/px") as step:
        for sample in dataset:
            try:
                found = estimate_mpp(read_image(sample.path))
                if found.mpp is None:
                    unread.append(f"{sample.path}: could not estimate the scale ({found.reason}). Pass --mpp")
                else:
                    samples.append(replace(sample, mpp=found.mpp))
            except ImageError as error:
                unread.append(str(error))
            step()
    return replace(dataset, samples=tuple(samples))


def _check_marks(dataset: Dataset, marks: Sequence[Box]) -> None:
    """Refuse a mark outside all images: it must be a typing error, and its cells would stay in."""
    from blastdet.core.errors import ConfigError

    for x1, y1, x2, y2 in marks:
        if len(dataset) and not any(x1 < w and y1 < h and x2 > 0 and y2 > 0 for w, h in (s.size_wh for s in dataset)):
            raise ConfigError(f"--mark {x1:g},{y1:g},{x2:g},{y2:g}: outside every image")
