"""Splits that keep together what belongs together: patients, overlapping fields, identical files.

A split is the `split` of each smear: ``train``, ``val``, ``test`` or ``None`` (in none of them).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Sample

SPLITS: tuple[str, ...] = ("train", "val", "test")
STRATEGIES: tuple[str, ...] = ("official", "official-disjoint", "grouped")
FRACTIONS: tuple[float, float, float] = (0.70, 0.15, 0.15)

Keys = Mapping[Path, str]
"""What each smear, named by its path, may not be parted from; a smear that is missing stands alone."""


def assign(
    dataset: Dataset, strategy: str = "official", *, seed: int = 0, fractions: Sequence[float] = FRACTIONS
) -> Dataset:
    """Give every smear its split.

    Parameters
    ----------
    dataset : Dataset
    strategy : str
        ``official``: as the set is published, untouched. ``official-disjoint``: the same, but what shares a group with
        the test side leaves train and val. ``grouped``: drawn anew, groups whole. Anything else is a CSV file with the
        columns ``image,split``.
    seed, fractions
        For ``grouped`` only.

    Returns
    -------
    Dataset
        With notes on what was left out.

    Raises
    ------
    FormatError
        If the set has no official split, or the file does not fit the set.
    """
    if strategy == "grouped":
        return grouped(dataset, seed=seed, fractions=fractions)
    if strategy not in STRATEGIES:
        return from_file(dataset, Path(strategy))
    if all(sample.split is None for sample in dataset):
        raise FormatError(f"{dataset.root}: no official split found; split it grouped, or by a CSV file (image,split)")
    if strategy == "official-disjoint":
        return purge(dataset, group_keys(dataset), protected=("test",))
    return dataset


def group_keys(dataset: Dataset, key: Literal["group", "cluster"] = "group") -> dict[Path, str]:
    """The `group` (or `cluster`) of each smear that has one."""
    values = ((sample.path, sample.group if key == "group" else sample.cluster) for sample in dataset)
    return {path: value for path, value in values if value is not None}


def purge(dataset: Dataset, keys: Keys, protected: Sequence[str] = ("test", "val")) -> Dataset:
    """Take out of the training side what shares a key with the side that measures.

    Parameters
    ----------
    dataset : Dataset
    keys : mapping
        See `Keys`.
    protected : sequence of str
        Sides that keep everything, most precious first: ``("test", "val")`` takes from val what test shows, and from
        train what test or the rest of val shows.

    Returns
    -------
    Dataset
        Smears taken out have ``split=None``; a note for each side says how many and which.
    """
    smears = list(dataset.samples)
    notes = []
    for i, side in enumerate(protected):
        shown = {keys[s.path] for s in smears if s.split == side and s.path in keys}
        spared = (None, *protected[: i + 1])
        hit = [j for j, s in enumerate(smears) if s.split not in spared and keys.get(s.path) in shown]
        for origin, number in sorted(Counter(str(smears[j].split) for j in hit).items()):
            names = ", ".join(smears[j].path.name for j in hit if smears[j].split == origin)
            notes.append(f"split: {number} pictures left out of {origin}, they share a group with {side}: {names}")
        for j in hit:
            smears[j] = replace(smears[j], split=None)
    return replace(dataset, samples=tuple(smears), notes=(*dataset.notes, *notes))


def grouped(
    dataset: Dataset, keys: Keys | None = None, *, seed: int = 0, fractions: Sequence[float] = FRACTIONS
) -> Dataset:
    """Draw train, val and test with every group whole, and classes shared out evenly.

    The largest groups are dealt first, each to the side that lacks most, relative to its size, of what the group holds
    (pictures, cells of each class, labels of pictures). Identical files count as one group.

    Parameters
    ----------
    dataset : Dataset
    keys : mapping, optional
        What to keep together instead of `Smear.group`.
    seed : int
        Settles the order of groups of one size.
    fractions : (float, float, float)
        Shares of train, val, test; positive, summing to 1.
    """
    share = np.array(fractions, np.float64)
    if share.shape != (3,) or not (share > 0).all() or not abs(share.sum() - 1) <= 1e-6:
        raise FormatError(f"fractions {tuple(fractions)} found, three positive shares summing to 1 expected")
    units = _units(dataset, group_keys(dataset) if keys is None else keys)
    strata = _strata(dataset)
    weight = np.array([strata[unit].sum(axis=0) for unit in units]).reshape(len(units), -1)
    order = np.random.default_rng(seed).permutation(len(units))
    size = np.array([len(unit) for unit in units])
    order = order[np.argsort(-size[order], kind="stable")]
    filled = np.zeros((3, weight.shape[1]))
    smears = list(dataset.samples)
    for unit in order:
        lack = ((share[:, None] - filled) / share[:, None]) @ weight[unit]
        side = int(np.argmax(lack))
        filled[side] += weight[unit]
        for i in units[unit]:
            smears[i] = replace(smears[i], split=SPLITS[side])
    empty = [name for name in SPLITS if all(s.split != name for s in smears)]
    notes = [f"split: {len(units)} groups are too few, {name} is empty" for name in empty]
    return replace(dataset, samples=tuple(smears), notes=(*dataset.notes, *notes))


def _strata(dataset: Dataset) -> NDArray[np.float64]:
    """Share that each smear has of the set's pictures, labels and cells of each class: (n, k), columns sum to 1."""
    labels = sorted({sample.label for sample in dataset if sample.label is not None})
    rows = [
        [1.0]
        + [float(sample.label == label) for label in labels]
        + [float(sample.truth.counts()[name]) if sample.truth is not None else 0.0 for name in CELL_CLASSES]
        for sample in dataset
    ]
    table = np.array(rows, np.float64).reshape(len(rows), -1)
    total = table.sum(axis=0)
    return np.asarray(table / np.where(total > 0, total, 1.0))


