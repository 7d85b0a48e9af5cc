"""Boxes by segmentation for datasets without boxes: ``blastdet convert --boxes segment``."""

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
"""Called after each image as ``progress(done, total)``."""


def draw_boxes(dataset: Dataset, progress: Progress | None = None) -> Dataset:
    """Draw missing boxes by segmentation, with origin ``segment``.

    In a dataset with points, every point gets the box of its cell. In a dataset without points, images without
    annotation get the nucleated cells that `segment_cells` finds, as class ``wbc``. Existing boxes do not change. The
    scale is that of the image, or an estimate from its red cells that is used for drawing and not stored. Raises
    `ConfigError` if every cell already has a box. `ScaleError` if boxes are missing, and no image has a known scale or
    one that can be estimated.

    Returns
    -------
    Dataset
        With a note for each image or point left without a box. Such an image stays unannotated, so that it is never
        taken for an empty one.
    """
    pointed = any(sample.truth is not None and sample.truth.point_xy is not None for sample in dataset)
    todo = [sample for sample in dataset if _open(sample) or (not pointed and sample.truth is None)]
    drawn_by_reader = any(sample.truth is not None and "segment" in _origins(sample.truth) for sample in dataset)
    if not todo and not drawn_by_reader:
        raise ConfigError(f"{dataset.root}: --boxes segment: every cell already has a box")
    samples, notes = {id(sample): sample for sample in dataset}, []
    n_scaled = n_estimated = 0
    for done, sample in enumerate(todo, 1):
        rgb = read_image(sample.path)
        mpp, why = _scale(sample, rgb)
        name = dataset.file_name(sample)
        if mpp is None:
            notes.append(f"{name}: no boxes drawn, the scale is unknown: {why}")
        else:
            n_scaled, n_estimated = n_scaled + 1, n_estimated + (sample.mpp is None)
            samples[id(sample)] = drawn = _drawn(sample, rgb, mpp)
            notes += _left(drawn, name)
        if progress is not None:
            progress(done, len(todo))
    if todo and not n_scaled:
        raise ScaleError(f"{dataset.root}: the scale of {len(todo)} images is unknown ({notes[0]}). Pass --mpp")
    if n_estimated:
        notes.insert(0, f"boxes of {n_estimated} images drawn at a scale estimated from red cells")
    return replace(dataset, samples=tuple(samples[id(s)] for s in dataset), notes=(*dataset.notes, *notes))


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
    # no detection does not prove that the field is empty
    return replace(sample, truth=found, annotated=("wbc",)) if len(found) else sample


def _left(sample: Sample, name: str) -> list[str]:
    if sample.truth is None:
        return [f"{name}: no boxes drawn, no nucleated cell found"]
    left = _open(sample)
    return [f"{name}: no box drawn for {left} of {len(sample.truth)} cells"] if left else []
