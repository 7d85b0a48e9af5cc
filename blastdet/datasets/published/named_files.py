"""What readers share that find their images by file name, at any depth below a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blastdet.core.errors import FormatError
from blastdet.core.types import BLAST, CELL_CLASSES, WBC, Detections, Sample, Scale
from blastdet.datasets.annotations.cell_types import type_of
from blastdet.imaging.io import image_size


def named_files(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    """Files below `folder` whose complete name matches `pattern`, in no particular order."""
    for file in folder.rglob("*"):
        match = pattern.fullmatch(file.name)
        if match and file.is_file():
            yield file, match


def has_named_file(path: Path, pattern: re.Pattern[str]) -> bool:
    """Whether `path` is a folder with such a file."""
    return path.is_dir() and next(named_files(path, pattern), None) is not None


def sorted_files(folder: Path, pattern: re.Pattern[str], example: str) -> list[tuple[Path, re.Match[str]]]:
    """The files of `named_files`, sorted by path; if there are none, `FormatError` with an example of a name."""
    found = sorted(named_files(folder, pattern), key=lambda pair: pair[0].relative_to(folder).as_posix())
    if not found:
        raise FormatError(f"{folder}: expected images with names like {example}, got none")
    return found


def crop_sample(image: Path, label: int, mpp: Scale | None, group: str | None) -> Sample:
    """A crop with one cell in its centre, as a point with a box of NaN. `Sample.label` is the class of the cell."""
    width, height = image_size(image)
    truth = Detections(
        np.full((1, 4), np.nan, np.float32),
        label=np.asarray([label]),
        point_xy=np.asarray([[width / 2, height / 2]], np.float32),
    )
    return Sample(image, (width, height), mpp=mpp, group=group, label=CELL_CLASSES[label], truth=truth)


def typed_crop(image: Path, cell_type: str, mpp: Scale | None, group: str | None, *, ignore: bool = False) -> Sample:
    """A crop with one cell of a type in its centre, as a point with a box of NaN.

    The image has no label: what else it shows need not be of that type. `ignore` is for a cell that is neither a blast
    nor surely something else.
    """
    width, height = image_size(image)
    is_blast = type_of(cell_type) == "blast"
    truth = Detections(
        np.full((1, 4), np.nan, np.float32),
        label=np.asarray([BLAST if is_blast else WBC]),
        point_xy=np.asarray([[width / 2, height / 2]], np.float32),
        cell_type=np.asarray([cell_type]),
        ignore=np.asarray([ignore]),
    )
    return Sample(image, (width, height), mpp=mpp, group=group, truth=truth)
