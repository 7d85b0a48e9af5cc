"""The ALL image dataset of Taleqani hospital: folders benign, early, pre and pro of 224 x 224 px JPEG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blastdet.core.errors import FormatError
from blastdet.core.types import Dataset, Sample, Scale
from blastdet.datasets.annotations.files import read_column
from blastdet.imaging.io import image_size

MPP: Scale = (0.5, 0.375)
"""µm/px, from red cells, which are 7.5 µm and about 15 x 20 px wide: the images were squeezed from 4:3 to a square."""

FULL_MPP: Scale = (0.12, 0.12)
"""µm/px of the same fields at full resolution, 1024 x 768 px: red cells are about 63 px wide."""

_FULL_WIDTH = 1024
_TABLES = ("clusters.csv", "labels.csv")

CLASSES: tuple[str, ...] = ("benign", "early", "pre", "pro")
"""Folders, and values of `Sample.label`."""


def matches(path: Path) -> bool:
    """Whether `path` contains the four folders."""
    return path.is_dir() and len(_class_folders(path)) == len(CLASSES)


def read(path: Path, *, mpp: Scale | None = None) -> Dataset:
    """Read the dataset, as published or at full resolution.

    Parameters
    ----------
    path : Path
        The folder that contains the folders of the classes.
    mpp : (float, float), optional
        µm/px of all images. Default: `MPP` for the published images, `FULL_MPP` for those at full resolution.

    Returns
    -------
    Dataset
        `Sample.label` is the folder; there is no other truth. `group` (overlapping fields and near-duplicates) and
        `cluster` come from ``clusters.csv`` or ``labels.csv`` if it is next to the folders. The cluster replaces the
        patient, which the dataset does not name: a split keeps clusters apart, then leaves out what shares a group with
        the other side.

    Raises
    ------
    FormatError
        If there is no such folder, or the table lacks an image.
    """
    folders = _class_folders(path)
    if not folders:
        raise FormatError(f"{path}: expected the folders {', '.join(CLASSES)}, found none")
    table = next((path / name for name in _TABLES if (path / name).is_file()), path / _TABLES[0])
    grouped = table.is_file()
    groups, clusters = (read_column(table, name) for name in ("group", "cluster")) if grouped else ({}, {})
    samples = []
    for label, folder in folders.items():
        for image in sorted(folder.glob("*.jpg")):
            size_wh = image_size(image)
            sample = Sample(image, size_wh, mpp=mpp or (FULL_MPP if size_wh[0] >= _FULL_WIDTH else MPP), label=label)
            if grouped:
                name = f"{folder.name}/{image.name}"
                if name not in groups:
                    raise FormatError(f"{table}: expected a row for every image, got none for {name}")
                sample = replace(sample, group=groups[name], cluster=clusters[name])
            samples.append(sample)
    notes = () if grouped else ("no clusters.csv: groups of overlapping fields are unknown",)
    return Dataset("all_fields", path, tuple(samples), notes=notes)


def _class_folders(path: Path) -> dict[str, Path]:
    by_name = {folder.name.lower(): folder for folder in path.glob("*") if folder.is_dir()}
    return {name: by_name[name] for name in CLASSES if name in by_name}
