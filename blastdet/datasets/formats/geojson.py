"""GeoJSON as QuPath reads it: one file a picture, each cell a *detection* (not an annotation).

QuPath's own form since 0.4: ``objectType``, ``classification`` with a name and an RGB colour, ``measurements`` as an
object of numbers. What is no number lies in ``metadata``. Coordinates are full pixels, y downwards.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.atomic_io import write_text
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import FormatError
from blastdet.core.palette import COLOURS
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, Scale
from blastdet.datasets.formats.class_names import label_of
from blastdet.datasets.formats.files import FAULTS, folder_of, place_images, read_json
from blastdet.datasets.splits import SPLITS
from blastdet.imaging.io import IMAGE_SUFFIXES, image_size

_NAMESPACE = uuid.UUID("6f3c1a52-7c3e-5d0e-9a59-5c0d2f1f8e11")
_NUMBERS = {"score": "Score", "blast_probability": "Blast probability"}
_WORDS = ("origin", "cell_type", "id")


def write(dataset: Dataset, path: Path, *, how: str = "copy") -> Dataset:
    """Write ``geojson/<split>/<stem>.geojson`` beside ``images/<split>/`` below the folder `path`."""
    placed = place_images(dataset, Path(path), how)
    for sample in placed:
        if sample.truth is not None:
            target = placed.root / "geojson" / folder_of(sample) / f"{sample.path.stem}.geojson"
            write_cells(target, sample.truth, sample.mpp)
    return placed


def write_cells(path: Path, cells: Detections, mpp: Scale | None = None) -> None:
    """Write the cells of one picture as one GeoJSON file."""
    write_text(path, _pieces(cells, mpp, path.stem))


def _pieces(cells: Detections, mpp: Scale | None, name: str) -> Iterator[str]:
    """`feature_collection`, a line for each cell."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    yield encode(feature_collection(Detections.empty(), name=name)).removesuffix("]}")
    for i in range(len(cells)):
        yield (",\n" if i else "\n") + encode(_feature(cells, i, mpp, name))
    yield "]}\n"


def feature_collection(cells: Detections, mpp: Scale | None = None, name: str = "") -> dict[str, Any]:
    """Cells as a GeoJSON FeatureCollection.

    Parameters
    ----------
    cells : Detections
    mpp : (float, float), optional
        µm/px, for the measurements of size.
    name : str
        Of the picture; ids are made from it and the number of the cell, so that the same run gives the same file.
    """
    features = [_feature(cells, i, mpp, name) for i in range(len(cells))]
    return {"type": "FeatureCollection", "notice": RESEARCH_USE, "features": features}


def _feature(cells: Detections, i: int, mpp: Scale | None, name: str) -> dict[str, Any]:
    label = CELL_CLASSES[cells.label[i]]
    x1, y1, x2, y2 = (float(v) for v in cells.boxes_xyxy[i])
    measurements = {}
    for column, words in _NUMBERS.items():
        values = getattr(cells, column)
        if values is not None and not math.isnan(values[i]):
            measurements[words] = float(str(values[i]))
    if mpp is not None and not math.isnan(x1):
        measurements |= {"Width µm": round((x2 - x1) * mpp[0], 3), "Height µm": round((y2 - y1) * mpp[1], 3)}
    metadata = {word: str(values[i]) for word in _WORDS if (values := getattr(cells, word)) is not None}
    if cells.point_xy is not None and not np.isnan(cells.point_xy[i]).any():
        metadata["point_xy"] = " ".join(str(v) for v in cells.point_xy[i])
    if cells.unsure is not None:
        metadata["unsure"] = "true" if cells.unsure[i] else "false"
    if cells.ignore is not None:
        metadata["ignore"] = "true" if cells.ignore[i] else "false"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{name}/{i}")),
        "geometry": _geometry(cells, i),
        "properties": {
            "objectType": "detection",
            "classification": {"name": label, "color": list(COLOURS[label])},
            "measurements": measurements,
            "metadata": metadata,
        },
    }


def _geometry(cells: Detections, i: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in cells.boxes_xyxy[i])
    if math.isnan(x1):
        return {"type": "Point", "coordinates": [float(v) for v in np.nan_to_num(cells.centres_xy[i])]}
    return {"type": "Polygon", "coordinates": [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]]}


