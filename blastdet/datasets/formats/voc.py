"""Pascal VOC as BCCD uses it: ``Annotations/*.xml`` beside ``JPEGImages/``, sets in ``ImageSets/Main``.

Coordinates in the files are 1-based and inclusive; ours are 0-based and half-open: ``x1-1, y1-1, x2, y2``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from blastdet.core import boxes
from blastdet.core.constants import RED_CELL_UM
from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, Scale
from blastdet.datasets.formats.class_names import label_of
from blastdet.datasets.formats.files import SPLITS, read_rows, read_text
from blastdet.imaging.io import image_size

BCCD_RED_CELL_PX = 105.0
"""Median width of a red-cell box in BCCD, px (4,153 boxes): the only ruler there is, for nothing is stated."""

BCCD_MPP: Scale = (RED_CELL_UM / BCCD_RED_CELL_PX, RED_CELL_UM / BCCD_RED_CELL_PX)

# A class that this share of a set's pictures shows is expected on all of them.
_USUAL_SHARE = 0.95


@dataclass(frozen=True)
class _Record:
    """One XML file: boxes that stay, as (label, x1, y1, x2, y2), and lines about those that do not."""

    cells: list[tuple[int, float, float, float, float]]
    dropped: list[str]


def read(
    path: Path,
    *,
    class_map: Mapping[str, str] | None = None,
    mpp: Scale | None = None,
    as_published: bool = True,
) -> Dataset:
    """Read BCCD, or another set laid out like it.

    Parameters
    ----------
    path : Path
        The folder with ``Annotations`` and ``JPEGImages``, or the one that holds it as ``BCCD``. A file
        ``overlap_groups.csv`` (``image,group``) in either gives the groups.
    class_map : mapping, optional
        Foreign class name -> ours, beside WBC, RBC and Platelets.
    mpp : (float, float), optional
        µm/px of all pictures. For BCCD it is `BCCD_MPP` unless given; a note says so.
    as_published : bool, default True
        Every class counts as annotated on every picture. If false, a class that at least 95 % of the pictures show is
        taken for unlabelled, hence unknown, where a picture has none of it; notes list those.

    Returns
    -------
    Dataset
        `dropped` names every degenerate box. A picture without XML is a smear that nobody annotated.

    Raises
    ------
    FormatError
        Malformed XML, missing picture or size, a size that is not the picture's, an unknown class.
    """
    root = _root_of(Path(path))
    pictures = _pictures(root / "JPEGImages")
    splits = _read_sets(root / "ImageSets" / "Main", set(pictures))
    groups = read_groups(root, root.parent)
    notes: list[str] = []
    if mpp is None and any(stem.startswith("BloodImage_") for stem in pictures):
        mpp = BCCD_MPP
        notes.append(f"µm/px {mpp[0]:.4f}: BCCD's red cells ({BCCD_RED_CELL_PX:.0f} px) taken as {RED_CELL_UM} µm")
    smears, dropped = [], []
    _check_pairs(root / "Annotations", pictures)
    for stem, picture in sorted(pictures.items()):
        size_wh = image_size(picture)
        sample = Sample(picture, size_wh, mpp, group=groups.get(stem), split=splits.get(stem))
        annotation = root / "Annotations" / f"{stem}.xml"
        if annotation.exists():
            record = _read_xml(annotation, size_wh, class_map)
            sample = replace(sample, truth=_truth(record))
            dropped += record.dropped
        smears.append(sample)
    smears, unknown = _annotated(smears, as_published)
    return Dataset(root.name.lower(), root, tuple(smears), tuple(dropped), tuple(notes + unknown))


def _root_of(path: Path) -> Path:
    for root in (path, path / "BCCD"):
        if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
            return root
    raise FormatError(f"{path}: no folders Annotations and JPEGImages found (nor BCCD/ with them)")


def _pictures(folder: Path) -> dict[str, Path]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    pictures = {p.stem: p for p in files}
    if len(pictures) < len(files):
        double = next(p for p in files if pictures[p.stem] != p)
        raise FormatError(f"{double}: a second picture named {double.stem}; one picture to each XML expected")
    return pictures


def _check_pairs(annotations: Path, pictures: Mapping[str, Path]) -> None:
    for annotation in sorted(annotations.glob("*.xml")):
        if annotation.stem not in pictures:
            raise FormatError(f"{annotation}: no picture {annotation.stem}.* in JPEGImages")


def _read_sets(folder: Path, known: set[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name in SPLITS:
        listing = folder / f"{name}.txt"
        for line in read_text(listing).splitlines() if listing.exists() else ():
            if not line.strip():
                continue
            stem = line.split()[0]
            if stem not in known:
                raise FormatError(f"{listing}: {stem} listed, but there is no such picture")
            if stem in splits:
                raise FormatError(f"{listing}: {stem} listed, but it is in {splits[stem]} already")
            splits[stem] = name
    return splits


def read_groups(*folders: Path) -> dict[str, str]:
    """Stem of a picture -> its group, from the first ``overlap_groups.csv`` (``image,group``) in `folders`."""
    listing = next((f / "overlap_groups.csv" for f in folders if (f / "overlap_groups.csv").exists()), None)
    if listing is None:
        return {}
    return {Path(row["image"]).stem: row["group"] for row in read_rows(listing, "image", "group")}


def _read_xml(path: Path, size_wh: tuple[int, int], class_map: Mapping[str, str] | None) -> _Record:
    try:
        tree = ET.fromstring(path.read_bytes())
    except (ET.ParseError, LookupError, ValueError) as error:  # LookupError: an encoding that nobody knows
        raise FormatError(f"{path}: not well-formed XML ({error})") from None
    width, height = (_number(tree, f"size/{side}", path) for side in ("width", "height"))
    if width != size_wh[0] or height != size_wh[1]:
        raise FormatError(f"{path}: size {width:g}x{height:g} stated, the picture is {size_wh[0]}x{size_wh[1]}")
    record = _Record([], [])
    for cell in tree.findall("object"):
        name = cell.findtext("name")
        if name is None:
            raise FormatError(f"{path}: an object without a name")
        label = label_of(name, class_map, str(path))
        x1, y1, x2, y2 = (_number(cell, f"bndbox/{side}", path) for side in ("xmin", "ymin", "xmax", "ymax"))
        inside = boxes.clip([[x1 - 1, y1 - 1, x2, y2]], size_wh)[0].tolist()
        found = f"{path.name}: {name} ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if x2 <= x1 or y2 <= y1:
            record.dropped.append(f"{found}: box without area")
        elif inside[2] <= inside[0] or inside[3] <= inside[1]:
            record.dropped.append(f"{found}: box outside the picture")
        else:
            record.cells.append((label, *inside))
    return record


def _number(element: ET.Element, field: str, path: Path) -> float:
    text = element.findtext(field)
    if text is None:
        raise FormatError(f"{path}: no {field} in <{element.tag}>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(f"{path}: {field} {text!r} found, a number expected")
    return value


def _truth(record: _Record) -> Detections:
    table = np.array(record.cells, np.float64).reshape(-1, 5)
    label = table[:, 0].astype(np.int64)
    return Detections(table[:, 1:].astype(np.float32), label=label, origin=np.full(len(table), "human"))


def _annotated(smears: list[Sample], as_published: bool) -> tuple[list[Sample], list[str]]:
    """Say which classes each smear annotates; with notes where a usual class is missing."""
    shown = [frozenset(np.unique(s.truth.label).tolist()) if s.truth is not None else None for s in smears]
    looked = [labels for labels in shown if labels is not None]
    everywhere = sorted(frozenset().union(*looked))
    usual = [i for i in everywhere if sum(i in labels for labels in looked) >= _USUAL_SHARE * len(looked)]
    marked, notes = [], []
    for sample, labels in zip(smears, shown, strict=True):
        unknown = [] if labels is None or as_published else [i for i in usual if i not in labels]
        notes += [f"{sample.path.name}: no {CELL_CLASSES[i]} box, taken as not annotated" for i in unknown]
        classes = () if labels is None else tuple(CELL_CLASSES[i] for i in everywhere if i not in unknown)
        marked.append(replace(sample, annotated=classes))
    return marked, notes
