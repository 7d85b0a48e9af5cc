"""Faults of a data set, found by rule: boxes, files, classes, sizes, shared fields and leaks.

`audit_folder` reads and looks; the rules are in `rules`, what the files say in `raw_annotations`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.audit.overlapping_fields import Progress, connected, find_near_duplicates, find_overlaps
from blastdet.audit.raw_annotations import RawRecord, raw_records
from blastdet.audit.rules import apply_rules
from blastdet.audit.subject import SEVERITIES, Finding, Subject, whole_cells
from blastdet.core import boxes
from blastdet.core.constants import RED_CELL_UM, RESEARCH_USE
from blastdet.core.errors import BlastdetError, FormatError
from blastdet.core.parallel import cpu_count
from blastdet.core.types import CELL_CLASSES, RBC, Dataset, Detections, Sample, WidthHeight
from blastdet.datasets import splits
from blastdet.datasets.formats import registry
from blastdet.datasets.formats.class_names import label_of
from blastdet.imaging.io import read_image

_SUFFIX = {"bccd": ".xml", "voc": ".xml", "coco": ".json", "yolo": ".txt"}  # of a format's annotation files


@dataclass(frozen=True)
class AuditReport:
    """What the audit found.

    Parameters
    ----------
    findings : tuple of Finding
        Errors first.
    statistics : dict
        Pictures and splits, class balance, cell sizes, pairs; plain values, fit for JSON.
    """

    findings: tuple[Finding, ...]
    statistics: dict[str, Any]

    def counts(self) -> dict[str, dict[str, int]]:
        """Rule -> severity -> number of findings."""
        table: dict[str, dict[str, int]] = {}
        for finding in self.findings:
            row = table.setdefault(finding.rule, dict.fromkeys(SEVERITIES, 0))
            row[finding.severity] += 1
        return table

    @property
    def has_faults(self) -> bool:
        """Whether anything is worse than ``info``."""
        return any(finding.severity != "info" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        findings = [asdict(finding) for finding in self.findings]
        return {"notice": RESEARCH_USE, "statistics": self.statistics, "counts": self.counts(), "findings": findings}


def audit_folder(
    path: Path,
    format: str = "auto",
    *,
    overlaps: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Audit the data set in a folder, also one that its reader refuses.

    Parameters
    ----------
    path : Path
        A folder, or the file that describes the set.
    format : str
        As for `formats.read`.
    overlaps, workers, progress
        As for `audit`.

    Raises
    ------
    FormatError
        If there is nothing to audit: no known data set, no annotations.
    """
    path = Path(path)
    if not path.exists():
        raise FormatError(f"{path}: no such file or folder")
    raw = raw_records(path)
    try:
        dataset, refused = registry.read(path, format), {}
    except BlastdetError as error:
        raw = tuple(record for record in raw if format == "auto" or record.file.suffix == _SUFFIX.get(format))
        if path.is_file():  # the annotations beside it are not what was asked for
            raw = tuple(record for record in raw if record.file == path)
        if not any(record.image for record in raw):
            raise
        root = path if path.is_dir() else path.parent
        dataset, refused = dataset_from(raw, root), {root: f"the reader refuses the set: {error}"}
    return audit(dataset, raw, overlaps=overlaps, workers=workers, progress=progress, problems=refused)


def audit(
    dataset: Dataset,
    raw: Sequence[RawRecord] = (),
    *,
    overlaps: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
    problems: dict[Path, str] | None = None,
) -> AuditReport:
    """Apply every rule to a data set.

    Parameters
    ----------
    dataset : Dataset
    raw : sequence of RawRecord
        The annotations as they stand, from `raw_records`; without them, degenerate boxes and wrong statements about
        files are not seen.
    overlaps : bool
        Whether to register every two pictures (time grows with the square of their number).
    workers : int, optional
        Threads; all processors by default.
    progress : callable, optional
        See `overlap.Progress`.
    problems : dict, optional
        What is known to be wrong already: file -> why.
    """
    paths = list(dict.fromkeys([sample.path for sample in dataset] + [r.image for r in raw if r.image]))
    sizes, broken = _look(paths, workers, progress)
    smears = [sample for sample in dataset if sample.path in sizes]
    readable = [sample.path for sample in smears]
    subject = Subject(
        dataset=dataset if len(smears) == len(dataset) else _only(dataset, smears),
        raw=tuple(raw),
        sizes=sizes,
        problems={**(problems or {}), **broken},
        copies=tuple((a.path, b.path) for same in splits.duplicates(smears) for a, b in combinations(same, 2)),
        near=tuple(find_near_duplicates(readable, progress=progress)),
        overlaps=tuple(find_overlaps(readable, workers=workers, progress=progress)) if overlaps else (),
    )
    return AuditReport(apply_rules(subject), {**statistics(subject), "overlaps_looked_for": overlaps})


def _only(dataset: Dataset, smears: Iterable[Sample]) -> Dataset:
    return Dataset(dataset.name, dataset.root, tuple(smears), dataset.dropped, dataset.notes)


