"""GeoJSON as QuPath reads it: one file for each image, each cell as a *detection* (not an annotation).

The form of QuPath 0.4 and later: ``objectType``, ``classification`` with a name and an RGB colour, ``measurements`` as
an object of numbers. Other values are in ``metadata``. Coordinates are pixels of the full image, y downwards.
"""

from __future__ import annotations

import json
import math
import uuid
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import write_text
from blastdet.core.columns import by_type, shown_as
from blastdet.core.constants import CELL_TYPES, PALETTE, RESEARCH_USE
from blastdet.core.errors import FormatError, shown
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, Scale
from blastdet.datasets.annotations.class_names import labels_of_names, with_types
from blastdet.datasets.annotations.exported import left_out_lines
from blastdet.datasets.annotations.files import (
    EXTRA,
    FAULTS,
    FLAGS,
    NUMBERS,
    WORDS,
    folder_of,
    place_images,
    read_json,
    unknown,
)
from blastdet.datasets.annotations.image_lookup import ImageLookup
from blastdet.datasets.annotations.records import (
    RawBox,
    RawRecord,
    clipped_note,
    files_below,
    fit,
    inside,
    refuse_problem,
)
from blastdet.datasets.splits import SPLITS
from blastdet.imaging.io import IMAGE_SUFFIXES, image_size

_NAMESPACE = uuid.UUID("6f3c1a52-7c3e-5d0e-9a59-5c0d2f1f8e11")
_MEASUREMENTS = {name: name.replace("_", " ").capitalize() for name in NUMBERS}  # column -> its name in QuPath
_TYPES = {name: f"Probability {name.replace('_', ' ')}" for name in CELL_TYPES}


def write(dataset: Dataset, path: Path, *, how: str = "copy") -> Dataset:
    """Write ``geojson/<split>/<stem>.geojson`` next to ``images/<split>/`` below the folder `path`."""
    placed = place_images(dataset, Path(path), how)
    for sample in placed:
        if sample.truth is not None:
            target = placed.root / "geojson" / folder_of(sample) / f"{sample.path.stem}.geojson"
            write_cells(target, sample.truth, sample.mpp)
    return placed


def write_cells(path: Path, cells: Detections, mpp: Scale | None = None) -> None:
    """Write the cells of one image as one GeoJSON file."""
    write_text(path, _pieces(cells, mpp, path.stem))


