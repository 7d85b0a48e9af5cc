"""BCCD: Pascal VOC with known groups, a scale measured from its red cells, and incomplete labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from blastdet.core.constants import RED_CELL_UM
from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Sample, Scale
from blastdet.datasets.annotations.files import read_rows
from blastdet.datasets.formats import voc

RED_CELL_PX = 105.0
"""Median width of the red-cell boxes of BCCD in px (4,153 boxes). The dataset does not state its scale."""

MPP: Scale = (RED_CELL_UM / RED_CELL_PX, RED_CELL_UM / RED_CELL_PX)
"""µm/px at which the red cells of BCCD are `RED_CELL_UM` wide."""

GROUPS_FILE = "overlap_groups.csv"
_USUAL_FRACTION = 0.95  # a class that this fraction of the images shows is expected in all of them


def matches(path: Path) -> bool:
    """Whether `path` is a VOC folder with the file names, the subfolder or a groups file as of BCCD: see `read`."""
    if (path / "BCCD" / "Annotations").is_dir():
        return True
    annotations = path / "Annotations"
    named = next(annotations.glob("BloodImage_*.xml"), None) is not None
    return named or (annotations.is_dir() and any((root / GROUPS_FILE).is_file() for root in (path, path.parent)))


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    as_published: bool = True,
) -> Dataset:
    """Read BCCD, or another VOC dataset with the same groups file.

    Raises `FormatError`: see `voc.read`; also for a faulty groups file.

    Parameters
    ----------
    path : Path
        The folder with ``Annotations`` and ``JPEGImages``, or the folder that contains it as ``BCCD``. A file
        ``overlap_groups.csv`` (``image,group``) in either of them gives the groups.
    mpp : (float, float), optional
        µm/px of all images. The default for files named as in BCCD is `MPP`; a note states it.
    as_published : bool, default True
        Every class counts as annotated in every image. If false, a class that at least 95 % of the images show is
        considered not annotated in images without it. Notes list these images.

    Returns
    -------
    Dataset
        See `voc.read`.
    """
    root = _root_of(Path(path))
    dataset = voc.read(root, class_map=class_map, mpp=mpp)
    notes = []
    if mpp is None and any(sample.path.stem.startswith("BloodImage_") for sample in dataset):
        mpp = MPP
        notes.append(f"µm/px {MPP[0]:.4f}: red cells of BCCD ({RED_CELL_PX:.0f} px) taken as {RED_CELL_UM} µm")
    groups = _read_groups(root, root.parent)
    samples = [replace(sample, mpp=mpp, group=groups.get(sample.path.stem)) for sample in dataset]
    if not as_published:
        samples, unknown = _without_missing_classes(samples)
        notes += unknown
    return replace(dataset, samples=tuple(samples), notes=(*dataset.notes, *notes))


def _root_of(path: Path) -> Path:
    for root in (path, path / "BCCD"):
        if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
            return root
    raise FormatError(f"{path}: expected the folders Annotations and JPEGImages, here or in BCCD/, got none")


def _read_groups(*folders: Path) -> dict[str, str]:
    """Stem of an image -> its group, from the first `GROUPS_FILE` in `folders`."""
    table = next((folder / GROUPS_FILE for folder in folders if (folder / GROUPS_FILE).exists()), None)
    if table is None:
        return {}
    return {Path(row["image"]).stem: row["group"] for row in read_rows(table, "image", "group")}


def _without_missing_classes(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """Remove a usual class from `annotated` where an image does not show it; with one note for each."""
    shown = [None if s.truth is None else frozenset(np.unique(s.truth.label).tolist()) for s in samples]
    labels = [found for found in shown if found is not None]
    usual = [
        i for i in range(len(CELL_CLASSES)) if sum(i in found for found in labels) >= _USUAL_FRACTION * len(labels) > 0
    ]
    marked, notes = [], []
    for sample, found in zip(samples, shown, strict=True):
        missing = [CELL_CLASSES[i] for i in usual if found is not None and i not in found]
        notes += [f"{sample.path.name}: no {name} box, considered not annotated" for name in missing]
        marked.append(replace(sample, annotated=tuple(name for name in sample.annotated if name not in missing)))
    return marked, notes
