"""From a smear to its report: the only place where the stages meet.

picture -> µm/px -> tiles at the card's µm/px -> detector -> stitch -> full-smear pixels -> operating threshold
-> crops of white cells -> classifier -> counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from blastdet import __version__
from blastdet.core import boxes
from blastdet.core.constants import LARGEST_CELL_UM
from blastdet.core.errors import ConfigError, ScaleError, WeightsError
from blastdet.core.model_card import Card, find_weights, sha256_of
from blastdet.core.parallel import map_ordered, workers
from blastdet.core.results import SmearReport
from blastdet.core.types import RGB, Detections, Scale
from blastdet.imaging.io import Source, open_smear
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.imaging.tiling import Tile, place, stitch, tile_grid
from blastdet.inference import second_stage as classification
from blastdet.inference.scale import ScaleEstimate, estimate_scale, scaled_size
from blastdet.models.classifier import Classifier, load_classifier
from blastdet.models.detector import SCORE_FLOOR, Detector, load_detector

SMALLEST_SIDE_UM = 1.0
"""Boxes narrower than this are slivers of cells beyond the edge of the picture; the smallest platelet is 1.5 µm."""

BATCH = 8
"""Tiles of a large smear that a detector gets at once; bounds memory."""

_SLACK_PX = 2.0


@dataclass(frozen=True)
class Options:
    """What a user may set for a run.

    Parameters
    ----------
    mpp : (float, float), "auto" or None
        Micrometres per pixel. ``"auto"`` measures the red cells; ``None`` takes the file's own figure and measures
        where it has none.
    min_score : float, optional
        Lowest score of `SmearReport.candidates`; default: the operating threshold. One above the operating
        threshold raises that too.
    """

    mpp: Scale | Literal["auto"] | None = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score: {self.min_score} found, 0 to 1 expected")
        if isinstance(self.mpp, tuple) and not all(0.001 <= side < 100 for side in self.mpp):
            raise ScaleError(f"mpp: {self.mpp[0]:g},{self.mpp[1]:g} found, 0.001 to 100 µm per pixel expected")


@dataclass(frozen=True)
class Models:
    """The models that take part in a run, loaded once."""

    detector: Detector
    folder: Path
    classifier: Classifier | None = None

    @property
    def card(self) -> Card:
        """Card of the detector."""
        return self.detector.card

    def normalize_stain(self, picture: Source) -> Source:
        """A smear in the colours that the detector was trained on."""
        return normalize_stain(picture, self.card.input.colour)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that both stages tell apart, in the order of `CELL_CLASSES`."""
        return self.card.classes if self.classifier is None else ("blast", *self.card.classes)

    def thresholds(self, min_score: float = 0.0) -> dict[str, float]:
        """Score from which a box counts as a cell, for each class: the card's, or `min_score` where that is higher."""
        found = {name: max(point.value, min_score) for name, point in self.card.thresholds.items()}
        return {name: found["wbc" if name == "blast" and self.classifier else name] for name in self.classes}

    def describe(self) -> dict[str, Any]:
        """Name, µm/px and file hashes of every model, for reports."""
        found = _describe(self.card)
        if self.classifier is None:
            return found
        card = self.classifier.card
        points = {name: point.value for name, point in card.thresholds.items()}
        band = None if card.unsure is None else [card.unsure.low, card.unsure.high]
        return {**found, "second_stage": {**_describe(card), "thresholds": points, "unsure": band}}


def _describe(card: Card) -> dict[str, Any]:
    return {"name": card.name, "files": dict(card.files), "mpp": card.mpp}


def load_models(
    weights: str | os.PathLike[str] = "default", device: str = "auto", *, second_stage: bool = True
) -> Models:
    """Models of a weights folder or of a shipped model's name; see `blastdet.models.detector.load_detector`.

    Parameters
    ----------
    weights : str or path
    device : str
    second_stage : bool
        Whether to load the classifier that the detector's card names. Without it, every nucleated cell is a ``wbc``.

    Raises
    ------
    WeightsError
        If weights are missing or tampered with, or the two stages do not fit together.
    """
    folder = find_weights(weights)
    detector = load_detector(folder, device)
    name = detector.card.second_stage
    if name is None or not second_stage:
        return Models(detector, folder)
    beside = folder.parent / name
    try:
        classifier = load_classifier(beside if beside.is_dir() else name, device)
    except WeightsError as error:
        raise WeightsError(f"{folder}: its card names a second stage: {error}") from error
    _check_pair(detector.card, classifier.card, folder)
    return Models(detector, folder, classifier)


def _check_pair(detector: Card, classifier: Card, folder: Path) -> None:
    """One line if the classifier cannot be the detector's second stage."""
    what = f"{folder}: second stage {detector.second_stage}"
    if "blast" not in classifier.classes or "blast" not in classifier.thresholds:
        raise WeightsError(f"{what}: classes {list(classifier.classes)} found, blast with a threshold expected")
    if classifier.probe:
        raise WeightsError(f"{what}: trained on the shortcut probe {classifier.probe!r}, where no cell is seen")
    if "wbc" not in detector.classes:
        raise WeightsError(f"{what}: a detector of {list(detector.classes)} found, one that finds wbc expected")
    if classifier.input.colour != detector.input.colour:
        raise WeightsError(
            f"{what}: trained on colours {classifier.input.colour!r}, the detector on {detector.input.colour!r}"
        )


