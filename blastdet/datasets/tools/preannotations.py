"""Datasets and detections for CVAT and Label Studio, where a person goes on labelling.

Cells of a model become what these programs show as proposals: ``source="auto"`` in CVAT, predictions in Label Studio.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

import blastdet
from blastdet.core.atomic_io import write_text
from blastdet.core.constants import HEX
from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.annotations.files import place_images
from blastdet.datasets.formats.coco_writer import categories

_NAMESPACE = uuid.UUID("0d2c4c4e-54a7-5f6b-8d39-0f2f52f0a4b1")
_DECIMALS = 4  # of a pixel: far below what a person can see


def write_cvat(dataset: Dataset, path: Path, *, how: str = "copy") -> Dataset:
    """Write ``cvat/annotations.xml`` (CVAT 1.1) and ``cvat/instances_default.json`` (COCO 1.0) below the folder `path`.

    Images are called by their file name alone, so that CVAT finds them in a task to which they were uploaded from
    ``path/images``. Either file can be uploaded as annotations.

    Raises `FormatError` if two images have one name, as those that already are below ``path/images`` may.

    Returns
    -------
    Dataset
        With the paths of the written images, and a note on cells that are not in the files.
    """
    placed = place_images(dataset, Path(path), how)
    _check_names(placed)
    folder = placed.root / "cvat"
    tree = ET.Element("annotations")
    ET.SubElement(tree, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(tree, "meta"), "task")
    for key, text in (("name", placed.name), ("size", str(len(placed))), ("mode", "annotation")):
        ET.SubElement(task, key).text = _xml_text(text)
    labels = ET.SubElement(task, "labels")
    for name in placed.classes:
        label = ET.SubElement(labels, "label")
        for key, text in (("name", name), ("color", HEX[name]), ("type", "rectangle")):
            ET.SubElement(label, key).text = text
    for number, sample in enumerate(placed):
        tree.append(_cvat_image(sample, number))
    ET.indent(tree)
    write_text(folder / "annotations.xml", '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(tree, "unicode"))
    document = json.dumps(_coco_document(placed), ensure_ascii=False, allow_nan=False)
    write_text(folder / "instances_default.json", document + "\n")
    return _with_note(placed, "CVAT")


def write_label_studio(dataset: Dataset, path: Path, *, how: str = "copy") -> Dataset:
    """Write ``labelstudio/tasks.json`` to import and ``labelstudio/config.xml``, the labelling interface, below `path`.

    Images are addressed as local files: start Label Studio with ``LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true`` and
    ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`` set to the folder `path`. Cells of a model become predictions, others
    annotations.

    Returns
    -------
    Dataset
        With the paths of the written images, and a note on cells that are not in the files.
    """
    placed = place_images(dataset, Path(path), how)
    folder = placed.root / "labelstudio"
    tasks = [_task(sample, placed.file_name(sample)) for sample in placed]
    write_text(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image", zoom="true", zoomControl="true")
    labels = ET.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in placed.classes:
        ET.SubElement(labels, "Label", value=name, background=HEX[name])
    ET.indent(view)
    write_text(folder / "config.xml", ET.tostring(view, "unicode") + "\n")
    return _with_note(placed, "Label Studio")


def _check_names(placed: Dataset) -> None:
    """CVAT finds an image by its name alone: of two with one name, one would get the cells of the other."""
    seen: dict[str, Sample] = {}
    for sample in placed:
        other = seen.setdefault(_xml_text(sample.path.name), sample)
        if other is not sample:
            one, two = placed.file_name(other), placed.file_name(sample)
            raise FormatError(
                f"{placed.root}: expected distinct names for CVAT, got {one:.120} and {two:.120}. "
                "Write to a new folder: images of the same name are renamed there"
            )


def _boxed(sample: Sample) -> Detections:
    """The cells of an image that a box can show and that are cells: not ignored, with a box."""
    cells = sample.truth if sample.truth is not None else Detections.empty()
    left_out = np.isnan(cells.boxes_xyxy).any(axis=1)
    return cells[np.flatnonzero(~(left_out if cells.ignore is None else left_out | cells.ignore))]


def _with_note(placed: Dataset, program: str) -> Dataset:
    n = sum(len(sample.truth) - len(_boxed(sample)) for sample in placed if sample.truth is not None)
    if not n:
        return placed
    cells = "1 cell is" if n == 1 else f"{n:,} cells are"
    return replace(
        placed, notes=(*placed.notes, f"{cells} ignored or without a box, and not in the files for {program}")
    )


def _xml_text(text: str) -> str:
    """Text without the control characters that XML cannot hold."""
    return "".join(char if char >= " " or char in "\t\n\r" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _cvat_image(sample: Sample, number: int) -> ET.Element:
    width, height = sample.size_wh
    name = _xml_text(sample.path.name)
    image = ET.Element("image", id=str(number), name=name, width=str(width), height=str(height))
    if sample.split:
        image.set("subset", sample.split)
    cells = _boxed(sample)
    of_model = _of_model(cells)
    for i, (x1, y1, x2, y2) in enumerate(cells.boxes_xyxy.astype(np.float64).tolist()):
        corners = {"xtl": x1, "ytl": y1, "xbr": x2, "ybr": y2}
        ET.SubElement(
            image,
            "box",
            {"label": CELL_CLASSES[cells.label[i]], "source": "auto" if of_model[i] else "manual"}
            | {"occluded": "0", "z_order": "0"}
            | {side: f"{value:.{_DECIMALS}f}" for side, value in corners.items()},
        )
    return image


def _of_model(cells: Detections) -> NDArray[np.bool_]:
    """Which cells a model found: those that say so; without an origin, those that have a score."""
    if cells.origin is None:
        scored = cells.score < 1
        return scored if cells.blast_probability is None else scored | ~np.isnan(cells.blast_probability)
    return np.asarray(cells.origin == "model", bool)


def _coco_document(placed: Dataset) -> dict[str, Any]:
    """Plain COCO: image names without folders, and no keys of our own."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(placed, 1):
        width, height = sample.size_wh
        images.append({"id": number, "file_name": sample.path.name, "width": width, "height": height})
        cells = _boxed(sample)
        for i, (x1, y1, x2, y2) in enumerate(cells.boxes_xyxy.astype(np.float64).tolist()):
            row: dict[str, Any] = {"id": len(annotations) + 1, "image_id": number}
            row |= {"category_id": int(cells.label[i]) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append(row | {"area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "segmentation": []})
    return {"images": images, "annotations": annotations, "categories": categories(placed.classes)}


def _task(sample: Sample, file_name: str) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {"image": f"/data/local-files/?d={quote(file_name)}"}}
    if sample.truth is None:
        return task
    cells = _boxed(sample)
    of_model = _of_model(cells)
    if of_model.any():
        result = _results(cells[of_model], sample, file_name, scored=True)
        score = float(cells.score[of_model].mean())
        task["predictions"] = [{"model_version": f"blastdet {blastdet.__version__}", "score": score, "result": result}]
    if not of_model.all() or not len(cells):
        task["annotations"] = [{"result": _results(cells[~of_model], sample, file_name)}]
    return task


def _results(cells: Detections, sample: Sample, file_name: str, scored: bool = False) -> list[dict[str, Any]]:
    width, height = sample.size_wh
    results = []
    for i, (x1, y1, x2, y2) in enumerate(cells.boxes_xyxy.astype(np.float64).tolist()):
        value = {"x": x1 / width * 100, "y": y1 / height * 100, "rotation": 0}
        value |= {"width": (x2 - x1) / width * 100, "height": (y2 - y1) / height * 100}
        result: dict[str, Any] = {
            "id": uuid.uuid5(_NAMESPACE, f"{file_name}/{i}").hex[:10],
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value | {"rectanglelabels": [CELL_CLASSES[cells.label[i]]]},
        }
        if scored:
            result["score"] = float(cells.score[i])
        results.append(result)
    return results
