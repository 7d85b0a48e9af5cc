"""Label Studio's own JSON, read and written: tasks with their annotations, or its short form (JSON-MIN).

Positions are percent of the image. Label Studio's exports as COCO, YOLO and Pascal VOC are read by those formats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blastdet.core.errors import FormatError, counted, shown
from blastdet.core.types import Dataset, Scale
from blastdet.datasets.annotations import json_kind
from blastdet.datasets.annotations.exported import Export, dataset_of, ellipse_points, raw_box, read_export, rotated
from blastdet.datasets.annotations.files import FAULTS, read_json
from blastdet.datasets.annotations.records import RawBox, RawRecord
from blastdet.imaging.io import image_size

_SHAPES = ("rectangle", "polygon", "ellipse")
_NOT_REGIONS = ("choices", "textarea", "rating", "number", "datetime", "taxonomy", "pairwise")
_IMAGE_KEYS = ("image", "img", "image_url", "url")


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read a JSON export of Label Studio.

    Rectangles, also turned ones, polygons and ellipses become the box around them. Brush masks and key points are left
    out by name. Of several annotations of a task, the ground truth counts, else the newest that was not cancelled.
    Predictions are not read.

    Raises `FormatError` if the file is faulty, an image is missing, or a class is unknown.

    Parameters
    ----------
    path : Path
        The JSON file, or its folder.
    images : Path, optional
        Folder of the images, if they are elsewhere. Names are matched with and without the prefix that Label Studio
        adds to uploaded files.

    Returns
    -------
    Dataset
        Every class that occurs counts as annotated. A task without annotations has no truth.
    """
    return dataset_of(_export(Path(path), images), class_map, mpp)


def read_records(root: Path) -> list[RawRecord]:
    """Every task of every Label Studio file in a folder, faults included."""
    return list(_export(root).records) if files(root) else []


def files(folder: Path) -> list[Path]:
    """JSON files of Label Studio in a folder and its folders."""
    return json_kind.files_of("labelstudio", folder)


def _export(path: Path, images: Path | None = None) -> Export:
    export = read_export(path, files, parse, images)
    return replace(export, records=tuple(_in_pixels(record) for record in export.records))


def parse(file: Path) -> list[RawRecord]:
    """One record for each task; boxes are in percent of the image."""
    try:
        tasks = read_json(file)
    except FormatError as error:
        return [RawRecord(file, problem=str(error).removeprefix(f"{file}: "))]
    if not isinstance(tasks, list):
        return [RawRecord(file, problem="expected a list of tasks, as Label Studio exports it, got something else")]
    return [_record(file, task, number) for number, task in enumerate(tasks, 1)]


def _record(file: Path, task: Any, number: int) -> RawRecord:
    what = f"task {number}"
    try:
        name = _image_name(task)
        results, note = _results(task)
        if not isinstance(results, list | None):
            raise ValueError(f"expected a list of regions as result, got {shown(results)}")
    except FAULTS as error:
        return RawRecord(file, problem=f"{what} is faulty ({shown(error, 120)})")
    boxes: dict[Any, RawBox] = {}
    left_out = [f"{file.name}: {what}: {note}"] if note else []
    problem = None
    size_wh = None
    for position, result in enumerate(results or (), 1):
        source = f"{what}: region {position}"
        try:
            kind = _kind(result)
            if kind in _SHAPES:
                box = raw_box(_class_name(result), _points(result, kind), source)
                key = (result.get("id"), kind, box.xyxy)
                boxes[key], line = _merged(boxes.get(key), box)
                left_out += [f"{file.name}: {line}"] if line else []
            elif kind not in _NOT_REGIONS:
                left_out.append(f"{file.name}: {source}: {kind:.60}, not a rectangle, polygon or ellipse, left out")
            size_wh = size_wh or _size(result)
        except FAULTS as error:
            problem = problem or f"{source} is faulty ({shown(error, 120)})"
    fields = {"left_out": tuple(left_out), "has_truth": results is not None}
    return RawRecord(file, name=name, size_wh=size_wh, boxes=tuple(boxes.values()), problem=problem, fields=fields)


def _merged(known: RawBox | None, box: RawBox) -> tuple[RawBox, str]:
    """One region of two entries with the same id and place, and a line if they have two classes.

    ``<Rectangle>`` with ``<Labels>`` writes a region twice: its shape, and its shape with the class.
    """
    if known is None:
        return box, ""
    if known.name and box.name not in ("", known.name):
        return known, f"{box.source}: a second class {shown(box.name)} of the same region, left out"
    return known if known.name else box, ""


