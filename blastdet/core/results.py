"""What was found on a smear: SmearReport, and how its blasts are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blastdet.core.types import Detections, Scale, WidthHeight


@dataclass(frozen=True)
class BlastCount:
    """White cells of one smear as the second stage sorts them, and how far the share of blasts can be trusted.

    Parameters
    ----------
    blasts, others, unsure : int
        White cells; their sum is `n`. Blasts and others are those that the second stage is sure of.
    called : int
        White cells at or above the operating threshold, unsure ones included.
    erythroblasts : int
        Nucleated red cells: no white cells, not in `n`.
    interval : (float, float)
        95 % interval of blasts / n for the sampling of cells alone (Clopper-Pearson); NaN where `n` is 0.
    corrected : float, optional
        Share of blasts after Rogan and Gladen, from `called`; ``None`` where the card does not tell the sensitivity
        and specificity, or there is no white cell.
    corrected_interval : (float, float), optional
        95 %, for the sampling of cells and the uncertainty of sensitivity and specificity. ``None`` with a share of 0
        where fewer cells are called blasts than the model makes up on average.
    """

    blasts: int
    others: int
    unsure: int
    called: int
    erythroblasts: int
    interval: tuple[float, float]
    corrected: float | None = None
    corrected_interval: tuple[float, float] | None = None

    @property
    def n(self) -> int:
        """White cells."""
        return self.blasts + self.others + self.unsure

    @property
    def parts(self) -> tuple[int, int, int, int, int]:
        """Blasts, others, unsure, called, erythroblasts."""
        return self.blasts, self.others, self.unsure, self.called, self.erythroblasts


@dataclass(frozen=True)
class SmearReport:
    """What was found on one smear, and how.

    Parameters
    ----------
    path : Path
    size_wh : (int, int)
    mpp : (float, float)
        Micrometres per pixel that was used.
    mpp_source : str
        Where that figure comes from: ``"given"``, ``"file"``, ``"red cells (n=57)"``.
    detections : Detections
        Cells at or above the operating threshold, in canonical order.
    candidates : Detections
        All boxes down to the lowest score asked for; a superset of `detections`.
    image_sha256 : str
    model : dict
        Name, file and sha256 of every model that took part.
    parameters : dict
        Everything needed to redo the run.
    seconds : float
        Wall time for this smear.
    warnings : tuple of str
    blasts : BlastCount, optional
        ``None`` where no second stage took part.
    """

    path: Path
    size_wh: WidthHeight
    mpp: Scale
    mpp_source: str
    detections: Detections
    candidates: Detections
    image_sha256: str
    model: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    blasts: BlastCount | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells of each class that the model knows; one that it does not know is not listed with 0."""
        known = self.parameters.get("thresholds", {})
        return {name: number for name, number in self.detections.counts().items() if name in known}

    @property
    def sorted_counts(self) -> dict[str, int]:
        """As `counts`, but white cells as the second stage sorts them, where there is one: unsure ones apart."""
        found = self.blasts
        if found is None:
            return self.counts
        white = {"blast": found.blasts, "other wbc": found.others, "unsure": found.unsure}
        rare = {"erythroblast": found.erythroblasts} if found.erythroblasts else {}
        return {**white, **rare, **{k: n for k, n in self.counts.items() if k not in ("blast", "wbc")}}

    @property
    def area_mm2(self) -> float:
        """Area of the picture in mm²."""
        return self.size_wh[0] * self.mpp[0] * self.size_wh[1] * self.mpp[1] / 1e6
