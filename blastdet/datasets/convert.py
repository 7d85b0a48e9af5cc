"""Convert a dataset to other formats: ``blastdet.convert``, ``blastdet.write_dataset`` and ``blastdet convert``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import blastdet
from blastdet.core import boxes
from blastdet.core.atomic_io import check_names, new_folder, write_text
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import ConfigError, FormatError, ScaleError
from blastdet.core.mpp import check_mpp
from blastdet.core.types import CELL_CLASSES, ORIGINS, Dataset, Detections, Sample
from blastdet.datasets import splits
from blastdet.datasets.annotations.files import folder_of, place_images, unique_names
from blastdet.datasets.formats import registry
from blastdet.datasets.reading import find_dataset, read_dataset
from blastdet.datasets.segmented_boxes import Progress, draw_boxes
from blastdet.imaging.io import open_smear, write_image

RECORD = "convert.json"
"""Record of a conversion, next to its result. A folder with this file may be overwritten."""

JPEG_QUALITY = 95


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion changes.

    Parameters
    ----------
    reading : mapping
        Keyword arguments of `read_dataset`, such as ``{"format": "coco", "mpp": 0.1}``. Empty for a `Dataset`.
    split : str, optional
        A strategy of `split`, or a CSV file. Default: the splits of the dataset.
    boxes : {"segment", "fixed", "none"}, optional
        How cells without a box get one. ``"segment"`` works for every dataset, the others for ALL-IDB1.
    resample : float, optional
        Resample all images to this many µm/px. Default: images are copied byte for byte.
    link : bool
        Link images instead of copying them.

    Raises
    ------
    ScaleError
        If `resample` is not between 0.001 and 100.
    """

    reading: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    boxes: str | None = None
    resample: float | None = None
    link: bool = False

    def __post_init__(self) -> None:
        if self.resample is not None:
            check_mpp(self.resample, "resample")


def convert(
    data: Dataset | str | Path,
    out: str | Path,
    to: str | Sequence[str] = "coco",
    *,
    overwrite: bool = False,
    options: ConvertOptions = ConvertOptions(),  # frozen
    progress: Progress | None = None,
) -> Dataset:
    """Convert a dataset: read, correct, draw boxes, split, resample and write it.

    The folder appears only when it is complete.

    Parameters
    ----------
    data : Dataset, str or Path
        A dataset, or what `read_dataset` accepts.
    out : str or Path
        Output folder. Images go to ``out/images/<split>/``.
    to : str or sequence of str
        Output formats: ``"coco"``, ``"yolo"``, ``"csv"``, ``"geojson"``.
    overwrite : bool
        Replace `out` if an earlier conversion wrote it.
    options : ConvertOptions
    progress : callable, optional
        Called as ``progress(done, total)`` while boxes are drawn.

    Returns
    -------
    Dataset
        The dataset in `out`, with everything that was dropped and noted.

    Raises
    ------
    FormatError
        If the input is invalid, or `out` exists and is not empty.
    ScaleError
        If images are to be resampled and their scale is unknown.

    Examples
    --------
    >>> import tempfile
    >>> from blastdet.datasets.catalog import CATALOG
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = convert(CATALOG / "demo", f"{folder}/demo", to=["coco", "yolo"])
    ...     sorted(path.name for path in data.root.iterdir())
    ['annotations', 'blastdet.json', 'convert.json', 'data.yaml', 'images', 'labels']
    """
    out, formats = Path(out), (to,) if isinstance(to, str) else tuple(to)
    _check_formats(formats)
    check_folder(out, overwrite, RECORD, [data.root if isinstance(data, Dataset) else find_dataset(data)[0]])
    dataset = _read(data, options)
    if options.boxes == "segment":
        dataset = draw_boxes(dataset, progress)
    if options.split is not None:
        dataset = splits.split(dataset, options.split)
    dataset = replace(dataset, notes=(*dataset.notes, *_leak_note(dataset)))
    return _write(dataset, out, formats, options)


