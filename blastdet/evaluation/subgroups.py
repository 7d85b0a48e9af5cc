"""Sensitivity in subgroups of cells: touching, at the border, by size, in crowded images; by label, cluster or group.

A subgroup is a property of annotated cells, so only sensitivity can be given: a false detection has no true size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from blastdet.core import boxes
from blastdet.core.statistics import Interval
from blastdet.core.types import CELL_CLASSES, Dataset, Sample
from blastdet.evaluation.confusion import Confusion
from blastdet.evaluation.intervals import RESAMPLES, ratio_interval
from blastdet.evaluation.match_table import Bools, Floats

SIZES_UM: tuple[tuple[float, float], ...] = ((0.0, 5.0), (5.0, 10.0), (10.0, 15.0), (15.0, 100.0))
"""Ranges of cell size (square root of the box's area, µm): platelets, red cells, lymphocytes, larger ones."""

BORDER_PX = 1.0
"""A box that ends this close to the edge of the image counts as cut off."""

CROWDED = 0.5
"""Images with more cells than this quantile of all images are crowded."""


MOST = 20
"""Clusters, groups or labels of images are subgroups if there are no more of them than this."""


@dataclass(frozen=True)
class Slice:
    """Sensitivity for some of the cells of a class."""

    name: str
    slice: str
    n: int
    sensitivity: float
    interval: Interval


def size_name(size: tuple[float, float]) -> str:
    """``under 5 µm``, ``5–10 µm``, ``15 µm and over``."""
    low, high = size
    if low == 0:
        return f"under {high:g} µm"
    return f"{low:g} µm and over" if size == SIZES_UM[-1] else f"{low:g}–{high:g} µm"


def slices(dataset: Dataset, result: Confusion, resamples: int = RESAMPLES) -> list[Slice]:
    """Sensitivity of every class in every slice that holds some of its cells but not all.

    `result` is class-aware: then a cell is found or not, whatever else lies there.
    """
    rows = result.outcomes
    cells = np.flatnonzero(rows.truth >= 0)
    tags = _tags(dataset)
    made = []
    for name in result.classes:
        mine = cells[rows.truth_label[cells] == CELL_CLASSES.index(name)]
        sample, found = rows.sample[mine], rows.found_label[mine] == rows.truth_label[mine]
        for tag, inside in tags.items():
            here = np.array([inside[s][t] for s, t in zip(sample, rows.truth[mine], strict=True)], bool)
            if here.any() and not here.all():
                made.append(_slice(name, tag, (sample[here], found[here]), result, resamples))
    return made


def _slice(
    name: str,
    tag: str,
    cells: tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Bools],
    result: Confusion,
    resamples: int,
) -> Slice:
    sample, found = cells
    n_images = len(result.group)
    whole, part = np.bincount(sample, minlength=n_images), np.bincount(sample[found], minlength=n_images)
    interval = ratio_interval(part, whole, result.group, resamples)
    return Slice(name, tag, int(whole.sum()), float(found.mean()), interval)


def _tags(dataset: Dataset) -> dict[str, list[Bools]]:
    """For each slice, one mask over the truth of each image."""
    numbers = [len(sample.truth) for sample in dataset if sample.truth is not None]
    many = float(np.quantile(numbers, CROWDED)) if numbers else 0.0
    tags: dict[str, list[Bools]] = {}
    for sample in dataset:
        for tag, mask in _tags_of(sample, many):
            tags.setdefault(tag, []).append(mask)
    for key in ("label", "cluster", "group"):
        values = [getattr(sample, key) for sample in dataset]
        for value in sorted({v for v in values if v is not None}) if len(set(values)) <= MOST else []:
            masks = zip(values, dataset, strict=True)
            tags[f"{key} {value}"] = [np.full(len(s.truth or ()), v == value) for v, s in masks]
    return tags


def _tags_of(sample: Sample, many: float) -> Iterator[tuple[str, Bools]]:
    truth = np.empty((0, 4)) if sample.truth is None else sample.truth.boxes_xyxy.astype(np.float64)
    i, j = boxes.overlapping_pairs(truth)
    touching = np.isin(np.arange(len(truth)), np.concatenate([i, j]))
    limit = np.array(sample.size_wh) - BORDER_PX
    cut: Bools = np.asarray(np.concatenate([truth[:, :2] <= BORDER_PX, truth[:, 2:] >= limit], axis=1).any(axis=1))
    crowded = np.full(len(truth), len(truth) > many)
    yield from (("touching another", touching), ("alone", ~touching), ("at the border", cut), ("inside", ~cut))
    yield from (("crowded smear", crowded), ("sparse smear", ~crowded))
    side = _side_um(truth, sample)
    for size in SIZES_UM:
        yield size_name(size), (side >= size[0]) & (side < size[1])


def _side_um(truth: Floats, sample: Sample) -> Floats:
    """Side of each box in µm; NaN, which is in no range, if the µm/px is unknown."""
    mpp = sample.mpp or (float("nan"), float("nan"))
    return np.asarray(np.sqrt(boxes.area(truth) * mpp[0] * mpp[1]), np.float64)