def _look(
    paths: Sequence[Path], workers: int | None, progress: Progress | None
) -> tuple[dict[Path, WidthHeight], dict[Path, str]]:
    """Decode every picture: size of those that can be, reason for those that cannot."""
    sizes: dict[Path, WidthHeight] = {}
    broken: dict[Path, str] = {}
    with ThreadPoolExecutor(workers or cpu_count()) as pool:
        for done, (path, answer) in enumerate(zip(paths, pool.map(_decode, paths), strict=True), 1):
            if isinstance(answer, str):
                broken[path] = answer
            else:
                sizes[path] = answer
            if progress is not None:
                progress("decoding", done, len(paths))
    return sizes, broken


def _decode(path: Path) -> WidthHeight | str:
    try:
        height, width = read_image(path).shape[:2]
    except BlastdetError as error:
        return str(error)
    return width, height


def dataset_from(raw: Sequence[RawRecord], root: Path) -> Dataset:
    """What can be read of a set that its reader refuses: boxes with area inside the picture, of known classes."""
    smears, dropped = [], []
    by_image = {record.image: record for record in raw if record.image is not None}
    sizes, _ = _look(list(by_image), None, None)
    for image, record in sorted(by_image.items()):
        if image in sizes and record.problem is None:
            truth, lines = _truth(record, sizes[image])
            dropped += lines
            smears.append(Sample(image, sizes[image], split=record.split, truth=truth))
    shown = {CELL_CLASSES[i] for sample in smears if sample.truth is not None for i in sample.truth.label.tolist()}
    annotated = tuple(name for name in CELL_CLASSES if name in shown)
    marked = [Sample(s.path, s.size_wh, split=s.split, annotated=annotated, truth=s.truth) for s in smears]
    return Dataset(root.name, root, tuple(marked), tuple(dropped))


def _truth(record: RawRecord, size_wh: WidthHeight) -> tuple[Detections, list[str]]:
    kept, labels, dropped = [], [], []
    for box in record.boxes:
        inside = boxes.clip([box.xyxy], size_wh)[0]
        if min(box.extent_wh) <= 0 or (inside[2:] <= inside[:2]).any():
            dropped.append(f"{record.file.name}: {box.name} {box.xyxy}: no area inside the picture")
            continue
        try:
            labels.append(label_of(box.name, None, record.file.name))
        except FormatError as error:
            dropped.append(str(error))
            continue
        kept.append(inside)
    return Detections(np.array(kept, np.float32).reshape(-1, 4), label=np.array(labels, np.int64)), dropped


# --- statistics ------------------------------------------------------------------------------------------------------


def statistics(subject: Subject) -> dict[str, Any]:
    """Pictures, class balance and cell sizes of a data set, as plain values."""
    dataset = subject.dataset
    pairs = [(o.a, o.b) for o in subject.overlaps] + [(d.a, d.b) for d in subject.near] + list(subject.copies)
    groups = Counter(connected(pairs).values())
    return {
        "name": dataset.name,
        "pictures": len(dataset),
        "annotated": sum(sample.truth is not None for sample in dataset),
        "picture_sizes": dict(Counter(f"{s.size_wh[0]} x {s.size_wh[1]}" for s in dataset).most_common()),
        "splits": dict(sorted(Counter(sample.split or "none" for sample in dataset).items())),
        "labels": dict(sorted(Counter(sample.label for sample in dataset if sample.label).items())),
        "classes": _classes(dataset),
        "sharing": {
            "pairs": len({frozenset(p) for p in pairs}),
            "groups": len(groups),
            "pictures": sum(groups.values()),
        },
        "dropped_by_reader": list(dataset.dropped),
        "notes_of_reader": list(dataset.notes),
    }


def _classes(dataset: Dataset) -> dict[str, dict[str, Any]]:
    pixels = _only(dataset, [Sample(s.path, s.size_wh, truth=s.truth) for s in dataset])
    px, um, source = whole_cells(pixels), *_micrometres(dataset)
    table: dict[str, dict[str, Any]] = {}
    for label, side in px.items():
        name = CELL_CLASSES[label]
        per_split = Counter[str]()
        for sample in dataset:
            if sample.truth is not None:
                per_split[sample.split or "none"] += int((sample.truth.label == label).sum())
        table[name] = {
            "boxes": sum(per_split.values()),
            "boxes_per_split": dict(sorted(per_split.items())),
            "pictures": sum(s.truth is not None and label in s.truth.label for s in dataset),
            "side_px": _spread(side),
            "side_um": _spread(um.get(label, np.empty(0))),
            "um_from": source,
        }
    return table


def _micrometres(dataset: Dataset) -> tuple[dict[int, Any], str | None]:
    """Sides of whole cells in µm, and where the scale comes from: the set, or red cells taken as 7.5 µm."""
    if any(sample.mpp for sample in dataset):
        return whole_cells(_only(dataset, [sample for sample in dataset if sample.mpp])), "µm/px of the set"
    cells = whole_cells(dataset)
    red = cells.get(RBC, np.empty(0))
    if not len(red):
        return {}, None
    factor = RED_CELL_UM / float(np.median(red))
    return {label: side * factor for label, side in cells.items()}, f"red cells taken as {RED_CELL_UM} µm"


def _spread(side: Any) -> dict[str, float] | None:
    """5th, 50th and 95th percentile of the sides of whole cells."""
    if not len(side):
        return None
    return dict(
        zip(("p5", "median", "p95"), (round(float(v), 2) for v in np.percentile(side, (5, 50, 95))), strict=True)
    )
