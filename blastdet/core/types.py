"""The data types of the project: `Detections`, `Sample`, `Dataset`. Needs NumPy only.

Boxes are in pixels of the full image, origin top left, half-open: ``[x1, x2) x [y1, y2)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastdet.core.columns import (
    CELL_COLUMNS,
    COLUMNS,
    Index,
    cell_frame,
    cell_rows,
    check_values,
    checked_column,
    checked_rows,
    column_or_unknown,
    html_table,
    rows_of,
)
from blastdet.core.constants import BETWEEN_CLASSES, CELL_CLASSES, ERYTHROBLAST, NOT_WHITE, UNLIKE_TRAINING
from blastdet.core.interop import Conversions

__all__ = [
    "BETWEEN_CLASSES", "BLAST", "CELL_CLASSES", "COLUMNS", "ERYTHROBLAST", "NUCLEATED", "ORIGINS", "PLATELET", "RBC",
    "RGB", "UNLIKE_TRAINING", "UNSURE_REASONS", "WBC", "Dataset", "Detections", "Sample", "Scale", "SourceIds",
    "WidthHeight",
]  # fmt: skip

BLAST, WBC, RBC, PLATELET = range(len(CELL_CLASSES))

NUCLEATED: tuple[str, ...] = ("blast", "wbc")
"""Classes of nucleated cells: the ones that the second stage classifies."""

ORIGINS: tuple[str, ...] = ("human", "segment", "fixed", "model")
"""Where a box comes from: drawn by a person, segmented, a square of fixed size, or predicted by a model."""

UNSURE_REASONS: tuple[str, ...] = (BETWEEN_CLASSES, UNLIKE_TRAINING)
"""Why a cell is uncertain: its blast probability is neither high nor low, or it differs from all training data."""

RGB = NDArray[np.uint8]
"""An image: RGB, uint8, (height, width, 3)."""

WidthHeight = tuple[int, int]
"""Width and height of an image or tile in pixels."""

Scale = tuple[float, float]
"""Micrometres per pixel along x and y."""


@dataclass(frozen=True, eq=False, init=False)
class Detections(Conversions):
    """Cells as columns of equal length, for predictions and for ground truth (which has score 1).

    A cell known only by its centre has a `point_xy` and a box of NaN. All columns are read-only.

    ``detections[index]`` filters all columns at once and always returns `Detections`. The index is a boolean mask of
    length n, a sequence of integers, a slice, or one integer (one row). Negative integers count from the end, as in
    NumPy. Iteration yields one-row `Detections`.

    Parameters
    ----------
    boxes_xyxy : float32 (n, 4)
        In pixels of the full image, half-open: x1 < x2 and y1 < y2, or NaN.
    score : float32 (n,), default 1
        In [0, 1].
    label : int64 (n,), default ``WBC``
        Index into `CELL_CLASSES`.
    id : str (n,), optional
        Stable name of each cell.
    point_xy : float32 (n, 2), optional
        Annotated centre, in pixels of the full image.
    ignore : bool (n,), optional
        True for cells that evaluation skips: neither a miss nor a false positive (smudges, cut cells).
    origin : str (n,), optional
        One of `ORIGINS`.
    cell_type : str (n,), optional
        A finer type, such as ``"lymphocyte"`` or ``"erythroblast"``; ``""`` if unknown.
    blast_probability : float32 (n,), optional
        NaN if the second stage did not classify the cell.
    unsure : bool (n,), optional
        True if the second stage is uncertain about the cell. `label` still follows the operating threshold.
    unsure_reason : str (n,), optional
        One of `UNSURE_REASONS` for an uncertain cell, else ``""``.
    type_probability : float32 (n, 9), optional
        Probability of each of `CELL_TYPES`; NaN for types that the second stage does not know, and for cells that it
        did not classify.

    Raises
    ------
    ValueError
        If columns differ in length, or have a wrong shape or type; if a box has no area, a score is outside [0, 1], or
        a label is not an index into `CELL_CLASSES`.

    Examples
    --------
    >>> cells = Detections([[0, 0, 9, 9], [5, 5, 20, 21]], score=[0.9, 0.4], label=[BLAST, RBC])
    >>> cells[cells.score > 0.5].counts()
    {'blast': 1, 'wbc': 0, 'rbc': 0, 'platelet': 0}
    >>> [cell.boxes_xyxy.tolist() for cell in cells[[False, True]]]
    [[[5.0, 5.0, 20.0, 21.0]]]
    """

    boxes_xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    label: NDArray[np.int64]
    id: NDArray[np.str_] | None
    point_xy: NDArray[np.float32] | None
    ignore: NDArray[np.bool_] | None
    origin: NDArray[np.str_] | None
    cell_type: NDArray[np.str_] | None
    blast_probability: NDArray[np.float32] | None
    unsure: NDArray[np.bool_] | None
    unsure_reason: NDArray[np.str_] | None
    type_probability: NDArray[np.float32] | None

    def __init__(
        self,
        boxes_xyxy: ArrayLike,
        score: ArrayLike | None = None,
        label: ArrayLike | None = None,
        id: ArrayLike | None = None,
        point_xy: ArrayLike | None = None,
        ignore: ArrayLike | None = None,
        origin: ArrayLike | None = None,
        cell_type: ArrayLike | None = None,
        blast_probability: ArrayLike | None = None,
        unsure: ArrayLike | None = None,
        unsure_reason: ArrayLike | None = None,
        type_probability: ArrayLike | None = None,
    ) -> None:
        boxes = checked_column("boxes_xyxy", boxes_xyxy, None)
        n = len(boxes)
        object.__setattr__(self, "boxes_xyxy", boxes)
        given: dict[str, ArrayLike | None] = {
            "score": np.ones(n) if score is None else score,
            "label": np.full(n, WBC) if label is None else label,
            "id": id,
            "point_xy": point_xy,
            "ignore": ignore,
            "origin": origin,
            "cell_type": cell_type,
            "blast_probability": blast_probability,
            "unsure": unsure,
            "unsure_reason": unsure_reason,
            "type_probability": type_probability,
        }
        for name, value in given.items():
            object.__setattr__(self, name, None if value is None else checked_column(name, value, n))
        check_values(boxes, self.score)
        if n and not (self.label.min() >= 0 and self.label.max() < len(CELL_CLASSES)):
            wrong = self.label[(self.label < 0) | (self.label >= len(CELL_CLASSES))][0]
            raise ValueError(f"Detections.label: expected integers from 0 to {len(CELL_CLASSES) - 1}, got {wrong}")

    @classmethod
    def empty(cls) -> Detections:
        """No cells."""
        return cls(np.empty((0, 4), np.float32))

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, index: Index) -> Detections:
        rows = checked_rows(index, len(self))
        chosen = object.__new__(Detections)
        for name in COLUMNS:
            column = getattr(self, name)
            object.__setattr__(chosen, name, None if column is None else rows_of(column, rows))
        return chosen

    def __iter__(self) -> Iterator[Detections]:
        """One-row `Detections` for each cell, in order."""
        return (self[i : i + 1] for i in range(len(self)))

    @staticmethod
    def columns() -> tuple[str, ...]:
        """Names of all columns, in the order of the constructor's parameters; see `COLUMNS` for their types."""
        return tuple(COLUMNS)

    def _present(self) -> Iterator[tuple[str, NDArray[Any]]]:
        for name in COLUMNS:
            column = getattr(self, name)
            if column is not None:
                yield name, column

    def with_columns(self, **columns: ArrayLike | None) -> Detections:
        """A copy with some columns replaced; ``None`` removes an optional column."""
        merged: dict[str, Any] = {**dict(self._present()), **columns}
        return Detections(**merged)

    def sorted(self) -> Detections:
        """In canonical order: y1, x1, label, score. The point replaces a box of NaN."""
        key = self.boxes_xyxy
        if self.point_xy is not None:
            key = np.where(np.isnan(key), np.tile(self.point_xy, 2), key)
        order = np.lexsort((key[:, 2], key[:, 3], self.score, self.label, key[:, 0], key[:, 1]))
        return self[order]

    def with_classes(self, *names: str) -> Detections:
        """Only cells of the named classes."""
        return self[np.isin(self.label, [CELL_CLASSES.index(name) for name in names])]

    @property
    def is_white(self) -> NDArray[np.bool_]:
        """Mask of white cells, bool (n,): labels ``blast`` and ``wbc``, except erythroblasts and smudges."""
        white = np.isin(self.label, (BLAST, WBC))
        return white if self.cell_type is None else white & ~np.isin(self.cell_type, NOT_WHITE)

    def above_threshold(self, thresholds: Mapping[str, float]) -> NDArray[np.bool_]:
        """Mask of cells whose score reaches the threshold of their class, bool (n,).

        Parameters
        ----------
        thresholds : mapping of str to float
            Lowest score of each class. Cells of a class that is not listed are left out.
        """
        limit = np.array([thresholds.get(name, np.inf) for name in CELL_CLASSES])
        return np.asarray(self.score >= limit[self.label], bool)

    def counts(self) -> dict[str, int]:
        """Number of cells of each class, without ignored cells."""
        kept = self.label if self.ignore is None else self.label[~self.ignore]
        number = np.bincount(kept, minlength=len(CELL_CLASSES))
        return {name: int(number[i]) for i, name in enumerate(CELL_CLASSES)}

    @property
    def centres_xy(self) -> NDArray[np.float32]:
        """Centre of each box, float32 (n, 2); the annotated point if the box is NaN."""
        centres = (self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:]) / 2
        if self.point_xy is not None:
            centres = np.where(np.isnan(centres), self.point_xy, centres)
        return np.asarray(centres, np.float32)

    @staticmethod
    def concatenate(parts: Sequence[Detections]) -> Detections:
        """All cells of `parts`, in order. Parts without a column get NaN, False or an empty string there."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return Detections.empty()
        names = [name for name in COLUMNS if any(getattr(part, name) is not None for part in parts)]
        return Detections(**{name: np.concatenate([column_or_unknown(part, name) for part in parts]) for name in names})


@dataclass(frozen=True)
class Sample:
    """One image of a blood film and its annotations.

    Parameters
    ----------
    path : Path
        The image file.
    size_wh : (int, int)
        Width and height in pixels, with EXIF orientation applied.
    mpp : (float, float), optional
        Micrometres per pixel along x and y; ``None`` if unknown.
    group : str, optional
        Samples of one group always go into the same split: one patient, overlapping fields, near-duplicates.
    split : str, optional
        ``"train"``, ``"val"`` or ``"test"``.
    label : str, optional
        The class of the whole image, for datasets without boxes.
    annotated : tuple of str
        Classes that are annotated completely here. Any other class is unknown, never background.
    truth : Detections, optional
        ``None`` if the image was not annotated; empty if it was and has no cells.
    cluster : str, optional
        Images that look alike (class and stain): a substitute for the slide if the dataset does not name slides.
    """

    path: Path
    size_wh: WidthHeight
    mpp: Scale | None = None
    group: str | None = None
    split: str | None = None
    label: str | None = None
    annotated: tuple[str, ...] = ()
    truth: Detections | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class SourceIds:
    """Ids in the annotation files of a dataset, which a COCO results list refers to.

    `meaning` says what a category id is. `categories` are (id, class name in the file, index into `CELL_CLASSES`),
    `images` (id, image), empty if the files have no ids of images.
    """

    meaning: str
    categories: tuple[tuple[int, str, int], ...]
    images: tuple[tuple[int, Path], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Samples under one name, and what the reader reported about them.

    Parameters
    ----------
    name : str
    root : Path
        Folder that file names are relative to.
    samples : tuple of Sample
        In order of their path below `root`.
    dropped : tuple of str
        One line for each annotation that was dropped: file, annotation, reason.
    notes : tuple of str
        One line for each irregularity that was kept.
    ids : SourceIds, optional
        Ids in the files that it was read from.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ids: SourceIds | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __repr__(self) -> str:
        cells = ", ".join(f"{name} {n}" for name, n in self.counts().items()) or "none"
        splits = ", ".join(f"{name} {len(part)}" for name, part in self._parts().items())
        return f"<Dataset {self.name}: {len(self)} images; cells: {cells}; splits: {splits or 'none'}>"

    def _repr_html_(self) -> str:
        """Images and cells of each split as a table, for notebooks."""
        rows = []
        for name, part in {**self._parts(), "all": self}.items():
            counts = part.counts()
            rows.append((name, len(part), *(counts.get(label, 0) for label in self.classes)))
        return html_table(("split", "images", *self.classes), rows, self.name)

    def _parts(self) -> dict[str, Dataset]:
        """The samples of each split; those without a split come last, as ``no split``."""
        named = sorted({sample.split for sample in self if sample.split})
        parts = {split: self.with_split(split) for split in named}
        without = tuple(sample for sample in self if not sample.split)
        return {**parts, "no split": replace(self, samples=without)} if without else parts

    def counts(self) -> dict[str, int]:
        """Number of annotated cells of each class in `classes`, without ignored cells."""
        every = [sample.truth.counts() for sample in self if sample.truth is not None]
        return {name: sum(counts[name] for counts in every) for name in self.classes}

    def to_pandas(self) -> Any:
        """One row per annotated cell, as a ``pandas.DataFrame``; images without cells have no row.

        Returns
        -------
        pandas.DataFrame
            The columns of the CSV format, with ``group`` after ``split``. Unknown numbers are NaN.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        head = (*CELL_COLUMNS[:2], "group", *CELL_COLUMNS[2:])
        rows = [
            [self.file_name(sample), sample.split or "", sample.group or "", *row]
            for sample in self
            if sample.truth is not None
            for row in cell_rows(sample.truth, sample.mpp)
        ]
        return cell_frame(rows, head)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that are annotated or present in any sample, in the order of `CELL_CLASSES`."""
        present: set[str] = set()
        for sample in self.samples:
            present.update(sample.annotated)
            if sample.truth is not None:
                present.update(CELL_CLASSES[i] for i in np.unique(sample.truth.label))
        return tuple(name for name in CELL_CLASSES if name in present)

    def with_split(self, split: str) -> Dataset:
        """Only the samples of one split."""
        return replace(self, samples=tuple(sample for sample in self.samples if sample.split == split))

    def file_name(self, sample: Sample) -> str:
        """Path of a sample below `root`, with forward slashes; the bare file name if it lies elsewhere."""
        if sample.path.is_relative_to(self.root):
            return sample.path.relative_to(self.root).as_posix()
        return sample.path.name