def _units(dataset: Dataset, keys: Keys) -> list[list[int]]:
    """Indices of smears that must stay together: by key, and by identical content, joined where either holds."""
    parent = list(range(len(dataset)))

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    index = {sample.path: i for i, sample in enumerate(dataset)}
    alike = [*_by_key(dataset.samples, keys).values(), *duplicates(dataset.samples)]
    for members in alike:
        for sample in members[1:]:
            parent[top(index[sample.path])] = top(index[members[0].path])
    units: dict[int, list[int]] = defaultdict(list)
    for i in range(len(dataset)):
        units[top(i)].append(i)
    return list(units.values())


def _by_key(smears: Iterable[Sample], keys: Keys) -> dict[str, list[Sample]]:
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample in smears:
        if sample.path in keys:
            members[keys[sample.path]].append(sample)
    return members


def duplicates(smears: Iterable[Sample]) -> list[list[Sample]]:
    """Smears whose files are the same byte for byte, two or more a list (sha256 of files of one length)."""
    by_length: dict[int, list[Sample]] = defaultdict(list)
    for sample in smears:
        if sample.path.is_file():
            by_length[sample.path.stat().st_size].append(sample)
    found: dict[str, list[Sample]] = defaultdict(list)
    for candidates in by_length.values():
        for sample in candidates if len(candidates) > 1 else ():
            found[hashlib.sha256(sample.path.read_bytes()).hexdigest()].append(sample)
    return [members for members in found.values() if len(members) > 1]


def leaks(dataset: Dataset, keys: Keys | None = None) -> list[str]:
    """One line for each group, or set of identical files, that lies on more than one side of the split.

    Parameters
    ----------
    dataset : Dataset
    keys : mapping, optional
        What must not be torn apart instead of `Smear.group`.
    """
    members = _by_key(dataset, group_keys(dataset) if keys is None else keys)
    lines = [_leak(f"group {key}", smears) for key, smears in sorted(members.items())]
    lines += [_leak("identical files", smears) for smears in duplicates(dataset)]
    return [line for line in lines if line]


def _leak(what: str, smears: Sequence[Sample]) -> str:
    sides = {name: [s.path.name for s in smears if s.split == name] for name in SPLITS}
    parts = [f"{name} ({', '.join(files)})" for name, files in sides.items() if files]
    return f"{what}: in {' and '.join(parts)}" if len(parts) > 1 else ""


