"""ALL-IDB1: ``ImNNN_Y.jpg``, and ``ImNNN_Y.xyc`` with one centroid per line.

Y is 1 for an image with blasts and 0 for a healthy one. Files are found by name in any folders (flat, ``im/`` +
``xyc/``, ``img/``, nested, upper-case suffixes). The dataset has centroids only: boxes are made here, and their
`origin` states how.

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
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes as box_tools
from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.mpp import check_mpp
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample, Scale, WidthHeight
from blastdet.datasets.annotations.files import read_text
from blastdet.datasets.published.named_files import has_named_file, named_files
from blastdet.imaging.io import image_size, read_image

# The scale of ALL-IDB1 is not published ("magnifications from 300 to 500"). The nuclei of its blasts measure
# about 22,500 px² in the small images and 21,100 px² in the large ones (median), that is 165-170 px across in
# both; a lymphoblast nucleus is 11-12 µm wide. So one value serves both sizes, with an error of perhaps 20 %.
# It is used to make boxes and is never reported as the scale of a sample.
NOMINAL_MPP: Scale = (0.07, 0.07)

_IMAGE = re.compile(r"(Im\d{3}_[01])\.jpe?g", re.IGNORECASE)
_POINTS = re.compile(r"(Im\d{3}_[01])\.xyc", re.IGNORECASE)
# Folders in which the script of the authors stores centroids of other cells, or of blasts and other cells.
_NOT_BLASTS = frozenset({"other", "merge"})
_BOXES = ("fixed", "none", "segment")

Points = NDArray[np.float32]

matches = partial(has_named_file, pattern=_IMAGE)


@dataclass(frozen=True)
class _Drawing:
    """How boxes are made from points."""

    boxes: str
    size_um: float
    mpp: Scale


@dataclass
class _Log:
    """Dropped annotations and notes, collected while reading."""

    root: Path
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name


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

    Raises `FormatError` if there is no image, a line is not ``x y``, or two different files have the same name. Raises
    `ConfigError` if an option is out of range. Raises `ScaleError` if `mpp` is not a scale.

    Parameters
    ----------
    path : Path
        The folder that contains images and ``.xyc`` files, at any depth.
    boxes : {"fixed", "none", "segment"}
        Squares of `size_um` around the centroids, no boxes (NaN), or boxes segmented from the image. A cell that
        cannot be segmented gets a square; the column `origin` distinguishes them.
    size_um : float
        Side of a square in µm. Squares are cut at the edge of the image.
    mpp : (float, float), optional
        µm/px of all images. By default the scale of the samples is unknown, and boxes are made with `NOMINAL_MPP`;
        a note says so.
    other : Path, optional
        Folder with the ``.xyc`` files of the authors for white cells other than blasts; these become ``wbc``.
    origin : {0, 1}
        Coordinate of the top left pixel in the files, which the authors do not document.

    Returns
    -------
    Dataset
        `Sample.label` is ``"all"`` or ``"healthy"``, from the file name; byte-identical images share a `group`. A
        sample without an ``.xyc`` file has no truth; one with an empty file has an empty truth. `annotated` is
        ``("blast",)``, with `other` ``("blast", "wbc")``. Points outside the image and repeated points are dropped.
    """
    _check(boxes, size_um, origin)
    mpp = None if mpp is None else check_mpp(mpp)
    log = _Log(path)
    images = _images(path, log)
    blasts = _by_stem(_named(path, _POINTS, leave_out=other), log)
    others = {} if other is None else _by_stem(_other_files(other), log)
    drawing = _drawing(boxes, size_um, mpp, log)
    groups = _groups(images, log)
    samples = []
    for stem, image in images.items():
        size_wh = image_size(image)
        truth, annotated = _truth(stem, size_wh, (blasts, others if other else None), origin, log)
        if truth is not None:
            truth = _with_boxes(truth, image, size_wh, drawing).sorted()
        label = "all" if stem.endswith("1") else "healthy"
        samples.append(
            Sample(image, size_wh, mpp=mpp, group=groups[stem], label=label, annotated=annotated, truth=truth)
        )
    _note_strays(images, blasts | others, log)
    samples.sort(key=lambda sample: log.name(sample.path))
    return Dataset("allidb1", path, tuple(samples), tuple(log.dropped), tuple(log.notes))


def _images(path: Path, log: _Log) -> dict[str, Path]:
    images = _by_stem(_named(path, _IMAGE), log)
    if not images:
        raise FormatError(f"{path}: expected images with names like Im001_1.jpg, got none")
    return images


def _drawing(boxes: str, size_um: float, mpp: Scale | None, log: _Log) -> _Drawing:
    if mpp is None and boxes != "none":
        log.notes.append(f"boxes made for {NOMINAL_MPP[0]} µm/px: the scale of ALL-IDB1 is not published")
    return _Drawing(boxes, size_um, mpp or NOMINAL_MPP)


def _check(boxes: str, size_um: float, origin: int) -> None:
    if boxes not in _BOXES:
        raise ConfigError(f"boxes: expected one of {', '.join(_BOXES)}, got {boxes!r}")
    if origin not in (0, 1):
        raise ConfigError(f"origin: expected 0 or 1, got {origin}")
    if not (math.isfinite(size_um) and size_um > 0):
        raise ConfigError(f"size_um: expected a width in µm above 0, got {size_um}")


