"""Annotation formats: each is a module with ``read(path, **options) -> Dataset`` and/or ``write(dataset, path)``.

The tables are plain strings, resolved when a format is used, so that importing this package costs nothing.
Every reader takes ``class_map`` (foreign class name to ours) and ``mpp`` (µm/px along x and y) where the format
leaves room for them; what else a reader takes is in its own docstring.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import Dataset
from blastdet.datasets.locations import missing

READERS: dict[str, str] = {
    "bccd": "blastdet.datasets.formats.voc:read",
    "voc": "blastdet.datasets.formats.voc:read",
    "allidb1": "blastdet.datasets.published.allidb:read",
    "allidb2": "blastdet.datasets.published.classified_folders:read_allidb2",
    "cnmc": "blastdet.datasets.published.classified_folders:read_cnmc",
    "chula": "blastdet.datasets.published.chula:read",
    "pbc": "blastdet.datasets.published.classified_folders:read_pbc",
    "all_fields": "blastdet.datasets.published.classified_folders:read_all_fields",
    "coco": "blastdet.datasets.formats.coco:read",
    "yolo": "blastdet.datasets.formats.yolo:read",
    "geojson": "blastdet.datasets.formats.geojson:read",
    "pictures": "blastdet.datasets.formats.image_folder:read",
}
"""Name of a format -> ``module:function`` that reads it."""

WRITERS: dict[str, str] = {
    "coco": "blastdet.datasets.formats.coco:write",
    "yolo": "blastdet.datasets.formats.yolo:write",
    "csv": "blastdet.datasets.formats.csv_table:write",
    "geojson": "blastdet.datasets.formats.geojson:write",
}
"""Name of a format -> ``module:function`` that writes it."""

# Patterns that a folder of a format holds, or a function that recognises one; the first that fits wins, so the most
# telling come first.
_SIGNS: tuple[tuple[str, tuple[str, ...] | str], ...] = (
    ("bccd", ("Annotations", "BCCD/Annotations")),
    ("yolo", ("data.yaml", "data.yml")),
    ("coco", ("annotations/*.json", "instances*.json", "truth.json", "*.coco.json", "*/*.coco.json")),
    ("geojson", ("*.geojson", "geojson/*/*.geojson")),
    ("all_fields", "blastdet.datasets.published.classified_folders:matches_all_fields"),
    ("pbc", "blastdet.datasets.published.classified_folders:matches_pbc"),
    ("chula", "blastdet.datasets.published.chula:matches"),
    ("cnmc", "blastdet.datasets.published.classified_folders:matches_cnmc"),
    ("allidb2", "blastdet.datasets.published.classified_folders:matches_allidb2"),
    ("allidb1", "blastdet.datasets.published.allidb:matches"),
)


def detect_format(path: Path) -> str:
    """Name of the format of `path`, told from what lies there.

    Raises
    ------
    FormatError
        If nothing known is there.
    """
    if path.is_file():
        by_suffix = {".json": "coco", ".geojson": "geojson", ".yaml": "yolo", ".yml": "yolo"}
        if path.suffix.lower() in by_suffix:
            return by_suffix[path.suffix.lower()]
    for name, sign in _SIGNS:
        if path.is_dir() and _fits(path, sign):
            return name
    if not path.exists():
        raise FormatError(missing(path))
    if (path / "crops.csv").is_file():
        raise FormatError(f"{path}: crops of cells found; they train a classifier, whose configuration must be named")
    raise FormatError(f"{path}: no known data set found; name its format ({', '.join(READERS)})")


def _fits(folder: Path, sign: tuple[str, ...] | str) -> bool:
    if isinstance(sign, str):
        return bool(resolve(sign)(folder))
    return any(next(folder.glob(pattern), None) is not None for pattern in sign)


def read(path: Path, format: str = "auto", **options: Any) -> Dataset:
    """Read a data set of any known format.

    Parameters
    ----------
    path : Path
        A folder, or the file that describes the set.
    format : str
        A key of `READERS`, or ``"auto"``.
    **options
        Passed to the reader; ``None`` values are left out, so that a reader's default holds.

    Raises
    ------
    FormatError
        If the format is unknown or the files are faulty.
    ConfigError
        If the reader does not take an option.
    """
    path = Path(path)
    name, reader = _reader(path, format)
    given = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(set(given) - options_of(path, format))
    if unknown:
        raise ConfigError(f"format {name!r} has no option {', '.join(unknown)}")
    dataset: Dataset = reader(path, **given)
    if not len(dataset):
        raise FormatError(f"{path}: not one picture found, a data set in the format {name} expected")
    return dataset


def options_of(path: Path, format: str = "auto") -> frozenset[str]:
    """Options that the reader of `path` takes; errors as for `read`."""
    return frozenset(inspect.signature(_reader(Path(path), format)[1]).parameters) - {"path"}


def _reader(path: Path, format: str) -> tuple[str, Callable[..., Any]]:
    if not path.exists():
        raise FormatError(missing(path))
    name = detect_format(path) if format == "auto" else format
    if name not in READERS:
        raise FormatError(f"format {name!r} cannot be read; known are: auto, {', '.join(READERS)}")
    return name, resolve(READERS[name])


def write(dataset: Dataset, path: Path, format: str, **options: Any) -> Dataset:
    """Write `dataset` below the folder `path`; returns it with the paths it has there, and what the format lost."""
    if format not in WRITERS:
        raise FormatError(f"format {format!r} cannot be written; known are: {', '.join(WRITERS)}")
    written: Dataset = resolve(WRITERS[format])(dataset, Path(path), **options)
    return written


def resolve(target: str) -> Callable[..., Any]:
    """The function that ``"module:function"`` names."""
    module, _, function = target.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
