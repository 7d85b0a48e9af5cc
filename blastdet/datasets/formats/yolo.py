"""YOLO: ``images/<split>/``, ``labels/<split>/*.txt`` and a ``data.yaml`` that ultralytics accepts.

A label line is ``class cx cy w h``, as fractions of the width and height of the image. The ``data.yaml`` written here
has no ``path``: ultralytics then uses the folder of the file, so that the dataset may be moved and works from any
working directory.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core import boxes
from blastdet.core.atomic_io import files_under, write_text
from blastdet.core.errors import FormatError, ImageError, shown
from blastdet.core.types import CELL_CLASSES, Dataset, Sample, Scale, SourceIds, WidthHeight
from blastdet.datasets.annotations.class_names import labels_of_names
from blastdet.datasets.annotations.exported import left_out_lines, one_class_note
from blastdet.datasets.annotations.files import SPLITS, parse_yaml, place_images, read_text, splits_of
from blastdet.datasets.annotations.image_lookup import ImageLookup
from blastdet.datasets.annotations.records import (
    RawRecord,
    cells_of,
    clipped_note,
    files_below,
    split_of,
)
from blastdet.datasets.formats import yolo_labels, yolo_sidecar
from blastdet.datasets.formats.yolo_labels import check_fractions, matches, parse
from blastdet.imaging.io import IMAGE_SUFFIXES, image_size

__all__ = ["matches", "parse", "read", "read_records", "write"]

_FOLDERS = ("train", "val", "test", "unsplit", "unlabelled")


def write(dataset: Dataset, path: Path, *, how: str = "copy") -> Dataset:
    """Write a YOLO dataset below the folder `path`.

    `how` is that of `files.place_images`.

    Returns
    -------
    Dataset
        With the paths of the written images. Notes state what programs that read only the label files will miss.
    """
    placed = place_images(dataset, Path(path), how)
    classes = placed.classes
    for sample in placed:
        if sample.truth is not None:
            write_text(_label_file(sample.path), _label_text(sample, classes))
    yolo_sidecar.write(placed, placed.root)
    write_text(placed.root / "data.yaml", _data_yaml(placed, classes))
    for name in ("train", "val"):  # ultralytics refuses a dataset without either
        (placed.root / "images" / name).mkdir(parents=True, exist_ok=True)
    return replace(placed, notes=(*placed.notes, *_losses(placed, classes)))


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _label_text(sample: Sample, classes: tuple[str, ...]) -> str:
    assert sample.truth is not None
    truth = sample.truth[yolo_sidecar.in_label_file(sample)]
    fractions = boxes.clip(truth.boxes_xyxy, sample.size_wh) / np.array([*sample.size_wh, *sample.size_wh], np.float64)
    centre, extent = (fractions[:, :2] + fractions[:, 2:]) / 2, fractions[:, 2:] - fractions[:, :2]
    number = [classes.index(CELL_CLASSES[i]) for i in truth.label]
    rows = zip(number, np.hstack([centre, extent]).tolist(), strict=True)
    return "".join(f"{k} {cx:.10f} {cy:.10f} {w:.10f} {h:.10f}\n" for k, (cx, cy, w, h) in rows)


def _data_yaml(dataset: Dataset, classes: tuple[str, ...]) -> str:
    present = splits_of(dataset)
    lines = ["# Written by blastdet. Paths are relative to this file."]
    lines += [f"{name}: images/{name}" for name in _FOLDERS if name in present or name in ("train", "val")]
    lines += ["names:"] + [f"  {i}: {name}" for i, name in enumerate(classes)]
    return "\n".join(lines if classes else [*lines[:-1], "names: {}"]) + "\n"


def _losses(dataset: Dataset, classes: tuple[str, ...]) -> list[str]:
    notes = []
    for name in classes:
        unknown = sum(name not in sample.annotated for sample in dataset if sample.truth is not None)
        if unknown:
            notes.append(f"YOLO: {unknown} images do not annotate {name}; programs will treat it as background there")
    hidden = sum(int((~yolo_sidecar.in_label_file(sample)).sum()) for sample in dataset)
    if hidden:
        notes.append(f"YOLO: {hidden} ignored cells or cells without a box are only in {yolo_sidecar.FILE_NAME}")
    return notes


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read a YOLO dataset, and the sidecar that blastdet writes next to its own.

    Outlines (lines with more than two points) become the box around them.

    Raises `FormatError` if ``data.yaml`` or a label file is faulty, a folder is missing, or a class is unknown.

    Parameters
    ----------
    path : Path
        ``data.yaml``, or its folder; or a folder with ``classes.txt`` (LabelImg, Label Studio) or ``obj.names``
        (CVAT's YOLO 1.1), see `yolo_labels`.
    mpp : (float, float), optional
        µm/px of all images whose scale is not in the sidecar.
    images : Path, optional
        Folder of the images, if they are elsewhere. The classes then come from ``data.yaml``, and images are paired
        with label files by name.

    Returns
    -------
    Dataset
        Without a sidecar, every class of ``data.yaml`` counts as annotated. An image without a label file has no truth.
    """
    path = Path(path)
    file = _yaml_of(path)
    data = {} if file is None else _load_yaml(file)
    if "kpt_shape" in data:
        raise FormatError(f"{file}: expected boxes or outlines, got key points (kpt_shape). Export it for detection")
    if file is None or images is not None:
        names = {} if file is None else _class_names(data, file)
        root = path if path.is_dir() else path.parent
        return yolo_labels.read_folder(root, names, (class_map, mpp), images)
    names = _class_names(data, file)
    absent: list[str] = []
    listed = _listed(data, names, file, absent)
    used = Counter(box.name for one in listed if one.record is not None for box in one.record.boxes)
    labels = labels_of_names(used, class_map, str(file))
    known = {i: label for i, name in names.items() if (label := yolo_labels.label_or_none(name, class_map)) is not None}
    annotated = tuple(CELL_CLASSES[i] for i in sorted(set(known.values())))
    ids = SourceIds(f"index in the names of {file.name}", tuple((i, names[i], label) for i, label in known.items()))
    dataset = _with_sidecar(listed, labels, annotated, file, class_map or ())
    dropped = (*dataset.dropped, *absent, *left_out_lines(used, labels))
    samples = tuple(sample if sample.mpp or not mpp else replace(sample, mpp=mpp) for sample in dataset)
    return replace(dataset, samples=samples, dropped=dropped, ids=ids)


