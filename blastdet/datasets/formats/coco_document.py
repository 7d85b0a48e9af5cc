"""A COCO document as it is: its images, categories and annotations, checked one by one.

An annotation without a ``bbox`` gets the box around its ``segmentation``: outlines, or a run-length encoded mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import CELL_CLASSES
from blastdet.datasets.annotations.class_names import labels_of_names
from blastdet.datasets.annotations.exported import box_around
from blastdet.datasets.annotations.files import FAULTS, box_problem, read_json
from blastdet.datasets.annotations.records import RawBox, RawRecord
from blastdet.datasets.formats.coco_writer import UNSURE
from blastdet.datasets.formats.yolo_labels import label_or_none

UNSURE_LABEL = -1
"""Label of the category "unsure", until the annotation itself states the class."""

RESULT_LABELS = {**{i + 1: i for i in range(len(CELL_CLASSES))}, UNSURE["id"]: UNSURE_LABEL}
"""Category id -> label in a results list, which has no categories of its own."""


def load(file: Path) -> dict[str, Any]:
    """A COCO document with its three lists of objects; else `FormatError`."""
    document = read_json(file)
    if not isinstance(document, dict):
        raise FormatError(f"{file}: expected a COCO document with images, annotations and categories, got a list")
    problem = _structure_problem(document)
    if problem:
        raise FormatError(f"{file}: {problem}")
    return document


def _structure_problem(document: Mapping[str, Any]) -> str | None:
    for key in ("images", "annotations", "categories"):
        rows = document.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return f"expected a list of objects as {key!r}, as in COCO, got {shown(rows)}"
    return None


@dataclass
class _Entry:
    """One image entry while its annotations are collected."""

    row: Mapping[str, Any]
    size_wh: tuple[int, int] | None
    boxes: list[RawBox] = field(default_factory=list)
    problem: str | None = None


def parse(document: Mapping[str, Any], file: Path) -> list[RawRecord]:
    """One record for each image entry, and before them one for the first fault that belongs to no image."""
    problem = _structure_problem(document)
    if problem:
        return [RawRecord(file, problem=problem)]
    names, problem = category_names(document["categories"])
    entries: dict[int, _Entry] = {}
    for row in document["images"]:
        try:
            number, entry = _entry(row)
        except FAULTS as error:
            what = row.get("file_name", row.get("id"))
            problem = problem or f"image {shown(what)} is faulty ({shown(error, 80)})"
            continue
        if number in entries:
            problem = problem or f"expected a unique id for each image, got two images with id {number}"
        entries.setdefault(number, entry)
    for row in document["annotations"]:
        try:
            number, box = _box(row, entries, names)
            entries[number].boxes.append(box)
        except _BoxError as fault:
            if fault.image_id is None:
                problem = problem or str(fault)
            else:
                entry = entries[fault.image_id]
                entry.problem = entry.problem or str(fault)
    records = [RawRecord(file, problem=problem)] if problem else []
    return records + [_record(file, entry) for entry in entries.values()]


def category_names(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[int, str], str | None]:
    """Category id -> class name, and what is wrong with the categories, if anything."""
    names: dict[int, str] = {}
    problem = None
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if not isinstance(number, int) or not isinstance(name, str):
            problem = problem or f"expected a category with id (a whole number) and name, got {shown(row)}"
        elif number in names:
            problem = problem or f"expected unique ids, got two categories with id {number}: {names[number]} and {name}"
        else:
            names[number] = name
    return names, problem


def _entry(row: Mapping[str, Any]) -> tuple[int, _Entry]:
    str(row["file_name"])
    size_wh = (int(row["width"]), int(row["height"])) if {"width", "height"} <= set(row) else None
    return int(row["id"]), _Entry(row, size_wh)


def _record(file: Path, entry: _Entry) -> RawRecord:
    name = Path(str(entry.row["file_name"])).name
    return RawRecord(
        file, name=name, size_wh=entry.size_wh, boxes=tuple(entry.boxes), problem=entry.problem, fields=entry.row
    )


class _BoxError(ValueError):
    """An annotation that cannot be parsed; `image_id` is the image it belongs to, if there is one."""

    def __init__(self, text: str, image_id: int | None) -> None:
        super().__init__(text)
        self.image_id = image_id


def _box(row: Mapping[str, Any], images: Mapping[int, Any], names: Mapping[int, str]) -> tuple[int, RawBox]:
    what = f"annotation {row.get('id', '')}".rstrip()
    number, kind = row.get("image_id"), row.get("category_id")
    if not isinstance(number, int) or number not in images:
        raise _BoxError(f"{what}: expected the id of a listed image as image_id, got {shown(number)}", None)
    if not isinstance(kind, int) or kind not in names:
        raise _BoxError(f"{what}: expected one of {list(names)!s:.120} as category_id, got {shown(kind)}", number)
    try:
        row = _with_box(row)
    except FAULTS as error:
        raise _BoxError(f"{what}: segmentation is faulty ({shown(error, 80)})", number) from None
    problem = box_problem(row.get("bbox"))
    if problem:
        raise _BoxError(f"{what}: {problem}", number)
    x, y, w, h = (float(value) for value in row["bbox"])
    point = row.get("has_box") is False
    return number, RawBox(names[kind], (x, y, x + w, y + h), (w, h), f"{what} {row['bbox']}", point, row)


def labels_of(document: Mapping[str, Any], file: Path, class_map: Mapping[str, str] | None) -> dict[int, int]:
    """Category id -> index into `CELL_CLASSES`, without the classes that `class_map` leaves out.

    Categories without annotations (Roboflow adds one) may be unknown. Raises `FormatError` if another one is.
    """
    names, problem = category_names(document["categories"])
    if problem:
        raise FormatError(f"{file}: {problem}")
    labels = labels_of_names(used_names(document, names, class_map), class_map, str(file))
    known: dict[int, int] = {}
    for number, name in names.items():
        unsure = name == UNSURE["name"] and name not in (class_map or {})
        label = UNSURE_LABEL if unsure else labels.get(name, label_or_none(name, class_map))
        if label is not None:
            known[number] = label
    return known


def used_names(
    document: Mapping[str, Any], names: Mapping[int, str], class_map: Mapping[str, str] | None
) -> dict[str, int]:
    """Class names of a document that need a label -> number of their annotations."""
    kinds = (row.get("category_id") for row in document["annotations"])
    used = Counter(names[kind] for kind in kinds if isinstance(kind, int) and kind in names)
    return {name: n for name, n in used.items() if name != UNSURE["name"] or name in (class_map or {})}


def _with_box(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotation with the box around its segmentation, if it has a segmentation and no box.

    Raises `ValueError`, or another of `FAULTS`, if the segmentation is faulty.
    """
    shape = row.get("segmentation")
    if not shape or (row.get("bbox") or [0, 0, 0, 0]) != [0, 0, 0, 0] or row.get("has_box") is False:
        return row
    if isinstance(shape, dict):
        x1, y1, x2, y2 = box_around(list(_mask_corners(shape)))
    else:
        outlines = [shape] if not isinstance(shape[0], list) else shape
        x1, y1, x2, y2 = box_around([pair for line in outlines for pair in zip(line[::2], line[1::2], strict=True)])
    return {**row, "bbox": [x1, y1, x2 - x1, y2 - y1]}


def _mask_corners(mask: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Corners of the runs of a mask: run lengths of 0 and 1 in turn, down one column after the other."""
    height, counts = int(mask["size"][0]), mask["counts"]
    start = 0
    for i, n in enumerate(_decompressed(counts) if isinstance(counts, str) else counts):
        if n < 0:
            raise ValueError(f"expected run lengths of 0 or more, got {n}")
        if i % 2 and n:
            (left, top), (right, bottom) = divmod(start, height), divmod(start + n - 1, height)
            whole = right > left  # the run goes on at the top of the next column
            yield float(left), 0.0 if whole else float(top)
            yield float(right + 1), float(height if whole else bottom + 1)
        start += n


def _decompressed(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: 5 bits a character, the difference to the run before last."""
    counts: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
