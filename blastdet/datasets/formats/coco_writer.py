"""Write COCO: ``annotations/instances_<split>.json`` next to ``images/<split>/``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import write_text
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, SourceIds
from blastdet.datasets.annotations.files import EXTRA, folder_of, place_images, splits_of, to_json

KEYS = {name: "cell_id" if name == "id" else name for name in EXTRA}
"""Column of `Detections` -> key of a COCO annotation. COCO needs the key ``id`` for itself."""

UNSURE: dict[str, Any] = {"id": len(CELL_CLASSES) + 1, "name": "unsure", "supercategory": "cell"}
"""Category of results that the second stage is uncertain of; the key ``label`` of an annotation names its class."""

_PIECE = 4096  # annotations that are encoded at once


def write(dataset: Dataset, path: Path, *, how: str = "copy") -> Dataset:
    """Write ``annotations/instances_<split>.json`` and the images below the folder `path`.

    `how` is that of `files.place_images`. ``file_name`` is relative to `path`, as in `Dataset.file_name`. Image ids are
    unique across splits.

    Returns
    -------
    Dataset
        With the paths of the written images, and the ids of the written files.
    """
    placed = place_images(dataset, Path(path), how)
    for name in splits_of(placed):
        document = to_document(placed, [sample for sample in placed if folder_of(sample) == name])
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        write_text(placed.root / "annotations" / f"instances_{name}.json", text + "\n")
    shown = tuple((row["id"], row["name"], CELL_CLASSES.index(row["name"])) for row in categories(placed.classes))
    images = tuple((number, sample.path) for number, sample in enumerate(placed, 1))
    return replace(placed, ids=SourceIds("category id of annotations/instances_*.json", shown, images))


def to_document(dataset: Dataset, samples: Iterable[Sample] | None = None) -> dict[str, Any]:
    """A complete COCO document of `dataset`, or of some of its samples, ready for JSON (NaN is null).

    Returns
    -------
    dict
        ``info``, ``images``, ``annotations``, ``categories``. Scores are left out if all are 1 (ground truth).
    """
    number = {id(sample): i for i, sample in enumerate(dataset, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in dataset if samples is None else samples:
        images.append(_image(sample, number[id(sample)], dataset.file_name(sample)))
        if sample.truth is not None:
            rows = to_annotations(sample.truth, number[id(sample)])
            annotations += [{"id": len(annotations) + i, **row} for i, row in enumerate(rows, 1)]
    return {
        "info": _info(dataset),
        "images": images,
        "annotations": annotations,
        "categories": categories(dataset.classes),
    }


def document_pieces(dataset: Dataset) -> Iterator[str]:
    """The text of `to_document` in pieces of some thousand annotations, to bound memory for large slides."""
    images = [_image(sample, number, dataset.file_name(sample)) for number, sample in enumerate(dataset, 1)]
    head = {"info": _info(dataset), "images": images, "categories": categories(dataset.classes)}
    yield json.dumps(head, ensure_ascii=False, allow_nan=False)[:-1] + ', "annotations": ['
    written = 0
    for number, sample in enumerate(dataset, 1):
        cells = sample.truth if sample.truth is not None else Detections.empty()
        for start in range(0, len(cells), _PIECE):
            rows = to_annotations(cells[start : start + _PIECE], number)
            numbered = [{"id": written + i, **row} for i, row in enumerate(rows, 1)]
            text = json.dumps(numbered, ensure_ascii=False, allow_nan=False)[1:-1]
            yield (", " if written else "") + text
            written += len(rows)
    yield "]}\n"


def _info(dataset: Dataset) -> dict[str, Any]:
    info: dict[str, Any] = {"description": dataset.name, "notice": RESEARCH_USE}
    return info | {"dropped": list(dataset.dropped), "notes": list(dataset.notes)}


def categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO ``categories`` for some of `CELL_CLASSES`."""
    return [{"id": CELL_CLASSES.index(name) + 1, "name": name, "supercategory": "cell"} for name in classes]


def _image(sample: Sample, number: int, file_name: str) -> dict[str, Any]:
    width, height = sample.size_wh
    image: dict[str, Any] = {"id": number, "file_name": file_name, "width": width, "height": height}
    if sample.mpp is not None:
        image["mpp"] = list(sample.mpp)
    image |= {
        key: value for key in ("group", "cluster", "split", "label") if (value := getattr(sample, key)) is not None
    }
    image["annotated"] = list(sample.annotated)
    if sample.truth is None:
        image["has_truth"] = False
    return image


def to_annotations(cells: Detections, image_id: int) -> list[dict[str, Any]]:
    """COCO annotations of one image, without ``id``."""
    boxes = cells.boxes_xyxy.astype(np.float64)
    boxed = np.atleast_1d(~np.isnan(boxes).any(axis=1))
    points = np.nan_to_num(cells.centres_xy).astype(np.float64)
    xywh = np.where(boxed[:, None], np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]), 0.0)
    xywh[~boxed, :2] = points[~boxed]
    uncounted = (~boxed if cells.ignore is None else ~boxed | cells.ignore).tolist()
    columns = {
        key: to_json(getattr(cells, name), name)
        for name, key in KEYS.items()
        if getattr(cells, name) is not None and not (name == "score" and (cells.score == 1).all())
    }
    rows = []
    for i, (x, y, w, h) in enumerate(xywh.tolist()):
        row: dict[str, Any] = {"image_id": image_id, "category_id": int(cells.label[i]) + 1, "bbox": [x, y, w, h]}
        row |= {"area": w * h, "iscrowd": int(uncounted[i])}
        row |= {} if boxed[i] else {"has_box": False}
        rows.append(row | {key: column[i] for key, column in columns.items()})
    return rows
