"""What a run leaves behind: JSON, CSV, GeoJSON and an overlay for each smear, one COCO file for the run.

Every file is written whole or not at all, and holds nothing that changes between two equal runs (no times, no paths
of the machine), so that equal input gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import write_text
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.results import BlastCount, SmearReport
from blastdet.core.types import CELL_CLASSES, Detections
from blastdet.datasets.formats import csv_table, geojson
from blastdet.datasets.formats.coco_writer import UNSURE, categories, to_annotations
from blastdet.imaging import drawing
from blastdet.imaging.io import Source, open_smear, write_image
from blastdet.inference import second_stage
from blastdet.inference.pipeline import software

FIELD_MM2 = 0.038
"""Area of one field seen through a 100x objective (field number 22), in mm²."""

SUFFIXES: dict[str, str] = {"json": ".json", "csv": ".csv", "geojson": ".geojson", "overlay": ".overlay.jpg"}
"""Format -> suffix of the file written for each smear."""

COCO_FILE = "detections.coco.json"
FORMATS: tuple[str, ...] = (*SUFFIXES, "coco")

_INDENTED = json.JSONEncoder(indent=1, ensure_ascii=False, allow_nan=False)
_DENSE = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def summary(report: SmearReport) -> dict[str, Any]:
    """Counts and densities of one smear, as in its JSON file."""
    counts = report.counts
    return {
        "counts": counts,
        **({} if report.blasts is None else {"white_cells": _white_cells(report.blasts)}),
        "area_mm2": round(report.area_mm2, 6),
        "per_mm2": {name: round(number / report.area_mm2, 1) for name, number in counts.items()},
        "per_field_of_0.038_mm2": {
            name: round(number / report.area_mm2 * FIELD_MM2, 2) for name, number in counts.items()
        },
    }


def _white_cells(found: BlastCount) -> dict[str, Any]:
    """Blasts among the white cells; shares are ``None`` where there is no white cell."""
    n = found.n

    def share(k: int) -> float | None:
        return round(k / n, 4) if n else None

    def rounded(sides: tuple[float, float] | None) -> list[float] | None:
        return None if sides is None or not n else [round(side, 4) for side in sides]

    return {
        "n": n,
        "blasts": found.blasts,
        "others": found.others,
        "unsure": found.unsure,
        "erythroblasts": found.erythroblasts,
        "erythroblasts_per_100": round(100 * found.erythroblasts / n, 1) if n else None,
        "blast_share": share(found.blasts),
        "blast_share_ci95_of_sampling_alone": rounded(found.interval),
        "blast_share_range_with_unsure": [share(found.blasts), share(found.blasts + found.unsure)] if n else None,
        "called_blasts": found.called,
        "blast_share_corrected": None
        if found.corrected is None or found.corrected_interval is None
        else round(found.corrected, 4),
        "blast_share_corrected_ci95": rounded(found.corrected_interval),
        "in_words": second_stage.in_words(found),
    }


def to_dict(report: SmearReport, name: str) -> dict[str, Any]:
    """The JSON document of one smear.

    Parameters
    ----------
    report : SmearReport
    name : str
        File name relative to the folder the user gave.
    """
    return {**_head(report, name), "cells": list(_cells(report))}


def _head(report: SmearReport, name: str) -> dict[str, Any]:
    return {
        "notice": RESEARCH_USE,
        "file": name,
        "image_sha256": report.image_sha256,
        "size_wh": list(report.size_wh),
        "mpp": [round(side, 6) for side in report.mpp],
        "mpp_source": report.mpp_source,
        "warnings": list(report.warnings),
        "model": report.model,
        "versions": dict(software()),
        "parameters": report.parameters,
        **summary(report),
    }


def _cells(report: SmearReport) -> Iterator[dict[str, Any]]:
    cells = report.detections
    width, height = (cells.boxes_xyxy[:, 2:] - cells.boxes_xyxy[:, :2]).T
    for i, cell_name in enumerate(cell_names(len(cells))):
        yield {
            "id": cell_name,
            "label": CELL_CLASSES[cells.label[i]],
            "score": round(float(cells.score[i]), 4),
            "box_xyxy": [round(float(side), 2) for side in cells.boxes_xyxy[i]],
            "size_um": [round(float(width[i]) * report.mpp[0], 2), round(float(height[i]) * report.mpp[1], 2)],
            **_second_stage(cells, i),
        }


def _second_stage(cells: Detections, i: int) -> dict[str, Any]:
    """What the second stage says of a cell; nothing of one that it did not look at."""
    if cells.blast_probability is None or cells.unsure is None or cells.cell_type is None:
        return {}
    if np.isnan(blast := float(cells.blast_probability[i])):
        return {}
    kind = str(cells.cell_type[i])
    found = {"blast_probability": round(blast, 4), "unsure": bool(cells.unsure[i])}
    return {**found, "cell_type": kind} if kind else found


def write_smear(
    report: SmearReport, name: str, stem: Path, formats: Iterable[str], source: Source | None = None
) -> list[Path]:
    """Write the files of one smear; returns their paths.

    Parameters
    ----------
    report : SmearReport
    name : str
        File name relative to the folder the user gave.
    stem : Path
        Path of the files without their suffix.
    formats : iterable of str
        Some of `FORMATS`; ``coco`` is written for the whole run, by `write_coco`.
    source : Source, optional
        The picture in its own colours, where it is open.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in (kind for kind in SUFFIXES if kind in set(formats)):
        path = stem.with_name(stem.name + SUFFIXES[kind])
        if kind == "json":
            write_text(path, _json(report, name))
        elif kind == "overlay":
            with nullcontext(source) if source is not None else open_smear(report.path) as picture:
                write_image(path, drawing.draw(picture, report))
        elif kind == "geojson":
            geojson.write_cells(path, _named(report), report.mpp)
        else:
            write_text(path, _csv(report, name))
        written.append(path)
    return written


