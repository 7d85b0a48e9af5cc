"""Corrections applied to the truth of a dataset."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.corrections import Box, Correction, read_corrections

_SAME_PX = 0.5
"""Boxes whose sides differ by at most this are the same box."""

_NEAR_PX = _SAME_PX + 1e-6  # rounding loses less


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
        Number of cells classified (they were uncertain), relabelled (another class or type), moved, added, ignored or
        counted again, deleted and confirmed as they were; of classes unannotated; of corrections of images that are
        not in the dataset.
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


class _Boxes:
    """Boxes by where they lie: those that may be the same as another are found without a look at all of them."""

    def __init__(self) -> None:
        self._at: defaultdict[tuple[int, ...], dict[int, Box]] = defaultdict(dict)

    def add(self, box: Box, row: int) -> None:
        self._at[tuple(map(math.floor, box))][row] = box

    def remove(self, box: Box, row: int) -> None:
        del self._at[tuple(map(math.floor, box))][row]

    def near(self, box: Box) -> list[tuple[int, Box]]:
        """Rows, in order, and boxes of all that are the same but for rounding."""
        x1, y1, x2, y2 = box
        sides = ({math.floor(side - _NEAR_PX), math.floor(side), math.floor(side + _NEAR_PX)} for side in box)
        return sorted(
            (row, other)
            for place in product(*sides)
            for row, other in self._at.get(place, {}).items()
            if abs(other[0] - x1) <= _NEAR_PX
            and abs(other[1] - y1) <= _NEAR_PX
            and abs(other[2] - x2) <= _NEAR_PX
            and abs(other[3] - y2) <= _NEAR_PX
        )


def _last_per_cell(corrections: Sequence[Correction]) -> list[Correction]:
    last: dict[str, dict[int, Correction]] = {}
    boxes: defaultdict[str, _Boxes] = defaultdict(_Boxes)
    of_class: dict[tuple[str, str], int] = {}
    for row, new in enumerate(corrections):
        image, box = new.image_key, new.box_xyxy
        some, known = last.setdefault(image, {}), boxes[image]
        if box is None:
            some.pop(of_class.get((image, new.old_class), -1), None)
            of_class[image, new.old_class] = row
        else:
            for one, earlier in known.near(box):
                if _is_same(earlier, box):
                    known.remove(earlier, one)
                    del some[one]
        if new.op != "undo":
            some[row] = new
            if box is not None:
                known.add(box, row)
    return [one for some in last.values() for one in some.values()]


def _is_same(a: Box, b: Box) -> bool:
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) <= _SAME_PX


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
    rows = _rows(sample, truth, cells)
    added = [(one, box) for (one, box), row in zip(cells, rows, strict=True) if row < 0 and _adds_cell(one)]
    columns = _Columns.of(_with_cells(truth, added))
    n_known = n_cells = len(truth)
    for (correction, _), row in zip(cells, rows, strict=True):
        if row >= 0:
            columns.change(row, correction, counts)
        elif _adds_cell(correction):
            columns.change(n_cells, correction, counts, is_new=True)
            n_cells += 1
    counts["added"] += n_cells - n_known
    changed = columns.cells()
    is_bare = sample.truth is None and not len(changed) and not sample.annotated
    return sample if is_bare else replace(sample, truth=changed)


def _as_label(correction: Correction) -> Correction:
    """Of an image without labels: that what a model found is right is a label."""
    if correction.op != "ok" or correction.old_class not in CELL_CLASSES:
        return correction
    return replace(correction, op="class", new_class=correction.old_class)


def _rows(sample: Sample, truth: Detections, cells: Sequence[tuple[Correction, Box]]) -> list[int]:
    """Row of each corrected cell in the truth; -1 where there is none."""
    there = _Truth(truth)
    at_first = [there.find(box, one.old_class) for one, box in cells]
    taken = set(at_first)
    rows = []
    for (one, box), row in zip(cells, at_first, strict=True):
        _check_on_image(sample, one, one.new_box_xyxy or box)
        if not one.image_sha256:
            _check_fits(there, one, box)
        if row < 0 and one.new_box_xyxy is not None:  # moved before, unless another correction is about that cell
            moved = there.find(one.new_box_xyxy, one.new_class)
            row = -1 if moved in taken else moved
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


def _adds_cell(correction: Correction) -> bool:
    """Whether a correction of a cell that is not there yet adds it; a region to ignore may not be there any more."""
    return correction.op not in ("delete", "ok") and (correction.new_class or correction.old_class) in CELL_CLASSES


def _with_cells(truth: Detections, added: Sequence[tuple[Correction, Box]]) -> Detections:
    """Cells with those that reviewers added at the end."""
    if not added:
        return truth
    label = [CELL_CLASSES.index(one.new_class or one.old_class) for one, _ in added]
    new = Detections([box for _, box in added], label=label, origin=["human"] * len(added))
    return Detections.concatenate([truth, new])


@dataclass
class _Columns:
    """Columns of cells while they are corrected: new arrays for each correction of thousands would take minutes."""

    before: Detections
    boxes: NDArray[np.float32]
    label: NDArray[np.int64]
    ignore: NDArray[np.bool_]
    types: NDArray[np.str_]
    is_human: NDArray[np.bool_]
    is_deleted: NDArray[np.bool_]
    has_ignore: bool
    has_types: bool

    @classmethod
    def of(cls, cells: Detections) -> _Columns:
        n, ignore, types = len(cells), cells.ignore, cells.cell_type
        return cls(
            cells,
            cells.boxes_xyxy.copy(),
            cells.label.copy(),
            ignore=np.zeros(n, bool) if ignore is None else ignore.copy(),
            types=np.full(n, "", "<U20") if types is None else types.astype("<U20"),
            is_human=np.zeros(n, bool),
            is_deleted=np.zeros(n, bool),
            has_ignore=ignore is not None,
            has_types=types is not None,
        )

    def change(self, row: int, correction: Correction, counts: Counter[str], *, is_new: bool = False) -> None:
        """Correct the cell in `row`."""
        if correction.op == "delete":
            counts["deleted"] += not self.is_deleted[row]
            self.is_deleted[row] = True
            return
        self.is_human[row] = True
        box = correction.new_box_xyxy
        if correction.op == "ok" and box is None:
            counts["confirmed"] += 1
            return
        if box is not None:
            counts["moved"] += bool(np.abs(self.boxes[row] - box).max() > _SAME_PX)
            self.boxes[row] = box
        if correction.op == "ignore":
            counts["ignored"] += not self.ignore[row]
            self.ignore[row] = self.has_ignore = True
        elif correction.op == "class":
            self._classify(row, correction, counts, is_new)

    def _classify(self, row: int, correction: Correction, counts: Counter[str], is_new: bool) -> None:
        wanted, unsure = CELL_CLASSES.index(correction.new_class), self.before.unsure
        if not is_new and unsure is not None and unsure[row]:  # the model gave it no type that could be confirmed
            counts["classified"] += 1
        elif not is_new and (self.label[row] != wanted or correction.new_type != str(self.types[row])):
            counts["relabelled"] += 1
        elif not is_new and not self.ignore[row] and correction.new_box_xyxy is None:
            counts["confirmed"] += 1
        counts["counted again"] += bool(self.ignore[row])
        self.label[row], self.ignore[row] = wanted, False
        self.types[row] = correction.new_type  # of another class than before, it has no type any more
        self.has_types = self.has_types or bool(correction.new_type)

    def cells(self) -> Detections:
        """The corrected cells, without those that were deleted."""
        columns: dict[str, NDArray[Any]] = {"boxes_xyxy": self.boxes, "label": self.label}
        if self.has_types:
            columns["cell_type"] = self.types
        if self.has_ignore:
            columns["ignore"] = self.ignore
        if self.is_human.any():
            origin = "" if self.before.origin is None else self.before.origin.astype("<U7")
            columns["origin"] = np.where(self.is_human, "human", origin)
        return self.before.with_columns(**columns)[~self.is_deleted]


def _check_on_image(sample: Sample, correction: Correction, box: Box) -> None:
    """Refuse a box that is not on the image or is smaller than a pixel."""
    width, height = sample.size_wh
    x1, y1, x2, y2 = box
    if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1 or x2 - x1 < 1 or y2 - y1 < 1:
        sides = [round(side, 1) for side in box]
        raise FormatError(f"{correction.image}: expected a box on the image of {width} x {height} px, got {sides}")


def _check_fits(there: _Truth, correction: Correction, box: Box) -> None:
    """Refuse a correction of a cell that is not there, or is there twice."""
    n = len(there.candidates(box, correction.old_class, strict=True)[0])
    if (correction.old_class or correction.op == "delete") and n != 1:
        what = correction.old_class if correction.old_class in CELL_CLASSES else "cell"
        raise FormatError(f"{correction.image}: expected one {what} with the box {list(box)}, got {n}")


class _Truth:
    """Cells that are found by their boxes."""

    def __init__(self, truth: Detections) -> None:
        self._truth, self._places = truth, _Boxes()
        for row, (x1, y1, x2, y2) in enumerate(truth.boxes_xyxy.tolist()):
            if not math.isnan(x1):  # known by its centre only
                self._places.add((x1, y1, x2, y2), row)

    def find(self, box: Box, name: str) -> int:
        """Row of the cell with this box, preferably of class `name`, or -1."""
        rows, distance = self.candidates(box, name)
        return int(rows[np.argmin(distance)]) if len(rows) else -1

    def candidates(self, box: Box, name: str, strict: bool = False) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows of the cells with this box, and by how many pixels they differ."""
        sides = np.array(box, np.float32)
        x1, y1, x2, y2 = sides.tolist()
        rows = np.array([row for row, _ in self._places.near((x1, y1, x2, y2))], np.int64)
        distance = np.abs(self._truth.boxes_xyxy[rows] - sides).max(axis=1, initial=0)
        kept = distance <= _SAME_PX
        if name in CELL_CLASSES:
            same = kept & (self._truth.label[rows] == CELL_CLASSES.index(name))
            kept = same if strict or same.any() else kept
        return rows[kept], distance[kept]
