"""What all formats share: files read whatever wrote them, and pictures put in their place."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import Dataset, Sample

FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
"""What reading a value from a hostile file may raise; with ``np.errstate(over="raise")`` also what fits no float32."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

SPLITS: tuple[str, ...] = ("train", "val", "test")


def read_text(path: Path) -> str:
    """Text of a file, whatever its line ends and byte order mark.

    Raises
    ------
    FormatError
        If it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not a text file (UTF-8 expected)") from None


def read_json(path: Path) -> Any:
    """A JSON document.

    Raises
    ------
    FormatError
        If it cannot be read, is not JSON, nests too deep, or holds text that no UTF-8 file can hold.
    """
    text = read_text(path)
    try:
        document = json.loads(text)
        if _SURROGATE.search(text):  # half a character, by escape: it could be read, and never be written
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid JSON ({error})") from None
    return document


def read_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a CSV file that has `columns`; a field that is missing is empty.

    Raises
    ------
    FormatError
        If it cannot be read or lacks a column.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    try:
        if not set(columns) <= set(reader.fieldnames or ()):
            found = ", ".join(reader.fieldnames or ())
            raise FormatError(f"{path}: columns {found} found, {' and '.join(columns)} expected")
        return list(reader)
    except csv.Error as error:
        raise FormatError(f"{path}: not a CSV file ({error})") from None


def check_replaced(path: Path, sign: str, what: str) -> None:
    """Refuse to write over a file that is none of our own kind.

    Parameters
    ----------
    path : Path
        What is about to be written.
    sign : str
        Text that every file of the kind holds.
    what : str
        Name of the kind.

    Raises
    ------
    ConfigError
        If `path` exists without the sign.
    """
    if path.exists() and sign not in read_text(path):
        raise ConfigError(f"{path}: exists and is no {what}; name another file")


def to_json(column: NDArray[Any]) -> list[Any]:
    """A column as plain lists, NaN as null (JSON knows no NaN)."""
    if column.dtype.kind != "f":
        return list(column.tolist())
    shortest = np.vectorize(lambda x: None if np.isnan(x) else float(str(x)), otypes=[object])
    return list(shortest(column).tolist()) if column.size else []


def folder_of(sample: Sample) -> str:
    """Folder below ``images/`` that a smear belongs to.

    A smear that nobody annotated goes to a folder of its own: many programs take a picture without labels for one
    without cells.
    """
    if sample.truth is None:
        return "unlabelled"
    return sample.split or "unsplit"


def unique_names(dataset: Dataset) -> list[str]:
    """A file name for each smear, no two with the same stem in any case (label files are named by the stem)."""
    base = [sample.path.name for sample in dataset]
    count = Counter(Path(name).stem.casefold() for name in base)
    taken: set[str] = set()
    names = []
    for sample, name in zip(dataset, base, strict=True):
        if count[Path(name).stem.casefold()] > 1:
            name = dataset.file_name(sample).replace("/", "__")
        names.append(_not_taken(name, taken))
    return names


def _not_taken(name: str, taken: set[str]) -> str:
    stem, suffix = Path(name).stem, Path(name).suffix
    candidate, number = stem, 1
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{stem}_{number}"
    taken.add(candidate.casefold())
    return candidate + suffix


def place_images(dataset: Dataset, out: Path, how: str = "copy") -> Dataset:
    """Put every picture below ``out/images/<split>/``, byte for byte.

    Parameters
    ----------
    dataset : Dataset
    out : Path
    how : {"copy", "link"}
        ``link`` makes hard links, or symbolic ones to another file system. Beware: some training programs repair a
        picture in place, and would so write into the source.

    Returns
    -------
    Dataset
        The same smears with their new paths and `root` = `out`. Pictures that lie there already stay.
    """
    images = out / "images"
    if all(sample.path.is_relative_to(images) for sample in dataset):
        return replace(dataset, root=out)
    placed = []
    for sample, name in zip(dataset, unique_names(dataset), strict=True):
        target = images / folder_of(sample) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        put_file(sample.path, target, how)
        placed.append(replace(sample, path=target))
    return replace(dataset, root=out, samples=tuple(placed))


def put_file(source: Path, target: Path, how: str) -> None:
    """Copy or link one file; what is in its place goes, and is never written through."""
    try:
        if target.exists() and not target.is_symlink() and target.samefile(source):
            return
        target.unlink(missing_ok=True)
        if how == "link":
            _link(source.resolve(), target)
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        raise FormatError(f"{target}: cannot be written ({error.strerror or error})") from None


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        target.symlink_to(source)


def splits_of(dataset: Dataset) -> Sequence[str]:
    """Folders below ``images/`` that `dataset` fills, train, val and test first."""
    present = {folder_of(sample) for sample in dataset}
    return [name for name in (*SPLITS, "unsplit", "unlabelled") if name in present] + sorted(
        present - {*SPLITS, "unsplit", "unlabelled"}
    )
