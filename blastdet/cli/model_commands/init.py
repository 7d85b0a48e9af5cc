"""``blastdet init``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import Mpp, reading_options
from blastdet.cli._printing import echo


@click.command("init", short_help="write a commented training configuration for your images")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: NAME.yaml]")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@click.option("--from", "format", default="auto", show_default=True, help="Format of DATA.")
@reading_options
@click.option("--mpp", type=Mpp(), help="µm per pixel of the images. [default: as the dataset states, else measured]")
def command(data: tuple[Path, ...], out: Path | None, overwrite: bool, **reading: Any) -> None:
    """Write a commented configuration that fine-tunes the shipped detector on DATA.

    \b
    blastdet init my-cells
    blastdet train my-cells.yaml
    blastdet detect smear.jpg --weights runs/my-cells/weights

    DATA are folders or files of annotated images, in any format that `blastdet convert` reads. Comments say what they
    contain, and what each setting does. An existing file is replaced only with --overwrite.

    Exit codes: 0 written, 2 bad input, or a file that exists.
    """
    from blastdet.core.atomic_io import check_names, refuse_existing, write_text
    from blastdet.training.starting_config import starting_config

    text = starting_config(data, **{name: value for name, value in reading.items() if value is not None})
    path = out or Path(f"{data[0].absolute().stem}.yaml")
    check_names(path)
    refuse_existing([path], overwrite)
    write_text(path, text)
    echo(f"wrote {path}. Train with: blastdet train {path}")
