"""Corrections applied to the truth of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.corrections import Box, Correction, read_corrections

_SAME_PX = 0.5
"""Boxes whose sides differ by at most this are the same box."""


def apply_corrections(dataset: Dataset, path: Path) -> Dataset:
    """`dataset` with the corrections of a file applied.

    Raises `FormatError` if the file is faulty, no correction is for an image of `dataset`, or a correction without the
    sha256 of its image does not fit.

    Returns
    -------
    Dataset
        With one note that counts the changes; see `replay_corrections`.
    """
    path = Path(path)
    corrections = read_corrections(path)
    try:
        corrected, counts = replay_corrections(dataset, corrections, f"corrections of {path.name}")
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    others = counts.get("of other images", 0)
    if others and others == len(_last_per_cell(corrections)):
        raise FormatError(f"{path}: expected corrections of images in {dataset.name}, got {len(corrections)} of others")
    return corrected


def replay_corrections(
    dataset: Dataset, corrections: Sequence[Correction], note: str = "corrected by review"
) -> tuple[Dataset, Mapping[str, int]]:
    """Apply corrections to the truth of a dataset.

    Corrections of images identified by sha256 may be applied again: this changes nothing more. A correction that gives
    only the name of its image must fit exactly, because another image may have the same name. Raises `FormatError` if a
    box is not on its image, or a correction of a named image does not fit.

    Parameters
    ----------
    corrections : sequence of Correction
        The last one of each cell counts.
    note : str
        First words of the note that counts the changes.

    Returns
    -------
    dataset : Dataset
        Corrected and confirmed cells have origin ``human``. A sample without truth gets one if a cell is added.
    counts : mapping
        Number of cells relabelled (another class or type), moved, added, ignored or counted again, deleted and
        confirmed as they were; of classes unannotated; of corrections of images that are not in the dataset.
    """
    corrections = _last_per_cell(corrections)
    by_image: dict[str, list[Correction]] = {}
    for one in corrections:
        by_image.setdefault(one.image_key, []).append(one)
    _check_names(dataset, corrections)
    hashed = any(one.image_sha256 for one in corrections)
    counts: Counter[str] = Counter()
    samples: list[Sample] = []
    known: set[str] = set()
    for sample in dataset:
        keys = (sample.path.name, sha256_of(sample.path) if hashed else "")
        known.update(keys)
        samples.append(_correct(sample, [one for key in keys for one in by_image.get(key, ())], counts))
    counts["of other images"] = sum(len(some) for key, some in by_image.items() if key not in known)
    before, after = (sum(count_cells(s.truth) for s in side) for side in (dataset, samples))
    changes = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()) if n)
    text = f"{note}: {before} cells before, {after} after; {changes}"
    notes = (*dataset.notes, text) if changes else dataset.notes
    return replace(dataset, samples=tuple(samples), notes=notes), +counts


def correct_sample(sample: Sample, corrections: Sequence[Correction]) -> tuple[Sample, Mapping[str, int]]:
    """One sample with its corrections applied, and what they changed; see `replay_corrections`.

    Parameters
    ----------
    sample : Sample
        Its file is not read.
    corrections : sequence of Correction
        All of this image. The last one of each cell counts.

    Raises
    ------
    FormatError
        If a box is not on the image.
    """
    counts: Counter[str] = Counter()
    return _correct(sample, _last_per_cell(corrections), counts), +counts


def count_cells(truth: Detections | None) -> int:
    """Number of cells, ignored ones left out."""
    if truth is None:
        return 0
    return len(truth) if truth.ignore is None else int((~truth.ignore).sum())


def _last_per_cell(corrections: Sequence[Correction]) -> list[Correction]:
    last: dict[str, list[Correction]] = {}
    for new in corrections:
        some = last.setdefault(new.image_key, [])
        some[:] = [one for one in some if not _same_cell(one, new)]
        if new.op != "undo":
            some.append(new)
    return [one for some in last.values() for one in some]


def _same_cell(a: Correction, b: Correction) -> bool:
    if a.box_xyxy is None or b.box_xyxy is None:
        return a.key == b.key
    return max(abs(x - y) for x, y in zip(a.box_xyxy, b.box_xyxy, strict=True)) <= _SAME_PX


def _check_names(dataset: Dataset, corrections: Sequence[Correction]) -> None:
    number = Counter(sample.path.name for sample in dataset if sample.truth is not None)
    for one in corrections:
        if not one.image_sha256 and (n := number[one.image]) != 1:
            raise FormatError(f"{one.image}: expected one annotated image of this name in {dataset.name}, got {n}")


def _correct(sample: Sample, corrections: Sequence[Correction], counts: Counter[str]) -> Sample:
    """A sample with all of its corrections."""
    for one in corrections:
        if one.op == "unannotate":
            sample = _unannotate(sample, one, counts)
        elif one.op == "annotate" and one.old_class not in sample.annotated:
            counts["complete classes, summed over images"] += 1
            annotated = {*sample.annotated, one.old_class}
            sample = replace(sample, annotated=tuple(name for name in CELL_CLASSES if name in annotated))
    if sample.truth is None:
        corrections = [_as_label(one) for one in corrections]
    cells = [(one, one.box_xyxy) for one in corrections if one.box_xyxy is not None]
    if not cells:  # an image looked at without finding a cell has an empty truth
        is_new = sample.truth is None and sample.annotated
        return replace(sample, truth=Detections.empty()) if is_new else sample
    truth = sample.truth if sample.truth is not None else Detections.empty()
    deleted = np.zeros(len(truth), bool)
    changed = truth
    for (correction, box), row in zip(cells, _rows(sample, truth, cells), strict=True):
        if correction.op != "delete":
            changed = _change(changed, row, correction, box, counts)
        elif row >= 0:
            counts["deleted"] += not deleted[row]
            deleted[row] = True
    changed = changed[~np.pad(deleted, (0, len(changed) - len(deleted)))]
    is_bare = sample.truth is None and not len(changed) and not sample.annotated
    return sample if is_bare else replace(sample, truth=changed)


def _as_label(correction: Correction) -> Correction:
    """Of an image without labels: that what a model found is right is a label."""
    if correction.op != "ok" or correction.old_class not in CELL_CLASSES:
        return correction
    return replace(correction, op="class", new_class=correction.old_class)


def _rows(sample: Sample, truth: Detections, cells: Sequence[tuple[Correction, Box]]) -> list[int]:
    """Row of each corrected cell in the truth; -1 where there is none."""
    at_first = [_find(truth, box, one.old_class) for one, box in cells]
    rows = []
    for (one, box), row in zip(cells, at_first, strict=True):
        _check_on_image(sample, one, one.new_box_xyxy or box)
        if not one.image_sha256:
            _check_fits(truth, one, box)
        if row < 0 and one.new_box_xyxy is not None:  # moved before, unless another correction is about that cell
            moved = _find(truth, one.new_box_xyxy, one.new_class)
            row = -1 if moved in at_first else moved
        rows.append(row)
    return rows


def _unannotate(sample: Sample, correction: Correction, counts: Counter[str]) -> Sample:
    name = correction.old_class
    if name not in sample.annotated:
        if not correction.image_sha256:
            raise FormatError(f"{correction.image}: expected {name} to be an annotated class, got {sample.annotated}")
        return sample
    counts["unannotated"] += 1
    return replace(sample, annotated=tuple(one for one in sample.annotated if one != name))


def _change(truth: Detections, row: int, correction: Correction, box: Box, counts: Counter[str]) -> Detections:
    """Cells with the one in `row` corrected; -1 for a cell that is not there yet."""
    if correction.op == "ok" and (row < 0 or correction.new_box_xyxy is None):
        counts["confirmed"] += row >= 0
        return truth if row < 0 else _with_human(truth, row)
    is_new = row < 0
    if is_new:
        name = correction.new_class or correction.old_class
        if name not in CELL_CLASSES:  # a region to ignore that is not there any more
            return truth
        new = Detections([box], label=[CELL_CLASSES.index(name)], origin=["human"])
        truth, row = Detections.concatenate([truth, new]), len(truth)
        counts["added"] += 1
    boxes, label = truth.boxes_xyxy.copy(), truth.label.copy()
    ignore = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore.copy()
    if correction.new_box_xyxy is not None:
        counts["moved"] += bool(np.abs(boxes[row] - correction.new_box_xyxy).max() > _SAME_PX)
        boxes[row] = correction.new_box_xyxy
    if correction.op == "ignore":
        counts["ignored"] += not ignore[row]
        ignore[row] = True
    elif correction.op == "class":
        wanted = CELL_CLASSES.index(correction.new_class)
        of_type = "" if truth.cell_type is None else str(truth.cell_type[row])
        same = not is_new and label[row] == wanted and correction.new_type == of_type
        counts["relabelled"] += not same and not is_new
        counts["confirmed"] += same and not ignore[row] and correction.new_box_xyxy is None
        counts["counted again"] += bool(ignore[row])
        label[row], ignore[row] = wanted, False
    changed = _with_type(truth.with_columns(boxes_xyxy=boxes, label=label), row, correction)
    if truth.ignore is not None or ignore.any():
        changed = changed.with_columns(ignore=ignore)
    return _with_human(changed, row)


def _with_type(truth: Detections, row: int, correction: Correction) -> Detections:
    """Cells with the type that the reviewer gave one; of another class than before, it has no type any more."""
    if correction.op != "class" or (not correction.new_type and truth.cell_type is None):
        return truth
    types = np.full(len(truth), "", "<U20") if truth.cell_type is None else truth.cell_type.astype("<U20")
    types[row] = correction.new_type
    return truth.with_columns(cell_type=types)


def _with_human(truth: Detections, row: int) -> Detections:
    origin = np.full(len(truth), "", "<U7") if truth.origin is None else truth.origin.astype("<U7")
    origin[row] = "human"
    return truth.with_columns(origin=origin)


def _check_on_image(sample: Sample, correction: Correction, box: Box) -> None:
    """Refuse a box that is not on the image or is smaller than a pixel."""
    width, height = sample.size_wh
    x1, y1, x2, y2 = box
    if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1 or x2 - x1 < 1 or y2 - y1 < 1:
        sides = [round(side, 1) for side in box]
        raise FormatError(f"{correction.image}: expected a box on the image of {width} x {height} px, got {sides}")


def _check_fits(truth: Detections, correction: Correction, box: Box) -> None:
    """Refuse a correction of a cell that is not there, or is there twice."""
    n = len(_candidates(truth, box, correction.old_class, strict=True))
    if (correction.old_class or correction.op == "delete") and n != 1:
        what = correction.old_class if correction.old_class in CELL_CLASSES else "cell"
        raise FormatError(f"{correction.image}: expected one {what} with the box {list(box)}, got {n}")


def _find(truth: Detections, box: Box, name: str) -> int:
    """Row of the cell with this box, preferably of class `name`, or -1."""
    rows = _candidates(truth, box, name)
    return int(rows[np.argmin(_distance(truth, box)[rows])]) if len(rows) else -1


def _candidates(truth: Detections, box: Box, name: str, strict: bool = False) -> NDArray[np.int64]:
    rows = np.flatnonzero(_distance(truth, box) <= _SAME_PX)
    if name not in CELL_CLASSES:
        return rows
    same = rows[truth.label[rows] == CELL_CLASSES.index(name)]
    return same if strict or len(same) else rows


def _distance(truth: Detections, box: Box) -> NDArray[np.float32]:
    return np.asarray(np.abs(truth.boxes_xyxy - np.array(box, np.float32)).max(axis=1, initial=0), np.float32)
