"""``blastdet data``: list, get and verify the data sets that recipes describe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """List, get and verify data sets.

    Every set has a recipe in datasets/: source, licence, citation, whom to ask, checksums.

    \b
    Examples:
      blastdet data list
      blastdet data get bccd
      blastdet data get allidb1 --from ~/Downloads/ALL_IDB1.zip
      blastdet data verify bccd data/bccd

    Exit codes: 0 done, 1 the copy differs (verify), 2 bad input or nothing to get it from. Research use only.
    """


@command.command("list")
def list_() -> None:
    """Print the name, the way to get it, the licence and the contents of every data set.

    \b
    Example:
      blastdet data list

    Exit codes: 0 done, 2 no recipes found.
    """
    from blastdet.datasets import catalog

    for name in catalog.names():
        recipe = catalog.load(name)
        way = "download" if recipe.url else "by request" if recipe.ask else "own copy"
        click.echo(f"{name:15} {way:11} {recipe.title}")
        click.echo(f"{'':27} {recipe.contents}")
        click.echo(f"{'':27} licence: {recipe.licence}; passing it on: {recipe.redistribution}")


@command.command("get")
@click.argument("name")
@click.option("--from", "source", metavar="DIR_OR_ZIP_OR_URL", help="A copy you have, or another address.")
@click.option("--to", type=_PATH, help="Folder for datasets.  [default: $BLASTDET_DATA if set, else data]")
def get(name: str, source: str | None, to: Path | None) -> None:
    """Bring the data set NAME to the folder TO/NAME, checked, whole or not at all.

    Without --from it comes from the address in its recipe; an interrupted download goes on where it stopped. For
    data that is given on request, the command says whom to ask, and takes your copy with --from: a folder, a zip or
    tar archive, or an address.

    \b
    Examples:
      blastdet data get bccd
      blastdet data get pbc_wbc --from White-Blood-Cell-Detection-Dataset.zip --to ~/data

    Exit codes: 0 done, 2 cannot be had, damaged or incomplete.
    """
    from blastdet.datasets import catalog
    from blastdet.datasets.download import fetch
    from blastdet.datasets.locations import data_dir

    recipe = catalog.load(name)
    with _progress() as report:
        folder = fetch(recipe, to or data_dir(), source=source, report=report)
    click.echo(f"{folder}: {recipe.title}")
    click.echo(f"licence: {recipe.licence}; passing it on: {recipe.redistribution}")
    click.echo(f"cite: {recipe.citation}")
    for note in recipe.notes:
        click.echo(f"note: {note}")
    if recipe.reader:
        click.echo(f"next: blastdet convert {folder} OUT --from {recipe.reader} --to coco")


@command.command("verify")
@click.argument("name")
@click.argument("folder", type=_PATH)
def verify(name: str, folder: Path) -> None:
    """Compare FOLDER, a copy of the data set NAME, with the checksums of its recipe.

    Sets that may not be passed on have no checksums here: their files are counted.

    \b
    Example:
      blastdet data verify bccd data/bccd

    Exit codes: 0 as published, 1 files are missing or differ, 2 no such data set.
    """
    from blastdet.datasets import catalog

    recipe = catalog.load(name)
    faults = catalog.problems(recipe, folder)
    for fault in faults:
        click.echo(fault)
    listed = catalog.checksums(name)
    if faults:
        raise click.exceptions.Exit(1)
    if listed:
        click.echo(f"{folder}: {len(listed)} files, all as published")
    elif recipe.expect:
        counted = ", ".join(f"{number} {pattern}" for pattern, number in recipe.expect.items())
        click.echo(f"{folder}: {counted}; there are no checksums for {name}")
    else:
        click.echo(f"{folder}: is there; neither checksums nor counts are known for {name}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar on a terminal, else a line at every tenth."""
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
    """Prints a line whenever another tenth, or another 50 MB of an unknown length, is done."""

    def __init__(self) -> None:
        self._last: tuple[str, int] = ("", 0)

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        step = 10 * done // total if total else done // 50_000_000
        if step and (stage, step) != self._last:
            self._last = (stage, step)
            click.echo(_text(stage, done, total))


def _text(stage: str, done: int, total: int | None) -> str:
    if stage == "download":
        return f"download {done / 1e6:.1f}" + (f" of {total / 1e6:.1f} MB" if total else " MB")
    return f"{stage} {done}" + (f" of {total} files" if total else " files")
