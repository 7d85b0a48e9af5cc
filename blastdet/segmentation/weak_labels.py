"""Weak labels: boxes from classical segmentation for images without annotated boxes.

Clear cells become boxes. Doubtful objects (clumps, smudge cells, cut cells, debris) become regions to ignore. The rest
is background. A dataset without boxes thus contributes its background and its clear cells to the training, but not the
errors of the segmentation.
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

_CELL_UM = (6.0, 19.0)  # width and height of a single white cell; larger objects are clumps or smudge cells
_MOST_OBLONG = 1.45
_MARGIN_UM = 1.0  # around doubtful regions


def weak_truth(sample: Sample, what: Weak, unknown_xyxy: NDArray[np.float32]) -> Sample:
    """Add weak labels from `nuclei.segment_cells`, with the class wbc, to a sample.

    Raises `ImageError` if the image cannot be read.

    Parameters
    ----------
    sample : Sample
        Its `mpp` must be known.
    what : {"boxes", "background"}
        ``"boxes"``: clear cells become boxes. ``"background"``: all cells are ignored, and only the background is used;
        for datasets with few white cells, where a wrong box does more harm than a missing one.
    unknown_xyxy : float32 (m, 4)
        Further regions to ignore in pixels, such as burnt-in marks.

    Returns
    -------
    Sample
        With `truth` and ``annotated=("wbc",)``.

    Examples
    --------
    >>> import tempfile
    >>> from blastdet.synth.draw_smears import draw_smears
    >>> from blastdet.synth.scene import SynthConfig
    >>> nothing = np.empty((0, 4), np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sample = draw_smears(folder, 1, SynthConfig(size_wh=(640, 480), mpp=0.2)).samples[0]
    ...     weak = weak_truth(sample, "boxes", nothing)
    >>> weak.annotated, set(weak.truth.origin)
    (('wbc',), {np.str_('segment')})
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
    """Mask (n,) of the single, complete cells, by size, shape and distance from the border."""
    assert sample.mpp is not None
    boxes = found.boxes_xyxy
    sides = (boxes[:, 2:] - boxes[:, :2]) * np.array(sample.mpp)
    size = (sides >= _CELL_UM[0]).all(axis=1) & (sides <= _CELL_UM[1]).all(axis=1)
    oblong = sides.max(axis=1, initial=0) / np.maximum(sides.min(axis=1, initial=np.inf), 1e-6) > _MOST_OBLONG
    whole = (boxes[:, :2] > 1).all(axis=1) & (boxes[:, 2:] < np.array(sample.size_wh) - 1).all(axis=1)
    return np.asarray(size & ~oblong & whole)
