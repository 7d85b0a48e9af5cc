"""Write a dataset with the corrections of reviewers applied: what ``blastdet review export`` does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blastdet.core.atomic_io import new_folder, write_text
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import ConfigError, counted
from blastdet.core.model_card import sha256_of
from blastdet.core.types import Dataset, Scale
from blastdet.datasets.apply_corrections import count_cells, replay_corrections
from blastdet.datasets.convert import check_folder
from blastdet.datasets.corrections import Correction, append_corrections, merge_corrections, read_corrections
from blastdet.datasets.formats import registry
from blastdet.datasets.reading import find_dataset, notes_of, read_dataset

FORMATS = ("coco", "yolo")
CORRECTIONS = "corrections.jsonl"

RECORD = "review-export.json"
"""Marks a folder as written by an export."""


@dataclass(frozen=True)
class ExportSummary:
    """What an export changed.

    Parameters
    ----------
    n_before, n_after : int
        Number of cells, ignored ones left out.
    counts : mapping
        Number of changes of each kind, see `replay_corrections`.
    n_disagreements : int
        Cells on which the correction files disagree; the latest correction counts.
    notes : tuple of str
        What the reader of the dataset noticed.
    """

    n_before: int
    n_after: int
    counts: Mapping[str, int]
    n_disagreements: int
    notes: tuple[str, ...] = ()


def export_corrected(
    data: str | Path,
    corrections: Sequence[Path],
    out: Path,
    *,
    formats: Sequence[str] = ("coco",),
    overwrite: bool = False,
    **reading: Any,
) -> ExportSummary:
    """Apply corrections to a dataset and write it to a folder, with all corrections in ``corrections.jsonl``.

    Images have the scale that their review was given (``--mpp``), unless `reading` has another one.

    Raises `BlastdetError` if a file is faulty, there is no correction, or `out` may not be replaced: it contains other
    files, or corrections that were not given.

    Parameters
    ----------
    data : str or Path
        The dataset that was reviewed: a path, or the name of an installed dataset.
    formats : sequence of {"coco", "yolo"}
    overwrite : bool
        Replace a folder that an export wrote.
    **reading
        As for `read_dataset`, such as ``images``.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"expected format {' or '.join(FORMATS)}, got {unknown[0]}")
    lines, n_disagreements = merge_corrections([read_corrections(path) for path in corrections])
    if not lines:
        files = ", ".join(str(path) for path in corrections)
        raise ConfigError(
            f"{files}: no corrections, so nothing was exported. To copy a dataset as it is: blastdet convert"
        )
    check_folder(
        out,
        overwrite,
        RECORD,
        [find_dataset(data)[0], *corrections, *([reading["images"]] if reading.get("images") else [])],
    )
    if overwrite:
        _check_kept(out / CORRECTIONS, lines)
    dataset = read_dataset(data, **reading)
    replayed, counts = replay_corrections(dataset, lines)
    corrected = replayed
    if reading.get("mpp") is None:
        corrected = _with_given_scale(replayed, lines)
    with new_folder(out) as folder:
        for name in dict.fromkeys(formats):
            registry.write(corrected, folder, name)
        write_text(folder / CORRECTIONS, "")
        append_corrections(folder / CORRECTIONS, lines)
        record = {"notice": RESEARCH_USE, "dataset": dataset.name, "corrections": dict(counts)}
        write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    before, after = (sum(count_cells(sample.truth) for sample in side) for side in (dataset, corrected))
    notes = [*notes_of(dataset), *corrected.notes[len(replayed.notes) :]]
    return ExportSummary(before, after, counts, n_disagreements, tuple(notes))


def _with_given_scale(dataset: Dataset, lines: Sequence[Correction]) -> Dataset:
    """The dataset, with the scale that the review of an image was given, and a note on which images have it."""
    given: dict[str, Scale] = {}
    for one in lines:
        if one.mpp is not None and given.setdefault(one.image_key, one.mpp) != one.mpp:
            both = " and ".join(f"{x:g},{y:g}" for x, y in (given[one.image_key], one.mpp))
            raise ConfigError(f"{one.image or one.image_key}: reviewed at {both} µm/px. Pass the right one as --mpp")
    if not given:
        return dataset
    hashed = any(one.image_sha256 for one in lines if one.mpp is not None)
    keys = [(sha256_of(sample.path) if hashed else "", sample.path.name) for sample in dataset]
    scales = [next((given[key] for key in some if key in given), None) for some in keys]
    samples = [replace(one, mpp=scale or one.mpp) for one, scale in zip(dataset, scales, strict=True)]
    shown = sorted({f"{x:g}" if x == y else f"{x:g},{y:g}" for x, y in filter(None, scales)})
    n = counted(len(scales) - scales.count(None), "image")
    note = f"scale as the review was given it: {n}, {'; '.join(shown)} µm/px"
    if open_ := sum(sample.mpp is None for sample in samples):
        note += f". {counted(open_, 'image')} without a scale; --mpp gives it to all"
    return replace(dataset, samples=tuple(samples), notes=(*dataset.notes, note))


def _check_kept(path: Path, lines: Sequence[Correction]) -> None:
    """Refuse to replace a file of corrections by one that lacks some of them."""
    if path.is_file() and (lost := set(read_corrections(path)) - set(lines)):
        raise ConfigError(f"{path}: {len(lost)} corrections would be lost. Add --corrections {path}")
