"""A folder of crops, and the table of what each shows: written by ``blastdet crops``, learnt from by classifiers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import blastdet
from blastdet.core import boxes
from blastdet.core.atomic_io import write_text
from blastdet.core.constants import LARGEST_CELL_UM, RESEARCH_USE
from blastdet.core.errors import FormatError, ImageError, ScaleError
from blastdet.core.types import CELL_CLASSES, NUCLEATED, Dataset, Detections, Sample, Scale
from blastdet.datasets.formats.files import SPLITS, read_json, read_rows
from blastdet.datasets.negative_controls import NEGATIVE_CONTROLS, crop_of, windows
from blastdet.evaluation.confusion import IOU
from blastdet.evaluation.predict import Predictions
from blastdet.imaging.cell_crops import CONTEXT, Box, window
from blastdet.imaging.io import open_smear, read_image, write_image
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.segmentation.nuclei import segment_cells

TABLE = "crops.csv"
RECORD = "crops.json"
NOT_A_CELL = "not a cell"
"""Label of a detection that no annotated cell matches, where all white cells are annotated."""

_PERHAPS = 0.1
"""What a detector scores so may be a cell: too little to cut it out, too much to call the place free of cells."""


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
        Box in pixels of the smear; of a probe, the window that was cut out, less its rim.
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


@dataclass(frozen=True)
class Cut:
    """How crops are cut.

    Parameters
    ----------
    colour : {"as it is", "canonical"}
        Canonical colours need the whole smear, so that they cannot be had from a crop later.
    probe : str
        The shortcut probe, one of `probes.NEGATIVE_CONTROLS`; empty: the cells themselves.
    """

    colour: str = "as it is"
    probe: str = ""


@dataclass(frozen=True)
class Cells:
    """Cells of one smear to be cut out.

    Parameters
    ----------
    found : Detections
        Boxes lie on the picture.
    labels : tuple of str
        See `CropRow`.
    mpp : (float, float)
    left_out : dict of str to int
        Why cells are not among them, and how many.
    nucleated : (m, 4)
        Boxes of all that may be nucleated cells: annotated, found, or half found, those left out among them.
    """

    found: Detections
    labels: tuple[str, ...]
    mpp: Scale
    left_out: dict[str, int]
    nucleated: NDArray[np.float32]

    def only(self, keep: NDArray[np.bool_], why: str) -> Cells:
        """Some of them, the others left out for a reason."""
        left_out = self.left_out | ({why: int((~keep).sum())} if not keep.all() else {})
        labels = tuple(label for label, is_kept in zip(self.labels, keep, strict=True) if is_kept)
        return replace(self, found=self.found[keep], labels=labels, left_out=left_out)


def true_cells(dataset: Dataset) -> list[Cells]:
    """The white cells that people boxed; those to be ignored are left out.

    Raises
    ------
    ScaleError
        If a smear with cells has no µm/px.
    """
    cells = []
    for sample in dataset:
        truth = (sample.truth or Detections.empty()).with_classes(*NUCLEATED)
        ignored = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore
        reasons = {"to be ignored": int(ignored.sum())}
        places = _places(truth, sample.mpp)
        cells.append(_on_picture(sample, sample.mpp, truth[~ignored], _names(truth[~ignored].label), reasons, places))
    return cells


def found_cells(dataset: Dataset, predictions: Predictions) -> list[Cells]:
    """The white cells that a detector finds at its operating point, matched with the truth where there is one.

    A detection on a cell to be ignored is left out. One that matches no cell is `NOT_A_CELL` only where all white cells
    are annotated with a box; else nobody said what it is.
    """
    thresholds = {name: value for name, value in predictions.thresholds.items() if name in NUCLEATED}
    perhaps = {name: min(value, _PERHAPS) for name, value in thresholds.items()}
    scales: Sequence[Scale | None] = predictions.mpp or [sample.mpp for sample in dataset]
    cells = []
    for sample, candidates, mpp in zip(dataset, predictions.candidates, scales, strict=True):
        found = candidates[candidates.above_threshold(thresholds)]
        truth = (sample.truth or Detections.empty()).with_classes(*NUCLEATED)
        places = np.concatenate([candidates[candidates.above_threshold(perhaps)].boxes_xyxy, _places(truth, mpp)])
        boxed = np.asarray(~np.isnan(truth.boxes_xyxy).any(axis=1))
        complete = sample.truth is not None and "wbc" in sample.annotated and bool(boxed.all())
        truth = truth[boxed]
        partner = _partners(found, truth)
        ignored = np.zeros(len(truth) + 1, bool)  # the last entry serves those without a partner
        ignored[:-1] = False if truth.ignore is None else truth.ignore
        keep = ~ignored[partner]
        names = np.array([*_names(truth.label), NOT_A_CELL if complete else ""])
        types = np.array([*(truth.cell_type if truth.cell_type is not None else [""] * len(truth)), ""])
        found, partner = found[keep].with_columns(cell_type=types[partner[keep]]), partner[keep]
        reasons = {"to be ignored": int((~keep).sum())}
        cells.append(_on_picture(sample, mpp, found, names[partner].tolist(), reasons, places))
    return cells


def _partners(found: Detections, truth: Detections) -> NDArray[np.int64]:
    """Row of the cell that each detection matches, whatever its class; -1 for none."""
    overlap = boxes.iou_matrix(found.boxes_xyxy, truth.boxes_xyxy)
    partner, free = np.full(len(found), -1), np.ones(len(truth), bool)
    rows, columns = np.nonzero(overlap >= IOU)
    for i in np.argsort(-overlap[rows, columns], kind="stable"):  # the closest pairs first, each cell once
        if partner[rows[i]] < 0 and free[columns[i]]:
            partner[rows[i]], free[columns[i]] = columns[i], False
    return partner


def _places(truth: Detections, mpp: Scale | None) -> NDArray[np.float32]:
    """Boxes (n, 4) of annotated cells; of those that were only pointed at, a square that no cell reaches beyond."""
    if truth.point_xy is None or mpp is None:
        return truth.boxes_xyxy
    half = LARGEST_CELL_UM / 2 / np.array(mpp, np.float32)
    around = np.concatenate([truth.point_xy - half, truth.point_xy + half], axis=1)
    return np.where(np.isnan(truth.boxes_xyxy), around, truth.boxes_xyxy)


def _names(label: NDArray[np.int64]) -> list[str]:
    return [CELL_CLASSES[i] for i in label]


def off_marks(cells: Cells, marks: Sequence[Box]) -> Cells:
    """Cells whose crops show nothing of burnt-in marks (scale bars, arrows): these may tell what kind of smear it is.

    Parameters
    ----------
    cells : Cells
    marks : sequence of (x1, y1, x2, y2)
        In pixels of the smear.
    """
    shown = np.array([window(tuple(box), cells.mpp) for box in cells.found.boxes_xyxy.tolist()]).reshape(-1, 4)
    clear = np.ones(len(shown), bool)
    for x1, y1, x2, y2 in marks:
        clear &= (shown[:, 0] >= x2) | (shown[:, 2] <= x1) | (shown[:, 1] >= y2) | (shown[:, 3] <= y1)
    return cells.only(clear, "with a mark in the crop")


def negative_control_cells(sample: Sample, cells: Cells, probe: str, marks: Sequence[Box] = ()) -> Cells:
    """Windows in the place of cells, for a shortcut probe (see `probes.windows`); cells without one are left out.

    Elsewhere, what is coloured like a nucleus (smudges, cells that the detector misses) is no free place either.

    Raises
    ------
    ImageError
        If the smear cannot be read.
    """
    taken, nucleated = np.array(marks, np.float32).reshape(-1, 4), cells.nucleated
    if probe == "elsewhere" and len(cells.found):
        nuclei = segment_cells(read_image(sample.path), cells.mpp)
        nucleated = np.concatenate([nucleated, nuclei.boxes_xyxy])
    found = windows(probe, cells.found.boxes_xyxy, (sample.size_wh, cells.mpp), nucleated, taken)
    placed = replace(cells, found=cells.found.with_columns(boxes_xyxy=found))
    return placed.only(np.asarray(~np.isnan(found).any(axis=1)), "without a window to cut out")


def _on_picture(
    sample: Sample,
    mpp: Scale | None,
    cells: Detections,
    labels: Sequence[str],
    reasons: dict[str, int],
    nucleated: NDArray[np.float32],
) -> Cells:
    """Cells cut to the picture; those without a box there are left out."""
    xyxy = boxes.clip(cells.boxes_xyxy, sample.size_wh)
    pointed = np.isnan(xyxy).any(axis=1)
    keep = np.asarray(~pointed & (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1))
    if mpp is None and keep.any():
        raise ScaleError(f"{sample.path}: µm/px unknown; give it with --mpp, or measure it with --mpp auto")
    reasons |= {"without a box": int(pointed.sum()), "off the picture": int((~keep & ~pointed).sum())}
    kept = cells.with_columns(boxes_xyxy=xyxy)[keep]
    chosen = tuple(label for label, is_kept in zip(labels, keep, strict=True) if is_kept)
    return Cells(kept, chosen, mpp or (1.0, 1.0), {why: n for why, n in reasons.items() if n}, nucleated)


def write_crops(
    dataset: Dataset,
    cells: Sequence[Cells],
    folder: Path,
    how: Cut = Cut(),
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[CropRow], list[str]]:
    """Cut all cells out, at the resolution of their smears, into a folder that is there and empty.

    Parameters
    ----------
    dataset : Dataset
    cells : sequence of Cells
        One for each smear.
    folder : Path
        Gets the crops as PNG, `TABLE` and `RECORD`.
    how : Cut
        With a probe, `cells` are its windows (see `negative_control_cells`).
    progress : callable
        Called once a smear.

    Returns
    -------
    rows : list of CropRow
    failed : list of str
        One line for each smear that cannot be read.
    """
    rows: list[CropRow] = []
    failed = []
    for sample, mine in zip(dataset, cells, strict=True):
        try:
            rows += list(_write_smear(dataset, sample, mine, how, (folder, len(rows))))
        except ImageError as error:
            failed.append(str(error))
        progress()
    table = io.StringIO()
    writer = csv.DictWriter(table, [f.name for f in fields(CropRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(folder / TABLE, table.getvalue())
    record = {"notice": RESEARCH_USE, "blastdet": blastdet.__version__, "dataset": dataset.name, "crops": len(rows)}
    record |= {"context": CONTEXT, **asdict(how), "failed": failed}
    write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return rows, failed


def _write_smear(
    dataset: Dataset, sample: Sample, cells: Cells, how: Cut, place: tuple[Path, int]
) -> Iterator[CropRow]:
    """Crops of one smear, into a folder, numbered from there on."""
    found, (folder, start) = cells.found, place
    if not len(found):
        return
    types = found.cell_type if found.cell_type is not None else [""] * len(found)
    with normalize_stain(open_smear(sample.path), how.colour) as source:
        for i, box in enumerate(found.boxes_xyxy.tolist()):
            name = f"{start + i:06d}.png"
            write_image(folder / name, crop_of(how.probe, source, tuple(box), cells.mpp))
            x1, y1, x2, y2 = (round(v, 2) for v in box)
            yield CropRow(
                crop=name,
                source=dataset.file_name(sample),
                group=sample.group or "",
                cluster=sample.cluster or "",
                split=sample.split or "",
                smear_label=sample.label or "",
                label=cells.labels[i],
                cell_type=str(types[i]),
                x1=x1,
                y1=y1,
                x2=x2,
                y2=y2,
                score=round(float(found.score[i]), 4),
                mpp=float(f"{min(cells.mpp):.6g}"),
            )


def read_table(folder: Path) -> list[CropRow]:
    """The table of a folder of crops.

    Raises
    ------
    FormatError
        If there is none, a column is missing, a number is none, a split unknown, or a crop missing or named twice.
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
            raise FormatError(f"{path}: line {number}: numbers expected in x1, y1, x2, y2, score and mpp")
        if not 0.001 <= numbers["mpp"] < 100:
            raise FormatError(f"{path}: line {number}: mpp {numbers['mpp']} found, 0.001 to 100 µm per pixel expected")
        if words["split"] not in ("", *SPLITS):
            raise FormatError(f"{path}: line {number}: split {words['split']!r} found, train, val or test expected")
        if words["crop"] not in there:
            raise FormatError(f"{path}: line {number}: {words['crop'][:80]}: no such crop in {folder}")
        there.remove(words["crop"])  # a second time it would be counted twice
        rows.append(CropRow(**words, **numbers))  # type: ignore[arg-type]
    return rows


def cut_of(folder: Path) -> Cut:
    """How a folder of crops was cut, as its record says; cells as they are where it has none.

    Raises
    ------
    FormatError
        If the record names another colour or probe.
    """
    path = folder / RECORD
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise FormatError(f"{path}: a record of blastdet crops expected")
    colour, probe = record.get("colour", "as it is"), record.get("probe", "")
    if colour not in ("as it is", "canonical"):
        raise FormatError(f"{path}: colour {colour!r} found, canonical or 'as it is' expected")
    if probe not in ("", *NEGATIVE_CONTROLS):
        raise FormatError(f"{path}: probe {probe!r} found, one of {', '.join(NEGATIVE_CONTROLS)} or none expected")
    return Cut(str(colour), str(probe))
