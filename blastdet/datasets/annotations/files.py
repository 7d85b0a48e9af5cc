"""File handling that all formats share: reading text, JSON and CSV, and placing images in folders."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from blastdet.core.columns import by_type
from blastdet.core.constants import CELL_TYPES
from blastdet.core.errors import ConfigError, FormatError, ScaleError, listed, one_line, shown
from blastdet.core.mpp import check_mpp
from blastdet.core.types import COLUMNS, Dataset, Sample, Scale
from blastdet.imaging.io import find_images, image_size

FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
"""Errors that reading a value from a faulty file may raise, under ``np.errstate(over="raise")`` also for float32."""

_MOST_NODES, _MOST_CHARACTERS = 100_000, 20_000_000  # of a YAML document with its aliases expanded
_LIMIT = 1e12  # larger than any pixel coordinate; NaN and infinity compare as too large
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how a text starts that spreadsheets take for a formula
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

SPLITS: tuple[str, ...] = ("train", "val", "test")

EXTRA: tuple[str, ...] = tuple(name for name in COLUMNS if name not in ("boxes_xyxy", "label"))
"""Columns of `Detections` that a format stores besides box and class, in order."""


def _extra_of(dtype: Any) -> tuple[str, ...]:
    return tuple(name for name in EXTRA if COLUMNS[name] == (dtype, ()))


NUMBERS, WORDS, FLAGS = _extra_of(np.float32), _extra_of(np.str_), _extra_of(np.bool_)
"""Columns of `EXTRA` with one number, one text or one truth value for each cell."""


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, with any line endings, with or without a byte order mark.

    Raises `FormatError` if it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: expected a UTF-8 text file, got other bytes") from None


def read_json(path: Path) -> Any:
    """A JSON document.

    Raises `FormatError` if it cannot be read, is not JSON, nests too deeply, or contains text that UTF-8 cannot encode.
    """
    text = read_text(path)
    try:
        document = json.loads(text)
        if _SURROGATE.search(text):  # half a character, as an escape: JSON reads it, but UTF-8 cannot write it
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: expected valid JSON ({error})") from None
    return document


def parse_yaml(text: str) -> Any:
    """A YAML document.

    Raises `ValueError`, with a message of bounded length, if it is not YAML, or if its aliases make a short text a huge
    document.
    """
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(one_line(error)) from None
    stack, nodes, characters = [content], 0, 0
    while stack:
        node, nodes = stack.pop(), nodes + 1
        characters += len(node) if isinstance(node, str | bytes) else 0
        if nodes > _MOST_NODES or characters > _MOST_CHARACTERS:
            raise ValueError(f"expected at most {_MOST_NODES} values, got aliases that expand to more")
        stack += (*node.keys(), *node.values()) if isinstance(node, dict) else node if isinstance(node, list) else ()
    return content


def read_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a CSV file. Missing fields are empty.

    `columns` are those that the file must have. Raises `FormatError` if it cannot be read or lacks a column.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    try:
        if not set(columns) <= set(reader.fieldnames or ()):
            found = listed(reader.fieldnames or ())
            raise FormatError(f"{path}: expected columns {' and '.join(columns)}, got {found or 'none'}")
        return [
            {key: _as_written(value) if isinstance(value, str) else value for key, value in row.items()}
            for row in reader
        ]
    except csv.Error as error:
        raise FormatError(f"{path}: expected a CSV file ({error})") from None


def formula_free(text: str) -> str:
    """A text that a spreadsheet shows instead of running it: ``=HYPERLINK(...)`` gets an apostrophe.

    `read_rows` removes it again. Numbers stay numbers.

    Examples
    --------
    >>> formula_free("=1+1"), formula_free("-0.5"), formula_free("a=b.jpg")
    ("'=1+1", '-0.5', 'a=b.jpg')
    """
    if not _FORMULA.match(text):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _as_written(text: Any) -> Any:
    """A field as it was before `formula_free`; fields beyond the head are a list."""
    return text[1:] if isinstance(text, str) and text.startswith("'") and _FORMULA.match(text) else text


def read_column(table: Path, name: str) -> dict[str, str]:
    """One column of a CSV file, by its column ``image``.

    Raises `FormatError` if the file cannot be read, lacks one of the two columns, or has an empty field in them.
    """
    values: dict[str, str] = {}
    for number, row in enumerate(read_rows(table, "image", name), start=2):
        if not row["image"] or not row[name]:
            raise FormatError(f"{table}: line {number}: expected image and {name}, got an empty field")
        values[row["image"]] = row[name]
    return values


def stated_mpp(value: Any, where: str) -> Scale:
    """The scale that a file states, in µm/px along x and y; see `check_mpp`.

    Raises `FormatError` if it is not a scale, or out of range.
    """
    try:
        return check_mpp(value, where)
    except ScaleError as error:
        raise FormatError(str(error)) from None


def box_problem(bbox: Any) -> str | None:
    """What is wrong with a ``bbox``, if anything; a negative size is not reported."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
        return f"expected four numbers x, y, width, height as bbox, got {shown(bbox)}"
    return None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of reasonable size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LIMIT