def write_dataset(
    dataset: Dataset,
    path: str | Path,
    format: str | Sequence[str] = "coco",
    *,
    resample: float | None = None,
    link: bool = False,
    overwrite: bool = False,
) -> Dataset:
    """Write a dataset, images included, to a folder.

    Parameters
    ----------
    dataset : Dataset
    path : str or Path
        Output folder. Appears only when it is complete.
    format : str or sequence of str
        ``"coco"``, ``"yolo"``, ``"csv"``, ``"geojson"``, or several of them.
    resample, link, overwrite
        As for `convert`.

    Returns
    -------
    Dataset
        The dataset in `path`.

    Raises
    ------
    FormatError
        If the format is unknown, or `path` exists and is not empty.

    Examples
    --------
    >>> import tempfile
    >>> from blastdet.datasets.catalog import CATALOG
    >>> data = read_dataset(CATALOG / "demo", format="coco")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_dataset(data, f"{folder}/demo", "yolo")
    ...     read_dataset(written.root).classes == data.classes
    True
    """
    return convert(dataset, path, format, overwrite=overwrite, options=ConvertOptions(resample=resample, link=link))


def _read(data: Dataset | str | Path, options: ConvertOptions) -> Dataset:
    """The dataset to convert; `boxes` is passed to the reader if it has such an option."""
    reading, boxes = options.reading, options.boxes
    if isinstance(data, Dataset):
        given = [name for name, value in reading.items() if value is not None]
        if given or boxes not in (None, "segment"):
            raise ConfigError(f"{given[0] if given else 'boxes'}: expected None for a Dataset. Pass it to read_dataset")
        return data
    path, defaults = find_dataset(data)
    format = reading.get("format", "auto")
    format = format if format != "auto" else defaults.get("format", "auto")
    drawn_later = boxes == "segment" and "boxes" not in registry.options_of(path, format)
    if boxes is not None and not drawn_later:
        reading = {**reading, "boxes": boxes}
    return read_dataset(data, **reading)


def _write(dataset: Dataset, out: Path, formats: Sequence[str], options: ConvertOptions) -> Dataset:
    how, resolution = "link" if options.link else "copy", options.resample
    with new_folder(out) as folder:
        placed = place_images(dataset, folder, how) if resolution is None else _resample(dataset, folder, resolution)
        for name in formats:
            written = registry.write(placed, folder, name)
            dataset = replace(dataset, notes=tuple(dict.fromkeys((*dataset.notes, *written.notes))))
        final = tuple(replace(s, path=out / s.path.relative_to(folder)) for s in placed)
        dataset = replace(dataset, root=out, samples=final)
        record = _record(dataset, formats, options)
        write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return dataset


def _check_formats(formats: Sequence[str]) -> None:
    if not formats:
        raise FormatError(f"to: expected some of {', '.join(registry.WRITERS)}, got none")
    for name in formats:
        if name not in registry.WRITERS:
            raise FormatError(f"to: expected one of {', '.join(registry.WRITERS)}, got {name!r}")


def _leak_note(dataset: Dataset) -> list[str]:
    found = splits.leaks(dataset)
    return [f"leak: {len(found)} groups are in more than one split, first {found[0]}"] if found else []


def _record(dataset: Dataset, formats: Sequence[str], options: ConvertOptions) -> dict[str, Any]:
    def plain(name: str, value: Any) -> Any:
        if isinstance(value, Path) or (isinstance(value, str) and name in ("corrections", "images", "other")):
            return Path(value).name  # no paths of this machine
        return value

    given = {"format": "auto", **dict.fromkeys(("mpp", "corrections", "class_map")), **options.reading}
    given |= {"to": formats} | {name: getattr(options, name) for name in ("split", "resample", "boxes", "link")}

    return {
        "notice": RESEARCH_USE,
        "blastdet": blastdet.__version__,
        "dataset": dataset.name,
        "options": {name: plain(name, value) for name, value in given.items()},
        "counts": counts(dataset),
        "dropped": list(dataset.dropped),
        "notes": list(dataset.notes),
    }


