"""The table of a folder of crops, ``crops.csv``, and the record of how they were cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from blastdet.core.errors import FormatError, ScaleError
from blastdet.core.mpp import check_mpp
from blastdet.datasets.annotations.files import SPLITS, read_json, read_rows
from blastdet.datasets.cropping.negative_controls import NEGATIVE_CONTROLS

TABLE = "crops.csv"
RECORD = "crops.json"
NOT_A_CELL = "not a cell"
"""Label of a detection that matches no annotated cell, where all white cells are annotated."""


@dataclass(frozen=True)
class CropRow:
    """One crop, a row of ``crops.csv``.

    Parameters
    ----------
    crop : str
        File name below the folder of the table.
    source : str
        File name of the image below the root of its dataset.
    group, cluster, split : str
        Those of the image; empty if it has none.
    smear_label : str
        Class of the whole image; empty if it has none.
    label : str
        ``"blast"``, ``"wbc"``, `NOT_A_CELL`, or empty if the class is unknown.
    cell_type : str
    x1, y1, x2, y2 : float
        Box in pixels of the image. For a negative control: the window without its margin.
    score : float
        Score of the detection; 1 for annotated cells.
    mpp : float
        µm per pixel of the crop.
    """

    crop: str
    source: str
    group: str
    cluster: str
    split: str
    smear_label: str
    label: str
    cell_type: str
    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    mpp: float


@dataclass(frozen=True)
class Cut:
    """How crops are cut.

    Parameters
    ----------
    colour : {"as it is", "canonical"}
        Canonical colours are estimated from the whole image, so they must be applied before cutting.
    negative_control : str
        One of `NEGATIVE_CONTROLS`. Empty: the cells themselves.
    """

    colour: str = "as it is"
    negative_control: str = ""


def read_table(folder: Path) -> list[CropRow]:
    """Read the table of a folder of crops.

    Raises
    ------
    FormatError
        If there is no table, a column is missing, a value is invalid, or a crop is missing or listed twice.
    """
    path = folder / TABLE
    rows = []
    there = {entry.name for entry in folder.iterdir() if entry.is_file()} if folder.is_dir() else set()
    for number, row in enumerate(read_rows(path, *(f.name for f in fields(CropRow))), start=2):
        try:
            numbers = {f.name: float(row[f.name]) for f in fields(CropRow) if f.type == "float"}
        except ValueError as error:
            raise FormatError(f"{path}: line {number}: {error}") from None
        words = {f.name: row[f.name] for f in fields(CropRow) if f.type == "str"}
        if not np.isfinite(list(numbers.values())).all():
            raise FormatError(f"{path}: line {number}: expected finite numbers in x1, y1, x2, y2, score and mpp")
        try:
            check_mpp(numbers["mpp"], f"{path}: line {number}: mpp")
        except ScaleError as error:
            raise FormatError(str(error)) from None
        if words["split"] not in ("", *SPLITS):
            raise FormatError(f"{path}: line {number}: expected split train, val or test, got {words['split']!r}")
        if words["crop"] not in there:
            raise FormatError(f"{path}: line {number}: {words['crop'][:80]}: no such crop in {folder}, or listed twice")
        there.remove(words["crop"])  # a crop listed twice would count twice
        rows.append(CropRow(**words, **numbers))  # type: ignore[arg-type]
    return rows


def cut_of(folder: Path, note: Callable[[str], None] = lambda line: None) -> Cut:
    """How a folder of crops was cut, from its record; the default if it has no record.

    `note` receives a line if the record has the key ``probe`` of version 0.1 instead of ``negative_control``.

    Raises
    ------
    FormatError
        If the record has an unknown colour or negative control.
    """
    path = folder / RECORD
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise FormatError(f"{path}: expected the record of blastdet crops")
    if "probe" in record:
        note(f"note: {path}: probe is now negative_control")
    colour, control = record.get("colour", "as it is"), record.get("negative_control", record.get("probe", ""))
    if colour not in ("as it is", "canonical"):
        raise FormatError(f"{path}: expected colour canonical or 'as it is', got {colour!r}")
    if control not in ("", *NEGATIVE_CONTROLS):
        raise FormatError(f"{path}: expected negative_control {', '.join(NEGATIVE_CONTROLS)} or none, got {control!r}")
    return Cut(str(colour), str(control))
