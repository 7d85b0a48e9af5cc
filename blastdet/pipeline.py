"""From a smear to its report: the only place where the stages meet.

picture -> µm/px -> tiles at the card's µm/px -> detector -> stitch -> full-smear pixels -> operating threshold.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blastdet import __version__, boxes
from blastdet.cards import Card, find_weights, sha256_of
from blastdet.detectors import SCORE_FLOOR, Detector, load_detector
from blastdet.errors import ConfigError, ScaleError
from blastdet.images import Source, open_smear
from blastdet.tiles import Tile, place, stitch, tile_grid
from blastdet.types import CELL_CLASSES, RGB, Detections, Scale, SmearReport, WidthHeight

if TYPE_CHECKING:
    from blastdet.ruler import Measurement

LARGEST_CELL_UM = 24.0
"""Tiles overlap by this much, so that the tile that owns a cell sees all of it (a large monocyte: 20 µm)."""

MAX_ENLARGEMENT = 4.0
"""A picture that would have to be enlarged more than this has no detail to find cells by."""

FEW_RED_CELLS = 8
"""Fewer red cells than this measure a picture only if no other picture of the run can."""

BATCH = 8
"""Tiles that a detector gets at once; bounds memory."""

_SLACK_PX = 2.0
_RULER_WINDOW = 3000


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
        if isinstance(self.mpp, tuple) and not all(0 < side < 100 for side in self.mpp):
            raise ScaleError(f"mpp: {self.mpp[0]:g},{self.mpp[1]:g} found, micrometres per pixel above 0 expected")


@dataclass(frozen=True)
class Models:
    """The models that take part in a run, loaded once."""

    detector: Detector
    folder: Path

    @property
    def card(self) -> Card:
        """Card of the detector."""
        return self.detector.card

    def describe(self) -> dict[str, Any]:
        """Name, µm/px and file hashes, for reports."""
        return {"name": self.card.name, "files": dict(self.card.files), "mpp": self.card.mpp}


def load_models(weights: str | os.PathLike[str] = "default", device: str = "auto") -> Models:
    """Models of a weights folder or of a shipped model's name; see `blastdet.detectors.load_detector`."""
    return Models(load_detector(weights, device), find_weights(weights))


def detect(path: str | os.PathLike[str], weights: str | os.PathLike[str] = "default", **options: Any) -> SmearReport:
    """Find the cells of one smear.

    Parameters
    ----------
    path : str or path
        A picture; see `blastdet.images.open_smear`.
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
    with open_smear(path) as source:
        scale = find_scale(source, options.mpp)
        return detect_source(source, scale, models, options, progress)


def detect_source(
    source: Source,
    scale: ScaleFound,
    models: Models,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> SmearReport:
    """Find the cells of an open picture whose scale is settled; see `detect_smear`."""
    start = time.perf_counter()
    if scale.mpp is None:
        raise ScaleError(f"{source.path}: µm/px unknown: {scale.source}")
    candidates = find_cells(source, scale.mpp, models.detector, progress)
    thresholds = operating_thresholds(models.card, options.min_score)
    floor = min(thresholds.values()) if options.min_score is None else options.min_score
    per_label = np.array([thresholds.get(name, 2.0) for name in CELL_CLASSES])
    return SmearReport(
        path=source.path,
        size_wh=source.size_wh,
        mpp=scale.mpp,
        mpp_source=scale.source,
        detections=candidates[candidates.score >= per_label[candidates.label]],
        candidates=candidates[candidates.score >= max(floor, SCORE_FLOOR)],
        image_sha256=sha256_of(source.path),
        model=models.describe(),
        parameters={**asdict(options), "thresholds": thresholds, "suppression_iou": models.card.suppression_iou},
        seconds=time.perf_counter() - start + scale.seconds,
        warnings=(*scale.warnings, *source.notes),
    )


def operating_thresholds(card: Card, min_score: float | None = None) -> dict[str, float]:
    """Score from which a box counts as a cell, for each class: the card's, or `min_score` where that is higher."""
    return {name: max(point.value, min_score or 0.0) for name, point in card.thresholds.items()}


@dataclass(frozen=True)
class ScaleFound:
    """The scale of one picture and where it comes from.

    Parameters
    ----------
    mpp : (float, float) or None
        Micrometres per pixel; ``None`` where nothing tells.
    source : str
        ``"given"``, ``"file"``, ``"red cells (n=57)"``; or why nothing tells.
    weak : bool
        Whether it rests on too few red cells to be believed against other pictures of the same run.
    warnings : tuple of str
    seconds : float
        Time the measurement took.
    """

    mpp: Scale | None
    source: str
    weak: bool = False
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