def from_file(dataset: Dataset, path: Path) -> Dataset:
    """Splits from a CSV with the columns ``image,split``; an empty split leaves a picture out.

    Pictures are named by their path below the set's folder, or by the file name or stem alone where that is unique.

    Raises
    ------
    FormatError
        Another column, an unknown picture or split, a picture listed twice.
    """
    chosen: dict[Path, str | None] = {}
    for sample, split in read_column(dataset, path, "split"):
        if split not in (*SPLITS, ""):
            raise FormatError(f"{path}: split {split!r} found, one of {', '.join(SPLITS)} expected")
        if sample.path in chosen:
            raise FormatError(f"{path}: {sample.path.name} is listed twice")
        chosen[sample.path] = split or None
    missing = [sample.path.name for sample in dataset if sample.path not in chosen]
    notes = [f"split: {len(missing)} pictures are not in {path.name}, first {missing[0]}"] if missing else []
    smears = tuple(replace(sample, split=chosen.get(sample.path)) for sample in dataset)
    return replace(dataset, samples=smears, notes=(*dataset.notes, *notes))


def without(dataset: Dataset, coco_file: Path) -> Dataset:
    """A data set without the pictures that a COCO file names, nor any other of their groups.

    Raises
    ------
    FormatError
        If the file cannot be read, or is no COCO.
    """
    try:
        images = json.loads(coco_file.read_text(encoding="utf-8"))["images"]
        names = {str(image["file_name"]) for image in images}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{coco_file}: a COCO file with images expected ({type(error).__name__}: {error})") from None
    groups = {sample.group for sample in dataset if dataset.file_name(sample) in names}
    kept = [s for s in dataset if dataset.file_name(s) not in names and (s.group is None or s.group not in groups)]
    note = f"{len(dataset) - len(kept)} pictures left out: named by {coco_file.name}, or of a group with one named"
    return replace(dataset, samples=tuple(kept), notes=(*dataset.notes, note))


def read_keys(dataset: Dataset, path: Path, column: str) -> dict[Path, str]:
    """Keys from one column of a CSV that has a column ``image``; empty fields give none."""
    keys: dict[Path, str] = {}
    for sample, value in read_column(dataset, path, column):
        if value and keys.setdefault(sample.path, value) != value:
            raise FormatError(
                f"{path}: {sample.path.name}: {column} {keys[sample.path]} and {value} found, one expected"
            )
    return keys


def read_column(dataset: Dataset, path: Path, column: str) -> list[tuple[Sample, str]]:
    """Rows of a CSV as (smear, value of `column`)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: neither {', '.join(STRATEGIES)} nor a readable file ({error.strerror})") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not a text file (CSV expected)") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns, rows = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise FormatError(f"{path}: not a CSV file ({error})") from None
    if not {"image", column} <= set(columns):
        raise FormatError(f"{path}: columns {', '.join(columns)} found, image and {column} expected")
    names = names_of(dataset)
    found = []
    for row in rows:
        sample = names.get(row["image"] or "")
        if sample is None:
            raise FormatError(f"{path}: {row['image']} is no picture of {dataset.root}, or fits several")
        found.append((sample, (row[column] or "").strip()))
    return found


def names_of(dataset: Dataset) -> dict[str, Sample]:
    """Every name that means one smear only: path below the root, file name, stem."""
    ways = [{id(s): dataset.file_name(s) for s in dataset}, {id(s): s.path.name for s in dataset}]
    ways.append({id(s): s.path.stem for s in dataset})
    names: dict[str, Sample] = {}
    for way in reversed(ways):  # the full path wins
        count = Counter(way.values())
        names.update({way[id(s)]: s for s in dataset if count[way[id(s)]] == 1})
    return names


def to_csv(dataset: Dataset) -> str:
    """The split as text of a CSV with the columns ``image,split,group``, which `from_file` reads."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "split", "group"))
    table.writerows((dataset.file_name(sample), sample.split or "", sample.group or "") for sample in dataset)
    return text.getvalue()
