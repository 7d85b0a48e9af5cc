"""Annotations as they stand in the files, faults and all: what the audit looks at where readers drop or refuse.

A reader of `blastdet.datasets` clips boxes, drops those without area and refuses a file that contradicts its picture.
Here nothing is refused: what cannot be understood becomes the `problem` of a record.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import yaml

from blastdet.core.errors import BlastdetError, ImageError
from blastdet.core.types import WidthHeight
from blastdet.datasets.formats.files import FAULTS
from blastdet.imaging.io import find_images, image_size

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class RawBox:
    """One box as published.

    Parameters
    ----------
    name : str
        Class, in the words of the file.
    xyxy : tuple of four float
        Half-open pixels, neither clipped nor put in order.
    extent_wh : (float, float)
        Width and height as the file has them: 0 means no area, less means that corners are swapped.
    """

    name: str
    xyxy: tuple[float, float, float, float]
    extent_wh: tuple[float, float]


@dataclass(frozen=True)
class RawRecord:
    """What one annotation file says about one picture.

    Parameters
    ----------
    file : Path
        The annotation file.
    image : Path, optional
        The picture it belongs to; ``None`` where there is none.
    split : str, optional
    name, folder : str, optional
        Name and folder of the picture as the file states them.
    size_wh : (float, float), optional
        Size of the picture as the file states it.
    boxes : tuple of RawBox
    problem : str, optional
        What could not be understood.
    """

    file: Path
    image: Path | None = None
    split: str | None = None
    name: str | None = None
    folder: str | None = None
    size_wh: tuple[float, float] | None = None
    boxes: tuple[RawBox, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class _Pictures:
    """All pictures below a folder, found again by name."""

    paths: tuple[Path, ...]
    by_stem: Mapping[str, list[Path]] = field(default_factory=dict)

    @classmethod
    def below(cls, root: Path) -> _Pictures:
        try:
            paths = find_images(root)
        except ImageError:
            paths = []
        by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            by_stem[path.stem].append(path)
        return cls(tuple(paths), by_stem)

    def nearest(self, stem: str, to: Path) -> Path | None:
        """The picture of that stem whose path has most in common with the annotation's."""
        parts = set(to.with_suffix("").parts)
        return max(self.by_stem.get(stem, ()), key=lambda p: len(parts.intersection(p.parts)), default=None)


def raw_records(root: Path) -> tuple[RawRecord, ...]:
    """Every Pascal VOC, COCO and YOLO annotation below a folder, as it stands.

    Parameters
    ----------
    root : Path
        The folder of a data set; of a file, the folder it lies in.

    Returns
    -------
    tuple of RawRecord
        In the order of the annotation files; empty where there are no annotations of these kinds.
    """
    root = Path(root)
    root = root if root.is_dir() else root.parent
    pictures = _Pictures.below(root)
    readers: tuple[Callable[[Path, _Pictures], Iterator[RawRecord]], ...] = (_voc, _coco, _yolo)
    return tuple(record for reader in readers for record in reader(root, pictures))


def _files(root: Path, pattern: str) -> list[Path]:
    return sorted(p for p in root.rglob(pattern) if p.is_file() and not p.name.startswith("."))


def _split_of(file: Path, root: Path) -> str | None:
    """The split that a folder or the file's own name tells (``train/``, ``instances_val.json``)."""
    words = [*file.relative_to(root).parts[:-1], *file.stem.replace("-", "_").split("_")]
    return next((_SPLITS[word.lower()] for word in reversed(words) if word.lower() in _SPLITS), None)


