"""``blastdet convert``: any known dataset to COCO, YOLO, CSV or GeoJSON."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import Mpp, Number, reading_options, renamed
from blastdet.cli._printing import echo, echo_line

_PATH = click.Path(path_type=Path)
_CHANGES = ("split", "boxes", "resample", "link")
"""Fields of `ConvertOptions`; the other options say how the dataset is read."""

_TO = "coco, yolo, csv, geojson, cvat or labelstudio. Repeatable.  [default: coco]"
_MPP = f"{__name__}.mpp"
"""Key of `click.Context.meta`: what the user typed after --mpp."""


class _Command(renamed(source_mpp="mpp")):  # type: ignore[misc]
    """Up to version 0.1 --mpp resampled, and the scale of the images was --source-mpp."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        typed = dict(pairwise(args)) | dict(word.split("=", 1) for word in args if "=" in word)
        if "--mpp" in typed:
            ctx.meta[_MPP] = typed["--mpp"]
            if "--source-mpp" in typed:
                raise click.UsageError("--source-mpp is now --mpp, and --mpp that resampled is now --resample.", ctx)
        rest: list[str] = super().parse_args(ctx, args)
        return rest


@click.command(cls=_Command)
@click.argument("src", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--from", "format_", default="auto", show_default=True, help="Format of SRC (bccd, allidb1, coco, ...).")
@click.option("--to", "--format", "to", multiple=True, help=_TO)
@click.option("--split", help="official, official-disjoint, grouped, or a CSV file with the columns image,split.")
@reading_options
@click.option("--mpp", type=Mpp(), help="µm per pixel of the images, instead of what the dataset states.")
@click.option("--resample", type=Number(0, min_open=True), help="Resample all images to this many µm per pixel.")
@click.option("--boxes", help="Draw missing boxes: segment, or for the centroids of ALL-IDB1 also fixed or none.")
@click.option("--size-um", type=Number(0, min_open=True), help="ALL-IDB1: side of a fixed box in µm.")
@click.option("--other", type=_PATH, help="ALL-IDB1: folder with the centroids of the other white cells.")
@click.option("--origin", type=click.IntRange(0, 1), help="ALL-IDB1: number of the first pixel in centroid files.")
@click.option("--corrections", type=_PATH, help="Corrections of the annotations, JSON Lines.")
@click.option("--link/--copy", "link", default=False, help="Link images instead of copying them.  [default: copy]")
@click.option("--overwrite", is_flag=True, help="Replace OUT if an earlier convert wrote it.")
def command(src: Path, out: Path, to: tuple[str, ...], format_: str, **options: Any) -> None:
    """Convert the dataset SRC to the folder OUT.

    SRC is a folder, a file, or the name of an installed dataset such as bccd. Images are copied to
    OUT/images/<split>/ byte for byte, unless --resample changes their scale. The command prints what was read, dropped,
    noted and written. OUT appears only when it is complete.

    --boxes segment draws missing boxes, with origin "segment": around each point if the dataset has points, otherwise
    around every nucleated cell that segmentation finds, as class wbc. The scale is that of the dataset, --mpp, or an
    estimate from the red cells. Images whose scale cannot be estimated are listed and stay without boxes. Average
    precision against such boxes is not comparable with published values.

    Copies are the default because some training programs repair images in place, and would change the source through
    a link.

    \b
    Examples:
      blastdet convert bccd out --to coco --to yolo --split official-disjoint
      blastdet convert ALL_IDB1 out --boxes fixed --size-um 15 --other other/
      blastdet convert all_fields out --boxes segment
      blastdet convert bccd small --to yolo --resample 0.25
      blastdet convert my-images out --from coco --mpp 0.1 --map Leukocyte=wbc
      blastdet convert export.zip out --images photos --annotated blast
      blastdet convert results to-correct --to labelstudio

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.cli._progress import count_reporter
    from blastdet.datasets.convert import ConvertOptions, convert

    to = to or ("coco",)
    typed = click.get_current_context().meta.get(_MPP)
    overwrite, changes = options.pop("overwrite"), {name: options.pop(name) for name in _CHANGES}
    reading = {"format": format_, **{name: options.pop(name) for name in ("images", "class_map", "annotated")}}
    if typed is not None and changes["resample"] is None:
        _refuse_old_mpp(src, typed, **reading)
    how = ConvertOptions({**reading, **options}, **changes)
    with count_reporter("drawing boxes") as step:
        dataset = convert(src, out, to, overwrite=overwrite, options=how, progress=step)
    _print(dataset, to, out)


def _refuse_old_mpp(src: Path, typed: str, **reading: Any) -> None:
    """Refuse ``--mpp X`` where it used to resample: a single number, and a dataset that states its scale."""
    from blastdet.core.errors import ConfigError
    from blastdet.datasets.reading import read_dataset

    if "," not in typed and all(sample.mpp is not None for sample in read_dataset(src, **reading)):
        raise ConfigError(
            f"--mpp {typed}: --mpp is now the scale of the images, and {src} states its scale already. "
            f"To resample the images, use --resample {typed}. To replace the scale, use --mpp {typed},{typed}"
        )


def _print(dataset: Any, to: tuple[str, ...], out: Path) -> None:
    from blastdet.core.errors import counted
    from blastdet.datasets.convert import counts

    number = counts(dataset)
    splits = ", ".join(f"{name} {n}" for name, n in number["splits"].items()).replace("no split", "without a split")
    cells = ", ".join(f"{name} {n}" for name, n in number["cells"].items())
    echo(f"read     {dataset.name}: {counted(number['pictures'], 'image')} ({splits})")
    echo(f"cells    {cells or 'none'}" + (f"; {number['ignored']} ignored" if number["ignored"] else ""))
    drawn = {name: n for name, n in number["boxes"].items() if name in ("segment", "fixed")}
    if drawn or number["cells_without_box"]:
        origins = ", ".join(f"{name} {n}" for name, n in drawn.items()) or "none"
        cells, images = counted(number["cells_without_box"], "cell"), counted(number["not_annotated"], "image")
        left = f"{cells} and {images} without a box"
        echo(f"drawn    {origins}; left: {left}")
    for line in dataset.dropped:
        echo_line(f"dropped  {line}")
    for line in dataset.notes:
        echo_line(f"note     {line}")
    echo(f"wrote    {out}: images, {', '.join(to)}")
