"""``blastdet detect``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blastdet.cli._options import Number
from blastdet.cli._printing import echo, echo_line

if TYPE_CHECKING:
    from blastdet.inference.outputs.run_totals import RunTotals

_FORMATS = ("json", "csv", "coco", "geojson", "overlay", "xlsx", "html", "pdf")


def parse_mpp(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """The option ``--mpp`` of a command that reads images."""
    from blastdet.core.mpp import parse_mpp

    return parse_mpp(value, "--mpp")


def _parse_formats(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(kind.strip() for kind in value.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in _FORMATS]
    if unknown or not kinds:
        raise click.BadParameter(f"expected some of {', '.join(_FORMATS)}, got {', '.join(unknown) or 'nothing'}.")
    return kinds


def parse_paths(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[Path, ...]:
    """The argument ``PATHS``."""
    if not all(value):
        raise click.BadParameter("expected a file, a pattern or a folder, got an empty path.")
    return tuple(Path(path) for path in value)


@click.command("detect")
@click.argument("paths", nargs=-1, required=True, callback=parse_paths)
@click.option("--weights", default="default", show_default=True, help="Name of a shipped model, or a weights folder.")
@click.option(
    "--mpp",
    callback=parse_mpp,
    metavar="X[,Y]|auto",
    help="Scale of the images in µm per pixel. [default: as the file states, else measured]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="blastdet-out", show_default=True, help="Output folder."
)
@click.option(
    "--format",
    "formats",
    callback=_parse_formats,
    default="json,csv,overlay,xlsx,html",
    show_default=True,
    help="Output formats: any of json, csv, coco, geojson, overlay, xlsx, html, pdf.",
)
@click.option("--min-score", type=Number(0, 1), help="Lowest score in the COCO file; see above.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run in --out; finished images are skipped.")
@click.option("--overwrite", is_flag=True, help="Remove the results of an earlier run in --out first.")
@click.option(
    "--hide",
    "hidden",
    multiple=True,
    type=click.Choice(["blast", "wbc", "unsure", "erythroblast", "smudge", "rbc", "platelet"]),
    help="Do not draw what the table counts under this name, in overlays and PDF; the page starts without it. "
    "wbc: white cells of any type that are neither blasts nor uncertain. Repeatable.",
)
@click.option("--verbose", "detail", flag_value="verbose", help="Print everything of each image.")
@click.option("--quiet", "detail", flag_value="quiet", help="Print only what failed.")
@click.option(
    "--server",
    metavar="URL",
    help="Have a service do it, see blastdet serve; BLASTDET_TOKEN is a token of the scope write. "
    "Without --mpp it measures each image alone, where a run here measures images of one size together.",
)
@click.option("--jobs", "at_once", type=click.IntRange(1), help="Images at a time. [default: one per core, at most 4]")
def command(
    paths: tuple[Path, ...],
    out: Path,
    weights: str,
    device: str,
    resume: bool,
    overwrite: bool,
    server: str | None,
    **settings: Any,
) -> None:
    """Detect and count all nucleated cells, red cells and platelets on smear images, and classify blasts.

    PATHS are image files, patterns or folders (searched with all subfolders).

    \b
    Examples:
      blastdet detect smear.jpg
      blastdet detect fields/ --mpp 0.1 --format coco,overlay --out results

    Images are resampled to the model's µm per pixel. Without --mpp the scale is read from the file, or measured on
    the red cells, which are assumed to be 7.5 µm wide. If neither is possible, the image is refused: pass --mpp.

    A box counts as a cell if its score reaches the operating threshold of the model card. A higher --min-score raises
    that threshold. A lower one only adds boxes to the COCO file (0.01 gives the whole precision-recall curve).

    If the weights name a second stage, each white cell gets a blast probability, and the smear its fraction of blasts
    with a 95 % interval. Cells that the classifier cannot decide on are counted as unsure. A second stage that tells
    cell types apart also gives each cell its type.

    Printed: a line for each image, then for the run the cells of each class, per mm² and per 0.038 mm² (one field of a
    100x objective), and with a second stage the differential: white cells by type with 95 % intervals. --verbose prints
    all that for each image.

    Written for the run: summary.csv (a row for each image) and cells.csv with csv, summary.xlsx with xlsx,
    and index.html with html: a page with the differential, a gallery of the white cells and the images, which also
    corrects cells and exports the corrections. pdf is a report of one page for each image.

    Exit codes: 0 success, 1 some files failed (the others are done), 2 bad input or usage.
    """
    if resume and overwrite:
        raise click.UsageError("expected --resume or --overwrite, got both.")
    if server is not None:
        if resume or settings["hidden"]:
            raise click.UsageError("expected no --resume and no --hide with --server.")
        run_remotely(paths, server, RunSettings(out, weights, device, overwrite, **settings))
        return
    run_detection(paths, RunSettings(out, weights, device, overwrite, resume=resume, **settings))


@dataclass(frozen=True)
class RunSettings:
    """Options of a command that runs a model on images and writes files."""

    out: Path
    weights: str = "default"
    device: str = "auto"
    overwrite: bool = False
    resume: bool = False
    mpp: Any = None
    min_score: float | None = None
    formats: tuple[str, ...] = ()
    detail: Any = None
    at_once: int | None = None
    hidden: tuple[str, ...] = ()


def run_remotely(paths: tuple[Path, ...], server: str, settings: RunSettings) -> None:
    """Have a service analyze images, print, and exit with 1 or 2 if some fail."""
    from blastdet.inference.outputs.jobs import find_jobs, left_out
    from blastdet.inference.outputs.printed import Lines, Printer
    from blastdet.service.client import Client
    from blastdet.service.remote_detection import RemoteOutcome, RemoteRun, detect_remotely

    jobs = find_jobs(paths, settings.out)
    if line := left_out(paths, jobs, settings.out):
        echo(line, err=True)
    options = {"weights": settings.weights, "mpp": settings.mpp, "min_score": settings.min_score}
    outcomes: list[RemoteOutcome] = []
    printer = Printer(_say, partial(echo_line, err=True), settings.detail or "brief")
    with Client(server, waiting=partial(echo, err=True)) as client:

        def finished(totals: RunTotals, files: Sequence[Path]) -> None:
            printer.end(totals, files, len(jobs), outcomes[-1].untried)

        run = RemoteRun(client, settings.out, settings.formats, options, settings.overwrite, finished)
        for outcome in detect_remotely(jobs, run):
            outcomes.append(outcome)
            if (alone := outcome.totals) is not None and printer.lines is None:
                names = [job.name for job in jobs]
                printer.lines = Lines(names, alone.classes, alone.classifier is not None)
            printer.image(outcome.text, outcome.error or None, None if alone is None else alone.entries[0])
    failed = sum(bool(one.error) for one in outcomes)
    if "pdf" in settings.formats and not settings.detail and failed < len(outcomes):
        echo(f"wrote a PDF report for each image, in {settings.out}")
    if failed:
        sys.exit(2 if failed == len(outcomes) == 1 else 1)


def _say(text: str) -> None:
    """Print lines in which there may be words of a service."""
    for line in text.split("\n"):
        echo_line(line)


def run_detection(paths: tuple[Path, ...], settings: RunSettings) -> None:
    """Run a model on images, print, and exit with 1 or 2 if some fail."""
    from blastdet.cli._progress import file_reporter
    from blastdet.core.packages import require
    from blastdet.core.parallel import workers
    from blastdet.inference.batch import Batch, Output
    from blastdet.inference.model import Options, load
    from blastdet.inference.outputs.jobs import find_jobs, left_out
    from blastdet.inference.outputs.printed import Lines, Printer

    if "pdf" in settings.formats:  # once, before anything is computed, not for every image
        require("evaluate", "matplotlib")
    existing: Any = "resume" if settings.resume else "overwrite" if settings.overwrite else "refuse"
    output = Output(settings.out, settings.formats, existing, settings.at_once or workers(), settings.hidden)
    options = Options(settings.mpp, settings.min_score)
    jobs = find_jobs(paths, settings.out)
    if line := left_out(paths, jobs, settings.out):
        echo(line, err=True)
    with closing(Batch(jobs, load(settings.weights, settings.device), options, output)) as batch:
        lines = Lines([job.name for job in jobs], batch.model.classes, batch.model.classifier is not None)
        printer = Printer(echo, partial(echo, err=True), settings.detail or "brief", lines)
        with file_reporter(len(jobs), "images") as step:
            for outcome in batch:
                printer.image(outcome.text, outcome.error, outcome.entry)
                step()
        for line in (*batch.redone_notes(), *batch.scale_notes()) if settings.detail != "quiet" else ():
            echo(line)
        printer.end(*batch.finish(), len(jobs))
        failed = len(batch.failed)
        if "pdf" in settings.formats and not settings.detail and failed < len(jobs):
            echo(f"wrote a PDF report for each image, in {settings.out}")
    if failed:
        sys.exit(2 if failed == len(jobs) == 1 else 1)
