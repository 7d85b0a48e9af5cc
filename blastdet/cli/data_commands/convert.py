"""``blastdet convert``: any known data set to COCO, YOLO, CSV or GeoJSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blastdet.cli._options import Number

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("src", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--from", "format_", default="auto", show_default=True, help="Format of SRC (bccd, allidb1, coco, ...).")
@click.option("--to", multiple=True, help="coco, yolo, csv or geojson; may be repeated.  [default: coco]")
@click.option("--split", help="official, official-disjoint, grouped, or a CSV file image,split.")
@click.option("--map", "map_", multiple=True, metavar="NAME=CLASS", help="What a foreign class is; may be repeated.")
@click.option("--mpp", type=Number(0, min_open=True), help="Resample every picture to this many µm/px.")
@click.option("--source-mpp", metavar="X[,Y]", help="µm/px of the pictures as they are, where the set does not say.")
@click.option("--boxes", help="Boxes where nobody drew any: segment; for ALL-IDB1's centroids fixed or none, too.")
@click.option("--size-um", type=Number(0, min_open=True), help="Side of a fixed box, µm.")
@click.option("--other", type=_PATH, help="Folder with ALL-IDB1's centroids of the other white cells.")
@click.option("--origin", type=click.IntRange(0, 1), help="Number of the first pixel in centroid files.")
@click.option("--corrections", type=_PATH, help="Corrections of the annotations, JSON Lines.")
@click.option("--link/--copy", "link", default=False, help="Link pictures instead of copying them.  [default: copy]")
@click.option("--overwrite", is_flag=True, help="Replace OUT if an earlier convert wrote it.")
def command(
    src: Path,
    out: Path,
    format_: str,
    to: tuple[str, ...],
    split: str | None,
    map_: tuple[str, ...],
    mpp: float | None,
    source_mpp: str | None,
    boxes: str | None,
    size_um: float | None,
    other: Path | None,
    origin: int | None,
    corrections: Path | None,
    link: bool,
    overwrite: bool,
) -> None:
    """Convert the data set SRC into the folder OUT.

    Pictures go to OUT/images/<split>/ byte for byte unless --mpp resamples them. Prints what was read, dropped, noted
    and written. OUT appears only when everything is in it.

    --boxes segment draws the boxes of a set that has none, origin "segment": around each point where the set has
    points, else around every nucleated cell that segmentation finds, as wbc. The scale is the set's, --source-mpp, or
    that of the red cells in the picture; a picture that tells none is named and left without boxes. A score against
    such boxes is no average precision.

    A link may lead a training program that repairs pictures in place to the source: the default is a copy.

    \b
    Examples:
      blastdet convert bccd out --to coco --to yolo --split official-disjoint
      blastdet convert ALL_IDB1 out --boxes fixed --size-um 15 --other other/
      blastdet convert all_fields out --boxes segment
      blastdet convert bccd small --to yolo --mpp 0.25

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    from blastdet.cli._progress import count_reporter
    from blastdet.datasets.convert import Job, convert

    reader = {
        "class_map": _parse_map(map_),
        "mpp": None if source_mpp is None else _parse_mpp(source_mpp),
        "size_um": size_um,
        "other": other,
        "origin": origin,
    }
    job = Job(
        source=src,
        out=out,
        to=to or ("coco",),
        format=format_,
        split=split,
        mpp=mpp,
        boxes=boxes,
        corrections=corrections,
        how="link" if link else "copy",
        overwrite=overwrite,
        reader={key: value for key, value in reader.items() if value is not None},
    )
    with count_reporter("drawing") as step:
        dataset = convert(job, step)
    _print(dataset, job.to, out)


def _parse_map(pairs: tuple[str, ...]) -> dict[str, str] | None:
    from blastdet.core.errors import ConfigError
    from blastdet.datasets.formats.class_names import check_class_map

    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--map {pair}: NAME=CLASS expected")
    return dict(check_class_map(dict(pair.rsplit("=", 1) for pair in pairs))) or None


def _parse_mpp(text: str) -> tuple[float, float]:
    from blastdet.core.errors import ScaleError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(0.001 <= v < 100 for v in values):
        raise ScaleError(f"--source-mpp {text}: X[,Y] expected, 0.001 to 100 µm/px")
    return values[0], values[-1]


def _print(dataset: Any, to: tuple[str, ...], out: Path) -> None:
    from blastdet.datasets.convert import counts

    number = counts(dataset)
    splits = ", ".join(f"{name} {n}" for name, n in number["splits"].items())
    cells = ", ".join(f"{name} {n}" for name, n in number["cells"].items())
    click.echo(f"read     {dataset.name}: {number['pictures']} pictures ({splits})")
    click.echo(f"cells    {cells or 'none'}" + (f"; {number['ignored']} to be ignored" if number["ignored"] else ""))
    drawn = {name: n for name, n in number["boxes"].items() if name in ("segment", "fixed")}
    if drawn or number["cells_without_box"]:
        origins = ", ".join(f"{name} {n}" for name, n in drawn.items()) or "none"
        left = f"{number['cells_without_box']} cells and {number['not_annotated']} pictures without a box"
        click.echo(f"drawn    {origins}; left: {left}")
    for line in dataset.dropped:
        click.echo(f"dropped  {line}")
    for line in dataset.notes:
        click.echo(f"note     {line}")
    click.echo(f"wrote    {out}: images, {', '.join(to)}")
