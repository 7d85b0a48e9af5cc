"""Recipes of data sets: where each comes from, under what licence, whom to ask, and what its files must be.

A recipe is ``datasets/NAME.yaml``; beside it may lie ``checksums/NAME.sha256`` (as written by sha256sum) and a
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

RECIPES = shipped("datasets")


class Recipe(BaseModel):
    """What is known of one data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    contents: str = Field(description="how many pictures, how large, annotated how")
    source: str = Field(description="the page where the set is published")
    licence: str
    redistribution: str
    citation: str
    how: str = Field(description="one line that tells how to get a copy")
    url: str | None = Field(default=None, description="archive that can be fetched without asking anybody")
    ask: str | None = Field(default=None, description="for data by request: whom to ask")
    reader: str | None = Field(default=None, description="key of blastdet.datasets.formats.registry.READERS")
    options: dict[str, Any] = Field(default={}, description="options of the reader that fit this set")
    expect: dict[str, int] = Field(default={}, description="file pattern -> number, where there are no checksums")
    notes: tuple[str, ...] = Field(default=(), description="what to know before use")


def names(folder: Path = RECIPES) -> list[str]:
    """Names of all recipes, in alphabetical order.

    Raises
    ------
    ConfigError
        If the folder of the recipes is not there.
    """
    found = sorted(file.stem for file in folder.glob("*.yaml"))
    if not found:
        raise ConfigError(f"{folder}: no recipe found; the recipes lie in a checkout installed with pip install -e .")
    return found


def load(name: str, folder: Path = RECIPES) -> Recipe:
    """The recipe of one data set.

    Raises
    ------
    ConfigError
        If there is none of that name, or it is faulty.
    """
    if name not in names(folder):
        raise ConfigError(f"data set {name!r} found, one of {', '.join(names(folder))} expected")
    file = folder / f"{name}.yaml"
    try:
        recipe = Recipe.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if recipe.name != name:
        raise ConfigError(f"{file}: name {recipe.name!r} found, {name!r} expected")
    return recipe


def checksums(name: str, folder: Path = RECIPES) -> dict[str, str]:
    """Path below the data set's folder -> sha256; empty where files may not be listed or differ from copy to copy."""
    file = folder / "checksums" / f"{name}.sha256"
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def added(name: str, folder: Path = RECIPES) -> dict[str, Path]:
    """Files that this project adds to the set: path below the data set's folder -> file in the repository."""
    root = folder / "added" / name
    return {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*")) if file.is_file()}


def problems(recipe: Recipe, root: Path, folder: Path = RECIPES) -> list[str]:
    """What is wrong with a copy of a data set, one line each: files missing or changed, or wrong in number.

    Files beyond those listed are nobody's business.
    """
    if not root.is_dir():
        return [f"{root}: no such folder"]
    listed = checksums(recipe.name, folder)
    found = [f"{path}: {fault}" for path, digest in listed.items() if (fault := _fault(root / path, digest))]
    return found + wrong_counts(recipe.expect, root)


def wrong_counts(expect: Mapping[str, int], root: Path) -> list[str]:
    """One line for each pattern that does not find as many files as it should, at any depth below `root`."""
    if not expect:
        return []
    present = [file.name.lower() for file in root.rglob("*") if file.is_file()]
    counts = {pattern: len(fnmatch.filter(present, pattern.lower())) for pattern in expect}
    return [
        f"{pattern}: {counts[pattern]} files found, {n} expected"
        for pattern, n in expect.items()
        if counts[pattern] != n
    ]


def _fault(file: Path, digest: str) -> str | None:
    if not file.is_file():
        return "missing"
    with file.open("rb") as stream:
        return (
            None if hashlib.file_digest(stream, "sha256").hexdigest() == digest else "differs from the published file"
        )
