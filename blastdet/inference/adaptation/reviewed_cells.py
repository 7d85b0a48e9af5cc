"""Reviewed cells of a laboratory, and what the second stage says of them.

They come from an annotated dataset (with corrections, only the cells that a person corrected or confirmed), be it of
whole smears or of images of one cell each, such as folders named after cell types; or from a folder of
``blastdet crops``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from blastdet.core.constants import ERYTHROBLAST, SMUDGE
from blastdet.core.errors import ConfigError, FormatError, ScaleError, counted
from blastdet.core.model_card import sha256_of
from blastdet.core.types import RGB, Dataset, Sample, Scale
from blastdet.datasets.annotations.cell_types import possible_types
from blastdet.datasets.apply_corrections import apply_corrections
from blastdet.datasets.cropping.crop_table import TABLE, cut_of, read_table
from blastdet.datasets.cropping.cutting import annotated_cells
from blastdet.datasets.reading import find_dataset, read_dataset
from blastdet.imaging.cell_crops import Box, crop
from blastdet.imaging.io import Source, open_smear, read_image
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.inference.adaptation.fitting import LabelledCells
from blastdet.inference.scale import estimate_scale
from blastdet.inference.single_cells.central_cell import central_cell, isolated_box
from blastdet.models.detector import Detector
from blastdet.models.onnx_classifier import OnnxClassifier

_BATCH = 32
_UNNAMED = "unnamed"
_OPTIONS = {"class_map": "--map", "annotated": "--annotated", "images": "--images"}
_NO_PIXELS = np.empty((0, 0, 3), np.uint8)

Progress = Callable[[str, int, int], None]
"""Called with what is done, and how many of how many are."""


def _silent(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Reading:
    """How reviewed cells are read.

    Parameters
    ----------
    format : str
        As for `read_dataset`.
    images : str or Path, optional
        Folder of the images, if they are not next to the annotation files.
    mpp : (float, float), "data" or "auto"
        µm/px: of every image; as the dataset or the file states it, else measured; measured.
    corrections : Path, optional
        Corrections of the dataset. Only cells that they mention are used.
    progress : callable
    options : mapping
        Further options of `read_dataset`.
    """

    format: str = "auto"
    images: str | Path | None = None
    mpp: Any = "data"
    corrections: Path | None = None
    progress: Progress = _silent
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ReviewedCells:
    """White cells with their labels, and where they come from.

    Parameters
    ----------
    cells : LabelledCells
    fingerprint : str
        SHA-256 over images, boxes and labels.
    left_out : dict of str to int
        Reason -> number of cells that are not used.
    notes : tuple of str
    """

    cells: LabelledCells
    fingerprint: str
    left_out: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Crop:
    rgb: RGB
    mpp: float
    is_blast: bool
    smear: str
    key: str


def read_reviewed(data: str | Path, classifier: OnnxClassifier, detector: Detector, reading: Reading) -> ReviewedCells:
    """Read the reviewed cells of `data`, and run the second stage on them.

    Parameters
    ----------
    data : str or Path
        See the module.
    detector : Detector
        Measures the scale of images without one.

    Raises
    ------
    BlastdetError
        If the data cannot be read, fit neither form, or have no usable cell.
    """
    reader = _Reader(classifier, detector, reading)
    left = reader.crops(data)
    parts, crops = [], []
    while some := list(islice(left, _BATCH)):
        parts.append(classifier.evidence([one.rgb for one in some], [one.mpp for one in some]))
        crops += [replace(one, rgb=_NO_PIXELS) for one in some]
    if not parts:
        reasons = ", ".join(f"{n} {why}" for why, n in reader.left_out.items()) or "none found"
        raise ConfigError(f"{data}: expected white cells labelled as blasts and others, got none ({reasons})")
    logit, features, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    labels = np.array([one.is_blast for one in crops])
    cells = LabelledCells(logit, features, distance, labels, np.array([one.smear for one in crops]))
    text = "\n".join(sorted(f"{one.key} {int(one.is_blast)}" for one in crops))
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return ReviewedCells(cells, fingerprint, dict(+reader.left_out), tuple(reader.notes))


@dataclass
class _Reader:
    """Reads crops, and counts what is not used."""

    classifier: OnnxClassifier
    detector: Detector
    reading: Reading
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def crops(self, data: str | Path) -> Iterator[_Crop]:
        folder, _ = find_dataset(data)
        if self.reading.format == "auto" and (folder / TABLE).is_file():
            if self.reading.corrections is not None:
                raise ConfigError(f"{folder}: corrections fit a dataset of images, got a folder of crops")
            asked = {**self.reading.options, "images": self.reading.images}
            if idle := [_OPTIONS.get(name, name) for name, value in asked.items() if value is not None]:
                raise ConfigError(f"{folder}: {', '.join(idle)}: for a dataset of images, got a folder of crops")
            yield from self._of_table(folder)
        else:
            yield from self._of_dataset(data)

    def _is_blast(self, types: tuple[str, ...]) -> bool | None:
        """Whether a cell is a blast, given the types that it may have; ``None`` for one that is not used."""
        if not types:
            self.left_out["without a label"] += 1
        elif set(types) <= {ERYTHROBLAST, SMUDGE}:
            self.left_out[f"{types[0]}s"] += 1
        else:
            return types == ("blast",)
        return None

    def _of_table(self, folder: Path) -> Iterator[_Crop]:
        """Crops as ``blastdet crops`` cuts them."""
        cut, colour = cut_of(folder), self.classifier.card.input.colour
        if cut.negative_control or cut.colour != colour:
            got = f"the negative control {cut.negative_control!r}" if cut.negative_control else f"{cut.colour!r}"
            raise FormatError(f"{folder}: expected crops of cells in colours {colour!r}, got {got}. Cut them again")
        rows = read_table(folder)
        for done, row in enumerate(rows, start=1):
            blast = self._is_blast(possible_types(row.label, row.cell_type, row.smear_label))
            if blast is not None:
                path = folder / row.crop
                smear = row.cluster or row.group or row.source
                yield _Crop(read_image(path), row.mpp, blast, smear, sha256_of(path))
            self.reading.progress("reading", done, len(rows))

    def _of_dataset(self, data: str | Path) -> Iterator[_Crop]:
        """Annotated cells of whole images."""
        asked = self.reading
        mpp = asked.mpp if isinstance(asked.mpp, tuple) else None
        options = {**asked.options} if asked.images is None else {**asked.options, "images": asked.images}
        dataset = read_dataset(data, format=asked.format, mpp=mpp, **options)
        if asked.corrections is not None:
            unmarked = replace(dataset, samples=tuple(_without_origin(sample) for sample in dataset))
            dataset = apply_corrections(unmarked, asked.corrections)  # which marks what a person corrected or confirmed
        self.notes += dataset.notes
        dataset = self._with_smears(dataset)
        for done, sample in enumerate(dataset, start=1):
            if sample.truth is not None and len(sample.truth):
                yield from self._of_image(dataset, self._with_scale(sample))
            asked.progress("reading", done, len(dataset))

    def _with_smears(self, dataset: Dataset) -> Dataset:
        """Images of one cell without a smear share one: they may be of one patient, and must not be in two folds."""
        unnamed = [not (sample.cluster or sample.group) for sample in dataset]
        alone = [free and _is_one_cell(sample) for free, sample in zip(unnamed, dataset, strict=True)]
        if all(unnamed):
            counts = "all images count as one smear" if any(alone) else "each image counts as a smear"
            self.notes.append(f"no smears or patients are named: {counts}")
            alone = unnamed if any(alone) else alone
        elif any(alone):
            of_images = counted(sum(alone), "image")
            self.notes.append(f"no smear or patient is named for {of_images} of one cell: they count as one smear")
        changed = zip(dataset, alone, strict=True)
        return replace(
            dataset, samples=tuple(replace(one, group=_UNNAMED) if is_alone else one for one, is_alone in changed)
        )

    def _with_scale(self, sample: Sample) -> Sample:
        """With the scale that is given, or stated by the dataset or the file, or else measured."""
        measured = self.reading.mpp == "auto"
        if sample.mpp is not None and not measured:
            return sample
        with normalize_stain(open_smear(sample.path), self.detector.card.input.colour) as source:
            if source.mpp is None and _is_one_cell(sample) and not measured:
                # a handful of red cells measures a scale within 10 % only, which is the difference of two types
                raise ScaleError(f"{sample.path}: an image of one cell without a scale. Pass --mpp (µm per pixel)")
            scale = estimate_scale(source, "auto" if measured else None, self.detector)
        if scale.mpp is None:
            raise ScaleError(f"{sample.path}: could not determine the scale: {scale.reason}. Pass --mpp (µm per pixel)")
        return replace(sample, mpp=scale.mpp)

    def _boxed(self, sample: Sample) -> Sample:
        """The one cell of an image, given as a point, with the box that `blastdet classify` finds."""
        if not _is_one_cell(sample):
            return sample
        assert sample.truth is not None and sample.mpp is not None
        with open_smear(sample.path) as source:
            box = isolated_box(source)
            if box is None:
                seen = normalize_stain(source, self.detector.card.input.colour)
                box = central_cell(seen, sample.mpp, self.detector).box_xyxy
        return replace(sample, truth=sample.truth.with_columns(boxes_xyxy=[box]))

    def _of_image(self, dataset: Dataset, sample: Sample) -> Iterator[_Crop]:
        (cells,) = annotated_cells(replace(dataset, samples=(self._boxed(sample),)))
        self.left_out.update(cells.left_out)
        found, smear = cells.found, sample.cluster or sample.group or dataset.file_name(sample)
        types = [""] * len(found) if found.cell_type is None else found.cell_type.tolist()
        image = sha256_of(sample.path)
        with normalize_stain(open_smear(sample.path), self.classifier.card.input.colour) as source:
            for row, box in enumerate(found.boxes_xyxy.tolist()):
                if self.reading.corrections is not None and (found.origin is None or found.origin[row] != "human"):
                    self.left_out["not reviewed"] += 1
                    continue
                blast = self._is_blast(possible_types(cells.labels[row], types[row], ""))
                if blast is not None:
                    key = f"{image} {[round(side, 1) for side in box]}"
                    yield _Crop(*self._cut(source, tuple(box), cells.mpp), blast, smear, key)

    def _cut(self, source: Source, box: Box, mpp: Scale) -> tuple[RGB, float]:
        """A crop as `classify_cells` makes it, and its µm/px."""
        pitch = max(min(mpp), self.classifier.card.mpp / 2)
        return crop(source, box, mpp, pitch), pitch


def _without_origin(sample: Sample) -> Sample:
    if sample.truth is None or sample.truth.origin is None:
        return sample
    return replace(sample, truth=sample.truth.with_columns(origin=np.full(len(sample.truth), "")))


def _is_one_cell(sample: Sample) -> bool:
    """Whether the truth is one cell that counts, given as a point, as where images show one cell each."""
    truth = sample.truth
    if truth is None or len(truth) != 1 or not np.isnan(truth.boxes_xyxy).any():
        return False
    return truth.ignore is None or not truth.ignore[0]
