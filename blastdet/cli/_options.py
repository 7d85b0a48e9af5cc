"""Types of command-line options, and options under old names."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from blastdet.cli._printing import echo

_C = TypeVar("_C", bound=click.Command)
_F = TypeVar("_F", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number in a range. ``nan`` passes click's own range check, because every comparison with it is false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or raise a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a number, got {value}.", param, ctx)
        return number


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A fixed number of finite numbers, separated by commas."""

    name = "numbers"

    def __init__(self, count: int) -> None:
        self.count = count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a tuple of numbers, or raise a usage error."""
        try:
            numbers = tuple(float(word) for word in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self.count or not all(math.isfinite(number) for number in numbers):
            self.fail(f"expected {self.count} numbers separated by commas, got {value}.", param, ctx)
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


def renamed(base: type[_C] = click.Command, /, **options: str) -> type[_C]:  # type: ignore[assignment]
    """A command class that also reads options under their old names, with a note on stderr.

    Parameters
    ----------
    base : type
        `click.Command` or `click.Group`.
    **options : str
        Old name -> new name, without dashes: ``renamed(format="from")``.

    Raises
    ------
    click.UsageError
        By the command, if an option is given under both names.
    """
    new_names = {f"--{old.replace('_', '-')}": f"--{new.replace('_', '-')}" for old, new in options.items()}

    class Command(base):  # type: ignore[misc, valid-type]
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            end = args.index("--") if "--" in args else len(args)
            given = {word.partition("=")[0] for word in args[:end]}
            for i, word in enumerate(args[:end]):
                old, equals, value = word.partition("=")
                if old in new_names:
                    if new_names[old] in given:
                        raise click.UsageError(f"{old} is now {new_names[old]}. Pass only {new_names[old]}.", ctx)
                    echo(f"note: {old} is now {new_names[old]}", err=True)
                    args[i] = new_names[old] + equals + value
            rest: list[str] = super().parse_args(ctx, args)
            return rest

    return Command


def _parse_map(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str] | None:
    if not pairs:
        return None
    from blastdet.datasets.annotations.class_names import parse_class_map

    return parse_class_map(pairs)


def _parse_annotated(context: click.Context, option: click.Parameter, names: str | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(name.strip() for name in names.split(","))


def reading_options(command: _F) -> _F:
    """Add the options of every command that reads annotations: ``images``, ``class_map`` and ``annotated``.

    Each has the name that `blastdet.read_dataset` gives it.
    """
    options = [
        click.option("--images", type=click.Path(path_type=Path), help="Folder of the images, if they are elsewhere."),
        click.option(
            "--map",
            "class_map",
            multiple=True,
            callback=_parse_map,
            metavar="NAME=CLASS",
            help="Map a class name to blast, wbc, rbc or platelet; NAME= leaves it out. Repeatable.",
        ),
        click.option(
            "--annotated",
            callback=_parse_annotated,
            metavar="CLASSES",
            help="The classes that were labelled, e.g. blast,wbc; the others are unknown, not absent.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def measurement_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that ``evaluate`` and ``compare`` share: how images are read, and how models run on them."""
    file = click.Path(path_type=Path)
    options = [
        reading_options,
        click.option("--other", type=file, help="ALL-IDB1: folder with the centroids of the other white cells."),
        click.option("--corrections", type=file, help="Also measure on corrected labels; both results are reported."),
        click.option(
            "--mpp", type=Mpp("data", "auto"), default="data", show_default=True, help="µm per pixel of the images."
        ),
        click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu or cuda."),
        click.option("--threshold", type=Number(0, 1), help="Operating score. [default: the card's; 0.5 for files]"),
        click.option(
            "--max-dets",
            default=500,
            show_default=True,
            type=click.IntRange(1),
            help="Detections per class and image.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command
