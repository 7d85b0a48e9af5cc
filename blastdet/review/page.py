"""A review page that needs no server and no network: the viewer with the annotated and detected cells of a dataset."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import new_folder, write_text
from blastdet.core.errors import FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES, Detections, Sample
from blastdet.datasets.convert import check_folder, check_no_file
from blastdet.evaluation.predict import Predictions
from blastdet.imaging.io import open_smear
from blastdet.review.cells import LOW_IOU, VIEWS, Cell, in_view, repeated_fields, rows_by_sample
from blastdet.review.review import Review
from blastdet.viewer.pictures import MOST_CROPS, write_picture, write_sheet
from blastdet.viewer.viewer_page import KIND_INDEX, page_data, page_text

PAGE = "index.html"
_MARK = "blastdet-review"  # in the script of every page
_KINDS = {"hit": "Hit", "confused": "Confused", "missed": "Missed", "false": "False"}


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
    check_folder(folder, True, PAGE, [review.dataset.root])
    rows = rows_by_sample(review.dataset, review.cells)
    shown = {index for name in VIEWS for index in _view_cells(review, name)}
    with new_folder(folder) as out:
        images = []
        for i, sample in enumerate(review.dataset):
            cells = [(row, review.cells[row]) for row in rows[i]]
            images.append(_write_image(review, sample, out, i, [(c, row in shown) for row, c in cells]))
            progress()
        write_text(out / PAGE, page_text(_page_data(review, images, rows)))
    return folder / PAGE


def check_page(folder: Path) -> None:
    """Refuse a folder that contains anything else than a review page, such as exported corrections.

    Raises `FormatError`.
    """
    check_no_file(folder)
    if not folder.is_dir():
        return
    other = [path for path in sorted(folder.iterdir()) if path.name not in (PAGE, "images", "cells")]
    for name in ("images", "cells"):
        inside = sorted(folder.glob(f"{name}/*")) if (folder / name).is_dir() else []
        other += [path for path in inside if not re.fullmatch(r"\d{5}\.jpg", path.name)]
    page = folder / PAGE
    if not other and page.is_file() and _MARK not in page.read_text("utf-8", errors="replace"):
        other = [page]
    if other:
        raise FormatError(f"{other[0]}: not part of a review page, would be deleted. Choose another folder")


def model_sha256(predictions: Predictions) -> str:
    """One hash for all files of the model, or the hash of the detections file."""
    about = predictions.about
    if "sha256" in about:
        return str(about["sha256"])
    files = dict(about.get("files", {})) | dict(about.get("second_stage", {}).get("files", {}))
    return hashlib.sha256("".join(sorted(files.values())).encode()).hexdigest() if files else ""


def _view_cells(review: Review, name: str) -> list[int]:
    """Indices of the cells of a view, in its order."""
    index = {id(cell): i for i, cell in enumerate(review.cells)}
    return [index[id(cell)] for cell in in_view(review.cells, name)]


def _write_image(
    review: Review, sample: Sample, out: Path, number: int, cells: list[tuple[Cell, bool]]
) -> dict[str, Any]:
    """Picture and sheet of an image, and its columns for the page. Cells of no view have no crop."""
    name = f"{number:05d}.jpg"
    ignored = _ignored(sample.truth)
    thumbs = [row for row, (_, is_shown) in enumerate(cells) if is_shown][:MOST_CROPS]
    with open_smear(sample.path) as source:
        write_picture(source, out / "images" / name)
        rows = write_sheet(source, [cells[row][0].box for row in thumbs], sample.mpp, out / "cells" / name)
    width, height = sample.size_wh
    columns = _columns([cell for cell, _ in cells], ignored)
    errors = sum(cell.kind != "hit" for cell, _ in cells)
    return {
        "name": review.dataset.file_name(sample),
        "file": f"images/{name}",
        "sheet": f"cells/{name}",
        "sheet_rows": rows,
        "sha256": sha256_of(sample.path),
        "width": width,
        "height": height,
        "mpp": None if sample.mpp is None else list(sample.mpp),
        "given": None if review.mpp is None else list(review.mpp),
        "about": "" if sample.mpp is None else f"{sample.mpp[0]:.4g} µm/px",
        "notes": [],
        "errors": errors,
        "row": [sum(bool(c.true_class) for c, _ in cells), sum(bool(c.detected_class) for c, _ in cells), errors],
        "thumb": {str(row): place for place, row in enumerate(thumbs)},
        **columns,
    }


def _columns(cells: list[Cell], ignored: list[tuple[list[float], str]]) -> dict[str, Any]:
    """Columns of the cells of one image; its ignored regions come last."""
    pairs = {}
    for row, cell in enumerate(cells):
        apart = cell.truth_box and cell.detected_box and (cell.kind != "hit" or cell.iou < LOW_IOU)
        if apart and cell.detected_box:
            pairs[str(row)] = [*_rounded(cell.detected_box), KIND_INDEX[cell.detected_class]]
    nothing = [None] * len(ignored)
    return {
        "box": [side for cell in cells for side in _rounded(cell.box)] + [side for box, _ in ignored for side in box],
        "kind": [KIND_INDEX[cell.name] for cell in cells] + [KIND_INDEX["ignored"]] * len(ignored),
        "old": [KIND_INDEX.get(cell.true_class, -1) for cell in cells] + [KIND_INDEX[name] for _, name in ignored],
        "p": [_or_none(cell.blast_probability) for cell in cells] + nothing,
        "blast": [None] * (len(cells) + len(ignored)),
        "unlike": [row for row, cell in enumerate(cells) if cell.novelty > 1],
        "dashed": [row for row, cell in enumerate(cells) if not cell.true_class],
        "pair": pairs,
        "text": {str(row): _describe(cell) for row, cell in enumerate(cells)},
    }


def _describe(cell: Cell) -> str:
    parts = [_KINDS[cell.kind]]
    if cell.true_class:
        parts.append(f"label {cell.true_class}")
    if cell.detected_class:
        parts.append(f"detected {cell.detected_class} {cell.score:.2f}")
    if cell.blast_probability == cell.blast_probability:
        parts.append(f"P(blast) {cell.blast_probability:.2f}{', unsure' if cell.unsure else ''}")
    if cell.iou == cell.iou:
        parts.append(f"IoU {cell.iou:.2f}")
    return " · ".join(parts)


def _page_data(review: Review, images: list[dict[str, Any]], rows: list[list[int]]) -> dict[str, Any]:
    """What the page shows."""
    dataset, cells, predictions = review.dataset, review.cells, review.predictions
    errors = Counter(cell.sample for cell in cells if cell.kind != "hit")
    hashes = [image["sha256"] for image in images]
    place = {index: (i, row) for i, indices in enumerate(rows) for row, index in enumerate(indices)}
    annotated, detected = (
        sum(bool(getattr(cell, name)) for cell in cells) for name in ("true_class", "detected_class")
    )
    return page_data(
        mode="review",
        title=f"{predictions.name} on {dataset.name} – blastdet",
        heading=f"{predictions.name} on {dataset.name}",
        lead=f"{len(dataset)} images, {annotated} annotated cells, {detected} detected. "
        "Solid boxes are annotated, dashed ones detected.",
        images=images,
        id=hashlib.sha256("".join(hashes).encode()).hexdigest()[:16],
        model_sha256=model_sha256(predictions),
        columns=["annotated", "detected", "errors"],
        worst=sorted(range(len(images)), key=lambda i: (-errors[i], i)),
        repeated=repeated_fields(dataset, hashes),
        outlines=True,
        views=[
            {"name": name, "title": view.title, "cells": [place[index] for index in _view_cells(review, name)]}
            for name, view in VIEWS.items()
        ],
        method=[
            "Cells are matched regardless of class, as in blastdet evaluate: at an IoU of 0.5, one to one.",
            "A correction names its cell by the sha256 of the image and the first box.",
        ],
    )


def _ignored(truth: Detections | None) -> list[tuple[list[float], str]]:
    """Boxes and classes of the ignored regions of the truth."""
    if truth is None or truth.ignore is None:
        return []
    rows = np.flatnonzero(truth.ignore & ~np.isnan(truth.boxes_xyxy).any(axis=1))
    sides = truth.boxes_xyxy[rows].astype(float).round(1).tolist()
    return [(box, CELL_CLASSES[label]) for box, label in zip(sides, truth.label[rows], strict=True)]


def _rounded(box: tuple[float, float, float, float]) -> list[float]:
    return [round(side, 1) for side in box]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)
