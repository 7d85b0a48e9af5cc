"""Folders of crops: cutting cells out of images (``blastdet crops``), and the table that classifiers learn from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import blastdet
from blastdet.core import boxes
from blastdet.core.atomic_io import write_text
from blastdet.core.constants import LARGEST_CELL_UM, MATCH_IOU, RESEARCH_USE
from blastdet.core.errors import ImageError, ScaleError
from blastdet.core.types import CELL_CLASSES, NUCLEATED, Dataset, Detections, Sample, Scale
from blastdet.datasets.cropping.crop_table import NOT_A_CELL, RECORD, TABLE, CropRow, Cut
from blastdet.datasets.cropping.negative_controls import crop_of, windows
from blastdet.imaging.cell_crops import CONTEXT, Box, window
from blastdet.imaging.io import open_smear, read_image, write_image
from blastdet.imaging.isolated_cells import cell_box
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.segmentation.nuclei import segment_cells

_POSSIBLE_CELL = 0.1
"""Detections with this score are too weak to be cut out, but may be cells: a negative control avoids them."""


@dataclass(frozen=True)
class Cells:
    """Cells of one image to be cut out.

    Parameters
    ----------
    found : Detections
        Boxes, clipped to the image.
    labels : tuple of str
        See `CropRow`.
    mpp : (float, float)
    left_out : dict of str to int
        Reason -> number of cells that are left out for it.
    nucleated : float32 (m, 4)
        Boxes of everything that may be a nucleated cell: annotations and detections, including those left out.
    """

    found: Detections
    labels: tuple[str, ...]
    mpp: Scale
    left_out: dict[str, int]
    nucleated: NDArray[np.float32]

    def only(self, keep: NDArray[np.bool_], why: str) -> Cells:
        """Keep some of the cells; the others are left out for the reason `why`."""
        left_out = self.left_out | ({why: int((~keep).sum())} if not keep.all() else {})
        labels = tuple(label for label, is_kept in zip(self.labels, keep, strict=True) if is_kept)
        return replace(self, found=self.found[keep], labels=labels, left_out=left_out)


def annotated_cells(dataset: Dataset) -> list[Cells]:
    """The annotated white cells of each image, without those to be ignored.

    Raises
    ------
    ScaleError
        If an image with cells has no µm/px.
    """
    cells = []
    for sample in dataset:
        truth = _boxed_if_isolated(sample, (sample.truth or Detections.empty()).with_classes(*NUCLEATED))
        ignored = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore
        reasons = {"ignored": int(ignored.sum())}
        places = _places(truth, sample.mpp)
        cells.append(_in_image(sample, sample.mpp, truth[~ignored], _names(truth[~ignored].label), reasons, places))
    return cells


def _boxed_if_isolated(sample: Sample, truth: Detections) -> Detections:
    """The one cell of an image, given as a point, with the box that its plain ground shows."""
    if len(truth) != 1 or not np.isnan(truth.boxes_xyxy).any():
        return truth
    box = cell_box(read_image(sample.path))
    return truth if box is None else truth.with_columns(boxes_xyxy=[box])


def detected_cells(
    dataset: Dataset,
    candidates: Sequence[Detections],
    thresholds: Mapping[str, float],
    mpp: Sequence[Scale] | None = None,
) -> list[Cells]:
    """The detected white cells of each image, with the labels of the annotated cells that they match.

    Parameters
    ----------
    dataset : Dataset
    candidates : sequence of Detections
        One for each image, including detections with low scores.
    thresholds : mapping
        Class -> score from which a detection is cut out.
    mpp : sequence of (float, float), optional
        µm/px of each image. Default: that of the dataset.

    Returns
    -------
    list of Cells
        Detections of cells to be ignored are left out. A detection without a match is `NOT_A_CELL` only if all white
        cells of the image are annotated with a box; otherwise its label is empty.

    Raises
    ------
    ScaleError
        If an image with cells has no µm/px.
    """
    thresholds = {name: value for name, value in thresholds.items() if name in NUCLEATED}
    possible = {name: min(value, _POSSIBLE_CELL) for name, value in thresholds.items()}
    scales: Sequence[Scale | None] = mpp or [sample.mpp for sample in dataset]
    cells = []
    for sample, found, scale in zip(dataset, candidates, scales, strict=True):
        annotated = (sample.truth or Detections.empty()).with_classes(*NUCLEATED)
        places = np.concatenate([found[found.above_threshold(possible)].boxes_xyxy, _places(annotated, scale)])
        kept, labels, n_ignored = _labelled(sample, found[found.above_threshold(thresholds)], annotated)
        cells.append(_in_image(sample, scale, kept, labels, {"ignored": n_ignored}, places))
    return cells


def _labelled(sample: Sample, found: Detections, truth: Detections) -> tuple[Detections, list[str], int]:
    """Detections with the cell type and label of the annotated cell that each matches; number of ignored ones."""
    boxed = np.asarray(~np.isnan(truth.boxes_xyxy).any(axis=1))
    is_complete = sample.truth is not None and "wbc" in sample.annotated and bool(boxed.all())
    partner = _partners(found, truth)
    ignored = np.zeros(len(truth) + 1, bool)  # the last entry is for detections without a partner
    ignored[:-1] = False if truth.ignore is None else truth.ignore
    keep = ~ignored[partner]
    names = np.array([*_names(truth.label), NOT_A_CELL if is_complete else ""])
    types = np.array([*(truth.cell_type if truth.cell_type is not None else [""] * len(truth)), ""])
    kept = found[keep].with_columns(cell_type=types[partner[keep]])
    return kept, names[partner[keep]].tolist(), int((~keep).sum())


def _partners(found: Detections, truth: Detections) -> NDArray[np.int64]:
    """Index of the annotated cell that each detection matches, whatever its class; -1 for none.

    An annotated cell with a point only is matched by the detection that contains it, nearest to the point first.
    """
    overlap = boxes.iou_matrix(found.boxes_xyxy, truth.boxes_xyxy)
    if truth.point_xy is not None:
        overlap = np.where(
            np.isnan(truth.boxes_xyxy).any(axis=1), _closeness(found.boxes_xyxy, truth.point_xy), overlap
        )
    partner, free = np.full(len(found), -1), np.ones(len(truth), bool)
    rows, columns = np.nonzero(overlap >= MATCH_IOU)
    for i in np.argsort(-overlap[rows, columns], kind="stable"):  # closest pairs first, each cell once
        if partner[rows[i]] < 0 and free[columns[i]]:
            partner[rows[i]], free[columns[i]] = columns[i], False
    return partner


def _closeness(xyxy: NDArray[np.float32], point_xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 where a point is the centre of a box, down to `MATCH_IOU` at its sides, 0 outside; (boxes, points)."""
    centre, half = (xyxy[:, :2] + xyxy[:, 2:]) / 2, (xyxy[:, 2:] - xyxy[:, :2]) / 2
    apart = np.abs(point_xy[None] - centre[:, None]) / np.maximum(half, 1e-6)[:, None]
    away = apart.max(axis=2)
    return np.where(away <= 1, 1 - (1 - MATCH_IOU) * away, 0).astype(np.float32)


