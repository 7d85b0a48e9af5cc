"""``blastdet split``: train, val and test that tear nothing apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from blastdet.core.types import Dataset

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("src", type=_PATH)
@click.argument("out", type=_PATH)
@click.option("--from", "format_", default="auto", show_default=True, help="Format of SRC.")
@click.option("--strategy", default="grouped", show_default=True, help="grouped, official, official-disjoint or a CSV.")
@click.option("--fractions", default="0.7,0.15,0.15", show_default=True, help="Shares of train, val, test.")
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Of the draw.")
@click.option("--keys", type=_PATH, help="CSV with a column 'image' and the columns that --group-by and --purge name.")
@click.option("--group-by", metavar="COLUMN", help="What must stay whole.  [default: the groups of the data set]")
@click.option("--purge", metavar="COLUMN", help="Second key: val and train lose what shares it with test (or val).")
@click.option("--allow-leaks", is_flag=True, help="Write the split even if it leaks, and say so.")
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
) -> None:
    """Split the data set SRC and write the CSV file OUT (image,split,group).

    Groups (patients, overlapping fields, identical files) stay whole, and classes are shared out evenly. Where two keys
    cannot both be kept whole, --group-by is, and --purge takes from the training side what shares the second key with
    the side that measures. A split that leaks is not written unless --allow-leaks.

    \b
    Examples:
      blastdet split bccd bccd_split.csv --seed 1
      blastdet split all_fields split.csv --group-by cluster --purge group
      blastdet convert bccd out --split bccd_split.csv

    Exit codes: 0 written, 1 it leaks and was not written, 2 bad input.
    """
    from blastdet.core.atomic_io import write_text
    from blastdet.core.errors import ConfigError
    from blastdet.datasets import splits
    from blastdet.datasets.formats import registry
    from blastdet.datasets.formats.files import check_replaced

    shares = _parse_fractions(fractions)
    if keys is not None and group_by is None and purge is None:
        raise ConfigError(f"--keys {keys}: none of its columns is named, --group-by or --purge COLUMN expected")
    check_replaced(out, "image,split", "split")
    dataset = registry.read(src, format_)
    first = _keys(dataset, keys, group_by)
    second = _keys(dataset, keys, purge) if purge else None
    if strategy == "grouped":
        dataset = splits.grouped(dataset, first, seed=seed, fractions=shares)
    else:
        dataset = splits.assign(dataset, strategy)
    if second is not None:
        dataset = splits.purge(dataset, second)
    leaks = list(dict.fromkeys([*splits.leaks(dataset, first), *splits.leaks(dataset, second or {})]))
    if group_by and (torn := splits.leaks(dataset)) and not leaks:
        note = f"{len(torn)} of the set's own groups lie on two sides, first {torn[0]}; --purge group leaves them out"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    _print(dataset, leaks)
    if leaks and not allow_leaks:
        click.echo(f"not written: {len(leaks)} leaks; --allow-leaks writes it all the same")
        raise SystemExit(1)
    write_text(out, splits.to_csv(dataset))
    click.echo(f"wrote    {out}" + (f", a split with {len(leaks)} leaks" if leaks else ""))


def _keys(dataset: Dataset, file: Path | None, column: str | None) -> dict[Path, str]:
    from blastdet.core.errors import ConfigError
    from blastdet.datasets import splits

    if file is not None and column is not None:
        return splits.read_keys(dataset, file, column)
    if column == "cluster":
        found = splits.group_keys(dataset, "cluster")
        if not found:
            raise ConfigError(f"{dataset.root}: no picture has a cluster; --group-by another key")
        return found
    if column not in (None, "group"):
        raise ConfigError(f"{column}: a column of which file? name it with --keys ('group' and 'cluster' need none)")
    return splits.group_keys(dataset)


def _parse_fractions(text: str) -> tuple[float, ...]:
    from blastdet.core.errors import ConfigError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--fractions {text}: three numbers summing to 1 expected") from None


def _print(dataset: Dataset, leaks: list[str]) -> None:
    from blastdet.datasets.convert import counts

    for name in ("train", "val", "test"):
        number = counts(dataset.with_split(name))
        cells = ", ".join(f"{key} {n}" for key, n in number["cells"].items())
        click.echo(f"{name:8} {number['pictures']} pictures; {cells or 'no cells'}")
    for line in dataset.notes:
        click.echo(f"note     {line}")
    for line in leaks:
        click.echo(f"leak     {line}")