def _finite(values: Iterable[Any]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{numbers} found, finite numbers expected")
    return numbers


# --- Pascal VOC: 1-based, both corners belong to the box -------------------------------------------------------------


def _voc(root: Path, pictures: _Pictures) -> Iterator[RawRecord]:
    listed = _voc_splits(root)
    for file in _files(root, "*.xml"):
        try:
            tree = ET.fromstring(file.read_bytes())
        except (ET.ParseError, LookupError, ValueError, OSError) as error:
            yield RawRecord(file, pictures.nearest(file.stem, file), problem=f"not well-formed XML ({error})")
            continue
        if tree.tag == "annotation":
            yield _voc_record(file, tree, pictures, listed.get(file.stem) or _split_of(file, root))


def _voc_splits(root: Path) -> dict[str, str]:
    listings = (p for p in root.rglob("ImageSets/*/*.txt") if p.stem in _SPLITS)
    lines = ((_SPLITS[p.stem], line.split()) for p in listings for line in p.read_text("utf-8", "replace").splitlines())
    return {words[0]: split for split, words in lines if words}


def _voc_record(file: Path, tree: ET.Element, pictures: _Pictures, split: str | None) -> RawRecord:
    name = tree.findtext("filename")
    image = pictures.nearest(file.stem, file) or (pictures.nearest(Path(name).stem, file) if name else None)
    try:
        sides = (tree.findtext("size/width"), tree.findtext("size/height"))
        stated = _finite(sides) if None not in sides else None
        size = (stated[0], stated[1]) if stated else None
        boxes = tuple(_voc_box(cell) for cell in tree.findall("object"))
    except FAULTS as error:
        return RawRecord(
            file, image, split, name, tree.findtext("folder"), problem=f"a number is missing or wrong ({error})"
        )
    return RawRecord(file, image, split, name, tree.findtext("folder"), size, boxes)


def _voc_box(cell: ET.Element) -> RawBox:
    x1, y1, x2, y2 = _finite(cell.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    return RawBox(cell.findtext("name") or "", (x1 - 1, y1 - 1, x2, y2), (x2 - x1, y2 - y1))


# --- COCO: x, y, width, height ---------------------------------------------------------------------------------------


def _coco(root: Path, pictures: _Pictures) -> Iterator[RawRecord]:
    for file in _files(root, "*.json"):
        try:
            data = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue  # any other JSON file is no annotation
        if (
            isinstance(data, dict)
            and isinstance(data.get("images"), list)
            and isinstance(data.get("annotations"), list)
        ):
            try:
                yield from list(_coco_records(file, data, pictures, _split_of(file, root)))
            except FAULTS as error:
                yield RawRecord(file, problem=f"not COCO as it should be ({type(error).__name__}: {error})")


def _coco_records(file: Path, data: dict[str, Any], pictures: _Pictures, split: str | None) -> Iterator[RawRecord]:
    names = {c["id"]: str(c["name"]) for c in data.get("categories") or ()}
    cells: dict[Any, list[RawBox]] = defaultdict(list)
    for cell in data["annotations"]:
        if cell.get("bbox"):
            x, y, w, h = _finite(cell["bbox"])
            kind = cell.get("category_id")
            cells[cell["image_id"]].append(RawBox(names.get(kind, str(kind)), (x, y, x + w, y + h), (w, h)))
    for entry in data["images"]:
        stated = Path(entry["file_name"])
        image = next((p for p in (file.parent / stated, file.parent.parent / stated) if p.is_file()), None)
        size = (float(entry["width"]), float(entry["height"])) if {"width", "height"} <= set(entry) else None
        known = tuple(cells.get(entry["id"], ()))
        yield RawRecord(file, image or _same_name(pictures, stated, file), split, stated.name, None, size, known)


def _same_name(pictures: _Pictures, stated: Path, file: Path) -> Path | None:
    found = pictures.nearest(stated.stem, file)
    return found if found is not None and found.name == stated.name else None


# --- YOLO: class, centre and size as shares of the picture -----------------------------------------------------------


def _yolo(root: Path, pictures: _Pictures) -> Iterator[RawRecord]:
    names = _yolo_names(root)
    for file in _files(root, "*.txt"):
        if "labels" in file.relative_to(root.parent).parts[:-1]:
            yield _yolo_record(file, pictures.nearest(file.stem, file), names, _split_of(file, root))


def _yolo_names(root: Path) -> dict[str, str]:
    file = next((root / name for name in ("data.yaml", "data.yml") if (root / name).is_file()), None)
    try:
        data = yaml.safe_load(file.read_bytes()) if file else None
    except (yaml.YAMLError, OSError):
        return {}
    names = data.get("names") if isinstance(data, dict) else None
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    return {str(number): str(name) for number, name in pairs}


def _yolo_record(file: Path, image: Path | None, names: Mapping[str, str], split: str | None) -> RawRecord:
    try:
        size = image_size(image) if image else (1, 1)
        lines = [line.split() for line in file.read_text("utf-8").splitlines() if line.strip()]
        boxes = tuple(_yolo_box(line, size, names) for line in lines)
    except (OSError, *FAULTS, BlastdetError) as error:
        return RawRecord(file, image, split, problem=f"not five numbers a line ({error})")
    return RawRecord(file, image, split, boxes=boxes)


def _yolo_box(words: Sequence[str], size_wh: WidthHeight, names: Mapping[str, str]) -> RawBox:
    if len(words) != 5:
        raise ValueError(f"{' '.join(words)!r} found")
    cx, cy, w, h = (value * size_wh[i % 2] for i, value in enumerate(_finite(words[1:])))
    return RawBox(names.get(words[0], words[0]), (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), (w, h))
