"""Corrections to a published set, as a small list that people can read, review and extend.

::

    {"dataset": "bccd", "source": "...", "corrections": [
      {"image": "BloodImage_00133.jpg", "op": "relabel", "box_xyxy": [134, 0, 302, 117], "class": "wbc",
       "reason": "white cell labelled Platelets"},
      ...]}

Boxes are ours: 0-based, half-open, full pixels. ``relabel`` gives the box that is there another class, ``remove`` takes
it out (``class`` says which class it has now), ``add`` draws a new one, ``unannotate`` (no box) says that the picture
does not annotate ``class`` completely. An operation that fits nothing is an error: the set is then not the one that the
corrections were made for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.formats.files import read_json

_OPERATIONS = ("add", "relabel", "remove", "unannotate")
_SAME_BOX_PX = 0.5


def read_corrections(path: Path) -> list[dict[str, Any]]:
    """The operations of a corrections file, checked for form.

    Raises
    ------
    FormatError
        Not JSON, an unknown operation or class, a box without four numbers or without area.
    """
    document = read_json(path)
    operations = document.get("corrections") if isinstance(document, dict) else None
    if not isinstance(operations, list):
        raise FormatError(f"{path}: no list 'corrections' found")
    for i, operation in enumerate(operations):
        fault = _fault(operation)
        if fault:
            raise FormatError(f"{path}: correction {i + 1}: {fault}")
    return operations


def _fault(operation: Any) -> str:
    if not isinstance(operation, dict) or not isinstance(operation.get("image"), str):
        return "no 'image' given"
    if operation.get("op") not in _OPERATIONS:
        return f"op {operation.get('op')!r} found, one of {', '.join(_OPERATIONS)} expected"
    if operation.get("class") not in CELL_CLASSES:
        return f"class {operation.get('class')!r} found, one of {', '.join(CELL_CLASSES)} expected"
    if operation["op"] == "unannotate":
        return ""
    box = operation.get("box_xyxy")
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and abs(v) < 1e9 for v in box)):
        return f"box_xyxy {box!r} found, four numbers expected"
    return "" if box[2] > box[0] and box[3] > box[1] else f"box_xyxy {box} has no area"


def apply_corrections(dataset: Dataset, path: Path) -> Dataset:
    """`dataset` with the corrections of a file applied, in the order of the file.

    Returns
    -------
    Dataset
        With one note that counts the operations, and `origin` ``human`` for boxes added.

    Raises
    ------
    FormatError
        If the file is faulty, or an operation fits no picture or no box.
    """
    path = Path(path)
    smears = {sample.path.name: sample for sample in dataset}
    number: dict[str, int] = defaultdict(int)
    for operation in read_corrections(path):
        name = operation["image"]
        if name not in smears or smears[name].truth is None:
            raise FormatError(f"{path}: {name} is no annotated picture of {dataset.name}")
        smears[name] = _correct(smears[name], operation, f"{path}: {name}")
        number[operation["op"]] += 1
    counted = ", ".join(f"{n} x {op}" for op, n in number.items())
    corrected = tuple(smears[sample.path.name] for sample in dataset)
    return replace(
        dataset, samples=corrected, notes=(*dataset.notes, f"corrections of {path.name}: {counted or 'none'}")
    )


def _correct(sample: Sample, operation: Mapping[str, Any], where: str) -> Sample:
    assert sample.truth is not None
    label = CELL_CLASSES.index(operation["class"])
    if operation["op"] == "unannotate":
        if operation["class"] not in sample.annotated:
            raise FormatError(f"{where}: {operation['class']} is not annotated there anyway")
        return replace(sample, annotated=tuple(c for c in sample.annotated if c != operation["class"]))
    box = np.array(operation["box_xyxy"], np.float32)
    if operation["op"] == "add":
        return replace(sample, truth=_added(sample.truth, box, label))
    hit = np.flatnonzero((np.abs(sample.truth.boxes_xyxy - box) <= _SAME_BOX_PX).all(axis=1))
    if operation["op"] == "remove":
        hit = hit[sample.truth.label[hit] == label]
    if len(hit) != 1:
        raise FormatError(f"{where}: {len(hit)} boxes at {box.tolist()} found, one expected to {operation['op']}")
    if operation["op"] == "remove":
        return replace(sample, truth=sample.truth[np.arange(len(sample.truth)) != hit[0]])
    labels = sample.truth.label.copy()
    labels[hit[0]] = label
    return replace(sample, truth=sample.truth.with_columns(label=labels))


def _added(truth: Detections, box: np.ndarray[Any, Any], label: int) -> Detections:
    new = Detections(box[None], label=np.array([label]), origin=np.array(["human"]))
    return Detections.concatenate([truth, new])
