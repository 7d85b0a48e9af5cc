"""PBC with boxes: ``images/*.jpg``, ``labels/*.txt`` (YOLO, one box each) and ``labels.csv``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.types import WBC, Dataset, Detections, Sample, Scale, WidthHeight
from blastdet.datasets.annotations.files import read_column, read_text
from blastdet.datasets.annotations.records import cells_of
from blastdet.datasets.formats.yolo_labels import check_fractions, parse
from blastdet.imaging.io import image_size

MPP: Scale = (0.1, 0.1)
"""µm/px, from red cells, which are 7.5 µm and about 75 px wide."""


def matches(path: Path) -> bool:
    """Whether `path` contains ``labels.csv`` with a column ``cell_type``, ``images`` and ``labels``."""
    table = path / "labels.csv"
    if not (table.is_file() and (path / "images").is_dir() and (path / "labels").is_dir()):
        return False
    return "cell_type" in read_text(table).partition("\n")[0].split(",")


def read(path: Path, *, mpp: Scale | None = MPP) -> Dataset:
    """Read PBC with boxes.

    Raises `FormatError` if an image has no row in ``labels.csv``, or a label file is faulty.

    Parameters
    ----------
    path : Path
        The folder with ``labels.csv``.

    Returns
    -------
    Dataset
        Every cell is a ``wbc``. Its `cell_type` comes from ``labels.csv``, because the class names of the YOLO files
        are wrong ("Immunoglobulin" for immature granulocytes). Erythroblasts are nucleated cells, therefore ``wbc``
        with the type ``"erythroblast"``, which excludes them from counts. Only the central cell has a box. A second
        white cell is so rare that ``wbc`` counts as annotated; red cells and platelets are unknown. The published split
        separates byte-identical images and is not used.
    """
    cell_types = read_column(path / "labels.csv", "cell_type")
    samples, notes = [], []
    for name in sorted(cell_types):
        image, labels = path / "images" / name, path / "labels" / f"{Path(name).stem}.txt"
        if not image.is_file():
            raise FormatError(f"{image}: expected this image, listed in labels.csv, got none")
        sample = Sample(image, image_size(image), mpp=mpp)
        if labels.is_file():
            truth = _truth(labels, sample.size_wh, cell_types[name])
            sample = replace(sample, annotated=("wbc",), truth=truth)
        else:
            notes.append(f"labels/{labels.name}: missing, {name} is read as not annotated")
        samples.append(sample)
    unlisted = {image.name for image in (path / "images").glob("*.jpg")} - cell_types.keys()
    if unlisted:
        raise FormatError(f"{path / 'images' / min(unlisted)}: expected a row in labels.csv, got none")
    return Dataset("pbc_wbc", path, tuple(samples), notes=tuple(notes))


def _truth(file: Path, size_wh: WidthHeight, cell_type: str) -> Detections:
    record = parse(file, size_wh, {})
    check_fractions(record, size_wh)
    cells, fitted = cells_of(record, size_wh, lambda _: WBC)
    if fitted.dropped:
        got = fitted.dropped[0].removeprefix(f"{file.name}: ")
        raise FormatError(f"{file}: expected boxes with an area, got {got}")
    return cells.with_columns(cell_type=np.full(len(cells), cell_type)).sorted()