def _with_sidecar(
    listed: Sequence[_Listed],
    labels: Mapping[str, int | None],
    annotated: tuple[str, ...],
    file: Path,
    mapped: Container[str],
) -> Dataset:
    """The samples, with what the sidecar adds where there is one. `mapped` is that of `cells_of`."""
    sidecar = yolo_sidecar.read(file.parent)
    samples, clipped = [], []
    dropped, notes = [*sidecar.get("dropped", ())], [*sidecar.get("notes", ())]
    for one in listed:
        sample = Sample(one.image, one.size_wh, split=one.split if one.split in SPLITS else None)
        if one.record is not None:
            truth, fitted = cells_of(one.record, one.size_wh, labels.__getitem__, mapped)
            dropped += fitted.dropped
            clipped += fitted.clipped
            sample = replace(sample, truth=truth, annotated=annotated)
        relative = one.image.relative_to(file.parent).as_posix() if one.image.is_relative_to(file.parent) else ""
        if (stored := sidecar.get("smears", {}).get(relative)) is not None:
            sample, lines = yolo_sidecar.apply(sample, stored, file.parent / yolo_sidecar.FILE_NAME)
            notes += lines
        samples.append(sample)
    if not sidecar:
        notes += one_class_note(annotated, [CELL_CLASSES[i] for i in set(labels.values()) if i is not None])
    name = str(sidecar.get("name", file.parent.name))
    return Dataset(name, file.parent, tuple(samples), tuple(dropped), (*notes, *clipped_note(clipped)))


@dataclass(frozen=True)
class _Listed:
    """An image of ``data.yaml`` and what its label file states, if it has one."""

    image: Path
    size_wh: WidthHeight
    split: str
    record: RawRecord | None


