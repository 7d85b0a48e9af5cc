"""What ``blastdet detect`` prints: one line for each image and a table of the run, or everything of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from blastdet.core.constants import NOT_WHITE
from blastdet.core.errors import counted, in_a_line
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.differential import WhiteCells, differential_table
from blastdet.inference.outputs.run_totals import Entry, RunTotals, entry_of
from blastdet.inference.result import Result, class_name
from blastdet.inference.writers import COCO_FILE, FIELD_MM2

Detail = Literal["quiet", "brief", "verbose"]

_LONGEST_NAME, _LONGEST_LINE = 44, 1000


def describe(result: Result, files: Sequence[Path], with_differential: bool = False) -> str:
    """All of one image: small tables, the scale and where it comes from, the files."""
    entry = {**entry_of(result), "area_mm2": result.area_mm2, "seconds": result.seconds}  # not rounded
    return describe_entry(entry, result.blast_fraction, files, with_differential)


def describe_entry(
    entry: Entry, found: BlastFraction | None, files: Sequence[Path], with_differential: bool = False
) -> str:
    """As `describe`, of an image as in the run log; `found` are its white cells."""
    width, height = entry["size_wh"]
    x, y = entry["mpp"]
    scale = f"{x:.4g}" if abs(x / y - 1) < 1e-6 else f"{x:.4g} x {y:.4g}"
    lines = [f"{entry['name']}: {width} x {height} px, {scale} µm/px ({entry['mpp_source']}), {entry['seconds']:.2f} s"]
    lines += [f"  note: {warning}" for warning in entry["warnings"]]
    counts = entry["counts"]
    named = {class_name(kind, counts): number for kind, number in counts.items()}
    lines += [f"  {line}" for line in class_table(named, entry["area_mm2"])]
    if found is not None:
        table = differential_table(found) if with_differential else []
        lines += [f"  {line}" for line in (*table, *found.summary())]
    lines += [f"  wrote {path}" for path in files]
    return "\n".join(in_a_line(line, _LONGEST_LINE) for line in lines)


def class_table(counts: Mapping[str, int], area_mm2: float) -> list[str]:
    """Cells of each kind, and how many there are per area."""
    wide = max([11, *map(len, counts)]) + 2
    lines = [f"{'class':<{wide}}{'cells':>7}{'per mm²':>12}{f'per {FIELD_MM2} mm²':>16}"]
    for kind, number in counts.items():
        density = number / area_mm2
        lines.append(f"{kind:<{wide}}{number:>7}{density:>12,.0f}{density * FIELD_MM2:>16.1f}")
    return lines


class Lines:
    """One line for each image, in columns that stay in place.

    Parameters
    ----------
    names : sequence of str
        Of all images, for the width of the first column.
    classes : tuple of str
        That the model distinguishes.
    has_second_stage : bool
    """

    def __init__(self, names: Sequence[str], classes: tuple[str, ...], has_second_stage: bool) -> None:
        self.width = min(max((len(name) for name in names), default=5), _LONGEST_NAME)
        self.classes, self.has_second_stage = classes, has_second_stage

    def heading(self) -> str:
        """Names of the columns."""
        names = self._values(dict.fromkeys(self.classes, 0), None)
        counts = "".join(f"{name:>{max(len(name), 4) + 2}}" for name in names)
        return f"{'image':<{self.width}}{counts}{'µm/px':>9}{'s':>7}"

    def line(self, entry: Entry) -> str:
        """One image. Where its stain is unknown, or there is another warning, the line says so."""
        white = None if entry["white_cells"] is None else WhiteCells.from_json(entry["white_cells"])
        values = self._values(entry["counts"], white)
        counts = "".join(f"{values[name]:>{max(len(name), 4) + 2}}" for name in values)
        remarks = len(entry["warnings"])
        end = "" if not remarks else "   1 note" if remarks == 1 else f"   {remarks} notes"
        if white is not None and white.n and not white.is_known_stain:
            end = "   stain unknown: no blast fraction"
        mpp = entry["mpp"][0]
        return f"{self._short(entry['name'])}{counts}{mpp:>9.4g}{entry['seconds']:>7.2f}{end}"

    def _values(self, counts: Mapping[str, int], white: WhiteCells | None) -> dict[str, int | str]:
        others: dict[str, int | str] = {name: counts.get(name, 0) for name in self.classes if name not in _WHITE}
        if not self.has_second_stage:
            return {name: counts.get(name, 0) for name in self.classes}
        white = white or WhiteCells(0, 0, 0, 0)
        blasts: int | str = white.blasts if white.is_known_stain else "–"
        return {"white cells": white.n, "blasts": blasts, "unsure": white.unsure, **others}

    def _short(self, name: str) -> str:
        shown = "".join(letter if letter.isprintable() else "?" for letter in name)
        if len(shown) > self.width:
            half = self.width // 2
            shown = f"{shown[: half - 1]}…{shown[-(self.width - half) :]}"
        return f"{shown:<{self.width}}"


_WHITE = ("blast", "wbc")


def run_lines(totals: RunTotals, files: Sequence[Path]) -> list[str]:
    """The table of the run, its differential, remarks, and what to open."""
    found = totals.blast_fraction
    unknown = found is not None and bool(found.n) and not found.is_known_stain
    lines = [""]
    if found is not None and unknown:
        lines += [*found.summary(), ""]
    elif totals.unknown_stains and len(totals.entries) > 1:
        n, of = len(totals.unknown_stains), len(totals.entries)
        lines.append(f"The stain of {n} of {of} images is unknown to the classifier: no blast fraction is given there.")
    lines += class_table(totals.named_counts, totals.area_mm2)
    if found is not None:
        lines += one_smear(len(totals.entries))
        table = differential_table(found)
        lines += [*([""] if table else []), *table, *([""] if table else []), *([] if unknown else found.summary())]
    lines += [f"note: {line}" for line in totals.remarks()]
    pages = [path for path in files if path.suffix == ".html"]
    lines += [f"wrote {path}{_of_coco(path, totals)}" for path in files if path not in pages]
    return lines + [f"open {path} in a browser" for path in pages]


def one_smear(n: int) -> list[str]:
    """What a differential of several images takes for granted; nothing for one image."""
    if n < 2:
        return []
    return [
        "",
        f"{n} images counted as one smear. If they are of several, run detect on each smear's images alone;",
        "--verbose also counts each image by itself.",
    ]


def _of_coco(path: Path, totals: RunTotals) -> str:
    """How the COCO file differs from the counts: erythroblasts and smudges are of no category of their own there."""
    beside = [counted(totals.counts[name], name) for name in NOT_WHITE if totals.counts.get(name)]
    return f" (its wbc include {' and '.join(beside)})" if path.name == COCO_FILE and beside else ""


def verbose_totals(totals: RunTotals) -> list[str]:
    """One line for the run, and its differential; nothing for a single image, which says all that."""
    if len(totals.entries) < 2:
        return []
    counts = ", ".join(f"{name} {number}" for name, number in totals.named_counts.items())
    seconds = sum(float(entry["seconds"]) for entry in totals.entries)
    lines = [f"total of {len(totals.entries)} images: {counts}; {totals.area_mm2:.4g} mm²; {seconds:.1f} s"]
    found = totals.blast_fraction
    if found is None:
        return lines
    lines.append("all images together, as fields of one smear; if they are of several, run detect on each alone:")
    lines += [f"  {line}" for line in (*differential_table(found), *found.summary())]
    if warning := found.warning():
        lines.append(f"  note: {warning}")
    return lines


def failure_lines(failed: Mapping[str, str], of: int, untried: int = 0) -> list[str]:
    """What failed, where there was more than one image; the last `untried` of `failed` were not tried."""
    if not failed or of < 2:
        return []
    lines = [f"{len(failed)} of {of} failed:", *(f"  {line}" for line in [*failed.values()][: len(failed) - untried])]
    return [*lines, f"  not tried: {counted(untried, 'other image')}, which would fail alike"] if untried else lines


class Printer:
    """Prints a run as it goes on.

    Parameters
    ----------
    say, complain : callable
        Print a line, and a line about a failure.
    detail : {"quiet", "brief", "verbose"}
    lines : Lines, optional
        Where the classes of the model are not known yet: set the attribute before the first image that goes well.
    """

    def __init__(
        self, say: Callable[[str], None], complain: Callable[[str], None], detail: Detail, lines: Lines | None = None
    ) -> None:
        self.say, self.complain, self.detail, self.lines = say, complain, detail, lines
        self._has_heading = False

    def image(self, text: str, error: str | None, entry: Any) -> None:
        """An image is finished."""
        if error is not None:
            self.complain(f"failed: {error}")
        elif self.detail == "verbose":
            self.say(text)
        elif self.detail == "brief":
            assert self.lines is not None
            if not self._has_heading:
                self.say(self.lines.heading())
                self._has_heading = True
            self.say(self.lines.line(entry) if entry is not None else text)

    def end(self, totals: RunTotals, files: Sequence[Path], of: int, untried: int = 0) -> None:
        """The run is finished; see `failure_lines`."""
        if self.detail == "verbose":
            lines = [*(f"wrote {path}" for path in files), *verbose_totals(totals)]
            lines += [f"note: {line}" for line in totals.copies]
        elif self.detail == "brief" and totals.entries:
            lines = run_lines(totals, files)
        else:
            lines = []
        for line in (*lines, *failure_lines(totals.failed, of, untried)):
            self.say(line)