def _named(folder: Path, pattern: re.Pattern[str], leave_out: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Files below `folder` whose complete name matches `pattern`, each with its stem in the form ImNNN_Y."""
    left_out = leave_out.resolve() if leave_out else None
    for file, match in named_files(folder, pattern):
        if pattern is _POINTS and _NOT_BLASTS.intersection(part.lower() for part in file.relative_to(folder).parts):
            continue
        if left_out and file.resolve().is_relative_to(left_out):
            continue
        yield match[1].capitalize(), file


def _other_files(folder: Path) -> list[tuple[str, Path]]:
    found = [(match[1].capitalize(), file) for file, match in named_files(folder, _POINTS)]
    if not found:
        raise FormatError(f"{folder}: expected .xyc files with centroids of the other white cells, got none")
    return found


def _by_stem(found: Iterable[tuple[str, Path]], log: _Log) -> dict[str, Path]:
    """One file for each stem, in order; further copies must be identical."""
    files: dict[str, Path] = {}
    for stem, file in sorted(found, key=lambda pair: (pair[0], pair[1].as_posix())):
        first = files.setdefault(stem, file)
        if first is file:
            continue
        if first.read_bytes() != file.read_bytes():
            raise FormatError(f"{log.name(file)}: expected a copy of {log.name(first)}, got different content")
        log.notes.append(f"{log.name(file)}: a copy of {log.name(first)}, not used")
    return files


def _groups(images: dict[str, Path], log: _Log) -> dict[str, str]:
    """Each image is its own group; byte-identical images share the group of the first one."""
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
                log.notes.append(f"{log.name(images[stem])}: identical to {groups[stem]}, same group")
    return groups


def _truth(
    stem: str,
    size_wh: WidthHeight,
    files: tuple[dict[str, Path], dict[str, Path] | None],
    origin: int,
    log: _Log,
) -> tuple[Detections | None, tuple[str, ...]]:
    """Points of one image with boxes of NaN, and the classes they annotate; (None, ()) if it is not annotated."""
    blast_files, other_files = files
    if stem not in blast_files:
        log.notes.append(f"{stem}: no .xyc file, read as not annotated")
        return None, ()
    blasts = _points(blast_files[stem], size_wh, origin, log)
    if len(blasts) == 0 and stem.endswith("1"):
        log.notes.append(f"{log.name(blast_files[stem])}: no centroids, although the name states blasts")
    if len(blasts) and stem.endswith("0"):
        log.notes.append(
            f"{log.name(blast_files[stem])}: {len(blasts)} centroids, although the name states a healthy sample"
        )
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
    """Centroids in 0-based pixels, (n, 2), in the order of the file, without repeated and outside points."""
    taken = set(known)
    points: list[tuple[float, float]] = []
    for number, (x, y) in parse_xyc(file, log.name(file)):
        point = (x - origin, y - origin)
        where = f"{log.name(file)}: line {number}: point ({x:g}, {y:g})"
        if not (0 <= point[0] < size_wh[0] and 0 <= point[1] < size_wh[1]):
            log.dropped.append(f"{where} is outside the image of {size_wh[0]} x {size_wh[1]} px")
        elif point in taken:
            log.dropped.append(f"{where} is listed twice")
        else:
            taken.add(point)
            points.append(point)
    return np.asarray(points, np.float32).reshape(-1, 2)


def parse_xyc(file: Path, name: str | None = None) -> Iterator[tuple[int, tuple[float, float]]]:
    """Line number and (x, y) of each point in a ``.xyc`` file, as written there.

    Fields are separated by tabs or spaces. A byte order mark, any line endings and blank lines are accepted.
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
            raise FormatError(f"{name or file}: line {number}: expected 'x y' in pixels, got {line.strip()[:40]!r}")
        yield number, (x, y)


def _with_boxes(cells: Detections, image: Path, size_wh: WidthHeight, drawing: _Drawing) -> Detections:
    if drawing.boxes == "none" or not len(cells) or cells.point_xy is None:
        return cells
    made = box_tools.squares(cells.point_xy, (drawing.size_um / drawing.mpp[0], drawing.size_um / drawing.mpp[1]))
    origin = np.full(len(cells), "fixed")
    if drawing.boxes == "segment":
        from blastdet.segmentation.nuclei import nucleated_boxes_from_points  # only this option needs it

        segmented = np.asarray(nucleated_boxes_from_points(read_image(image), cells.point_xy, drawing.mpp), np.float32)
        found: NDArray[np.bool_] = np.asarray(np.isfinite(segmented).all(axis=1))
        made = np.where(found[:, None], segmented, made)
        origin = np.where(found, "segment", "fixed")
    return cells.with_columns(boxes_xyxy=box_tools.clip(made, size_wh), origin=origin)


def _note_strays(images: dict[str, Path], points: dict[str, Path], log: _Log) -> None:
    strays = [file for stem, file in points.items() if stem not in images]
    if strays:
        log.notes.append(f"{len(strays)} .xyc files without an image, first {log.name(strays[0])}")
