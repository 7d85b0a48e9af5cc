"""``blastdet.json``: what YOLO's label files cannot hold, so that our own way through YOLO loses nothing.

One record a picture: size, µm/px, group, cluster, split, label, annotated classes, and the columns of `Detections`
beyond box and label. Cells that a label file must not name (ignored ones would be taught as cells, points have no box)
lie here whole.
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
from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.formats.files import FAULTS, SPLITS, read_json, to_json

FILE_NAME = "blastdet.json"

_EXTRA = ("score", "id", "point_xy", "ignore", "origin", "cell_type", "blast_probability")


def in_label_file(sample: Sample) -> NDArray[np.bool_]:
    """Mask of the cells that a label file names: those with a box in the picture that are not to be ignored."""
    if sample.truth is None:
        return np.zeros(0, bool)
    inside = boxes.clip(sample.truth.boxes_xyxy, sample.size_wh)
    boxed = (inside[:, 2:] > inside[:, :2]).all(axis=1)  # false for NaN
    return np.asarray(boxed if sample.truth.ignore is None else boxed & ~sample.truth.ignore, bool)


def write(dataset: Dataset, out: Path) -> None:
    """Write the sidecar of a data set whose pictures lie below `out`."""
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
    listed = in_label_file(sample)
    hidden = np.flatnonzero(~listed)
    record["cells"] = {
        "n": len(truth),
        "hidden": {
            "row": hidden.tolist(),
            "label": [CELL_CLASSES[i] for i in truth.label[hidden]],
            "boxes_xyxy": to_json(truth.boxes_xyxy[hidden]),
        },
        "columns": {
            name: to_json(column)
            for name in _EXTRA
            if (column := getattr(truth, name)) is not None and not (name == "score" and (column == 1).all())
        },
    }
    return record


def read(root: Path) -> Mapping[str, Any]:
    """The sidecar beside ``data.yaml``, or an empty mapping where there is none.

    Raises
    ------
    FormatError
        If it is not valid JSON, or not ours.
    """
    path = root / FILE_NAME
    if not path.exists():
        return {}
    document = read_json(path)
    if not isinstance(document, dict) or document.get("format") != "blastdet sidecar":
        raise FormatError(f"{path}: not a sidecar of blastdet")
    kinds = {"name": str, "dropped": list, "notes": list, "smears": dict}
    for key, kind in kinds.items():
        if not isinstance(document.get(key, kind()), kind):
            raise FormatError(f"{path}: {key} {document[key]!r} found, a {kind.__name__} expected")
    return document


def apply(sample: Sample, record: Mapping[str, Any], path: Path) -> tuple[Sample, list[str]]:
    """`smear` with what its record adds, and notes on what no longer fits.

    Label files may have been edited since: if their number of cells has changed, the boxes in the file win and the
    columns of the record are left out.
    """
    try:
        _check_record(record)
        sample = replace(
            sample,
            mpp=None if record["mpp"] is None else (float(record["mpp"][0]), float(record["mpp"][1])),
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
        return sample, [f"{sample.path.name}: labels changed since {path.name} was written; its columns are left out"]
    return replace(sample, truth=truth), []


def _check_record(record: Mapping[str, Any]) -> None:
    words = [record[key] for key in ("group", "label", "split")] + [record.get("cluster")]
    if not all(word is None or isinstance(word, str) for word in words) or record["split"] not in (None, *SPLITS):
        raise ValueError(f"group, label, split, cluster {words} found")
    if not all(name in CELL_CLASSES for name in record["annotated"]):
        raise ValueError(f"annotated {record['annotated']} found")


def _merge(listed: Detections, cells: Mapping[str, Any]) -> Detections | None:
    hidden = cells["hidden"]
    n, rows = cells["n"], np.array(hidden["row"], np.int64)
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
    columns = {name: _column(cells["columns"][name]) for name in _EXTRA if name in cells["columns"]}
    return Detections(table, label=label, **columns)


def _column(values: list[Any]) -> NDArray[Any]:
    return np.array(values, np.float32) if _holds_numbers(values) else np.array(values)


def _holds_numbers(values: list[Any]) -> bool:
    flat = [x for value in values for x in (value if isinstance(value, list) else [value])]
    return bool(flat) and all(x is None or (isinstance(x, int | float) and not isinstance(x, bool)) for x in flat)
