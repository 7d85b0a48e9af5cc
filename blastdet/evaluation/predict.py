"""Predictions to evaluate: run a model over a dataset, or read a detections file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from blastdet.core.errors import BlastdetError, ConfigError, FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample, Scale
from blastdet.datasets.formats.coco_results import ids_in_words, is_list, read_results
from blastdet.datasets.reading import read_dataset, select_split
from blastdet.imaging.io import open_smear
from blastdet.inference.folder_scale import FolderScales, analyze_in_run
from blastdet.inference.model import Model, Options, load
from blastdet.inference.result import Result

Mpp = Scale | Literal["auto", "data"] | None
"""µm/px to use: the dataset's (``"data"``), measured (``"auto"``), a fixed pair, or the image's own (``None``)."""

LOWEST_SCORE = 0.01
"""Detections are kept down to this score, so that precision-recall curves are complete."""

_FILE_THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class Predictions:
    """The detections of one model on every image of a dataset.

    Parameters
    ----------
    name : str
        Name of the model, or of the detections file.
    candidates : tuple of Detections
        One for each image, including detections with low scores.
    thresholds : dict of str to float
        Operating point of each class: the score from which a detection counts as a cell.
    about : dict
        Card, file hashes, source of the µm/px: for the report.
    mpp : tuple of (float, float), optional
        µm/px that was used for each image.
    nucleated : bool
        The model's ``wbc`` means any nucleated cell (a detector without a second stage). Annotated blasts are then
        evaluated as ``wbc``.
    """

    name: str
    candidates: tuple[Detections, ...]
    thresholds: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)
    mpp: tuple[Scale, ...] | None = None
    nucleated: bool = False


def read_datasets(
    data: Path,
    *,
    format: str = "auto",
    split: str = "test",
    corrections: Path | None = None,
    mpp: Mpp = "data",
    **options: Any,
) -> list[Dataset]:
    """Read one split of a dataset; with `corrections`, a second time with the corrected labels.

    Images without any labels are read once, with those that the corrections give them.

    Parameters and errors are those of `read_dataset`. `mpp` replaces the µm/px of every image if it is a pair;
    ``"data"``, ``"auto"`` and ``None`` leave it as it is.
    """
    scale = mpp if isinstance(mpp, tuple) else None
    whole = read_dataset(data, format=format, mpp=scale, **options)
    parts = [select_split(whole, split)]
    if corrections is not None:
        from blastdet.datasets.apply_corrections import apply_corrections

        corrected = apply_corrections(whole, corrections)
        corrected = replace(corrected, name=f"{whole.name} (corrected by {corrections.name})")
        parts = [*(parts if _has_labels(whole) else []), select_split(corrected, split)]
    return parts


def predict(
    model: Any,
    dataset: Dataset,
    *,
    mpp: Mpp = "data",
    threshold: float | None = None,
    progress: Callable[[], None] | None = None,
) -> Predictions:
    """Predictions on a dataset, from whatever `blastdet.evaluate` accepts as a model; options as for `from_model`.

    Parameters
    ----------
    model : Predictions, Model, str or Path
        Predictions are returned as they are; a path that ends in ``.json`` is a COCO results file.
    """
    if isinstance(model, Predictions):
        return model
    if isinstance(model, str | Path) and str(model).endswith(".json"):
        return from_file(Path(model), dataset, threshold)
    if not isinstance(model, Model | str | Path):
        expected = "a model, predictions, the name of a shipped model, a weights folder or a COCO results file"
        raise ConfigError(f"model: expected {expected}, got {type(model).__name__}")
    return from_model(model, dataset, mpp=mpp, threshold=threshold, progress=progress)


def from_file(path: Path, dataset: Dataset, threshold: float | None = None) -> Predictions:
    """Predictions from a COCO results file.

    Parameters
    ----------
    path : Path
        A COCO results list, or what `blastdet detect --format coco` writes.
    threshold : float, optional
        Operating point of all classes. Default 0.5.
    """
    operating = dict.fromkeys(CELL_CLASSES, _FILE_THRESHOLD if threshold is None else threshold)
    about = {"file": path.name, "sha256": sha256_of(path)}
    found = tuple(read_results(path, dataset))
    if is_list(path):
        about["ids"] = ids_in_words(dataset)
    return Predictions(path.name, found, operating, about)


def from_model(
    model: Model | str | Path,
    dataset: Dataset,
    *,
    mpp: Mpp = "data",
    threshold: float | None = None,
    failed: list[str] | None = None,
    progress: Callable[[], None] | None = None,
) -> Predictions:
    """Run a model on every image of a dataset.

    Raises `BlastdetError` if the model cannot be loaded; if an image cannot be read or its scale is unknown (see
    `failed`).

    Parameters
    ----------
    model : Model, str or Path
        A loaded model, the name of a shipped model, or a weights folder. Its second stage runs only if the dataset
        annotates blasts.
    mpp : (float, float), "data", "auto" or None
        µm/px of the images.
    threshold : float, optional
        Operating point of all classes. Default: that of the model's card.
    failed : list of str, optional
        Errors of single images are appended here, and such an image has no detections. Without this list they are
        raised, because a figure must not leave out images silently.
    """
    loaded = for_dataset(model, dataset) if isinstance(model, Model) else load_for(model, dataset)
    found, scales, sources = [], [], set()
    asked = None if mpp == "data" else mpp
    common = FolderScales([s.path for s in dataset if mpp != "data" or s.mpp is None], loaded, asked)
    for sample in dataset:
        options = Options(mpp=sample.mpp if mpp == "data" else mpp, min_score=LOWEST_SCORE)
        try:
            result = _analyzed(loaded, sample, options, common)
        except BlastdetError as error:
            if failed is None:
                raise
            failed.append(str(error))
            found.append(Detections.empty())
            scales.append(sample.mpp or (1.0, 1.0))
        else:
            found.append(result.candidates)
            scales.append(result.mpp)
            sources.add(result.scale.describe())
        if progress is not None:
            progress()
    operating = loaded.thresholds()
    if threshold is not None:
        operating = dict.fromkeys(operating, threshold)
    about = {**loaded.describe(), "card": loaded.card.model_dump(mode="json"), "mpp_sources": sorted(sources)}
    nucleated = "blast" not in loaded.classes
    return Predictions(loaded.card.name, tuple(found), operating, about, tuple(scales), nucleated)


def _analyzed(model: Model, sample: Sample, options: Options, common: FolderScales) -> Result:
    """One image; where its scale is neither given nor stated, at that of all images of its size, as in `detect`."""
    if isinstance(options.mpp, tuple):
        return model.analyze(sample.path, options)
    with open_smear(sample.path) as image:
        source = model.normalize_stain(image)
        scale = common.of(sample.path, source)
        if scale is not None:
            return analyze_in_run(model, source, options, scale)
    return model.analyze(sample.path, options)


def load_for(weights: str | Path, dataset: Dataset, device: str = "auto") -> Model:
    """Load a model; its second stage only if the dataset annotates blasts."""
    return load(weights, device, second_stage=_has_blasts(dataset))


def for_dataset(model: Model, dataset: Dataset) -> Model:
    """A loaded model as `load_for` loads it: without second stage if the dataset does not annotate blasts.

    Otherwise white cells that the second stage calls blasts would count as missed.
    """
    return model if _has_blasts(dataset) else replace(model, classifier=None)


def _has_blasts(dataset: Dataset) -> bool:
    return any("blast" in sample.annotated for sample in dataset)


def check_predictions(dataset: Dataset, predictions: Sequence[Detections], source: str) -> None:
    """Refuse predictions that cannot be evaluated.

    Raises `FormatError` if a box is not finite, has no area, or lies completely outside its image; if a score is NaN or
    outside [0, 1]; if the number of images differs from the dataset's.

    Parameters
    ----------
    predictions : sequence of Detections
        One for each image, in the order of the dataset.
    source : str
        The file or model they come from, for the message.
    """
    if len(predictions) != len(dataset):
        raise FormatError(f"{source}: expected predictions for {len(dataset)} images, got {len(predictions)}")
    for sample, found in zip(dataset, predictions, strict=True):
        _check_one(f"{source}: {dataset.file_name(sample)}", sample, found)


def _check_one(where: str, sample: Sample, found: Detections) -> None:
    boxes = found.boxes_xyxy
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(bad):
        raise FormatError(f"{where}: expected a finite box, got {_box(boxes[bad[0]])}")
    width, height = sample.size_wh
    outside = (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 2:] <= 0).any(axis=1)
    if outside.any():
        box = _box(boxes[np.flatnonzero(outside)[0]])
        raise FormatError(f"{where}: expected boxes within the image of {width} x {height} px, got {box}")


def _box(box: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"


def check_annotated(dataset: Dataset) -> None:
    """Raise `ConfigError` if no image is annotated, before a model runs on them."""
    if not _has_labels(dataset):
        raise ConfigError(f"{dataset.root}: expected at least one annotated image, got none")


def _has_labels(dataset: Dataset) -> bool:
    """Whether some image is annotated with some class."""
    return any(sample.truth is not None and sample.annotated for sample in dataset)


def scored_classes(
    dataset: Dataset, predictions: Sequence[Detections], source: str
) -> tuple[tuple[str, ...], list[str]]:
    """Classes to evaluate, and a note for every class that only one side has.

    Raises `ConfigError` if nothing is annotated, or annotations and predictions have no class in common.

    Returns
    -------
    classes : tuple of str
        Those annotated in at least one image, in the order of `CELL_CLASSES`.
    notes : list of str
    """
    check_annotated(dataset)
    truth = {name for sample in dataset if sample.truth is not None for name in sample.annotated}
    found = {CELL_CLASSES[i] for part in predictions for i in np.unique(part.label)}
    classes = tuple(name for name in CELL_CLASSES if name in truth)
    if found and not truth & found:
        raise ConfigError(
            f"{source}: no class in common with {dataset.name}. Predicted: {_names(found)}. Annotated: {_names(truth)}."
        )
    notes = [f"{name}: detected but not annotated in {dataset.name}, left out" for name in _ordered(found - truth)]
    notes += [f"{name}: annotated but never detected by {source}, AP is 0" for name in _ordered(truth - found)]
    return classes, notes


def _ordered(names: set[str]) -> list[str]:
    return [name for name in CELL_CLASSES if name in names]


def _names(names: set[str]) -> str:
    return ", ".join(_ordered(names)) or "none"
