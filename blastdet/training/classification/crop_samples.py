"""Crops of a classifier's training: read, labelled, split by cluster, augmented."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.core.errors import ConfigError
from blastdet.core.model_card import DataSource, sha256_of
from blastdet.core.types import ERYTHROBLAST, RGB
from blastdet.datasets.annotations.cell_types import possible_types, type_of
from blastdet.datasets.cropping.crop_table import TABLE, CropRow, Cut, cut_of, read_table
from blastdet.imaging.augmentation import drain_colour, jitter_stain
from blastdet.imaging.cell_crops import CONTEXT
from blastdet.imaging.io import read_image, resize
from blastdet.imaging.isolated_cells import even
from blastdet.models.classifier import framed, prepare
from blastdet.training.config import ClassifyConfig, CropsConfig
from blastdet.training.config_file import expand
from blastdet.training.photometric import photometric

PAD = 240
"""Grey level around a crop that does not fill the input: the background in canonical colours."""

_FEW = 50  # crops of a class; thresholds and figures from fewer are unreliable
_ENOUGH = 300  # crops of a class that make a folder count fully
_BLASTS = 1 / 3  # of the samples of a differential
_COARSEST = 2.6  # ALL fields have pixels of 0.5 µm, a network for a differential of 0.2 µm
_LARGEST_UM = 500.0  # side of a crop; with more, the table is wrong, and memory would run out

BY_SMEAR: dict[str, str] = {
    "benign": "wbc",
    "early": "blast",
    "pre": "blast",
    "pro": "blast",
    "blast": "blast",
    "wbc": "wbc",
}
"""Label of a white cell if only its smear has a class: a weak label, since every smear has several kinds of cells."""


@dataclass(frozen=True, eq=False)
class Crop:
    """One training crop.

    Parameters
    ----------
    rgb : uint8 (s, s, 3)
    mpp : float
        µm per pixel.
    possible : tuple of int
        Indices into the model's classes: one where the class is known, more where the dataset does not tell them apart.
    weight : float
        Relative sampling weight.
    name : str
    """

    rgb: RGB
    mpp: float
    possible: tuple[int, ...]
    weight: float
    name: str

    @property
    def label(self) -> int:
        """Index of the class; -1 if several are possible."""
        return self.possible[0] if len(self.possible) == 1 else -1


@dataclass(frozen=True, eq=False)
class CropSample:
    """One augmented crop: uint8 (side, side, 3), and the indices of the classes it may have."""

    rgb: RGB
    possible: tuple[int, ...]

    @property
    def label(self) -> int:
        """Index of the class; -1 if several are possible."""
        return self.possible[0] if len(self.possible) == 1 else -1


@dataclass(frozen=True)
class CropData:
    """Crops for training and validation, and their sources."""

    train: tuple[Crop, ...]
    val: tuple[Crop, ...]
    sources: tuple[DataSource, ...]
    notes: tuple[str, ...]
    cut: Cut

    @property
    def fingerprints(self) -> tuple[dict[str, str], ...]:
        """Name and fingerprint of each folder, from its table."""
        return tuple({"name": source.name, "fingerprint": source.fingerprint} for source in self.sources)


def load_crops(config: ClassifyConfig, base: Path) -> CropData:
    """Read, label and split the crops of a configuration.

    Crops of a test split are never used. If a folder has no val split, whole clusters (else groups, else smears) are
    drawn for validation by their names; crops of the same groups are removed from the training side.

    Raises
    ------
    ConfigError
        If a class has no crop to train or to validate on, or the folders were cut with different settings.
    """
    train: list[tuple[Path, CropRow, float]] = []
    val: list[tuple[Path, CropRow, float]] = []
    sources, notes = [], []
    folded = config.fold is None
    _distinct([expand(item.path, base) for item in config.data])
    for item in config.data:
        folder = expand(item.path, base)
        if folder.name in config.leave_out:
            continue
        rows = read_table(folder)
        if config.fold is not None:
            whole, rows = len(rows), without_fold(rows, *config.fold)
            folded |= len(rows) < whole
        rows = [row for row in rows if targets(row, config)]
        mine, held = split(rows, config.val_fraction, config.seed)
        train += [(folder, row, weight) for row, weight in zip(mine, _weights(mine, item, config), strict=True)]
        val += [(folder, row, 1.0) for row in held if len(targets(row, config)) == 1]
        fingerprint = sha256_of(folder / TABLE)
        source = DataSource(
            name=folder.name, split="train", fingerprint=fingerprint, licence=item.licence, n_images=len(mine)
        )
        sources.append(source)
        notes.append(f"{folder.name}: {len(mine)} crops to train, {len(held)} to validate on")
    if not folded:
        raise ConfigError(f"fold: {list(config.fold or ())}: no cluster of crops is in that fold")
    for side, what in ((train, "train"), (val, "validate")):
        count = Counter(name for _, row, _ in side for name in targets(row, config) if len(targets(row, config)) == 1)
        if missing := [name for name in config.classes if not count[name]]:
            rest = [name for name in config.classes if count[name]]
            raise ConfigError(
                f"data: no crop of {missing} to {what} on. Without it: --set 'classes=[{','.join(rest)}]'"
            )
    notes += _few(Counter(targets(row, config)[0] for _, row, _ in val))
    cuts = {cut_of(folder, notes.append) for folder in sorted({folder for folder, *_ in (*train, *val)})}
    if len(cuts) > 1:
        ways = "; ".join(sorted(f"colour {cut.colour!r}, {cut.negative_control or 'cells'}" for cut in cuts))
        raise ConfigError(f"data: expected crops cut with the same settings, got {ways}")
    crops = load_rows(_balanced(train, config), config), load_rows(val, config)
    return CropData(*crops, tuple(sources), tuple(notes), cuts.pop())


def _few(count: Counter[str]) -> list[str]:
    few = ", ".join(f"{n} {name}" for name, n in count.items() if n < _FEW)
    return [f"few crops to validate on ({few}): thresholds and figures in the card are unreliable"] if few else []


def _distinct(folders: Sequence[Path]) -> None:
    """Refuse two folders of one name: folders are identified by it, and crops must not count twice."""
    for name, n in Counter(folder.name for folder in folders).items():
        if n > 1:
            raise ConfigError(f"data: expected folders of different names, got {n} named {name}")


def label_of(row: CropRow, column: str) -> str:
    """The target of a crop.

    ``blast``: blast, wbc, erythroblast or not a cell; without a label of the cell, from the class of its smear.
    ``cell_type``, ``smear_label``: that column.
    """
    if column == "blast":
        if type_of(row.cell_type) == ERYTHROBLAST:
            return ERYTHROBLAST
        return row.label or BY_SMEAR.get(row.smear_label, "")
    return str(getattr(row, column))


def targets(row: CropRow, config: ClassifyConfig) -> tuple[str, ...]:
    """The classes of a configuration that a crop may have; empty if it is not to be used.

    ``differential``: see `possible_types`. Any other target has one class, see `label_of`.
    """
    if config.label == "differential":
        possible = possible_types(row.label, row.cell_type, row.smear_label)
    else:
        possible = (label_of(row, config.label),)
    return tuple(name for name in possible if name in config.classes)


def folds(rows: Sequence[CropRow], n: int) -> dict[str, int]:
    """Fold of each cluster: clusters of each smear class are distributed evenly, the largest first.

    Crops without a cluster are in no fold, and are used in every training.
    """
    size = Counter((row.smear_label, row.cluster) for row in rows if row.cluster)
    filled: dict[str, list[int]] = {}
    dealt = {}
    for (kind, cluster), count in sorted(size.items(), key=lambda item: (-item[1], item[0])):
        hands = filled.setdefault(kind, [0] * n)
        fold = hands.index(min(hands))
        hands[fold] += count
        dealt[cluster] = fold
    return dealt


def without_fold(rows: Sequence[CropRow], fold: int, n: int) -> list[CropRow]:
    """Rows outside a fold, without those that share a group with it."""
    dealt = folds(rows, n)
    groups = {row.group for row in rows if row.group and dealt.get(row.cluster) == fold}
    return [row for row in rows if dealt.get(row.cluster) != fold and row.group not in groups]


def split(rows: Sequence[CropRow], fraction: float, seed: int) -> tuple[list[CropRow], list[CropRow]]:
    """Rows to train and to validate on: see `load_crops`."""
    rows = [row for row in rows if row.split != "test"]
    if any(row.split == "val" for row in rows):
        held = [row for row in rows if row.split == "val"]
    else:
        held = [row for row in rows if _drawn(row.cluster or row.group or row.source, seed) < fraction]
    groups = {row.group for row in held if row.group}
    kept = {id(row) for row in held}
    return [row for row in rows if id(row) not in kept and row.group not in groups], held


def _drawn(name: str, seed: int) -> float:
    """A number in [0, 1) that depends only on name and seed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big") / 2**48


