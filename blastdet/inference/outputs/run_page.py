"""``index.html``: one page for a run, with its differential, its white cells and its images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import write_text
from blastdet.core.constants import CELL_CLASSES, WHITE_TYPES
from blastdet.core.errors import counted
from blastdet.core.types import NUCLEATED
from blastdet.imaging.io import Source
from blastdet.inference.differential import (
    DIFFERENTIAL_CELLS,
    WhiteCells,
    beside,
    differential,
    progress,
    why_no_percentages,
)
from blastdet.inference.outputs.method import method_lines
from blastdet.inference.outputs.run_totals import PLURALS, Entry, RunTotals, all_cells
from blastdet.inference.result import Result
from blastdet.inference.run_log import PAGE_IMAGES
from blastdet.inference.scale import CHECK_THE_SCALE
from blastdet.viewer.pictures import CROP, MOST_CROPS, write_picture, write_sheet
from blastdet.viewer.viewer_page import KIND_INDEX, page_data, page_text

PAGE = "index.html"
"""Folder of the image files beside the page."""


def page_files(stem: Path, folder: Path) -> tuple[Path, Path]:
    """Picture and sheet of an image, whose other output files begin with `stem`."""
    name = stem.relative_to(folder)
    picture, sheet = (folder / PAGE_IMAGES / kind / name for kind in ("images", "cells"))
    return picture.with_name(f"{name.name}.jpg"), sheet.with_name(f"{name.name}.jpg")


def write_page_files(result: Result, files: tuple[Path, Path], source: Source, record: Mapping[str, Any]) -> list[Path]:
    """Picture and sheet of one image; no sheet without nucleated cells."""
    picture, sheet = files
    write_picture(source, picture)
    boxes = result.detections.boxes_xyxy.astype(float).tolist()
    rows = write_sheet(source, [tuple(boxes[row]) for row in sheet_rows(record)], result.mpp, sheet)
    return [picture, sheet] if rows else [picture]


def sheet_rows(record: Mapping[str, Any]) -> list[int]:
    """Rows of the cells on the sheet: the nucleated ones; of very many, those with the lowest probability."""
    rows = [row for row, label in enumerate(record["label"]) if CELL_CLASSES[label] in NUCLEATED]
    if len(rows) <= MOST_CROPS:
        return rows
    sure = [record["score"][row] if record["p"][row] is None else record["p"][row] for row in rows]
    return sorted(rows[k] for k in np.argsort(sure, kind="stable")[:MOST_CROPS].tolist())


def without_sheet(entries: Iterable[Entry]) -> set[str]:
    """Names of the images that have no sheet, because no cell is on it."""
    return {entry["name"] for entry in entries if "cells" in entry and not sheet_rows(entry["cells"])}


def write_page(totals: RunTotals, stems: Mapping[str, Path], folder: Path, hidden: Collection[str] = ()) -> Path:
    """Write the page of a run.

    Parameters
    ----------
    totals : RunTotals
    stems : mapping
        Name of an image -> path of its output files without suffix.
    folder : Path
    hidden : collection of str
        What the images do not show until it is switched on, some of `blastdet.inference.result.KINDS`.
    """
    images = []
    for entry in totals.entries:
        picture, sheet = (Path(os.path.relpath(path, folder)) for path in page_files(stems[entry["name"]], folder))
        images.append(image_columns(totals, entry, picture.as_posix(), sheet.as_posix()))
    # The page has a filter for each type; beside blasts, all white cells of a type are counted as wbc.
    names = {*hidden, *(WHITE_TYPES[1:] if "wbc" in hidden else ())}
    data = run_data(totals, images) | {"hidden": sorted(names)}
    return write_text(folder / PAGE, page_text(data))


def run_data(totals: RunTotals, images: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page of a run shows."""
    found = totals.blast_fraction
    unknown = found is not None and bool(found.n) and not found.is_known_stain
    n = counted(len(totals.entries), "image")
    hashes = "".join(entry["image_sha256"] for entry in totals.entries)
    names = [str(entry["name"]) for entry in totals.entries]
    title = names[0] if len(names) == 1 else n
    files = totals.model["files"] | totals.model.get("second_stage", {}).get("files", {})
    return page_data(
        title=f"{title} – blastdet",
        heading=title,
        lead=_lead(totals),
        images=images,
        id=hashlib.sha256(hashes.encode()).hexdigest()[:16],
        unknown=_unknown(totals, unknown),
        sentences=[] if found is None or unknown else found.summary(),
        differential=_differential(found),
        counts=[
            [PLURALS.get(kind, kind), k, round(k / totals.area_mm2)]
            for kind, k in all_cells(totals.counts, found).items()
        ],
        remarks=[*totals.remarks(), *(f"failed: {line}" for line in totals.failed.values())],
        method=method_lines(totals),
        columns=list(_columns(totals, None)),
        classes=list(totals.classes),
        models=_models(totals),
        model_sha256=hashlib.sha256("".join(sorted(files.values())).encode()).hexdigest() if files else "",
    )


