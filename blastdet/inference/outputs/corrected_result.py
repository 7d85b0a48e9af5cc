"""A result with the corrections of reviewers: its cells, its counts, and what is written of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.model_card import ValidationCounts
from blastdet.core.types import Detections, Sample
from blastdet.datasets.apply_corrections import correct_sample
from blastdet.datasets.corrections import Correction
from blastdet.inference.blast_fraction import BlastFraction, fraction_of
from blastdet.inference.differential import count_types
from blastdet.inference.result import Result
from blastdet.inference.writers import cell_names


def corrected_result(
    result: Result,
    corrections: Sequence[Correction],
    classifier_classes: Sequence[str] = (),
    trials: Sequence[ValidationCounts] = (),
) -> Result:
    """The result as its reviewers left it.

    Cells keep their names; added ones follow as ``a00001``, ... What a person said is certain. Ignored cells are left
    out. The blast fraction is that of the corrected cells. Its interval covers the error rates of the classifier for
    the white cells that were not reviewed: these rates do not describe people.

    Parameters
    ----------
    result : Result
    corrections : sequence of Correction
        Of this image, in the order in which they were made.
    classifier_classes : sequence of str
        Classes of the second stage, if there is one.
    trials : sequence of ValidationCounts
        Its error rates.

    Raises
    ------
    FormatError
        If a correction is of another image, or its box is not on this one.
    """
    if not corrections:
        return result
    if other := [one for one in corrections if one.image_sha256 != result.image_sha256]:
        raise FormatError(f"corrections: expected image_sha256 {result.image_sha256}, got {other[0].image_sha256!r}")
    names = cell_names(len(result.detections))
    cells = result.detections.with_columns(id=names, origin=["model"] * len(names))
    sample = Sample(Path(result.name), result.size_wh, annotated=result.classes, truth=cells)
    sample, changes = correct_sample(sample, corrections)
    kept = _certain(_named(sample.truth if sample.truth is not None else Detections.empty()))
    counts = ", ".join(f"{n} {what}" for what, n in sorted(changes.items()))
    return replace(
        result,
        detections=kept,
        candidates=kept,
        blast_fraction=_counted_again(result, kept, classifier_classes, trials),
        warnings=(*result.warnings, *([f"reviewed by people: {counts}"] if counts else [])),
    )


def _named(cells: Detections) -> Detections:
    """Counted cells in canonical order, each with a name."""
    if cells.ignore is not None:
        cells = cells[~cells.ignore].with_columns(ignore=None)
    cells = cells.sorted()
    names = [""] * len(cells) if cells.id is None else cells.id.tolist()
    added = iter(range(1, len(names) + 1))
    return cells.with_columns(id=[name or f"a{next(added):05d}" for name in names])


def _certain(cells: Detections) -> Detections:
    """The same cells, certain where a person looked at them."""
    if cells.unsure is None or cells.origin is None:
        return cells
    by_person = cells.origin == "human"
    reason = None if cells.unsure_reason is None else np.where(by_person, "", cells.unsure_reason)
    return cells.with_columns(unsure=cells.unsure & ~by_person, unsure_reason=reason)


def _counted_again(
    result: Result, cells: Detections, classes: Sequence[str], trials: Sequence[ValidationCounts]
) -> BlastFraction | None:
    if result.blast_fraction is None:
        return None
    return fraction_of(count_types(cells, classes), trials)
