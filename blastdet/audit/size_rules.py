"""Rules about size: boxes of an implausible size for their class, and a scale that makes red cells implausible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from blastdet.audit.subject import ENOUGH, Finding, Findings, Subject, at_edge, box_of, sides, whole_cells
from blastdet.core.constants import RED_CELL_UM
from blastdet.core.types import BLAST, CELL_CLASSES, PLATELET, RBC, WBC, Dataset, Sample
from blastdet.imaging.io import read_image
from blastdet.segmentation.nuclei import nucleus_mask

_FACTOR = 2.0  # side of a box relative to the median of its class
_SPREADS = 4.0  # the same in robust standard deviations of the log
_NUCLEUS_FRACTION = 0.25  # of the usual nucleus of white cells; a large platelet, taken as nucleus, would be 0.15
_RED_CELL_UM = (5.0, 10.0)
_SUBSET = 30


def implausible_size(subject: Subject) -> Findings:
    """A box at least twice or at most half as wide as usual for its class; the nucleus suggests the likely class."""
    usual = _usual_sizes(subject.dataset)
    odd = [(sample, k, factor) for sample in subject.dataset for k, factor in _odd_sizes(sample, usual)]
    nucleus = _usual_nucleus(subject.dataset) if odd else None
    for sample, k, factor in odd:
        assert sample.truth is not None
        label, side = int(sample.truth.label[k]), float(sides(sample)[k])
        severity, found = "warning", f"{CELL_CLASSES[label]}: {factor:.1f} times the usual size"
        like = min(usual, key=lambda c: abs(np.log(side) - usual[c][0]) / usual[c][1])
        if nucleus is not None:
            fraction = _nucleus_area(sample, k) / nucleus
            holds = fraction >= _NUCLEUS_FRACTION
            nucleated = label in (BLAST, WBC)
            found += f", {fraction:.0%} of the usual nucleus of a white cell inside"
            if holds != nucleated:
                severity = "error"
                like = WBC if holds else PLATELET if like in (BLAST, WBC) else like
        if like != label:
            found += f"; looks like {CELL_CLASSES[like]}"
        yield Finding(
            "implausible_size", severity, subject.name(sample.path), box_of(sample.truth.boxes_xyxy[k]), found
        )


def _usual_sizes(dataset: Dataset) -> dict[int, tuple[float, float]]:
    """Class -> median and robust spread of the log of the side."""
    logs = {label: np.log(side) for label, side in whole_cells(dataset).items() if len(side) >= ENOUGH}
    medians = {label: float(np.median(values)) for label, values in logs.items()}
    return {c: (medians[c], max(1.4826 * float(np.median(np.abs(v - medians[c]))), 0.02)) for c, v in logs.items()}


def _odd_sizes(sample: Sample, usual: Mapping[int, tuple[float, float]]) -> Iterator[tuple[int, float]]:
    """Index of each box of implausible size, and its side relative to the usual one."""
    side, cut = sides(sample), at_edge(sample)
    for k in np.flatnonzero(side > 0).tolist():
        assert sample.truth is not None
        median, spread = usual.get(int(sample.truth.label[k]), (0.0, np.inf))
        off = float(np.log(side[k])) - median
        if abs(off) > max(np.log(_FACTOR), _SPREADS * spread) and not (off < 0 and cut[k]):
            yield k, float(np.exp(off))


def _nucleus_area(sample: Sample, k: int) -> float:
    """Area of the nucleus in a box: µm² if the scale is known, else px."""
    assert sample.truth is not None
    x1, y1, x2, y2 = np.round(sample.truth.boxes_xyxy[k]).astype(int)
    pixels = int(nucleus_mask(read_image(sample.path), sample.mpp)[y1:y2, x1:x2].sum())
    return pixels * float(np.prod(sample.mpp or (1.0, 1.0)))


def _usual_nucleus(dataset: Dataset) -> float | None:
    """Median nucleus of the white cells, from a subset spread over the dataset; ``None`` with fewer than `ENOUGH`."""
    cells = []
    for sample in dataset:
        if sample.truth is not None:
            whole = np.flatnonzero(np.isin(sample.truth.label, (BLAST, WBC)) & ~at_edge(sample) & (sides(sample) > 0))
            cells += [(sample, int(k)) for k in whole[:1]]
    if len(cells) < ENOUGH:
        return None
    subset = [cells[i] for i in np.linspace(0, len(cells) - 1, _SUBSET).astype(int)]
    median = float(np.median([_nucleus_area(sample, k) for sample, k in subset]))
    return median or None


def scale(subject: Subject) -> Findings:
    """Red cells of an implausible size: the µm/px of the dataset is wrong."""
    known = [sample for sample in subject.dataset if sample.mpp]
    red = whole_cells(Dataset(subject.dataset.name, subject.dataset.root, tuple(known))).get(RBC, np.empty(0))
    if len(red) >= ENOUGH and not _RED_CELL_UM[0] <= np.median(red) <= _RED_CELL_UM[1]:
        found = f"expected red cells of {RED_CELL_UM} µm, got {np.median(red):.1f} µm at the stated µm/px"
        yield Finding("scale", "warning", subject.dataset.name, None, found)
