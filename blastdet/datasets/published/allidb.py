"""Read ALL-IDB1: ``ImNNN_Y.jpg`` and, somewhere beside it, ``ImNNN_Y.xyc`` with one centroid a line.

Y is 1 for an image with blasts and 0 for a healthy one. The files are found by name, whatever folders a copy
keeps them in (flat, ``im/`` + ``xyc/``, ``img/``, nested, upper-case suffixes). The set holds centroids only:
every box is drawn here and says in its `origin` how.

Source: Donida Labati, Piuri, Scotti, "ALL-IDB: the acute lymphoblastic leukemia image database for image
processing", ICIP 2011; the centroids of the other cells: Genovese, Piuri, Scotti, ICASSP Workshops 2023.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes as box_tools
from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample, Scale, WidthHeight
from blastdet.datasets.formats.files import read_text
from blastdet.imaging.io import image_size, read_image

# The scale of ALL-IDB1 is not published ("magnifications from 300 to 500"). The nuclei of its blasts measure
# about 22,500 px² in the small images and 21,100 px² in the large ones (median), that is 165-170 px across in
# both; a lymphoblast nucleus is 11-12 µm wide on a film. So one figure serves both sizes, good to perhaps 20 %.
# It is used to draw boxes and is never reported as the scale of a smear.
NOMINAL_MPP: Scale = (0.07, 0.07)

_IMAGE = re.compile(r"(Im\d{3}_[01])\.jpe?g", re.IGNORECASE)
_POINTS = re.compile(r"(Im\d{3}_[01])\.xyc", re.IGNORECASE)
# Folders in which the authors' own script keeps centroids that are not, or not only, blasts.
_NOT_BLASTS = frozenset({"other", "merge"})
_BOXES = ("fixed", "none", "segment")

Points = NDArray[np.float32]


@dataclass(frozen=True)
class _Drawing:
    """How boxes are drawn around points."""

    boxes: str
    size_um: float
    mpp: Scale


@dataclass
class _Log:
    """What a reader has to say, gathered while it reads."""

    root: Path
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name


def matches(path: Path) -> bool:
    """Whether `path` is a folder with an image called as ALL-IDB1 calls its images."""
    return path.is_dir() and next(_named(path, _IMAGE), None) is not None


def read(
    path: Path,
    *,
    boxes: str = "fixed",
    size_um: float = 15.0,
    mpp: Scale | None = None,
    other: Path | None = None,
    origin: int = 0,
) -> Dataset:
    """Read a copy of ALL-IDB1.

    Parameters
    ----------
    path : Path
        The folder that holds images and ``.xyc`` files, at any depth.
    boxes : {"fixed", "none", "segment"}
        Squares of `size_um` around the centroids, no boxes (NaN), or boxes grown from the picture. A cell that
        cannot be grown gets its square; the column `origin` tells which is which.
    size_um : float
        Side of a square in µm. Squares are cut at the edge of the image.
    mpp : (float, float), optional
        Micrometres per pixel of all images. If it is not given the scale of the smears stays unknown and boxes
        are drawn with `NOMINAL_MPP`, which a note says.
    other : Path, optional
        Folder with the authors' ``.xyc`` files of the white cells that are no blasts; these become ``wbc``.
    origin : {0, 1}
        What the top left pixel is called in the files (undocumented by the authors).

    Returns
    -------
    Dataset
        `Smear.label` is ``"all"`` or ``"healthy"``, by the file name; byte-identical images share a `group`. A
        smear without ``.xyc`` file has no truth; one with an empty file has an empty truth. `annotated` is
        ``("blast",)``, with `other` ``("blast", "wbc")``. Points outside the image and doubled points are dropped.

    Raises
    ------
    FormatError
        No image, a line that is not ``x y``, or two different files of one name.
    ConfigError
        An option out of range.
    """
    _check(boxes, size_um, mpp, origin)
    log = _Log(path)
    images = _by_stem(_named(path, _IMAGE), log)
    if not images:
        raise FormatError(f"{path}: no image found, a folder with files called like Im001_1.jpg expected")
    blasts = _by_stem(_named(path, _POINTS, leave_out=other), log)
    others = {} if other is None else _by_stem(_other_files(other), log)
    drawing = _Drawing(boxes, size_um, mpp or NOMINAL_MPP)
    if mpp is None and boxes != "none":
        log.notes.append(f"boxes drawn for {NOMINAL_MPP[0]} µm/px: the scale of ALL-IDB1 is not published")
    groups = _groups(images, log)
    smears = []
    for stem, image in images.items():
        size_wh = image_size(image)
        truth, annotated = _truth(stem, size_wh, (blasts, others if other else None), origin, log)
        if truth is not None:
            truth = _with_boxes(truth, image, size_wh, drawing).sorted()
        label = "all" if stem.endswith("1") else "healthy"
        smears.append(
            Sample(image, size_wh, mpp=mpp, group=groups[stem], label=label, annotated=annotated, truth=truth)
        )
    _note_strays(images, blasts | others, log)
    smears.sort(key=lambda sample: log.name(sample.path))
    return Dataset("allidb1", path, tuple(smears), tuple(log.dropped), tuple(log.notes))


def _check(boxes: str, size_um: float, mpp: Scale | None, origin: int) -> None:
    if boxes not in _BOXES:
        raise ConfigError(f"boxes: {boxes!r} found, one of {', '.join(_BOXES)} expected")
    if origin not in (0, 1):
        raise ConfigError(f"origin: {origin} found, 0 or 1 expected")
    if not (math.isfinite(size_um) and size_um > 0):
        raise ConfigError(f"size_um: {size_um} found, a width in µm above 0 expected")
    if mpp is not None and not all(math.isfinite(value) and value > 0 for value in mpp):
        raise ConfigError(f"mpp: {mpp} found, two figures in µm/px above 0 expected")


def _named(folder: Path, pattern: re.Pattern[str], leave_out: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Files of `folder`, at any depth, whose whole name fits `pattern`, each with its stem spelt ImNNN_Y."""
    left_out = leave_out.resolve() if leave_out else None
    for file in folder.rglob("*"):
        match = pattern.fullmatch(file.name)
        if not match or not file.is_file():
            continue
        if pattern is _POINTS and _NOT_BLASTS.intersection(part.lower() for part in file.relative_to(folder).parts):
            continue
        if left_out and file.resolve().is_relative_to(left_out):
            continue
        yield match[1].capitalize(), file


