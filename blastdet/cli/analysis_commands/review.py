"""``blastdet review``: show the errors of a model, correct cells, export the corrected dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from blastdet.cli._options import Mpp, Number, reading_options, renamed
from blastdet.cli._printing import echo, echo_notes
from blastdet.cli.analysis_commands.detect import RunSettings, parse_mpp, parse_paths, run_detection

if TYPE_CHECKING:
    from blastdet.core.types import Dataset
    from blastdet.evaluation.predict import Predictions
    from blastdet.review.review import Review

_PATH = click.Path(path_type=Path)


class _Group(renamed(click.Group, format="from")):  # type: ignore[misc]
    """What is no command is a folder of images without labels: ``blastdet review FOLDER``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word; without one, `images` with all words."""
        if self.get_command(ctx, args[0]) is None:
            return "images", self.commands["images"], args
        found: tuple[str | None, click.Command | None, list[str]] = super().resolve_command(ctx, args)
        return found


@click.group(
    cls=cast("type[click.Group]", _Group), invoke_without_command=True, subcommand_metavar="[FOLDER | export] [ARGS]..."
)
@click.option("--data", type=_PATH, help="Dataset: name (bccd), folder, JSON or YAML file.")
@click.option("--from", "format", default="auto", show_default=True, help="Format of the dataset.")
@click.option("--split", default="all", show_default=True, help="train, val, test, or all.")
@click.option("--weights", help="Name of a shipped model, or a weights folder.")
@click.option("--detections", type=_PATH, help="COCO results (JSON), instead of a model.")
@click.option("--html", type=_PATH, help="Write a review page to this folder instead of starting a session.")
@click.option("--suggest", type=click.IntRange(1), help="List this many unlabelled images to label next.")
@click.option(
    "--out", type=_PATH, default="corrections.jsonl", show_default=True, help="Session: file for the corrections."
)
@click.option("--name", help="Session: name of the dataset in FiftyOne. [default: made from dataset and time]")
@click.option(
    "--port",
    type=click.IntRange(1024, 65535),
    default=5151,
    show_default=True,
    help="Session: port of FiftyOne.",
)
@click.option("--no-browser", is_flag=True, help="Session: do not open a browser.")
@click.option("--database-uri", help="Session: address of a MongoDB server (mongodb://...). [default: FiftyOne's own]")
@reading_options
@click.option("--corrections", type=_PATH, help="Apply these corrections to the annotations first (JSON Lines).")
@click.option("--mpp", type=Mpp("data", "auto"), default="data", show_default=True, help="µm per pixel of the images.")
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
@click.option("--threshold", type=Number(0, 1), help="Operating score. [default: the card's; 0.5 for files]")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Show every error of a model, correct cells, and export the corrected dataset.

    Starts a FiftyOne session in the browser, on this machine only. It shows images, annotations and detections, and has
    a saved view for each kind of error. To correct cells, tag them with fix:blast, fix:wbc, fix:rbc, fix:platelet,
    fix:ignore, fix:delete or ok, or open an image and edit its boxes under Annotate. Corrections are written to --out
    every few seconds. Press Ctrl-C to end the session; start it with the same --name to continue.

    --html writes a page that needs no server, no database and no network. It has the same views and lets you relabel,
    move, draw and delete boxes. Its Export button saves corrections.jsonl. `blastdet review export` applies corrections
    from either source to the dataset.

    With a FOLDER of images without labels, the page shows what the model finds there; its corrections, with
    Confirm image, are labels: `blastdet review export --data FOLDER --from images` writes them as a dataset.

    \b
    Examples:
      blastdet review fields/ --html review
      blastdet review --data bccd --split val --weights default
      blastdet review --data bccd --split val --weights default --html review
      blastdet review export --data bccd --corrections corrections.jsonl --to coco bccd-corrected
      blastdet review --data new-fields --from images --weights default --suggest 50

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    from blastdet.core.errors import ConfigError
    from blastdet.core.packages import require

    if options["data"] is None:
        raise ConfigError("--data: expected a dataset, got none")
    if (options["weights"] is None) == (options["detections"] is None):
        raise ConfigError("expected either --weights or --detections")
    require("evaluate", "pycocotools", "scipy")
    from blastdet.review.fiftyone_session import SessionOptions
    from blastdet.review.page import check_page

    session = SessionOptions(options["name"], options["port"], not options["no_browser"], options["database_uri"])
    out, html, n_suggestions = options["out"], options["html"], options["suggest"]
    is_session = html is None and n_suggestions is None
    if is_session:
        require("review", "fiftyone")
        session.check(out)
    if html is not None:
        check_page(html)
    dataset, predictions = _read(options)
    if n_suggestions is not None:
        _suggest(dataset, predictions, n_suggestions)
    if html is not None:
        _page(_review(dataset, predictions, options), html)
    if is_session:
        from blastdet.cli._progress import file_reporter
        from blastdet.review.fiftyone_session import run_session

        review = _review(dataset, predictions, options)
        with file_reporter(len(dataset), "loading") as step:
            run_session(review, out, session, echo, step)


@command.command("images", hidden=True, short_help="Show what a model finds on images without labels.")
@click.argument("paths", nargs=-1, required=True, callback=parse_paths)
@click.option("--weights", default="default", show_default=True, help="Name of a shipped model, or a weights folder.")
@click.option("--mpp", callback=parse_mpp, metavar="X[,Y]|auto", help="Scale of the images in µm per pixel.")
@click.option(
    "--html", "--out", "out", type=_PATH, default="blastdet-review", show_default=True, help="Folder of the page."
)
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run in that folder.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier page in that folder.")
def images(paths: tuple[Path, ...], **options: Any) -> None:
    """Write a page that shows and corrects what a model finds on images without labels.

    \b
    Example:
      blastdet review fields/ --html review

    Exit codes: 0 done, 1 some files failed, 2 bad input.
    """
    if options["resume"] and options["overwrite"]:
        raise click.UsageError("expected --resume or --overwrite, got both.")
    run_detection(paths, RunSettings(**options, formats=("html",)))


@command.command("export", short_help="Apply corrections to a dataset and write it to a folder.")
@click.option("--data", required=True, type=_PATH, help="Dataset that was reviewed.")
@click.option("--corrections", required=True, type=_PATH, multiple=True, help="Corrections, JSON Lines. Repeatable.")
@click.option("--to", "kinds", multiple=True, default=("coco",), show_default=True, help="coco or yolo. Repeatable.")
@click.option("--from", "format", default="auto", show_default=True, help="Format of the dataset.")
@reading_options
@click.option("--mpp", type=Mpp(), help="µm per pixel of all images. [default: as the review was given]")
@click.option("--overwrite", is_flag=True, help="Replace a folder that an export wrote.")
@click.argument("out", type=_PATH)
def export(
    data: Path,
    corrections: tuple[Path, ...],
    kinds: tuple[str, ...],
    overwrite: bool,
    out: Path,
    **reading: Any,
) -> None:
    """Apply corrections to a dataset and write it to the folder OUT, with all corrections in corrections.jsonl.

    A cell is identified by the sha256 of its image and its first box, so corrections apply wherever the images are
    stored. Applying a file twice changes nothing. Images have the --mpp that their review was given.
    `blastdet train --data OUT` trains on the result.

    Exit codes: 0 written, 2 bad input.
    """
    from blastdet.review.corrected_dataset import export_corrected

    summary = export_corrected(data, corrections, out, formats=kinds, overwrite=overwrite, **reading)
    for line in summary.notes:
        echo(f"note     {line}")
    echo(f"cells    {summary.n_before} before review, {summary.n_after} after")
    for what, number in sorted(summary.counts.items()):
        echo(f"{number:>8} {what}")
    if summary.n_disagreements:
        echo(f"{summary.n_disagreements:>8} cells on which the files disagree; the latest correction counts")
    echo(f"wrote    {out}: {', '.join(dict.fromkeys(kinds))}, corrections.jsonl")


def _refuse_options_before(context: click.Context) -> None:
    for option in context.command.params:
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            name = context.invoked_subcommand
            raise click.UsageError(f"{option.opts[0]} before {name}: pass options of {name} after it")


def _read(options: dict[str, Any]) -> tuple[Dataset, Predictions]:
    """The dataset, corrected if there are --corrections, and the predictions."""
    from blastdet.cli.analysis_commands.evaluate import run_models
    from blastdet.evaluation.predict import read_datasets

    reading = ("format", "split", "images", "class_map", "annotated", "mpp")
    (dataset,) = read_datasets(options["data"], **{name: options[name] for name in reading})
    echo_notes(dataset)
    if options["corrections"] is not None:
        from blastdet.datasets.apply_corrections import apply_corrections

        corrected = apply_corrections(dataset, options["corrections"])
        for note in corrected.notes[len(dataset.notes) :] or (f"{options['corrections']}: nothing to correct",):
            echo(note)
        dataset = corrected
    models = {name: (options[name],) if options[name] else () for name in ("weights", "detections")}
    (predictions,) = run_models(dataset, options | models)
    return dataset, predictions


def _suggest(dataset: Dataset, predictions: Predictions, n: int) -> None:
    from blastdet.review.suggest import format_suggestions, suggest

    for line in format_suggestions(dataset, suggest(dataset, predictions, n)) or ["all images are labelled"]:
        echo(line)


def _review(dataset: Dataset, predictions: Predictions, options: dict[str, Any]) -> Review:
    """Annotations and predictions matched; if the model has a second stage, with its features."""
    from blastdet.cli._progress import file_reporter
    from blastdet.inference.model import load
    from blastdet.review.review import make_review

    classifier = load(options["weights"], options["device"]).classifier if options["weights"] else None
    with file_reporter(len(dataset), "second stage") as step:
        given = options["mpp"] if isinstance(options["mpp"], tuple) else None
        review = make_review(dataset, predictions, classifier, step, given)
    for title, number in review.counts().items():
        echo(f"{number:>6} {title}")
    return review


def _page(review: Review, folder: Path) -> None:
    from blastdet.cli._progress import file_reporter
    from blastdet.review.page import write_page

    with file_reporter(len(review.dataset), "page") as step:
        path = write_page(review, folder, step)
    echo(f"wrote {path}: open it in a browser")
