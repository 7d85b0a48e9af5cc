"""``blastdet crops``: the cells of a data set cut out, for the second stage or for anyone's classifier."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("data", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--weights", help="Cut out what this model finds, matched with the truth, instead of the truth.")
@click.option("--detections", type=_PATH, help="The same for anyone's detections: COCO results, as JSON.")
@click.option("--format", default="auto", show_default=True, help="Format of DATA.")
@click.option("--split", default="all", show_default=True, help="train, val, test, or all.")
@click.option("--images", type=_PATH, help="COCO: folder of the pictures, where they lie elsewhere.")
@click.option("--corrections", type=_PATH, help="JSON list of corrections to the published labels.")
@click.option("--mpp", default="data", show_default=True, help="µm/px: data (as the set says), auto, X or X,Y.")
@click.option("--device", default="auto", show_default=True, help="Where a model runs: auto, cpu or cuda.")
@click.option(
    "--colour",
    type=click.Choice(["as it is", "canonical"]),
    default="as it is",
    show_default=True,
    help="canonical: film and red cells of each smear brought to fixed colours first.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if an earlier run of crops wrote it.")
def command(
    data: Path,
    out: Path,
    weights: str | None,
    detections: Path | None,
    format: str,
    split: str,
    images: Path | None,
    corrections: Path | None,
    mpp: str,
    device: str,
    colour: str,
    overwrite: bool,
) -> None:
    """Cut the white cells of DATA out into the folder OUT.

    Crops are square (in µm), centred, 1.3 times the longer side of the box, reflected at borders, at the resolution of
    their smear. OUT/crops.csv has one row a crop: file, smear, group, cluster, split, class of the smear, label, cell
    type, box, score, µm/px.

    Without --weights or --detections the boxes of the truth are cut out. With one of them, what is found: it takes the
    label of the annotated cell it matches (IoU 0.5); "not a cell" where all white cells are annotated and none
    matches; no label where nobody annotated the smear.

    \b
    Examples:
      blastdet crops bccd crops/bccd --split train
      blastdet crops all_fields crops/all_fields --weights default --colour canonical

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.cli._progress import file_reporter
    from blastdet.cli.evaluate import Asked, from_file, from_model, read_datasets
    from blastdet.crop_table import RECORD, found_cells, true_cells, write_crops
    from blastdet.errors import ConfigError
    from blastdet.formats.convert import new_folder

    if weights and detections:
        raise ConfigError("--weights and --detections: both found, one at most expected")
    chosen = (weights,) if weights else ()
    asked = Asked(data, format, split, chosen, (), out, images, None, corrections, mpp, device, None, 500)
    dataset = read_datasets(asked)[-1]
    if weights:
        cells = found_cells(dataset, from_model(weights, dataset, asked))
    elif detections:
        cells = found_cells(dataset, from_file(detections, dataset, None))
    else:
        cells = true_cells(dataset)
    with new_folder(out, overwrite, RECORD) as folder, file_reporter(len(dataset), "cutting") as step:
        rows = write_crops(dataset, cells, folder, colour, step)
    kinds = Counter(row.label or f"unknown ({row.smear_label or 'no label'})" for row in rows)
    click.echo(f"read     {dataset.name}: {len(dataset)} pictures")
    click.echo(f"crops    {len(rows)}: " + (", ".join(f"{name} {n}" for name, n in sorted(kinds.items())) or "none"))
    click.echo(f"wrote    {out}")