def _json(report: SmearReport, name: str) -> Iterator[str]:
    """`to_dict` piece by piece, a line for each cell: indenting all is done in Python, slower than the detector."""
    head = _INDENTED.encode({**_head(report, name), "cells": []})
    yield head.removesuffix("]\n}")
    for i, cell in enumerate(_cells(report)):
        yield (",\n  " if i else "\n  ") + _DENSE.encode(cell)
    yield "\n ]\n}\n" if len(report.detections) else "]\n}\n"


def cell_names(n: int) -> list[str]:
    """Names of the cells of one smear, in canonical order."""
    return [f"c{i + 1:05d}" for i in range(n)]


def _named(report: SmearReport) -> Detections:
    names = cell_names(len(report.detections))
    return report.detections.with_columns(id=names, origin=["model"] * len(names))


def _csv(report: SmearReport, name: str) -> Iterator[str]:
    yield csv_table.line(csv_table.COLUMNS)
    for row in csv_table.rows(_named(report), report.mpp):
        yield csv_table.line([name, "", *row])


def coco_entry(report: SmearReport, name: str) -> dict[str, Any]:
    """Image and annotations of one smear for `write_coco`, down to the lowest score asked for."""
    width, height = report.size_wh
    image = {"file_name": name, "width": width, "height": height, "mpp": list(report.mpp)}
    return {"image": image, "annotations": [_as_result(row) for row in to_annotations(report.candidates, 0)]}


def _as_result(row: dict[str, Any]) -> dict[str, Any]:
    row = {"score": 1.0, **row}  # the writer leaves scores out where all are 1
    if row.get("unsure"):
        row |= {"category_id": UNSURE["id"], "label": CELL_CLASSES[row["category_id"] - 1]}
    return row


def write_coco(entries: Iterable[Mapping[str, Any]], classes: Iterable[str], path: Path) -> Path:
    """One COCO document for a run: images, annotations with scores, categories by our class names."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, start=1):
        images.append({"id": number, **entry["image"]})
        for row in entry["annotations"]:
            annotations.append({**row, "id": len(annotations) + 1, "image_id": number})
    known = set(classes)
    unsure = [UNSURE] if "blast" in known else []
    document = {
        "info": {"description": "blastdet detections", "notice": RESEARCH_USE},
        "images": images,
        "annotations": annotations,
        "categories": categories(tuple(name for name in CELL_CLASSES if name in known)) + unsure,
    }
    write_text(path, json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
    return path
