"""Boxes for a data set that has none: what ``blastdet convert --boxes segment`` does after reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from blastdet.core.errors import ConfigError, ScaleError
from blastdet.core.types import RGB, Dataset, Detections, Sample, Scale
from blastdet.imaging.io import read_image
from blastdet.segmentation.boxes_from_points import boxes_from_points
from blastdet.segmentation.mpp_estimation import estimate_mpp
from blastdet.segmentation.nuclei import segment_cells

Progress = Callable[[int, int], None]
"""Told after each picture: how many are done, of how many."""


def draw_boxes(dataset: Dataset, progress: Progress | None = None) -> Dataset:
    """Draw boxes by segmentation, origin ``segment``, where nobody drew any.

    In a set with points every point gets the box of its cell. In a set without, pictures that nobody annotated get the
    nucleated cells that `segment.segment_cells` finds, as class ``wbc``. Boxes that are there stay. The scale is the
    smear's, or that of its red cells; the latter draws boxes and is not written to the smear.

    Parameters
    ----------
    dataset : Dataset
    progress : callable, optional

    Returns
    -------
    Dataset
        With a note for each picture, or its points, left without a box. Such a picture stays one that nobody annotated,
        so that it is never taken for empty.

    Raises
    ------
    ConfigError
        If every cell has its box already.
    ScaleError
        If there is something to draw and no picture tells its scale.
    """
    pointed = any(sample.truth is not None and sample.truth.point_xy is not None for sample in dataset)
    todo = [sample for sample in dataset if _open(sample) or (not pointed and sample.truth is None)]
    drawn_by_reader = any(sample.truth is not None and "segment" in _origins(sample.truth) for sample in dataset)
    if not todo and not drawn_by_reader:
        raise ConfigError(f"{dataset.root}: --boxes segment: every cell has a box already, so there is none to draw")
    smears, notes = {id(sample): sample for sample in dataset}, []
    n_scaled = n_ruler = 0
    for done, sample in enumerate(todo, 1):
        rgb = read_image(sample.path)
        mpp, why = _scale(sample, rgb)
        name = dataset.file_name(sample)
        if mpp is None:
            notes.append(f"{name}: left without boxes, no scale: {why}")
        else:
            n_scaled, n_ruler = n_scaled + 1, n_ruler + (sample.mpp is None)
            smears[id(sample)] = drawn = _drawn(sample, rgb, mpp)
            notes += _left(drawn, name)
        if progress is not None:
            progress(done, len(todo))
    if todo and not n_scaled:
        raise ScaleError(f"{dataset.root}: none of {len(todo)} pictures tells its scale ({notes[0]}); say --source-mpp")
    if n_ruler:
        notes.insert(0, f"boxes drawn at the µm/px that red cells tell, in {n_ruler} pictures")
    return replace(dataset, samples=tuple(smears[id(s)] for s in dataset), notes=(*dataset.notes, *notes))


def _origins(truth: Detections) -> set[str]:
    return set() if truth.origin is None else set(truth.origin.tolist())


def _open(sample: Sample) -> int:
    """Number of cells that have a point and no box."""
    if sample.truth is None or sample.truth.point_xy is None:
        return 0
    return int(np.isnan(sample.truth.boxes_xyxy[:, 0]).sum())


def _scale(sample: Sample, rgb: RGB) -> tuple[Scale | None, str]:
    if sample.mpp is not None:
        return sample.mpp, ""
    found = estimate_mpp(rgb)
    return found.mpp, found.reason


def _drawn(sample: Sample, rgb: RGB, mpp: Scale) -> Sample:
    if sample.truth is not None:
        return replace(sample, truth=boxes_from_points(rgb, sample.truth, mpp))
    found = segment_cells(rgb, mpp)
    # a field where segmentation sees nothing is not known to be empty
    return replace(sample, truth=found, annotated=("wbc",)) if len(found) else sample


def _left(sample: Sample, name: str) -> list[str]:
    if sample.truth is None:
        return [f"{name}: left without boxes, no nucleated cell found"]
    left = _open(sample)
    return [f"{name}: {left} of {len(sample.truth)} cells left without a box"] if left else []
