"""Differential count: white cells by type, each with an exact interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from blastdet.core.constants import ERYTHROBLAST, SMUDGE, UNLIKE_TRAINING, WHITE_TYPES
from blastdet.core.statistics import Interval, clopper_pearson
from blastdet.core.types import BLAST, Detections

FEW = 10
"""White cells; of fewer, most may be uncertain by chance."""

FEW_TO_STATE = 50
"""White cells; of fewer, a percentage is mostly chance, and only numbers are shown to a person."""

DIFFERENTIAL_CELLS = 200
"""White cells of a differential count by eye (ICSH 2015: blasts are counted on 200 cells)."""


@dataclass(frozen=True)
class WhiteCells:
    """Nucleated cells of a smear, or of some of its fields, as the second stage classifies them.

    Every white cell counts once: as a blast, as another white cell, or as uncertain where the classifier's answer is
    rejected. Erythroblasts and smudges are not white cells.

    Parameters
    ----------
    blasts, others, unsure : int
        White cells; their sum is `n`.
    called : int
        White cells at or above the operating threshold for blasts, uncertain ones included.
    erythroblasts, smudges : int
        Nucleated red cells; smudge cells and artefacts. Not in `n`.
    unlike : int
        How many of `unsure` are unlike the training data.
    reviewed, reviewed_blasts : int
        White cells that a person looked at; those that this person called blasts.
    types : mapping of str to int
        How many of `others` are of each white type that the classifier knows; empty if it knows none.

    Examples
    --------
    >>> one = WhiteCells(blasts=1, others=3, unsure=0, called=1, types={"lymphocyte": 2, "monocyte": 0})
    >>> (one + one).n, (one + one).types
    (8, {'lymphocyte': 4, 'monocyte': 0})
    """

    blasts: int
    others: int
    unsure: int
    called: int
    erythroblasts: int = 0
    smudges: int = 0
    unlike: int = 0
    reviewed: int = 0
    reviewed_blasts: int = 0
    types: Mapping[str, int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """White cells."""
        return self.blasts + self.others + self.unsure

    @property
    def is_reviewed(self) -> bool:
        """Whether a person looked at every white cell."""
        return 0 < self.n == self.reviewed

    @property
    def is_known_stain(self) -> bool:
        """Whether at most half of the white cells are unlike the training data; otherwise no fraction is given.

        Of fewer than `FEW` cells, so many may be unlike it by chance.
        """
        return self.n < FEW or 2 * self.unlike <= self.n

    @property
    def is_few(self) -> bool:
        """Whether there are fewer than `FEW_TO_STATE` white cells; tables of numbers mark their fractions so."""
        return self.n < FEW_TO_STATE

    @property
    def states_percentages(self) -> bool:
        """Whether a person is shown percentages: of a known stain, and of at least `FEW_TO_STATE` cells."""
        return not self.is_few and self.is_known_stain

    @property
    def per_100(self) -> dict[str, float]:
        """Erythroblasts and smudges per 100 white cells; NaN without white cells."""
        beside = {ERYTHROBLAST: self.erythroblasts, SMUDGE: self.smudges}
        return {name: 100 * k / self.n if self.n else float("nan") for name, k in beside.items()}

    @property
    def parts(self) -> WhiteCells:
        """The counts alone."""
        return WhiteCells(**{one.name: getattr(self, one.name) for one in fields(WhiteCells)})

    def __add__(self, other: WhiteCells) -> WhiteCells:
        """Two fields of one smear taken together."""
        names = [name for name in WHITE_TYPES if name in self.types or name in other.types]
        types = {name: self.types.get(name, 0) + other.types.get(name, 0) for name in names}
        sums = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return WhiteCells(**sums, types=types)

    def to_json(self) -> dict[str, Any]:
        """For the run log."""
        return {**{name: getattr(self, name) for name in _NUMBERS}, "types": dict(self.types)}

    @classmethod
    def from_json(cls, value: Any) -> WhiteCells:
        """What `to_json` wrote, or the first five numbers in a list, as logs before cell types have it.

        Raises
        ------
        ValueError
            If it is anything else.
        """
        if isinstance(value, list) and len(value) == 5:
            value = {**dict(zip(_NUMBERS, value, strict=False)), "smudges": 0, "types": {}}
        if isinstance(value, dict):
            value = {"unlike": 0, "reviewed": 0, "reviewed_blasts": 0, **value}  # earlier logs do not have them
        if not isinstance(value, dict) or set(value) != {*_NUMBERS, "types"} or not isinstance(value["types"], dict):
            raise ValueError(f"expected counts of white cells, got {value!r:.60}")
        types = value["types"]
        numbers = [*(value[name] for name in _NUMBERS), *types.values()]
        if not all(type(number) is int and number >= 0 for number in numbers) or not set(types) <= set(WHITE_TYPES[1:]):
            raise ValueError(f"expected counts of white cells, got {value!r:.60}")
        if sum(types.values()) > value["others"]:
            raise ValueError(f"expected at most {value['others']} cells with a type, got {sum(types.values())}")
        found = cls(**value)
        if not (found.reviewed_blasts <= found.blasts and found.reviewed <= found.n):
            raise ValueError(f"expected at most {found.n} reviewed cells, got {found.reviewed}")
        return found


_NUMBERS = tuple(one.name for one in fields(WhiteCells) if one.name != "types")


@dataclass(frozen=True)
class DifferentialRow:
    """One type of white cell: how many, what fraction of all white cells, and its 95 % interval (counting alone).

    `is_stated` says whether a person is shown the fraction; see `WhiteCells.states_percentages`.
    """

    cell_type: str
    n: int
    fraction: float
    interval: Interval
    is_stated: bool

    @property
    def percentages(self) -> tuple[str, str]:
        """Fraction and interval as they are printed; dashes where they are not stated."""
        if not self.is_stated:
            return "–", "–"
        return f"{100 * self.fraction:.1f} %", f"{100 * self.interval.low:.1f}–{100 * self.interval.high:.1f} %"


def differential(found: WhiteCells) -> tuple[DifferentialRow, ...]:
    """White cells by type, each with an exact 95 % interval for the number of cells counted.

    Returns
    -------
    tuple of DifferentialRow
        ``blast``, each white type that the classifier knows, ``wbc`` (other white cells; those without a certain type
        if it knows types) and ``unsure``. Their numbers add up to `WhiteCells.n`. Fractions and intervals are NaN
        without white cells, or where the stain is unknown (`WhiteCells.is_known_stain`). Of fewer than `FEW_TO_STATE`
        cells they are computed, but not shown.

    Examples
    --------
    >>> found = WhiteCells(blasts=1, others=3, unsure=0, called=1, types={"lymphocyte": 2})
    >>> [(row.cell_type, row.n) for row in differential(found)]
    [('blast', 1), ('lymphocyte', 2), ('wbc', 1), ('unsure', 0)]
    """
    kinds = {"blast": found.blasts, **found.types}
    kinds |= {"wbc": found.others - sum(found.types.values()), "unsure": found.unsure}
    n = found.n if found.is_known_stain else 0
    return tuple(
        DifferentialRow(name, k, k / n if n else float("nan"), clopper_pearson(min(k, n), n), found.states_percentages)
        for name, k in kinds.items()
    )


def progress(n: int) -> str:
    """How far a differential is: ``137 of 200 counted``."""
    return f"{n} of {DIFFERENTIAL_CELLS} counted" if n < DIFFERENTIAL_CELLS else f"{n} counted"


def beside(found: WhiteCells) -> list[str]:
    """Erythroblasts and smudges per 100 white cells, as they are printed; only those that were found."""
    words = {ERYTHROBLAST: found.erythroblasts, SMUDGE: found.smudges}
    return [
        f"{name}s: {k}" + (f", {found.per_100[name]:.1f} per 100 white cells" if not found.is_few else "")
        for name, k in words.items()
        if k and found.n
    ]


def why_no_percentages(found: WhiteCells) -> str:
    """The line below a differential of numbers alone; empty where there are percentages."""
    if found.states_percentages or not found.n:
        return ""
    if not found.is_known_stain:
        return "Unknown stain: no percentages."
    return f"Fewer than {FEW_TO_STATE} white cells: numbers only, no percentages."


def spoken_type(cell_type: str) -> str:
    """Name of a type in tables; beside blasts and types, ``wbc`` are the other white cells."""
    return "other wbc" if cell_type == "wbc" else cell_type.replace("_", " ")


def differential_table(found: WhiteCells) -> list[str]:
    """Lines of a table for a terminal; none without white cells."""
    if not found.n:
        return []
    if why := why_no_percentages(found):
        lines = [f"{'differential':<22}{'cells':>5}   {progress(found.n)}"]
        lines += [f"{spoken_type(row.cell_type):<22}{row.n:>5}" for row in differential(found)]
        return [*lines, why, *beside(found)]
    lines = [f"{'differential':<22}{'cells':>5}{'%':>10}{'95 % CI':>15}   {progress(found.n)}"]
    for row in differential(found):
        fraction, interval = row.percentages
        lines.append(f"{spoken_type(row.cell_type):<22}{row.n:>5}{fraction.removesuffix(' %'):>10}{interval:>15}")
    return lines + beside(found)


def count_types(cells: Detections, classes: Sequence[str]) -> WhiteCells:
    """Count the nucleated cells of one image.

    Parameters
    ----------
    cells : Detections
        From `classify_cells`, at or above the detector's operating threshold.
    classes : sequence of str
        Of the classifier.
    """
    cells = cells.with_classes("blast", "wbc")
    white, called = cells.is_white, cells.label == BLAST
    unsure = np.zeros(len(cells), bool) if cells.unsure is None else cells.unsure
    kind = np.full(len(cells), "") if cells.cell_type is None else cells.cell_type
    reason, other = cells.unsure_reason, white & ~called & ~unsure
    reviewed = white & (cells.origin == "human") if cells.origin is not None else np.zeros(len(cells), bool)
    return WhiteCells(
        blasts=int((white & called & ~unsure).sum()),
        others=int(other.sum()),
        unsure=int((white & unsure).sum()),
        called=int((white & called).sum()),
        erythroblasts=int((kind == ERYTHROBLAST).sum()),
        smudges=int((kind == SMUDGE).sum()),
        unlike=0 if reason is None else int((white & unsure & (reason == UNLIKE_TRAINING)).sum()),
        reviewed=int(reviewed.sum()),
        reviewed_blasts=int((reviewed & called).sum()),
        types={name: int((kind[other] == name).sum()) for name in WHITE_TYPES[1:] if name in classes},
    )
