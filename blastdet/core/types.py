"""The words of the project as types: Detections, Smear, Dataset. NumPy only.

Boxes are in full-smear pixels, origin top left, half-open ``[x1, x2) x [y1, y2)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CELL_CLASSES: tuple[str, ...] = ("blast", "wbc", "rbc", "platelet")
"""All classes there are; a ``label`` is an index into this tuple, everywhere."""

BLAST, WBC, RBC, PLATELET = range(len(CELL_CLASSES))

NUCLEATED: tuple[str, ...] = ("blast", "wbc")
"""Classes of nucleated cells: those that the second stage looks at."""

ERYTHROBLAST = "erythroblast"
"""The `Detections.cell_type` that takes a nucleated cell out of every count of white cells."""

ORIGINS: tuple[str, ...] = ("human", "segment", "fixed", "model")
"""Where a box comes from: drawn by a person, grown by `segment`, a fixed square, or a model."""

RGB = NDArray[np.uint8]
"""An image: RGB, uint8, (height, width, 3)."""

WidthHeight = tuple[int, int]
Scale = tuple[float, float]
"""Micrometres per pixel along x and y."""

_COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "boxes_xyxy": (np.float32, (4,)),
    "score": (np.float32, ()),
    "label": (np.int64, ()),
    "id": (np.str_, ()),
    "point_xy": (np.float32, (2,)),
    "ignore": (np.bool_, ()),
    "origin": (np.str_, ()),
    "cell_type": (np.str_, ()),
    "blast_probability": (np.float32, ()),
    "unsure": (np.bool_, ()),
}


@dataclass(frozen=True, eq=False, init=False)
class Detections:
    """Boxes in columns: for predictions and for truth (truth has score 1).

    A cell known only by its centre has a ``point_xy`` and a box of NaN until one is grown.
    Columns are read-only; ``detections[mask_or_indices]`` filters all of them at once.

    Parameters
    ----------
    boxes_xyxy : float32 (n, 4)
        Full-smear pixels, half-open.
    score : float32 (n,), default 1
        In [0, 1].
    label : int64 (n,), default ``WBC``
        Index into `CELL_CLASSES`.
    id : str (n,), optional
        Stable name of each cell.
    point_xy : float32 (n, 2), optional
        Annotated centre, in full-smear pixels.
    ignore : bool (n,), optional
        Neither to be found nor counted against a detector (smudges, cut cells).
    origin : str (n,), optional
        One of `ORIGINS`.
    cell_type : str (n,), optional
        A finer type, such as ``"lymphocyte"`` or ``"erythroblast"``; ``""`` where unknown.
    blast_probability : float32 (n,), optional
        NaN where no second stage looked.
    unsure : bool (n,), optional
        The second stage does not rely on its answer; `label` still follows the operating threshold.

    Raises
    ------
    ValueError
        If columns differ in length, have a wrong shape, or hold a label that does not exist.
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
    ) -> None:
        n = len(np.asarray(boxes_xyxy))
        given: dict[str, ArrayLike | None] = {
            "boxes_xyxy": boxes_xyxy,
            "score": np.ones(n) if score is None else score,
            "label": np.full(n, WBC) if label is None else label,
            "id": id,
            "point_xy": point_xy,
            "ignore": ignore,
            "origin": origin,
            "cell_type": cell_type,
            "blast_probability": blast_probability,
            "unsure": unsure,
        }
        for name, value in given.items():
            object.__setattr__(self, name, None if value is None else _column(name, value, n))
        if n and not (self.label.min() >= 0 and self.label.max() < len(CELL_CLASSES)):
            raise ValueError(f"Detections.label: {self.label.min()}..{self.label.max()} found, 0..3 expected")

    @classmethod
    def empty(cls) -> Detections:
        """No cells."""
        return cls(np.empty((0, 4), np.float32))

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, index: NDArray[Any] | slice | Sequence[int]) -> Detections:
        if isinstance(index, Sequence):
            index = np.asarray(index, dtype=np.int64)
        return Detections(**{name: column[index] for name, column in self._present()})

    def _present(self) -> Iterator[tuple[str, NDArray[Any]]]:
        for f in fields(self):
            column = getattr(self, f.name)
            if column is not None:
                yield f.name, column

    def with_columns(self, **columns: ArrayLike | None) -> Detections:
        """A copy with some columns replaced (``None`` removes an optional one)."""
        merged: dict[str, Any] = {**dict(self._present()), **columns}
        return Detections(**merged)

    def sorted(self) -> Detections:
        """In the one canonical order: y1, x1, label, score (points stand in for NaN boxes)."""
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
        """Which are white cells, bool (n,): blasts and others; an erythroblast has label ``wbc`` and is none."""
        white = np.isin(self.label, (BLAST, WBC))
        return white if self.cell_type is None else white & (self.cell_type != ERYTHROBLAST)

    def above_threshold(self, thresholds: Mapping[str, float]) -> NDArray[np.bool_]:
        """Which have at least the score that `thresholds` gives for their class, bool (n,); none of a class without."""
        limit = np.array([thresholds.get(name, np.inf) for name in CELL_CLASSES])
        return np.asarray(self.score >= limit[self.label], bool)

    def counts(self) -> dict[str, int]:
        """Number of cells of each class, ignored ones left out."""
        kept = self.label if self.ignore is None else self.label[~self.ignore]
        number = np.bincount(kept, minlength=len(CELL_CLASSES))
        return {name: int(number[i]) for i, name in enumerate(CELL_CLASSES)}

    @property
    def centres_xy(self) -> NDArray[np.float32]:
        """Centres of the boxes, (n, 2); the annotated point where there is no box."""
        centres = (self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:]) / 2
        if self.point_xy is not None:
            centres = np.where(np.isnan(centres), self.point_xy, centres)
        return np.asarray(centres, np.float32)

    @staticmethod
    def concatenate(parts: Sequence[Detections]) -> Detections:
        """All cells of `parts`, in order; a column that only some have is filled with "unknown"."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return Detections.empty()
        names = [f.name for f in fields(Detections) if any(getattr(p, f.name) is not None for p in parts)]
        return Detections(**{name: np.concatenate([_column_or_unknown(p, name) for p in parts]) for name in names})


def _column(name: str, value: ArrayLike, n: int) -> NDArray[Any]:
    """A read-only copy of a column's values, its shape checked."""
    dtype, tail = _COLUMNS[name]
    array = np.array(value, dtype=dtype)  # always a copy: no caller can change it afterwards
    if not array.size:
        array = array.reshape(0, *tail)
    if array.shape != (n, *tail):
        raise ValueError(f"Detections.{name}: shape {array.shape} found, {(n, *tail)} expected")
    array.setflags(write=False)
    return array


