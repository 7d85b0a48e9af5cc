"""``blastdet review``: look at errors, correct cells, carry corrections back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from blastdet.cli._options import Mpp, Number

if TYPE_CHECKING:
    from blastdet.core.types import Dataset
    from blastdet.evaluation.predict import Predictions
    from blastdet.review.fiftyone_dataset import Reviewed

_PATH = click.Path(path_type=Path)
RECORD = "review-export.json"
"""What `review export` leaves in a folder, so that it knows its own."""


@click.group(invoke_without_command=True)
@click.option("--data", type=_PATH, help="Data set: a folder, or its JSON or YAML file.")
@click.option("--format", default="auto", show_default=True, help="Format of the data set.")
@click.option("--split", default="all", show_default=True, help="train, val, test, or all.")
@click.option("--weights", help="A shipped model's name or a weights folder.")
@click.option("--detections", type=_PATH, help="COCO results, as JSON.")
@click.option("--html", type=_PATH, help="Write the review page into this folder, instead of a session.")
@click.option("--suggest", type=click.IntRange(1), help="List so many unlabelled smears worth labelling next.")
@click.option(
    "--out", type=_PATH, default="corrections.jsonl", show_default=True, help="Session: corrections go there."
)
@click.option("--name", help="Session: its name in FiftyOne's database. [default: made from data and time]")
@click.option("--port", type=click.IntRange(1024, 65535), default=5151, show_default=True, help="Session: of the App.")
@click.option("--no-browser", is_flag=True, help="Session: do not open a browser.")
@click.option("--database-uri", help="Session: a MongoDB of your own, mongodb://...; default: FiftyOne's embedded one.")
@click.option("--images", type=_PATH, help="COCO: folder of the pictures, where they lie elsewhere.")
@click.option("--corrections", type=_PATH, help="corrections.jsonl that is applied to the truth first.")
@click.option("--mpp", type=Mpp("data", "auto"), default="data", show_default=True, help="µm per pixel of the images.")
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda.")
@click.option("--threshold", type=Number(0, 1), help="Operating score. [default: the card's; 0.5 for files]")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """See every error of a model, correct cells, and carry the corrections back.

    A session of FiftyOne opens in the browser, on this machine only: smears, truth and detections, and a saved view for
    each kind of error, on the smears or cell by cell. Tag cells there with fix:blast, fix:wbc, fix:rbc, fix:platelet,
    fix:ignore, fix:delete or ok; or open a smear, and draw, move and relabel boxes under Annotate. What you say is
    written to the file of --out every few seconds. Ctrl-C ends it; the same --name goes on with it.

    With --html a page is written instead that needs no server, no database and no network: the same views, and each
    smear with its boxes, which can be relabelled, moved, drawn and deleted. Its button exports corrections.jsonl.
    `blastdet review export` applies either file to the data set.

    \b
    Examples:
      blastdet review --data bccd --split val --weights default
      blastdet review --data bccd --split val --weights default --html review
      blastdet review export --data bccd --corrections corrections.jsonl --to coco bccd-corrected
      blastdet review --data new-fields --format pictures --weights default --suggest 50

    Exit codes: 0 done, 2 bad input. Research use only.
    """
    if context.invoked_subcommand is not None:
        given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise click.UsageError(f"{option} before {context.invoked_subcommand}: its own options come behind it")
        return
    from blastdet.cli.analysis_commands.evaluate import run_models
    from blastdet.core.errors import ConfigError
    from blastdet.core.extras import require

    html, n, corrections = options.pop("html"), options.pop("suggest"), options.pop("corrections")
    session = {key: options.pop(key) for key in ("name", "port", "no_browser", "database_uri")}
    if options["data"] is None:
        raise ConfigError("--data: expected a dataset, got none")
    if (options["weights"] is None) == (options["detections"] is None):
        raise ConfigError("expected either --weights or --detections")
    options |= {name: (options[name],) if options[name] else () for name in ("weights", "detections")}
    out = options["out"]
    require("evaluate", "pycocotools", "scipy")
    if html is None and n is None:
        require("review", "fiftyone")
        from blastdet.datasets.corrections import read_corrections
        from blastdet.review.fiftyone_session import check_port, check_uri

        check_port(session["port"])
        check_uri(session["database_uri"])
        if out.is_dir():
            raise ConfigError(f"--out {out}: a folder found, a file for the corrections expected")
        if out.is_file():
            read_corrections(out)  # a session appends to it: refuse a faulty file before computing anything
    dataset = _corrected(_read(options), corrections)
    (predictions,) = run_models(dataset, options)
    if n is not None:
        from blastdet.review.suggest import as_lines, suggest

        for line in as_lines(dataset, suggest(dataset, predictions, n)) or ["every smear is labelled"]:
            click.echo(line)
    if html is not None:
        _page(_reviewed(dataset, predictions, options), html)
    if html is None and n is None:
        _session(_reviewed(dataset, predictions, options), out, session)


@command.command("export")
@click.option("--data", required=True, type=_PATH, help="Data set that was reviewed.")
@click.option("--corrections", required=True, type=_PATH, multiple=True, help="corrections.jsonl. May be repeated.")
@click.option(
    "--to", "kinds", multiple=True, default=("coco",), show_default=True, help="coco or yolo; may be repeated."
)
@click.option("--format", default="auto", show_default=True, help="Format of the data set.")
@click.option("--images", type=_PATH, help="COCO: folder of the pictures, where they lie elsewhere.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that an export wrote.")
@click.argument("out", type=_PATH)
def export(
    data: Path,
    corrections: tuple[Path, ...],
    kinds: tuple[str, ...],
    format: str,  # the option's name
    images: Path | None,
    overwrite: bool,
    out: Path,
) -> None:
    """Apply corrections to a data set, and write it to the folder OUT, with corrections.jsonl beside it.

    A cell is known by the sha256 of its picture and the box it had, so that corrections fit the same pictures wherever
    they lie. Replaying a file twice changes nothing. `blastdet train --data OUT` takes what is written.

    Exit codes: 0 written, 2 bad input.
    """
    from blastdet.core.atomic_io import new_folder, write_text
    from blastdet.core.constants import RESEARCH_USE
    from blastdet.core.errors import ConfigError
    from blastdet.datasets.apply_corrections import count_cells, replay_corrections
    from blastdet.datasets.convert import check_folder
    from blastdet.datasets.corrections import append_corrections, merge_corrections, read_corrections
    from blastdet.datasets.formats import registry

    if unknown := [kind for kind in kinds if kind not in ("coco", "yolo")]:
        raise ConfigError(f"--to {unknown[0]}: coco or yolo expected")
    lines, disagree = merge_corrections([read_corrections(path) for path in corrections])
    check_folder(out, overwrite, RECORD, [data, *corrections, *([images] if images else [])])
    there = out / "corrections.jsonl"
    if overwrite and there.is_file() and (lost := set(read_corrections(there)) - set(lines)):
        raise ConfigError(f"{there}: holds {len(lost)} corrections that were not given; add --corrections {there}")
    dataset = registry.read(data, format, images=images)
    before = sum(count_cells(sample.truth) for sample in dataset)
    dataset, counts = replay_corrections(dataset, lines)
    with new_folder(out) as folder:
        for kind in dict.fromkeys(kinds):
            registry.write(dataset, folder, kind)
        write_text(folder / "corrections.jsonl", "")
        append_corrections(folder / "corrections.jsonl", lines)
        record = {"notice": RESEARCH_USE, "dataset": dataset.name, "corrections": dict(counts)}
        write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    after = sum(count_cells(sample.truth) for sample in dataset)
    click.echo(f"cells    {before} before review, {after} after")
    for what, number in sorted(counts.items()):
        click.echo(f"{number:>8} {what}")
    if disagree:
        click.echo(f"{disagree:>8} cells of which the files say different things: what was said last holds")
    click.echo(f"wrote    {out}: {', '.join(dict.fromkeys(kinds))}, corrections.jsonl")


def _read(options: dict[str, Any]) -> Dataset:
    from blastdet.evaluation.predict import read_datasets

    return read_datasets(options["data"], **{name: options[name] for name in ("format", "split", "images", "mpp")})[0]


def _corrected(dataset: Dataset, corrections: Path | None) -> Dataset:
    if corrections is None:
        return dataset
    from blastdet.datasets.apply_corrections import replay_corrections
    from blastdet.datasets.corrections import read_corrections

    dataset, counts = replay_corrections(dataset, read_corrections(corrections))
    click.echo("corrected: " + (", ".join(f"{n} {what}" for what, n in sorted(counts.items())) or "nothing"))
    return dataset


def _reviewed(dataset: Dataset, predictions: Predictions, options: dict[str, Any]) -> Reviewed:
    """Cells by our pairing; where the model has a second stage, with what that sees of them."""
    from blastdet.cli._progress import file_reporter
    from blastdet.inference.model import load
    from blastdet.review.cells import cells_of
    from blastdet.review.embedding import look
    from blastdet.review.fiftyone_dataset import Reviewed

    dataset, cells = cells_of(dataset, predictions)
    weights = options["weights"]
    classifier = load(weights[0], options["device"]).classifier if weights else None
    if classifier is None:
        return Reviewed(dataset, cells, predictions)
    with file_reporter(len(dataset), "second stage") as step:
        cells, embedding = look(dataset, cells, classifier, step)
    return Reviewed(dataset, cells, predictions, embedding)


def _page(reviewed: Reviewed, out: Path) -> None:
    from blastdet.cli._progress import file_reporter
    from blastdet.core.atomic_io import new_folder
    from blastdet.datasets.convert import check_folder
    from blastdet.review.cells import VIEWS, in_view
    from blastdet.review.page import check_page, write_page

    check_page(out)
    check_folder(out, True, "data.js", [reviewed.dataset.root])
    with new_folder(out) as folder, file_reporter(len(reviewed.dataset), "page") as step:
        write_page(reviewed.dataset, reviewed.cells, reviewed.predictions, folder, step)
    for name, view in VIEWS.items():
        click.echo(f"{len(in_view(reviewed.cells, name)):>6} {view.title}")
    click.echo(f"wrote {out / 'index.html'}: open it in a browser")


def _session(reviewed: Reviewed, out: Path, session: dict[str, Any]) -> None:
    import datetime
    import time

    from blastdet.cli._progress import file_reporter
    from blastdet.datasets.corrections import read_corrections
    from blastdet.review.cells import VIEWS, in_view
    from blastdet.review.fiftyone_dataset import load
    from blastdet.review.fiftyone_session import ADDRESS, EVERY_S, TAGS, Recorder, has_browser, started

    cells, n = reviewed.cells, len(reviewed.dataset)
    now = datetime.datetime.now().strftime("%Y-%m-%d %H.%M.%S")  # of the person's own clock
    name = session["name"] or f"blastdet {reviewed.dataset.name} {now}"
    with started(session["database_uri"]) as fiftyone:
        click.echo(f"loading {n} smears, {len(cells)} cells")
        with file_reporter(n, "loading") as step:
            made = load(fiftyone, name, reviewed, session["name"] is not None, step)
        shown = not session["no_browser"] and has_browser()
        app = fiftyone.launch_app(made, remote=not shown, address=ADDRESS, port=session["port"], auto=shown)
        for key, view in VIEWS.items():
            click.echo(f"{len(in_view(cells, key)):>6} {view.title}")
        click.echo(f"{name}: http://{ADDRESS}:{session['port']}/datasets/{made.slug}")
        if not shown and not session["no_browser"]:
            click.echo("no browser found here: open that address on this machine, or forward the port")
        if out.is_file():
            click.echo(f"{len(read_corrections(out))} corrections so far in {out}")
        click.echo(f"tags of labels: {', '.join(TAGS)}; corrections go to {out}; Ctrl-C ends the session")
        recorder, told = Recorder(made, out), list[str]()
        try:
            while True:
                if number := recorder.write():
                    click.echo(f"{number} new correction{'s' * (number > 1)} in {out}")
                for line in recorder.warnings:
                    if line not in told:
                        click.echo(line, err=True)
                told = recorder.warnings
                time.sleep(EVERY_S)
        except KeyboardInterrupt:
            click.echo(f"{recorder.write()} new corrections in {out}; the session is over")
        finally:
            app.close()
