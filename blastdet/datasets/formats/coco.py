"""COCO: ``annotations/instances_<split>.json`` next to ``images/<split>/``.

Extra keys hold what COCO does not define; other programs ignore them. An image has ``mpp``, ``group``, ``cluster``,
``split``, ``label`` and ``annotated``, an annotation all columns of `Detections` (``cell_id`` for `id`). An ignored
cell also has ``iscrowd``, which evaluators respect. A cell without a box (a point) is written with an empty box at its
point, ``"has_box": false`` and ``iscrowd``: valid COCO that no evaluator counts. Category ids are fixed: 1 blast,
2 wbc, 3 rbc, 4 platelet; in results also 5 unsure, a white cell that the second stage is uncertain of, whose key
``label`` names the more likely class.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, CELL_CLASSES, WBC, Dataset, Detections, Sample, Scale, SourceIds, WidthHeight
from blastdet.datasets.formats.class_names import label_of
from blastdet.datasets.formats.coco_writer import KEYS, UNSURE, to_document, write
from blastdet.datasets.formats.files import FAULTS, box_problem, from_json, read_json, stated_mpp
from blastdet.datasets.formats.records import (
    ImageIndex,
    RawBox,
    RawRecord,
    check_distinct,
    clipped_note,
    files_below,
    fit,
    inside,
    joined_ids,
    refuse_problem,
    split_of,
)
from blastdet.datasets.splits import SPLITS
from blastdet.imaging.io import image_size

__all__ = ["read", "read_records", "to_document", "write"]

_UNSURE = -1  # the category "unsure", until the annotation itself states the class

RESULT_LABELS = {**{i + 1: i for i in range(len(CELL_CLASSES))}, UNSURE["id"]: _UNSURE}
"""Category id -> label in a results list, which has no categories of its own."""


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read a COCO dataset, written by blastdet or by another program.

    Raises `FormatError` if a file is not COCO, an image is missing or has another size than stated, a category is
    unknown, or a box is faulty.

    Parameters
    ----------
    path : Path
        One JSON file, or a folder with ``annotations/*.json``, ``instances*.json``, ``truth.json`` (of
        `blastdet synth`) or ``*/_annotations.coco.json``.
        Images are searched next to the file, in the folder above, and in ``images`` in either of them.
    mpp : (float, float), optional
        µm/px of all images that do not state their scale.
    images : Path, optional
        Folder of the images, if they are elsewhere.

    Returns
    -------
    Dataset
        The split comes from the image entry, or from the name of the file or its folder. If an image entry does not
        state otherwise, every category counts as annotated. Boxes are clipped to their image; `dropped` names each one
        without area or outside it.
    """
    path = Path(path)
    files = [path] if path.is_file() else documents(path)
    samples: list[Sample] = []
    dropped: dict[str, None] = {}
    notes: dict[str, None] = {}
    clipped: list[str] = []
    ids: list[SourceIds] = []
    name = ""
    for file in files:
        document = load(file)
        info = document["info"] if isinstance(document.get("info"), dict) else {}
        name = name or str(info.get("description") or "")
        dropped |= dict.fromkeys(_lines(info.get("dropped")))
        notes |= dict.fromkeys(_lines(info.get("notes")))
        read = _read_document(document, file, class_map, images)
        samples += read.samples
        dropped |= dict.fromkeys(read.dropped)
        clipped += read.clipped
        ids.append(read.ids)
    check_distinct(samples, path)
    samples = [sample if sample.mpp or not mpp else replace(sample, mpp=mpp) for sample in samples]
    root = images or (path if path.is_dir() else _root_of(path, samples))
    samples.sort(key=lambda sample: sample.path.as_posix())
    notes |= dict.fromkeys(clipped_note(clipped))
    return Dataset(name or root.name, root, tuple(samples), tuple(dropped), tuple(notes), joined_ids(ids))


def read_records(root: Path) -> list[RawRecord]:
    """Every image entry of every COCO document below a folder, faults included. Other JSON files are skipped."""
    images = ImageIndex.below(root)
    records = []
    for file in files_below(root, "*.json"):
        try:
            document = read_json(file)
        except FormatError:
            continue
        if not isinstance(document, dict) or not all(
            isinstance(document.get(key), list) for key in ("images", "annotations")
        ):
            continue
        split = split_of(file, root)
        for record in parse(document, file):
            image = None
            if record.name is not None:
                image = _find_image(str(record.fields["file_name"]), file) or images.nearest(
                    Path(record.name).stem, file
                )
                image = image if image is None or image.name == record.name else None
            records.append(replace(record, image=image, split=split))
    return records


