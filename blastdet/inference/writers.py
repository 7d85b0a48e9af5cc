"""Output files of a run: JSON, CSV, GeoJSON and an overlay for each image, one COCO file for the run.

Every file is written completely or not at all. It contains nothing that differs between two equal runs (no times, no
paths of the machine), so that equal input gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from blastdet.core.atomic_io import write_text
from blastdet.core.columns import CELL_COLUMNS, by_type, cell_rows
from blastdet.core.constants import ERYTHROBLAST, RESEARCH_USE, SMUDGE
from blastdet.core.packages import versions
from blastdet.core.types import CELL_CLASSES, Detections
from blastdet.datasets.formats import csv_table, geojson
from blastdet.datasets.formats.coco_writer import UNSURE, categories, to_annotations
from blastdet.imaging import drawing
from blastdet.imaging.io import Source, write_image
from blastdet.inference.blast_fraction import BlastFraction
from blastdet.inference.differential import DIFFERENTIAL_CELLS, differential
from blastdet.inference.result import Result

FIELD_MM2 = 0.038
"""Area of one field seen through a 100x objective (field number 22), in mm²."""

SUFFIXES: dict[str, str] = {"json": ".json", "csv": ".csv", "geojson": ".geojson", "overlay": ".overlay.jpg"}
"""Format -> suffix of the file written for each image."""

COCO_FILE = "detections.coco.json"
FORMATS: tuple[str, ...] = (*SUFFIXES, "coco", "xlsx", "html", "pdf")

_INDENTED = json.JSONEncoder(indent=1, ensure_ascii=False, allow_nan=False)
_DENSE = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@cache
def software() -> Mapping[str, str]:
    """Versions of the packages that compute the boxes, for output files."""
    return MappingProxyType(versions(["numpy", "onnxruntime", "cv2", "PIL", "openvino"]))


def summary(result: Result) -> dict[str, Any]:
    """Counts and densities of one image, as in its JSON file."""
    counts, area = result.counts, result.area_mm2
    found = result.blast_fraction
    return {
        "counts": counts,
        **({} if found is None else {"white_cells": _white_cells(found), "differential": _differential(found)}),
        "area_mm2": round(area, 6),
        "per_mm2": {name: round(number / area, 1) for name, number in counts.items()},
        "per_field_of_0.038_mm2": {name: round(number / area * FIELD_MM2, 2) for name, number in counts.items()},
    }


def _white_cells(found: BlastFraction) -> dict[str, Any]:
    """Blasts among the white cells; fractions are ``None`` without white cells, or where the stain is unknown."""
    n, per_100 = found.n, found.per_100
    is_stated = bool(n) and found.is_known_stain

    def fraction(k: int) -> float | None:
        return round(k / n, 4) if is_stated else None

    def rounded(sides: tuple[float, float] | None) -> list[float] | None:
        return [round(side, 4) for side in sides] if sides is not None and is_stated else None

    return {
        "n": n,
        "few_cells": found.is_few,
        "blasts": found.blasts,
        "others": found.others,
        "unsure": found.unsure,
        "unlike_training": found.unlike,
        "erythroblasts": found.erythroblasts,
        "erythroblasts_per_100": round(per_100[ERYTHROBLAST], 1) if n else None,
        "smudges": found.smudges,
        "smudges_per_100": round(per_100[SMUDGE], 1) if n else None,
        "differential_cells": DIFFERENTIAL_CELLS,
        "blast_share": fraction(found.blasts),
        "blast_share_ci95_of_sampling_alone": rounded(found.interval),
        "blast_share_range_with_unsure": rounded(found.range_with_unsure),
        "called_blasts": found.called,
        "blast_share_corrected": None
        if found.corrected is None or found.corrected_interval is None
        else round(found.corrected, 4),
        "blast_share_corrected_ci95": rounded(found.corrected_interval),
        "in_words": found.summary(),
    }


def _differential(found: BlastFraction) -> list[dict[str, Any]]:
    """Rows of the differential; fractions are ``None`` without white cells, or where the stain is unknown."""
    is_stated = bool(found.n) and found.is_known_stain
    return [
        {
            "cell_type": row.cell_type,
            "n": row.n,
            "fraction": round(row.fraction, 4) if is_stated else None,
            "ci95": [round(row.interval.low, 4), round(row.interval.high, 4)] if is_stated else None,
        }
        for row in differential(found)
    ]


def to_dict(result: Result) -> dict[str, Any]:
    """The JSON document of one image."""
    return {**head(result), "cells": list(_cells(result))}


def head(result: Result) -> dict[str, Any]:
    """`to_dict` without the cells."""
    return {
        "notice": RESEARCH_USE,
        "file": result.name,
        "image_sha256": result.image_sha256,
        "size_wh": list(result.size_wh),
        "mpp": [round(side, 6) for side in result.mpp],
        "mpp_source": result.scale.describe(),
        "warnings": list(result.warnings),
        "model": result.model,
        "versions": dict(software()),
        "parameters": result.parameters,
        **summary(result),
    }


def _cells(result: Result) -> Iterator[dict[str, Any]]:
    cells, kinds = result.detections, result.kinds
    width, height = (cells.boxes_xyxy[:, 2:] - cells.boxes_xyxy[:, :2]).T
    for i, cell_name in enumerate(cell_names(len(cells)) if cells.id is None else cells.id.tolist()):
        yield {
            "id": cell_name,
            "label": CELL_CLASSES[cells.label[i]],
            "counted_as": kinds[i],
            "score": round(float(cells.score[i]), 4),
            "box_xyxy": [round(float(side), 2) for side in cells.boxes_xyxy[i]],
            "size_um": [round(float(width[i]) * result.mpp[0], 2), round(float(height[i]) * result.mpp[1], 2)],
            **_second_stage(cells, i),
            **({"origin": "human"} if cells.origin is not None and cells.origin[i] == "human" else {}),
        }


def _second_stage(cells: Detections, i: int) -> dict[str, Any]:
    """Columns of the second stage; of a cell that it did not classify, the type that a person gave it, if any."""
    if cells.blast_probability is None or cells.unsure is None:
        return {}
    if np.isnan(blast := float(cells.blast_probability[i])):
        return {"cell_type": str(cells.cell_type[i])} if cells.cell_type is not None and cells.cell_type[i] else {}
    found: dict[str, Any] = {"blast_probability": round(blast, 4), "unsure": bool(cells.unsure[i])}
    words = {name: getattr(cells, name) for name in ("unsure_reason", "cell_type")}
    found |= {name: str(column[i]) for name, column in words.items() if column is not None and column[i]}
    if cells.type_probability is not None:
        found["type_probability"] = {name: round(p, 4) for name, p in by_type(cells.type_probability[i]).items()}
    return found


def write_result(
    result: Result, stem: Path, formats: Iterable[str], source: Source, hidden: Collection[str] = ()
) -> list[Path]:
    """Write the files of one image.

    Parameters
    ----------
    result : Result
    stem : Path
        Path of the files without their suffix.
    formats : iterable of str
        Some of `FORMATS`; ``coco`` is written for the whole run, by `write_coco`.
    source : Source
        The image in its own colours.
    hidden : collection of str
        What the overlay leaves out, see `Result.without`; its caption counts it all the same.

    Returns
    -------
    list of Path
        The files written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in (kind for kind in SUFFIXES if kind in set(formats)):
        path = stem.with_name(stem.name + SUFFIXES[kind])
        if kind == "json":
            write_text(path, json_lines(result))
        elif kind == "overlay":
            shown = result.without(hidden)
            write_image(path, drawing.draw(source, shown, result.mpp, result.shown_counts, result.name))
        elif kind == "geojson":
            geojson.write_cells(path, named(result), result.mpp)
        else:
            write_text(path, csv_lines(result))
        written.append(path)
    return written


