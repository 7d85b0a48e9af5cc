"""Pascal VOC: ``Annotations/*.xml`` next to ``JPEGImages/``, splits in ``ImageSets/Main``.

Coordinates in the files are 1-based and inclusive; here they are 0-based and half-open: ``x1-1, y1-1, x2, y2``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import Dataset, Scale
from blastdet.datasets.annotations.exported import dataset_of, read_export
from blastdet.datasets.annotations.files import SPLITS, read_text
from blastdet.datasets.annotations.image_lookup import ImageLookup, plain
from blastdet.datasets.annotations.records import RawBox, RawRecord, files_below
from blastdet.datasets.annotations.records import split_of as split_named_by


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read a Pascal VOC dataset, also as LabelImg, CVAT, Label Studio and Roboflow write it.

    Raises `FormatError` if an XML file is faulty, has no image, states another size than that of its image, or a class
    is unknown.

    Parameters
    ----------
    path : Path
        A folder with ``Annotations`` and ``JPEGImages`` or ``images``, a folder with XML files next to their images at
        any depth, or one XML file.
    images : Path, optional
        Folder of the images, if they are elsewhere.

    Returns
    -------
    Dataset
        Every class that occurs counts as annotated in every image with an XML file. `dropped` names each box without
        area or outside its image, and a note says how many were clipped to it. An image without an XML file has no
        truth. The split comes from ``ImageSets/Main``, or from the name of a folder.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    beside = [folder for name in ("JPEGImages", "images") if (folder := root / name).is_dir()]
    export = read_export(path, _files, _strict, images or next(iter(beside), None), per_image=True)
    splits = _read_sets(root / "ImageSets" / "Main", {plain(stem) for stem in export.images.by_stem})
    records = [_with_split(record, splits, root) for record in export.records]
    dataset = dataset_of(replace(export, records=tuple(records)), class_map, mpp)
    stated = [splits.get(plain(sample.path.stem), sample.split) for sample in dataset]
    samples = [replace(sample, split=split) for sample, split in zip(dataset, stated, strict=True)]
    return replace(dataset, name=root.name.lower(), samples=tuple(samples))


def _files(root: Path) -> list[Path]:
    """XML files in ``Annotations``; without that folder, those below `root` that look like VOC."""
    if (root / "Annotations").is_dir():
        return files_below(root / "Annotations", "*.xml")
    return [file for file in files_below(root, "*.xml") if is_voc(file)]


def is_voc(file: Path) -> bool:
    """Whether the root element of an XML file is that of VOC."""
    try:
        with file.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return False
    return b"<annotation>" in head or b"<annotation " in head


def matches(folder: Path) -> bool:
    """Whether a folder has VOC files in it, or in its folders."""
    if (folder / "Annotations").is_dir():
        return True
    return any(is_voc(file) for pattern in ("*.xml", "*/*.xml") for file in folder.glob(pattern))


def _strict(file: Path) -> list[RawRecord]:
    record = parse(file) or RawRecord(file, problem="expected the root element <annotation>, got another one")
    if any(not box.name for box in record.boxes):
        record = replace(record, problem=record.problem or "expected a name for every object, got one without")
    return [record]


def _with_split(record: RawRecord, splits: Mapping[str, str], root: Path) -> RawRecord:
    """The record with its split, and without a size of 0 x 0, which some programs write instead of none."""
    size_wh = None if record.size_wh == (0, 0) else record.size_wh
    split = splits.get(plain(record.file.stem)) or split_named_by(record.file.parent / "x", root)
    return replace(record, split=split, size_wh=size_wh)


def read_records(root: Path) -> list[RawRecord]:
    """Every VOC annotation file below a folder, faults included."""
    images, splits = ImageLookup.below(root), _stated_splits(root)
    records = []
    for file in files_below(root, "*.xml"):
        record = parse(file)
        if record is None:
            continue
        image = images.nearest(file.stem, file)
        if image is None and record.name:
            image = images.nearest(Path(record.name).stem, file)
        split = splits.get(file.stem) or split_named_by(file, root)
        records.append(replace(record, image=image, split=split))
    return records


def parse(file: Path) -> RawRecord | None:
    """Parse one XML file; ``None`` if it is XML of another kind."""
    try:
        tree = ET.fromstring(file.read_bytes())
    except (ET.ParseError, LookupError, ValueError, OSError) as error:  # LookupError: an unknown encoding
        return RawRecord(file, problem=f"expected well-formed XML ({error})")
    if tree.tag != "annotation":
        return None
    record = RawRecord(file, name=tree.findtext("filename"), folder=tree.findtext("folder"))
    boxes, problem = [], None
    try:
        if tree.find("size/width") is not None and tree.find("size/height") is not None:
            record = replace(record, size_wh=(_number(tree, "size/width"), _number(tree, "size/height")))
    except ValueError as error:
        problem = str(error)
    for cell in tree.findall("object"):
        try:
            boxes.append(_box(cell))
        except ValueError as error:
            problem = problem or str(error)
    return replace(record, boxes=tuple(boxes), problem=problem)


def _box(cell: ET.Element) -> RawBox:
    x1, y1, x2, y2 = (_number(cell, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    name = cell.findtext("name") or ""
    return RawBox(name, (x1 - 1, y1 - 1, x2, y2), (x2 - x1, y2 - y1), f"{name} ({x1:g}, {y1:g}, {x2:g}, {y2:g})")


def _number(element: ET.Element, field: str) -> float:
    text = element.findtext(field)
    if text is None:
        raise ValueError(f"expected {field} in <{element.tag}>, got none")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a number as {field}, got {shown(text)}")
    return value


def _read_sets(folder: Path, known: set[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name in SPLITS:
        listing = folder / f"{name}.txt"
        for line in read_text(listing).splitlines() if listing.exists() else ():
            if not line.strip():
                continue
            stem = plain(line.split()[0])
            if stem not in known:
                raise FormatError(f"{listing}: expected stems of images, got {stem}, which has no image")
            if stem in splits:
                raise FormatError(f"{listing}: expected each image in one split, got {stem}, also in {splits[stem]}")
            splits[stem] = name
    return splits


def _stated_splits(root: Path) -> dict[str, str]:
    """Stem of an image -> split, from all lists below `root`."""
    splits: dict[str, str] = {}
    for listing in root.rglob("ImageSets/*/*.txt"):
        if listing.stem in SPLITS:
            lines = listing.read_text("utf-8", "replace").splitlines()
            splits |= {words[0]: listing.stem for line in lines if (words := line.split())}
    return splits
