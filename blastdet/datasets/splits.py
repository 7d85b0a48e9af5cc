"""Train, validation and test splits that keep groups together: patients, overlapping fields, identical files.

The split of an image is `Sample.split`: ``train``, ``val``, ``test``, or ``None`` (not used).
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

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import CELL_CLASSES, Dataset, Sample

SPLITS: tuple[str, ...] = ("train", "val", "test")
STRATEGIES: tuple[str, ...] = ("official", "official-disjoint", "grouped")
FRACTIONS: tuple[float, float, float] = (0.70, 0.15, 0.15)

Keys = Mapping[Path, str]
"""Path of an image -> its group. An image that is not listed is a group of its own."""


def split(
    data: Dataset | str | Path,
    strategy: str = "grouped",
    *,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    keys: Keys | None = None,
    purge: Keys | None = None,
) -> Dataset:
    """Split a dataset into train, val and test without leaks.

    Parameters
    ----------
    data : Dataset, str or Path
        A dataset, or what `read_dataset` accepts.
    strategy : str
        ``"grouped"``: a random split that keeps groups (patients, overlapping fields, identical files) together and
        balances the classes. ``"official"``: the published split. ``"official-disjoint"``: the published split, without
        the images of train and val that share a group with test. Anything else: path of a CSV file with the columns
        ``image,split``.
    fractions : (float, float, float)
        Fractions of train, val and test, with sum 1. For ``"grouped"``.
    seed : int
        Random seed. For ``"grouped"``.
    keys : mapping, optional
        Path of an image -> its group, instead of `Sample.group`. For ``"grouped"``.
    purge : mapping, optional
        A second key, as `keys`: images of train and val that share it with test or val are removed (``split=None``).

    Returns
    -------
    Dataset
        The same images, each with its `Sample.split`. Notes say what was left out.

    Raises
    ------
    FormatError
        If the dataset has no published split, the file does not match the dataset, or `fractions` are invalid.

    Examples
    --------
    >>> from pathlib import Path
    >>> from blastdet import Dataset, Sample
    >>> samples = tuple(Sample(Path(f"{i}.png"), (640, 480), group=f"patient {i // 5}") for i in range(100))
    >>> data = split(Dataset("mine", Path("."), samples), seed=1)
    >>> [len(data.with_split(name)) for name in ("train", "val", "test")]
    [70, 15, 15]
    """
    data = data if isinstance(data, Dataset) else _read(data)
    if strategy == "grouped":
        data = grouped(data, keys, seed=seed, fractions=fractions)
    elif strategy not in STRATEGIES:
        data = from_file(data, Path(strategy))
    elif all(sample.split is None for sample in data):
        raise FormatError(f"{data.root}: no official split. Use the strategy grouped, or a CSV file (image,split)")
    elif strategy == "official-disjoint":
        data = remove_shared(data, group_keys(data), protected=("test",))
    return data if purge is None else remove_shared(data, purge)


def _read(data: str | Path) -> Dataset:
    from blastdet.datasets.reading import read_dataset  # which reads formats, and these know splits

    return read_dataset(data)


def group_keys(dataset: Dataset, key: Literal["group", "cluster"] = "group") -> dict[Path, str]:
    """The `group` (or `cluster`) of each image that has one."""
    values = ((sample.path, sample.group if key == "group" else sample.cluster) for sample in dataset)
    return {path: value for path, value in values if value is not None}


def remove_shared(dataset: Dataset, keys: Keys, protected: Sequence[str] = ("test", "val")) -> Dataset:
    """Remove images from the training side that share a group with the evaluation side.

    Parameters
    ----------
    dataset : Dataset
    keys : mapping
        See `Keys`.
    protected : sequence of str
        Splits to protect, most important first. ``("test", "val")`` removes from val the groups of test, and from
        train the groups of test and of the remaining val.

    Returns
    -------
    Dataset
        Removed images have ``split=None``. A note for each split gives their number and names.
    """
    samples = list(dataset.samples)
    notes = []
    for i, side in enumerate(protected):
        shown = {keys[s.path] for s in samples if s.split == side and s.path in keys}
        spared = (None, *protected[: i + 1])
        hit = [j for j, s in enumerate(samples) if s.split not in spared and keys.get(s.path) in shown]
        for origin, number in sorted(Counter(str(samples[j].split) for j in hit).items()):
            names = ", ".join(samples[j].path.name for j in hit if samples[j].split == origin)
            removed = "1 image" if number == 1 else f"{number} images"
            notes.append(f"split: {removed} removed from {origin} because of groups shared with {side}: {names}")
        for j in hit:
            samples[j] = replace(samples[j], split=None)
    return replace(dataset, samples=tuple(samples), notes=(*dataset.notes, *notes))


def grouped(
    dataset: Dataset, keys: Keys | None = None, *, seed: int = 0, fractions: Sequence[float] = FRACTIONS
) -> Dataset:
    """Draw train, val and test at random: groups stay together, classes are balanced.

    Groups are assigned in order of decreasing size, each to the split that needs its contents most (images, cells of
    each class, image labels) relative to the size of the split. Identical files count as one group.

    Parameters
    ----------
    dataset : Dataset
    keys : mapping, optional
        Groups to use instead of `Sample.group`.
    seed : int
        Decides the order of groups of equal size.
    fractions : (float, float, float)
        Fractions of train, val and test; positive, with sum 1.

    Raises
    ------
    FormatError
        If `fractions` are not three positive numbers with sum 1.
    """
    fraction = np.array(fractions, np.float64)
    if fraction.shape != (3,) or not (fraction > 0).all() or not abs(fraction.sum() - 1) <= 1e-6:
        raise FormatError(f"fractions: expected three positive numbers with sum 1, got {tuple(fractions)}")
    units = _units(dataset, group_keys(dataset) if keys is None else keys)
    strata = _strata(dataset)
    weight = np.array([strata[unit].sum(axis=0) for unit in units]).reshape(len(units), -1)
    order = np.random.default_rng(seed).permutation(len(units))
    size = np.array([len(unit) for unit in units])
    order = order[np.argsort(-size[order], kind="stable")]
    filled = np.zeros((3, weight.shape[1]))
    samples = list(dataset.samples)
    for unit in order:
        lack = ((fraction[:, None] - filled) / fraction[:, None]) @ weight[unit]
        side = int(np.argmax(lack))
        filled[side] += weight[unit]
        for i in units[unit]:
            samples[i] = replace(samples[i], split=SPLITS[side])
    empty = [name for name in SPLITS if all(s.split != name for s in samples)]
    notes = [f"split: too few groups ({len(units)}), {name} is empty" for name in empty]
    return replace(dataset, samples=tuple(samples), notes=(*dataset.notes, *notes))


def _strata(dataset: Dataset) -> NDArray[np.float64]:
    """Fraction of all images, image labels and cells of each class that is in each image: (n, k), columns sum to 1."""
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
    """Indices of images that must stay together: same group, or identical file, transitively."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    index = {sample.path: i for i, sample in enumerate(dataset)}
    alike = [*_by_key(dataset.samples, keys).values(), *duplicates(dataset.samples)]
    edges = [(index[members[0].path], index[sample.path]) for members in alike for sample in members]
    rows, columns = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(dataset), len(dataset)))
    units: dict[int, list[int]] = defaultdict(list)
    for i, unit in enumerate(connected_components(graph, directed=False)[1]):
        units[unit].append(i)
    return list(units.values())