def _other_files(folder: Path) -> list[tuple[str, Path]]:
    found = [(m[1].capitalize(), file) for file in folder.rglob("*") if (m := _POINTS.fullmatch(file.name))]
    if not found:
        raise FormatError(f"{folder}: no .xyc file found, the folder of the other white cells' centroids expected")
    return found


def _by_stem(found: Iterable[tuple[str, Path]], log: _Log) -> dict[str, Path]:
    """One file for each stem, in order; a second copy must be the same byte for byte."""
    files: dict[str, Path] = {}
    for stem, file in sorted(found, key=lambda pair: (pair[0], pair[1].as_posix())):
        first = files.setdefault(stem, file)
        if first is file:
            continue
        if first.read_bytes() != file.read_bytes():
            raise FormatError(f"{log.name(file)}: differs from {log.name(first)}, one file of that name expected")
        log.notes.append(f"{log.name(file)}: a copy of {log.name(first)}, left out")
    return files


def _groups(images: dict[str, Path], log: _Log) -> dict[str, str]:
    """Each image is a group of its own, except that byte-identical ones share that of the first."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for stem, image in images.items():
        by_size[image.stat().st_size].append(stem)
    groups = {stem: stem for stem in images}
    for stems in by_size.values():
        first_of: dict[str, str] = {}
        for stem in stems if len(stems) > 1 else ():
            digest = hashlib.sha256(images[stem].read_bytes()).hexdigest()
            groups[stem] = first_of.setdefault(digest, stem)
            if groups[stem] != stem:
                log.notes.append(f"{log.name(images[stem])}: the same image as {groups[stem]}, put in one group")
    return groups


def _truth(
    stem: str,
    size_wh: WidthHeight,
    files: tuple[dict[str, Path], dict[str, Path] | None],
    origin: int,
    log: _Log,
) -> tuple[Detections | None, tuple[str, ...]]:
    """Points of one image with NaN boxes, and the classes they annotate; (None, ()) if nobody annotated it."""
    blast_files, other_files = files
    if stem not in blast_files:
        log.notes.append(f"{stem}: no .xyc file, taken as not annotated")
        return None, ()
    blasts = _points(blast_files[stem], size_wh, origin, log)
    if len(blasts) == 0 and stem.endswith("1"):
        log.notes.append(f"{log.name(blast_files[stem])}: no centroid, although the name says that there are blasts")
    if len(blasts) and stem.endswith("0"):
        log.notes.append(f"{log.name(blast_files[stem])}: {len(blasts)} centroids, although the name says healthy")
    if other_files is None:
        return _cells(blasts, BLAST), ("blast",)
    if stem not in other_files:
        log.notes.append(f"{stem}: no .xyc file of the other white cells, only blasts are annotated")
        return _cells(blasts, BLAST), ("blast",)
    known = {(x, y) for x, y in blasts.tolist()}
    others = _points(other_files[stem], size_wh, origin, log, known)
    return Detections.concatenate([_cells(blasts, BLAST), _cells(others, WBC)]), ("blast", "wbc")


def _cells(points_xy: Points, label: int) -> Detections:
    n = len(points_xy)
    return Detections(np.full((n, 4), np.nan), label=np.full(n, label), point_xy=points_xy)


def _points(
    file: Path, size_wh: WidthHeight, origin: int, log: _Log, known: Iterable[tuple[float, float]] = ()
) -> Points:
    """Centroids in pixels counted from 0, (n, 2), in the order of the file, without doubled or outside ones."""
    taken = set(known)
    points: list[tuple[float, float]] = []
    for number, (x, y) in parse_xyc(file, log.name(file)):
        point = (x - origin, y - origin)
        where = f"{log.name(file)}: line {number}: point ({x:g}, {y:g})"
        if not (0 <= point[0] < size_wh[0] and 0 <= point[1] < size_wh[1]):
            log.dropped.append(f"{where} is outside the image of {size_wh[0]} x {size_wh[1]} px")
        elif point in taken:
            log.dropped.append(f"{where} is there already")
        else:
            taken.add(point)
            points.append(point)
    return np.asarray(points, np.float32).reshape(-1, 2)


def parse_xyc(file: Path, name: str | None = None) -> Iterator[tuple[int, tuple[float, float]]]:
    """Line number and (x, y) of each point in a ``.xyc`` file, as written there.

    Fields are separated by tabs or spaces; a byte order mark, any line ending and blank lines are fine.
    """
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            x, y = (float(value) for value in line.split())
            valid = math.isfinite(x) and math.isfinite(y)
        except ValueError:
            valid = False
        if not valid:
            found = line.strip()[:40]
            raise FormatError(f"{name or file}: line {number}: {found!r} found, 'x y' in pixels expected")
        yield number, (x, y)


def _with_boxes(cells: Detections, image: Path, size_wh: WidthHeight, drawing: _Drawing) -> Detections:
    if drawing.boxes == "none" or not len(cells) or cells.point_xy is None:
        return cells
    drawn = box_tools.squares(cells.point_xy, (drawing.size_um / drawing.mpp[0], drawing.size_um / drawing.mpp[1]))
    origin = np.full(len(cells), "fixed")
    if drawing.boxes == "segment":
        from blastdet.segmentation.nuclei import nucleated_boxes_from_points  # only this option needs it

        grown = np.asarray(nucleated_boxes_from_points(read_image(image), cells.point_xy, drawing.mpp), np.float32)
        found: NDArray[np.bool_] = np.asarray(np.isfinite(grown).all(axis=1))
        drawn = np.where(found[:, None], grown, drawn)
        origin = np.where(found, "segment", "fixed")
    return cells.with_columns(boxes_xyxy=box_tools.clip(drawn, size_wh), origin=origin)


def _note_strays(images: dict[str, Path], points: dict[str, Path], log: _Log) -> None:
    strays = [file for stem, file in points.items() if stem not in images]
    if strays:
        log.notes.append(f"{len(strays)} .xyc files have no image, the first is {log.name(strays[0])}")
