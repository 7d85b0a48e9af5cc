"""Types of options that click has not quite."""

from __future__ import annotations

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number in a range; ``nan``, which compares with nothing and so passes click's check, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} found, a number expected.", param, ctx)
        return number


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """So many finite numbers, comma between them."""

    name = "numbers"

    def __init__(self, count: int) -> None:
        self.count = count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of numbers, or a usage error."""
        try:
            numbers = tuple(float(word) for word in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self.count or not all(math.isfinite(number) for number in numbers):
            self.fail(f"{value} found, {self.count} numbers with commas between them expected.", param, ctx)
        return numbers


class Mpp(click.ParamType):  # type: ignore[type-arg]
    """µm/px: ``auto``, ``X`` or ``X,Y``; also ``data``, the scale stored in the dataset, where a command has one.

    Parameters
    ----------
    words : str
        Words that are accepted beside numbers.
    """

    name = "mpp"

    def __init__(self, *words: str) -> None:
        self.words = words

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What the help shows."""
        return "|".join((*self.words, "X[,Y]"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A word, or a pair of numbers."""
        if value in self.words or isinstance(value, tuple):
            return value
        from blastdet.core.errors import ScaleError
        from blastdet.core.mpp import check_mpp

        try:
            return check_mpp([float(part) for part in value.split(",")], "")
        except (ScaleError, ValueError):
            forms = ", ".join((*self.words, "X or X,Y"))
            self.fail(f"expected {forms} (µm/px between 0.001 and 100), got {value!r}", param, ctx)


def renamed(**options: str) -> type[click.Command]:
    """A command class that still reads options under old names, and says so: ``renamed(format="from")``."""
    new_names = {f"--{old.replace('_', '-')}": f"--{new.replace('_', '-')}" for old, new in options.items()}

    class Command(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            end = args.index("--") if "--" in args else len(args)
            for i, word in enumerate(args[:end]):
                old, equals, value = word.partition("=")
                if old in new_names:
                    click.echo(f"note: {old} is now {new_names[old]}", err=True)
                    args[i] = new_names[old] + equals + value
            return super().parse_args(ctx, args)

    return Command
