"""``blastdet split``: train, validation and test splits that keep groups together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blastdet.cli._options import reading_options
from blastdet.cli._printing import echo, echo_line

if TYPE_CHECKING:
    from blastdet.core.types import Dataset

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("src", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--from", "format_", default="auto", show_default=True, help="Format of SRC.")
@reading_options
@click.option(
    "--strategy", default="grouped", show_default=True, help="grouped, official, official-disjoint, or a CSV file."
)
@click.option("--fractions", default="0.7,0.15,0.15", show_default=True, help="Fractions of train, val and test.")
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Random seed.")
@click.option("--keys", type=_PATH, help="CSV file with a column 'image' and the columns of --group-by and --purge.")
@click.option("--group-by", metavar="COLUMN", help="Groups to keep together.  [default: the dataset's own groups]")
@click.option(
    "--purge", metavar="COLUMN", help="Second key: remove from train and val what shares it with test or val."
)
@click.option("--allow-leaks", is_flag=True, help="Write the split even if groups leak.")
def command(
    src: Path,
    out: Path,
    format_: str,
    strategy: str,
    fractions: str,
    seed: int,
    keys: Path | None,
    group_by: str | None,
    purge: str | None,
    allow_leaks: bool,
    **reading: Any,
) -> None:
    """Split the dataset SRC and write the CSV file OUT (image,split,group).

    SRC is a folder, a file, or the name of an installed dataset such as bccd. Groups (patients, overlapping fields,
    identical files) stay together, and the classes are balanced between the splits. If two keys cannot both stay
    together, --group-by keeps the first one together, and --purge removes images from the training side that share the
    second key with the evaluation side. A split with leaks is not written, except with --allow-leaks.

    \b
    Examples:
      blastdet split bccd bccd_split.csv --seed 1
      blastdet split all_fields split.csv --group-by cluster --purge group
      blastdet convert bccd out --split bccd_split.csv

    Exit codes: 0 written, 1 the split leaks and was not written, 2 bad input. Research use only.
    """
    from blastdet.core.atomic_io import write_text
    from blastdet.core.errors import ConfigError
    from blastdet.datasets import splits
    from blastdet.datasets.annotations.files import check_replaced
    from blastdet.datasets.reading import read_dataset

    numbers = _parse_fractions(fractions)
    if keys is not None and group_by is None and purge is None:
        raise ConfigError(f"--keys {keys}: expected --group-by or --purge with one of its columns, got neither")
    check_replaced(out, "image,split", "split")
    dataset = read_dataset(src, format=format_, **reading)
    first = splits.find_keys(dataset, group_by, keys)
    second = splits.find_keys(dataset, purge, keys) if purge else None
    dataset = splits.split(dataset, strategy, fractions=numbers, seed=seed, keys=first, purge=second)
    leaks = list(dict.fromkeys([*splits.leaks(dataset, first), *splits.leaks(dataset, second or {})]))
    if group_by and (torn := splits.leaks(dataset)) and not leaks:
        note = f"{len(torn)} of the dataset's own groups are in two splits, first {torn[0]}. Add --purge group"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    _print(dataset, leaks)
    if leaks and not allow_leaks:
        echo(f"not written: {len(leaks)} leaks. To write the split anyway, add --allow-leaks")
        raise SystemExit(1)
    write_text(out, splits.to_csv(dataset))
    echo(f"wrote    {out}" + (f", a split with {len(leaks)} leaks" if leaks else ""))


def _parse_fractions(text: str) -> tuple[float, ...]:
    from blastdet.core.errors import ConfigError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--fractions: expected three numbers with sum 1, got {text}") from None


def _print(dataset: Dataset, leaks: list[str]) -> None:
    from blastdet.datasets.convert import counts

    for name in ("train", "val", "test"):
        number = counts(dataset.with_split(name))
        cells = ", ".join(f"{key} {n}" for key, n in number["cells"].items())
        echo(f"{name:8} {number['pictures']} images; {cells or 'no cells'}")
    for line in dataset.notes:
        echo_line(f"note     {line}")
    for line in leaks:
        echo_line(f"leak     {line}")