def json_lines(result: Result) -> Iterator[str]:
    """`to_dict` as text, one line per cell: indenting everything runs in Python, slower than the detector."""
    start = _INDENTED.encode({**head(result), "cells": []})
    yield start.removesuffix("]\n}")
    for i, cell in enumerate(_cells(result)):
        yield (",\n  " if i else "\n  ") + _DENSE.encode(cell)
    yield "\n ]\n}\n" if len(result.detections) else "]\n}\n"


def cell_names(n: int) -> list[str]:
    """Names of the cells of one image, in canonical order."""
    return [f"c{i + 1:05d}" for i in range(n)]


def named(result: Result) -> Detections:
    """Detections with the names that output files give them; those of a corrected result have theirs."""
    cells = result.detections
    names = cell_names(len(cells)) if cells.id is None else cells.id
    return cells.with_columns(id=names, origin=["model"] * len(cells) if cells.origin is None else cells.origin)


def csv_lines(result: Result) -> Iterator[str]:
    """The CSV file: a head, and a line for each cell."""
    yield csv_table.line(CELL_COLUMNS)
    for row in cell_rows(named(result), result.mpp):
        yield csv_table.line([result.name, "", *row])


def coco_entry(result: Result) -> dict[str, Any]:
    """Image and annotations of one image for `coco_document`, down to the lowest score asked for."""
    width, height = result.size_wh
    image = {"file_name": result.name, "width": width, "height": height, "mpp": list(result.mpp)}
    return {"image": image, "annotations": [_as_result(row) for row in to_annotations(result.candidates, 0)]}


def _as_result(row: dict[str, Any]) -> dict[str, Any]:
    row = {"score": 1.0, **row}  # the writer leaves scores out where all are 1
    if row.get("unsure"):
        row |= {"category_id": UNSURE["id"], "label": CELL_CLASSES[row["category_id"] - 1]}
    return row


def coco_document(entries: Iterable[Mapping[str, Any]], classes: Iterable[str]) -> dict[str, Any]:
    """One COCO document: images, annotations with scores, categories by our class names."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, start=1):
        images.append({"id": number, **entry["image"]})
        for row in entry["annotations"]:
            annotations.append({**row, "id": len(annotations) + 1, "image_id": number})
    known = set(classes)
    unsure = [UNSURE] if "blast" in known else []
    return {
        "info": {"description": "blastdet detections", "notice": RESEARCH_USE},
        "images": images,
        "annotations": annotations,
        "categories": categories(tuple(name for name in CELL_CLASSES if name in known)) + unsure,
    }


def write_coco(entries: Iterable[Mapping[str, Any]], classes: Iterable[str], path: Path) -> Path:
    """Write `coco_document` to a file."""
    document = coco_document(entries, classes)
    return write_text(path, json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