def counts(dataset: Dataset) -> dict[str, Any]:
    """Images of each split, cells of each class (ignored cells apart), and boxes of each origin."""
    images = Counter(sample.split or "no split" for sample in dataset)
    cells: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    ignored = without_box = 0
    for sample in dataset:
        if sample.truth is not None:
            cells.update(sample.truth.counts())
            ignored += 0 if sample.truth.ignore is None else int(sample.truth.ignore.sum())
            boxed = ~np.isnan(sample.truth.boxes_xyxy[:, 0])
            without_box += int((~boxed).sum())
            origins.update([] if sample.truth.origin is None else sample.truth.origin[boxed].tolist())
    classes = {name: cells[name] for name in CELL_CLASSES if name in dataset.classes}
    ordered = {name: images[name] for name in (*splits.SPLITS, "no split") if images[name]}
    drawn = {name: origins[name] for name in ORIGINS if origins[name]}
    number = {"pictures": len(dataset), "splits": ordered, "cells": classes, "ignored": ignored}
    not_annotated = sum(sample.truth is None for sample in dataset)
    return {**number, "boxes": drawn, "cells_without_box": without_box, "not_annotated": not_annotated}


def _resample(dataset: Dataset, out: Path, mpp: float) -> Dataset:
    """Write all images below ``out/images/<split>/``, resampled to `mpp` µm/px along both axes.

    Pixels become square. JPEG stays JPEG (quality 95), other formats become PNG. Width and height are rounded to whole
    pixels; the µm/px and the boxes of each image follow from its actual size.
    """
    unknown = [dataset.file_name(sample) for sample in dataset if sample.mpp is None]
    if unknown:
        raise ScaleError(f"{dataset.root}: {len(unknown)} images without µm/px, first {unknown[0]}. Pass --mpp")
    samples = []
    for sample, name in zip(dataset, unique_names(dataset), strict=True):
        suffix = Path(name).suffix if Path(name).suffix.lower() in (".jpg", ".jpeg") else ".png"
        target = out / "images" / folder_of(sample) / f"{Path(name).stem}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        samples.append(_resampled(sample, target, mpp))
    return replace(dataset, root=out, samples=tuple(samples))


def _resampled(sample: Sample, target: Path, mpp: float) -> Sample:
    assert sample.mpp is not None
    width, height = (round(side * own / mpp) for side, own in zip(sample.size_wh, sample.mpp, strict=True))
    if min(width, height) < 1:
        size, scale = "{} x {}".format(*sample.size_wh), "{:g}, {:g}".format(*sample.mpp)
        raise ScaleError(f"{sample.path}: {size} px at {scale} µm/px leave no pixel at {mpp:g} µm/px")
    factor = width / sample.size_wh[0], height / sample.size_wh[1]
    with open_smear(sample.path) as source:
        write_image(target, source.read(scale_xy=factor), JPEG_QUALITY)
    return replace(
        sample,
        path=target,
        size_wh=(width, height),
        mpp=(sample.mpp[0] / factor[0], sample.mpp[1] / factor[1]),
        truth=None if sample.truth is None else _scaled(sample.truth, factor),
    )


def _scaled(cells: Detections, factor_xy: tuple[float, float]) -> Detections:
    points = None if cells.point_xy is None else cells.point_xy * factor_xy
    return cells.with_columns(boxes_xyxy=boxes.scale(cells.boxes_xyxy, factor_xy), point_xy=points)


def check_folder(out: Path, overwrite: bool, record: str, sources: Iterable[Path]) -> None:
    """Refuse an output folder that contains a source, or files that blastdet did not write.

    Raises
    ------
    FormatError
        If `out` is a file, contains one of `sources`, or is not empty. With `overwrite`: if it does not contain the
        file `record`, which marks folders that this command wrote.
    """
    for source in sources:
        try:
            is_inside = source.resolve().is_relative_to(out.resolve())
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, in Python 3.11
            raise FormatError(f"{source} or {out}: the path cannot be resolved ({error})") from None
        if is_inside:
            raise FormatError(f"{out}: contains the source {source}. Choose another output folder")
    check_no_file(out)
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise FormatError(f"{out}: the folder is not empty. Choose another one, or add --overwrite")
        if not (out / record).is_file():
            raise FormatError(
                f"{out}: not overwritten, because it has no {record} and so was not written by this command"
            )


def check_no_file(out: Path) -> None:
    """Refuse a file in the place of an output folder, or of a folder above it, and too long a name.

    Raises
    ------
    FormatError
    ConfigError
        If no file system has room for the name.
    """
    check_names(out)
    for place in (out, *out.parents):
        if os.path.exists(place) and not os.path.isdir(place):  # noqa: PTH110, PTH112  # too long a name is no file
            raise FormatError(f"{place}: expected a folder, got a file")
