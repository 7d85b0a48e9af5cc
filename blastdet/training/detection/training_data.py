"""What a training sees: data sets of a configuration, split, scaled, with weak truth where nobody boxed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from blastdet.core.errors import ConfigError
from blastdet.core.model_card import DataSource, sha256_of
from blastdet.core.parallel import cpu_count
from blastdet.core.types import BLAST, WBC, Dataset, Sample
from blastdet.datasets.apply_corrections import apply_corrections
from blastdet.datasets.formats.registry import read
from blastdet.datasets.splits import assign, without
from blastdet.imaging.io import read_image
from blastdet.segmentation.mpp_estimation import estimate_mpp
from blastdet.segmentation.weak_labels import weak_truth
from blastdet.training.config import DataConfig, TrainConfig, expand


@dataclass(frozen=True)
class Data:
    """What a training sees: smears to train on with their weight, and a data set to validate on.

    ``seen`` fingerprints all of each source, the validation side and the scale too; a source's own ``fingerprint`` is
    that of what is trained on.
    """

    train: tuple[tuple[Sample, float], ...]
    val: Dataset
    sources: tuple[DataSource, ...]
    seen: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    n_test: int = 0


def load_data(config: TrainConfig, base: Path) -> Data:
    """Read and split the data sets of a configuration; a set's share is spread evenly over its pictures."""
    train: list[tuple[Sample, float]] = []
    val: list[Sample] = []
    sources, seen, notes, root, n_test = [], [], [], base, 0
    for item in config.data:
        if Path(item.path).name in config.leave_out:
            continue
        dataset, split = read_data(item, base)
        if "blast" not in config.classes:
            dataset = blasts_as_white_cells(dataset)
        mine = [sample for sample in dataset.with_split("train") if sample.truth is not None]
        if not mine:
            raise ConfigError(f"{item.path}: no annotated picture in its train split")
        train += [(sample, item.share / len(mine)) for sample in mine]
        held = [sample for sample in dataset.with_split("val") if sample.truth is not None and item.validate_on]
        val += held
        seen.append({"name": dataset.name, "fingerprint": fingerprint([*mine, *held], whole=True)})
        sources.append(
            DataSource(
                name=dataset.name,
                split=f"train of {Path(split).name}",
                fingerprint=fingerprint(mine),
                licence=item.licence,
                n_images=len(mine),
                notes=tuple(line for line in dataset.notes if line.startswith("corrected by review")),
            )
        )
        notes += [f"{dataset.name}: {line}" for line in (*dataset.dropped, *dataset.notes)]
        n_test += len(dataset.with_split("test"))
        root = dataset.root if len(config.data) == 1 else base
    if not val:
        why = "; ".join(line for line in notes if "split" in line)
        raise ConfigError(
            "data: no annotated picture in any val split, which chooses epoch and thresholds" + f" ({why})" * bool(why)
        )
    if len(sources) > 1:
        _check_leaks([sample for sample, _ in train], val)
    return Data(
        tuple(train), Dataset("validation", root, tuple(val)), tuple(sources), tuple(seen), tuple(notes), n_test
    )


def _check_leaks(train: Iterable[Sample], val: Iterable[Sample]) -> None:
    """Refuse data sets that hold the same picture, one to train on and another to validate on."""
    seen = {sha256_of(sample.path): sample.path for sample in train}
    for sample in val:
        if (other := seen.get(sha256_of(sample.path))) is not None:
            raise ConfigError(f"data: {other} is trained on, and the same picture, {sample.path}, validated on")


def read_data(item: DataConfig, base: Path) -> tuple[Dataset, str]:
    """One data set of a configuration, corrected, split, and without what it must not show; and how it was split."""
    dataset = read(expand(item.path, base), item.format, **item.options)
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
        dataset = assign(dataset, str(expand(split, base)) if split.endswith(".csv") else split)
    dataset = with_scale(dataset)
    if item.weak:
        unknown = np.array(item.unknown, np.float32).reshape(-1, 4)
        with ThreadPoolExecutor(cpu_count()) as pool:
            weak = tuple(pool.map(partial(weak_truth, what=item.weak, unknown_xyxy=unknown), dataset))
        dataset = replace(dataset, samples=weak)
    return dataset, split


def blasts_as_white_cells(dataset: Dataset) -> Dataset:
    """Truth for a detector that has no class of its own for blasts: to it they are white cells."""
    smears = []
    for sample in dataset:
        annotated = tuple(name for name in sample.annotated if name != "blast")
        truth = sample.truth
        if truth is not None:
            truth = truth.with_columns(label=np.where(truth.label == BLAST, WBC, truth.label))
        smears.append(replace(sample, annotated=annotated, truth=truth))
    return replace(dataset, samples=tuple(smears))


def with_scale(dataset: Dataset) -> Dataset:
    """Smears of unknown scale measured by their red cells; those that do not tell are left out, with a note."""
    kept, lost = [], 0
    for sample in dataset:
        mpp = sample.mpp or estimate_mpp(read_image(sample.path)).mpp
        if mpp is None:
            lost += 1
        else:
            kept.append(replace(sample, mpp=mpp))
    notes = (f"{lost} pictures left out: no scale, and no red cells to measure it by",) if lost else ()
    return replace(dataset, samples=tuple(kept), notes=(*dataset.notes, *notes))


def fingerprint(smears: Iterable[Sample], whole: bool = False) -> str:
    """sha256 over the bytes of images and annotations, whatever their order or folder.

    Boxes and labels are the annotations; with `whole` also what is ignored, which classes are annotated, the scale and
    the side of the split.
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
