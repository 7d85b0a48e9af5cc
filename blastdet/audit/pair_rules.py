"""Rules about images that share content: copies, overlapping fields, leaks, and contradictory annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from blastdet.audit.subject import EDGE, Finding, Findings, Subject, at_edge, box_of
from blastdet.core import boxes
from blastdet.core.types import CELL_CLASSES, Detections, Sample

_SAME_CELL_IOU = 0.3  # boxes of two people around one cell, in two photographs, agree at least this well


def _pairs(subject: Subject) -> Iterator[tuple[str, Path, Path, str]]:
    """Every two images that share content, under the strongest rule only: (rule, a, b, how)."""
    seen: set[frozenset[Path]] = set()
    found = [("exact_duplicate", a, b, "byte-identical") for a, b in subject.copies]
    found += [("near_duplicate", d.a, d.b, f"the same image, {d.change} (ncc {d.ncc:.2f})") for d in subject.near]
    for o in subject.overlaps:
        how = f"{o.overlap_fraction:.0%} of the field shared, shift ({o.dx:.0f}, {o.dy:.0f}) px, ncc {o.ncc:.2f}"
        found.append(("overlap", o.a, o.b, how))
    for rule, a, b, how in found:
        if frozenset((a, b)) not in seen:
            seen.add(frozenset((a, b)))
            yield rule, a, b, how


def pair_rule(rule: str, usual: str) -> Callable[[Subject], Findings]:
    """The rule of that name: findings of severity `usual`, or ``warning`` if the images are in different groups."""

    def find(subject: Subject) -> Findings:
        samples = subject.samples
        for kind, a, b, how in _pairs(subject):
            if kind == rule:
                groups = samples[a].group, samples[b].group
                differ = None not in groups and groups[0] != groups[1]
                severity, note = ("warning", f"; in two groups ({groups[0]}, {groups[1]})") if differ else (usual, "")
                yield Finding(rule, severity, subject.name(a), None, how + note, subject.name(b))

    return find


def leak(subject: Subject) -> Findings:
    """Images that share content, or a group, in different splits."""
    samples = subject.samples
    reported: set[str | None] = set()
    for rule, a, b, how in _pairs(subject):
        one, two = samples[a], samples[b]
        if one.split and two.split and one.split != two.split:
            reported |= {one.group, two.group}
            found = f"{one.split} and {two.split}: {rule.replace('_', ' ')}, {how}"
            yield Finding("leak", "error", subject.name(a), None, found, subject.name(b))
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in subject.dataset:
        if sample.group is not None and sample.split:
            groups[sample.group].append(sample)
    for group, members in sorted(groups.items()):
        other = next((sample for sample in members if sample.split != members[0].split), None)
        if other and group not in reported:
            found = f"{members[0].split} and {other.split}: group {group}"
            yield Finding("leak", "error", subject.name(members[0].path), None, found, subject.name(other.path))


def disagreement(subject: Subject) -> Findings:
    """Cells with a box in one image that an overlapping image shows too, but without a box of that class."""
    samples = subject.samples
    for o in subject.overlaps:
        for here, there, shift in (
            (samples[o.a], samples[o.b], (o.dx, o.dy)),
            (samples[o.b], samples[o.a], (-o.dx, -o.dy)),
        ):
            missing = _without_partner(here, there, shift)
            if len(missing):
                kinds = missing.counts()
                severity = "warning" if kinds["blast"] or kinds["wbc"] else "info"
                listed = ", ".join(f"{number} {name}" for name, number in kinds.items() if number)
                found = f"{listed} without a box of that class, which the overlapping image has"
                first = int(np.argmin(missing.label))
                box = box_of(missing.boxes_xyxy[first])
                yield Finding("disagreement", severity, subject.name(here.path), box, found, subject.name(there.path))


def _without_partner(here: Sample, there: Sample, shift_xy: tuple[float, float]) -> Detections:
    """Cells of `there`, in pixels of `here`, completely inside both and without a box of their class in `here`."""
    if here.truth is None or there.truth is None:
        return Detections.empty()
    known = there.truth[~at_edge(there)]
    moved = known.with_columns(boxes_xyxy=boxes.shift(known.boxes_xyxy, shift_xy))
    inside = ((moved.boxes_xyxy[:, :2] > EDGE) & (moved.boxes_xyxy[:, 2:] < np.array(here.size_wh) - EDGE)).all(axis=1)
    moved = moved[inside & np.isin(moved.label, [CELL_CLASSES.index(name) for name in here.annotated])]
    iou = boxes.iou_matrix(moved.boxes_xyxy, here.truth.boxes_xyxy)
    same = moved.label[:, None] == here.truth.label[None, :]
    return moved[~((iou >= _SAME_CELL_IOU) & same).any(axis=1)]
