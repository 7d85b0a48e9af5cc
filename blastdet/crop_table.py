"""A folder of crops, and the table of what each shows: written by ``blastdet crops``, learnt from by classifiers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

import blastdet
from blastdet.colour import as_seen
from blastdet.crops import CONTEXT, crop
from blastdet.errors import FormatError, ScaleError
from blastdet.evaluation.confusion import confusion
from blastdet.evaluation.summary import Predictions
from blastdet.formats.files import read_rows, write_text
from blastdet.images import open_smear, write_image
from blastdet.types import CELL_CLASSES, RESEARCH_USE, Dataset, Detections, Scale, Smear

TABLE = "crops.csv"
RECORD = "crops.json"
NOT_A_CELL = "not a cell"
"""Label of a detection that no annotated cell matches, where all white cells are annotated."""

_NUCLEATED = ("blast", "wbc")


@dataclass(frozen=True)
class CropRow:
    """One crop.

    Parameters
    ----------
    crop : str
        File name below the folder of the table.
    source : str
        File name of its smear below the root of its data set.
    group, cluster, split : str
        Those of the smear; empty where it has none.
    smear_label : str
        Class of the whole smear; empty where it has none.
    label : str
        ``"blast"``, ``"wbc"``, `NOT_A_CELL`, or empty: nobody said.
    cell_type : str
    x1, y1, x2, y2 : float
        Box in pixels of the smear.
    score : float
        That of the detector; 1 for boxes of the truth.
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


Cells = tuple[Detections, Sequence[str], Scale]
"""Cells of a smear, the label of each as `CropRow` has it, and the smear's µm/px."""


def true_cells(dataset: Dataset) -> list[Cells]:
    """The white cells that people boxed; those to be ignored are left out.

    Raises
    ------
    ScaleError
        If a smear with cells has no µm/px.
    """
    found: list[Cells] = []
    for smear in dataset:
        truth = (smear.truth or Detections.empty()).of(*_NUCLEATED)
        ignored = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore
        truth = truth[~np.isnan(truth.boxes_xyxy).any(axis=1) & ~ignored]
        if smear.mpp is None and len(truth):
            raise ScaleError(f"{smear.path}: µm/px unknown; give it with --mpp")
        found.append((truth, [CELL_CLASSES[i] for i in truth.label], smear.mpp or (1.0, 1.0)))
    return found


def found_cells(dataset: Dataset, predictions: Predictions) -> list[Cells]:
    """The white cells that a detector finds at its operating point, matched with the truth where there is one.

    A detection on a region to be ignored is left out.
    """
    thresholds = {name: value for name, value in predictions.thresholds.items() if name in _NUCLEATED}
    matched = confusion(dataset, predictions.candidates, _NUCLEATED, thresholds).outcomes
    scales: Sequence[Scale | None] = predictions.mpp or [smear.mpp for smear in dataset]
    cells: list[Cells] = []
    for index, (smear, candidates, mpp) in enumerate(zip(dataset, predictions.candidates, scales, strict=True)):
        rows = (matched.smear == index) & (matched.found >= 0)
        label = {
            int(found): (CELL_CLASSES[kind] if kind >= 0 else NOT_A_CELL, int(truth))
            for found, kind, truth in zip(
                matched.found[rows], matched.truth_label[rows], matched.truth[rows], strict=True
            )
        }
        limit = np.array([thresholds.get(name, 2.0) for name in CELL_CLASSES])
        above = np.flatnonzero(candidates.score >= limit[candidates.label])
        unknown = smear.truth is None or not set(_NUCLEATED) & set(smear.annotated)
        chosen = [int(i) for i in above if unknown or int(i) in label]
        if mpp is None and chosen:
            raise ScaleError(f"{smear.path}: µm/px unknown; give it with --mpp")
        types = [_type_of(smear, label.get(i, ("", -1))[1]) for i in chosen]
        part = candidates[chosen].with_columns(cell_type=types)
        cells.append((part, [label.get(i, ("", -1))[0] for i in chosen], mpp or (1.0, 1.0)))
    return cells


def _type_of(smear: Smear, row: int) -> str:
    known = smear.truth is not None and smear.truth.cell_type is not None and row >= 0
    return str(smear.truth.cell_type[row]) if known else ""  # type: ignore[union-attr, index]


def write_crops(
    dataset: Dataset,
    cells: Sequence[Cells],
    folder: Path,
    colour: str = "as it is",
    progress: Callable[[], None] = lambda: None,
) -> list[CropRow]:
    """Cut all cells out, at the resolution of their smears, into a folder that is there and empty.

    Parameters
    ----------
    dataset : Dataset
    cells : sequence of Cells
        One for each smear.
    folder : Path
        Gets the crops as PNG, `TABLE` and `RECORD`.
    colour : {"as it is", "canonical"}
        Canonical colours need the whole smear, so that they cannot be had from a crop later.
    progress : callable
        Called once a smear.
    """
    rows: list[CropRow] = []
    for smear, (found, labels, mpp) in zip(dataset, cells, strict=True):
        rows += list(_write_smear(dataset, smear, (found, labels, mpp), folder, colour, len(rows)))
        progress()
    table = io.StringIO()
    writer = csv.DictWriter(table, [f.name for f in fields(CropRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(folder / TABLE, table.getvalue())
    record = {"notice": RESEARCH_USE, "blastdet": blastdet.__version__, "dataset": dataset.name, "crops": len(rows)}
    record |= {"context": CONTEXT, "colour": colour}
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return rows


def _write_smear(
    dataset: Dataset, smear: Smear, cells: Cells, folder: Path, colour: str, start: int
) -> Iterator[CropRow]:
    found, labels, mpp = cells
    if not len(found):
        return
    types = found.cell_type if found.cell_type is not None else [""] * len(found)
    with as_seen(open_smear(smear.path), colour) as source:
        for i, box in enumerate(found.boxes_xyxy.tolist()):
            name = f"{start + i:06d}.png"
            write_image(folder / name, crop(source, tuple(box), mpp))
            x1, y1, x2, y2 = (round(v, 2) for v in box)
            yield CropRow(
                crop=name,
                source=dataset.file_name(smear),
                group=smear.group or "",
                cluster=smear.cluster or "",
                split=smear.split or "",
                smear_label=smear.label or "",
                label=labels[i],
                cell_type=str(types[i]),
                x1=x1,
                y1=y1,
                x2=x2,
                y2=y2,
                score=round(float(found.score[i]), 4),
                mpp=round(min(mpp), 6),
            )


def read_table(folder: Path) -> list[CropRow]:
    """The table of a folder of crops.

    Raises
    ------
    FormatError
        If there is none, a column is missing, a number is none, or a crop is missing.
    """
    path = folder / TABLE
    rows = []
    for number, row in enumerate(read_rows(path, *(f.name for f in fields(CropRow))), start=2):
        try:
            numbers = {f.name: float(row[f.name]) for f in fields(CropRow) if f.type == "float"}
        except ValueError as error:
            raise FormatError(f"{path}: line {number}: {error}") from None
        words = {f.name: row[f.name] for f in fields(CropRow) if f.type == "str"}
        if not 0 < numbers["mpp"] < 100:
            raise FormatError(f"{path}: line {number}: mpp {numbers['mpp']} found, µm per pixel expected")
        if Path(words["crop"]).name != words["crop"] or not (folder / words["crop"]).is_file():
            raise FormatError(f"{path}: line {number}: {words['crop']}: no such crop in {folder}")
        rows.append(CropRow(**words, **numbers))  # type: ignore[arg-type]
    return rows