def documents(folder: Path) -> list[Path]:
    """COCO files of a folder: those of the first pattern that matches any."""
    for pattern in ("annotations/*.json", "instances*.json", "truth.json", "*.coco.json", "*/*.coco.json"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    raise FormatError(f"{folder}: expected annotations/*.json, instances*.json, truth.json or *.coco.json, got none")


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
            return f"expected a list of objects as {key!r}, as in COCO, got {rows!r:.60}"
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
    names, problem = _category_names(document["categories"])
    entries: dict[int, _Entry] = {}
    for row in document["images"]:
        try:
            number, entry = _entry(row)
        except FAULTS as error:
            what = row.get("file_name", row.get("id"))
            problem = problem or f"image {what!r:.60} is faulty ({error!r:.80})"
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


def _category_names(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[int, str], str | None]:
    names: dict[int, str] = {}
    problem = None
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if not isinstance(number, int) or not isinstance(name, str):
            problem = problem or f"expected a category with id (a whole number) and name, got {row!r:.60}"
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
        raise _BoxError(f"{what}: expected the id of a listed image as image_id, got {number!r:.60}", None)
    if not isinstance(kind, int) or kind not in names:
        raise _BoxError(f"{what}: expected one of {list(names)!s:.120} as category_id, got {kind!r:.60}", number)
    problem = box_problem(row.get("bbox"))
    if problem:
        raise _BoxError(f"{what}: {problem}", number)
    x, y, w, h = (float(value) for value in row["bbox"])
    point = row.get("has_box") is False
    return number, RawBox(names[kind], (x, y, x + w, y + h), (w, h), f"{what} {row['bbox']}", point, row)


def labels_of(document: Mapping[str, Any], file: Path, class_map: Mapping[str, str] | None) -> dict[int, int]:
    """Category id -> index into `CELL_CLASSES`. Categories without annotations (Roboflow adds one) may be unknown."""
    used = {row.get("category_id") for row in document["annotations"] if isinstance(row.get("category_id"), int)}
    names, problem = _category_names(document["categories"])
    if problem:
        raise FormatError(f"{file}: {problem}")
    labels: dict[int, int] = {}
    for number, name in names.items():
        if name == UNSURE["name"] and name not in (class_map or {}):
            labels[number] = _UNSURE
            continue
        try:
            labels[number] = label_of(name, class_map, str(file))
        except FormatError:
            if number in used:
                raise
    return labels


@dataclass
class _Read:
    """What one document holds."""

    ids: SourceIds
    samples: list[Sample] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)


def _read_document(
    document: Mapping[str, Any], file: Path, class_map: Mapping[str, str] | None, folder: Path | None
) -> _Read:
    labels = labels_of(document, file, class_map)
    everything = tuple(CELL_CLASSES[i] for i in sorted(set(labels.values()) - {_UNSURE}))
    names = _category_names(document["categories"])[0]
    categories = tuple((number, names[number], label) for number, label in labels.items())
    found = _Read(SourceIds(f"category id of {file.name}", categories))
    records = parse(document, file)
    for record in records:
        refuse_problem(record)
    for record in records:
        if negative := next((box for box in record.boxes if min(box.extent_wh) < 0 and not box.is_point), None):
            raise FormatError(f"{file}: {negative.source}: expected a size of 0 or more in bbox")
        sample = replace(_sample(record, folder), annotated=everything)
        fitted = fit(record, sample.size_wh)
        found.dropped += fitted.dropped
        found.clipped += fitted.clipped
        sample = _with_entry(sample, record.fields, file)
        if record.fields.get("has_truth", True):
            origin = "" if "annotated" in record.fields else "human"  # files of blastdet state the origin themselves
            kept = inside(record, fitted)
            truth = cells_of_rows([box.fields for box in kept.boxes], labels, (file, origin))
            boxes = np.array([box.xyxy for box in kept.boxes], np.float32).reshape(-1, 4)
            sample = replace(sample, truth=truth.with_columns(boxes_xyxy=boxes))
        found.samples.append(sample)
    images = tuple((int(record.fields["id"]), one.path) for record, one in zip(records, found.samples, strict=True))
    return replace(found, ids=replace(found.ids, images=images))


