"""YOLO: ``images/<split>/``, ``labels/<split>/*.txt`` and a ``data.yaml`` that ultralytics accepts.

A label line is ``class cx cy w h``, as fractions of the width and height of the image. The ``data.yaml`` written here
has no ``path``: ultralytics then uses the folder of the file, so that the dataset may be moved and works from any
working directory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from blastdet.core import boxes
from blastdet.core.atomic_io import write_text
from blastdet.core.errors import FormatError, ImageError
from blastdet.core.types import CELL_CLASSES, Dataset, Sample, Scale, SourceIds, WidthHeight
from blastdet.datasets.formats import yolo_sidecar
from blastdet.datasets.formats.class_names import label_of
from blastdet.datasets.formats.files import place_images, read_text, splits_of
from blastdet.datasets.formats.records import (
    Fitted,
    ImageIndex,
    RawBox,
    RawRecord,
    cells_of,
    clipped_note,
    files_below,
    fit,
    refuse_problem,
    split_of,
)
from blastdet.imaging.io import image_size

_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
_FOLDERS = ("train", "val", "test", "unsplit", "unlabelled")
_PLAUSIBLE = (-1, 2)  # fractions of the image that a box beyond its border may have; pixels are larger
_SLACK = 0.01  # by which a size may be below 0, for rounding


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


def read(path: Path, *, class_map: Mapping[str, str] | None = None, mpp: Scale | None = None) -> Dataset:
    """Read a YOLO dataset, and the sidecar that blastdet writes next to its own.

    Raises `FormatError` if ``data.yaml`` or a label file is faulty, a folder is missing, or a class is unknown.

    Parameters
    ----------
    path : Path
        ``data.yaml``, or its folder.
    mpp : (float, float), optional
        µm/px of all images whose scale is not in the sidecar.

    Returns
    -------
    Dataset
        Without a sidecar, every class of ``data.yaml`` counts as annotated. An image without a label file has no truth.
    """
    file = _find_yaml(Path(path))
    data = _load_yaml(file)
    names = _class_names(data, file)
    record = yolo_sidecar.read(file.parent)
    samples, dropped, notes = [], list(record.get("dropped", ())), list(record.get("notes", ()))
    clipped: list[str] = []
    seen: dict[Path, str] = {}  # an image may not be on both sides of a split
    for split in _FOLDERS:
        for image in _images(data, split, file):
            other = seen.setdefault(image.resolve(), split)
            if other != split:
                raise FormatError(f"{file}: {image.name}: expected each image once, got it in {other} and {split}")
            sample, fitted = _read_sample(image, names, class_map, file)
            sample = replace(sample, split=split if split in ("train", "val", "test") else None)
            dropped += fitted.dropped
            clipped += fitted.clipped
            relative = image.relative_to(file.parent).as_posix() if image.is_relative_to(file.parent) else ""
            known = record.get("smears", {}).get(relative)
            if known is not None:
                sample, lines = yolo_sidecar.apply(sample, known, file.parent / yolo_sidecar.FILE_NAME)
                notes += lines
            samples.append(sample if sample.mpp or not mpp else replace(sample, mpp=mpp))
    labelled = any(sample.truth is not None for sample in samples)  # only then are all names known
    name = str(record.get("name", file.parent.name))
    categories = () if not labelled else tuple((i, one, label_of(one, class_map, "")) for i, one in names.items())
    ids = SourceIds(f"index in the names of {file.name}", categories)
    return Dataset(name, file.parent, tuple(samples), tuple(dropped), (*notes, *clipped_note(clipped)), ids)


def read_records(root: Path) -> list[RawRecord]:
    """Every label file in a folder ``labels`` at or below `root`, faults included."""
    images = ImageIndex.below(root)
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
    if len(numbers) != 5 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"expected five numbers 'class cx cy w h', got {line!r:.60}")
    kind = numbers[0]
    if names and kind not in names:
        raise ValueError(f"expected a class number from 0 to {len(names) - 1} of data.yaml, got {kind:g}")
    cx, cy, w, h = (value * size_wh[i % 2] for i, value in enumerate(numbers[1:]))
    name = names[int(kind)] if names else f"{kind:g}"
    return RawBox(name, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), (w, h), source)


def check_fractions(record: RawRecord, size_wh: WidthHeight) -> None:
    """Raise `FormatError` for a record that could not be parsed, or a box that is not in fractions of the image."""
    refuse_problem(record)
    for box in record.boxes:
        centre = [(box.xyxy[i] + box.xyxy[i + 2]) / 2 for i in (0, 1)]
        fractions = [value / size_wh[i % 2] for i, value in enumerate([*centre, *box.extent_wh])]
        lowest, highest = _PLAUSIBLE
        if not all(lowest <= value <= highest for value in fractions) or min(fractions[2:]) < -_SLACK:
            raise FormatError(f"{record.file}: {box.source}: expected fractions of the image from 0 to 1")


def _read_sample(
    image: Path, names: Mapping[int, str], class_map: Mapping[str, str] | None, file: Path
) -> tuple[Sample, Fitted]:
    sample = Sample(image, image_size(image))
    labels = _label_file(image)
    if not labels.exists():
        return sample, fit(RawRecord(labels), sample.size_wh)
    record = parse(labels, sample.size_wh, names)
    check_fractions(record, sample.size_wh)
    known = {label_of(name, class_map, str(file)) for name in names.values()}
    truth, fitted = cells_of(record, sample.size_wh, lambda name: label_of(name, class_map, str(file)))
    return replace(sample, truth=truth, annotated=tuple(CELL_CLASSES[i] for i in sorted(known))), fitted


def _find_yaml(path: Path) -> Path:
    if path.is_file():
        return path.resolve()
    for name in ("data.yaml", "data.yml"):
        if (path / name).is_file():
            return (path / name).resolve()
    raise FormatError(f"{path}: expected a data.yaml, got none")


def _load_yaml(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise FormatError(f"{file}: expected valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise FormatError(f"{file}: expected a mapping with train, val and names")
    return data


def _class_names(data: Mapping[str, Any], file: Path) -> dict[int, str]:
    names = data.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(key, int) for key in names):
        raise FormatError(f"{file}: expected a list of class names as names, got {names!r:.60}")
    if wrong := [value for value in names.values() if isinstance(value, list | dict)]:  # aliases may make them huge
        raise FormatError(f"{file}: expected text as the names of classes, got a {type(wrong[0]).__name__}")
    return {key: str(value) for key, value in names.items()}


def _images(data: Mapping[str, Any], split: str, file: Path) -> list[Path]:
    """Images of one split: in folders, or listed in text files, as ultralytics accepts them."""
    places = data.get(split) or []
    images: list[Path] = []
    for place in places if isinstance(places, list) else [places]:
        found = _resolve(str(place), data, file)
        if found.is_dir():
            images += sorted(path for path in found.rglob("*") if path.suffix.lower() in _SUFFIXES)
        elif found.suffix == ".txt":
            images += [found.parent / line.strip() for line in read_text(found).splitlines() if line.strip()]
        else:
            raise FormatError(f"{file}: expected a folder or a .txt list as {split}, got {place!r:.60}")
    once: dict[Path, Path] = {}  # an image listed twice would be counted twice
    for image in images:
        once.setdefault(image.resolve(), image)
    return list(once.values())


def _resolve(place: str, data: Mapping[str, Any], file: Path) -> Path:
    # `path` often names a folder of the machine that wrote the file, and some exports write ../train for train.
    roots = [file.parent / str(data.get("path") or "."), file.parent]
    tries = [root / name for root in roots for name in (place, place.removeprefix("../"))]
    found = next((path for path in tries if path.exists()), None)
    if found is None:
        raise FormatError(f"{file}: expected an existing folder or list, got {place!r:.60}")
    return found.resolve()
