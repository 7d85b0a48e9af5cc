"""From one format to others in one go: what ``blastdet convert`` does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import blastdet
from blastdet.core.atomic_io import new_folder, write_text
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, ORIGINS, Dataset
from blastdet.datasets import splits
from blastdet.datasets.apply_corrections import apply_corrections
from blastdet.datasets.formats import registry
from blastdet.datasets.formats.files import place_images
from blastdet.datasets.rescaling import resample
from blastdet.datasets.segmented_boxes import Progress, draw_boxes

RECORD = "convert.json"
"""What was done, kept beside the result; also the sign that a folder is ours to overwrite."""


@dataclass(frozen=True)
class Job:
    """What to convert and how.

    Parameters
    ----------
    source, out : Path
    to : tuple of str
        Keys of `formats.WRITERS`.
    format : str
        A key of `formats.READERS`, or ``"auto"``.
    split : str, optional
        See `splits.assign`; ``None`` leaves the splits as they were read.
    mpp : float, optional
        Resample every picture to this.
    boxes : {"segment", "fixed", "none"}, optional
        How cells without a box get one: an option of the reader where it has it; ``"segment"`` serves every set.
    corrections : Path, optional
    how : {"copy", "link"}
    overwrite : bool
    reader : mapping
        Options of the reader.
    """

    source: Path
    out: Path
    to: tuple[str, ...]
    format: str = "auto"
    split: str | None = None
    mpp: float | None = None
    boxes: str | None = None
    corrections: Path | None = None
    how: str = "copy"
    overwrite: bool = False
    reader: Mapping[str, Any] = field(default_factory=dict)


def convert(job: Job, progress: Progress | None = None) -> Dataset:
    """Read, correct, draw, split, resample and write; nothing stays behind if any of it fails.

    Parameters
    ----------
    job : Job
    progress : callable, optional
        Of the drawing, the slow part: see `draw.Progress`.

    Returns
    -------
    Dataset
        As it lies in `job.out`, with everything dropped and noted on the way.

    Raises
    ------
    FormatError
        Faulty input, or an `out` that is not empty.
    """
    _check(job)
    check_folder(job.out, job.overwrite, RECORD, [job.source])
    dataset = _read(job)
    if job.corrections is not None:
        dataset = apply_corrections(dataset, job.corrections)
    if job.boxes == "segment":
        dataset = draw_boxes(dataset, progress)
    if job.split is not None:
        dataset = splits.assign(dataset, job.split)
    dataset = replace(dataset, notes=(*dataset.notes, *_leak_note(dataset)))
    with new_folder(job.out) as folder:
        placed = place_images(dataset, folder, job.how) if job.mpp is None else resample(dataset, folder, job.mpp)
        for name in job.to:
            written = registry.write(placed, folder, name)
            dataset = replace(dataset, notes=tuple(dict.fromkeys((*dataset.notes, *written.notes))))
        final = tuple(replace(s, path=job.out / s.path.relative_to(folder)) for s in placed)
        dataset = replace(dataset, root=job.out, samples=final)
        write_text(folder / RECORD, json.dumps(_record(job, dataset), indent=1, ensure_ascii=False) + "\n")
    return dataset


def _read(job: Job) -> Dataset:
    options = dict(job.reader)
    drawn_later = job.boxes == "segment" and "boxes" not in registry.options_of(job.source, job.format)
    if job.boxes is not None and not drawn_later:
        options["boxes"] = job.boxes
    return registry.read(job.source, job.format, **options)


def _check(job: Job) -> None:
    for name in job.to:
        if name not in registry.WRITERS:
            raise FormatError(f"--to {name}: one of {', '.join(registry.WRITERS)} expected")


def _leak_note(dataset: Dataset) -> list[str]:
    found = splits.leaks(dataset)
    return [f"leak: {len(found)} groups lie on two sides of the split, first {found[0]}"] if found else []


def _record(job: Job, dataset: Dataset) -> dict[str, Any]:
    options: dict[str, Any] = {
        "format": job.format,
        "split": job.split,
        "mpp": job.mpp,
        "boxes": job.boxes,
        "to": list(job.to),
        "images": job.how,
    }
    options |= {"corrections": job.corrections and job.corrections.name}
    options |= {key: str(value) for key, value in job.reader.items() if value is not None}
    return {
        "notice": RESEARCH_USE,
        "blastdet": blastdet.__version__,
        "dataset": dataset.name,
        "options": options,
        "counts": counts(dataset),
        "dropped": list(dataset.dropped),
        "notes": list(dataset.notes),
    }


def counts(dataset: Dataset) -> dict[str, Any]:
    """Pictures in each split, cells of each class (those to be ignored apart), and where their boxes come from."""
    pictures = Counter(sample.split or "no split" for sample in dataset)
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
    ordered = {name: pictures[name] for name in (*splits.SPLITS, "no split") if pictures[name]}
    boxes = {name: origins[name] for name in ORIGINS if origins[name]}
    number = {"pictures": len(dataset), "splits": ordered, "cells": classes, "ignored": ignored}
    return {**number, "boxes": boxes, "cells_without_box": without_box, "not_annotated": _not_annotated(dataset)}


def _not_annotated(dataset: Dataset) -> int:
    return sum(sample.truth is None for sample in dataset)


def check_folder(out: Path, overwrite: bool, record: str, sources: Iterable[Path]) -> None:
    """Refuse an output folder that holds a source, or anything that is not ours to replace.

    Raises
    ------
    FormatError
        If `out` is a file, holds one of `sources`, or is not empty; with `overwrite`, if it has no file `record`, which
        the writer of such folders leaves in them.
    """
    for source in sources:
        try:
            held = source.resolve().is_relative_to(out.resolve())
        except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.11's word for a loop of links
            raise FormatError(f"{source} to {out}: no path that can be followed ({error})") from None
        if held:
            raise FormatError(f"{out}: it holds the source {source}; name another folder")
    check_no_file(out)
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise FormatError(f"{out}: the folder is not empty; give another, or --overwrite")
        if not (out / record).is_file():
            raise FormatError(
                f"{out}: no {record} found, so blastdet did not write this folder and does not replace it"
            )


def check_no_file(out: Path) -> None:
    """Refuse a file where a folder is to be written.

    Raises
    ------
    FormatError
    """
    if out.exists() and not out.is_dir():
        raise FormatError(f"{out}: a file found, a folder expected")
