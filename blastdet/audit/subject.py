"""Input and output of the rules: `Subject` and `Finding`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.audit.overlapping_fields import NearDuplicate, Overlap
from blastdet.core.types import Dataset, Sample, WidthHeight
from blastdet.datasets.annotations.records import RawRecord

SEVERITIES: tuple[str, ...] = ("error", "warning", "info")

ENOUGH = 20
"""Boxes or images that a median or a fraction needs at least to serve as a reference."""

EDGE = 2.0
"""px: a box this close to the border may be that of a cut cell."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Parameters
    ----------
    rule : str
        A key of `RULES`.
    severity : str
        One of `SEVERITIES`.
    file : str
        Image or annotation file, relative to the root of the dataset.
    box : tuple of four float, optional
        Half-open pixels, as published.
    message : str
    other : str, optional
        The second image, if the finding is about two.
    """

    rule: str
    severity: str
    file: str
    box: tuple[float, float, float, float] | None
    message: str
    other: str | None = None


@dataclass(frozen=True)
class Subject:
    """Everything that the rules look at.

    Parameters
    ----------
    dataset : Dataset
    raw : tuple of RawRecord
        Annotations as the files state them.
    sizes : mapping
        Size of each image that can be read.
    problems : mapping
        Why an image, or the dataset as a whole, cannot be read.
    copies : tuple of (Path, Path)
        Byte-identical images.
    near : tuple of NearDuplicate
    overlaps : tuple of Overlap
    """

    dataset: Dataset
    raw: tuple[RawRecord, ...] = ()
    sizes: Mapping[Path, WidthHeight] = field(default_factory=dict)
    problems: Mapping[Path, str] = field(default_factory=dict)
    copies: tuple[tuple[Path, Path], ...] = ()
    near: tuple[NearDuplicate, ...] = ()
    overlaps: tuple[Overlap, ...] = ()

    def name(self, path: Path) -> str:
        """Path relative to the root of the dataset."""
        root = self.dataset.root
        if path == root:
            return self.dataset.name
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    @property
    def samples(self) -> dict[Path, Sample]:
        """Samples by their path."""
        return {sample.path: sample for sample in self.dataset}


Findings = Iterator[Finding]


def box_of(values: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """A box as plain numbers, for a `Finding`."""
    x1, y1, x2, y2 = (float(v) for v in values)
    return x1, y1, x2, y2


def sides(sample: Sample) -> NDArray[np.float64]:
    """Side of the square with the area of each box: µm if the scale is known, else px; NaN without a box."""
    if sample.truth is None:
        return np.empty(0)
    extent = sample.truth.boxes_xyxy[:, 2:].astype(np.float64) - sample.truth.boxes_xyxy[:, :2]
    return np.asarray(np.sqrt((extent * (sample.mpp or (1.0, 1.0))).prod(axis=1)))


def at_edge(sample: Sample) -> NDArray[np.bool_]:
    """Mask of the boxes that touch the border of the image, so that the cell may be cut."""
    if sample.truth is None:
        return np.empty(0, bool)
    xyxy = sample.truth.boxes_xyxy
    return np.asarray((xyxy[:, :2] <= EDGE).any(axis=1) | (xyxy[:, 2:] >= np.array(sample.size_wh) - EDGE).any(axis=1))


def whole_cells(dataset: Dataset) -> dict[int, NDArray[np.float64]]:
    """Class -> sides of all boxes that do not touch a border; see `sides`."""
    found: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    for sample in dataset:
        if sample.truth is not None:
            side, keep = sides(sample), ~at_edge(sample)
            for label in np.unique(sample.truth.label).tolist():
                found[label].append(side[keep & (sample.truth.label == label) & (side > 0)])
    return {label: np.concatenate(parts) for label, parts in sorted(found.items())}
