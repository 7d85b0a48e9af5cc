"""labelme: one JSON file for each image, usually next to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import Dataset, Scale
from blastdet.datasets.annotations import json_kind
from blastdet.datasets.annotations.exported import Export, dataset_of, ellipse_points, raw_box, read_export
from blastdet.datasets.annotations.files import FAULTS, read_json
from blastdet.datasets.annotations.records import RawBox, RawRecord, split_of

_REGIONS = ("polygon", "rectangle", "circle", "mask", "oriented_rectangle")


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read annotations of labelme.

    Rectangles, polygons, circles and masks become the box around them; points and lines are left out by name.

    Raises `FormatError` if a file is faulty, an image is missing, or a class is unknown.

    Parameters
    ----------
    path : Path
        A JSON file, or a folder with them, at any depth.
    images : Path, optional
        Folder of the images, if they are elsewhere.

    Returns
    -------
    Dataset
        Every class that occurs counts as annotated in every image with a JSON file.
    """
    return dataset_of(_export(Path(path), images), class_map, mpp)


def read_records(root: Path) -> list[RawRecord]:
    """Every labelme file in a folder, faults included."""
    return list(_export(root).records) if files(root) else []


def files(folder: Path) -> list[Path]:
    """JSON files of labelme in a folder and its folders."""
    return json_kind.files_of("labelme", folder)


def _export(path: Path, images: Path | None = None) -> Export:
    root = path if path.is_dir() else path.parent
    return read_export(path, files, lambda file: [parse(file, root)], images, per_image=True)


def parse(file: Path, root: Path) -> RawRecord:
    """Parse one file below the folder `root`, whose folders may name a split."""
    try:
        document = read_json(file)
    except FormatError as error:
        return RawRecord(file, problem=str(error).removeprefix(f"{file}: "))
    boxes: list[RawBox] = []
    left_out: list[str] = []
    try:
        name, shapes = str(document["imagePath"]), list(document["shapes"])
        w, h = document.get("imageWidth"), document.get("imageHeight")
        size_wh = (float(w), float(h)) if w and h else None
    except FAULTS as error:
        return RawRecord(file, problem=f"expected a file of labelme ({shown(error, 120)})")
    problem = None
    for number, shape in enumerate(shapes, 1):
        source = f"shape {number}"
        try:
            kind = str(shape.get("shape_type") or "polygon")
            if kind in _REGIONS:
                boxes.append(raw_box(str(shape.get("label") or ""), _points(shape, kind), source))
            else:
                left_out.append(f"{file.name}: {source}: a {kind:.60}, left out")
        except FAULTS as error:
            problem = problem or f"{source} is faulty ({shown(error, 120)})"
    fields = {"left_out": tuple(left_out)}
    split = split_of(file.parent / "x", root)
    return RawRecord(file, name=name, split=split, size_wh=size_wh, boxes=tuple(boxes), problem=problem, fields=fields)


def _points(shape: Mapping[str, Any], kind: str) -> list[tuple[float, float]]:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if kind == "circle":
        centre, edge = points
        radius = math.dist(centre, edge)
        return ellipse_points(centre, (radius, radius))
    if kind == "mask":  # the corners are pixels of the mask
        (x1, y1), (x2, y2) = points
        return [(x1, y1), (x2 + 1, y2 + 1)]
    return points
