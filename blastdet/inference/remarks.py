"""Warnings about an image, shown beside its counts."""

from __future__ import annotations

import numpy as np

from blastdet.core.types import BLAST, NUCLEATED, UNLIKE_TRAINING, WBC, Detections, Scale
from blastdet.imaging.io import Source
from blastdet.imaging.optical_density import SHARPNESS_MPP, faults_of
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.scale import ONE_CELL, ScaleEstimate, can_tell, doubt_by_measuring, doubt_of
from blastdet.models.detector import Detector

_ONE_CELL_AT_MOST = 4  # detections in the image of one cell, with what is cut off at its borders
_LARGEST = 5000  # px a side of an image that is judged as a whole
_FILLED = 0.25  # of an image by one cell: then it is no smear


def faults_in(source: Source, mpp: Scale) -> tuple[str, ...]:
    """Why no cell of an image can be certain; see `faults_of`. Slides are not judged by their middle."""
    if max(source.size_wh) > _LARGEST:
        return ()
    stored = getattr(source, "stored", source)
    factor = min(1.0, max(mpp) / SHARPNESS_MPP)
    least = 1 / min(source.size_wh)
    rgb = stored.read(None, (max(factor, least), max(factor, least)))
    return tuple(f"{fault}; no cell is certain" for fault in faults_of(rgb, max(max(mpp), SHARPNESS_MPP)))


def doubt_in(source: Source, scale: ScaleEstimate, cells: Detections, detector: Detector, is_odd: bool) -> str:
    """A warning of a stated scale that red cells contradict; ``""`` without.

    They are measured anew where those that were found cannot tell, or the image `is_odd`.
    """
    if (doubt := doubt_of(scale, cells, source.size_wh)) or "rbc" not in detector.card.classes or scale.mpp is None:
        return doubt
    is_told = can_tell(scale.mpp, cells, source.size_wh) and not is_odd
    return "" if is_told else doubt_by_measuring(scale, source, detector)


def doubtful(cells: Detections) -> Detections:
    """The same cells, the nucleated ones of them unsure, because their image is not fit for the second stage."""
    nucleated = np.isin(cells.label, (BLAST, WBC))
    reason = np.where(nucleated, UNLIKE_TRAINING, "")
    types = cells.cell_type
    return cells.with_columns(
        unsure=nucleated, unsure_reason=reason, cell_type=None if types is None else np.where(nucleated, "", types)
    )


def warnings_of(
    source: Source,
    scale: ScaleEstimate,
    cells: Detections,
    fraction: BlastFraction | None,
    is_counting_rbc: bool,
    doubts: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Remarks on the scale, the file, the image, its kind, the blast fraction and the red cells; one line each.

    `doubts` are of the stated scale and of the image, ``""`` for none.
    """
    found = [*scale.warnings, *source.notes, *filter(None, doubts), *_no_smear(source, cells)]
    if fraction is not None and (line := fraction.warning()):
        found.append(line)
    if is_counting_rbc and cells.counts()["rbc"] < scale.n_cells / 2:
        found.append("red cells are hardly detected under this stain: do not use their count")
    return tuple(found)


def _no_smear(source: Source, cells: Detections) -> list[str]:
    """A remark on an image that shows one cell: counts mean nothing there."""
    if len(cells) > _ONE_CELL_AT_MOST:
        return []
    if getattr(source, "shows_one_cell", False):
        return [ONE_CELL]
    white = cells.with_classes(*NUCLEATED).boxes_xyxy
    area = (white[:, 2:] - white[:, :2]).prod(axis=1).max(initial=0)
    fills = area >= _FILLED * source.size_wh[0] * source.size_wh[1]
    return ["one cell fills the image: use blastdet classify for images of single cells"] if fills else []