def detect(path: str | os.PathLike[str], weights: str | os.PathLike[str] = "default", **options: Any) -> SmearReport:
    """Find the cells of one smear.

    Parameters
    ----------
    path : str or path
        A picture; see `blastdet.imaging.io.open_smear`.
    weights : str or path
        A weights folder or a shipped model's name.
    **options
        Fields of `Options`.

    Returns
    -------
    SmearReport

    Raises
    ------
    BlastdetError
        If the picture or the weights cannot be read, or the scale is not known.
    """
    return detect_smear(Path(path), load_models(weights), Options(**options))


def detect_smear(
    path: Path,
    models: Models,
    options: Options = Options(),  # frozen
    progress: Callable[[int, int], None] | None = None,
) -> SmearReport:
    """Find the cells of one smear with models that are already loaded.

    `progress` is called with tiles done and tiles in all.

    Raises
    ------
    BlastdetError
        See `detect`.
    """
    with open_smear(path) as picture:
        source = models.normalize_stain(picture)
        scale = estimate_scale(source, options.mpp, models.detector)
        return detect_source(source, scale, models, options, progress)


def detect_source(
    source: Source,
    scale: ScaleEstimate,
    models: Models,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> SmearReport:
    """Find the cells of an open picture whose scale is settled; see `detect_smear`."""
    start = time.perf_counter()
    if scale.mpp is None:
        raise ScaleError(f"{source.path}: µm/px unknown: {scale.source}; give it with --mpp")
    candidates = find_cells(source, scale.mpp, models.detector, progress)
    thresholds = models.thresholds(options.min_score or 0.0)
    floor = max(min(thresholds.values()) if options.min_score is None else options.min_score, SCORE_FLOOR)
    candidates = candidates[candidates.score >= floor]
    if models.classifier is not None:
        candidates = classification.classify_cells(source, candidates, scale.mpp, models.classifier).sorted()
    detections = candidates[candidates.above_threshold(thresholds)]
    found = None if models.classifier is None else classification.count(detections, models.classifier.card)
    warnings = [*scale.warnings, *source.notes]
    if found is not None and (line := classification.warning(found)):
        warnings.append(line)
    if "rbc" in thresholds and detections.counts()["rbc"] < scale.n_cells / 2:
        warnings.append("red cells are hardly found under this stain: do not use their count")
    return SmearReport(
        path=source.path,
        size_wh=source.size_wh,
        mpp=scale.mpp,
        mpp_source=scale.source,
        detections=detections,
        candidates=candidates,
        image_sha256=sha256_of(source.path),
        model=models.describe(),
        parameters={**asdict(options), "thresholds": thresholds, "suppression_iou": models.card.suppression_iou},
        seconds=time.perf_counter() - start + scale.seconds,
        warnings=tuple(warnings),
        blasts=found,
    )


def find_cells(
    source: Source, mpp: Scale, detector: Detector, progress: Callable[[int, int], None] | None = None
) -> Detections:
    """All cells of a source down to the detector's score floor, in full-smear pixels and canonical order."""
    card = detector.card
    scaled_wh = scaled_size(source.size_wh, mpp, card.mpp, source.path)
    scale_xy = (scaled_wh[0] / source.size_wh[0], scaled_wh[1] / source.size_wh[1])
    overlap = round(LARGEST_CELL_UM / card.mpp)
    tiles = list(tile_grid(scaled_wh, card.input.wh, overlap, card.input.stride))

    def look(batch: list[Tile]) -> list[Detections]:
        images = [_read(source, tile, scale_xy) for tile in batch]
        return [place(cells, tile, _SLACK_PX) for cells, tile in zip(detector(images), batch, strict=True)]

    parts: list[Detections] = []
    for _, found in map_ordered(look, _batches(tiles), workers()):  # one reads while another computes
        parts += found
        if progress is not None:
            progress(len(parts), len(tiles))
    cells = stitch(parts, card.suppression_iou)
    sides = cells.boxes_xyxy[:, 2:] - cells.boxes_xyxy[:, :2]
    cells = cells[sides.min(axis=1, initial=np.inf) >= SMALLEST_SIDE_UM / card.mpp]
    xyxy = boxes.clip(boxes.scale(cells.boxes_xyxy, (1 / scale_xy[0], 1 / scale_xy[1])), source.size_wh)
    return cells.with_columns(boxes_xyxy=xyxy).sorted()


def _read(source: Source, tile: Tile, scale_xy: tuple[float, float]) -> RGB:
    x1, y1, x2, y2 = tile.box_xyxy
    box = (x1 / scale_xy[0], y1 / scale_xy[1], x2 / scale_xy[0], y2 / scale_xy[1])
    return source.read(box, scale_xy)


def _batches(tiles: list[Tile]) -> list[list[Tile]]:
    """Tiles that go together; those of a small smear one by one, for every core to have some."""
    size = BATCH if len(tiles) > 4 * BATCH else 1
    return [tiles[i : i + size] for i in range(0, len(tiles), size)]


@cache  # reading them took a quarter of the time of a small picture
def software() -> Mapping[str, str]:
    """Versions of what computes the boxes, for reports."""
    from importlib.metadata import distribution
    from importlib.util import find_spec

    names = ["numpy", "onnxruntime", "opencv-python-headless", "pillow"]
    if find_spec("openvino"):  # then it runs the detector on a CPU
        names.append("openvino")
    return MappingProxyType({"blastdet": __version__, **{name: distribution(name).version for name in names}})
