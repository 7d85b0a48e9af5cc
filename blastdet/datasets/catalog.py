"""The catalog of datasets: source, licence, citation and expected files of each.

An entry is ``datasets/NAME.yaml``. Next to it there may be ``checksums/NAME.sha256`` (as written by sha256sum) and a
folder ``added/NAME`` with small tables that this project adds to the published files.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blastdet.core.errors import ConfigError
from blastdet.core.model_card import shipped

CATALOG = shipped("datasets")
"""Folder of the catalog."""


class CatalogEntry(BaseModel):
    """What is known about one dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    contents: str = Field(description="number, size and annotation of the images")
    source: str = Field(description="page where the dataset is published")
    licence: str
    redistribution: str
    citation: str
    how: str = Field(description="one line that says how to get a copy")
    url: str | None = Field(default=None, description="archive that can be downloaded without registration")
    ask: str | None = Field(default=None, description="for data on request: who to contact")
    reader: str | None = Field(default=None, description="key of blastdet.datasets.formats.registry.READERS")
    options: dict[str, Any] = Field(default={}, description="options of the reader for this dataset")
    expect: dict[str, int] = Field(default={}, description="file pattern -> number, where there are no checksums")
    notes: tuple[str, ...] = Field(default=(), description="what to know before using the dataset")


def names(folder: Path = CATALOG) -> list[str]:
    """Names of all entries, in alphabetical order.

    Raises `ConfigError` if there is no catalog in `folder`.
    """
    found = sorted(file.stem for file in folder.glob("*.yaml"))
    if not found:
        raise ConfigError(f"{folder}: expected the dataset catalog, got no *.yaml file. Reinstall blastdet.")
    return found


def load(name: str, folder: Path = CATALOG) -> CatalogEntry:
    """Entry of one dataset.

    Raises `ConfigError` if the catalog has no such entry, or the entry is invalid.

    Examples
    --------
    >>> load("bccd").licence
    'MIT'
    """
    if name not in names(folder):
        raise ConfigError(f"expected the name of a dataset ({', '.join(names(folder))}), got {name!r}")
    file = folder / f"{name}.yaml"
    try:
        entry = CatalogEntry.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if entry.name != name:
        raise ConfigError(f"{file}: expected name {name!r}, got {entry.name!r}")
    return entry


def checksums(name: str, folder: Path = CATALOG) -> dict[str, str]:
    """Path below the dataset's folder -> sha256; empty where files may not be listed or differ between copies."""
    file = folder / "checksums" / f"{name}.sha256"
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def added(name: str, folder: Path = CATALOG) -> dict[str, Path]:
    """Files that this project adds to a dataset: path below the dataset's folder -> file in the repository."""
    root = folder / "added" / name
    return {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*")) if file.is_file()}


def problems(entry: CatalogEntry, root: Path, folder: Path = CATALOG) -> list[str]:
    """Problems of a copy of a dataset, one line each: missing files, changed files, a wrong number of files.

    Files that are not listed are ignored.
    """
    if not root.is_dir():
        return [f"{root}: no such folder"]
    listed = checksums(entry.name, folder)
    found = [f"{path}: {fault}" for path, digest in listed.items() if (fault := _fault(root / path, digest))]
    return found + wrong_counts(entry.expect, root)


def wrong_counts(expect: Mapping[str, int], root: Path) -> list[str]:
    """One line for each pattern that matches another number of files than expected, at any depth below `root`."""
    if not expect:
        return []
    present = [file.name.lower() for file in root.rglob("*") if file.is_file()]
    counts = {pattern: len(fnmatch.filter(present, pattern.lower())) for pattern in expect}
    return [
        f"{pattern}: expected {n} files, got {counts[pattern]}" for pattern, n in expect.items() if counts[pattern] != n
    ]


def _fault(file: Path, digest: str) -> str | None:
    if not file.is_file():
        return "missing"
    with file.open("rb") as stream:
        is_equal = hashlib.file_digest(stream, "sha256").hexdigest() == digest
    return None if is_equal else "differs from the published file"
