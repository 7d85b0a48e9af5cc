"""Corrections of single cells as an append-only list: one JSON line each, stable across sessions and re-imports.

A cell is named by the sha256 of its picture and the box it had at first, in the truth or as a model drew it. The last
line about a cell holds. Replaying a file changes nothing that it has changed before.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample

OPERATIONS = ("class", "ignore", "delete", "ok", "undo")
"""What may be said of a cell: its class (and box), that it is not to be counted, that it is none, that it is right, and
that nothing is said of it any more."""

_SAME_PX = 0.5

Box = tuple[float, float, float, float]
Key = tuple[str, Box]


@dataclass(frozen=True)
class Correction:
    """What a person said of one cell.

    Parameters
    ----------
    who, when : str
        Name, and time as ISO 8601.
    image, image_sha256 : str
        File name, for people; sha256 of the file, which counts.
    box_xyxy : (float, float, float, float)
        The box that the cell had at first; of a cell drawn anew, the box drawn.
    op : str
        One of `OPERATIONS`.
    old_class, new_class : str
        Empty where there is none.
    new_box_xyxy : (float, float, float, float), optional
        Where the person moved the box to.
    model_sha256 : str
        Of the model whose detections were looked at; empty if there was none.
    """

    who: str
    when: str
    image: str
    image_sha256: str
    box_xyxy: Box
    op: str
    old_class: str = ""
    new_class: str = ""
    new_box_xyxy: Box | None = None
    model_sha256: str = ""

    @property
    def key(self) -> Key:
        """Which cell it is about."""
        x1, y1, x2, y2 = (round(side, 1) for side in self.box_xyxy)
        return self.image_sha256, (x1, y1, x2, y2)


def read(path: Path) -> list[Correction]:
    """All lines of a file, checked.

    Raises
    ------
    FormatError
        One line that names the file, the line, and what is wrong with it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # names may hold what splitlines breaks at
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_parsed(line, f"{path}: line {number}"))
    return found


def merged(files: Sequence[Sequence[Correction]]) -> tuple[list[Correction], int]:
    """Lines of several files in the order in which they were said, and on how many cells the files disagree.

    Lines of one file stay in their order, which counts there.
    """
    if len(files) == 1:
        return list(files[0]), 0
    ends = [{one.key: one for one in lines} for lines in files]
    keys = {key for end in ends for key in end}
    disagree = sum(
        len({(e[key].op, e[key].new_class, e[key].new_box_xyxy) for e in ends if key in e}) > 1 for key in keys
    )
    timed = []
    for lines in files:
        latest = _LONG_AGO
        for one in lines:
            latest = max(latest, _time(one.when))
            timed.append((latest, one))
    return [one for _, one in sorted(timed, key=lambda pair: pair[0])], disagree


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _time(when: str) -> datetime:
    try:
        time = datetime.fromisoformat(when)
    except ValueError:
        return _LONG_AGO
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _parsed(line: str, where: str) -> Correction:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise FormatError(f"{where}: an object expected")
    if unknown := row.keys() - Correction.__dataclass_fields__.keys():
        raise FormatError(f"{where}: {sorted(unknown)[0]!r:.60} is no entry of a correction")
    words = {key: row.get(key, "") for key in Correction.__dataclass_fields__ if not key.endswith("box_xyxy")}
    if bad := next((key for key, word in words.items() if not _is_text(word)), None):
        raise FormatError(f"{where}: {bad} {words[bad]!r:.60} found, text expected")
    if words["op"] not in OPERATIONS:
        raise FormatError(f"{where}: op {words['op']!r:.60} found, one of {', '.join(OPERATIONS)} expected")
    for key in ("old_class", "new_class"):
        needed = key == "new_class" and words["op"] == "class"
        if words[key] not in CELL_CLASSES and (needed or words[key]):
            raise FormatError(f"{where}: {key} {words[key]!r:.60} found, one of {', '.join(CELL_CLASSES)} expected")
    if not re.fullmatch(r"[0-9a-f]{64}", words["image_sha256"]):
        raise FormatError(f"{where}: image_sha256 {words['image_sha256']!r:.60} found, 64 hexadecimal digits expected")
    moved = row.get("new_box_xyxy")
    return Correction(
        **words,
        box_xyxy=_checked_box(row.get("box_xyxy"), where),
        new_box_xyxy=None if moved is None else _checked_box(moved, where),
    )


def _is_text(word: Any) -> bool:
    """Whether a value is a text that can be written as UTF-8: half of a surrogate pair cannot."""
    return isinstance(word, str) and not any("\ud800" <= letter <= "\udfff" for letter in word)