def _places(truth: Detections, mpp: Scale | None) -> NDArray[np.float32]:
    """Boxes (n, 4) of annotated cells; for a cell with a point only, a square as wide as the largest cell twice."""
    if truth.point_xy is None or mpp is None:
        return truth.boxes_xyxy
    half = LARGEST_CELL_UM / 2 / np.array(mpp, np.float32)
    around = np.concatenate([truth.point_xy - half, truth.point_xy + half], axis=1)
    return np.where(np.isnan(truth.boxes_xyxy), around, truth.boxes_xyxy)


def _names(label: NDArray[np.int64]) -> list[str]:
    return [CELL_CLASSES[i] for i in label]


def without_marks(cells: Cells, marks: Sequence[Box]) -> Cells:
    """Leave out cells whose crops show a burnt-in mark (scale bar, arrow), which could reveal the class of the image.

    Marks are (x1, y1, x2, y2) in pixels of the image.
    """
    shown = np.array([window(tuple(box), cells.mpp) for box in cells.found.boxes_xyxy.tolist()]).reshape(-1, 4)
    clear = np.ones(len(shown), bool)
    for x1, y1, x2, y2 in marks:
        clear &= (shown[:, 0] >= x2) | (shown[:, 2] <= x1) | (shown[:, 1] >= y2) | (shown[:, 3] <= y1)
    return cells.only(clear, "with a mark in the crop")


