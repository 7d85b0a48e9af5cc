"""Pascal VOC: ``Annotations/*.xml`` next to ``JPEGImages/``, splits in ``ImageSets/Main``.

Coordinates in the files are 1-based and inclusive; here they are 0-based and half-open: ``x1-1, y1-1, x2, y2``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, Scale
from blastdet.datasets.formats.class_names import label_of
from blastdet.datasets.formats.files import SPLITS, read_text
from blastdet.datasets.formats.records import (
    Fitted,
    ImageIndex,
    RawBox,
    RawRecord,
    cells_of,
    clipped_note,
    files_below,
    refuse_problem,
)
from blastdet.datasets.formats.records import split_of as split_named_by
from blastdet.imaging.io import image_size


def read(path: Path, *, class_map: Mapping[str, str] | None = None, mpp: Scale | None = None) -> Dataset:
    """Read a Pascal VOC dataset.

    Raises `FormatError` if an XML file is faulty, has no image, states another size than that of its image, or has an
    unknown class.

    Parameters
    ----------
    path : Path
        The folder with ``Annotations`` and ``JPEGImages``.

    Returns
    -------
    Dataset
        Every class that occurs counts as annotated in every image with an XML file. `dropped` names each box without
        area or outside its image, and a note says how many were clipped. An image without an XML file has no truth.
    """
    root = Path(path)
    if not ((root / "Annotations").is_dir() and (root / "JPEGImages").is_dir()):
        raise FormatError(f"{root}: expected the folders Annotations and JPEGImages, got neither or only one")
    images = _images(root / "JPEGImages")
    splits = _read_sets(root / "ImageSets" / "Main", set(images))
    _check_pairs(root / "Annotations", images)
    samples, dropped, clipped = [], [], []
    for stem, image in sorted(images.items()):
        sample = Sample(image, image_size(image), mpp, split=splits.get(stem))
        annotation = root / "Annotations" / f"{stem}.xml"
        if annotation.exists():
            truth, fitted = _truth(annotation, sample, class_map)
            sample = replace(sample, truth=truth)
            dropped += fitted.dropped
            clipped += fitted.clipped
        samples.append(sample)
    shown = {CELL_CLASSES[i] for sample in samples if sample.truth is not None for i in sample.truth.label.tolist()}
    annotated = tuple(name for name in CELL_CLASSES if name in shown)
    marked = tuple(sample if sample.truth is None else replace(sample, annotated=annotated) for sample in samples)
    return Dataset(root.name.lower(), root, marked, tuple(dropped), clipped_note(clipped))


def read_records(root: Path) -> list[RawRecord]:
    """Every VOC annotation file below a folder, faults included."""
    images, splits = ImageIndex.below(root), _stated_splits(root)
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
        raise ValueError(f"expected a number as {field}, got {text!r:.60}")
    return value


def _truth(file: Path, sample: Sample, class_map: Mapping[str, str] | None) -> tuple[Detections, Fitted]:
    record = parse(file)
    if record is None:
        raise FormatError(f"{file}: expected the root element <annotation>, got another one")
    refuse_problem(record)
    if record.size_wh is None:
        raise FormatError(f"{file}: expected size/width and size/height in <annotation>, got none")
    width, height = record.size_wh
    if width != sample.size_wh[0] or height != sample.size_wh[1]:
        actual = "{}x{}".format(*sample.size_wh)
        raise FormatError(f"{file}: expected the size of the image, {actual}, got {width:g}x{height:g}")
    if any(not box.name for box in record.boxes):
        raise FormatError(f"{file}: expected a name for every object, got one without")
    return cells_of(record, sample.size_wh, lambda name: label_of(name, class_map, str(file)))


def _images(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    images = {path.stem: path for path in files}
    if len(images) < len(files):
        double = next(path for path in files if images[path.stem] != path)
        raise FormatError(f"{double}: expected one image with the stem {double.stem}, got two")
    return images


def _check_pairs(annotations: Path, images: Mapping[str, Path]) -> None:
    for annotation in sorted(annotations.glob("*.xml")):
        if annotation.stem not in images:
            raise FormatError(f"{annotation}: expected an image {annotation.stem}.* in JPEGImages, got none")


def _read_sets(folder: Path, known: set[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name in SPLITS:
        listing = folder / f"{name}.txt"
        for line in read_text(listing).splitlines() if listing.exists() else ():
            if not line.strip():
                continue
            stem = line.split()[0]
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
