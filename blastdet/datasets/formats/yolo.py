"""YOLO: ``images/<split>/``, ``labels/<split>/*.txt`` and a ``data.yaml`` that ultralytics accepts.

A label line is ``class cx cy w h``, as shares of width and height. ``data.yaml`` has no ``path``: ultralytics then
takes the folder of the file itself, so that the set works from any working directory and may be moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from blastdet.core import boxes
from blastdet.core.atomic_io import write_text
from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, Scale
from blastdet.datasets.formats import yolo_sidecar
from blastdet.datasets.formats.class_names import label_of
from blastdet.datasets.formats.files import place_images, read_text, splits_of
from blastdet.imaging.io import image_size

_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
_FOLDERS = ("train", "val", "test", "unsplit", "unlabelled")
# A foreign label may stick out by its rounding; more than that is no share of a picture.
_SLACK = 0.01


def write(dataset: Dataset, path: Path, *, how: str = "copy") -> Dataset:
    """Write a YOLO set below the folder `path`.

    Parameters
    ----------
    dataset : Dataset
    path : Path
    how : {"copy", "link"}
        See `files.place_images`.

    Returns
    -------
    Dataset
        With the paths it has now; notes tell what a program that reads only the label files will misunderstand.
    """
    placed = place_images(dataset, Path(path), how)
    classes = placed.classes
    for sample in placed:
        if sample.truth is not None:
            write_text(_label_file(sample.path), _label_text(sample, classes))
    yolo_sidecar.write(placed, placed.root)
    write_text(placed.root / "data.yaml", _data_yaml(placed, classes))
    for name in ("train", "val"):  # ultralytics refuses a set in which either is missing
        (placed.root / "images" / name).mkdir(parents=True, exist_ok=True)
    return replace(placed, notes=(*placed.notes, *_losses(placed, classes)))


def _label_file(picture: Path) -> Path:
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _label_text(sample: Sample, classes: tuple[str, ...]) -> str:
    assert sample.truth is not None
    truth = sample.truth[yolo_sidecar.in_label_file(sample)]
    share = boxes.clip(truth.boxes_xyxy, sample.size_wh) / np.array([*sample.size_wh, *sample.size_wh], np.float64)
    middle, extent = (share[:, :2] + share[:, 2:]) / 2, share[:, 2:] - share[:, :2]
    number = [classes.index(CELL_CLASSES[i]) for i in truth.label]
    rows = zip(number, np.hstack([middle, extent]).tolist(), strict=True)
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
            notes.append(f"YOLO: {unknown} pictures do not annotate {name}; as they are, it is background there")
    hidden = sum(int((~yolo_sidecar.in_label_file(sample)).sum()) for sample in dataset)
    if hidden:
        notes.append(f"YOLO: {hidden} cells without box or to be ignored are in {yolo_sidecar.FILE_NAME} only")
    return notes


@dataclass(frozen=True)
class _Names:
    """Class numbers of a foreign set -> our labels; numbers are looked up when a cell uses them."""

    file: Path
    names: Mapping[int, str]
    class_map: Mapping[str, str] | None

    def label(self, number: float, where: str) -> int:
        if number not in self.names:
            raise FormatError(f"{where}: class {number:g} found, 0..{len(self.names) - 1} of {self.file.name} expected")
        return label_of(self.names[int(number)], self.class_map, str(self.file))

    def all(self) -> tuple[str, ...]:
        labels = {self.label(number, str(self.file)) for number in self.names}
        return tuple(CELL_CLASSES[i] for i in sorted(labels))


def read(path: Path, *, class_map: Mapping[str, str] | None = None, mpp: Scale | None = None) -> Dataset:
    """Read a YOLO set: ours, with all that ``blastdet.json`` adds, or anybody's.

    Parameters
    ----------
    path : Path
        ``data.yaml``, or its folder.
    class_map : mapping, optional
        Foreign class name -> ours.
    mpp : (float, float), optional
        µm/px of all pictures, where no sidecar says it.

    Returns
    -------
    Dataset
        In a foreign set every class counts as annotated; a picture without label file is one that nobody annotated.

    Raises
    ------
    FormatError
        A faulty ``data.yaml`` or label line, a missing folder, an unknown class.
    """
    file = _find_yaml(Path(path))
    data = _load_yaml(file)
    names = _Names(file, _class_names(data, file), class_map)
    record = yolo_sidecar.read(file.parent)
    smears, dropped, notes = [], list(record.get("dropped", ())), list(record.get("notes", ()))
    for split in _FOLDERS:
        for picture in _pictures(data, split, file):
            sample, lines = _read_smear(picture, split, names)
            dropped += lines
            relative = picture.relative_to(file.parent).as_posix() if picture.is_relative_to(file.parent) else ""
            known = record.get("smears", {}).get(relative)
            if known is not None:
                sample, lines = yolo_sidecar.apply(sample, known, file.parent / yolo_sidecar.FILE_NAME)
                notes += lines
            smears.append(sample if sample.mpp or not mpp else replace(sample, mpp=mpp))
    name = str(record.get("name", file.parent.name))
    return Dataset(name, file.parent, tuple(smears), tuple(dropped), tuple(notes))


def _find_yaml(path: Path) -> Path:
    if path.is_file():
        return path.resolve()
    for name in ("data.yaml", "data.yml"):
        if (path / name).is_file():
            return (path / name).resolve()
    raise FormatError(f"{path}: no data.yaml found")


def _load_yaml(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise FormatError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise FormatError(f"{file}: a mapping with train, val and names expected")
    return data


def _class_names(data: Mapping[str, Any], file: Path) -> dict[int, str]:
    names = data.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(k, int) for k in names):
        raise FormatError(f"{file}: names {names!r} found, a list of class names expected")
    return {k: str(v) for k, v in names.items()}


def _pictures(data: Mapping[str, Any], split: str, file: Path) -> list[Path]:
    """Pictures of one split: in folders, or listed in text files, as ultralytics takes them."""
    places = data.get(split) or []
    pictures: list[Path] = []
    for place in places if isinstance(places, list) else [places]:
        found = _resolve(str(place), data, file)
        if found.is_dir():
            pictures += sorted(p for p in found.rglob("*") if p.suffix.lower() in _SUFFIXES)
        elif found.suffix == ".txt":
            pictures += [found.parent / line.strip() for line in read_text(found).splitlines() if line.strip()]
        else:
            raise FormatError(f"{file}: {split} {place!r} found, a folder or a .txt list expected")
    return pictures


def _resolve(place: str, data: Mapping[str, Any], file: Path) -> Path:
    # `path` is often that of the machine the set was made on, and some exports write ../train for train.
    roots = [file.parent / str(data.get("path") or "."), file.parent]
    tries = [root / name for root in roots for name in (place, place.removeprefix("../"))]
    found = next((p for p in tries if p.exists()), None)
    if found is None:
        raise FormatError(f"{file}: {place!r} found, but there is no such folder or list")
    return found.resolve()


def _read_smear(picture: Path, split: str, names: _Names) -> tuple[Sample, list[str]]:
    size_wh = image_size(picture)
    sample = Sample(picture, size_wh, split=split if split in ("train", "val", "test") else None)
    labels = _label_file(picture)
    if not labels.exists():
        return sample, []
    lines = [(i, line) for i, line in enumerate(read_text(labels).splitlines(), 1) if line.strip()]
    rows = [_parse_line(line, f"{labels}:{i}", names) for i, line in lines]
    table = np.array(rows, np.float64).reshape(-1, 5)
    half = table[:, 3:] / 2
    corners = np.hstack([table[:, 1:3] - half, table[:, 1:3] + half]) * np.tile(np.array(size_wh, np.float64), 2)
    inside = boxes.clip(corners, size_wh)
    solid = ((inside[:, 2:] - inside[:, :2]) > 0).all(axis=1)
    dropped = [f"{labels.name}: box {i + 1} of {len(table)} without area" for i in np.flatnonzero(~solid)]
    truth = Detections(inside[solid], label=table[solid, 0].astype(np.int64), origin=np.full(int(solid.sum()), "human"))
    return replace(sample, truth=truth, annotated=names.all()), dropped


def _parse_line(line: str, where: str, names: _Names) -> tuple[float, ...]:
    fields = line.split()
    try:
        number, *share = (float(field) for field in fields)
    except ValueError:
        raise FormatError(f"{where}: {line.strip()!r} found, numbers 'class cx cy w h' expected") from None
    if len(share) != 4:
        raise FormatError(f"{where}: {len(fields)} numbers found, 5 expected (class cx cy w h)")
    if not all(-_SLACK <= value <= 1 + _SLACK for value in share):  # also false for NaN
        raise FormatError(f"{where}: {line.strip()!r} found, shares of the picture from 0 to 1 expected")
    return (names.label(number, where), *share)