def _models(totals: RunTotals) -> list[str]:
    second = totals.model.get("second_stage")
    return [totals.model["name"], *([] if second is None else [second["name"]])]


def _lead(totals: RunTotals) -> str:
    area = f"{totals.area_mm2:.3g} mm²"
    of = counted(len(totals.entries), "image")
    fields = "" if len(totals.entries) == 1 else ", taken together as fields of one smear"
    return f"{of}, {area}{fields}. Models: {' and '.join(_models(totals))}."


def _unknown(totals: RunTotals, all_together: bool) -> str:
    found = totals.blast_fraction
    if found is not None and all_together:  # or the scale is wrong, which comes first
        return " ".join([*(one for one in totals.remarks() if one.endswith(CHECK_THE_SCALE)), *found.summary()])
    n = len(totals.unknown_stains)
    if not n:
        return ""
    of = counted(len(totals.entries), "image")
    return f"The stain of {n} of {of} is unknown to the classifier: no blast fraction is given there."


def _differential(found: WhiteCells | None) -> dict[str, Any] | None:
    if found is None or not found.n:
        return None
    stated = found.states_percentages
    rows = [
        {
            "kind": row.cell_type,
            "n": row.n,
            "percent": row.percentages[0],
            "ci": row.percentages[1],
            "value": round(row.fraction, 4) if stated else None,
            "low": round(row.interval.low, 4) if stated else None,
            "high": round(row.interval.high, 4) if stated else None,
        }
        for row in differential(found)
    ]
    return {
        "rows": rows,
        "n": found.n,
        "of": DIFFERENTIAL_CELLS,
        "progress": progress(found.n),
        "beside": beside(found),
        "why": why_no_percentages(found),
    }


def _columns(totals: RunTotals, entry: Entry | None) -> dict[str, Any]:
    """Figures of an image in the table of images."""
    counts = {} if entry is None else entry["counts"]
    others = {name: counts.get(name, 0) for name in totals.classes if name not in NUCLEATED}
    if totals.classifier is None:
        return {**({"wbc": counts.get("wbc", 0)} if "wbc" in totals.classes else {}), **others}
    white = WhiteCells(0, 0, 0, 0) if entry is None else WhiteCells.from_json(entry["white_cells"])
    blasts = white.blasts if white.is_known_stain else "–"
    return {"white cells": white.n, "blasts": blasts, "unsure": white.unsure, **others}


def image_columns(totals: RunTotals, entry: Entry, picture: str, sheet: str) -> dict[str, Any]:
    """One image as the page of a run shows it.

    Parameters
    ----------
    totals : RunTotals
    entry : mapping
        Of the image, with its ``cells``.
    picture, sheet : str
        Addresses of the image and of the sheet of its cells, as the page sees them.
    """
    record = entry["cells"]
    rows = sheet_rows(record)
    x, y = entry["mpp"]
    scale = f"{x:.4g}" if abs(x / y - 1) < 1e-6 else f"{x:.4g} × {y:.4g}"
    width, height = entry["size_wh"]
    return {
        "name": entry["name"],
        "file": picture,
        "sheet": sheet,
        "sheet_rows": -(-len(rows) // int(CROP["columns"])),
        "sha256": entry["image_sha256"],
        "width": width,
        "height": height,
        "mpp": list(entry["mpp"]),
        "given": list(entry["mpp"]) if entry["mpp_source"] == "given" else None,
        "about": f"{scale} µm/px, {entry['mpp_source']}",
        "notes": list(entry["warnings"]),
        "row": list(_columns(totals, entry).values()),
        "thumb": {str(row): place for place, row in enumerate(rows)},
        "box": record["box"],
        "kind": [KIND_INDEX[name] for name in record["kind"]],
        "score": record["score"],
        "p": record["p"],
        "blast": record["blast"],
        "unlike": record["unlike"],
        "likely": record["likely"],
    }