def negative_control_cells(sample: Sample, cells: Cells, control: str, marks: Sequence[Box] = ()) -> Cells:
    """Replace cells by windows of a negative control (see `windows`); cells without a window are left out.

    ``elsewhere`` also avoids everything with the colour of a nucleus, such as smudges and undetected cells. Raises
    `ImageError` if the image cannot be read.
    """
    taken, nucleated = np.array(marks, np.float32).reshape(-1, 4), cells.nucleated
    if control == "elsewhere" and len(cells.found):
        nuclei = segment_cells(read_image(sample.path), cells.mpp)
        nucleated = np.concatenate([nucleated, nuclei.boxes_xyxy])
    found = windows(control, cells.found.boxes_xyxy, (sample.size_wh, cells.mpp), nucleated, taken)
    placed = replace(cells, found=cells.found.with_columns(boxes_xyxy=found))
    return placed.only(np.asarray(~np.isnan(found).any(axis=1)), "without room for a window")


def _in_image(
    sample: Sample,
    mpp: Scale | None,
    cells: Detections,
    labels: Sequence[str],
    reasons: dict[str, int],
    nucleated: NDArray[np.float32],
) -> Cells:
    """Cells clipped to the image; cells without a box in it are left out."""
    xyxy = boxes.clip(cells.boxes_xyxy, sample.size_wh)
    pointed = np.isnan(xyxy).any(axis=1)
    keep = np.asarray(~pointed & (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1))
    if mpp is None and keep.any():
        raise ScaleError(f"{sample.path}: unknown µm/px. Pass --mpp, or estimate it with --mpp auto")
    reasons |= {"without a box": int(pointed.sum()), "outside the image": int((~keep & ~pointed).sum())}
    kept = cells[keep].with_columns(boxes_xyxy=xyxy[keep])
    chosen = tuple(label for label, is_kept in zip(labels, keep, strict=True) if is_kept)
    return Cells(kept, chosen, mpp or (1.0, 1.0), {why: n for why, n in reasons.items() if n}, nucleated)


def write_crops(
    dataset: Dataset,
    cells: Sequence[Cells],
    folder: Path,
    how: Cut = Cut(),  # noqa: B008  # frozen
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[CropRow], list[str]]:
    """Cut out all cells, at the resolution of their images, into an existing empty folder.

    Parameters
    ----------
    dataset : Dataset
    cells : sequence of Cells
        One for each image.
    folder : Path
        Receives the crops as PNG, `TABLE` and `RECORD`.
    how : Cut
        For a negative control, `cells` are its windows (see `negative_control_cells`).
    progress : callable
        Called after each image.

    Returns
    -------
    rows : list of CropRow
    failed : list of str
        One line for each image that cannot be read.
    """
    rows: list[CropRow] = []
    failed = []
    for sample, mine in zip(dataset, cells, strict=True):
        try:
            rows += list(_write_image_crops(dataset, sample, mine, how, (folder, len(rows))))
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


def _write_image_crops(
    dataset: Dataset, sample: Sample, cells: Cells, how: Cut, place: tuple[Path, int]
) -> Iterator[CropRow]:
    """Write the crops of one image; `place` is the folder and the number of the first crop."""
    found, (folder, start) = cells.found, place
    if not len(found):
        return
    types = found.cell_type if found.cell_type is not None else [""] * len(found)
    with normalize_stain(open_smear(sample.path), how.colour) as source:
        for i, box in enumerate(found.boxes_xyxy.tolist()):
            name = f"{start + i:06d}.png"
            write_image(folder / name, crop_of(how.negative_control, source, tuple(box), cells.mpp))
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