def _image_name(task: Mapping[str, Any]) -> str:
    data = task["data"] if isinstance(task.get("data"), dict) else task
    values = [data[key] for key in _IMAGE_KEYS if isinstance(data.get(key), str)]
    values += [value for value in data.values() if isinstance(value, str) and "." in value[-6:]]
    if not values:
        raise ValueError(f"expected the name of an image as data.image, got {list(data)!s:.60}")
    return str(values[0])


def _results(task: Mapping[str, Any]) -> tuple[list[Any] | None, str]:
    """The regions that count, ``None`` if the image has no annotations, and a note on what does not count."""
    if "annotations" not in task and "completions" not in task:
        if "data" in task:
            return None, ""
        lists = [value for key, value in task.items() if isinstance(value, list) and _are_regions(value)]  # JSON-MIN
        return [region for regions in lists for region in regions], ""
    every = task.get("annotations") or task.get("completions") or []
    done = [one for one in every if not one.get("was_cancelled")]
    if not done:
        return None, ""
    chosen = max(done, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at") or "")))
    rest = len(done) - 1
    return chosen["result"], f"{counted(rest, 'other annotation')} of this task left out" if rest else ""


def _are_regions(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(one, dict) and ({"x", "y"} <= one.keys() or "points" in one) for one in value)


def _value(result: Mapping[str, Any]) -> Mapping[str, Any]:
    value = result.get("value", result)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object as value, got {shown(value)}")
    return value


def _kind(result: Mapping[str, Any]) -> str:
    value = _value(result)
    stated = result.get("type")
    if isinstance(stated, str) and stated != "labels":
        return stated.removesuffix("labels")
    for key, kind in (("points", "polygon"), ("radiusX", "ellipse"), ("rle", "brush"), ("width", "rectangle")):
        if key in value:
            return "keypoint" if kind == "rectangle" and "height" not in value else kind
    return str(stated)


def _class_name(result: Mapping[str, Any]) -> str:
    """The first label of a region; without any, the empty name."""
    labels = [value for key, value in _value(result).items() if key.endswith("labels") and isinstance(value, list)]
    return str(labels[0][0]) if labels and labels[0] else ""


def _points(result: Mapping[str, Any], kind: str) -> list[tuple[float, float]]:
    """Points around which the box of a region is, in percent; a turned shape needs the size of the image."""
    value = _value(result)
    if kind == "polygon":
        return [(float(x), float(y)) for x, y in value["points"]]
    turn = float(value.get("rotation") or 0)
    w, h = _size(result) or (100.0, 100.0)
    kx, ky = w / 100, h / 100
    x, y = float(value["x"]) * kx, float(value["y"]) * ky
    if kind == "ellipse":
        points = ellipse_points((x, y), (float(value["radiusX"]) * kx, float(value["radiusY"]) * ky), turn)
    else:
        across, down = float(value["width"]) * kx, float(value["height"]) * ky
        corners = [(x, y), (x + across, y), (x + across, y + down), (x, y + down)]
        points = rotated(corners, turn, (x, y)) if turn else corners  # about the top left corner
    return [(px / kx, py / ky) for px, py in points]


def _size(result: Mapping[str, Any]) -> tuple[float, float] | None:
    w, h = result.get("original_width"), result.get("original_height")
    if not isinstance(w, int | float) or not isinstance(h, int | float):
        return None
    if not (0 < w < math.inf and 0 < h < math.inf):
        raise ValueError(f"expected the size of the image as original_width and original_height, got {w} and {h}")
    return float(w), float(h)


def _in_pixels(record: RawRecord) -> RawRecord:
    size_wh = record.size_wh
    if size_wh is None and record.image is not None:
        size_wh = image_size(record.image)
    if size_wh is None:
        return record
    return replace(record, boxes=tuple(_scaled(record.boxes, size_wh)))


def _scaled(boxes: Sequence[RawBox], size_wh: tuple[float, float]) -> Iterator[RawBox]:
    kx, ky = size_wh[0] / 100, size_wh[1] / 100
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        yield replace(box, xyxy=(x1 * kx, y1 * ky, x2 * kx, y2 * ky), extent_wh=((x2 - x1) * kx, (y2 - y1) * ky))
