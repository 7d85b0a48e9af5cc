"""Printing to a terminal that names in files cannot steer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

_LONGEST_LINE = 1000

if TYPE_CHECKING:
    from blastdet.core.types import Dataset


def echo(text: object = "", err: bool = False) -> None:
    """`click.echo` with control characters, which file and class names may contain, shown as escapes."""
    from blastdet.core.errors import printable

    click.echo(printable(str(text)), err=err)


def echo_line(text: str, err: bool = False) -> None:
    """`echo` of one line: a name with a line break in it makes no second one, and no name is endless."""
    from blastdet.core.errors import in_a_line

    echo(in_a_line(text, _LONGEST_LINE), err=err)


def echo_notes(dataset: Dataset) -> None:
    """Print what the reader of a dataset noticed: a mistyped name in --map, boxes that it clipped or left out."""
    from blastdet.datasets.reading import notes_of

    for line in notes_of(dataset):
        echo(f"note: {dataset.name}: {line}")
