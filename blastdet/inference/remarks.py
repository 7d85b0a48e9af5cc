"""Warnings about an image, shown beside its counts."""

from __future__ import annotations

from blastdet.core.types import NUCLEATED, Detections
from blastdet.imaging.io import Source
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.scale import ONE_CELL, ScaleEstimate

_ONE_CELL_AT_MOST = 4  # detections in the image of one cell, with what is cut off at its borders
_FILLED = 0.25  # of an image by one cell: then it is no smear


def warnings_of(
    source: Source, scale: ScaleEstimate, cells: Detections, fraction: BlastFraction | None, is_counting_rbc: bool
) -> tuple[str, ...]:
    """Remarks on the scale, the file, the kind of image, the blast fraction and the red cells; one line each."""
    found = [*scale.warnings, *source.notes, *_no_smear(source, cells)]
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
