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
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import BLAST, CELL_CLASSES, WBC, Dataset, Detections, Sample, Scale, SourceIds
from blastdet.datasets.annotations import json_kind
from blastdet.datasets.annotations.class_names import with_types
from blastdet.datasets.annotations.exported import left_out_lines, one_class_note
from blastdet.datasets.annotations.files import FAULTS, from_json, read_json, stated_mpp
from blastdet.datasets.annotations.image_lookup import ImageLookup, moved_note
from blastdet.datasets.annotations.records import (
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
from blastdet.datasets.formats.coco_document import (
    RESULT_LABELS,
    UNSURE_LABEL,
    category_names,
    labels_of,
    load,
    parse,
    used_names,
)
from blastdet.datasets.formats.coco_writer import KEYS, to_document, write
from blastdet.datasets.splits import SPLITS
from blastdet.imaging.io import image_size

__all__ = ["RESULT_LABELS", "labels_of", "load", "parse", "read", "read_records", "to_document", "write"]

_PATTERNS = (
    "annotations/instances*.json",
    "annotations/*.json",
    "instances*.json",
    "truth.json",
    "*.coco.json",
    "*/*.coco.json",
)


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
    moved: list[tuple[str, str]] = []
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
        places = _Images(file, images, path if path.is_dir() else None)
        read = _read_document(document, file, class_map, places)
        moved += places.moved
        samples += read.samples
        dropped |= dict.fromkeys(read.dropped)
        clipped += read.clipped
        notes |= dict.fromkeys(read.notes)
        ids.append(read.ids)
    check_distinct(samples, path)
    samples = [sample if sample.mpp or not mpp else replace(sample, mpp=mpp) for sample in samples]
    root = images or (path if path.is_dir() else _root_of(path, samples))
    samples.sort(key=lambda sample: sample.path.as_posix())
    notes |= dict.fromkeys((*moved_note(moved), *clipped_note(clipped)))
    return Dataset(name or root.name, root, tuple(samples), tuple(dropped), tuple(notes), joined_ids(ids))


def read_records(root: Path) -> list[RawRecord]:
    """Every image entry of every COCO document below a folder, faults included. Other JSON files are skipped."""
    images = ImageLookup.below(root)
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
    for pattern in _PATTERNS:
        found = sorted(folder.glob(pattern))
        if found:
            return found
    found = json_kind.files_of("coco", folder)
    if found:
        return found
    raise FormatError(f"{folder}: expected annotations/*.json, instances*.json, truth.json or *.coco.json, got none")


def matches(folder: Path) -> bool:
    """Whether a folder has COCO files, under any name."""
    return bool(json_kind.files_of("coco", folder))


@dataclass
class _Read:
    """What one document holds."""

    ids: SourceIds
    samples: list[Sample] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _read_document(
    document: Mapping[str, Any], file: Path, class_map: Mapping[str, str] | None, images: _Images
) -> _Read:
    labels = labels_of(document, file, class_map)
    everything = tuple(CELL_CLASSES[i] for i in sorted(set(labels.values()) - {UNSURE_LABEL}))
    names = category_names(document["categories"])[0]
    categories = tuple((number, names[number], label) for number, label in labels.items())
    found = _Read(SourceIds(f"category id of {file.name}", categories))
    used = used_names(document, names, class_map)
    found.dropped += left_out_lines(used, {name: labels.get(number) for number, name in names.items()})
    kept_names = {names[number] for number in labels}
    scored = any("score" in row for row in document["annotations"])
    records = parse(document, file)
    for record in records:
        refuse_problem(record)
    for record in records:
        record = replace(record, boxes=tuple(box for box in record.boxes if box.name in kept_names))
        if negative := next((box for box in record.boxes if min(box.extent_wh) < 0 and not box.is_point), None):
            raise FormatError(f"{file}: {negative.source}: expected a size of 0 or more in bbox")
        sample = replace(_sample(record, images), annotated=everything)
        fitted = fit(record, sample.size_wh)
        found.dropped += fitted.dropped
        found.clipped += fitted.clipped
        sample = _with_entry(sample, record.fields, file)
        if record.fields.get("has_truth", True):
            # Datasets of blastdet state the origin themselves. Detections have scores, of whatever program.
            origin = "" if "annotated" in record.fields else "model" if scored else "human"
            kept = inside(record, fitted)
            truth = cells_of_rows([box.fields for box in kept.boxes], labels, (file, origin))
            boxes = np.array([box.xyxy for box in kept.boxes], np.float32).reshape(-1, 4)
            truth = with_types(truth.with_columns(boxes_xyxy=boxes), [box.name for box in kept.boxes], class_map or ())
            sample = replace(sample, truth=truth)
        found.samples.append(sample)
    paths = tuple((int(record.fields["id"]), one.path) for record, one in zip(records, found.samples, strict=True))
    if not any("annotated" in record.fields for record in records):
        shown = {labels[kind] for row in document["annotations"] if (kind := row["category_id"]) in labels}
        found.notes += one_class_note(everything, [CELL_CLASSES[i] for i in shown if i >= 0])
    return replace(found, ids=replace(found.ids, images=paths))


@dataclass
class _Images:
    """Where the images of a COCO file are: at the stated place, or anywhere below the dataset by name."""

    file: Path
    folder: Path | None = None
    root: Path | None = None
    moved: list[tuple[str, str]] = field(default_factory=list)

    def find(self, name: str) -> Path | None:
        """The image of a stated name; `moved` gets the name if it is in another folder, see `ImageLookup.moved`."""
        at_place = _find_image(name, self.file, self.folder)
        if at_place is not None:
            return at_place
        found = self._lookup.find(name, self.file)
        if found is not None:
            self.moved += self._lookup.moved([(name, found)])
        return found

    @cached_property
    def _lookup(self) -> ImageLookup:
        above = self.file.parent.parent if self.file.parent.name in ("annotations", "labels") else self.file.parent
        return ImageLookup.below(self.folder or self.root or above)


def _sample(record: RawRecord, images: _Images) -> Sample:
    file, name = record.file, str(record.fields["file_name"])
    image = images.find(name)
    if image is None:
        where = images.folder or "the folder of this file, the folder above it"
        raise FormatError(
            f"{file}: expected the image {name:.120} in {where} or images/, got none. Pass its folder: --images DIR"
        )
    size_wh = image_size(image)
    if record.size_wh is not None and size_wh != record.size_wh:
        sizes = "{}x{}, got {}x{}".format(*size_wh, *map(shown, record.size_wh))
        raise FormatError(f"{file}: {name:.120}: expected the size of the image, {sizes}")
    return Sample(image, size_wh, split=split_of(file, file.parent.parent))


def _find_image(name: str, file: Path, folder: Path | None = None) -> Path | None:
    """The image at a stated place. A place that is not below one of the folders is not looked at."""
    roots = [file.parent, file.parent.parent] if folder is None else [Path(folder)]
    split = split_of(file, file.parent.parent) or ""
    folders = [*roots, *(base / "images" for base in roots), *(base / "images" / split for base in roots)]
    within = [os.path.normpath(root.absolute()) for root in roots]
    for base in folders:
        place = Path(os.path.normpath((base / name).absolute()))
        if any(place.is_relative_to(root) for root in within) and os.path.isfile(place):  # noqa: PTH113  # too long a name is no file
            return Path(os.path.normpath(base / name))
    return None


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
            raise FormatError(f"{file}: {sample.path.name}: {expected}, got {shown(annotated)}")
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
    if label == UNSURE_LABEL:
        return BLAST if row.get("label") == CELL_CLASSES[BLAST] else WBC
    return label
