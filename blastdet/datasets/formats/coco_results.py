"""Detections of any program as COCO: a results list, or a complete document with scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core import boxes as box_tools
from blastdet.core.errors import FormatError, shown
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, SourceIds, WidthHeight
from blastdet.datasets.annotations.files import box_problem, is_number, read_json, read_text
from blastdet.datasets.annotations.records import RawRecord, refuse_problem
from blastdet.datasets.formats import coco
from blastdet.datasets.splits import names_of

_Find = Callable[[Any], Sample | None]
_SHOWN = 20  # ids in a message
_ELSEWHERE = Sample(Path(), (0, 0))  # an image that the program processed, but that is not in the dataset


def read_results(path: Path, dataset: Dataset) -> list[Detections]:
    """Read the detections of any program: a COCO results list, or a complete COCO document with scores.

    Images of a document are matched by ``file_name``. Ids of a list mean those of the files that the dataset was read
    from, see `ids_in_words`; an image may also be named by its file name or stem. Raises `FormatError` if an image or
    category is unknown or ambiguous, a score or box is faulty, or a document leaves out samples.

    Parameters
    ----------
    dataset : Dataset
        The images that the program processed.

    Returns
    -------
    list of Detections
        One for each sample of `dataset`, in its order; empty where nothing was detected. Boxes are clipped to their
        image, as those of the truth are.
    """
    path = Path(path)
    document = read_json(path)
    if isinstance(document, dict):
        rows, find, labels = _document_results(coco.load(path), path, dataset)
    elif isinstance(document, list) and all(isinstance(row, dict) for row in document):
        rows, find, labels = document, _finder(dataset), _labels_of(dataset)
    else:
        raise FormatError(f"{path}: expected a COCO document or a list of results, got {shown(document)}")
    index = {id(sample): i for i, sample in enumerate(dataset)}
    found: list[list[Mapping[str, Any]]] = [[] for _ in dataset]
    for number, row in enumerate(rows, 1):
        sample = find(row.get("image_id"))
        what = f"{path}: detection {number}"
        if sample is None:
            got = f"{shown(row.get('image_id'))}"
            raise FormatError(f"{what}: expected an image of {dataset.name} as image_id, got {got}")
        _check(row, labels, what)
        if id(sample) in index:
            found[index[id(sample)]].append(row)
    return [
        _clipped(coco.cells_of_rows(rows, labels, (path, "model")), sample.size_wh)
        for rows, sample in zip(found, dataset, strict=True)
    ]


def _clipped(cells: Detections, size_wh: WidthHeight) -> Detections:
    """Boxes clipped to the image. One outside it stays as it is: it matches no cell, and counts as a false positive."""
    boxes = box_tools.clip(cells.boxes_xyxy, size_wh)
    outside = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    return cells.with_columns(boxes_xyxy=np.where(outside[:, None], cells.boxes_xyxy, boxes))


def is_list(path: Path) -> bool:
    """Whether a file is a results list, whose ids are those of the truth."""
    return read_text(path).lstrip().startswith("[")


def ids_in_words(dataset: Dataset) -> str:
    """What the ids of a COCO results list mean for a dataset, in one line.

    Category and image ids are those of the COCO files that the dataset was read from. For YOLO, a category id is the
    index of a class in ``data.yaml``; for other formats 1 blast, 2 wbc, 3 rbc, 4 platelet, 5 unsure. Without ids of
    images, a number is the stem of an image.
    """
    ids = _ids_of(dataset)
    classes = [*CELL_CLASSES, "unsure"]  # -1 is unsure
    words = [
        f"{number} {name}" + ("" if name == classes[label] else f" = {classes[label]}")
        for number, name, label in ids.categories
    ]
    shown = ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
    images = "those of the truth" if ids.images else "stems of files"
    return f"{ids.meaning}: {shown:.300}; image ids: {images}"


def _ids_of(dataset: Dataset) -> SourceIds:
    names = [*CELL_CLASSES, "unsure"]
    ours = tuple((number, names[label], label) for number, label in coco.RESULT_LABELS.items())
    if dataset.ids is not None:
        own = set(dataset.ids.categories) <= set(ours)  # a file of blastdet, whose ids are fixed, without some classes
        return replace(dataset.ids, categories=ours) if own and dataset.ids.images else dataset.ids
    return SourceIds("category id (the truth has none of its own)", ours)


def _labels_of(dataset: Dataset) -> dict[int, int]:
    """Category id -> label; the files of a dataset may not use one id for two classes."""
    labels: dict[int, int] = {}
    for number, name, label in _ids_of(dataset).categories:
        if labels.setdefault(number, label) != label:
            raise FormatError(
                f"{dataset.root}: expected one class for category id {number}, got two, one of them {shown(name)}. "
                "Name the one file that the results belong to."
            )
    return labels


def _check(row: Mapping[str, Any], labels: Mapping[int, int], what: str) -> None:
    kind, score = row.get("category_id"), row.get("score")
    if not isinstance(kind, int) or kind not in labels:
        expected = f"{list(labels)[:_SHOWN]}"
        raise FormatError(f"{what}: expected one of {expected} as category_id, got {shown(kind)}")
    problem = box_problem(row.get("bbox"))
    if problem:
        raise FormatError(f"{what}: {problem}")
    if min(row["bbox"][2:]) < 0:
        raise FormatError(f"{what}: expected a size of 0 or more in bbox, got {row['bbox']}")
    if not is_number(score) or not 0 <= row["score"] <= 1:
        raise FormatError(f"{what}: expected a number from 0 to 1 as score, got {shown(score)}")


def _document_results(
    document: Mapping[str, Any], file: Path, dataset: Dataset
) -> tuple[list[dict[str, Any]], _Find, dict[int, int]]:
    names = names_of(dataset)
    by_id: dict[int, Sample] = {}
    for record in _image_records(document, file):
        name = str(record.fields["file_name"])
        sample = names.get(name) or names.get(Path(name).name)
        if sample is not None and any(other is sample for other in by_id.values()):
            raise FormatError(f"{file}: expected one entry for each image, got another for {sample.path.name}: {name}")
        if sample is not None and record.size_wh not in (None, sample.size_wh):
            raise FormatError(f"{file}: {name}: expected the size of the image, {sample.size_wh}, got {record.size_wh}")
        by_id[int(record.fields["id"])] = sample or _ELSEWHERE
    seen = {id(sample) for sample in by_id.values()}
    missing = [dataset.file_name(sample) for sample in dataset if id(sample) not in seen]
    if missing:
        counts = f"{len(dataset) - len(missing)} of {len(dataset)}"
        raise FormatError(f"{file}: expected all images of {dataset.name}, got {counts}; first missing: {missing[0]}")
    return (
        document["annotations"],
        lambda image_id: by_id.get(image_id) if isinstance(image_id, int) else None,
        coco.labels_of(document, file, None),
    )


def _image_records(document: Mapping[str, Any], file: Path) -> list[RawRecord]:
    records = coco.parse({**document, "annotations": []}, file)
    for record in records:
        refuse_problem(record)
    return records


def _finder(dataset: Dataset) -> _Find:
    names = names_of(dataset)
    own = {sample.path: sample for sample in dataset}
    listed = dataset.ids.images if dataset.ids is not None else ()
    stems = ((int(sample.path.stem), sample.path) for sample in dataset if sample.path.stem.isdecimal())
    by_id: dict[int, list[Path]] = {}
    for number, path in listed or stems:
        by_id.setdefault(number, []).append(path)

    def find(image_id: Any) -> Sample | None:
        if isinstance(image_id, str):
            return names.get(image_id) or names.get(Path(image_id).name)
        if not isinstance(image_id, int) or isinstance(image_id, bool):
            return None
        paths = by_id.get(image_id, [])
        if len(paths) > 1:
            raise FormatError(
                f"{dataset.root}: expected one image with id {image_id}, got {paths[0].name} and {paths[1].name}. "
                "Name the one truth file that the results belong to, or write file names as image_id."
            )
        return own.get(paths[0], _ELSEWHERE) if paths else None

    return find
