"""The rules of the audit: small pure functions from a `Subject` to findings, in one table.

No rule knows a file by name. Usual values (medians, fractions) come from the dataset itself; the few constants state
which deviation is a fault.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from blastdet.audit.pair_rules import disagreement, leak, pair_rule
from blastdet.audit.size_rules import implausible_size, scale
from blastdet.audit.subject import ENOUGH, SEVERITIES, Finding, Findings, Subject, box_of
from blastdet.core import boxes
from blastdet.core.types import CELL_CLASSES, Detections, Sample
from blastdet.datasets.annotations.records import RawBox, RawRecord

_DOUBLED_IOU = 0.8
_USUAL_FRACTION = 0.9  # a class that this fraction of the images shows is expected in every image
_OUTSIDE = 1.0  # px: rounding, and files that count from 0 instead of 1


# --- files -----------------------------------------------------------------------------------------------------------


def unreadable(subject: Subject) -> Findings:
    """An image that cannot be decoded, or an annotation that cannot be parsed."""
    for path, problem in subject.problems.items():
        yield Finding("unreadable", "error", subject.name(path), None, problem)
    for record in subject.raw:
        if record.problem:
            yield Finding("unreadable", "error", subject.name(record.file), None, record.problem)


def orphan(subject: Subject) -> Findings:
    """An annotation without an image, or an image without an annotation in an annotated dataset."""
    for record in subject.raw:
        if record.image is None:
            stated = f" ({record.name} stated)" if record.name else ""
            yield Finding("orphan", "error", subject.name(record.file), None, f"annotation without an image{stated}")
    if any(sample.truth is not None for sample in subject.dataset):
        for sample in subject.dataset:
            if sample.truth is None:
                yield Finding("orphan", "info", subject.name(sample.path), None, "image without annotation")


def size_mismatch(subject: Subject) -> Findings:
    """The size stated in the annotation is not that of the image."""
    for record in subject.raw:
        actual = subject.sizes.get(record.image) if record.image else None
        if record.size_wh and actual and record.size_wh != actual:
            swapped = ", width and height swapped" if record.size_wh == actual[::-1] else ""
            stated = "{:g} x {:g}".format(*record.size_wh)
            found = f"expected the size of the image, {actual[0]} x {actual[1]}, got {stated}"
            yield Finding("size_mismatch", "error", subject.name(record.file), None, found + swapped)


def name_mismatch(subject: Subject) -> Findings:
    """The name stated in the annotation is not that of its image."""
    for record in subject.raw:
        if record.image and record.name and Path(record.name).stem != record.image.stem:
            found = f"expected the image name {record.image.name}, got {record.name}"
            yield Finding("name_mismatch", "error", subject.name(record.file), None, found)


def folder_mismatch(subject: Subject) -> Findings:
    """The stated folder is not that of the image, or, if most files state another one, not the one that most state."""
    stated = [
        (r, Path(r.folder.replace("\\", "/")).name, r.image.parent.name) for r in subject.raw if r.folder and r.image
    ]
    if not stated:
        return
    most = Counter(folder for _, folder, _ in stated).most_common(1)[0][0]
    right = 2 * sum(folder == actual for _, folder, actual in stated) >= len(stated)
    for record, folder, actual in stated:
        expected = actual if right else most
        if folder != expected:
            found = f"expected the folder {expected!r}, got {folder!r}"
            yield Finding("folder_mismatch", "warning", subject.name(record.file), None, found)


# --- single boxes ----------------------------------------------------------------------------------------------------


def _raw_boxes(subject: Subject) -> Iterator[tuple[str, RawRecord, RawBox]]:
    for record in subject.raw:
        for box in (box for box in record.boxes if not box.is_point):
            yield subject.name(record.image or record.file), record, box


def zero_area(subject: Subject) -> Findings:
    """A box without width or height."""
    for name, _, box in _raw_boxes(subject):
        if min(box.extent_wh) == 0:
            yield Finding("zero_area", "error", name, box.xyxy, f"{box.name}: box without area")


def inverted(subject: Subject) -> Findings:
    """A box whose corners are swapped."""
    for name, _, box in _raw_boxes(subject):
        if min(box.extent_wh) < 0:
            yield Finding("inverted", "error", name, box.xyxy, f"{box.name}: second corner before the first")


def outside(subject: Subject) -> Findings:
    """A box that extends beyond the image by more than a pixel."""
    for name, record, box in _raw_boxes(subject):
        size = subject.sizes.get(record.image) if record.image else None
        if size is None or min(box.extent_wh) < 0:
            continue
        x1, y1, x2, y2 = box.xyxy
        beyond = max(-x1, -y1, x2 - size[0], y2 - size[1])
        if beyond > _OUTSIDE:
            completely = x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0
            how = "completely" if completely else f"{beyond:.0f} px"
            found = f"{box.name}: {how} outside the image of {size[0]} x {size[1]} px"
            yield Finding("outside", "error", name, box.xyxy, found)


def _double_pairs(subject: Subject) -> Iterator[tuple[str, Detections, int, int, float]]:
    for sample in subject.dataset:
        if sample.truth is not None:
            truth = sample.truth[np.isfinite(sample.truth.boxes_xyxy[:, 0])]
            first, second = boxes.overlapping_pairs(truth.boxes_xyxy)
            iou = boxes.pair_iou(truth.boxes_xyxy[first], truth.boxes_xyxy[second])
            for k in np.flatnonzero(iou > _DOUBLED_IOU):
                yield subject.name(sample.path), truth, int(first[k]), int(second[k]), float(iou[k])


def doubled(subject: Subject) -> Findings:
    """Two boxes of one class on one cell."""
    for name, truth, i, j, iou in _double_pairs(subject):
        if truth.label[i] == truth.label[j]:
            found = f"{CELL_CLASSES[truth.label[i]]}: two boxes on one cell (IoU {iou:.2f})"
            yield Finding("doubled", "warning", name, box_of(truth.boxes_xyxy[i]), found)


def two_classes(subject: Subject) -> Findings:
    """Two boxes of different classes on one cell."""
    for name, truth, i, j, iou in _double_pairs(subject):
        if truth.label[i] != truth.label[j]:
            kinds = " and ".join(CELL_CLASSES[truth.label[k]] for k in sorted((i, j), key=lambda k: truth.label[k]))
            yield Finding(
                "two_classes", "error", name, box_of(truth.boxes_xyxy[i]), f"one cell is {kinds} (IoU {iou:.2f})"
            )


# --- classes ---------------------------------------------------------------------------------------------------------


def _shown(sample: Sample) -> set[int]:
    return set() if sample.truth is None else set(sample.truth.label.tolist())


def missing_class(subject: Subject) -> Findings:
    """An image without a class that it annotates and that nearly all other images show."""
    for label, name in enumerate(CELL_CLASSES):
        looked = [sample for sample in subject.dataset if sample.truth is not None and name in sample.annotated]
        without = [sample for sample in looked if label not in _shown(sample)]
        if len(looked) >= ENOUGH and len(without) <= (1 - _USUAL_FRACTION) * len(looked):
            for sample in without:
                found = f"no {name} box; {len(looked) - len(without)} of {len(looked)} images have one"
                yield Finding("missing_class", "warning", subject.name(sample.path), None, found)


def class_absent(subject: Subject) -> Findings:
    """A split without a class that another split shows."""
    shown: dict[str, set[int]] = defaultdict(set)
    for sample in subject.dataset:
        if sample.split and sample.truth is not None:
            shown[sample.split] |= _shown(sample)
    for label in sorted(set().union(*shown.values())):
        for split in sorted(split for split in shown if label not in shown[split]):
            yield Finding("class_absent", "warning", split, None, f"no {CELL_CLASSES[label]} in this split")


RULES: dict[str, Callable[[Subject], Findings]] = {
    "unreadable": unreadable,
    "orphan": orphan,
    "size_mismatch": size_mismatch,
    "name_mismatch": name_mismatch,
    "folder_mismatch": folder_mismatch,
    "zero_area": zero_area,
    "inverted": inverted,
    "outside": outside,
    "doubled": doubled,
    "two_classes": two_classes,
    "implausible_size": implausible_size,
    "scale": scale,
    "missing_class": missing_class,
    "class_absent": class_absent,
    "leak": leak,
    "exact_duplicate": pair_rule("exact_duplicate", "warning"),
    "near_duplicate": pair_rule("near_duplicate", "warning"),
    "overlap": pair_rule("overlap", "info"),
    "disagreement": disagreement,
}
"""Every rule by name, in the order of the report."""


def apply_rules(subject: Subject) -> tuple[Finding, ...]:
    """All findings: errors first, then in the order of `RULES`."""
    found = [finding for rule in RULES.values() for finding in rule(subject)]
    return tuple(sorted(found, key=lambda f: SEVERITIES.index(f.severity)))