def _weights(rows: Sequence[CropRow], item: CropsConfig, config: ClassifyConfig) -> list[float]:
    """Weight of each crop of a folder before classes are balanced.

    In a differential, the folders that show a class share it by the square root of their crops, of `_ENOUGH` at most:
    a laboratory with many crops must not stand for the class.
    """
    if config.label != "differential":
        return [item.sampling_weight / max(len(rows), 1)] * len(rows)
    count = Counter(targets(row, config) for row in rows)
    share = {kind: min(n, _ENOUGH) ** 0.5 / n for kind, n in count.items()}
    return [item.sampling_weight * share[targets(row, config)] for row in rows]


def _balanced(rows: Sequence[tuple[Path, CropRow, float]], config: ClassifyConfig) -> list[tuple[Path, CropRow, float]]:
    """Rows with weights for which all classes are drawn equally often; in a differential, a third are blasts."""
    total: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for _, row, weight in rows:
        total[targets(row, config)] += weight
    share = dict.fromkeys(total, 1.0)
    if config.label == "differential":
        share |= {("blast",): (len(total) - 1) * _BLASTS / (1 - _BLASTS)}
    return [
        (folder, row, weight * share[kind] / total[kind])
        for folder, row, weight in rows
        for kind in (targets(row, config),)
    ]


