"""Datasets of a detector's training: read, split, scaled, with weak labels for those without boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from blastdet.core.errors import ConfigError
from blastdet.core.model_card import DataSource, sha256_of
from blastdet.core.parallel import cpu_count
from blastdet.core.types import Dataset, Sample
from blastdet.datasets import splits
from blastdet.datasets.apply_corrections import apply_corrections
from blastdet.datasets.reading import read_at_scale, with_annotated
from blastdet.datasets.splits import without
from blastdet.evaluation.evaluate import as_nucleated
from blastdet.imaging.io import read_image
from blastdet.segmentation.mpp_estimation import estimate_mpp
from blastdet.segmentation.weak_labels import weak_truth
from blastdet.training.config import DataConfig, TrainConfig
from blastdet.training.config_file import expand


@dataclass(frozen=True)
class Data:
    """Samples to train on, each with its sampling weight, and a dataset to validate on.

    ``fingerprints`` cover everything of each dataset, with its validation split and scale; the ``fingerprint`` of a
    source covers the samples trained on.
    """

    train: tuple[tuple[Sample, float], ...]
    val: Dataset
    sources: tuple[DataSource, ...]
    fingerprints: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    n_test: int = 0


def load_data(config: TrainConfig, base: Path) -> Data:
    """Read and split the datasets of a configuration; the weight of a dataset is spread evenly over its images."""
    train: list[tuple[Sample, float]] = []
    val: list[Sample] = []
    sources, fingerprints, notes, root, n_test = [], [], [], base, 0
    for item in config.data:
        if Path(item.path).name in config.leave_out:
            continue
        dataset, split = read_data(item, base)
        if "blast" not in config.classes:
            dataset = as_nucleated(dataset)  # to this detector, blasts are white cells
        mine = [sample for sample in dataset.with_split("train") if sample.truth is not None]
        if not mine:
            raise ConfigError(f"{item.path}: no annotated images in the train split")
        train += [(sample, item.sampling_weight / len(mine)) for sample in mine]
        held = [sample for sample in dataset.with_split("val") if sample.truth is not None and item.validate_on]
        val += held
        fingerprints.append({"name": dataset.name, "fingerprint": fingerprint([*mine, *held], whole=True)})
        sources.append(_source(dataset, split, mine, item.licence))
        notes += [f"{dataset.name}: {line}" for line in (*dataset.dropped, *dataset.notes)]
        n_test += len(dataset.with_split("test"))
        root = dataset.root if len(config.data) == 1 else base
    if not val:
        why = "; ".join(line for line in notes if "split" in line)
        raise ConfigError(
            "data: no annotated images in any val split; epoch and thresholds are chosen on it"
            + f" ({why})" * bool(why)
        )
    if len(sources) > 1:
        _check_leaks([sample for sample, _ in train], val)
    return Data(
        tuple(train), Dataset("validation", root, tuple(val)), tuple(sources), tuple(fingerprints), tuple(notes), n_test
    )


def _source(dataset: Dataset, split: str, trained_on: Sequence[Sample], licence: str) -> DataSource:
    return DataSource(
        name=dataset.name,
        split=f"train of {Path(split).name}",
        fingerprint=fingerprint(trained_on),
        licence=licence,
        n_images=len(trained_on),
        notes=tuple(line for line in dataset.notes if line.startswith("corrected by review")),
    )


def _check_leaks(train: Iterable[Sample], val: Iterable[Sample]) -> None:
    """Refuse an image that is in the training data of one dataset and in the validation data of another."""
    trained_on = {sha256_of(sample.path): sample.path for sample in train}
    for sample in val:
        if (other := trained_on.get(sha256_of(sample.path))) is not None:
            raise ConfigError(f"data: {other} (train) and {sample.path} (val) are the same image. Remove one of them")


def read_data(item: DataConfig, base: Path) -> tuple[Dataset, str]:
    """One dataset of a configuration, corrected, split, without excluded images; and the name of its split."""
    options = {name: value for name, value in item.options.items() if name != "annotated"}
    dataset = read_at_scale(expand(item.path, base), item.format, **options)
    if "annotated" in item.options:
        dataset = with_annotated(dataset, item.options["annotated"])
    if item.corrections:
        dataset = apply_corrections(dataset, expand(item.corrections, base))
    if item.exclude:
        dataset = without(dataset, expand(item.exclude, base))
    split = item.split
    if split == "auto":
        split = "official-disjoint" if any(sample.split for sample in dataset) else "grouped"
    if split == "train":
        dataset = replace(dataset, samples=tuple(replace(sample, split="train") for sample in dataset))
    else:
        dataset = splits.split(dataset, str(expand(split, base)) if split.endswith(".csv") else split)
    dataset = with_scale(dataset)
    if item.weak:
        unknown = np.array(item.unknown, np.float32).reshape(-1, 4)
        with ThreadPoolExecutor(cpu_count()) as pool:
            weak = tuple(pool.map(partial(weak_truth, what=item.weak, unknown_xyxy=unknown), dataset))
        dataset = replace(dataset, samples=weak)
    return dataset, split


def with_scale(dataset: Dataset) -> Dataset:
    """A dataset with all scales known: unknown ones are estimated, images where that fails are left out with a note."""
    kept, lost = [], 0
    for sample in dataset:
        mpp = sample.mpp or estimate_mpp(read_image(sample.path)).mpp
        if mpp is None:
            lost += 1
        else:
            kept.append(replace(sample, mpp=mpp))
    notes = (f"{lost} images left out: no scale, and too few red cells to estimate it",) if lost else ()
    return replace(dataset, samples=tuple(kept), notes=(*dataset.notes, *notes))


def fingerprint(smears: Iterable[Sample], whole: bool = False) -> str:
    """sha256 over the bytes of images and annotations, independent of their order and folder.

    Covers boxes and labels; with `whole` also ignored cells, annotated classes, the scale and the split.
    """
    digests = []
    for sample in smears:
        digest = hashlib.sha256(bytes.fromhex(sha256_of(sample.path)))
        if sample.truth is not None:
            cells = sample.truth.sorted()
            digest.update(cells.boxes_xyxy.tobytes() + cells.label.tobytes())
            if whole and cells.ignore is not None:
                digest.update(cells.ignore.tobytes())
        if whole:
            digest.update(repr((sample.mpp, sample.annotated, sample.split)).encode())
        digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