def read(path: Path, *, class_map: Mapping[str, str] | None = None, mpp: Scale | None = None) -> Dataset:
    """Read GeoJSON files and their pictures, ours or as exported from QuPath.

    Parameters
    ----------
    path : Path
        A file, or a folder with ``.geojson`` files at any depth. The picture has the same stem and lies beside the
        file, or below ``images/`` where the file lies below ``geojson/``.
    class_map : mapping, optional
        Foreign class name -> ours.
    mpp : (float, float), optional
        µm/px of all pictures.

    Raises
    ------
    FormatError
        Not GeoJSON, no picture, a shape that is neither polygon nor point, a cell without class or of an unknown one.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("*.geojson"))
    if not files:
        raise FormatError(f"{path}: no .geojson file found")
    root = path if path.is_dir() else path.parent
    smears = []
    for file in files:
        picture = _picture_of(file)
        cells = read_cells(file, class_map)
        sample = Sample(picture, image_size(picture), mpp=mpp, truth=cells)
        smears.append(replace(sample, split=file.parent.name if file.parent.name in SPLITS else None))
    dataset = Dataset(root.name, root, tuple(smears))
    return replace(dataset, samples=tuple(replace(sample, annotated=dataset.classes) for sample in smears))


def _picture_of(file: Path) -> Path:
    folders = [file.parent]
    if "geojson" in file.parts:
        i = len(file.parts) - 1 - file.parts[::-1].index("geojson")
        folders.append(Path(*file.parts[:i], "images", *file.parts[i + 1 : -1]))
    for folder in folders:
        for suffix in sorted(IMAGE_SUFFIXES) + sorted(s.upper() for s in IMAGE_SUFFIXES):
            if (folder / f"{file.stem}{suffix}").is_file():
                return folder / f"{file.stem}{suffix}"
    raise FormatError(f"{file}: no picture {file.stem}.* found beside it or in images/")


def read_cells(path: Path, class_map: Mapping[str, str] | None = None) -> Detections:
    """Cells of one GeoJSON file; a polygon counts as its bounding box.

    Raises
    ------
    FormatError
        See `read`.
    """
    document = read_json(path)
    features = document.get("features") if isinstance(document, dict) else document
    if not isinstance(features, list):
        raise FormatError(f"{path}: no list of features found, a GeoJSON FeatureCollection expected")
    parsed = []
    for number, feature in enumerate(features, 1):
        try:
            parsed.append(_parse(feature, path, class_map))
        except FAULTS as error:
            raise FormatError(f"{path}: feature {number} is faulty ({error!r})") from None
    try:
        with np.errstate(over="raise"):
            return _collect(parsed)
    except FAULTS as error:
        raise FormatError(f"{path}: features do not fit together ({error!r})") from None


def _parse(feature: Any, path: Path, class_map: Mapping[str, str] | None) -> dict[str, Any]:
    properties = feature["properties"]
    geometry = feature["geometry"]
    metadata = properties.get("metadata") or {}
    measured = properties.get("measurements") or {}
    if isinstance(measured, list):  # QuPath before 0.4
        measured = {item["name"]: item["value"] for item in measured}
    cell: dict[str, Any] = {word: str(metadata[word]) for word in _WORDS if word in metadata}
    cell |= {column: float(measured[words]) for column, words in _NUMBERS.items() if words in measured}
    cell |= {word: metadata[word] == "true" for word in ("ignore", "unsure") if word in metadata}
    if "point_xy" in metadata:
        cell["point_xy"] = [float(word) for word in metadata["point_xy"].split()]
    if geometry["type"] == "Point":
        point = [float(v) for v in geometry["coordinates"][:2]]
        cell = {"point_xy": point, **cell, "box": [math.nan] * 4}
    elif geometry["type"] in ("Polygon", "MultiPolygon"):
        shapes = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        outline = np.array([corner[:2] for shape in shapes for corner in shape[0]], np.float64)
        cell["box"] = [*outline.min(axis=0), *outline.max(axis=0)]
    else:
        raise ValueError(f"geometry {geometry['type']!r}, Polygon or Point expected")
    cell["label"] = label_of(str(properties["classification"]["name"]), class_map, str(path))
    return cell


def _collect(cells: Sequence[Mapping[str, Any]]) -> Detections:
    unknown: dict[str, Any] = {"score": 1.0, "blast_probability": math.nan, "point_xy": [math.nan] * 2}
    unknown |= {"ignore": False, "unsure": False}
    columns = {
        name: [cell.get(name, unknown.get(name, "")) for cell in cells]
        for name in (*_NUMBERS, *_WORDS, "point_xy", "ignore", "unsure")
        if any(name in cell for cell in cells)
    }
    boxes = np.array([cell["box"] for cell in cells], np.float32).reshape(-1, 4)
    label = np.array([cell["label"] for cell in cells], np.int64)
    return Detections(boxes, label=label, **columns)
