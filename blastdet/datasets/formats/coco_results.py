"""Detections of any program as COCO: a results list, or a complete document with scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blastdet.core.errors import FormatError
from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.formats import coco
from blastdet.datasets.formats.files import read_json
from blastdet.datasets.formats.records import RawRecord, refuse_problem
from blastdet.datasets.splits import names_of

_Find = Callable[[Any], Sample | None]
_ELSEWHERE = Sample(Path(), (0, 0))  # an image that the program processed, but that is not in the dataset


def read_results(path: Path, dataset: Dataset) -> list[Detections]:
    """Read the detections of any program: a COCO results list, or a complete COCO document with scores.

    Images of a document are matched by ``file_name``. Those of a list are matched by ``image_id``: a file name or stem,
    an id in the COCO files of the dataset, or a number that is the stem of an image. Raises `FormatError` if an image
    or category is unknown, a score or box is faulty, or a document leaves out samples.

    Parameters
    ----------
    dataset : Dataset
        The images that the program processed. Categories of a list are 1 blast, 2 wbc, 3 rbc, 4 platelet, 5 unsure.

    Returns
    -------
    list of Detections
        One for each sample of `dataset`, in its order; empty where nothing was detected.
    """
    path = Path(path)
    document = read_json(path)
    if isinstance(document, dict):
        rows, find, labels = _document_results(coco.load(path), path, dataset)
    elif isinstance(document, list) and all(isinstance(row, dict) for row in document):
        rows, find, labels = document, _finder(dataset), coco.RESULT_LABELS
    else:
        raise FormatError(f"{path}: expected a COCO document or a list of results, got {document!r:.60}")
    index = {id(sample): i for i, sample in enumerate(dataset)}
    found: list[list[Mapping[str, Any]]] = [[] for _ in dataset]
    for number, row in enumerate(rows, 1):
        sample = find(row.get("image_id"))
        what = f"{path}: detection {number}"
        if sample is None:
            got = f"{row.get('image_id')!r:.60}"
            raise FormatError(f"{what}: expected an image of {dataset.name} as image_id, got {got}")
        _check(row, labels, what)
        if id(sample) in index:
            found[index[id(sample)]].append(row)
    return [coco.cells_of_rows(rows, labels, (path, "model")) for rows in found]


def _check(row: Mapping[str, Any], labels: Mapping[int, int], what: str) -> None:
    kind, score = row.get("category_id"), row.get("score")
    if not isinstance(kind, int) or kind not in labels:
        raise FormatError(f"{what}: expected one of {list(labels)} as category_id, got {kind!r:.60}")
    problem = coco.box_problem(row.get("bbox"))
    if problem:
        raise FormatError(f"{what}: {problem}")
    if min(row["bbox"][2:]) < 0:
        raise FormatError(f"{what}: expected a size of 0 or more in bbox, got {row['bbox']}")
    if not coco.is_number(score) or not 0 <= row["score"] <= 1:
        raise FormatError(f"{what}: expected a number from 0 to 1 as score, got {score!r:.60}")


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
        if sample is not None and sample.size_wh != record.size_wh:
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
    by_id = {int(s.path.stem): s for s in dataset if s.path.stem.isdecimal()}
    try:
        files = coco.documents(dataset.root)
    except FormatError:
        files = []
    listed = [record.fields for file in files for record in _image_records(coco.load(file), file)]
    known = {int(row["id"]): names[str(row["file_name"])] for row in listed if str(row["file_name"]) in names}
    by_id = known or by_id
    elsewhere = {int(row["id"]) for row in listed}

    def find(image_id: Any) -> Sample | None:
        if isinstance(image_id, str):
            return names.get(image_id) or names.get(Path(image_id).name)
        if not isinstance(image_id, int):
            return None
        return by_id.get(image_id) or (_ELSEWHERE if image_id in elsewhere else None)

    return find
