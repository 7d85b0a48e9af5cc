"""Annotations exactly as files state them, faults included: the common result of the parsers of all formats.

Each format module parses its files into a `RawRecord` for each image. Its ``read`` builds a `Dataset` from them and
refuses the first fault; the audit looks at the records themselves, and `to_dataset` keeps what is valid.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes as box_tools
from blastdet.core.atomic_io import files_under
from blastdet.core.errors import FormatError, ImageError, shown
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, SourceIds, WidthHeight
from blastdet.datasets.annotations.class_names import label_of, with_types
from blastdet.imaging.io import image_size

_ROUNDING = 1.0  # px by which a box may be beyond its image without a note: formats count pixels from 0 or 1

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class RawBox:
    """One box as published.

    Parameters
    ----------
    name : str
        Class name of the file.
    xyxy : tuple of four float
        Half-open pixels, neither clipped nor sorted.
    extent_wh : (float, float)
        Width and height as stated in the file: 0 means no area, a negative value means swapped corners.
    source : str
        Where the file states the box, for messages: ``"annotation 3"``, ``"line 12 (0 0.5 0.5 0.1 0)"``.
    is_point : bool
        Whether the file marks it as a point without a box.
    fields : mapping
        Everything else that the file states about the cell.
    """

    name: str
    xyxy: tuple[float, float, float, float]
    extent_wh: tuple[float, float]
    source: str = ""
    is_point: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RawRecord:
    """What one annotation file states about one image.

    Parameters
    ----------
    file : Path
        The annotation file.
    image : Path, optional
        The image it belongs to; ``None`` if there is no such image.
    split : str, optional
    name, folder : str, optional
        File name and folder of the image as stated in the annotation file.
    size_wh : (float, float), optional
        Size of the image as stated in the annotation file.
    boxes : tuple of RawBox
        All boxes that could be parsed.
    problem : str, optional
        The first thing that could not be parsed.
    fields : mapping
        Everything else that the file states about the image.
    """

    file: Path
    image: Path | None = None
    split: str | None = None
    name: str | None = None
    folder: str | None = None
    size_wh: tuple[float, float] | None = None
    boxes: tuple[RawBox, ...] = ()
    problem: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def files_below(root: Path, pattern: str) -> list[Path]:
    """Visible files below `root` whose names match `pattern`, sorted; links are followed as `files_under` does.

    Raises `FormatError` if a folder cannot be read.
    """
    if not root.is_dir():
        return []
    try:
        return sorted(path for path in files_under(root, hidden=False) if path.match(pattern) and path.is_file())
    except OSError as error:
        raise FormatError(f"{root}: cannot be read ({error.strerror or error})") from None


def split_of(file: Path, root: Path) -> str | None:
    """The split named by a file or its folders below `root`, as in ``instances_train2017.json`` or ``valid/``."""
    text = " ".join([*file.relative_to(root).parts[:-1], file.stem]).lower()
    for separator in "_-.":
        text = text.replace(separator, " ")
    words = (word.rstrip("0123456789") for word in reversed(text.split()))
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def refuse_problem(record: RawRecord) -> None:
    """Raise `FormatError` if a part of the record could not be parsed."""
    if record.problem is not None:
        raise FormatError(f"{record.file}: {record.problem}")


@dataclass(frozen=True)
class Fitted:
    """Boxes of a record after the one rule of all readers; see `fit`.

    Parameters
    ----------
    xyxy : float32 (n, 4)
        The boxes, clipped to the image; NaN for a point without a box.
    keep : bool (n,)
        False for a box that is left out.
    dropped : list of str
        One line for each box that is left out.
    clipped : list of str
        One line for each box that was more than a pixel beyond the image.
    """

    xyxy: NDArray[np.float32]
    keep: NDArray[np.bool_]
    dropped: list[str]
    clipped: list[str]


def fit(record: RawRecord, size_wh: WidthHeight) -> Fitted:
    """Fit the boxes of a record to its image, the same for every format.

    A box that is partly beyond the image is clipped to it. One without area (in the file, or as float32), or completely
    outside the image, is left out by name. Points have no box and stay.
    """
    stated = np.array([box.xyxy for box in record.boxes], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore"):  # a coordinate beyond float32 is beyond the image
        fitted = box_tools.clip(stated, size_wh)
    beyond = np.abs(stated - fitted).max(axis=1, initial=0) > _ROUNDING
    keep = np.ones(len(record.boxes), bool)
    dropped, clipped = [], []
    for i, box in enumerate(record.boxes):
        where = f"{record.file.name}: {box.source}"
        if box.is_point:
            fitted[i] = np.nan
        elif min(box.extent_wh) <= 0:
            keep[i] = False
            dropped.append(f"{where}: box without area")
        elif (fitted[i, 2:] <= fitted[i, :2]).any():
            keep[i] = False
            dropped.append(f"{where}: box outside the image" if beyond[i] else f"{where}: box without area")
        elif beyond[i]:
            clipped.append(where)
    return Fitted(fitted, keep, dropped, clipped)


def inside(record: RawRecord, fitted: Fitted) -> RawRecord:
    """The record with its fitted boxes only."""
    rows = [
        replace(box, xyxy=tuple(xyxy), extent_wh=(xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]))
        for box, xyxy, keep in zip(record.boxes, fitted.xyxy.tolist(), fitted.keep.tolist(), strict=True)
        if keep
    ]
    return replace(record, boxes=tuple(rows))


def check_distinct(samples: Sequence[Sample], where: Path) -> None:
    """An image that is listed twice would be counted twice, and could be on both sides of a split."""
    seen: set[Path] = set()
    for sample in samples:
        image = sample.path.resolve()
        if image in seen:
            raise FormatError(f"{where}: expected one entry for each image, got two for {sample.path.name}")
        seen.add(image)


def joined_ids(ids: Sequence[SourceIds]) -> SourceIds:
    """Ids of several files; an id that stands for two things is refused when it is used."""
    categories = dict.fromkeys(one for part in ids for one in part.categories)
    return SourceIds(ids[0].meaning, tuple(categories), tuple(one for part in ids for one in part.images))


def clipped_note(clipped: Sequence[str]) -> tuple[str, ...]:
    """The note of a dataset on all boxes that were clipped, or none; see `Fitted.clipped`."""
    if not clipped:
        return ()
    n = "1 box was" if len(clipped) == 1 else f"{len(clipped):,} boxes were"
    return (f"{n} partly beyond the image and clipped to it; first: {clipped[0]}",)


def cells_of(
    record: RawRecord, size_wh: WidthHeight, label: Callable[[str], int | None], mapped: Container[str] = ()
) -> tuple[Detections, Fitted]:
    """Cells of a record, fitted to the image; see `fit`. Points are left out.

    Parameters
    ----------
    label : callable
        From the class name of a box to an index into `CELL_CLASSES`, or ``None`` to leave the box out; its errors are
        raised.
    mapped : container of str
        The class map, whose names add no cell type.
    """
    stated = [(box, known) for box in record.boxes if (known := label(box.name)) is not None]
    record = replace(record, boxes=tuple(box for box, _ in stated))
    labels = np.array([known for _, known in stated], np.int64)
    fitted = fit(record, size_wh)
    keep = fitted.keep & ~np.isnan(fitted.xyxy).any(axis=1)
    names = [box.name for box, kept in zip(record.boxes, keep.tolist(), strict=True) if kept]
    cells = Detections(fitted.xyxy[keep], label=labels[keep], origin=np.full(len(names), "human"))
    return with_types(cells, names, mapped), fitted


def to_dataset(records: Iterable[RawRecord], root: Path, class_map: Mapping[str, str] | None = None) -> Dataset:
    """A dataset of everything valid in `records`: boxes with area inside their image and with a known class.

    Images that cannot be read, and records that could not be parsed completely, are left out.

    Returns
    -------
    Dataset
        `dropped` has one line for everything that was left out.
    """
    samples, dropped, clipped = [], [], []
    by_image = {}
    for record in records:
        if record.problem is not None:
            dropped.append(f"{record.file.name}: {record.problem}")
        elif record.image is None:
            dropped.append(f"{record.file.name}: no image {record.name or record.file.stem}")
        elif record.image in by_image:
            dropped.append(f"{record.file.name}: {record.image.name}: another annotation of the same image")
        else:
            by_image[record.image] = record
    for image, record in sorted(by_image.items()):
        try:
            size_wh = image_size(image)
        except ImageError as error:
            dropped.append(str(error))
            continue
        known, lines = _with_known_class(record, class_map)
        truth, fitted = cells_of(known, size_wh, lambda name: label_of(name, class_map, ""), class_map or ())
        dropped += lines + fitted.dropped
        clipped += fitted.clipped
        samples.append(Sample(image, size_wh, split=record.split, truth=truth))
    shown = {CELL_CLASSES[i] for sample in samples if sample.truth is not None for i in sample.truth.label.tolist()}
    annotated = tuple(name for name in CELL_CLASSES if name in shown)
    marked = tuple(replace(sample, annotated=annotated) for sample in samples)
    return Dataset(root.name, root, marked, tuple(dropped), clipped_note(clipped))


def _with_known_class(record: RawRecord, class_map: Mapping[str, str] | None) -> tuple[RawRecord, list[str]]:
    known, dropped = [], []
    for box in record.boxes:
        where = f"{record.file.name}: {box.source}"
        try:
            label = label_of(box.name, class_map, record.file.name)
        except FormatError as error:
            dropped.append(str(error))
        else:
            if box.is_point:
                dropped.append(f"{where}: point without a box")
            elif label is None:
                dropped.append(f"{where}: class {shown(box.name)} left out")
            else:
                known.append(box)
    return replace(record, boxes=tuple(known)), dropped
