"""Chula RBC-12: ``Dataset/N.jpg`` and ``Label/N.txt`` with one red cell per line, ``x y type``.

The dataset has centres only, so boxes are NaN. Most images are labelled in part: a missing point is not a negative.

Source: Naruenatthanaset et al., "Red Blood Cell Segmentation with Overlapping Cell Separation and Classification
on Imbalanced Dataset", arXiv:2012.01321, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.types import RBC, Dataset, Detections, Sample, Scale, WidthHeight
from blastdet.datasets.annotations.files import read_text
from blastdet.imaging.io import image_size

CELL_TYPES: tuple[str, ...] = (
    "normal",
    "macrocyte",
    "microcyte",
    "spherocyte",
    "target_cell",
    "stomatocyte",
    "ovalocyte",
    "teardrop",
    "burr_cell",
    "schistocyte",
    "uncategorised",
    "hypochromia",
    "elliptocyte",
)
"""Type of a red cell by its number in the files."""

DENSE_POINTS = 60
"""An image with at least this many points counts as completely labelled: a field shows 60 to 130 red cells."""


@dataclass
class _Log:
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def matches(path: Path) -> bool:
    """Whether `path` contains images in ``Dataset`` and numbered text files in ``Label``."""
    return (path / "Dataset").is_dir() and next((path / "Label").glob("[0-9]*.txt"), None) is not None


def read(path: Path, *, mpp: Scale | None = None) -> Dataset:
    """Read a complete or partial copy of Chula RBC-12.

    Raises `FormatError` if there is no image, or a line is not ``x y type``.

    Parameters
    ----------
    path : Path
        The folder with ``Dataset`` and ``Label``.

    Returns
    -------
    Dataset
        Red cells as `point_xy` with boxes of NaN and a `cell_type`. `annotated` is ``("rbc",)`` for images with at
        least `DENSE_POINTS` points, and empty otherwise. An image whose label file is missing or empty has no truth,
        because its red cells are not labelled.
    """
    images = sorted((path / "Dataset").glob("*.jpg"))
    if not images:
        raise FormatError(f"{path}: expected the folder with Dataset/N.jpg and Label, got no image")
    log = _Log()
    samples = []
    for image in images:
        size_wh = image_size(image)
        truth = _truth(path / "Label" / f"{image.stem}.txt", size_wh, log)
        annotated = ("rbc",) if truth is not None and len(truth) >= DENSE_POINTS else ()
        samples.append(Sample(image, size_wh, mpp=mpp, annotated=annotated, truth=truth))
    return Dataset("chula_rbc12", path, tuple(samples), tuple(log.dropped), tuple(log.notes))


def _truth(file: Path, size_wh: WidthHeight, log: _Log) -> Detections | None:
    name = f"{file.parent.name}/{file.name}"
    if not file.is_file():
        log.notes.append(f"{name}: missing, its image is read as not annotated")
        return None
    cells = [_cell(line, f"{name}: line {n}") for n, line in enumerate(read_text(file).splitlines(), 1) if line.strip()]
    if not cells:
        log.notes.append(f"{name}: empty, its image is read as not annotated")
        return None
    kept: dict[tuple[int, int], int] = {}
    for x, y, kind in cells:
        if not (0 <= x < size_wh[0] and 0 <= y < size_wh[1]):
            log.dropped.append(f"{name}: point ({x}, {y}) is outside the image of {size_wh[0]} x {size_wh[1]} px")
        elif (x, y) in kept:
            log.dropped.append(f"{name}: point ({x}, {y}) is listed twice")
        else:
            kept[x, y] = kind
    return Detections(
        np.full((len(kept), 4), np.nan, np.float32),
        label=np.full(len(kept), RBC),
        point_xy=np.asarray(list(kept), np.float32).reshape(-1, 2),
        cell_type=np.asarray([CELL_TYPES[kind] for kind in kept.values()], np.str_),
    ).sorted()


def _cell(line: str, where: str) -> tuple[int, int, int]:
    try:
        x, y, kind = (int(value) for value in line.split())
    except ValueError:
        kind = -1
    if not 0 <= kind < len(CELL_TYPES):
        expected = f"expected 'x y type' with a type from 0 to {len(CELL_TYPES) - 1}"
        raise FormatError(f"{where}: {expected}, got {line.strip()[:40]!r}")
    return x, y, kind