def load_rows(rows: Sequence[tuple[Path, CropRow, float]], config: ClassifyConfig) -> tuple[Crop, ...]:
    """The crops of folders and rows with a sampling weight each, at up to twice the resolution of a configuration."""
    finest = config.mpp / 2  # enough to resample from, with a tenth of the memory of some crops
    crops = []
    for folder, row, weight in rows:
        path = folder / row.crop
        rgb, mpp = _pixels(path, row.mpp, finest, path.stat().st_mtime_ns if path.exists() else 0)
        possible = tuple(config.classes.index(name) for name in targets(row, config))
        crops.append(Crop(rgb, mpp, possible, weight, f"{folder.name}/{row.crop}"))
    return tuple(crops)


@cache
def _pixels(path: Path, mpp: float, finest: float, changed: int) -> tuple[RGB, float]:
    """A crop of at least `finest` µm/px, and its scale. Kept in memory: folds are trained on the same crops."""
    rgb = read_image(path)
    if rgb.shape[0] != rgb.shape[1] or len(rgb) * mpp > _LARGEST_UM:
        size = f"{rgb.shape[1]} x {rgb.shape[0]} pixels of {mpp:g} µm"
        raise ConfigError(f"{path}: expected a square of at most {_LARGEST_UM:g} µm, got {size}")
    if mpp >= finest:
        return rgb, mpp
    side = max(round(len(rgb) * mpp / finest), 1)
    return resize(rgb, (side, side)), mpp * len(rgb) / side


class CropEpoch:
    """The samples of one epoch; sample i is always the same."""

    def __init__(self, crops: Sequence[Crop], config: ClassifyConfig, epoch: int) -> None:
        self.crops, self.config, self.epoch = crops, config, epoch
        weight = np.array([crop.weight for crop in crops])
        self._edges: NDArray[np.float64] = np.cumsum(weight / weight.sum())

    def __len__(self) -> int:
        return self.config.epoch_samples or len(self.crops)

    def __getitem__(self, index: int) -> CropSample:
        crop, rng = self._draw(index)
        config = self.config
        factor = np.exp(rng.uniform(*np.log(config.augment.scale)))
        rgb = prepare(crop.rgb, crop.mpp * factor, config.mpp, 0)
        if rng.random() < config.augment.degrade:
            rgb = _degraded(rgb, rng)
        if rng.random() < config.augment.isolate:
            rgb = even(rgb, _disc(len(rgb), rng))
        rgb = np.rot90(rgb, int(rng.integers(4)))[:, :: int(rng.choice([-1, 1]))]
        rgb = np.ascontiguousarray(rgb)
        if config.augment.grey and rng.random() < config.augment.grey:  # nothing is drawn for what is turned off
            rgb = drain_colour(rgb, rng.uniform(0.5, 1))
        rgb = jitter_stain(rgb, config.augment.stain, rng)
        rgb = photometric(rgb, config.augment.photometric, rng)
        rgb = prepare(rgb, 1.0, 1.0, config.low_pass)
        canvas = framed(rgb, config.side, PAD)
        x, y = (round(config.side * config.augment.shift * rng.uniform(-1, 1)) for _ in range(2))
        return CropSample(_moved(canvas, x, y), crop.possible)

    def names(self, indices: range) -> list[str]:
        """Names of the crops that samples are made from."""
        return sorted({self._draw(index)[0].name for index in indices})

    def _draw(self, index: int) -> tuple[Crop, np.random.Generator]:
        rng = np.random.default_rng((self.config.seed, self.epoch, index))
        return self.crops[min(int(np.searchsorted(self._edges, rng.random())), len(self.crops) - 1)], rng


def _degraded(rgb: RGB, rng: np.random.Generator) -> RGB:
    """As a coarser camera shows it, with pixels up to 2.6 times as wide, some of them not square."""
    n, coarse = len(rgb), np.exp(rng.uniform(0, np.log(_COARSEST)))
    squeezed = coarse * rng.choice([1.0, 0.75])
    return resize(resize(rgb, (max(round(n / coarse), 4), max(round(n / squeezed), 4))), (n, n))


def _disc(side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The middle of a crop, about as wide as its cell."""
    radius = side / CONTEXT / 2 * rng.uniform(0.95, 1.15)
    y, x = np.ogrid[:side, :side]
    middle = (side - 1) / 2
    return np.asarray((x - middle) ** 2 + (y - middle) ** 2 <= radius**2)


def _moved(rgb: RGB, x: int, y: int) -> RGB:
    out = np.full_like(rgb, PAD)
    h, w = rgb.shape[:2]
    out[max(y, 0) : h + min(y, 0), max(x, 0) : w + min(x, 0)] = rgb[
        max(-y, 0) : h + min(-y, 0), max(-x, 0) : w + min(-x, 0)
    ]
    return out
