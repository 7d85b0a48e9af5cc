"""Tables of a whole run: ``summary.csv``, ``cells.csv``, and both as the workbook ``summary.xlsx``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from blastdet.core.atomic_io import write_text
from blastdet.core.columns import CELL_COLUMNS
from blastdet.core.constants import CELL_CLASSES, ERYTHROBLAST, NOT_WHITE, RESEARCH_USE, SMUDGE, WHITE_TYPES
from blastdet.core.errors import one_line
from blastdet.core.types import NUCLEATED
from blastdet.datasets.formats import csv_table
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.differential import differential, progress, spoken_type, why_no_percentages
from blastdet.inference.outputs.run_totals import Entry, RunTotals

SUMMARY_CSV, CELLS_CSV, WORKBOOK = "summary.csv", "cells.csv", "summary.xlsx"

_SHEET_ROWS = 1_048_575  # of a worksheet below its heading
_CREATED = datetime(2000, 1, 1)  # equal runs give equal bytes

SUMMARY_COLUMNS: tuple[str, ...] = (
    "image",
    "image_sha256",
    "width",
    "height",
    "mpp_x",
    "mpp_y",
    "mpp_source",
    "area_mm2",
    "white_cells",
    *WHITE_TYPES,
    "other_wbc",
    "unsure",
    *NOT_WHITE,
    "rbc",
    "platelet",
    "stain",
    "few_cells",
    "blast_fraction",
    "blast_ci95_low",
    "blast_ci95_high",
    "notes",
)
"""Columns of ``summary.csv``, one row for each image. What the model does not know is empty."""


def write_tables(totals: RunTotals, cells: Iterable[Path], folder: Path) -> list[Path]:
    """Write ``summary.csv`` and ``cells.csv``.

    Parameters
    ----------
    totals : RunTotals
    cells : iterable of Path
        The CSV file of each image, which ``cells.csv`` strings together.
    folder : Path
    """
    summary = write_text(folder / SUMMARY_CSV, _summary(totals))
    return [summary, write_text(folder / CELLS_CSV, _joined(cells))]


def summary_row(totals: RunTotals, entry: Entry) -> list[Any]:
    """Fields of one image, as in `SUMMARY_COLUMNS`."""
    counts, found = entry["counts"], totals.of_image(entry)
    values: dict[str, Any] = {
        "image": entry["name"],
        "image_sha256": entry["image_sha256"],
        **dict(zip(("width", "height"), entry["size_wh"], strict=True)),
        **{name: round(side, 6) for name, side in zip(("mpp_x", "mpp_y"), entry["mpp"], strict=True)},
        "mpp_source": entry["mpp_source"],
        "area_mm2": entry["area_mm2"],
        "white_cells": counts.get("wbc", "") if found is None else found.n,
        **{name: counts[name] for name in ("rbc", "platelet") if name in counts},
        "notes": "; ".join(entry["warnings"]),
    }
    if found is not None:
        values |= _white(found)
    return [values.get(name, "") for name in SUMMARY_COLUMNS]


def _white(found: BlastFraction) -> dict[str, Any]:
    """Types, and the blast fraction where the stain is known and there are white cells."""
    values: dict[str, Any] = {
        "blast": found.blasts,
        **found.types,
        "other_wbc": found.others - sum(found.types.values()),
        "unsure": found.unsure,
        ERYTHROBLAST: found.erythroblasts,
        SMUDGE: found.smudges,
        "stain": "known" if found.is_known_stain else "unknown",
        "few_cells": int(found.is_few),
    }
    if found.n and found.is_known_stain:
        low, high = found.printed_interval
        values |= {"blast_fraction": round(found.value, 4), "blast_ci95_low": round(low, 4)}
        values |= {"blast_ci95_high": round(high, 4)}
    return values


def _summary(totals: RunTotals) -> Iterator[str]:
    yield csv_table.line(SUMMARY_COLUMNS)
    for entry in totals.entries:
        yield csv_table.line(summary_row(totals, entry))


def _joined(files: Iterable[Path]) -> Iterator[str]:
    """The rows of several CSV files under one heading."""
    yield csv_table.line(CELL_COLUMNS)
    for path in files:
        with path.open(encoding="utf-8", newline="") as stream:
            stream.readline()  # its heading, which has no line break within
            yield from stream


def write_workbook(totals: RunTotals, folder: Path) -> Path:
    """Write ``summary.xlsx``: the differential, one row for each image, one for each nucleated cell, and the method."""
    import xlsxwriter
    import xlsxwriter.exceptions

    path = folder / WORKBOOK
    handle, name = tempfile.mkstemp(prefix=f".{WORKBOOK}.", suffix=".tmp", dir=folder)
    os.close(handle)
    try:
        options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        with xlsxwriter.Workbook(name, {**options, "strings_to_numbers": False}) as book:
            book.set_properties({"created": _CREATED, "comments": RESEARCH_USE})
            book.set_size(2400, 1600)
            _fill(book, totals)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except xlsxwriter.exceptions.XlsxWriterException as error:
        raise OSError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def _fill(book: Any, totals: RunTotals) -> None:
    bold, wrap = book.add_format({"bold": True, "bottom": 1}), book.add_format({"text_wrap": True, "valign": "top"})
    images = [SUMMARY_COLUMNS, *(summary_row(totals, entry) for entry in totals.entries)]
    notes = [
        *totals.remarks(),
        *_sheet(book, "Differential", _differential_rows(totals), (26, 12, 12, 14, 14), bold),
        *_sheet(book, "Images", images, (30, 14), bold, SUMMARY_CSV),
        *_sheet(book, "White cells", _cell_rows(totals), (30, 10, 16, 14), bold, CELLS_CSV),
    ]
    sheet = book.add_worksheet("About")
    sheet.set_column(0, 0, 18)
    sheet.set_column(1, 1, 100, wrap)
    for number, (name, text) in enumerate([*totals.about().items(), *(("note", line) for line in notes)]):
        sheet.write_string(number, 0, name)
        sheet.write_string(number, 1, text)


def _sheet(
    book: Any, name: str, rows: Iterable[Sequence[Any]], widths: Sequence[float], heading: Any, whole: str = ""
) -> list[str]:
    """A sheet with a heading that stays in view; text is never read as a formula.

    Returns a note if there are more rows than a sheet can have; the file `whole` has all.
    """
    sheet = book.add_worksheet(name)
    for column, width in enumerate(widths):
        sheet.set_column(column, column, width)
    sheet.freeze_panes(1, 1)
    sheet.set_footer(f"&L{RESEARCH_USE}")
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)
    left = 0
    for number, row in enumerate(rows):
        left = max(0, number - _SHEET_ROWS)
        for column, value in enumerate(() if left else row):
            style = () if number else (heading,)
            if isinstance(value, (int, float)):
                sheet.write_number(number, column, value, *style)
            elif value:
                sheet.write_string(number, column, str(value)[:32_000], *style)
    return [f"{name}: {left:,} more rows do not fit on the sheet. All are in {whole} (--format csv)"] if left else []


def _differential_rows(totals: RunTotals) -> Iterator[list[Any]]:
    found = totals.blast_fraction
    yield ["cell", "n", "fraction", "95 % CI low", "95 % CI high", "per mm²"]
    if found is not None:
        for row in differential(found):
            stated = found.states_percentages
            interval = [round(row.interval.low, 4), round(row.interval.high, 4)] if stated else ["", ""]
            yield [spoken_type(row.cell_type), row.n, round(row.fraction, 4) if stated else "", *interval]
        yield ["white cells", found.n, progress(found.n)]
        if why := why_no_percentages(found):
            yield [why]
        yield []
    for name, number in totals.named_counts.items():
        yield [f"all {name}" if found is not None else name, number, "", "", "", round(number / totals.area_mm2, 1)]
    yield []
    for line in [] if found is None else found.summary():
        yield [line]
    yield [RESEARCH_USE]


def _cell_rows(totals: RunTotals) -> Iterator[list[Any]]:
    """One row for each nucleated cell. The cells of red cells and platelets are in ``cells.csv``."""
    yield ["image", "cell", "counted as", "probability", "blast probability", "score", "x1", "y1", "x2", "y2"]
    for entry in totals.entries:
        page = entry.get("cells")
        if page is None:
            continue
        for i, label in enumerate(page["label"]):
            if CELL_CLASSES[label] not in NUCLEATED:
                continue
            values = [page[name][i] for name in ("p", "blast", "score")]
            sides = page["box"][4 * i : 4 * i + 4]
            known = ["" if value is None else value for value in values]
            yield [entry["name"], f"c{i + 1:05d}", spoken_type(page["kind"][i]), *known, *sides]
