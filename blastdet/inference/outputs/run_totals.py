"""A finished run as its tables, its page and its report need it: the images, and all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import in_a_line
from blastdet.core.model_card import Card
from blastdet.datasets.copies import copies_note
from blastdet.inference.blast_fraction import BlastFraction, combine
from blastdet.inference.differential import WhiteCells
from blastdet.inference.result import Result, class_name
from blastdet.inference.writers import summary

Entry = Mapping[str, Any]
"""One finished image, as in the run log."""

PLURALS = {"wbc": "white cells", "rbc": "red cells", "platelet": "platelets"}
PLURALS |= {"erythroblast": "erythroblasts", "smudge": "smudges"}
"""Kind -> its name in a table of all cells."""


def all_cells(counts: Mapping[str, int], found: WhiteCells | None) -> dict[str, int]:
    """Counts for a table beside a differential: what it divides is one row, so that no name means two things.

    Examples
    --------
    >>> all_cells({"blast": 1, "wbc": 11, "unsure": 2, "rbc": 141}, WhiteCells(1, 11, 2, 1))
    {'wbc': 14, 'rbc': 141}
    """
    if found is None:
        return dict(counts)
    return {"wbc": found.n, **{kind: n for kind, n in counts.items() if kind not in ("blast", "wbc", "unsure")}}


@dataclass(frozen=True)
class RunTotals:
    """The finished images of a run, taken together as fields of one smear.

    Parameters
    ----------
    entries : sequence of dict
        From the run log, in the order of the images.
    classes : tuple of str
        That the model distinguishes.
    classifier : Card, optional
        Of the second stage.
    model : dict
        As `Model.describe` returns it.
    failed : dict of str to str
        Name of an image: why it failed.
    """

    entries: Sequence[Entry]
    classes: tuple[str, ...]
    classifier: Card | None
    model: Mapping[str, Any]
    failed: Mapping[str, str]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Cells of each kind in all images."""
        total: Counter[str] = Counter()
        for entry in self.entries:
            total.update(entry["counts"])
        return dict(total)

    @cached_property
    def named_counts(self) -> dict[str, int]:
        """As `counts`, under the names that tables use."""
        return {class_name(name, self.counts): number for name, number in self.counts.items()}

    @cached_property
    def area_mm2(self) -> float:
        """Area of all images."""
        return float(sum(entry["area_mm2"] for entry in self.entries))

    @cached_property
    def blast_fraction(self) -> BlastFraction | None:
        """White cells of all images; ``None`` without a second stage."""
        return self._fraction(self.entries)

    def of_image(self, entry: Entry) -> BlastFraction | None:
        """White cells of one image; ``None`` without a second stage."""
        return self._fraction([entry])

    def _fraction(self, entries: Sequence[Entry]) -> BlastFraction | None:
        if self.classifier is None or not entries:
            return None
        return combine([WhiteCells.from_json(entry["white_cells"]) for entry in entries], self.classifier)

    @cached_property
    def unknown_stains(self) -> list[str]:
        """Names of images whose stain or camera is unknown to the classifier."""
        if self.classifier is None:
            return []
        found = [(entry["name"], WhiteCells.from_json(entry["white_cells"])) for entry in self.entries]
        return [name for name, white in found if white.n and not white.is_known_stain]

    @cached_property
    def copies(self) -> tuple[str, ...]:
        """A note on images that are equal byte for byte."""
        return copies_note((entry["name"], entry["image_sha256"]) for entry in self.entries)

    def remarks(self, most: int = 12) -> list[str]:
        """Warnings on images, those that several images share only once; the ones after `most` are counted."""
        images: dict[str, list[str]] = {}
        for entry in self.entries:
            for warning in entry["warnings"]:
                images.setdefault(warning, []).append(entry["name"])
        several = len(self.entries) > 1
        lines = []
        for warning, names in sorted(images.items(), key=lambda item: -len(item[1])):
            where = in_a_line(names[0]) if len(names) == 1 else f"{len(names)} images"
            lines.append(f"{where}: {warning}" if several else warning)
        lines = [*self.copies, *lines]
        left = len(lines) - most
        return lines if left <= 0 else [*lines[:most], f"and {left} more, in summary.csv"]

    def about(self) -> dict[str, str]:
        """What was run, for tables: model, second stage, notice."""
        second = self.model.get("second_stage")
        return {
            "notice": RESEARCH_USE,
            "images": str(len(self.entries)),
            "failed images": str(len(self.failed)),
            "area in mm²": f"{self.area_mm2:.6g}",
            "detector": f"{self.model['name']}, {self.model['mpp']:.4g} µm/px",
            "second stage": "none" if second is None else f"{second['name']}, {second['mpp']:.4g} µm/px",
        }


def entry_of(result: Result) -> dict[str, Any]:
    """A finished image as in the run log."""
    figures = summary(result)
    found = result.blast_fraction
    return {
        "name": result.name,
        "image_sha256": result.image_sha256,
        "size_wh": list(result.size_wh),
        "mpp": list(result.mpp),
        "mpp_measured": result.scale.is_measured,
        "counts": figures["counts"],
        "white_cells": None if found is None else found.to_json(),
        "area_mm2": figures["area_mm2"],
        "seconds": round(result.seconds, 3),
        "mpp_source": result.scale.describe(),
        "warnings": list(result.warnings),
    }
