"""A folder of single cells by type: one subfolder for each type, as PBC, Raabin-WBC and MLL23 are published.

Also what a user makes who sorts the cells of a laboratory into folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from blastdet.core.errors import FormatError
from blastdet.core.types import Dataset, Scale
from blastdet.datasets.cropping.cell_types import type_of
from blastdet.datasets.published.named_files import typed_crop
from blastdet.imaging.io import IMAGE_SUFFIXES


def matches(path: Path) -> bool:
    """Whether `path` has subfolders with images, and the name of one of them is a cell type."""
    return path.is_dir() and any(type_of(folder.name) and any(_images(folder)) for folder in _folders(path))


def read(path: Path, *, mpp: Scale | None = None) -> Dataset:
    """Read a folder of single cells by type.

    Parameters
    ----------
    path : Path
        The folder that contains the folders of the types. Their names are those of `CELL_TYPES` or common synonyms
        (myeloblast, segmented neutrophil, normoblast, …), in any case.

    Returns
    -------
    Dataset
        The truth is one cell in the centre of each image, a point with a box of NaN. The cells of a folder with
        another name (``plasma cell``) keep it as their `cell_type` and are to be ignored; a note says so. `group` is
        the folder between the type and the image, if there is one: ``blast/patient 7/12.png``.

    Raises
    ------
    FormatError
        If no folder with images has the name of a type.
    """
    if not matches(path):
        raise FormatError(f"{path}: expected a folder of images for each cell type, such as blast, monocyte, got none")
    samples, notes = [], []
    for folder in _folders(path):
        images = sorted(_images(folder))
        known = type_of(folder.name) is not None
        if images and not known:
            notes.append(f"{folder.name}: no known cell type, its {len(images)} images are ignored")
        for image in images:
            between = image.relative_to(folder).parts[:-1]
            group = between[0] if between else None
            samples.append(typed_crop(image, folder.name, mpp, group, ignore=not known))
    return Dataset(path.resolve().name, path, tuple(samples), notes=tuple(notes))


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