def _checked_box(box: Any, where: str) -> Box:
    numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and abs(v) < 1e9 for v in box)
    if not numbers or not (box[2] > box[0] and box[3] > box[1]):
        raise FormatError(f"{where}: box {box!r:.80} found, x1 < x2 and y1 < y2 expected")
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def append(path: Path, corrections: Iterable[Correction]) -> int:
    """Write what the file does not hold yet at its end, safe on disk before this returns; the number of new lines.

    Raises
    ------
    FormatError
        If the file cannot be read or written.
    """
    before = read(path) if path.is_file() else []
    known = {_said(correction) for correction in before}
    new = [correction for correction in corrections if _said(correction) not in known]
    if new:
        text = "".join(json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) + "\n" for one in new)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            open_ended = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")  # by somebody's editor
            with path.open("a", encoding="utf-8") as stream:
                stream.write("\n" * open_ended + text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise FormatError(f"{path}: cannot be written ({error.strerror or error})") from error
    return len(new)


def _said(correction: Correction) -> Correction:
    """The same correction whoever carried it over, and when."""
    return replace(correction, image="")


def replay(dataset: Dataset, corrections: Sequence[Correction]) -> tuple[Dataset, Mapping[str, int]]:
    """Apply corrections to the truth of a data set; doing it twice changes nothing more.

    Returns
    -------
    dataset : Dataset
        Cells that a person settled have origin ``human``. A smear without truth that somebody corrected gets one.
    counts : mapping
        How many cells were relabelled, moved, added, set to be ignored or counted again, deleted, and confirmed; how
        many corrections are of pictures that are not here.
    """
    last: dict[str, list[Correction]] = {}
    for correction in corrections:
        mine = last.setdefault(correction.image_sha256, [])
        mine[:] = [one for one in mine if _apart(one.box_xyxy, correction.box_xyxy) > _SAME_PX]
        if correction.op != "undo":
            mine.append(correction)
    counts: Counter[str] = Counter()
    smears, here = [], set()
    for sample in dataset:
        sha256 = sha256_of(sample.path) if last else ""
        here.add(sha256)
        smears.append(_applied(sample, last.get(sha256, []), counts))
    counts["of other pictures"] = sum(len(rest) for sha256, rest in last.items() if sha256 not in here)
    before, after = (sum(n_cells(s.truth) for s in side) for side in (dataset, smears))
    said = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()) if n)
    note = f"corrected by review: {before} cells before, {after} after; {said}"
    notes = (*dataset.notes, note) if sum(counts.values()) else dataset.notes
    return replace(dataset, samples=tuple(smears), notes=notes), +counts


def _applied(sample: Sample, corrections: Sequence[Correction], counts: Counter[str]) -> Sample:
    """A smear with all that was said of it, each correction finding its cell where that was at first."""
    if not corrections:
        return sample
    truth = sample.truth if sample.truth is not None else Detections.empty()
    at_first = [_find(truth, one.box_xyxy) for one in corrections]
    places = []
    for correction, at in zip(corrections, at_first, strict=True):
        _check_on_picture(sample, correction)
        if at < 0 and correction.new_box_xyxy is not None:  # moved before, unless that cell is spoken of itself
            again = _find(truth, correction.new_box_xyxy)
            at = -1 if again in at_first else again
        places.append(at)
    gone: set[int] = set()
    changed = truth
    for correction, at in zip(corrections, places, strict=True):
        if correction.op == "delete":
            counts["deleted"] += at >= 0 and at not in gone
            gone |= {at}
        else:
            changed = _said_of(changed, at, correction, counts)
    changed = changed[np.array([row not in gone for row in range(len(changed))], bool)]
    return sample if sample.truth is None and not len(changed) else replace(sample, truth=changed)


def _said_of(truth: Detections, at: int, correction: Correction, counts: Counter[str]) -> Detections:
    """Cells with what was said of that in row `at`, which is -1 for a cell that is not there yet."""
    if correction.op == "ok" and (at < 0 or correction.new_box_xyxy is None):
        counts["confirmed"] += at >= 0
        return truth if at < 0 else _with_human(truth, at)
    if at < 0:
        if correction.op == "ignore" and not correction.new_class and not correction.old_class:
            return truth
        truth, at = _with_new(truth, correction)
        counts["added"] += 1
    boxes, label = truth.boxes_xyxy.copy(), truth.label.copy()
    ignore = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore.copy()
    if correction.new_box_xyxy is not None:
        counts["moved"] += bool(np.abs(boxes[at] - correction.new_box_xyxy).max() > _SAME_PX)
        boxes[at] = correction.new_box_xyxy
    if correction.op == "ignore":
        counts["ignored"] += not ignore[at]
        ignore[at] = True
    elif correction.op == "class":
        wanted = CELL_CLASSES.index(correction.new_class)
        counts["relabelled"] += int(label[at] != wanted)
        counts["counted again"] += bool(ignore[at])
        label[at], ignore[at] = wanted, False
    if truth.ignore is None and not ignore.any():
        changed = truth.with_columns(boxes_xyxy=boxes, label=label)
    else:
        changed = truth.with_columns(boxes_xyxy=boxes, label=label, ignore=ignore)
    return _with_human(changed, at)


def _check_on_picture(sample: Sample, correction: Correction) -> None:
    """Refuse a box that would be written and does not lie on the picture, or has no pixel."""
    width, height = sample.size_wh
    x1, y1, x2, y2 = correction.new_box_xyxy or correction.box_xyxy
    if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1 or x2 - x1 < 1 or y2 - y1 < 1:
        box = [round(side, 1) for side in (x1, y1, x2, y2)]
        raise FormatError(f"{correction.image}: box {box} found, one on the picture of {width} x {height} px expected")


def n_cells(truth: Detections | None) -> int:
    """Cells that count: those to be ignored do not."""
    if truth is None:
        return 0
    return len(truth) if truth.ignore is None else int((~truth.ignore).sum())


def _apart(a: Box, b: Box) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _find(truth: Detections, box: Box) -> int:
    """Row of the cell with this box, or -1."""
    apart = np.abs(truth.boxes_xyxy - np.array(box, np.float32)).max(axis=1, initial=0)
    hit = np.flatnonzero(apart <= _SAME_PX)
    return int(hit[np.argmin(apart[hit])]) if len(hit) else -1


def _with_human(truth: Detections, at: int) -> Detections:
    origin = np.full(len(truth), "", "<U7") if truth.origin is None else truth.origin.astype("<U7")
    origin[at] = "human"
    return truth.with_columns(origin=origin)


def _with_new(truth: Detections, correction: Correction) -> tuple[Detections, int]:
    label = CELL_CLASSES.index(correction.new_class or correction.old_class)
    new = Detections([correction.box_xyxy], label=[label], origin=["human"])
    return Detections.concatenate([truth, new]), len(truth)
