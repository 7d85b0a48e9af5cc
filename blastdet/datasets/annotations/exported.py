"""From what an export states to a dataset: find the images, map the classes, fit the boxes.

One way for all programs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import CELL_CLASSES, Dataset, Sample, Scale
from blastdet.datasets.annotations.class_names import labels_of_names
from blastdet.datasets.annotations.image_lookup import ImageLookup, moved_note
from blastdet.datasets.annotations.records import (
    RawBox,
    RawRecord,
    cells_of,
    clipped_note,
    refuse_problem,
    split_of,
)
from blastdet.imaging.io import image_size

NO_CLASS = ""
"""Class name of a region without a class. A class map may give it one."""

_LARGEST = 1e7  # px; a coordinate beyond is a fault of the file


@dataclass(frozen=True)
class Export:
    """The records of an export, each with its image where there is one.

    Parameters
    ----------
    root : Path
        Folder of the export.
    records : tuple of RawRecord
        ``fields["classes"]`` are the classes that the export lists, ``fields["left_out"]`` one line for each region
        that is not a cell with a box, ``fields["has_truth"]`` is false for an image without annotations,
        ``fields["perhaps_open"]`` true where the program does not tell such an image from one without cells.
    images : ImageLookup
    per_image : bool
        Whether the program writes one file for each image: an image without one is not annotated.
    """

    root: Path
    records: tuple[RawRecord, ...]
    images: ImageLookup
    per_image: bool = False

    def unused(self) -> list[Path]:
        """Images that no record is about, sorted."""
        used = {record.image for record in self.records}
        return sorted(path for paths in self.images.by_name.values() for path in paths if path not in used)

    def moved(self) -> list[tuple[str, str]]:
        """Stated name and place of the images that are in another folder than stated; see `ImageLookup.moved`."""
        if self.per_image:  # paired by their stem
            return []
        return self.images.moved((record.name, record.image) for record in self.records if record.name and record.image)


def read_export(
    path: Path,
    find: Callable[[Path], Sequence[Path]],
    parse: Callable[[Path], Iterable[RawRecord]],
    images: Path | None = None,
    *,
    per_image: bool = False,
) -> Export:
    """Parse all files of an export, and find the image of each record.

    Raises `FormatError` if there is no file of the program, or the name of an image fits two images.

    Parameters
    ----------
    path : Path
        A file, or a folder.
    find : callable
        From a folder to the files of the program in it.
    parse : callable
        From a file to its records.
    images : Path, optional
        Folder of the images, if they are elsewhere.
    per_image : bool
        Whether each file has the stem of its image; that stem then counts more than the name in the file.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else find(path)
    if not files:
        raise FormatError(f"{path}: expected annotation files of this format, got none")
    lookup = ImageLookup.below(images or root)
    records = [record for file in files for record in parse(file)]
    return Export(root, tuple(_placed(record, lookup, per_image) for record in records), lookup, per_image)


def _placed(record: RawRecord, lookup: ImageLookup, per_image: bool) -> RawRecord:
    image = lookup.find_stem(record.file.stem, record.file) if per_image else None
    if image is None and record.name:
        image = lookup.find(record.name, record.file)
        if image is None and "." not in record.name[-6:]:  # some programs leave out the suffix
            image = lookup.find_stem(record.name, record.file)
    return replace(record, image=image)


def dataset_of(export: Export, class_map: Mapping[str, str] | None = None, mpp: Scale | None = None) -> Dataset:
    """A dataset of all records.

    Raises
    ------
    FormatError
        If a record could not be parsed, an image is missing, annotated twice or of another size than stated, or a class
        is unknown.
    """
    records, root = export.records, export.root
    for record in records:
        refuse_problem(record)
    _check_images(records, root)
    names = Counter(box.name for record in records for box in record.boxes)
    labels = labels_of_names(_with_class(names, class_map, root), class_map, str(root))
    labels = {NO_CLASS: None, **labels}
    samples, clipped = [], []
    dropped = [line for record in records for line in record.fields.get("left_out", ())]
    dropped += left_out_lines(names, labels)
    for record in sorted(records, key=lambda record: str(record.image)):
        assert record.image is not None
        size_wh = image_size(record.image)
        _check_size(record, size_wh)
        sample = Sample(record.image, size_wh, mpp=mpp, split=record.split)
        if record.fields.get("has_truth", True):
            truth, fitted = cells_of(record, size_wh, labels.__getitem__, class_map or ())
            dropped += fitted.dropped
            clipped += fitted.clipped
            sample = replace(sample, truth=truth)
        samples.append(sample)
    notes = [*moved_note(export.moved()), *_open_note(records), *clipped_note(clipped)]
    unused = export.unused()
    if export.per_image:
        samples += [Sample(image, image_size(image), mpp=mpp, split=split_of(image, root)) for image in unused]
        samples.sort(key=lambda sample: sample.path)
    elif unused:
        counts = f"{len(unused)} of {len(unused) + len(samples)}"
        notes.append(f"{counts} images have no entry in the export and are left out; first: {unused[0].name}")
    annotated, more = _annotated(records, labels, class_map)
    marked = tuple(sample if sample.truth is None else replace(sample, annotated=annotated) for sample in samples)
    return Dataset(root.name, root, marked, tuple(dropped), (*more, *notes))


