"""A review page that needs no server and no network: a folder with images, data and JavaScript."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import new_folder, write_text
from blastdet.core.constants import HEX, RESEARCH_USE
from blastdet.core.errors import FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES, Detections, Sample
from blastdet.datasets.convert import check_folder
from blastdet.evaluation.predict import Predictions
from blastdet.imaging.io import open_smear, write_image
from blastdet.review.cells import LOW_IOU, VIEWS, in_view, repeated_fields
from blastdet.review.review import Review

LONGEST_PX = 1600
"""Longer side of an image on the page."""

FILES = ("index.html", "style.css", "app.js")
_START = "const DATA = "
_STATIC = Path(__file__).parent / "static"


def write_page(review: Review, folder: Path, progress: Callable[[], None] = lambda: None) -> Path:
    """Write a review page, or replace one.

    Raises `BlastdetError` if `folder` contains anything else than a page, or an image cannot be read.

    Returns
    -------
    Path
        The HTML file to open in a browser.

    Examples
    --------
    >>> review = make_review(dataset, predictions)  # doctest: +SKIP
    >>> write_page(review, Path("review"))  # doctest: +SKIP
    PosixPath('review/index.html')
    """
    check_page(folder)
    check_folder(folder, True, "data.js", [review.dataset.root])
    with new_folder(folder) as out:
        (out / "images").mkdir()
        samples = []
        for i, sample in enumerate(review.dataset):
            file = f"images/{i:05d}.jpg"
            _write_image(sample, out / file)
            samples.append({"name": review.dataset.file_name(sample), "file": file, **_about(sample)})
            progress()
        text = json.dumps(_page_data(review, samples), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
        write_text(out / "data.js", f"{_START}{text};\n")
        for name in FILES:
            write_text(out / name, (_STATIC / name).read_text(encoding="utf-8"))
    return folder / "index.html"


def check_page(folder: Path) -> None:
    """Refuse a folder that contains anything else than a review page, such as exported corrections.

    Raises `FormatError`.
    """
    if not folder.is_dir():
        return
    images = sorted(folder.glob("images/*")) if (folder / "images").is_dir() else []
    other = [path for path in sorted(folder.iterdir()) if path.name not in (*FILES, "data.js", "images")]
    other += [path for path in images if not re.fullmatch(r"\d{5}\.jpg", path.name)]
    data = folder / "data.js"
    if not other and data.is_file() and not data.read_bytes().startswith(_START.encode()):
        other = [data]
    if other:
        raise FormatError(f"{other[0]}: not part of a review page, would be deleted. Choose another folder")


def model_sha256(predictions: Predictions) -> str:
    """One hash for all files of the model, or the hash of the detections file."""
    about = predictions.about
    if "sha256" in about:
        return str(about["sha256"])
    files = dict(about.get("files", {})) | dict(about.get("second_stage", {}).get("files", {}))
    return hashlib.sha256("".join(sorted(files.values())).encode()).hexdigest() if files else ""


def _write_image(sample: Sample, path: Path) -> None:
    width, height = sample.size_wh
    scale = min(1.0, LONGEST_PX / max(width, height))
    with open_smear(sample.path) as source:
        write_image(path, source.read(None, (max(scale, 1 / width), max(scale, 1 / height))))


def _about(sample: Sample) -> dict[str, Any]:
    width, height = sample.size_wh
    about = {"sha256": sha256_of(sample.path), "width": width, "height": height, "mpp": list(sample.mpp or (1.0, 1.0))}
    return about | {"ignored": _ignored(sample.truth)}


def _page_data(review: Review, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of data.js."""
    dataset, cells, predictions = review.dataset, review.cells, review.predictions
    errors = Counter(cell.sample for cell in cells if cell.kind != "hit")
    hashes = [sample["sha256"] for sample in samples]
    index = {id(cell): i for i, cell in enumerate(cells)}
    annotated, detected = (
        sum(bool(getattr(cell, name)) for cell in cells) for name in ("true_class", "detected_class")
    )
    return {
        "title": f"{predictions.name} on {dataset.name}: {len(dataset)} images, {annotated} annotated cells, "
        f"{detected} detected",
        "notice": RESEARCH_USE,
        "model_sha256": model_sha256(predictions),
        "classes": list(CELL_CLASSES),
        "colours": HEX,
        "low_iou": LOW_IOU,
        "samples": [sample | {"errors": errors[i]} for i, sample in enumerate(samples)],
        "worst": sorted(range(len(samples)), key=lambda i: (-errors[i], i)),
        "repeated": repeated_fields(dataset, hashes),
        "cells": [{key: _as_json(value) for key, value in asdict(cell).items()} for cell in cells],
        "views": [
            {"name": name, "title": view.title, "cells": [index[id(cell)] for cell in in_view(cells, name)]}
            for name, view in VIEWS.items()
        ],
        "id": hashlib.sha256("".join(hashes).encode()).hexdigest()[:16],
    }


def _ignored(truth: Detections | None) -> list[tuple[list[float], str]]:
    """Boxes and classes of the ignored regions of the truth."""
    if truth is None or truth.ignore is None:
        return []
    rows = np.flatnonzero(truth.ignore & ~np.isnan(truth.boxes_xyxy).any(axis=1))
    sides = truth.boxes_xyxy[rows].astype(float).round(1).tolist()
    return [(box, CELL_CLASSES[label]) for box, label in zip(sides, truth.label[rows], strict=True)]


def _as_json(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return [round(side, 1) for side in value] if isinstance(value, tuple) else value
