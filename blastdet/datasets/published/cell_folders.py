"""A folder of single cells by type: one subfolder for each type, as PBC, Raabin-WBC and MLL23 are published.

Also what a user makes who sorts the cells of a laboratory into folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote

from blastdet.core.errors import FormatError, counted, in_a_line
from blastdet.core.types import NUCLEATED, Dataset, Scale
from blastdet.datasets.annotations.cell_types import type_of
from blastdet.datasets.annotations.class_names import check_class_map
from blastdet.datasets.published.named_files import typed_crop
from blastdet.imaging.io import IMAGE_SUFFIXES


def matches(path: Path) -> bool:
    """Whether `path` has subfolders with images, and the name of one of them is a cell type."""
    return path.is_dir() and any(type_of(folder.name) and any(_images(folder)) for folder in _folders(path))


def read(path: Path, *, class_map: Mapping[str, str] | None = None, mpp: Scale | None = None) -> Dataset:
    """Read a folder of single cells by type.

    Parameters
    ----------
    path : Path
        The folder that contains the folders of the types. Their names are those of `CELL_TYPES` or common synonyms
        (myeloblast, segmented neutrophil, normoblast, …), in any case.
    class_map : mapping, optional
        Name of a folder -> ``"blast"``, ``"wbc"`` (not a blast, type unknown), or another class, which leaves it out.

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
    given = check_class_map(class_map or {})
    if not matches(path) and not any(folder.name in given for folder in _folders(path)):
        raise FormatError(f"{path}: expected a folder of images for each cell type, such as blast, monocyte, got none")
    samples, notes = [], []
    for folder in _folders(path):
        images = sorted(_images(folder))
        mapped, name = given.get(folder.name), in_a_line(folder.name)
        known = type_of(folder.name) is not None or mapped is not None
        if images and mapped is not None and mapped not in NUCLEATED:
            notes.append(f"{name}: {counted(len(images), 'image')} left out")
            continue
        if images and not known:
            notes.append(
                f"{name}: no known cell type, {counted(len(images), 'image')} ignored. "
                f"Say what they are: --map {quote(f'{name}=wbc')}, or =blast"
            )
        kind = folder.name if mapped is None else "blast" if mapped == "blast" else ""
        for image in images:
            between = image.relative_to(folder).parts[:-1]
            group = between[0] if between else None
            samples.append(typed_crop(image, kind, mpp, group, ignore=not known))
    return Dataset(path.resolve().name, path, tuple(samples), notes=tuple(notes))


def _folders(path: Path) -> list[Path]:
    """Folders in a folder, without hidden ones; none if it is missing."""
    return sorted(folder for folder in path.glob("*") if folder.is_dir() and not folder.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
