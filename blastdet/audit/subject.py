"""What the rules of the audit look at, and what they answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.audit.overlapping_fields import NearDuplicate, Overlap
from blastdet.audit.raw_annotations import RawRecord
from blastdet.core.types import Dataset, Sample, WidthHeight

SEVERITIES: tuple[str, ...] = ("error", "warning", "info")

ENOUGH = 20
"""Boxes, or pictures, from which on a median or a share is worth comparing with."""

EDGE = 2.0
"""px: a box so close to the border may be that of a cut cell."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Parameters
    ----------
    rule : str
        A key of `RULES`.
    severity : str
        One of `SEVERITIES`.
    file : str
        Picture or annotation, below the root of the set.
    box : tuple of four float, optional
        Half-open pixels, as published.
    message : str
    other : str, optional
        The second picture, where the finding is about two.
    """

    rule: str
    severity: str
    file: str
    box: tuple[float, float, float, float] | None
    message: str
    other: str | None = None


@dataclass(frozen=True)
class Subject:
    """What the rules look at.

    Parameters
    ----------
    dataset : Dataset
    raw : tuple of RawRecord
        Annotations as they stand.
    sizes : mapping
        Size of every picture that can be read.
    problems : mapping
        Why a picture cannot be read, or the set not as a whole.
    copies : tuple of (Path, Path)
        Byte-identical pictures.
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
        """Path below the root of the set."""
        root = self.dataset.root
        if path == root:
            return self.dataset.name
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    @property
    def samples(self) -> dict[Path, Sample]:
        """Smears by their path."""
        return {sample.path: sample for sample in self.dataset}


Findings = Iterator[Finding]


def box_of(values: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(v) for v in values)
    return x1, y1, x2, y2


def sides(sample: Sample) -> NDArray[np.float64]:
    """Side of the square as large as each box of a smear: µm where the scale is known, else px; NaN without box."""
    if sample.truth is None:
        return np.empty(0)
    extent = sample.truth.boxes_xyxy[:, 2:].astype(np.float64) - sample.truth.boxes_xyxy[:, :2]
    return np.asarray(np.sqrt((extent * (sample.mpp or (1.0, 1.0))).prod(axis=1)))


def at_edge(sample: Sample) -> NDArray[np.bool_]:
    """Which boxes of a smear touch its border, so that the cell may be cut."""
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
