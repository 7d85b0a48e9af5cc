"""Corrections of annotations as JSON Lines, one correction per line, appended and never rewritten.

A reviewer's file and the corrections published with a dataset have the same format::

    {"image": "a.jpg", "image_sha256": "...", "box_xyxy": [41, 344, 185, 480], "op": "class",
     "old_class": "platelet", "new_class": "wbc", "reason": "white cell labelled as a platelet"}

A cell is identified by its image and by the box it had at first, in the annotations or as a model predicted it. Boxes
are 0-based, half-open, in pixels of the full image. The last line about a cell counts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from blastdet.core.constants import CELL_TYPES
from blastdet.core.errors import FormatError, ScaleError, shown
from blastdet.core.mpp import check_mpp
from blastdet.core.types import CELL_CLASSES, Scale
from blastdet.datasets.annotations.files import read_json, read_text

OPERATIONS = ("class", "ignore", "delete", "ok", "undo", "annotate", "unannotate")
"""``class``: the cell has this class and box; without a cell at the box, add one. ``ignore``: do not count the cell.
``delete``: there is no cell. ``ok``: the annotation is right. ``undo``: withdraw the earlier corrections of this cell.
``annotate`` (no box): all cells of class `old_class` of the image are annotated now. ``unannotate`` (no box): the image
does not annotate `old_class` completely."""

OF_IMAGE = ("annotate", "unannotate")
"""Operations that concern a class of a whole image."""

ANY_CLASS = "any"
"""As `Correction.old_class`: there is a cell, and the correction does not record its class."""

Box = tuple[float, float, float, float]
Key = tuple[str, Box | str]


@dataclass(frozen=True)
class Correction:
    """One correction of one cell.

    Parameters
    ----------
    who, when : str
        Name of the reviewer, and time as ISO 8601. Optional.
    image, image_sha256 : str
        File name and sha256 of the image. With a sha256 the name is only for people; without one, the name identifies
        the image, and the correction must fit its annotations exactly.
    box_xyxy : (float, float, float, float), optional
        The box that the cell had at first; for a new cell, its box. Only ``annotate`` and ``unannotate`` have none.
    op : str
        One of `OPERATIONS`.
    old_class, new_class : str
        Empty if there is none.
    new_type : str
        With ``class``: the type of the cell, one of `CELL_TYPES`; empty if the reviewer did not say.
    mpp : (float, float), optional
        µm per pixel of the image, if the review was given it (``--mpp``).
    new_box_xyxy : (float, float, float, float), optional
        The box after the reviewer moved it.
    model_sha256 : str
        Hash of the model whose detections were reviewed; empty if there was none.
    reason : str
        Optional.
    """

    who: str = ""
    when: str = ""
    image: str = ""
    image_sha256: str = ""
    box_xyxy: Box | None = None
    op: str = "ok"
    old_class: str = ""
    new_class: str = ""
    new_box_xyxy: Box | None = None
    model_sha256: str = ""
    reason: str = ""
    new_type: str = ""
    mpp: Scale | None = None

    @property
    def image_key(self) -> str:
        """What identifies the image: its sha256 or, without one, its name."""
        return self.image_sha256 or self.image

    @property
    def key(self) -> Key:
        """What identifies the cell; without a box, the image and the class."""
        if self.box_xyxy is None:
            return self.image_key, self.old_class
        x1, y1, x2, y2 = (round(side, 1) for side in self.box_xyxy)
        return self.image_key, (x1, y1, x2, y2)


_BOXES = ("box_xyxy", "new_box_xyxy")
_TEXTS = tuple(key for key in Correction.__dataclass_fields__ if key not in (*_BOXES, "mpp"))


def read_corrections(path: Path) -> list[Correction]:
    """All corrections of a file, checked.

    Raises `FormatError`: the file, the line, what was expected and what was found.

    Parameters
    ----------
    path : Path
        JSON Lines. A ``.json`` file is read as the list that earlier versions used:
        ``{"corrections": [{"image", "op": "add|relabel|remove|unannotate", "box_xyxy", "class", "reason"}, ...]}``.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _read_list(path)
    return parse_corrections(read_text(path), str(path))


