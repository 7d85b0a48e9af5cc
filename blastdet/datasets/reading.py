"""Read a dataset by name or path: ``blastdet.read_dataset``, which all commands with a dataset use."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blastdet.core.errors import ConfigError, FormatError, counted, in_a_line, shown
from blastdet.core.mpp import check_mpp
from blastdet.core.types import CELL_CLASSES, Dataset, Scale
from blastdet.datasets import catalog
from blastdet.datasets.archives import located
from blastdet.datasets.formats import registry
from blastdet.datasets.locations import data_dir, missing

_LONGEST_NOTE = 1000


def read_dataset(
    name_or_path: str | Path,
    split: str | None = None,
    *,
    format: str = "auto",
    mpp: float | Scale | None = None,
    corrections: str | Path | None = None,
    class_map: Mapping[str, str] | None = None,
    **options: Any,
) -> Dataset:
    """Read an annotated dataset.

    Parameters
    ----------
    name_or_path : str or Path
        A folder, a file, a zip or tar archive, or the name of a dataset in the catalog (``blastdet data list``). A path
        takes precedence; a name means the folder of that name below `data_dir`.
    split : {"train", "val", "test"}, optional
        Default: all images.
    format : str
        Annotation format, a key of `blastdet.datasets.formats.registry.READERS`. ``"auto"`` recognises it.
    mpp : float or (float, float), optional
        Micrometres per pixel of the images, along x and y. Replaces the scale stored in the dataset.
    corrections : str or Path, optional
        File of corrections to apply.
    class_map : mapping, optional
        Class name in the files -> one of ``"blast"``, ``"wbc"``, ``"rbc"``, ``"platelet"``, or ``""`` to leave the
        class out.
    **options
        ``annotated``: the classes that were labelled, such as ``("blast",)``; the others are unknown in these images,
        neither absent nor scored. Further options of the reader: ``images`` (folder of the images, if they are not next
        to the annotation files); ``boxes``, ``size_um``, ``other`` and ``origin`` of ALL-IDB1.

    Returns
    -------
    Dataset
        `Dataset.dropped` and `Dataset.notes` list what the reader dropped and noticed.

    Raises
    ------
    FormatError
        If there is no such dataset (the message says how to get it), its format is unknown, or a file is invalid.
    ConfigError
        If there is no image in the split, or the reader has no such option.
    ScaleError
        If `mpp` is not between 0.001 and 100.

    Examples
    --------
    >>> data = read_dataset(catalog.CATALOG / "demo")
    >>> data.classes
    ('blast', 'wbc', 'rbc', 'platelet')
    >>> test = read_dataset("bccd", split="test")  # doctest: +SKIP
    """
    dataset = _read(name_or_path, format, None if mpp is None else check_mpp(mpp), {**options, "class_map": class_map})
    if corrections is not None:
        from blastdet.datasets.apply_corrections import apply_corrections

        dataset = apply_corrections(dataset, Path(corrections))
    return select_split(dataset, split)


def _read(name_or_path: str | Path, format: str, mpp: Scale | None, options: Mapping[str, Any]) -> Dataset:
    """All of a dataset, with the options of the catalog where none are given."""
    path, given = find_dataset(name_or_path)
    stated = given.pop("format", "auto")
    if format == "auto":
        format = stated
    options = dict(options)
    annotated = options.pop("annotated", None)
    dataset = read_at_scale(path, format, mpp, **{**given, **options})
    return dataset if annotated is None else with_annotated(dataset, annotated)


def read_at_scale(path: Path, format: str, mpp: Any = None, **options: Any) -> Dataset:
    """All of a dataset whose format is known; `mpp`, if given, replaces the scale of every image, whatever the format.

    Raises
    ------
    FormatError, ScaleError
        As for `read_dataset`.
    """
    scale = None if mpp is None else check_mpp(mpp)
    if scale is not None and "mpp" in registry.options_of(path, format):
        options["mpp"] = scale
    dataset = registry.read(path, format, **options)
    if scale is None:
        return dataset
    return replace(dataset, samples=tuple(replace(sample, mpp=scale) for sample in dataset))


def notes_of(dataset: Dataset, most: int = 12) -> list[str]:
    """What the reader noticed and dropped, in at most `most` lines and one on what was dropped, for printing.

    Examples
    --------
    >>> notes_of(Dataset("a", Path(), (), dropped=("a.xml: box without area",), notes=("2 images",)))
    ['2 images', '1 line on what was left out, first: a.xml: box without area']
    """
    lines = list(dataset.notes[:most])
    if (left := len(dataset.notes) - most) > 0:
        lines.append(f"and {counted(left, 'more note')}")
    if dataset.dropped:
        lines.append(f"{counted(len(dataset.dropped), 'line')} on what was left out, first: {dataset.dropped[0]}")
    return [in_a_line(line, _LONGEST_NOTE) for line in lines]


def with_annotated(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The dataset with only these classes labelled: cells of the others are unknown, whether a file has some or not.

    Raises
    ------
    ConfigError
        If a name is not one of `CELL_CLASSES`.
    """
    if unknown := [name for name in names if name not in CELL_CLASSES]:
        raise ConfigError(f"annotated: expected some of {', '.join(CELL_CLASSES)}, got {shown(unknown[0])}")
    listed = tuple(name for name in CELL_CLASSES if name in names)
    samples = [sample if sample.truth is None else replace(sample, annotated=listed) for sample in dataset]
    others = ", ".join(name for name in dataset.classes if name not in listed)
    hint = "pass --annotated"
    notes = tuple(note for note in dataset.notes if hint not in note)  # it was passed
    if others:
        notes += (f"annotated: {', '.join(listed) or 'no class'}; {others} unknown in these images",)
    return replace(dataset, samples=tuple(samples), notes=notes)


def find_dataset(name_or_path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Folder or file of a dataset, and the catalog's ``format`` and reader options if it was named.

    Raises
    ------
    FormatError
        If there is neither such a path nor an installed dataset of that name.
    """
    path = Path(name_or_path)
    name = str(name_or_path)
    exists = os.path.exists(path)  # noqa: PTH110  # Path.exists() fails on a name that is too long
    if exists or path.name != name or not os.path.isfile(catalog.CATALOG / f"{name}.yaml"):  # noqa: PTH113
        return located(path), {}
    folder = data_dir() / name
    if not folder.exists():
        raise FormatError(missing(folder))
    entry = catalog.load(name)
    return folder, {**entry.options, **({"format": entry.reader} if entry.reader else {})}


def select_split(dataset: Dataset, split: str | None) -> Dataset:
    """Images of one split; ``None`` or ``"all"``: all images.

    Raises
    ------
    ConfigError
        If no image is in that split. Lists the splits that exist.
    """
    part = dataset if split in (None, "all") else dataset.with_split(str(split))
    if not len(part):
        known = ", ".join(sorted({sample.split for sample in dataset if sample.split})) or "none"
        raise ConfigError(f"{dataset.root}: no image in split {split!r}. Splits in this dataset: {known} (or all)")
    return part