def find_scale(source: Source, asked: Scale | Literal["auto"] | None) -> ScaleFound:
    """Micrometres per pixel: as given, as the file says, or as the red cells in the picture tell."""
    if isinstance(asked, tuple):
        return ScaleFound(asked, "given")
    if asked is None and source.mpp is not None:
        return ScaleFound(source.mpp, "file")
    start = time.perf_counter()
    found = _measure(source)
    seconds = time.perf_counter() - start
    if found.mpp is None:
        return ScaleFound(None, found.reason, weak=True, seconds=seconds)
    warnings = (f"picture looks squeezed: {found.reason}",) if found.squeezed else ()
    name = f"red cells (n={found.n_cells})"
    return ScaleFound(found.mpp, name, found.n_cells < FEW_RED_CELLS, warnings, seconds)


def _measure(source: Source) -> Measurement:
    """µm/px from the red cells of the whole picture, or of windows in the middle of one too large to look at whole."""
    from blastdet.ruler import measure

    width, height = source.size_wh
    if width * height <= _RULER_WINDOW**2:
        return measure(source.read())
    found = None
    for fx, fy in ((0.5, 0.5), (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
        x = int(max(0, min(width * fx - _RULER_WINDOW / 2, width - _RULER_WINDOW)))
        y = int(max(0, min(height * fy - _RULER_WINDOW / 2, height - _RULER_WINDOW)))
        found = measure(source.read((x, y, min(x + _RULER_WINDOW, width), min(y + _RULER_WINDOW, height))))
        if found.mpp is not None:
            break
    assert found is not None
    return found


def find_cells(
    source: Source, mpp: Scale, detector: Detector, progress: Callable[[int, int], None] | None = None
) -> Detections:
    """All cells of a source down to the detector's score floor, in full-smear pixels and canonical order."""
    card = detector.card
    scaled_wh = scaled_size(source.size_wh, mpp, card.mpp, source.path)
    scale_xy = (scaled_wh[0] / source.size_wh[0], scaled_wh[1] / source.size_wh[1])
    overlap = round(LARGEST_CELL_UM / card.mpp)
    tiles = list(tile_grid(scaled_wh, card.input.wh, overlap))
    parts: list[Detections] = []
    for batch in _batches(tiles):
        images = [_read(source, tile, scale_xy) for tile in batch]
        parts += [place(cells, tile, _SLACK_PX) for cells, tile in zip(detector(images), batch, strict=True)]
        if progress is not None:
            progress(len(parts), len(tiles))
    cells = stitch(parts, card.suppression_iou)
    xyxy = boxes.clip(boxes.scale(cells.boxes_xyxy, (1 / scale_xy[0], 1 / scale_xy[1])), source.size_wh)
    return cells.with_columns(boxes_xyxy=xyxy).sorted()


def scaled_size(size_wh: WidthHeight, mpp: Scale, card_mpp: float, path: Path) -> WidthHeight:
    """Size of a picture at the card's µm/px.

    Raises
    ------
    ScaleError
        If the picture would have to be enlarged beyond reason.
    """
    factor = (mpp[0] / card_mpp, mpp[1] / card_mpp)
    if max(factor) > MAX_ENLARGEMENT:
        limit = MAX_ENLARGEMENT * card_mpp
        raise ScaleError(f"{path}: {max(mpp):.3g} µm/px found, at most {limit:.3g} expected: too coarse to show cells")
    return max(1, round(size_wh[0] * factor[0])), max(1, round(size_wh[1] * factor[1]))


def _read(source: Source, tile: Tile, scale_xy: tuple[float, float]) -> RGB:
    x1, y1, x2, y2 = tile.box_xyxy
    box = (x1 / scale_xy[0], y1 / scale_xy[1], x2 / scale_xy[0], y2 / scale_xy[1])
    return source.read(box, scale_xy)


def _batches(tiles: list[Tile]) -> Iterator[list[Tile]]:
    rest = iter(tiles)
    while batch := list(islice(rest, BATCH)):
        yield batch


def software() -> dict[str, str]:
    """Versions of what computes the boxes, for reports."""
    from importlib.metadata import version

    names = ("numpy", "onnxruntime", "opencv-python-headless", "pillow")
    return {"blastdet": __version__, **{name: version(name) for name in names}}