def _pieces(cells: Detections, mpp: Scale | None, name: str) -> Iterator[str]:
    """The text of `feature_collection`, one line for each cell."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    yield encode(feature_collection(Detections.empty(), name=name)).removesuffix("]}")
    for i, kind in enumerate(shown_as(cells)):
        yield (",\n" if i else "\n") + encode(_feature(cells, i, kind, mpp, name))
    yield "]}\n"


def feature_collection(cells: Detections, mpp: Scale | None = None, name: str = "") -> dict[str, Any]:
    """Cells as a GeoJSON FeatureCollection.

    Parameters
    ----------
    mpp : (float, float), optional
        µm/px, for the measurements of size.
    name : str
        Name of the image. Ids are derived from it and from the number of the cell, so that the same run writes the
        same file.
    """
    features = [_feature(cells, i, kind, mpp, name) for i, kind in enumerate(shown_as(cells))]
    return {"type": "FeatureCollection", "notice": RESEARCH_USE, "features": features}


def _feature(cells: Detections, i: int, kind: str, mpp: Scale | None, name: str) -> dict[str, Any]:
    label = CELL_CLASSES[cells.label[i]]
    names = {"name": label} if kind == label else {"names": [label, kind]}  # a class derived from another
    x1, y1, x2, y2 = (float(v) for v in cells.boxes_xyxy[i])
    measurements = {}
    for column, words in _MEASUREMENTS.items():
        values = getattr(cells, column)
        if values is not None and not math.isnan(values[i]):
            measurements[words] = float(str(values[i]))
    if cells.type_probability is not None:
        measurements |= {_TYPES[name]: value for name, value in by_type(cells.type_probability[i]).items()}
    if mpp is not None and not math.isnan(x1):
        measurements |= {"Width µm": round((x2 - x1) * mpp[0], 3), "Height µm": round((y2 - y1) * mpp[1], 3)}
    metadata = {word: str(values[i]) for word in WORDS if (values := getattr(cells, word)) is not None}
    if cells.point_xy is not None and not np.isnan(cells.point_xy[i]).any():
        metadata["point_xy"] = " ".join(str(v) for v in cells.point_xy[i])
    for flag in FLAGS:
        values = getattr(cells, flag)
        if values is not None:
            metadata[flag] = "true" if values[i] else "false"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{name}/{i}")),
        "geometry": _geometry(cells, i),
        "properties": {
            "objectType": "detection",
            "classification": {**names, "color": list(PALETTE[kind])},
            "measurements": measurements,
            "metadata": metadata,
        },
    }


def _geometry(cells: Detections, i: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in cells.boxes_xyxy[i])
    if math.isnan(x1):
        return {"type": "Point", "coordinates": [float(v) for v in np.nan_to_num(cells.centres_xy[i])]}
    return {"type": "Polygon", "coordinates": [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]]}


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read GeoJSON files and their images, written by blastdet or exported from QuPath.

    Raises `FormatError` if a file is not GeoJSON or has no image, if a region is neither polygon nor point, or a class
    is unknown. Regions without a class, as a field that was outlined, are left out by name.

    Parameters
    ----------
    path : Path
        A file, or a folder with ``.geojson`` files at any depth. The image has the same stem (``a.geojson``) or name
        (``a.jpg.geojson``) and is next to the file, or below ``images/`` if the file is below ``geojson/``.
    images : Path, optional
        Folder of the images, if they are elsewhere.

    Returns
    -------
    Dataset
        Boxes are clipped to their image; `dropped` names each one without area or outside it.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("*.geojson"))
    if not files:
        raise FormatError(f"{path}: expected .geojson files, got none")
    root = path if path.is_dir() else path.parent
    lookup = ImageLookup.below(images or root)
    records = [replace(parse(file), image=_image_of(file, lookup, images is None)) for file in files]
    for record in records:
        refuse_problem(record)
    names = Counter(box.name for record in records for box in record.boxes)
    labels = labels_of_names(names, class_map, str(path))
    samples, clipped = [], []
    dropped = [line for record in records for line in record.fields["left_out"]] + left_out_lines(names, labels)
    for record in records:
        assert record.image is not None
        size_wh = image_size(record.image)
        known = replace(record, boxes=tuple(box for box in record.boxes if labels[box.name] is not None))
        fitted = fit(known, size_wh)
        dropped += fitted.dropped
        clipped += fitted.clipped
        sample = Sample(record.image, size_wh, mpp=mpp, truth=_cells(inside(known, fitted), class_map))
        folder = record.file.parent.name
        samples.append(replace(sample, split=folder if folder in SPLITS else None))
    dataset = Dataset(root.name, root, tuple(samples), tuple(dropped), clipped_note(clipped))
    return replace(dataset, samples=tuple(replace(sample, annotated=dataset.classes) for sample in samples))


def _image_of(file: Path, lookup: ImageLookup, beside: bool = True) -> Path:
    """The image of a file: next to it or in ``images/`` if `beside`, else anywhere in `lookup`."""
    folders = [file.parent]
    if "geojson" in file.parts:
        i = len(file.parts) - 1 - file.parts[::-1].index("geojson")
        folders.append(Path(*file.parts[:i], "images", *file.parts[i + 1 : -1]))
    for folder in folders if beside else []:
        for suffix in sorted(IMAGE_SUFFIXES) + sorted(s.upper() for s in IMAGE_SUFFIXES):
            if (folder / f"{file.stem}{suffix}").is_file():
                return folder / f"{file.stem}{suffix}"
    found = lookup.find(file.stem, file) or lookup.find_stem(file.stem, file)
    if found is None:
        where = "next to it or in images/" if beside else f"in {lookup.root}"
        raise FormatError(f"{file}: expected an image {file.stem}.* {where}, got none. Pass its folder: --images DIR")
    return found


def read_cells(path: Path, class_map: Mapping[str, str] | None = None) -> Detections:
    """Cells of one GeoJSON file. Polygons become their bounding boxes.

    Raises `FormatError`: see `read`.
    """
    record = parse(path)
    refuse_problem(record)
    return _cells(record, class_map)


def _cells(record: RawRecord, class_map: Mapping[str, str] | None) -> Detections:
    names = Counter(box.name for box in record.boxes)
    labels = labels_of_names(names, class_map, str(record.file))
    known = [(box, label) for box in record.boxes if (label := labels[box.name]) is not None]
    try:
        with np.errstate(over="raise"):
            return _collect([box for box, _ in known], [label for _, label in known], class_map or ())
    except FAULTS as error:
        raise FormatError(f"{record.file}: features do not fit together ({shown(error, 120)})") from None


def read_records(root: Path) -> list[RawRecord]:
    """Every GeoJSON file below a folder, faults included."""
    records = []
    lookup = ImageLookup.below(root)
    for file in files_below(root, "*.geojson"):
        try:
            image = _image_of(file, lookup)
        except FormatError:
            image = None
        split = file.parent.name if file.parent.name in SPLITS else None
        records.append(replace(parse(file), image=image, split=split))
    return records


def parse(file: Path) -> RawRecord:
    """Parse one GeoJSON file."""
    try:
        document = read_json(file)
    except FormatError as error:
        return RawRecord(file, problem=str(error).removeprefix(f"{file}: "), fields={"left_out": ()})
    features = document.get("features") if isinstance(document, dict) else document
    if not isinstance(features, list):
        return RawRecord(file, problem="expected a GeoJSON FeatureCollection, got no list of features")
    boxes: list[RawBox] = []
    left_out: list[str] = []
    problem = None
    for number, feature in enumerate(features, 1):
        try:
            if _class_name(feature):
                boxes.append(_box(feature, f"feature {number}"))
            else:
                name = str(feature["properties"].get("name") or "")
                left_out.append(f"{file.name}: feature {number}{f' ({name:.60})' if name else ''}: no class, left out")
        except FAULTS as error:
            problem = problem or f"feature {number} is faulty ({shown(error, 120)})"
    return RawRecord(file, boxes=tuple(boxes), problem=problem, fields={"left_out": tuple(left_out)})


def _class_name(feature: Any) -> str:
    """The class of a region in QuPath; empty if it has none."""
    about = feature["properties"].get("classification")
    if not about:
        return ""
    if isinstance(about, str):
        return about
    return str(about["names"][0] if about.get("names") else about.get("name") or "")


def _box(feature: Any, source: str) -> RawBox:
    properties = feature["properties"]
    geometry = feature["geometry"]
    metadata = properties.get("metadata") or {}
    measured = properties.get("measurements") or {}
    if isinstance(measured, list):  # QuPath before 0.4
        measured = {item["name"]: item["value"] for item in measured}
    cell: dict[str, Any] = {word: str(metadata[word]) for word in WORDS if word in metadata}
    cell |= {column: float(measured[words]) for column, words in _MEASUREMENTS.items() if words in measured}
    if any(words in measured for words in _TYPES.values()):
        cell["type_probability"] = [float(measured.get(words, math.nan)) for words in _TYPES.values()]
    cell |= {word: metadata[word] == "true" for word in FLAGS if word in metadata}
    if "point_xy" in metadata:
        cell["point_xy"] = [float(word) for word in metadata["point_xy"].split()]
    if geometry["type"] == "Point":
        point = [float(v) for v in geometry["coordinates"][:2]]
        cell, corners = {"point_xy": point, **cell}, [math.nan] * 4
    elif geometry["type"] in ("Polygon", "MultiPolygon"):
        shapes = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        outline = np.array([corner[:2] for shape in shapes for corner in shape[0]], np.float64)
        corners = [float(value) for value in (*outline.min(axis=0), *outline.max(axis=0))]
    else:
        raise ValueError(f"expected a Polygon or Point, got {shown(geometry['type'])}")
    if not np.isfinite(cell["point_xy"] if geometry["type"] == "Point" else corners).all():
        raise ValueError("expected finite coordinates")
    x1, y1, x2, y2 = corners
    return RawBox(_class_name(feature), (x1, y1, x2, y2), (x2 - x1, y2 - y1), source, math.isnan(x1), cell)


def _collect(cells: Sequence[RawBox], label: Sequence[int], mapped: Container[str]) -> Detections:
    columns = {
        name: [cell.fields.get(name, unknown(name)) for cell in cells]
        for name in EXTRA
        if any(name in cell.fields for cell in cells)
    }
    boxes = np.array([cell.xyxy for cell in cells], np.float32).reshape(-1, 4)
    found = Detections(boxes, label=np.array(label, np.int64), **columns)
    return with_types(found, [cell.name for cell in cells], mapped)
