"""What must hold before anything is measured: one clear line for each way it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample


def check_predictions(dataset: Dataset, predictions: Sequence[Detections], source: str) -> None:
    """Refuse predictions that no figure could rest on.

    Parameters
    ----------
    dataset : Dataset
    predictions : sequence of Detections
        One for each smear, in the order of the data set.
    source : str
        The file or model they come from, for the message.

    Raises
    ------
    FormatError
        A box that is not finite, without extent, or wholly outside its picture; a score that is NaN or outside
        [0, 1]; a number of smears other than the data set's.
    """
    if len(predictions) != len(dataset):
        raise FormatError(f"{source}: predictions for {len(predictions)} smears found, {len(dataset)} expected")
    for sample, found in zip(dataset, predictions, strict=True):
        _check_one(f"{source}: {dataset.file_name(sample)}", sample, found)


def _check_one(where: str, sample: Sample, found: Detections) -> None:
    bad = np.flatnonzero(~((found.score >= 0) & (found.score <= 1)))
    if len(bad):
        raise FormatError(f"{where}: score {found.score[bad[0]]} found, a number from 0 to 1 expected")
    boxes = found.boxes_xyxy
    bad = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)))
    if len(bad):
        raise FormatError(f"{where}: box {_box(boxes[bad[0]])} found, finite x1 < x2 and y1 < y2 expected")
    width, height = sample.size_wh
    outside = (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 2:] <= 0).any(axis=1)
    if outside.any():
        box = _box(boxes[np.flatnonzero(outside)[0]])
        raise FormatError(f"{where}: box {box} found, one on the picture of {width} x {height} px expected")


def _box(box: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"


def scored_classes(
    dataset: Dataset, predictions: Sequence[Detections], source: str
) -> tuple[tuple[str, ...], list[str]]:
    """Classes to be scored, and a line for every class that is on one side only.

    Returns
    -------
    classes : tuple of str
        Those that some smear annotates, in the order of `CELL_CLASSES`.
    notes : list of str

    Raises
    ------
    ConfigError
        If nothing is annotated, or the two sides have no class in common.
    """
    truth = {name for sample in dataset if sample.truth is not None for name in sample.annotated}
    found = {CELL_CLASSES[i] for part in predictions for i in np.unique(part.label)}
    classes = tuple(name for name in CELL_CLASSES if name in truth)
    if not classes:
        raise ConfigError(f"{dataset.root}: no smear with annotated classes found, at least one expected")
    if found and not truth & found:
        raise ConfigError(
            f"{source}: classes {_names(found)} found, but {dataset.name} annotates {_names(truth)}: none in common"
        )
    notes = [f"{name}: detected but not annotated in {dataset.name}, left out" for name in _ordered(found - truth)]
    notes += [f"{name}: annotated but never detected by {source}, AP is 0" for name in _ordered(truth - found)]
    return classes, notes


def _ordered(names: set[str]) -> list[str]:
    return [name for name in CELL_CLASSES if name in names]


def _names(names: set[str]) -> str:
    return ", ".join(_ordered(names)) or "none"


def groups_of(dataset: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Number of the group of each smear, (s,); a smear without a group is one of its own."""
    keys = [f"group {s.group}" if s.group is not None else f"smear {i}" for i, s in enumerate(dataset)]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64)
