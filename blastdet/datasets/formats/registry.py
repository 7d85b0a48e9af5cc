"""Annotation formats by name: detecting, reading and writing them.

Each format is a module with ``read(path, **options) -> Dataset`` and/or ``write(dataset, path) -> Dataset``. The tables
hold strings that are resolved on use, so that importing this module imports no format. Most readers accept `class_map`
(class name of the files -> one of `CELL_CLASSES`) and `mpp` (µm/px along x and y); other options are in the docstring
of each reader.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.mpp import check_mpp
from blastdet.core.types import Dataset
from blastdet.datasets.annotations.class_names import AskedMap, types_note
from blastdet.datasets.annotations.records import RawRecord, to_dataset
from blastdet.datasets.archives import located
from blastdet.datasets.locations import missing

READERS: dict[str, str] = {
    "bccd": "blastdet.datasets.published.bccd:read",
    "voc": "blastdet.datasets.formats.voc:read",
    "allidb1": "blastdet.datasets.published.allidb1:read",
    "allidb2": "blastdet.datasets.published.allidb2:read",
    "cnmc": "blastdet.datasets.published.cnmc:read",
    "chula": "blastdet.datasets.published.chula:read",
    "pbc": "blastdet.datasets.published.pbc:read",
    "jhu": "blastdet.datasets.published.jhu:read",
    "all_fields": "blastdet.datasets.published.all_fields:read",
    "aml_lmu": "blastdet.datasets.published.coded_cells:read_aml_lmu",
    "bone_marrow": "blastdet.datasets.published.coded_cells:read_bone_marrow",
    "cell_folders": "blastdet.datasets.published.cell_folders:read",
    "coco": "blastdet.datasets.formats.coco:read",
    "yolo": "blastdet.datasets.formats.yolo:read",
    "geojson": "blastdet.datasets.formats.geojson:read",
    "cvat": "blastdet.datasets.tools.cvat:read",
    "labelstudio": "blastdet.datasets.tools.label_studio:read",
    "via": "blastdet.datasets.tools.via:read",
    "labelme": "blastdet.datasets.tools.labelme:read",
    "supervisely": "blastdet.datasets.tools.supervisely:read",
    "images": "blastdet.datasets.annotations.files:read_image_folder",
}
"""Name of a format -> ``module:function`` that reads it."""

WRITERS: dict[str, str] = {
    "coco": "blastdet.datasets.formats.coco:write",
    "yolo": "blastdet.datasets.formats.yolo:write",
    "csv": "blastdet.datasets.formats.csv_table:write",
    "geojson": "blastdet.datasets.formats.geojson:write",
    "cvat": "blastdet.datasets.tools.preannotations:write_cvat",
    "labelstudio": "blastdet.datasets.tools.preannotations:write_label_studio",
}
"""Name of a format -> ``module:function`` that writes it."""

RECORD_READERS: dict[str, str] = {
    "voc": "blastdet.datasets.formats.voc:read_records",
    "coco": "blastdet.datasets.formats.coco:read_records",
    "yolo": "blastdet.datasets.formats.yolo:read_records",
    "geojson": "blastdet.datasets.formats.geojson:read_records",
    "cvat": "blastdet.datasets.tools.cvat:read_records",
    "labelstudio": "blastdet.datasets.tools.label_studio:read_records",
    "via": "blastdet.datasets.tools.via:read_records",
    "labelme": "blastdet.datasets.tools.labelme:read_records",
    "supervisely": "blastdet.datasets.tools.supervisely:read_records",
}
"""Name of a format -> ``module:function`` that reads its annotations as they are; see `read_records`."""

_RENAMED = {"pictures": "images"}  # former name -> name
_RECORDS_OF = {"bccd": "voc"}  # formats whose annotation files are those of another format

# Patterns that a folder of a format contains, or a function that recognises one. The first match counts, so the most
# specific come first.
_SIGNS: tuple[tuple[str, tuple[str, ...] | str], ...] = (
    ("bccd", "blastdet.datasets.published.bccd:matches"),
    ("voc", ("Annotations",)),
    ("yolo", ("data.yaml", "data.yml")),
    ("coco", ("annotations/*.json", "instances*.json", "truth.json", "*.coco.json", "*/*.coco.json")),
    ("geojson", ("*.geojson", "geojson/*/*.geojson")),
    ("yolo", "blastdet.datasets.formats.yolo:matches"),
    ("cvat", "blastdet.datasets.tools.cvat:files"),
    ("voc", "blastdet.datasets.formats.voc:matches"),
    ("via", "blastdet.datasets.tools.via:files"),
    ("labelstudio", "blastdet.datasets.tools.label_studio:files"),
    ("labelme", "blastdet.datasets.tools.labelme:files"),
    ("supervisely", "blastdet.datasets.tools.supervisely:files"),
    ("coco", "blastdet.datasets.formats.coco:matches"),
    ("all_fields", "blastdet.datasets.published.all_fields:matches"),
    ("pbc", "blastdet.datasets.published.pbc:matches"),
    ("jhu", "blastdet.datasets.published.jhu:matches"),
    ("chula", "blastdet.datasets.published.chula:matches"),
    ("cnmc", "blastdet.datasets.published.cnmc:matches"),
    ("allidb2", "blastdet.datasets.published.allidb2:matches"),
    ("allidb1", "blastdet.datasets.published.allidb1:matches"),
    ("aml_lmu", "blastdet.datasets.published.coded_cells:matches_aml_lmu"),
    ("bone_marrow", "blastdet.datasets.published.coded_cells:matches_bone_marrow"),
    ("cell_folders", "blastdet.datasets.published.cell_folders:matches"),
)
_SUFFIXES = {".geojson": "geojson", ".yaml": "yolo", ".yml": "yolo", ".names": "yolo"}


def detect_format(path: Path) -> str:
    """Name of the format of `path`, from the files there.

    Raises
    ------
    FormatError
        If `path` does not exist, or is in no known format.
    """
    path = located(Path(path))
    if path.is_file() and (found := _format_of_file(path)):
        return found
    for name, sign in _SIGNS:
        if path.is_dir() and _fits(path, sign):
            return name
    if not path.exists():
        raise FormatError(missing(path))
    if (path / "crops.csv").is_file():
        raise FormatError(
            f"{path}: expected images of blood films, got crops of cells. "
            "They train a classifier: name its configuration."
        )
    known = ", ".join(READERS)
    raise FormatError(f"{path}: expected a dataset in a known format, got none. Name its format with --from: {known}")


def _format_of_file(file: Path) -> str | None:
    suffix = file.suffix.lower()
    if suffix == ".json":
        return resolve("blastdet.datasets.annotations.json_kind:kind_of")(file) or "coco"
    if suffix == ".xml":
        return "cvat" if resolve("blastdet.datasets.tools.cvat:is_cvat")(file) else "voc"
    if suffix == ".csv" and resolve("blastdet.datasets.tools.via:is_table")(file):
        return "via"
    return _SUFFIXES.get(suffix)


def _fits(folder: Path, sign: tuple[str, ...] | str) -> bool:
    if isinstance(sign, str):
        return bool(resolve(sign)(folder))
    return any(next(folder.glob(pattern), None) is not None for pattern in sign)


def read(path: Path, format: str = "auto", *, strict: bool = True, **options: Any) -> Dataset:
    """Read a dataset of any known format.

    Parameters
    ----------
    path : Path
        A folder, the file that describes the dataset, or a zip or tar archive of either; see `archives.unpacked`.
    format : str
        The input format: a key of `READERS`, or ``"auto"`` to detect it.
    strict : bool, default True
        Whether a faulty annotation is an error. If false, everything valid is read, and `Dataset.dropped` has one line
        for each fault; see `to_dataset`. Formats of `RECORD_READERS` only.
    **options
        Options of the reader. Options that are None are left out, so that the default of the reader applies.

    Returns
    -------
    Dataset
        With at least one sample.

    Raises
    ------
    FormatError
        If the format is unknown, or the files are faulty.
    ConfigError
        If the reader does not have an option.
    ScaleError
        If the option `mpp` is not a scale.
    ImageError
        If an image cannot be read.

    Examples
    --------
    >>> from blastdet.datasets.formats.registry import read
    >>> dataset = read("bccd", mpp=(0.07, 0.07))  # doctest: +SKIP
    """
    path = located(Path(path))
    name, reader = _reader(path, format)
    given = {key: value for key, value in options.items() if value is not None}
    given |= {key: Path(given[key]) for key in ("images", "other") if key in given}
    if "mpp" in given:
        given["mpp"] = check_mpp(given["mpp"])
    accepted = options_of(path, format) if strict else {"class_map"}
    unknown = sorted(set(given) - accepted)
    if unknown:
        mode = "" if strict else " with strict=False"
        expected = ", ".join(sorted(accepted)) or "no options"
        raise ConfigError(f"format {name!r}{mode}: expected {expected}, got the option {unknown[0]}")
    if "class_map" in given:
        given["class_map"] = AskedMap(given["class_map"])
    if strict:
        dataset: Dataset = reader(path, **given)
    else:
        root = path if path.is_dir() else path.parent
        dataset = to_dataset(read_records(path, name), root, **given)
    if not len(dataset):
        raise FormatError(f"{path}: expected a dataset in the format {name}, got no images")
    unused = given["class_map"].unused() if "class_map" in given else ()
    return replace(dataset, notes=(*dataset.notes, *_notes(dataset, path, name, format), *unused))


def _notes(dataset: Dataset, path: Path, name: str, asked: str) -> Iterator[str]:
    """What to know of a dataset that was read in the format `name`, and asked for as `asked`."""
    if name in RECORD_READERS:
        yield from types_note(sample.truth for sample in dataset if sample.truth is not None)
    if asked == "voc" and resolve("blastdet.datasets.published.bccd:matches")(path):
        yield "this looks like BCCD: read it as bccd to use its groups and its scale"
    if asked in _RENAMED:
        yield f"the format {asked} is now {name}"


def read_records(path: Path, format: str = "auto") -> tuple[RawRecord, ...]:
    """The annotations of a dataset exactly as its files state them, faults included.

    Parameters
    ----------
    path : Path
        A folder, or an annotation file or ``data.yaml``.
    format : str
        A key of `READERS`; ``"auto"`` reads all formats of `RECORD_READERS`.

    Returns
    -------
    tuple of RawRecord
        In the order of formats and files; empty if there are no annotations in these formats.
    """
    path = located(Path(path))
    name = _RECORDS_OF.get(format, format)
    formats = list(RECORD_READERS) if name == "auto" else [name] if name in RECORD_READERS else []
    root = path if path.is_dir() else path.parent
    records: list[RawRecord] = [record for key in formats for record in resolve(RECORD_READERS[key])(root)]
    if path.is_file() and path.suffix.lower() not in (".yaml", ".yml"):
        records = [record for record in records if record.file == path]
    return tuple(records)


def options_of(path: Path, format: str = "auto") -> frozenset[str]:
    """Names of the options that the reader of `path` accepts. Errors are those of `read`."""
    return frozenset(inspect.signature(_reader(located(Path(path)), format)[1]).parameters) - {"path"}


def _reader(path: Path, format: str) -> tuple[str, Callable[..., Any]]:
    if not os.path.exists(path):  # noqa: PTH110  # Path.exists() fails on a name that is too long
        raise FormatError(missing(path))
    name = detect_format(path) if format == "auto" else _RENAMED.get(format, format)
    if name not in READERS:
        raise FormatError(f"format: expected one of auto, {', '.join(READERS)}, got {format!r}")
    return name, resolve(READERS[name])


def write(dataset: Dataset, path: Path, format: str, **options: Any) -> Dataset:
    """Write a dataset in another format.

    Parameters
    ----------
    dataset : Dataset
    path : Path
        Folder to write into.
    format : str
        The output format, a key of `WRITERS`.
    **options
        Options of the writer.

    Returns
    -------
    Dataset
        With the paths of the written images, and notes on what the format cannot hold.

    Raises
    ------
    FormatError
        If the format is unknown, or a file cannot be written.
    """
    if format not in WRITERS:
        raise FormatError(f"format: expected one of {', '.join(WRITERS)} to write, got {format!r}")
    written: Dataset = resolve(WRITERS[format])(dataset, Path(path), **options)
    return written


def resolve(target: str) -> Callable[..., Any]:
    """The function that ``"module:function"`` names."""
    module, _, function = target.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
