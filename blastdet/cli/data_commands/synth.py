"""Command ``blastdet synth``: draw synthetic smears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blastdet.cli._printing import echo


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--size",
    default="1600x1200",
    show_default=True,
    metavar="WxH",
    help="Width and height in pixels, up to a gigapixel.",
)
@click.option("--mpp", default=0.1, show_default=True, help="Micrometres per pixel, 0.04 to 1.")
@click.option("--palette", default="bccd", show_default=True, help="Stain: bccd, pbc, all, chula, or random.")
@click.option("--blasts", default=0.3, show_default=True, help="Fraction of white cells that are blasts, 0 to 1.")
@click.option("--n", default=1, show_default=True, type=click.IntRange(1), help="Number of images.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed gives the same images."
)
@click.option("--vary", is_flag=True, help="Give each image its own cell density, focus, brightness and noise.")
def command(out: Path, size: str, n: int, seed: int, vary: bool, **look: Any) -> None:
    """Draw synthetic smears with exact ground truth.

    OUT is a folder for smear.jpg (or smear_0000.jpg and so on) and truth.json, or an image file, with a .json file of
    the same name for the ground truth. The format is COCO with the classes blast, wbc, rbc and platelet; smudge cells
    are marked as ignored. Images above 50 megapixels, and OUT ending in .tif, are written as tiled BigTIFF files.

    \b
    Example:
      blastdet synth six --n 6 --palette random --vary
      blastdet synth slide.tif --size 20000x20000 --mpp 0.25

    Exit codes: 0 done, 2 bad input. Research use only: no diagnosis.
    """
    from blastdet.core.atomic_io import write_text
    from blastdet.core.errors import ConfigError
    from blastdet.datasets.annotations.files import check_replaced
    from blastdet.datasets.formats.coco_writer import document_pieces
    from blastdet.imaging.io import WRITTEN_SUFFIXES
    from blastdet.synth.draw_smears import draw_files, draw_smears
    from blastdet.synth.scene import configure

    is_file = out.suffix.lower() in WRITTEN_SUFFIXES
    config = configure(size_wh=_size(size), blast_fraction=look.pop("blasts"), **look)
    if is_file and n > 1:
        raise ConfigError(f"{out}: expected a folder with --n {n}, got an image file")
    truth = out.with_suffix(".json") if is_file else out / "truth.json"
    check_replaced(truth, "synthetic smears", "truth of synth")
    truth.parent.mkdir(parents=True, exist_ok=True)
    data = draw_files([out], config, seed, vary=vary) if is_file else draw_smears(out, n, config, seed=seed, vary=vary)
    write_text(truth, document_pieces(data))
    counts = [sample.truth.counts() for sample in data if sample.truth is not None]
    total = ", ".join(f"{sum(count[name] for count in counts)} {name}" for name in counts[0])
    echo(f"wrote {n} image{'s' if n > 1 else ''} to {truth.parent} and {truth}: {total}")


def _size(text: str) -> tuple[int, int]:
    from blastdet.core.errors import ConfigError

    width, _, height = text.lower().partition("x")
    if not all(side.isascii() and side.isdecimal() and len(side) < 12 for side in (width, height)):
        raise ConfigError(f"--size: expected WIDTHxHEIGHT in pixels, such as 2592x1944, got {text[:40]!r}")
    return int(width), int(height)
