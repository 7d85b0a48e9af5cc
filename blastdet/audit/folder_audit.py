"""Audit of a dataset: faulty boxes, files, classes and sizes, overlapping fields, and leaks.

`audit_folder` reads the dataset; the rules are in `rules`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.audit.overlapping_fields import Progress, connected, find_near_duplicates, find_overlaps
from blastdet.audit.rules import apply_rules
from blastdet.audit.subject import SEVERITIES, Finding, Subject, whole_cells
from blastdet.core.constants import RED_CELL_UM, RESEARCH_USE
from blastdet.core.errors import BlastdetError, FormatError
from blastdet.core.parallel import cpu_count
from blastdet.core.types import CELL_CLASSES, RBC, Dataset, Sample, WidthHeight
from blastdet.datasets import splits
from blastdet.datasets.annotations.records import RawRecord, to_dataset
from blastdet.datasets.archives import located
from blastdet.datasets.formats import registry
from blastdet.datasets.reading import read_dataset
from blastdet.imaging.io import read_image


@dataclass(frozen=True)
class AuditReport:
    """Result of an audit.

    Parameters
    ----------
    findings : tuple of Finding
        Errors first.
    statistics : dict
        Images and splits, class balance, cell sizes, pairs; plain values for JSON.
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
        """Whether any finding is worse than ``info``."""
        return any(finding.severity != "info" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The complete report as plain values for JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return {"notice": RESEARCH_USE, "statistics": self.statistics, "counts": self.counts(), "findings": findings}


def audit_folder(
    path: Path,
    format: str = "auto",
    *,
    overlaps: bool = True,
    progress: Progress | None = None,
    reading: Mapping[str, Any] | None = None,
) -> AuditReport:
    """Audit the dataset in a folder, even if its reader refuses it.

    Raises `FormatError` if there is no known dataset, or its reader refuses it and no annotation can be parsed.

    Parameters
    ----------
    path : Path
        A folder, or the file that describes the dataset.
    format : str
        The input format, as in `registry.read`.
    overlaps, progress
        As for `audit`.
    reading : mapping, optional
        Options of `blastdet.read_dataset`: ``images``, ``class_map`` and ``annotated``.
    """
    path = Path(path)
    if not path.exists():
        raise FormatError(f"{path}: no such file or folder")
    path = located(path)
    raw = registry.read_records(path)
    try:
        dataset, refused = read_dataset(path, format=format, **(reading or {})), {}
    except BlastdetError as error:
        raw = registry.read_records(path, format)
        if not any(record.image for record in raw):
            raise
        root = path if path.is_dir() else path.parent
        dataset = to_dataset(raw, root, (reading or {}).get("class_map"))
        refused = {root: f"the reader refuses the dataset: {error}"}
    return audit(dataset, raw, overlaps=overlaps, progress=progress, problems=refused)


def audit(
    dataset: Dataset,
    raw: Sequence[RawRecord] = (),
    *,
    overlaps: bool = True,
    progress: Progress | None = None,
    problems: dict[Path, str] | None = None,
) -> AuditReport:
    """Apply every rule to a dataset.

    Parameters
    ----------
    raw : sequence of RawRecord
        The annotations as the files state them, from `registry.read_records`. Without them, degenerate boxes and wrong
        statements about files are not found.
    overlaps : bool
        Whether to look for overlapping fields. The time is proportional to the square of the number of images.
    progress : callable, optional
        See `overlapping_fields.Progress`.
    problems : dict, optional
        Known problems: file -> reason.
    """
    paths = list(dict.fromkeys([sample.path for sample in dataset] + [r.image for r in raw if r.image]))
    sizes, broken = _look(paths, progress)
    samples = [sample for sample in dataset if sample.path in sizes]
    readable = [sample.path for sample in samples]
    subject = Subject(
        dataset=dataset if len(samples) == len(dataset) else _only(dataset, samples),
        raw=tuple(raw),
        sizes=sizes,
        problems={**(problems or {}), **broken},
        copies=tuple((a.path, b.path) for same in splits.duplicates(samples) for a, b in combinations(same, 2)),
        near=tuple(find_near_duplicates(readable, progress=progress)),
        overlaps=tuple(find_overlaps(readable, progress=progress)) if overlaps else (),
    )
    return AuditReport(apply_rules(subject), {**statistics(subject), "overlaps_looked_for": overlaps})


def _only(dataset: Dataset, samples: Iterable[Sample]) -> Dataset:
    return replace(dataset, samples=tuple(samples))


def _look(paths: Sequence[Path], progress: Progress | None) -> tuple[dict[Path, WidthHeight], dict[Path, str]]:
    """Decode every image: the size of those that can be decoded, the reason for those that cannot."""
    sizes: dict[Path, WidthHeight] = {}
    broken: dict[Path, str] = {}
    with ThreadPoolExecutor(cpu_count()) as pool:
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


# --- statistics ------------------------------------------------------------------------------------------------------


def statistics(subject: Subject) -> dict[str, Any]:
    """Images, class balance and cell sizes of a dataset, as plain values for JSON."""
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
    """Sides of whole cells in µm, and the source of the scale: the dataset, or red cells taken as 7.5 µm."""
    if any(sample.mpp for sample in dataset):
        return whole_cells(_only(dataset, [sample for sample in dataset if sample.mpp])), "µm/px of the dataset"
    cells = whole_cells(dataset)
    red = cells.get(RBC, np.empty(0))
    if not len(red):
        return {}, None
    factor = RED_CELL_UM / float(np.median(red))
    return {label: side * factor for label, side in cells.items()}, f"red cells taken as {RED_CELL_UM} µm"


def _spread(side: Any) -> dict[str, float] | None:
    """5th, 50th and 95th percentile."""
    if not len(side):
        return None
    return dict(
        zip(("p5", "median", "p95"), (round(float(v), 2) for v in np.percentile(side, (5, 50, 95))), strict=True)
    )
