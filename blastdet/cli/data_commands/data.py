"""``blastdet data``: list, get and verify the datasets of the catalog."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from blastdet.cli._printing import echo

_PATH = click.Path(path_type=Path)
_SHOWN = 20  # problems of a copy that verify prints


@click.group()
def command() -> None:
    """List, get and verify public datasets.

    The catalog has an entry for every dataset: source, licence, citation, checksums, and how to get a copy. Datasets
    are stored in the folder that the environment variable BLASTDET_DATA names, or in ./data.

    \b
    Examples:
      blastdet data list
      blastdet data get bccd
      blastdet data get allidb1 --from ~/Downloads/ALL_IDB1.zip
      blastdet data verify bccd data/bccd

    Exit codes: 0 done, 1 the copy differs (verify), 2 bad input, or the dataset cannot be downloaded. Research use
    only.
    """


@command.command("list", short_help="List all datasets.")
def list_() -> None:
    """List all datasets: name, how to get it, title, contents and licence.

    \b
    Example:
      blastdet data list

    Exit codes: 0 done, 2 the catalog is missing.
    """
    from blastdet.datasets import catalog

    for name in catalog.names():
        entry = catalog.load(name)
        way = "download" if entry.url else "on request" if entry.ask else "own copy"
        echo(f"{name:15} {way:11} {entry.title}")
        echo(f"{'':27} {entry.contents}")
        echo(f"{'':27} licence: {entry.licence}; redistribution: {entry.redistribution}")


@command.command("get", short_help="Download a dataset, or install your copy, and verify it.")
@click.argument("name")
@click.option("--from", "source", metavar="DIR_OR_ZIP_OR_URL", help="A local copy, or another address.")
@click.option("--to", type=_PATH, help="Folder for datasets.  [default: $BLASTDET_DATA if set, else data]")
def get(name: str, source: str | None, to: Path | None) -> None:
    """Install the dataset NAME in the folder TO/NAME and verify it.

    Without --from the dataset is downloaded from the address in the catalog. An interrupted download is resumed. Some
    datasets are only available on request: the command says who to contact, and installs your copy with --from (a
    folder, a zip or tar archive, or an address). The folder appears only when the dataset is complete.

    \b
    Examples:
      blastdet data get bccd
      blastdet data get pbc_wbc --from White-Blood-Cell-Detection-Dataset.zip --to ~/data

    Exit codes: 0 done, 2 cannot be downloaded, damaged or incomplete.
    """
    from blastdet.datasets import catalog
    from blastdet.datasets.download import fetch
    from blastdet.datasets.locations import data_dir

    entry = catalog.load(name)
    with _progress() as report:
        folder = fetch(entry, to or data_dir(), source=source, report=report)
    echo(f"{folder}: {entry.title}")
    echo(f"licence: {entry.licence}; redistribution: {entry.redistribution}")
    echo(f"cite: {entry.citation}")
    for note in entry.notes:
        echo(f"note: {note}")
    if entry.reader:
        echo(f"next: blastdet convert {folder} OUT --from {entry.reader} --to coco")


@command.command("verify", short_help="Compare a copy of a dataset with the checksums in the catalog.")
@click.argument("name")
@click.argument("folder", type=_PATH)
def verify(name: str, folder: Path) -> None:
    """Compare FOLDER, a copy of the dataset NAME, with the checksums in the catalog.

    For datasets that may not be redistributed the catalog has no checksums; their files are counted.

    \b
    Example:
      blastdet data verify bccd data/bccd

    Exit codes: 0 as published, 1 files are missing or differ, 2 unknown dataset.
    """
    from blastdet.datasets import catalog

    entry = catalog.load(name)
    faults = catalog.problems(entry, folder)
    for fault in faults[:_SHOWN]:
        echo(fault)
    listed = catalog.checksums(name)
    if faults:
        if len(faults) > _SHOWN:
            echo(f"... and {len(faults) - _SHOWN} more. Is {folder} a copy of {name}?")
        raise click.exceptions.Exit(1)
    if listed:
        echo(f"{folder}: {len(listed)} files, all as published")
    elif entry.expect:
        counted = ", ".join(f"{number} {pattern}" for pattern, number in entry.expect.items())
        echo(f"{folder}: {counted}; the catalog has no checksums for {name}")
    else:
        echo(f"{folder}: exists; the catalog has neither checksums nor file counts for {name}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar on a terminal, otherwise a line at every 10 %."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description:24}"), BarColumn(), TimeRemainingColumn()) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total, description=_text(stage, done, total))

        yield report


class _Lines:
    """Prints a line after every 10 %, or after every 50 MB if the length is unknown."""

    def __init__(self) -> None:
        self._last: tuple[str, int] = ("", 0)

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        step = 10 * done // total if total else done // 50_000_000
        if step and (stage, step) != self._last:
            self._last = (stage, step)
            echo(_text(stage, done, total))


def _text(stage: str, done: int, total: int | None) -> str:
    if stage == "download":
        return f"download {done / 1e6:.1f}" + (f" of {total / 1e6:.1f} MB" if total else " MB")
    return f"{stage} {done}" + (f" of {total} files" if total else " files")