def _sample(record: RawRecord, folder: Path | None) -> Sample:
    file, name = record.file, str(record.fields["file_name"])
    if record.size_wh is None:
        raise FormatError(f"{file}: image {name!r} is faulty: expected width and height, got neither or only one")
    image = _find_image(name, file, folder)
    if image is None:
        where = folder or "the folder of this file, the folder above it"
        raise FormatError(f"{file}: expected the image {name} in {where} or images/, got none")
    stated: WidthHeight = (int(record.size_wh[0]), int(record.size_wh[1]))
    size_wh = image_size(image)
    if size_wh != stated:
        sizes = "{}x{}, got {}x{}".format(*size_wh, *stated)
        raise FormatError(f"{file}: {name}: expected the size of the image, {sizes}")
    return Sample(image, size_wh, split=split_of(file, file.parent.parent))


def _find_image(name: str, file: Path, folder: Path | None = None) -> Path | None:
    folders = [file.parent, file.parent.parent] if folder is None else [Path(folder)]
    split = split_of(file, file.parent.parent) or ""
    folders += [base / "images" for base in folders] + [base / "images" / split for base in folders]
    return next((path for base in folders if os.path.isfile(path := base / name)), None)  # noqa: PTH113  # too long a name is no file


def _lines(value: Any) -> list[str]:
    return [line for line in value if isinstance(line, str)] if isinstance(value, list) else []


def _root_of(file: Path, samples: Sequence[Sample]) -> Path:
    for folder in (file.parent, file.parent.parent):
        if all(sample.path.is_relative_to(folder) for sample in samples):
            return folder
    return file.parent


def _with_entry(sample: Sample, entry: Mapping[str, Any], file: Path) -> Sample:
    """Add what the extra keys of an image entry state."""
    known = {key: str(entry[key]) for key in ("group", "cluster", "label") if entry.get(key) is not None}
    if entry.get("split") in SPLITS:
        known["split"] = entry["split"]
    sample = replace(sample, **known)  # type: ignore[arg-type]
    mpp, annotated = entry.get("mpp"), entry.get("annotated")
    if mpp is not None:
        sample = replace(sample, mpp=stated_mpp(mpp, f"{file}: {sample.path.name}: mpp"))
    if annotated is not None:
        if not isinstance(annotated, list) or not all(name in CELL_CLASSES for name in annotated):
            expected = f"expected a list of {', '.join(CELL_CLASSES)} as annotated"
            raise FormatError(f"{file}: {sample.path.name}: {expected}, got {annotated!r:.60}")
        sample = replace(sample, annotated=tuple(annotated))
    return sample


def cells_of_rows(rows: Sequence[Mapping[str, Any]], labels: Mapping[int, int], source: tuple[Path, str]) -> Detections:
    """Cells from the annotations of one image.

    Parameters
    ----------
    rows : sequence of mapping
        Annotations with a valid ``bbox`` and ``category_id``.
    labels : mapping
        From `labels_of`.
    source : (Path, str)
        The file, for messages, and the origin of cells that do not state theirs.
    """
    file, origin = source
    xywh = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    boxes[[row.get("has_box") is False for row in rows]] = np.nan
    label = np.array([_label(row, labels) for row in rows], np.int64)
    try:
        columns = {
            name: [from_json(name, row.get(key)) for row in rows]
            for name, key in KEYS.items()
            if any(key in row for row in rows)
        }
        if "ignore" not in columns and any(row.get("iscrowd") and row.get("has_box", True) for row in rows):
            columns["ignore"] = [bool(row.get("iscrowd")) for row in rows]
        if "origin" not in columns and origin:
            columns["origin"] = [origin] * len(rows)
        with np.errstate(over="raise"):
            return Detections(boxes.astype(np.float32), label=label, **columns)
    except FAULTS as error:
        raise FormatError(f"{file}: annotations of image {rows[0]['image_id']} are faulty ({error})") from None


def _label(row: Mapping[str, Any], labels: Mapping[int, int]) -> int:
    label = labels[row["category_id"]]
    if label == _UNSURE:
        return BLAST if row.get("label") == CELL_CLASSES[BLAST] else WBC
    return label
