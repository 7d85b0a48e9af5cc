"""A review page that needs no server and no network: a folder of pictures, data and a little JavaScript."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import write_text
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.palette import HEX
from blastdet.core.types import CELL_CLASSES, Dataset, Detections
from blastdet.evaluation.predict import Predictions
from blastdet.imaging.io import open_smear, write_image
from blastdet.review.cells import LOW_IOU, VIEWS, Cell, in_view, seen_twice

LONGEST = 1600
"""Longer side of a picture on the page, in pixels."""

FILES = ("index.html", "style.css", "app.js")
_START = "const DATA = "
_HERE = Path(__file__).parent / "static"


def write_page(
    dataset: Dataset,
    cells: Sequence[Cell],
    predictions: Predictions,
    out: Path,
    progress: Callable[[], None] = lambda: None,
) -> Path:
    """Write the page into a folder; returns the file to open.

    Parameters
    ----------
    dataset : Dataset
    cells : sequence of Cell
        From `review.cells.cells_of`.
    predictions : Predictions
    out : Path
    progress : callable
        Called once for each smear.

    Raises
    ------
    BlastdetError
        If a picture cannot be read.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    errors = Counter(cell.sample for cell in cells if cell.kind != "hit")
    smears: list[dict[str, Any]] = []
    for i, sample in enumerate(dataset):
        file = f"images/{i:05d}.jpg"
        width, height = sample.size_wh
        with open_smear(sample.path) as source:
            scale = min(1.0, LONGEST / max(width, height))
            write_image(out / file, source.read(None, (max(scale, 1 / width), max(scale, 1 / height))))
        entry = {"name": dataset.file_name(sample), "file": file, "sha256": sha256_of(sample.path), "errors": errors[i]}
        entry["ignored"] = _ignored(sample.truth)
        smears.append(entry | {"width": width, "height": height, "mpp": list(sample.mpp or (1.0, 1.0))})
        progress()
    place = {id(cell): number for number, cell in enumerate(cells)}
    views = [
        {"name": n, "title": v.title, "cells": [place[id(c)] for c in in_view(cells, n)]} for n, v in VIEWS.items()
    ]
    data = {
        "title": f"{predictions.name} on {dataset.name}: {len(dataset)} smears, {len(cells)} cells annotated or found",
        "notice": RESEARCH_USE,
        "model_sha256": model_sha256(predictions),
        "classes": list(CELL_CLASSES),
        "colours": HEX,
        "low_iou": LOW_IOU,
        "smears": smears,
        "worst": sorted(range(len(smears)), key=lambda i: (-errors[i], i)),
        "again": seen_twice(dataset, [entry["sha256"] for entry in smears]),
        "cells": [_plain(asdict(cell)) for cell in cells],
        "views": views,
    }
    data["id"] = hashlib.sha256("".join(entry["sha256"] for entry in smears).encode()).hexdigest()[:16]
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
    write_text(out / "data.js", f"{_START}{text};\n")
    for name in FILES:
        write_text(out / name, (_HERE / name).read_text(encoding="utf-8"))
    return out / "index.html"


def check_page(out: Path) -> None:
    """Refuse a folder that holds anything but a page of ours, such as corrections that somebody saved there.

    Raises
    ------
    FormatError
    """
    if not out.is_dir():
        return
    ours = {*FILES, "data.js", "images"}
    pictures = sorted(out.glob("images/*")) if (out / "images").is_dir() else []
    strange = [path for path in sorted(out.iterdir()) if path.name not in ours]
    strange += [path for path in pictures if not re.fullmatch(r"\d{5}\.jpg", path.name)]
    data = out / "data.js"
    if not strange and data.is_file() and not data.read_bytes().startswith(_START.encode()):
        strange = [data]
    if strange:
        raise FormatError(f"{strange[0]}: not of a review page, and its folder would be replaced; name another folder")


def model_sha256(predictions: Predictions) -> str:
    """One hash for the files of the model, or for the file that the detections come from."""
    about = predictions.about
    if "sha256" in about:
        return str(about["sha256"])
    files = dict(about.get("files", {})) | dict(about.get("second_stage", {}).get("files", {}))
    return hashlib.sha256("".join(sorted(files.values())).encode()).hexdigest() if files else ""


def _ignored(truth: Detections | None) -> list[tuple[list[float], str]]:
    """Boxes of the truth that are not to be counted, with their class."""
    if truth is None or truth.ignore is None:
        return []
    rows = np.flatnonzero(truth.ignore & ~np.isnan(truth.boxes_xyxy).any(axis=1))
    sides = truth.boxes_xyxy[rows].astype(float).round(1).tolist()
    return [(box, CELL_CLASSES[label]) for box, label in zip(sides, truth.label[rows], strict=True)]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    def number(value: Any) -> Any:
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 4)
        return [round(side, 1) for side in value] if isinstance(value, tuple) else value

    return {key: number(value) for key, value in row.items()}
