"""Sets whose folders and file names are the annotation: ALL-IDB2, C-NMC 2019, PBC with boxes, ALL fields.

Each has a reader ``read_X(path, ...)`` and a test ``matches_X(path)`` that tells whether a folder looks like it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from blastdet.core import boxes as box_tools
from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample, Scale, WidthHeight
from blastdet.datasets.formats.files import read_rows, read_text
from blastdet.imaging.io import image_size

# Red cells are 7.5 µm wide. In PBC they measure about 75 px; in ALL fields, which were squeezed from 4:3 to a
# square, about 15 x 20 px, so that a pixel there covers more along x than along y.
PBC_MPP: Scale = (0.1, 0.1)
ALL_FIELDS_MPP: Scale = (0.5, 0.375)

ALL_FIELDS_CLASSES: tuple[str, ...] = ("benign", "early", "pre", "pro")

_ALLIDB2 = re.compile(r"Im\d{3}_([01])\.tiff?", re.IGNORECASE)
_CNMC = re.compile(r"UID_(H?\d+)_\d+_\d+_(all|hem)\.bmp", re.IGNORECASE)


def matches_allidb2(path: Path) -> bool:
    """Whether a file below `path` is called as ALL-IDB2 calls its crops."""
    return path.is_dir() and next(_named(path, _ALLIDB2), None) is not None


def read_allidb2(path: Path, *, mpp: Scale | None = None) -> Dataset:
    """Read ALL-IDB2: crops ``ImNNN_Y.tif`` of one cell each, at any depth below `path`.

    `Smear.label` is the class of the cell in the middle, ``"blast"`` (Y = 1) or ``"wbc"``; the truth is that one
    cell as a point with a NaN box. Other cells may show, so nothing is annotated completely. The set names no
    patients: `group` is ``None``, and a note says so.

    Raises
    ------
    FormatError
        If no file has such a name.
    """
    smears = []
    for image, match in _sorted(path, _ALLIDB2, "crops called like Im001_1.tif"):
        label = BLAST if match[1] == "1" else WBC
        smears.append(_one_cell(image, label, mpp, group=None))
    note = "no patients are named, and crops may come from one image: a random split of this set may leak"
    return Dataset("allidb2", path, tuple(smears), notes=(note,))


def matches_cnmc(path: Path) -> bool:
    """Whether a file below `path` is called as C-NMC 2019 calls its training crops."""
    return path.is_dir() and next(_named(path, _CNMC), None) is not None


def read_cnmc(path: Path, *, mpp: Scale | None = None) -> Dataset:
    """Read C-NMC 2019: ``fold_F/{all,hem}/UID_SUBJECT_CELL_REPEAT_{all,hem}.bmp``, at any depth below `path`.

    `Smear.label` is ``"blast"`` (all) or ``"wbc"`` (hem), by the file name; `group` is the subject. The truth is
    one cell in the middle, a point with a NaN box. To keep to the published folds read each by its own folder.

    Raises
    ------
    FormatError
        If no file has such a name.
    """
    smears, notes = [], []
    for image, match in _sorted(path, _CNMC, "crops called like UID_11_10_1_all.bmp"):
        kind, folder = match[2].lower(), image.parent.name.lower()
        if folder in ("all", "hem") and folder != kind:
            notes.append(f"{image.name}: found in the folder {folder}, taken by its name as {kind}")
        smears.append(_one_cell(image, BLAST if kind == "all" else WBC, mpp, group=match[1].upper()))
    return Dataset("cnmc2019", path, tuple(smears), notes=tuple(notes))


def matches_pbc(path: Path) -> bool:
    """Whether `path` holds ``labels.csv`` with a column ``cell_type``, ``images`` and ``labels``."""
    table = path / "labels.csv"
    if not (table.is_file() and (path / "images").is_dir() and (path / "labels").is_dir()):
        return False
    return "cell_type" in read_text(table).partition("\n")[0].split(",")


def read_pbc(path: Path, *, mpp: Scale | None = PBC_MPP) -> Dataset:
    """Read PBC with boxes: ``images/*.jpg``, ``labels/*.txt`` (YOLO, one box each) and ``labels.csv``.

    Every cell is a ``wbc`` with its `cell_type`; the type is that of ``labels.csv``, since the class names of the
    YOLO files are wrong ("Immunoglobulin" for immature granulocytes). Erythroblasts are nucleated, so they stay
    here as ``wbc`` with the type ``"erythroblast"``, by which counts leave them out. Only the central cell has a
    box; a second white cell is rare enough to call the class ``wbc`` annotated. Red cells and platelets are
    unknown. The published split tears byte-identical pictures apart and is not taken over.

    Raises
    ------
    FormatError
        A picture without a line in ``labels.csv``, or a line of a label file that is not a YOLO box.
    """
    cell_types = _column(path / "labels.csv", "cell_type")
    smears, notes = [], []
    for name in sorted(cell_types):
        image, boxes = path / "images" / name, path / "labels" / f"{Path(name).stem}.txt"
        if not image.is_file():
            raise FormatError(f"{image}: missing, although labels.csv lists it")
        size_wh = image_size(image)
        if not boxes.is_file():
            notes.append(f"labels/{boxes.name}: missing, taken as not annotated")
            smears.append(Sample(image, size_wh, mpp=mpp))
            continue
        truth = _yolo_boxes(boxes, size_wh, cell_types[name])
        smears.append(Sample(image, size_wh, mpp=mpp, annotated=("wbc",), truth=truth))
    unlisted = {image.name for image in (path / "images").glob("*.jpg")} - cell_types.keys()
    if unlisted:
        raise FormatError(f"{path / 'images' / min(unlisted)}: not in labels.csv, a line for every picture expected")
    return Dataset("pbc_wbc", path, tuple(smears), notes=tuple(notes))


def matches_all_fields(path: Path) -> bool:
    """Whether `path` holds the four folders benign, early, pre and pro."""
    return path.is_dir() and len(_class_folders(path)) == len(ALL_FIELDS_CLASSES)


def read_all_fields(path: Path, *, mpp: Scale | None = ALL_FIELDS_MPP) -> Dataset:
    """Read the ALL image dataset of Taleqani hospital: folders benign, early, pre and pro of 224 x 224 px JPEG.

    `Smear.label` is the folder; there is no other truth. The pictures were squeezed from 4:3, so `mpp` differs
    along x and y. `group` (overlapping fields and near-duplicates) and `cluster` come from ``clusters.csv`` where it
    lies beside the folders. The stand-in for a patient is the cluster: a split keeps clusters apart first and then
    leaves out what shares a group with the other side.

    Raises
    ------
    FormatError
        No such folder, or a ``clusters.csv`` that does not list a picture.
    """
    folders = _class_folders(path)
    if not folders:
        raise FormatError(f"{path}: none of the folders {', '.join(ALL_FIELDS_CLASSES)} found")
    table = path / "clusters.csv"
    told = table.is_file()
    groups, clusters = (_column(table, name) for name in ("group", "cluster")) if told else ({}, {})
    smears = []
    for label, folder in folders.items():
        for image in sorted(folder.glob("*.jpg")):
            sample = Sample(image, image_size(image), mpp=mpp, label=label)
            if told:
                name = f"{folder.name}/{image.name}"
                sample = replace(sample, group=_lookup(groups, name, table), cluster=_lookup(clusters, name, table))
            smears.append(sample)
    notes = () if told else ("no clusters.csv: groups of overlapping fields are unknown",)
    return Dataset("all_fields", path, tuple(smears), notes=notes)


def _named(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    for file in folder.rglob("*"):
        match = pattern.fullmatch(file.name)
        if match and file.is_file():
            yield file, match


def _sorted(folder: Path, pattern: re.Pattern[str], expected: str) -> list[tuple[Path, re.Match[str]]]:
    found = sorted(_named(folder, pattern), key=lambda pair: pair[0].relative_to(folder).as_posix())
    if not found:
        raise FormatError(f"{folder}: no picture found, {expected} expected")
    return found


def _one_cell(image: Path, label: int, mpp: Scale | None, group: str | None) -> Sample:
    """A crop with one cell in its middle."""
    width, height = image_size(image)
    truth = Detections(
        np.full((1, 4), np.nan, np.float32),
        label=np.asarray([label]),
        point_xy=np.asarray([[width / 2, height / 2]], np.float32),
    )
    return Sample(image, (width, height), mpp=mpp, group=group, label=("blast", "wbc")[label], truth=truth)


def _yolo_boxes(file: Path, size_wh: WidthHeight, cell_type: str) -> Detections:
    rows = [
        _yolo_row(line, f"{file}: line {n}") for n, line in enumerate(read_text(file).splitlines(), 1) if line.strip()
    ]
    centre_and_size = np.asarray(rows, np.float64).reshape(-1, 4) * np.asarray([*size_wh, *size_wh])
    corner = centre_and_size[:, :2] - centre_and_size[:, 2:] / 2
    boxes = box_tools.clip(np.concatenate([corner, corner + centre_and_size[:, 2:]], axis=1), size_wh)
    n = len(boxes)
    return Detections(
        boxes, label=np.full(n, WBC), origin=np.full(n, "human"), cell_type=np.full(n, cell_type)
    ).sorted()


def _yolo_row(line: str, where: str) -> list[float]:
    try:
        _, *values = (float(value) for value in line.split())
    except ValueError:
        values = []
    if not (len(values) == 4 and all(math.isfinite(v) and 0 <= v <= 1 for v in values) and min(values[2:]) > 0):
        raise FormatError(f"{where}: {line.strip()[:60]!r} found, 'class cx cy w h' relative to the picture expected")
    return values


def _class_folders(path: Path) -> dict[str, Path]:
    by_name = {folder.name.lower(): folder for folder in path.glob("*") if folder.is_dir()}
    return {name: by_name[name] for name in ALL_FIELDS_CLASSES if name in by_name}


def _column(table: Path, name: str) -> dict[str, str]:
    """One column of a CSV file, by its column ``image``."""
    values: dict[str, str] = {}
    for number, row in enumerate(read_rows(table, "image", name), start=2):
        if not row["image"] or not row[name]:
            raise FormatError(f"{table}: line {number}: a field is empty, image and {name} expected")
        values[row["image"]] = row[name]
    return values


def _lookup(values: dict[str, str], key: str, table: Path) -> str:
    if key not in values:
        raise FormatError(f"{table}: no line for {key}, one for every picture expected")
    return values[key]
