"""Measure a model on a dataset as it is, and under every level of some corruptions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blastdet.core.errors import ScaleError
from blastdet.core.types import Dataset, Detections, Sample, Scale
from blastdet.evaluation.average_precision import average_precision
from blastdet.evaluation.counts import agreements
from blastdet.evaluation.evaluate import as_nucleated, by_class_probability
from blastdet.evaluation.intervals import ap_intervals
from blastdet.evaluation.predict import LOWEST_SCORE
from blastdet.evaluation.robustness.corruptions import CORRUPTIONS, Corruption
from blastdet.imaging.io import read_image, write_image
from blastdet.inference.model import Model, Options

_RESAMPLES = 300


@dataclass(frozen=True)
class Row:
    """Accuracy of a model on corrupted images.

    Parameters
    ----------
    corruption, level
        Of `CORRUPTIONS`.
    name : str
        Class, or ``"all"``.
    ap50, ap50_low, ap50_high : float
        With the 95 % interval over groups.
    count_bias, count_error : float
        Detected minus annotated cells per image: mean, and mean of the absolute values. NaN for ``"all"``.
    """

    corruption: str
    level: float
    name: str
    ap50: float
    ap50_low: float
    ap50_high: float
    count_bias: float
    count_error: float


def measure_robustness(
    dataset: Dataset,
    model: Model,
    names: Sequence[str] = tuple(CORRUPTIONS),
    progress: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Measure a model on a dataset as it is, and under every level of some corruptions.

    Raises `BlastdetError` if the µm/px of an image is unknown, or an image cannot be read.

    Parameters
    ----------
    dataset : Dataset
        Every image annotated and with µm/px.
    names : sequence of str
        Keys of `CORRUPTIONS`.
    progress : callable
        Called once for each image and level; see `steps`.

    Returns
    -------
    list of Row
        The level that changes nothing is listed among the others of its corruption, in order.
    """
    for sample in dataset:
        if sample.mpp is None:
            raise ScaleError(f"{sample.path}: robustness needs the µm/px of every image. Pass --mpp.")
    truth = as_nucleated(dataset) if "blast" not in model.classes else dataset
    plain = _measure(truth, _detect(dataset, model, None, 0.0, progress), model)
    rows = []
    for name in names:
        corruption = CORRUPTIONS[name]
        for level in sorted((corruption.none, *corruption.levels)):
            figures = plain
            if level != corruption.none:
                figures = _measure(truth, _detect(dataset, model, corruption, level, progress), model)
            rows += [Row(name, level, of, *numbers) for of, numbers in figures.items()]
    return rows


def steps(dataset: Dataset, names: Sequence[str]) -> int:
    """How often `measure_robustness` calls its progress."""
    return len(dataset) * (1 + sum(len(CORRUPTIONS[name].levels) for name in names))


def _detect(
    dataset: Dataset, model: Model, corruption: Corruption | None, level: float, progress: Callable[[], None]
) -> list[Detections]:
    found = []
    with tempfile.TemporaryDirectory(prefix="blastdet-") as folder:
        for sample in dataset:
            path, mpp = _corrupted(sample, corruption, level, Path(folder))
            found.append(model.analyze(path, Options(mpp, LOWEST_SCORE)).candidates)
            progress()
    return found


def _corrupted(sample: Sample, corruption: Corruption | None, level: float, folder: Path) -> tuple[Path, Scale]:
    """The image and µm/px that the model gets."""
    assert sample.mpp is not None
    if corruption is None:
        return sample.path, sample.mpp
    if corruption.apply is None:
        return sample.path, (sample.mpp[0] * level, sample.mpp[1] * level)
    path = folder / "corrupted.png"
    write_image(path, corruption.apply(read_image(sample.path), level, sample.mpp))
    return path, sample.mpp


def _measure(dataset: Dataset, found: Sequence[Detections], model: Model) -> dict[str, tuple[float, ...]]:
    """AP50 with its interval, and the errors of the counts, of each class and of all."""
    result = average_precision(dataset, [by_class_probability(part) for part in found])
    intervals = ap_intervals(result.table, _RESAMPLES)
    counted = {count.name: count for count in agreements(dataset, found, model.thresholds(), resamples=2)}
    figures: dict[str, tuple[float, ...]] = {}
    for name in (*(n for n in result.classes if result.n_truth[n]), "all"):
        interval = intervals[name]["AP50"]
        count = counted.get("white cells" if name == "wbc" else name)
        errors = (float("nan"), float("nan")) if count is None else (count.bias, count.mean_absolute_error)
        figures[name] = (result.figures(None if name == "all" else name)["AP50"], interval.low, interval.high, *errors)
    return figures
