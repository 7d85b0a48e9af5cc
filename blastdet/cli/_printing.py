"""Printing to a terminal that names in files cannot steer."""

from __future__ import annotations

import click


def echo(text: object = "", err: bool = False) -> None:
    """`click.echo` with control characters, which file and class names may contain, shown as escapes."""
    from blastdet.core.errors import printable

    click.echo(printable(str(text)), err=err)
