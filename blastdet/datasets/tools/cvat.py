"""CVAT "for images" XML, read and written: ``annotations.xml`` with the images in ``images/`` or elsewhere.

CVAT's exports as COCO, YOLO and Pascal VOC are read by those formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from blastdet.core.errors import FormatError, shown
from blastdet.core.types import Dataset, Scale
from blastdet.datasets.annotations.exported import (
    Export,
    dataset_of,
    ellipse_points,
    raw_box,
    read_export,
    rotated,
)
from blastdet.datasets.annotations.files import read_text
from blastdet.datasets.annotations.records import RawBox, RawRecord, files_below, split_of

_NOT_CELLS = ("polyline", "points", "cuboid", "skeleton", "tag")


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read an export of CVAT in the format "CVAT for images".

    Boxes, also turned ones, polygons, ellipses and masks become the box around them. Other shapes are left out by name.

    Raises `FormatError` if the file is faulty or "CVAT for video", an image is missing, or a class is unknown.

    Parameters
    ----------
    path : Path
        The XML file, or its folder.
    images : Path, optional
        Folder of the images, if they are elsewhere.

    Returns
    -------
    Dataset
        Every label of the task counts as annotated.
    """
    return dataset_of(_export(Path(path), images), class_map, mpp)


def read_records(root: Path) -> list[RawRecord]:
    """Every image entry of every CVAT XML file in a folder, faults included."""
    return list(_export(root).records) if files(root) else []


def files(folder: Path) -> list[Path]:
    """XML files of CVAT in a folder and its folders."""
    return [file for file in files_below(folder, "*.xml") if is_cvat(file)]


def is_cvat(file: Path) -> bool:
    """Whether the root element of an XML file is that of CVAT."""
    try:
        with file.open("rb") as stream:
            return b"<annotations" in stream.read(4096)
    except OSError:
        return False


def _export(path: Path, images: Path | None = None) -> Export:
    return read_export(path, files, parse, images)


def parse(file: Path) -> list[RawRecord]:
    """One record for each ``<image>`` of a file."""
    try:
        tree = ET.fromstring(read_text(file))
    except FormatError as error:
        return [RawRecord(file, problem=str(error).removeprefix(f"{file}: "))]
    except (ET.ParseError, ValueError) as error:
        return [RawRecord(file, problem=f"expected well-formed XML ({error})")]
    if tree.tag != "annotations":
        return [RawRecord(file, problem=f"expected the root element <annotations>, got <{tree.tag:.60}>")]
    if tree.find("track") is not None:
        return [RawRecord(file, problem='expected "CVAT for images", got "CVAT for video". Export it again as images')]
    listed = tuple(dict.fromkeys(name.text or "" for name in tree.iterfind("meta//labels/label/name")))
    return [_record(file, image, listed) for image in tree.iterfind("image")]


def _record(file: Path, image: ET.Element, listed: tuple[str, ...]) -> RawRecord:
    name = image.get("name")
    record = RawRecord(file, name=name, split=split_of(Path(image.get("subset") or ""), Path()), fields={})
    boxes: list[RawBox] = []
    left_out: list[str] = []
    problem = None if name else "expected a name for every <image>, got one without"
    try:
        if image.get("width") and image.get("height"):
            record = replace(record, size_wh=(_number(image, "width"), _number(image, "height")))
        for number, shape in enumerate(image, 1):
            source = f"{name}: {shape.tag} {number}"
            if shape.tag in _NOT_CELLS:
                left_out.append(f"{file.name}: {source}: not a region, left out")
            elif points := list(_points(shape)):
                boxes.append(raw_box(shape.get("label") or "", points, source))
    except ValueError as error:
        problem = problem or f"{name!s:.60}: {error}"
    fields = {"classes": listed, "left_out": tuple(left_out), "perhaps_open": not len(image)}
    return replace(record, boxes=tuple(boxes), problem=problem, fields=fields)


def _points(shape: ET.Element) -> Iterator[tuple[float, float]]:
    """Points around which the box of a shape is; none for an unknown element."""
    if shape.tag == "box":
        x1, y1, x2, y2 = (_number(shape, side) for side in ("xtl", "ytl", "xbr", "ybr"))
        if x2 < x1 or y2 < y1:
            raise ValueError(f"expected xtl <= xbr and ytl <= ybr, got {x1:g}, {y1:g}, {x2:g}, {y2:g}")
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        turn = _number(shape, "rotation", 0.0)
        yield from rotated(corners, turn, ((x1 + x2) / 2, (y1 + y2) / 2)) if turn else corners
    elif shape.tag == "polygon":
        for pair in (shape.get("points") or "").split(";"):
            x, _, y = pair.partition(",")
            yield _float(x, "points"), _float(y, "points")
    elif shape.tag == "ellipse":
        centre = _number(shape, "cx"), _number(shape, "cy")
        radii = _number(shape, "rx"), _number(shape, "ry")
        yield from ellipse_points(centre, radii, _number(shape, "rotation", 0.0))
    elif shape.tag == "mask":
        left, top = _number(shape, "left"), _number(shape, "top")
        yield left, top
        yield left + _number(shape, "width"), top + _number(shape, "height")


def _number(element: ET.Element, name: str, default: float | None = None) -> float:
    text = element.get(name)
    if text is None and default is not None:
        return default
    return _float(text or "", name)


def _float(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number as {name}, got {shown(text)}") from None
