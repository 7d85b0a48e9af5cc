"""``blastdet.json``: what YOLO label files cannot hold, so that a round trip through YOLO loses nothing.

The file has one record for each image: size, µm/px, group, cluster, split, label, annotated classes, and all columns of
`Detections` besides box and class. Cells that must not be in a label file are stored here completely: ignored cells
would be trained as cells, and points have no box.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes
from blastdet.core.atomic_io import write_text
from blastdet.core.errors import FormatError, shown
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.annotations.files import EXTRA, FAULTS, SPLITS, from_json, read_json, stated_mpp, to_json

FILE_NAME = "blastdet.json"


def in_label_file(sample: Sample) -> NDArray[np.bool_]:
    """Mask of the cells that belong in the label file: not ignored, with a box inside the image."""
    if sample.truth is None:
        return np.zeros(0, bool)
    inside = boxes.clip(sample.truth.boxes_xyxy, sample.size_wh)
    boxed = (inside[:, 2:] > inside[:, :2]).all(axis=1)  # false for NaN
    return np.asarray(boxed if sample.truth.ignore is None else boxed & ~sample.truth.ignore, bool)


def write(dataset: Dataset, out: Path) -> None:
    """Write the sidecar of a dataset whose images are below `out`."""
    document = {
        "format": "blastdet sidecar",
        "version": 1,
        "name": dataset.name,
        "dropped": list(dataset.dropped),
        "notes": list(dataset.notes),
        "smears": {dataset.file_name(sample): _record(sample) for sample in dataset},
    }
    write_text(out / FILE_NAME, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _record(sample: Sample) -> dict[str, Any]:
    record: dict[str, Any] = {
        "size_wh": list(sample.size_wh),
        "mpp": None if sample.mpp is None else list(sample.mpp),
        "group": sample.group,
        "cluster": sample.cluster,
        "split": sample.split,
        "label": sample.label,
        "annotated": list(sample.annotated),
    }
    truth = sample.truth
    if truth is None:
        return record
    hidden = np.flatnonzero(~in_label_file(sample))
    record["cells"] = {
        "n": len(truth),
        "hidden": {
            "row": hidden.tolist(),
            "label": [CELL_CLASSES[i] for i in truth.label[hidden]],
            "boxes_xyxy": to_json(truth.boxes_xyxy[hidden]),
        },
        "columns": {
            name: to_json(column, name)
            for name in EXTRA
            if (column := getattr(truth, name)) is not None and not (name == "score" and (column == 1).all())
        },
    }
    return record


def read(root: Path) -> Mapping[str, Any]:
    """The sidecar next to ``data.yaml``, or an empty mapping if there is none.

    Raises `FormatError` if it is not valid JSON, or not a sidecar.
    """
    path = root / FILE_NAME
    if not path.exists():
        return {}
    document = read_json(path)
    if not isinstance(document, dict) or document.get("format") != "blastdet sidecar":
        raise FormatError(f"{path}: expected a sidecar written by blastdet, got another JSON document")
    kinds = {"name": str, "dropped": list, "notes": list, "smears": dict}
    for key, kind in kinds.items():
        if not isinstance(document.get(key, kind()), kind):
            raise FormatError(f"{path}: expected a {kind.__name__} as {key}, got {shown(document[key])}")
    return document


def apply(sample: Sample, record: Mapping[str, Any], path: Path) -> tuple[Sample, list[str]]:
    """Add what the record of a sample states.

    Label files may have been edited since the sidecar was written. If the number of cells differs, the boxes of the
    label file are kept, and the columns of the record are left out. Raises `FormatError` if the record is faulty.

    Returns
    -------
    sample : Sample
    notes : list of str
        A note if the columns were left out.
    """
    try:
        _check_record(record)
        sample = replace(
            sample,
            mpp=None if record["mpp"] is None else stated_mpp(record["mpp"], f"{path}: {sample.path.name}: mpp"),
            group=record["group"],
            cluster=record.get("cluster"),
            split=record["split"],
            label=record["label"],
            annotated=tuple(record["annotated"]),
        )
        cells = record.get("cells")
        if cells is None or sample.truth is None:
            return sample, []
        with np.errstate(over="raise"):
            truth = _merge(sample.truth, cells)
    except FAULTS as error:
        raise FormatError(f"{path}: record of {sample.path.name} is faulty ({error!r})") from None
    if truth is None:
        note = f"{sample.path.name}: labels changed since {path.name} was written; its columns are left out"
        return sample, [note]
    return replace(sample, truth=truth), []


def _check_record(record: Mapping[str, Any]) -> None:
    words = [record[key] for key in ("group", "label", "split")] + [record.get("cluster")]
    if not all(word is None or isinstance(word, str) for word in words) or record["split"] not in (None, *SPLITS):
        raise ValueError(f"expected text or null as group, label, split and cluster, got {shown(words)}")
    if not all(name in CELL_CLASSES for name in record["annotated"]):
        raise ValueError(f"expected a list of {', '.join(CELL_CLASSES)} as annotated, got {shown(record['annotated'])}")


def _merge(listed: Detections, cells: Mapping[str, Any]) -> Detections | None:
    hidden = cells["hidden"]
    n, rows = cells["n"], np.array(hidden["row"], np.int64)
    if rows.tolist() != sorted(set(hidden["row"])) or not all(0 <= row < n for row in rows.tolist()):
        raise ValueError(f"expected different rows from 0 to {n - 1} in order, got {shown(hidden['row'])}")
    if len(listed) + len(rows) != n:
        return None
    table = np.empty((n, 4), np.float32)
    label = np.empty(n, np.int64)
    seen = np.ones(n, bool)
    seen[rows] = False
    table[seen], label[seen] = listed.boxes_xyxy, listed.label
    if len(rows):
        table[rows] = np.array(hidden["boxes_xyxy"], np.float32)  # None becomes NaN
        label[rows] = [CELL_CLASSES.index(name) for name in hidden["label"]]
    stored = cells["columns"]
    columns = {name: [from_json(name, value) for value in stored[name]] for name in EXTRA if name in stored}
    return Detections(table, label=label, **columns)
