"""Weak labels: boxes from classical segmentation for images without annotated boxes.

Cells that stand out clearly become boxes; whatever is doubtful (clumps, smudges, cut cells, debris) becomes a region
where nothing is known; the rest is background. So a dataset without boxes teaches what its background looks like,
and what its cells look like, without teaching the faults of a threshold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastdet.core.types import WBC, Detections, Sample
from blastdet.imaging.io import read_image
from blastdet.segmentation.nuclei import segment_cells

Weak = Literal["boxes", "background"]

_CELL_UM = (6.0, 19.0)  # sides of a single white cell; what is larger is a clump or a smudge
_MOST_OBLONG = 1.45
_MARGIN_UM = 1.0  # around doubtful regions


def weak_truth(sample: Sample, what: Weak, unknown_xyxy: NDArray[np.float32]) -> Sample:
    """The sample with truth from `nuclei.segment_cells`, class wbc.

    Parameters
    ----------
    sample : Sample
        With a scale.
    what : {"boxes", "background"}
        ``boxes``: clear cells are truth. ``background``: they too are left unknown, and only the rest is used; for
        sets with few white cells, where a wrong box does more harm than good.
    unknown_xyxy : float32 (m, 4)
        More regions to leave unknown: burnt-in marks.
    """
    assert sample.mpp is not None
    found = segment_cells(read_image(sample.path), sample.mpp)
    clear = _is_clear(found, sample) if what == "boxes" else np.zeros(len(found), bool)
    margin = _MARGIN_UM / np.array([*sample.mpp, *sample.mpp]) * [-1, -1, 1, 1]
    doubtful = found.boxes_xyxy[~clear] + margin
    xyxy = np.concatenate([found.boxes_xyxy[clear], doubtful, unknown_xyxy]).astype(np.float32)
    ignore = np.arange(len(xyxy)) >= clear.sum()
    truth = Detections(
        xyxy, label=np.full(len(xyxy), WBC), ignore=ignore, origin=np.full(len(xyxy), "segment")
    ).sorted()
    return replace(sample, truth=truth, annotated=("wbc",))


def _is_clear(found: Detections, sample: Sample) -> NDArray[np.bool_]:
    """One whole cell by size, shape and place: not cut, no neighbour's box inside."""
    assert sample.mpp is not None
    boxes = found.boxes_xyxy
    sides = (boxes[:, 2:] - boxes[:, :2]) * np.array(sample.mpp)
    size = (sides >= _CELL_UM[0]).all(axis=1) & (sides <= _CELL_UM[1]).all(axis=1)
    oblong = sides.max(axis=1, initial=0) / np.maximum(sides.min(axis=1, initial=np.inf), 1e-6) > _MOST_OBLONG
    whole = (boxes[:, :2] > 1).all(axis=1) & (boxes[:, 2:] < np.array(sample.size_wh) - 1).all(axis=1)
    return np.asarray(size & ~oblong & whole)
