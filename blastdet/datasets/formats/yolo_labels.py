"""YOLO label files: one line for each cell; and folders of them without a ``data.yaml``.

LabelImg writes ``classes.txt`` and the label files next to the images, Label Studio ``classes.txt``, ``images/`` and
``labels/``, CVAT's YOLO 1.1 ``obj.names``, ``obj.data`` and ``obj_<split>_data/``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import Dataset, Scale, SourceIds, WidthHeight
from blastdet.datasets.annotations.class_names import label_of
from blastdet.datasets.annotations.exported import box_around, dataset_of, read_export
from blastdet.datasets.annotations.files import read_text
from blastdet.datasets.annotations.image_lookup import ImageLookup, plain
from blastdet.datasets.annotations.records import RawBox, RawRecord, files_below, refuse_problem, split_of
from blastdet.imaging.io import image_size

_PLAUSIBLE = (-1, 2)  # fractions of the image that a box beyond its border may have; pixels are larger
_SLACK = 0.01  # by which a size may be below 0, for rounding
_NAMES = ("obj.names", "classes.txt", "labels/classes.txt", "*/obj.names", "*/classes.txt")
_OTHER_TEXT = ("classes", "train", "valid", "val", "test", "readme", "requirements", "predefined_classes")
_UNIT = (1, 1)  # boxes as fractions


def matches(folder: Path) -> bool:
    """Whether a folder has the names of classes as LabelImg, Label Studio or CVAT write them, and label files."""
    return _names_file(folder) is not None and bool(_label_files(folder))


def read_folder(
    path: Path,
    names: Mapping[int, str],
    how: tuple[Mapping[str, str] | None, Scale | None],
    images: Path | None = None,
) -> Dataset:
    """Read label files and images that have the same stem, without a ``data.yaml``.

    Raises `FormatError` if a label file is faulty or has no image, or a class is unknown.

    Parameters
    ----------
    path : Path
    names : mapping
        Class number -> name. If it is empty, it is read from the file of names; without one, numbers serve as names.
    how : (mapping or None, (float, float) or None)
        `class_map` and `mpp` of `yolo.read`.
    images : Path, optional
        Folder of the images, if they are not below `path`.
    """
    class_map, mpp = how
    file = _names_file(path)
    if not names and file is not None:
        lines = read_text(file).splitlines()
        names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    parsed = partial(_record, root=path, names=names)
    export = read_export(path, partial(_label_files, images=images), parsed, images, per_image=True)
    records = tuple(_in_pixels(record) for record in export.records)
    dataset = dataset_of(replace(export, records=records), class_map, mpp)
    known = [(i, name, label_or_none(name, class_map)) for i, name in names.items()]
    categories = tuple((i, name, label) for i, name, label in known if label is not None)
    notes = (*dataset.notes, *_outlines_note(records))
    return replace(dataset, notes=notes, ids=SourceIds(f"index in {file.name if file else 'data.yaml'}", categories))


def _outlines_note(records: Sequence[RawRecord]) -> tuple[str, ...]:
    """A note where all lines are outlines of one length: without a ``data.yaml``, key points look the same."""
    lengths = [box.fields.get("numbers", 0) for record in records for box in record.boxes]
    if not lengths or min(lengths) == 0 or len(set(lengths)) > 1:
        return ()
    return (
        f"every line has {lengths[0]} numbers, read as a class and the points of an outline. If they are key points "
        "(YOLO pose), the boxes are wrong: export the labels for detection",
    )


def label_or_none(name: str, class_map: Mapping[str, str] | None) -> int | None:
    """Label of a class that is listed and perhaps not used; ``None`` if it is unknown or left out."""
    try:
        return label_of(name, class_map, "")
    except FormatError:
        return None


def _names_file(folder: Path) -> Path | None:
    return next((file for pattern in _NAMES for file in sorted(folder.glob(pattern)) if file.is_file()), None)


def _label_files(root: Path, images: Path | None = None) -> list[Path]:
    """Text files, without those with the name of a list or a description unless an image has the same stem."""
    files = files_below(root, "*.txt")
    others = {file for file in files if file.name.lower().split(".")[0] in _OTHER_TEXT}
    if others:
        lookup, names = ImageLookup.below(images or root), _names_file(root)
        others = {file for file in others if file == names or lookup.by_stem.get(plain(file.stem)) is None}
    return [file for file in files if file not in others]


def _record(file: Path, root: Path, names: Mapping[int, str]) -> list[RawRecord]:
    folder = file.parent.name.removeprefix("obj_").removesuffix("_data")
    record = replace(
        parse(file, _UNIT, names), split=split_of(file.parent.parent / folder / "x", root.parent), name=file.stem
    )
    if record.problem is None:
        check_fractions(record, _UNIT)
    return [replace(record, fields={"classes": tuple(names.values())})]


def _in_pixels(record: RawRecord) -> RawRecord:
    if record.image is None:
        return record
    w, h = image_size(record.image)
    boxes = []
    for box in record.boxes:
        (x1, y1, x2, y2), (across, down) = box.xyxy, box.extent_wh
        boxes.append(replace(box, xyxy=(x1 * w, y1 * h, x2 * w, y2 * h), extent_wh=(across * w, down * h)))
    return replace(record, boxes=tuple(boxes))


def parse(file: Path, size_wh: WidthHeight, names: Mapping[int, str]) -> RawRecord:
    """Parse one label file.

    Parameters
    ----------
    names : mapping
        Class number -> name. If it is empty, numbers serve as names.
    """
    try:
        lines = read_text(file).splitlines()
    except FormatError as error:
        return RawRecord(file, problem=str(error).removeprefix(f"{file}: "))
    found, problem = [], None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_box(line.split(), size_wh, names, f"line {number} ({line.strip():.60})"))
            except ValueError as error:
                problem = problem or f"line {number}: {error}"
    return RawRecord(file, boxes=tuple(found), problem=problem)


def _box(words: Sequence[str], size_wh: WidthHeight, names: Mapping[int, str], source: str) -> RawBox:
    line = " ".join(words)
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    outline = len(numbers) >= 7 and len(numbers) % 2 == 1
    if not (len(numbers) == 5 or outline) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"expected five numbers 'class cx cy w h', or a class and three points, got {shown(line)}")
    kind = numbers[0]
    if names and kind not in names:
        raise ValueError(f"expected a class number from 0 to {max(names)} of the names, got {kind:g}")
    if outline:
        points = [(x * size_wh[0], y * size_wh[1]) for x, y in zip(numbers[1::2], numbers[2::2], strict=True)]
        x1, y1, x2, y2 = box_around(points)
        return RawBox(
            _name(kind, names), (x1, y1, x2, y2), (x2 - x1, y2 - y1), source, fields={"numbers": len(numbers)}
        )
    cx, cy, w, h = (value * size_wh[i % 2] for i, value in enumerate(numbers[1:]))
    return RawBox(_name(kind, names), (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), (w, h), source)


def _name(kind: float, names: Mapping[int, str]) -> str:
    return names[int(kind)] if names else f"{kind:g}"


def check_fractions(record: RawRecord, size_wh: WidthHeight) -> None:
    """Raise `FormatError` for a record that could not be parsed, or a box that is not in fractions of the image."""
    refuse_problem(record)
    for box in record.boxes:
        centre = [(box.xyxy[i] + box.xyxy[i + 2]) / 2 for i in (0, 1)]
        fractions = [value / size_wh[i % 2] for i, value in enumerate([*centre, *box.extent_wh])]
        lowest, highest = _PLAUSIBLE
        if not all(lowest <= value <= highest for value in fractions) or min(fractions[2:]) < -_SLACK:
            raise FormatError(f"{record.file}: {box.source}: expected fractions of the image from 0 to 1")
