"""``blastdet detect``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from blastdet.cli._options import Number

if TYPE_CHECKING:
    from blastdet.core.types import Scale
    from blastdet.inference.batch import Outcome


def _parse_mpp(ctx: click.Context, param: click.Parameter, value: str | None) -> Scale | Literal["auto"] | None:
    if value is None or value == "auto":
        return value  # type: ignore[return-value]
    try:
        sides = [float(side) for side in value.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise click.BadParameter(f"{value} found; a number, two numbers X,Y or auto expected")
    return sides[0], sides[-1]


def _parse_formats(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    known = ("json", "csv", "coco", "geojson", "overlay")
    kinds = tuple(kind.strip() for kind in value.split(",") if kind.strip())
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'} found; some of {', '.join(known)} expected")
    return kinds


def _parse_paths(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[Path, ...]:
    if not all(value):
        raise click.BadParameter("an empty path found; a file, a pattern or a folder expected")
    return tuple(Path(path) for path in value)


@click.command("detect", short_help="find and count the cells of smears, and the blasts among them")
@click.argument("paths", nargs=-1, required=True, callback=_parse_paths)
@click.option("--weights", default="default", show_default=True, help="Shipped model's name, or a weights folder.")
@click.option("--mpp", callback=_parse_mpp, metavar="X[,Y]|auto", help="µm per pixel; default: the file's, else auto.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="blastdet-out", show_default=True, help="Output folder."
)
@click.option(
    "--format",
    "formats",
    callback=_parse_formats,
    default="json,csv,overlay",
    show_default=True,
    help="Any of json, csv, coco, geojson, overlay.",
)
@click.option("--min-score", type=Number(0, 1), help="Lowest score in the COCO file; see below.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--resume", is_flag=True, help="Skip smears that an equal run in --out has done.")
@click.option("--jobs", "at_once", type=click.IntRange(1), help="Smears at a time. [default: cores, 4 at most]")
def command(
    paths: tuple[Path, ...],
    out: Path,
    weights: str,
    device: str,
    mpp: Scale | Literal["auto"] | None,
    min_score: float | None,
    **settings: Any,
) -> None:
    """Find every nucleated cell (and red cells and platelets) on smear images, count them, and say which are blasts.

    PATHS are files, patterns or folders (with all below).

    \b
    blastdet detect smear.jpg
    blastdet detect fields/ --mpp 0.1 --format coco,overlay --out results

    The picture is resampled to the model's µm per pixel. Without --mpp the scale is taken from the file, or
    measured: red cells are 7.5 µm wide. Where neither tells, the smear is refused: give --mpp.

    A box counts as a cell from the operating threshold of the weights' card on. A --min-score above that raises it;
    one below it only lets the COCO file list more boxes (0.01 gives the whole precision-recall curve).

    Where the weights name a second stage, each white cell gets a blast probability, and the smear its share of blasts
    with what is uncertain about it: how few cells were counted, which cells are unsure, and how often the model errs.

    Printed: cells of each class, per mm², and per 0.038 mm² (one field through a 100x objective).

    Exit codes: 0 all done, 1 some files failed (the others are done), 2 bad input or usage.
    """
    from blastdet.cli._progress import file_reporter
    from blastdet.core.parallel import workers
    from blastdet.inference.batch import Batch, find_jobs
    from blastdet.inference.pipeline import Options, load_models

    settings["at_once"] = settings["at_once"] or workers()
    jobs = find_jobs(paths, out)
    batch = Batch(jobs, out, load_models(weights, device), Options(mpp, min_score), **settings)
    with file_reporter(len(jobs), "smears") as done:
        for outcome in batch:
            _say(outcome)
            done()
    failed = batch.finish(click.echo)
    if failed:
        sys.exit(2 if failed == len(jobs) == 1 else 1)


def _say(outcome: Outcome) -> None:
    click.echo(outcome.line, err=outcome.failed)