def _column_or_unknown(part: Detections, name: str) -> NDArray[Any]:
    column = getattr(part, name)
    if column is not None:
        return np.asarray(column)
    dtype, tail = _COLUMNS[name]
    unknown = {np.float32: np.nan, np.bool_: False, np.str_: ""}[dtype]
    return np.full((len(part), *tail), unknown, dtype=dtype)


@dataclass(frozen=True)
class Sample:
    """One image of a blood film and what is known of it.

    Parameters
    ----------
    path : Path
        The image file.
    size_wh : (int, int)
        Width and height in pixels, EXIF orientation applied.
    mpp : (float, float), optional
        Micrometres per pixel along x and y; ``None`` if unknown.
    group : str, optional
        What a split may not tear apart: patient, overlapping fields, near-duplicates.
    split : str, optional
        ``"train"``, ``"val"`` or ``"test"``.
    label : str, optional
        The class of the whole picture, where that is all there is.
    annotated : tuple of str
        The classes annotated completely here; any other class is unknown, never background.
    truth : Detections, optional
        ``None`` if nobody annotated the smear; empty if somebody looked and found nothing.
    cluster : str, optional
        Pictures that look alike (class and stain): a stand-in for the slide where the set names none.
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
class Dataset:
    """Smears with a name, and what the reader had to say about them.

    Parameters
    ----------
    name : str
    root : Path
        Folder that file names are written relative to.
    samples : tuple of Sample
        In the order of their path below `root`.
    dropped : tuple of str
        One line per annotation that was not taken: file, what was found, why.
    notes : tuple of str
        One line per thing a reader noticed and kept.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that any smear annotates or shows, in the order of `CELL_CLASSES`."""
        seen: set[str] = set()
        for sample in self.samples:
            seen.update(sample.annotated)
            if sample.truth is not None:
                seen.update(CELL_CLASSES[i] for i in np.unique(sample.truth.label))
        return tuple(name for name in CELL_CLASSES if name in seen)

    def with_split(self, split: str) -> Dataset:
        """Only the smears of one split."""
        return replace(self, samples=tuple(sample for sample in self.samples if sample.split == split))

    def file_name(self, sample: Sample) -> str:
        """Path of a smear below `root`, with forward slashes; the bare name if it lies elsewhere."""
        if sample.path.is_relative_to(self.root):
            return sample.path.relative_to(self.root).as_posix()
        return sample.path.name