def check_replaced(path: Path, sign: str, what: str) -> None:
    """Refuse to overwrite a file that this program did not write.

    Raises `ConfigError` if `path` exists and does not contain `sign`.

    Parameters
    ----------
    path : Path
        File about to be written.
    sign : str
        Text that every file of the expected kind contains.
    what : str
        Name of the expected kind, for the error message.
    """
    if path.exists() and sign not in read_text(path):
        raise ConfigError(f"{path}: expected a new file or a {what}, got another file. Choose another name.")


def unknown(name: str) -> Any:
    """Value of a column of `EXTRA` for a cell that does not state it, as JSON types (with NaN for numbers)."""
    if name == "score":
        return 1.0
    dtype, row = COLUMNS[name]
    value = {np.float32: math.nan, np.bool_: False, np.str_: ""}[dtype]
    return [value] * row[0] if row else value


def to_json(column: NDArray[Any], name: str = "") -> list[Any]:
    """A column as plain lists, with None for NaN (JSON has no NaN).

    Each row of the column ``type_probability`` is a mapping of type to probability, or None where none is known.
    """
    if name == "type_probability":
        return [by_type(row) or None for row in column]
    if column.dtype.kind != "f":
        return list(column.tolist())
    shortest = np.vectorize(lambda x: None if np.isnan(x) else float(str(x)), otypes=[object])
    return list(shortest(column).tolist()) if column.size else []


def from_json(name: str, value: Any) -> Any:
    """The value of one row in a column, as `to_json` wrote it; None is unknown."""
    if value is None:
        return unknown(name)
    if name != "type_probability":
        return value
    if other := sorted(set(value) - set(CELL_TYPES)):
        raise ValueError(f"expected some of {', '.join(CELL_TYPES)} as type, got {shown(other[0])}")
    return [value.get(kind, math.nan) for kind in CELL_TYPES]


def folder_of(sample: Sample) -> str:
    """Folder below ``images/`` that a sample belongs to.

    Images without annotations go into a folder of their own: many programs treat an image without labels as one
    without cells.
    """
    if sample.truth is None:
        return "unlabelled"
    if sample.split not in (None, "", *SPLITS):  # a path such as ../x would leave the folder
        raise FormatError(f"{sample.path}: expected one of {', '.join(SPLITS)} as split, got {shown(sample.split)}")
    return sample.split or "unsplit"


def unique_names(dataset: Dataset) -> list[str]:
    """A file name for each sample. Stems are unique, ignoring case, because label files are named by the stem."""
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
    """Copy or link every image, unchanged, to ``out/images/<split>/``.

    Parameters
    ----------
    how : {"copy", "link"}
        ``link`` makes hard links, or symbolic links across file systems. Caution: some training programs repair
        images in place, which would modify the source.

    Returns
    -------
    Dataset
        The same samples with their new paths, and `root` set to `out`. Images that are already there stay.
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
    moved = {old.path: new.path for old, new in zip(dataset, placed, strict=True)}
    ids = dataset.ids
    if ids is not None:
        ids = replace(ids, images=tuple((number, moved.get(path, path)) for number, path in ids.images))
    return replace(dataset, root=out, samples=tuple(placed), ids=ids)


def put_file(source: Path, target: Path, how: str) -> None:
    """Copy or link one file. An existing target is replaced; an existing link is never written through."""
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


def read_image_folder(path: Path) -> Dataset:
    """Read all images of a folder, at any depth, without annotations, split or scale.

    This format must be requested by name; it is never detected. Raises `ImageError` if the folder has no images, or one
    of them cannot be read.
    """
    path = Path(path)
    samples = tuple(Sample(image, image_size(image)) for image in find_images(path))
    return Dataset(path.resolve().name, path, samples)


def splits_of(dataset: Dataset) -> Sequence[str]:
    """Folders below ``images/`` that `dataset` needs: train, val and test first."""
    present = {folder_of(sample) for sample in dataset}
    return [name for name in (*SPLITS, "unsplit", "unlabelled") if name in present] + sorted(
        present - {*SPLITS, "unsplit", "unlabelled"}
    )
