"""Supervisely: ``meta.json``, and in each dataset ``img/NAME`` with ``ann/NAME.json``."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import Dataset, Scale
from blastdet.datasets.annotations import json_kind
from blastdet.datasets.annotations.exported import Export, dataset_of, raw_box, read_export
from blastdet.datasets.annotations.files import FAULTS, read_json
from blastdet.datasets.annotations.records import RawBox, RawRecord, split_of

_REGIONS = ("rectangle", "polygon", "bitmap")
_PNG_HEAD = 24  # bytes up to width and height


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read a project of Supervisely.

    Rectangles, polygons and bitmaps become the box around them; points and lines are left out by name.

    Raises `FormatError` if a file is faulty, an image is missing, or a class is unknown.

    Parameters
    ----------
    path : Path
        The folder of the project, or of one of its datasets.
    images : Path, optional
        Folder of the images, if they are elsewhere.

    Returns
    -------
    Dataset
        Every class of ``meta.json`` counts as annotated.
    """
    return dataset_of(_export(Path(path), images), class_map, mpp)


def read_records(root: Path) -> list[RawRecord]:
    """Every annotation file of a project, faults included."""
    return list(_export(root).records) if files(root) else []


def files(folder: Path) -> list[Path]:
    """Annotation files of a project: ``ann/*.json`` or ``*/ann/*.json``."""
    return [file for file in json_kind.files_of("supervisely", folder) if file.parent.name == "ann"]


def _export(path: Path, images: Path | None = None) -> Export:
    root = path if path.is_dir() else path.parent
    classes = _classes(root)
    return read_export(path, files, lambda file: [parse(file, root, classes)], images)


def _classes(root: Path) -> tuple[str, ...]:
    for file in (root / "meta.json", root.parent / "meta.json"):
        if file.is_file():
            try:
                return tuple(str(row["title"]) for row in read_json(file)["classes"])
            except (FormatError, *FAULTS):
                return ()
    return ()


def parse(file: Path, root: Path, classes: tuple[str, ...] = ()) -> RawRecord:
    """Parse one file below the folder `root`, whose folders may name a split."""
    try:
        document = read_json(file)
        size_wh = (float(document["size"]["width"]), float(document["size"]["height"]))
        objects = list(document["objects"])
    except FormatError as error:
        return RawRecord(file, problem=str(error).removeprefix(f"{file}: "))
    except FAULTS as error:
        return RawRecord(file, problem=f"expected a file of Supervisely ({shown(error, 120)})")
    boxes: list[RawBox] = []
    left_out: list[str] = []
    problem = None
    for number, one in enumerate(objects, 1):
        source = f"object {number}"
        try:
            kind = str(one["geometryType"])
            if kind in _REGIONS:
                boxes.append(raw_box(str(one["classTitle"]), _points(one, kind), source))
            else:
                left_out.append(f"{file.name}: {source}: a {kind:.60}, left out")
        except (binascii.Error, zlib.error, struct.error, *FAULTS) as error:
            problem = problem or f"{source} is faulty ({shown(error, 120)})"
    fields = {"classes": classes, "left_out": tuple(left_out)}
    split = split_of(file.parent / "x", root)
    return RawRecord(
        file, name=file.stem, split=split, size_wh=size_wh, boxes=tuple(boxes), problem=problem, fields=fields
    )


def _points(one: Mapping[str, Any], kind: str) -> list[tuple[float, float]]:
    if kind == "bitmap":
        x, y = (float(value) for value in one["bitmap"]["origin"])
        head = zlib.decompressobj().decompress(base64.b64decode(one["bitmap"]["data"]), _PNG_HEAD)
        if not head.startswith(b"\x89PNG"):
            raise ValueError("expected a PNG as the data of a bitmap")
        w, h = struct.unpack(">II", head[16:24])
        return [(x, y), (x + w, y + h)]
    points = [(float(x), float(y)) for x, y in one["points"]["exterior"]]
    if kind == "rectangle":  # its second corner is the last pixel inside
        (x1, y1), (x2, y2) = points
        left, top, right, bottom = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        return [(left, top), (right + 1, bottom + 1)]
    return points