def parse_corrections(text: str, where: str = "corrections") -> list[Correction]:
    """All corrections of a text in JSON Lines, checked; errors as for `read_corrections`.

    Parameters
    ----------
    text : str
    where : str
        For messages.
    """
    lines = text.split("\n")  # not splitlines: names may contain other characters that it splits at
    return [_parse(line, f"{where}: line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> list[Correction]:
    """Corrections that were checked before and kept as plain JSON, where a tuple has become a list."""
    made = []
    for row in rows:
        values: dict[str, Any] = {key: tuple(kept) if isinstance(kept, list) else kept for key, kept in row.items()}
        made.append(Correction(**values))
    return made


def correction_line(correction: Correction) -> str:
    """A correction as a line of the file, without the line break."""
    return json.dumps(_as_row(correction), ensure_ascii=False, allow_nan=False)


def append_corrections(path: Path, corrections: Iterable[Correction]) -> int:
    """Append the corrections that the file does not contain yet; they are on disk before this returns.

    Raises `FormatError` if the file cannot be read or written.

    Returns
    -------
    int
        Number of new lines.
    """
    known = {replace(one, image="") for one in read_corrections(path)} if path.is_file() else set()
    new = [one for one in corrections if replace(one, image="") not in known]  # whatever the file is called now
    if not new:
        return 0
    text = "".join(correction_line(one) + "\n" for one in new)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")  # by a text editor
        with path.open("a", encoding="utf-8") as stream:
            stream.write("\n" * unfinished + text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise FormatError(f"{path}: cannot be written ({error.strerror or error})") from error
    return len(new)


def merge_corrections(files: Sequence[Sequence[Correction]]) -> tuple[list[Correction], int]:
    """Corrections of several files by time, and the number of cells on which the files disagree.

    Corrections of one file keep their order, whatever times they have.
    """
    if len(files) == 1:
        return list(files[0]), 0
    last = [{one.key: one for one in corrections} for corrections in files]
    keys = {key for each in last for key in each}
    disagree = sum(
        len({(each[key].op, each[key].new_class, each[key].new_box_xyxy) for each in last if key in each}) > 1
        for key in keys
    )
    timed = []
    for corrections in files:
        latest = _NO_TIME
        for one in corrections:
            latest = max(latest, _time(one.when))
            timed.append((latest, one))
    return [one for _, one in sorted(timed, key=lambda pair: pair[0])], disagree


_NO_TIME = datetime.min.replace(tzinfo=UTC)


def _time(when: str) -> datetime:
    try:
        time = datetime.fromisoformat(when)
    except ValueError:
        return _NO_TIME
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _as_row(correction: Correction) -> dict[str, Any]:
    optional = ("reason", "new_type", "mpp")
    return {key: value for key, value in asdict(correction).items() if value or key not in optional}


def _parse(line: str, where: str) -> Correction:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON ({error})") from None
    return correction_of(row, where)


def correction_of(row: Any, where: str) -> Correction:
    """A line that is read from JSON already, checked; errors as for `read_corrections`.

    Parameters
    ----------
    row : dict
    where : str
        For messages.
    """
    if not isinstance(row, dict):
        raise FormatError(f"{where}: expected a JSON object, got {shown(row)}")
    if fault := _text_fault(row) or _box_fault(row):
        raise FormatError(f"{where}: {fault}")
    try:
        mpp = None if row.get("mpp") is None else check_mpp(row["mpp"], f"{where}: mpp")
    except ScaleError as error:
        raise FormatError(str(error)) from None
    values: dict[str, Any] = {key: _as_box(row.get(key)) for key in _BOXES}
    values |= {key: row.get(key, "") for key in _TEXTS}
    return Correction(**values, mpp=mpp)


def _text_fault(row: Mapping[str, Any]) -> str:
    """The first fault in the keys and texts of a line, or an empty string."""
    if unknown := row.keys() - Correction.__dataclass_fields__.keys():
        return f"unknown key {shown(sorted(unknown)[0])}; known keys: {', '.join(Correction.__dataclass_fields__)}"
    for key in _TEXTS:
        if not _is_text(row.get(key, "")):
            return f"{key}: expected text, got {shown(row[key])}"
    op, sha256 = row.get("op", ""), row.get("image_sha256", "")
    if op not in OPERATIONS:
        return f"op: expected one of {', '.join(OPERATIONS)}, got {shown(op)}"
    for key, needed_by, known in (
        ("old_class", OF_IMAGE, (*CELL_CLASSES, ANY_CLASS)),
        ("new_class", ("class",), CELL_CLASSES),
    ):
        name = row.get(key, "")
        if name not in known and (name or op in needed_by):
            return f"{key}: expected one of {', '.join(known)}, got {shown(name)}"
    cell_type = row.get("new_type", "")
    if cell_type not in ("", *CELL_TYPES) or (
        cell_type and (op != "class" or row["new_class"] != _class_of(cell_type))
    ):
        return f"new_type: expected a cell type that fits op and new_class, got {shown(cell_type)}"
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        return f"image_sha256: expected 64 hexadecimal digits, got {shown(sha256)}"
    return "" if sha256 or row.get("image") else "expected image or image_sha256, got neither"


def _class_of(cell_type: str) -> str:
    return cell_type if cell_type in CELL_CLASSES else "wbc"


def _box_fault(row: Mapping[str, Any]) -> str:
    for key in _BOXES:
        box = row.get(key)
        if box is not None and row["op"] in OF_IMAGE:
            return f"{key}: expected none with {row['op']}, which concerns the whole image, got {shown(box, 80)}"
        if box is None and (key == "new_box_xyxy" or row["op"] in OF_IMAGE):
            continue
        if not (_is_four_numbers(box) and box[2] > box[0] and box[3] > box[1]):
            return f"{key}: expected [x1, y1, x2, y2] with x1 < x2 and y1 < y2, got {shown(box, 80)}"
    return ""


def _is_four_numbers(box: Any) -> TypeGuard[list[float]]:
    return isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and abs(v) < 1e9 for v in box)


def _as_box(box: Sequence[float] | None) -> Box | None:
    return None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


def _is_text(value: Any) -> bool:
    """Whether a value is text that files and databases hold: no NUL, no half of a surrogate pair."""
    return isinstance(value, str) and not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value)


_FROM_LIST = {"add": "class", "relabel": "class", "remove": "delete", "unannotate": "unannotate"}


def _read_list(path: Path) -> list[Correction]:
    """The list of earlier versions; it identifies images by name."""
    document = read_json(path)
    rows = document.get("corrections") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise FormatError(f"{path}: expected a list 'corrections', got none")
    return [_from_list(row, f"{path}: correction {number}") for number, row in enumerate(rows, 1)]


def _from_list(row: Any, where: str) -> Correction:
    if not isinstance(row, dict) or not isinstance(row.get("image"), str) or not row["image"]:
        raise FormatError(f"{where}: expected an object with an 'image', got {shown(row)}")
    op, name, reason = row.get("op"), row.get("class"), row.get("reason", "")
    if not isinstance(op, str) or op not in _FROM_LIST:
        raise FormatError(f"{where}: op: expected one of {', '.join(_FROM_LIST)}, got {shown(op)}")
    if name not in CELL_CLASSES:
        raise FormatError(f"{where}: class: expected one of {', '.join(CELL_CLASSES)}, got {shown(name)}")
    box = None if op == "unannotate" else row.get("box_xyxy")
    if fault := _box_fault({"op": _FROM_LIST[op], "box_xyxy": box}):
        raise FormatError(f"{where}: {fault}")
    return Correction(
        image=row["image"],
        op=_FROM_LIST[op],
        box_xyxy=_as_box(box),
        old_class="" if op == "add" else ANY_CLASS if op == "relabel" else str(name),
        new_class=str(name) if op in ("add", "relabel") else "",
        reason=reason if _is_text(reason) else "",
    )
