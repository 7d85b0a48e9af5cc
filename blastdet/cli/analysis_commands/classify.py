"""``blastdet classify``."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import Number
from blastdet.cli._printing import echo
from blastdet.cli.analysis_commands.detect import parse_mpp, parse_paths


@click.command("classify")
@click.argument("paths", nargs=-1, required=True, callback=parse_paths)
@click.option(
    "--weights",
    default="default",
    show_default=True,
    help="A model with a second stage, or a classifier: name or folder.",
)
@click.option(
    "--mpp",
    callback=parse_mpp,
    metavar="X[,Y]|auto",
    help="Scale of the images in µm per pixel. [default: as the dataset or the file states, else measured]",
)
@click.option(
    "--cell-um",
    type=Number(0, min_open=True),
    metavar="UM",
    help="Usual width of these cells in µm, for cells on plain ground whose scale is unknown.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="blastdet-cells", show_default=True, help="Output folder."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run in --out; finished images are skipped.")
@click.option("--overwrite", is_flag=True, help="Remove the results of an earlier run in --out first.")
def command(paths: tuple[Path, ...], out: Path, resume: bool, overwrite: bool, **settings: Any) -> None:
    """Classify images that show one cell each, by the second stage of `blastdet detect`.

    PATHS are image files, patterns, folders (searched with all subfolders), or names of datasets. For smears, use
    `blastdet detect`.

    \b
    Examples:
      blastdet classify cells/
      blastdet classify cells/ --mpp 0.1 --out results
      blastdet classify cnmc2019 --cell-um 12.5

    The cell is the one on plain black or white ground, else the detected nucleated cell in the centre, else the middle
    of the image (with a note).

    Without --mpp the scale is what the dataset or the file states, else it is measured on the red cells around. A cell
    on plain ground shows none: such an image is refused without --mpp or --cell-um, because a wrong scale makes a
    lymphocyte look like a blast.

    Written: cells.csv (one row for each image: type, blast probability, whether unsure and why, probability of each
    type, box, scale, note) and gallery.html (all cells on one page, the doubtful ones first).

    Exit codes: 0 success, 1 some files failed (the others are done), 2 bad input or usage. Research use only.
    """
    from blastdet.cli._progress import phase_reporter
    from blastdet.inference.single_cells.cell_run import CellRun
    from blastdet.inference.single_cells.cell_scale import CellOptions
    from blastdet.inference.single_cells.classification import load_cell_model

    if resume and overwrite:
        raise click.UsageError("expected --resume or --overwrite, got both.")
    existing: Any = "resume" if resume else "overwrite" if overwrite else "refuse"
    options = CellOptions(settings["mpp"], settings["cell_um"])
    model = load_cell_model(settings["weights"], settings["device"])
    with closing(CellRun(paths, model, options, out, existing)) as run:
        if run.left_out:
            echo(run.left_out, err=True)
        with phase_reporter() as step:
            for _ in run.classify(step):
                pass
        failed = run.finish(echo, lambda line: echo(line, err=True))
    if failed:
        sys.exit(2 if failed == len(run.images) else 1)
