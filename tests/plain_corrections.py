"""Corrections applied one after the other, each to new arrays: plain, slow, and what `apply_corrections` must equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Detections, Sample
from blastdet.datasets.apply_corrections import _as_label, _check_on_image, _unannotate
from blastdet.datasets.corrections import Box, Correction

_SAME_PX = 0.5


def plainly_corrected(sample: Sample, corrections: Sequence[Correction]) -> tuple[Sample, Counter[str]]:
    """As `correct_sample`."""
    counts: Counter[str] = Counter()
    return _correct(sample, _last_per_cell(corrections), counts), +counts


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
        was_unsure = not is_new and truth.unsure is not None and bool(truth.unsure[row])
        counts["classified"] += was_unsure
        counts["relabelled"] += not same and not is_new and not was_unsure
        counts["confirmed"] += same and not was_unsure and not ignore[row] and correction.new_box_xyxy is None
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