def _by_key(samples: Iterable[Sample], keys: Keys) -> dict[str, list[Sample]]:
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.path in keys:
            members[keys[sample.path]].append(sample)
    return members


def duplicates(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Images with identical files, as lists of two or more (sha256 is computed for files of equal size only)."""
    by_length: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.path.is_file():
            by_length[sample.path.stat().st_size].append(sample)
    found: dict[str, list[Sample]] = defaultdict(list)
    for candidates in by_length.values():
        for sample in candidates if len(candidates) > 1 else ():
            found[hashlib.sha256(sample.path.read_bytes()).hexdigest()].append(sample)
    return [members for members in found.values() if len(members) > 1]


def leaks(dataset: Dataset, keys: Keys | None = None) -> list[str]:
    """One line for each group, or set of identical files, that is in more than one split.

    Parameters
    ----------
    dataset : Dataset
    keys : mapping, optional
        Groups to use instead of `Sample.group`.
    """
    members = _by_key(dataset, group_keys(dataset) if keys is None else keys)
    lines = [_leak(f"group {key}", samples) for key, samples in sorted(members.items())]
    lines += [_leak("identical files", samples) for samples in duplicates(dataset)]
    return [line for line in lines if line]


def _leak(what: str, samples: Sequence[Sample]) -> str:
    sides = {name: [s.path.name for s in samples if s.split == name] for name in SPLITS}
    parts = [f"{name} ({', '.join(files)})" for name, files in sides.items() if files]
    return f"{what}: in {' and '.join(parts)}" if len(parts) > 1 else ""


def from_file(dataset: Dataset, path: Path) -> Dataset:
    """Read splits from a CSV file with the columns ``image,split``; an empty split leaves an image out.

    An image is named by its path below the dataset's folder, or by its file name or stem if that is unique.

    Raises
    ------
    FormatError
        If a column is missing, an image or a split is unknown, or an image is listed twice.
    """
    chosen: dict[Path, str | None] = {}
    for sample, split in read_column(dataset, path, "split"):
        if split not in (*SPLITS, ""):
            raise FormatError(f"{path}: expected one of {', '.join(SPLITS)} as split, got {split!r}")
        if sample.path in chosen:
            raise FormatError(f"{path}: {sample.path.name}: listed twice")
        chosen[sample.path] = split or None
    missing = [sample.path.name for sample in dataset if sample.path not in chosen]
    notes = [f"split: {len(missing)} images are not in {path.name}, first {missing[0]}"] if missing else []
    samples = tuple(replace(sample, split=chosen.get(sample.path)) for sample in dataset)
    return replace(dataset, samples=samples, notes=(*dataset.notes, *notes))


def without(dataset: Dataset, coco_file: Path) -> Dataset:
    """A dataset without the images in a COCO file, and without other images of their groups.

    Raises
    ------
    FormatError
        If the file cannot be read, or is not a COCO file.
    """
    try:
        images = json.loads(coco_file.read_text(encoding="utf-8"))["images"]
        names = {str(image["file_name"]) for image in images}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{coco_file}: expected a COCO file with images ({type(error).__name__}: {error})") from None
    groups = {sample.group for sample in dataset if dataset.file_name(sample) in names}
    kept = [s for s in dataset if dataset.file_name(s) not in names and (s.group is None or s.group not in groups)]
    note = f"{len(dataset) - len(kept)} images left out: listed in {coco_file.name}, or in a group with one of these"
    return replace(dataset, samples=tuple(kept), notes=(*dataset.notes, note))


def find_keys(dataset: Dataset, column: str | None = None, file: Path | None = None) -> dict[Path, str]:
    """Groups by name: ``group`` (default) or ``cluster`` of the dataset, or a column of a CSV file.

    Parameters
    ----------
    dataset : Dataset
    column : str, optional
        ``"group"``, ``"cluster"``, or with `file` one of its columns.
    file : Path, optional
        CSV file with a column ``image`` and the column `column`.

    Raises
    ------
    ConfigError
        If the column is unknown, or no image has a cluster.
    """
    if file is not None and column is not None:
        return read_keys(dataset, file, column)
    if column not in (None, "group", "cluster"):
        raise ConfigError(
            f"{column}: expected group or cluster. To use a column of a CSV file, pass the file with --keys"
        )
    found = group_keys(dataset, "cluster" if column == "cluster" else "group")
    if column == "cluster" and not found:
        raise ConfigError(f"{dataset.root}: no image has a cluster. Group by another key")
    return found


def read_keys(dataset: Dataset, path: Path, column: str) -> dict[Path, str]:
    """Groups from one column of a CSV file with a column ``image``; empty fields are skipped."""
    keys: dict[Path, str] = {}
    for sample, value in read_column(dataset, path, column):
        if value and keys.setdefault(sample.path, value) != value:
            raise FormatError(f"{path}: {sample.path.name}: expected one {column}, got {keys[sample.path]} and {value}")
    return keys


def read_column(dataset: Dataset, path: Path, column: str) -> list[tuple[Sample, str]]:
    """Rows of a CSV file as (image, value of `column`)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: expected {', '.join(STRATEGIES)} or a CSV file ({error.strerror})") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: expected a CSV file, got binary data") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns, rows = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise FormatError(f"{path}: not a CSV file ({error})") from None
    if not {"image", column} <= set(columns):
        raise FormatError(f"{path}: expected the columns image and {column}, got {', '.join(columns) or 'none'}")
    names = names_of(dataset)
    found = []
    for row in rows:
        sample = names.get(row["image"] or "")
        if sample is None:
            raise FormatError(f"{path}: {row['image']}: matches no image of {dataset.root}, or several")
        found.append((sample, (row[column] or "").strip()))
    return found


def names_of(dataset: Dataset) -> dict[str, Sample]:
    """Every unambiguous name of an image: path below the root, file name, stem."""
    ways = [{id(s): dataset.file_name(s) for s in dataset}, {id(s): s.path.name for s in dataset}]
    ways.append({id(s): s.path.stem for s in dataset})
    names: dict[str, Sample] = {}
    for way in reversed(ways):  # the full path wins
        count = Counter(way.values())
        names.update({way[id(s)]: s for s in dataset if count[way[id(s)]] == 1})
    return names


def to_csv(dataset: Dataset) -> str:
    """The split as CSV text with the columns ``image,split,group``, which `from_file` reads."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "split", "group"))
    table.writerows((dataset.file_name(sample), sample.split or "", sample.group or "") for sample in dataset)
    return text.getvalue()
