"""Printing to a terminal that names in files cannot steer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from blastdet.core.types import Dataset


def echo(text: object = "", err: bool = False) -> None:
    """`click.echo` with control characters, which file and class names may contain, shown as escapes."""
    from blastdet.core.errors import printable

    click.echo(printable(str(text)), err=err)


def echo_notes(dataset: Dataset) -> None:
    """Print what the reader of a dataset noticed: a mistyped name in --map, boxes that it clipped or left out."""
    from blastdet.datasets.reading import notes_of

    for line in notes_of(dataset):
        echo(f"note: {dataset.name}: {line}")
