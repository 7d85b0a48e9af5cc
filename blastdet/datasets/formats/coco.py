"""COCO: ``annotations/instances_<split>.json`` beside ``images/<split>/``, and results.

What COCO has no key for goes into keys of our own, which other programs pass over: ``mpp``, ``group``, ``cluster``,
``split``, ``label`` and ``annotated`` of an image; ``origin``, ``cell_type``, ``point_xy``, ``blast_probability``,
``unsure``, ``cell_id`` and ``ignore`` of an annotation. A cell to be ignored is also ``iscrowd``, as evaluators
understand it. A cell without box (a point) is written with a box of no extent at its point, ``"has_box": false`` and
``iscrowd``: valid COCO, and no evaluator counts it. Category ids are fixed: 1 blast, 2 wbc, 3 rbc, 4 platelet, and in
results 5 unsure: a white cell that the second stage would not decide on; its key ``label`` says what it would be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, CELL_CLASSES, WBC, Dataset, Detections, Sample, Scale
from blastdet.datasets.formats.class_names import label_of
from blastdet.datasets.formats.coco_writer import KEYS, UNSURE, to_document, write
from blastdet.datasets.formats.files import FAULTS, read_json
from blastdet.datasets.splits import SPLITS, names_of
from blastdet.imaging.io import image_size

__all__ = ["read", "read_results", "to_document", "write"]

_LIMIT = 1e12  # no pixel lies beyond, and NaN and infinity compare as too large

_UNKNOWN: dict[str, Any] = {
    "score": 1.0,
    "id": "",
    "point_xy": [math.nan, math.nan],
    "ignore": False,
    "origin": "",
    "cell_type": "",
    "blast_probability": math.nan,
    "unsure": False,
}
_UNSURE = -1  # stands for our category "unsure" until the annotation itself says which class it was


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    images: Path | None = None,
) -> Dataset:
    """Read COCO: ours without loss, or anybody's.

    Parameters
    ----------
    path : Path
        One JSON file, or a folder with ``annotations/*.json``, ``instances*.json``, ``truth.json`` (of
        `blastdet synth`) or ``*/_annotations.coco.json``.
        Pictures are looked for beside the file, above it, and in ``images`` folders there.
    class_map : mapping, optional
        Foreign category name -> ours.
    mpp : (float, float), optional
        µm/px of all pictures that do not state theirs.
    images : Path, optional
        Folder with the pictures, where they lie elsewhere.

    Returns
    -------
    Dataset
        The split comes from the image's own key or from the name of the file or folder. In a foreign set every category
        counts as annotated. Boxes without area are dropped, by annotation id.

    Raises
    ------
    FormatError
        Not COCO, a missing picture, a size that is not the picture's, an unknown class, a box that is none.
    """
    path = Path(path)
    files = [path] if path.is_file() else _documents(path)
    smears: list[Sample] = []
    dropped: dict[str, None] = {}
    notes: dict[str, None] = {}
    name = ""
    for file in files:
        document = _load(file)
        info = document.get("info") if isinstance(document.get("info"), dict) else {}
        assert isinstance(info, dict)
        name = name or str(info.get("description") or "")
        dropped |= dict.fromkeys(_lines(info.get("dropped")))
        notes |= dict.fromkeys(_lines(info.get("notes")))
        found, lines = _read_document(document, file, class_map, images)
        smears += found
        dropped |= dict.fromkeys(lines)
    _check_distinct(smears, path)
    smears = [sample if sample.mpp or not mpp else replace(sample, mpp=mpp) for sample in smears]
    root = images or (path if path.is_dir() else _root_of(path, smears))
    smears.sort(key=lambda sample: sample.path.as_posix())
    return Dataset(name or root.name, root, tuple(smears), tuple(dropped), tuple(notes))


def _check_distinct(smears: Sequence[Sample], where: Path) -> None:
    """A picture listed twice would be counted twice, and may lie on two sides of a split."""
    seen: set[Path] = set()
    for sample in smears:
        picture = sample.path.resolve()
        if picture in seen:
            raise FormatError(f"{where}: picture {sample.path.name} is listed twice, one image entry for each expected")
        seen.add(picture)


def _documents(folder: Path) -> list[Path]:
    for pattern in ("annotations/*.json", "instances*.json", "truth.json", "*.coco.json", "*/*.coco.json"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    raise FormatError(f"{folder}: no annotations/*.json, instances*.json, truth.json or *.coco.json found")


def _lines(value: Any) -> list[str]:
    return [line for line in value if isinstance(line, str)] if isinstance(value, list) else []


def _root_of(file: Path, smears: Sequence[Sample]) -> Path:
    for folder in (file.parent, file.parent.parent):
        if all(sample.path.is_relative_to(folder) for sample in smears):
            return folder
    return file.parent


def _load(file: Path) -> dict[str, Any]:
    document = read_json(file)
    if not isinstance(document, dict):
        raise FormatError(f"{file}: a list found, a COCO document with images, annotations and categories expected")
    for key in ("images", "annotations", "categories"):
        rows = document.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise FormatError(f"{file}: no list {key!r} of objects found; a COCO document has one")
    return document


@dataclass(frozen=True)
class _Image:
    """What an image entry says, checked."""

    id: int
    file_name: str
    size_wh: tuple[int, int]


def _image_of(row: Mapping[str, Any], file: Path) -> _Image:
    try:
        return _Image(int(row["id"]), str(row["file_name"]), (int(row["width"]), int(row["height"])))
    except FAULTS as error:
        raise FormatError(f"{file}: image {row.get('file_name', row.get('id'))!r} is faulty ({error!r})") from None


def _labels(document: Mapping[str, Any], file: Path, class_map: Mapping[str, str] | None) -> dict[int, int]:
    """Category id -> our label. A category that no cell uses (Roboflow adds one) need not be known."""
    used = {row.get("category_id") for row in document["annotations"] if isinstance(row.get("category_id"), int)}
    labels: dict[int, int] = {}
    seen: dict[int, str] = {}
    for row in document["categories"]:
        if not isinstance(row.get("id"), int) or not isinstance(row.get("name"), str):
            raise FormatError(f"{file}: category {row!r} found, id (a whole number) and name expected")
        if row["id"] in seen:
            raise FormatError(f"{file}: two categories with id {row['id']}: {seen[row['id']]} and {row['name']}")
        seen[row["id"]] = row["name"]
        if row["name"] == UNSURE["name"] and UNSURE["name"] not in (class_map or {}):
            labels[row["id"]] = _UNSURE
            continue
        try:
            labels[row["id"]] = label_of(row["name"], class_map, str(file))
        except FormatError:
            if row["id"] in used:
                raise
    return labels


def _read_document(
    document: Mapping[str, Any], file: Path, class_map: Mapping[str, str] | None, folder: Path | None
) -> tuple[list[Sample], list[str]]:
    labels = _labels(document, file, class_map)
    rows: dict[int, list[Mapping[str, Any]]] = {}
    entries = [_image_of(row, file) for row in document["images"]]
    for image in entries:
        if image.id in rows:
            raise FormatError(f"{file}: two images with id {image.id}")
        rows[image.id] = []
    dropped = []
    for row in document["annotations"]:
        _check_annotation(row, rows, labels, file)
        if min(row["bbox"][2:]) > 0 or row.get("has_box") is False:
            rows[row["image_id"]].append(row)
        else:
            dropped.append(f"{file.name}: annotation {row.get('id')} {row['bbox']}: box without area")
    everything = tuple(CELL_CLASSES[i] for i in sorted(set(labels.values()) - {_UNSURE}))
    smears = []
    for image, entry in zip(entries, document["images"], strict=True):
        picture = _find_picture(image, file, folder)
        sample = Sample(picture, image.size_wh, split=_split_of(file), annotated=everything)
        sample = _with_entry(sample, entry, file)
        if entry.get("has_truth", True):
            origin = "" if "annotated" in entry else "human"  # our own files say what is known
            sample = replace(sample, truth=_cells(rows[image.id], labels, (file, origin)))
        smears.append(sample)
    return smears, dropped


def _check_annotation(row: Mapping[str, Any], images: Mapping[int, Any], labels: Mapping[int, int], file: Path) -> None:
    what = f"{file}: annotation {row.get('id', '')}".rstrip()
    if not isinstance(row.get("image_id"), int) or row["image_id"] not in images:
        raise FormatError(f"{what}: image_id {row.get('image_id')!r} found, no such image is listed")
    if not isinstance(row.get("category_id"), int) or row["category_id"] not in labels:
        raise FormatError(f"{what}: category_id {row.get('category_id')!r} found, one of {list(labels)} expected")
    _check_box(row, what)


def _check_box(row: Mapping[str, Any], what: str) -> None:
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise FormatError(f"{what}: bbox {box!r} found, four numbers x, y, width, height expected")
    if box[2] < 0 or box[3] < 0:
        raise FormatError(f"{what}: bbox {box} has a negative size")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LIMIT


def _split_of(file: Path) -> str | None:
    words = f"{file.parent.name} {file.stem}".lower().replace("_", " ").replace(".", " ").split()
    alias = {"valid": "val", "validation": "val"}
    for word in reversed(words):
        plain = word.rstrip("0123456789")
        if alias.get(plain, plain) in SPLITS:
            return alias.get(plain, plain)
    return None


def _find_picture(image: _Image, file: Path, folder: Path | None = None) -> Path:
    folders = [file.parent, file.parent.parent]
    if folder is not None:
        folders = [Path(folder)]
    folders += [folder / "images" for folder in folders] + [
        folder / "images" / (_split_of(file) or "") for folder in folders
    ]
    picture = next((p for folder in folders if (p := folder / image.file_name).is_file()), None)
    if picture is None:
        raise FormatError(f"{file}: picture {image.file_name} found neither beside the file nor above, nor in images/")
    size_wh = image_size(picture)
    if size_wh != image.size_wh:
        stated = f"{image.size_wh[0]}x{image.size_wh[1]}"
        raise FormatError(f"{file}: {image.file_name} stated as {stated}, the picture is {size_wh[0]}x{size_wh[1]}")
    return picture


def _with_entry(sample: Sample, entry: Mapping[str, Any], file: Path) -> Sample:
    """What our own keys of an image say."""
    known = {key: str(entry[key]) for key in ("group", "cluster", "label") if entry.get(key) is not None}
    if entry.get("split") in SPLITS:
        known["split"] = entry["split"]
    sample = replace(sample, **known)  # type: ignore[arg-type]
    mpp, annotated = entry.get("mpp"), entry.get("annotated")
    if mpp is not None:
        if not isinstance(mpp, list) or len(mpp) != 2 or not all(_is_number(v) and 0.001 <= v < 100 for v in mpp):
            raise FormatError(f"{file}: {sample.path.name}: mpp {mpp!r} found, [x, y] of 0.001 to 100 µm/px expected")
        sample = replace(sample, mpp=(float(mpp[0]), float(mpp[1])))
    if annotated is not None:
        if not isinstance(annotated, list) or not all(name in CELL_CLASSES for name in annotated):
            raise FormatError(
                f"{file}: {sample.path.name}: annotated {annotated!r} found, a list of our classes expected"
            )
        sample = replace(sample, annotated=tuple(annotated))
    return sample


def _cells(rows: Sequence[Mapping[str, Any]], labels: Mapping[int, int], source: tuple[Path, str]) -> Detections:
    file, origin = source
    xywh = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    boxes[[row.get("has_box") is False for row in rows]] = np.nan
    columns: dict[str, Any] = {}
    for name, key in KEYS.items():
        if any(key in row for row in rows):
            columns[name] = [_UNKNOWN[name] if row.get(key) is None else row[key] for row in rows]
    if "ignore" not in columns and any(row.get("iscrowd") and row.get("has_box", True) for row in rows):
        columns["ignore"] = [bool(row.get("iscrowd")) for row in rows]
    if "origin" not in columns and origin:
        columns["origin"] = [origin] * len(rows)
    label = np.array([_label(row, labels) for row in rows], np.int64)
    try:
        with np.errstate(over="raise"):
            return Detections(boxes.astype(np.float32), label=label, **columns)
    except FAULTS as error:
        raise FormatError(f"{file}: annotations of image {rows[0]['image_id']}: {error}") from None


def _label(row: Mapping[str, Any], labels: Mapping[int, int]) -> int:
    label = labels[row["category_id"]]
    if label == _UNSURE:
        return BLAST if row.get("label") == CELL_CLASSES[BLAST] else WBC
    return label


def read_results(path: Path, dataset: Dataset) -> list[Detections]:
    """Read anyone's detections: a COCO results list, or a full COCO document with scores.

    Images of a document are matched by ``file_name``. Those of a list by ``image_id``: a file name or stem, an id in
    the COCO files of the data set, or a number that is the stem of a picture.

    Parameters
    ----------
    path : Path
    dataset : Dataset
        What was searched for cells. Categories of a list are ours (1 blast, 2 wbc, 3 rbc, 4 platelet).

    Returns
    -------
    list of Detections
        One for each smear of `dataset`, in its order; empty where nothing was found.

    Raises
    ------
    FormatError
        An unknown image or category, a score that is none, a box that is none; a document that leaves smears out.
    """
    path = Path(path)
    document = read_json(path)
    if isinstance(document, dict):
        rows, find, labels = _document_results(_load(path), path, dataset)
    elif isinstance(document, list) and all(isinstance(row, dict) for row in document):
        rows, find = document, _finder(dataset)
        labels = {**{i + 1: i for i in range(len(CELL_CLASSES))}, UNSURE["id"]: _UNSURE}
    else:
        raise FormatError(f"{path}: a COCO document or a list of results expected")
    index = {id(sample): i for i, sample in enumerate(dataset)}
    found: list[list[Mapping[str, Any]]] = [[] for _ in dataset]
    for number, row in enumerate(rows, 1):
        sample = find(row.get("image_id"))
        what = f"{path}: detection {number}"
        if sample is None:
            raise FormatError(f"{what}: image_id {row.get('image_id')!r} found, no such picture in {dataset.name}")
        if not isinstance(row.get("category_id"), int) or row["category_id"] not in labels:
            raise FormatError(f"{what}: category_id {row.get('category_id')!r} found, one of {list(labels)} expected")
        _check_box(row, what)
        if not _is_number(row.get("score")) or not 0 <= row["score"] <= 1:
            raise FormatError(f"{what}: score {row.get('score')!r} found, a number from 0 to 1 expected")
        if id(sample) in index:
            found[index[id(sample)]].append(row)
    return [_cells(rows, labels, (path, "model")) for rows in found]


_Find = Callable[[Any], Sample | None]
_ELSEWHERE = Sample(Path(), (0, 0))  # a picture that was searched, but is not of the data set


def _document_results(
    document: Mapping[str, Any], file: Path, dataset: Dataset
) -> tuple[list[dict[str, Any]], _Find, dict[int, int]]:
    names = names_of(dataset)
    by_id: dict[int, Sample] = {}
    for row in document["images"]:
        image = _image_of(row, file)
        sample = names.get(image.file_name) or names.get(Path(image.file_name).name)
        if sample is not None and any(other is sample for other in by_id.values()):
            raise FormatError(f"{file}: {image.file_name} is the second image for {sample.path.name}")
        if sample is not None and sample.size_wh != image.size_wh:
            raise FormatError(f"{file}: {image.file_name} has size {image.size_wh}, the picture {sample.size_wh}")
        by_id[image.id] = sample or _ELSEWHERE
    seen = {id(sample) for sample in by_id.values()}
    missing = [dataset.file_name(sample) for sample in dataset if id(sample) not in seen]
    if missing:
        raise FormatError(f"{file}: {len(missing)} of {len(dataset)} pictures are not listed, first {missing[0]}")
    return (
        document["annotations"],
        lambda image_id: by_id.get(image_id) if isinstance(image_id, int) else None,
        _labels(document, file, None),
    )


def _finder(dataset: Dataset) -> _Find:
    names = names_of(dataset)
    by_id = {int(s.path.stem): s for s in dataset if s.path.stem.isdecimal()}
    try:
        files = _documents(dataset.root)
    except FormatError:
        files = []
    listed = [_image_of(row, file) for file in files for row in _load(file)["images"]]
    known = {image.id: names[image.file_name] for image in listed if image.file_name in names}
    by_id = known or by_id
    elsewhere = {image.id for image in listed}

    def find(image_id: Any) -> Sample | None:
        if isinstance(image_id, str):
            return names.get(image_id) or names.get(Path(image_id).name)
        if not isinstance(image_id, int):
            return None
        return by_id.get(image_id) or (_ELSEWHERE if image_id in elsewhere else None)

    return find