def _open_note(records: Sequence[RawRecord]) -> tuple[str, ...]:
    """A note on images that may not have been labelled yet: their cells would count as absent."""
    empty = [record.image for record in records if record.fields.get("perhaps_open")]
    if not empty:
        return ()
    images = (
        "1 image has no region and counts as an image"
        if len(empty) == 1
        else f"{len(empty):,} images have no region and count as images"
    )
    return (
        f"{images} without cells; first: {empty[0] and empty[0].name}. Remove from the export what is not labelled yet",
    )


def _check_images(records: Sequence[RawRecord], root: Path) -> None:
    missing = [record.name or record.file.stem for record in records if record.image is None]
    if missing:
        counts = f"{len(records) - len(missing)} of {len(records)}"
        raise FormatError(
            f"{root}: expected the images of all annotations, got {counts}; first missing: {shown(missing[0], 120)}. "
            "Pass the folder of the images: --images DIR"
        )
    for image, n in Counter(record.image for record in records).items():
        if n > 1:
            raise FormatError(f"{root}: expected one annotation for each image, got {n} for {image and image.name}")


def _check_size(record: RawRecord, size_wh: tuple[int, int]) -> None:
    if record.size_wh is not None and record.size_wh != size_wh:
        actual, stated = "{}x{}".format(*size_wh), "{:g}x{:g}".format(*record.size_wh)
        what = f"{record.file}: {record.image and record.image.name}"
        raise FormatError(f"{what}: expected the size of the image, {actual}, got {stated}")


def _with_class(names: Mapping[str, int], class_map: Mapping[str, str] | None, root: Path) -> dict[str, int]:
    """The class names to map: without that of regions that have none, unless the class map has it."""
    if NO_CLASS not in names or NO_CLASS in (class_map or {}):
        return dict(names)
    if len(names) == 1:
        n = names[NO_CLASS]
        raise FormatError(f"{root}: expected a class for each region, got {n} without. Give them one: --map =wbc")
    return {name: n for name, n in names.items() if name != NO_CLASS}


def left_out_lines(names: Mapping[str, int], labels: Mapping[str, int | None]) -> list[str]:
    """One line for each class that the class map leaves out, with its number of regions."""
    lines = []
    for name, n in names.items():
        if labels[name] is None:
            regions = "1 region" if n == 1 else f"{n:,} regions"
            lines.append(f"{regions} without a class" if name == NO_CLASS else f"{regions} of the class {shown(name)}")
    return [f"{line}: left out" for line in lines]


def _annotated(
    records: Sequence[RawRecord], labels: Mapping[str, int | None], class_map: Mapping[str, str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes that count as annotated: those that the export lists or uses; and a note if it uses only one."""
    used = {labels[box.name] for record in records for box in record.boxes} - {None}
    listed = {name for record in records for name in record.fields.get("classes", ())} - {NO_CLASS}
    known = {label for name in listed if (label := _known(name, class_map)) is not None}
    names = tuple(CELL_CLASSES[i] for i in range(len(CELL_CLASSES)) if i in used | known)
    return names, one_class_note(names, [CELL_CLASSES[i] for i in used if i is not None])


def one_class_note(listed: Sequence[str], used: Sequence[str]) -> tuple[str, ...]:
    """A note where only one of several listed classes has cells: perhaps the others were never labelled."""
    if len(used) != 1 or len(listed) < 2:
        return ()
    return (
        f"only {used[0]} of the listed classes {', '.join(listed)} has cells: the others count as absent. "
        f"If they were not labelled, pass --annotated {used[0]}",
    )


def _known(name: str, class_map: Mapping[str, str] | None) -> int | None:
    """Label of a class that is listed but perhaps not used; unknown ones do not matter."""
    try:
        return labels_of_names({name: 0}, class_map, "")[name]
    except FormatError:
        return None


def box_around(points: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """The box around some points.

    Raises
    ------
    ValueError
        If there is no point, or a coordinate is not finite, or beyond any image.
    """
    if not points or not all(math.isfinite(v) and abs(v) < _LARGEST for point in points for v in point):
        raise ValueError(f"expected points with finite coordinates, got {list(points[:3])!s:.60}")
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def raw_box(name: str, points: Sequence[tuple[float, float]], source: str, **fields: Any) -> RawBox:
    """A `RawBox` around some points; errors are those of `box_around`."""
    x1, y1, x2, y2 = box_around(points)
    return RawBox(name, (x1, y1, x2, y2), (x2 - x1, y2 - y1), source, fields=fields)


def rotated(
    corners: Sequence[tuple[float, float]], degrees: float, about: tuple[float, float]
) -> list[tuple[float, float]]:
    """Points turned clockwise (y points down) about a point."""
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    moved = [(x - about[0], y - about[1]) for x, y in corners]
    return [(about[0] + x * cos - y * sin, about[1] + x * sin + y * cos) for x, y in moved]


def ellipse_points(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> list[tuple[float, float]]:
    """Two corners of the box around an ellipse that is turned by an angle."""
    (cx, cy), (rx, ry) = centre, radii
    if rx < 0 or ry < 0:
        raise ValueError(f"expected radii of 0 or more, got {rx:g} and {ry:g}")
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    half_w, half_h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return [(cx - half_w, cy - half_h), (cx + half_w, cy + half_h)]