def _listed(data: Mapping[str, Any], names: Mapping[int, str], file: Path, absent: list[str]) -> list[_Listed]:
    """All images; `absent` gets one line for each split whose folder is missing, as that of an empty one is in a zip.

    Raises `FormatError` if all are missing.
    """
    listed = []
    seen: dict[Path, str] = {}  # an image may not be on both sides of a split
    for split in _FOLDERS:
        for image in _images(data, split, file, absent):
            other = seen.setdefault(image.resolve(), split)
            if other != split:
                raise FormatError(f"{file}: {image.name}: expected each image once, got it in {other} and {split}")
            size_wh, labels = image_size(image), _label_file(image)
            record = parse(labels, size_wh, names) if labels.exists() else None
            if record is not None:
                check_fractions(record, size_wh)
            listed.append(_Listed(image, size_wh, split, record))
    if absent and not listed:
        raise FormatError(f"{file}: expected an existing folder or list, got {absent[0]}")
    return listed


def read_records(root: Path) -> list[RawRecord]:
    """Every label file in a folder ``labels`` at or below `root`, faults included."""
    images = ImageLookup.below(root)
    try:
        file = _find_yaml(root)
        names = _class_names(_load_yaml(file), file)
    except FormatError:
        names = {}
    records = []
    for labels in files_below(root, "*.txt"):
        if "labels" in labels.relative_to(root.parent).parts[:-1]:
            image = images.nearest(labels.stem, labels)
            try:
                size_wh = image_size(image) if image else (1, 1)
            except ImageError:
                size_wh = (1, 1)
            records.append(replace(parse(labels, size_wh, names), image=image, split=split_of(labels, root)))
    return records


def _yaml_of(path: Path) -> Path | None:
    """The ``data.yaml`` of a path; ``None`` where the names of the classes are in another file."""
    try:
        return None if path.suffix.lower() == ".names" else _find_yaml(path)
    except FormatError:
        if path.is_dir() and any(path.rglob("*.txt")):
            return None
        raise


def _find_yaml(path: Path) -> Path:
    if path.is_file():
        return path.resolve()
    for name in ("data.yaml", "data.yml"):
        if (path / name).is_file():
            return (path / name).resolve()
    raise FormatError(f"{path}: expected a data.yaml, got none")


def _load_yaml(file: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(read_text(file))
    except ValueError as error:
        raise FormatError(f"{file}: expected valid YAML ({error})") from None
    if not isinstance(data, dict):
        raise FormatError(f"{file}: expected a mapping with train, val and names")
    return data


def _class_names(data: Mapping[str, Any], file: Path) -> dict[int, str]:
    names = data.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(key, int) for key in names):
        raise FormatError(f"{file}: expected a list of class names as names, got {shown(names)}")
    if wrong := [value for value in names.values() if isinstance(value, list | dict)]:  # aliases may make them huge
        raise FormatError(f"{file}: expected text as the names of classes, got a {type(wrong[0]).__name__}")
    return {key: str(value) for key, value in names.items()}


def _images(data: Mapping[str, Any], split: str, file: Path, absent: list[str]) -> list[Path]:
    """Images of one split: in folders, or listed in text files, as ultralytics accepts them."""
    places = data.get(split) or []
    images: list[Path] = []
    for place in places if isinstance(places, list) else [places]:
        found = _resolve(str(place), data, file)
        if found is None:
            absent.append(f"{file.name}: {split}: {shown(place, 120)}, which does not exist")
        elif found.is_dir():
            images += sorted(path for path in files_under(found) if path.suffix.lower() in IMAGE_SUFFIXES)
        elif found.suffix == ".txt":
            images += _in_list(found)
        else:
            raise FormatError(f"{file}: expected a folder or a .txt list as {split}, got {shown(place)}")
    once: dict[Path, Path] = {}  # an image listed twice would be counted twice
    for image in images:
        once.setdefault(image.resolve(), image)
    return list(once.values())


def _in_list(listing: Path) -> list[Path]:
    """Images of a text file, which may name folders of another machine."""
    lines = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    images = [listing.parent / line for line in lines]
    if all(image.is_file() for image in images):
        return images
    lookup = ImageLookup.below(listing.parent)
    found = [lookup.find(line, listing) for line in lines]
    return [there or stated for there, stated in zip(found, images, strict=True)]


def _resolve(place: str, data: Mapping[str, Any], file: Path) -> Path | None:
    # `path` often names a folder of the machine that wrote the file, and some exports write ../train for train.
    roots = [file.parent / str(data.get("path") or "."), file.parent]
    tries = [root / name for root in roots for name in (place, place.removeprefix("../"))]
    found = next((path for path in tries if os.path.exists(path)), None)  # noqa: PTH110  # Path.exists() fails on long names
    return None if found is None else found.resolve()
