"""VGG Image Annotator (VIA 1 and 2): a project or the annotations as JSON, or the annotations as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import Dataset, Scale
from blastdet.datasets.annotations import json_kind
from blastdet.datasets.annotations.exported import Export, dataset_of, ellipse_points, raw_box, read_export
from blastdet.datasets.annotations.files import FAULTS, read_json, read_text
from blastdet.datasets.annotations.records import RawBox, RawRecord, files_below

_CLASS_ATTRIBUTES = ("class", "label", "name", "type", "category", "cell", "cell_type", "class_name")
_COLUMNS = ("region_shape_attributes", "region_attributes")


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read annotations of VIA.

    Rectangles, circles, ellipses, polygons and polylines become the box around them; points are left out by name. The
    class of a region is its only attribute, or the one called class, label, name, type or category.

    Raises `FormatError` if the file is faulty, an image is missing, or a class is unknown.

    Parameters
    ----------
    path : Path
        The JSON or CSV file, or its folder.
    images : Path, optional
        Folder of the images, if they are elsewhere.

    Returns
    -------
    Dataset
        Every class that occurs, or is an option of the attribute, counts as annotated.
    """
    return dataset_of(_export(Path(path), images), class_map, mpp)


def read_records(root: Path) -> list[RawRecord]:
    """Every image of every VIA file in a folder, faults included."""
    return list(_export(root).records) if files(root) else []


def files(folder: Path) -> list[Path]:
    """JSON and CSV files of VIA in a folder and its folders."""
    return json_kind.files_of("via", folder) or [file for file in files_below(folder, "*.csv") if is_table(file)]


def is_table(file: Path) -> bool:
    """Whether a file is a CSV table of VIA, by its first line."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            head = stream.readline(4096)
    except OSError:
        return False
    return all(column in head for column in _COLUMNS)


def _export(path: Path, images: Path | None = None) -> Export:
    return read_export(path, files, parse, images)


def parse(file: Path) -> list[RawRecord]:
    """One record for each image of a file."""
    try:
        entries, options = _table(file) if file.suffix.lower() == ".csv" else _document(file)
    except FormatError as error:
        return [RawRecord(file, problem=str(error).removeprefix(f"{file}: "))]
    except FAULTS as error:
        return [RawRecord(file, problem=f"expected annotations of VIA ({shown(error, 120)})")]
    return [_record(file, name, regions, options) for name, regions in entries]


def _document(file: Path) -> tuple[list[tuple[str, list[Any]]], tuple[str, ...]]:
    document = read_json(file)
    if not isinstance(document, dict):
        raise FormatError(f"{file}: expected annotations of VIA, got a list")
    entries = []
    for entry in document.get("_via_img_metadata", document).values():
        regions = entry["regions"]
        entries.append((str(entry["filename"]), list(regions.values() if isinstance(regions, dict) else regions)))
    attributes = (document.get("_via_attributes") or {}).get("region") or {}
    listed = [option for about in attributes.values() for option in (about.get("options") or ())]
    return entries, tuple(listed)


def _table(file: Path) -> tuple[list[tuple[str, list[Any]]], tuple[str, ...]]:
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
    images: dict[str, list[Any]] = {}
    try:
        for row in rows:
            regions = images.setdefault(row.get("filename") or row["#filename"], [])
            shape = json.loads(row["region_shape_attributes"] or "{}")
            if shape:
                regions.append({"shape_attributes": shape, "region_attributes": json.loads(row["region_attributes"])})
    except csv.Error as error:
        raise FormatError(f"{file}: expected a CSV file ({error})") from None
    return list(images.items()), ()


def _record(file: Path, name: str, regions: list[Any], options: tuple[str, ...]) -> RawRecord:
    boxes: list[RawBox] = []
    left_out: list[str] = []
    problem = None
    for number, region in enumerate(regions, 1):
        source = f"{name}: region {number}"
        try:
            shape = region["shape_attributes"]
            if shape["name"] == "point":
                left_out.append(f"{file.name}: {source}: a point, left out")
            else:
                boxes.append(raw_box(_class_name(region.get("region_attributes") or {}), _points(shape), source))
        except FAULTS as error:
            problem = problem or f"{source} is faulty ({shown(error, 120)})"
    fields = {"classes": options, "left_out": tuple(left_out), "perhaps_open": not regions}
    return RawRecord(file, name=name, boxes=tuple(boxes), problem=problem, fields=fields)


def _class_name(attributes: Mapping[str, Any]) -> str:
    names = {key.casefold(): key for key in attributes}
    key = next((names[name] for name in _CLASS_ATTRIBUTES if name in names), next(iter(attributes), None))
    value = attributes.get(key, "") if key is not None else ""
    if isinstance(value, dict):  # check boxes: {"wbc": true}
        value = next((name for name, checked in value.items() if checked), "")
    return str(value).strip()


def _points(shape: Mapping[str, Any]) -> list[tuple[float, float]]:
    kind = shape["name"]
    if kind == "rect":
        x, y, w, h = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return [(x, y), (x + w, y + h)]
    if kind == "circle":
        radius = float(shape["r"])
        return ellipse_points((float(shape["cx"]), float(shape["cy"])), (radius, radius))
    if kind == "ellipse":
        turn = float(shape.get("theta") or 0) * 57.29577951308232  # radians in the file
        centre, radii = (float(shape["cx"]), float(shape["cy"])), (float(shape["rx"]), float(shape["ry"]))
        return ellipse_points(centre, radii, turn)
    if kind in ("polygon", "polyline"):
        return [(float(x), float(y)) for x, y in zip(shape["all_points_x"], shape["all_points_y"], strict=True)]
    raise ValueError(f"expected a rect, circle, ellipse or polygon, got {shown(kind)}")
