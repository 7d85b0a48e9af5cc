"""Rules about size: boxes that their class does not come in, and a scale at which red cells are no red cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from blastdet.audit.subject import ENOUGH, Finding, Findings, Subject, at_edge, box_of, sides, whole_cells
from blastdet.core.types import BLAST, CELL_CLASSES, PLATELET, RBC, WBC, Dataset, Sample
from blastdet.imaging.io import read_image
from blastdet.segmentation.nuclei import nucleus_mask

_FACTOR = 2.0  # side of a box against the median of its class
_SPREADS = 4.0  # and the same in robust standard deviations of the log
_NUCLEUS_SHARE = 0.25  # of the usual nucleus of the white cells; a big platelet, all of it nucleus, would be 0.15
_RED_CELL_UM = (5.0, 10.0)
_SAMPLE = 30


def implausible_size(subject: Subject) -> Findings:
    """A box at least twice, or at most half, as wide as its class usually is; the nucleus tells what it may be."""
    usual = _usual_sizes(subject.dataset)
    odd = [(smear, k, factor) for smear in subject.dataset for k, factor in _odd_sizes(smear, usual)]
    nucleus = _usual_nucleus(subject.dataset) if odd else None
    for smear, k, factor in odd:
        assert smear.truth is not None
        label, side = int(smear.truth.label[k]), float(sides(smear)[k])
        severity, found = "warning", f"{CELL_CLASSES[label]}: {factor:.1f} times the usual size"
        like = min(usual, key=lambda c: abs(np.log(side) - usual[c][0]) / usual[c][1])
        if nucleus is not None:
            share = _nucleus_area(smear, k) / nucleus
            holds = share >= _NUCLEUS_SHARE
            nucleated = label in (BLAST, WBC)
            found += f", {share:.0%} of the usual nucleus of a white cell inside"
            if holds != nucleated:
                severity = "error"
                like = WBC if holds else PLATELET if like in (BLAST, WBC) else like
        if like != label:
            found += f"; looks like {CELL_CLASSES[like]}"
        yield Finding("implausible_size", severity, subject.name(smear.path), box_of(smear.truth.boxes_xyxy[k]), found)


def _usual_sizes(dataset: Dataset) -> dict[int, tuple[float, float]]:
    """Class -> median and robust spread of the log of the side."""
    logs = {label: np.log(side) for label, side in whole_cells(dataset).items() if len(side) >= ENOUGH}
    medians = {label: float(np.median(values)) for label, values in logs.items()}
    return {c: (medians[c], max(1.4826 * float(np.median(np.abs(v - medians[c]))), 0.02)) for c, v in logs.items()}


def _odd_sizes(smear: Sample, usual: Mapping[int, tuple[float, float]]) -> Iterator[tuple[int, float]]:
    """Index of each box of implausible size, and its side against the usual one."""
    side, cut = sides(smear), at_edge(smear)
    for k in np.flatnonzero(side > 0).tolist():
        assert smear.truth is not None
        median, spread = usual.get(int(smear.truth.label[k]), (0.0, np.inf))
        off = float(np.log(side[k])) - median
        if abs(off) > max(np.log(_FACTOR), _SPREADS * spread) and not (off < 0 and cut[k]):
            yield k, float(np.exp(off))


def _nucleus_area(smear: Sample, k: int) -> float:
    """Nucleus in a box: µm² where the scale is known, px elsewhere."""
    assert smear.truth is not None
    x1, y1, x2, y2 = np.round(smear.truth.boxes_xyxy[k]).astype(int)
    pixels = int(nucleus_mask(read_image(smear.path), smear.mpp)[y1:y2, x1:x2].sum())
    return pixels * float(np.prod(smear.mpp or (1.0, 1.0)))


def _usual_nucleus(dataset: Dataset) -> float | None:
    """Median nucleus of the set's white cells, from a sample spread over the set; ``None`` without white cells."""
    cells = []
    for smear in dataset:
        if smear.truth is not None:
            whole = np.flatnonzero(np.isin(smear.truth.label, (BLAST, WBC)) & ~at_edge(smear) & (sides(smear) > 0))
            cells += [(smear, int(k)) for k in whole[:1]]
    if len(cells) < ENOUGH:
        return None
    sample = [cells[i] for i in np.linspace(0, len(cells) - 1, _SAMPLE).astype(int)]
    median = float(np.median([_nucleus_area(smear, k) for smear, k in sample]))
    return median or None


def scale(subject: Subject) -> Findings:
    """Red cells that do not measure what red cells measure: the µm/px of the set is wrong."""
    known = [smear for smear in subject.dataset if smear.mpp]
    red = whole_cells(Dataset(subject.dataset.name, subject.dataset.root, tuple(known))).get(RBC, np.empty(0))
    if len(red) >= ENOUGH and not _RED_CELL_UM[0] <= np.median(red) <= _RED_CELL_UM[1]:
        found = f"red cells measure {np.median(red):.1f} µm at the stated µm/px, 7.5 expected"
        yield Finding("scale", "warning", subject.dataset.name, None, found)
