"""Training samples: pieces of annotated images at the model's µm/px, composed on a canvas.

Every sample has a map of the classes that are *known* at each place: a class that a dataset does not annotate is masked
in the loss on its pixels, and is never background. So datasets with different classes can train one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes
from blastdet.core.errors import ScaleError
from blastdet.core.types import CELL_CLASSES, RGB, Sample
from blastdet.imaging.augmentation import jitter_stain
from blastdet.imaging.io import open_smear
from blastdet.imaging.restaining import CANONICAL, Stains, measure_stains, restain_randomly
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.inference.scale import scaled_size
from blastdet.training.config import AugmentConfig, TrainConfig

KNOWN_STRIDE = 4
"""Pixels per entry of the map of known classes: the stride of the finest anchors."""

PAD = 114
_MIN_VISIBLE = 0.25  # below this visible fraction, a cut cell is neither a cell nor background


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """One annotated image at the model's µm/px.

    Parameters
    ----------
    rgb : uint8 (h, w, 3)
    boxes_xyxy : float32 (n, 4)
    label : int64 (n,)
        Index into the model's classes.
    known : bool (k,)
        Which of the model's classes are annotated in this image.
    unknown_xyxy : float32 (m, 4)
        Regions where no class is known (ignored cells).
    weight : float
        Relative sampling weight.
    name : str
    stains : Stains, optional
        Colours of the image; only measured if ``augment.restain`` needs them.
    """

    rgb: RGB
    boxes_xyxy: NDArray[np.float32]
    label: NDArray[np.int64]
    known: NDArray[np.bool_]
    unknown_xyxy: NDArray[np.float32]
    weight: float
    name: str
    stains: Stains | None = None


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """One canvas: see `TrainingImage`; ``known`` is (k, h / KNOWN_STRIDE, w / KNOWN_STRIDE)."""

    rgb: RGB
    boxes_xyxy: NDArray[np.float32]
    label: NDArray[np.int64]
    known: NDArray[np.bool_]


def load_image(sample: Sample, config: TrainConfig, weight: float = 1.0) -> TrainingImage:
    """An annotated image at the µm/px of the configuration and in its colours.

    Raises `ScaleError` if the µm/px or the annotations are unknown.
    """
    if sample.mpp is None or sample.truth is None:
        raise ScaleError(f"{sample.path}: expected a scale (µm/px) and annotations for training")
    width, height = scaled_size(sample.size_wh, sample.mpp, config.mpp, sample.path)
    factor = (width / sample.size_wh[0], height / sample.size_wh[1])
    with normalize_stain(open_smear(sample.path), config.colour) as source:
        rgb = source.read(None, factor)
    truth = sample.truth
    ignore = np.zeros(len(truth), bool) if truth.ignore is None else truth.ignore
    labels = [CELL_CLASSES.index(name) for name in config.classes]
    mine = np.isin(truth.label, labels) & ~np.isnan(truth.boxes_xyxy).any(axis=1)
    xyxy = boxes.scale(truth.boxes_xyxy, factor)
    known = np.array([name in sample.annotated for name in config.classes])
    return TrainingImage(
        rgb,
        xyxy[mine & ~ignore],
        np.searchsorted(labels, truth.label[mine & ~ignore]),
        known,
        xyxy[mine & ignore],
        weight,
        str(sample.path),
        _stains(rgb, config),
    )


def _stains(rgb: RGB, config: TrainConfig) -> Stains | None:
    if not config.augment.restain:
        return None
    return measure_stains(rgb) or (CANONICAL if config.colour == "canonical" else None)


def compose(
    images: Sequence[TrainingImage],
    probability: NDArray[np.float64],
    config: TrainConfig,
    rng: np.random.Generator,
    mosaic: bool,
) -> TrainingSample:
    """One training sample: a canvas of one image, or of four around a random point.

    Parameters
    ----------
    probability : float64 (n,)
        Of each image to be drawn; sums to 1.
    rng : numpy Generator
        The result depends on nothing else, so that a resumed training sees the same samples.
    mosaic : bool
        Whether mosaics are allowed now.
    """
    side, classes = config.crop, len(config.classes)
    canvas = np.full((side, side, 3), PAD, np.uint8)
    known = np.ones((classes, side // KNOWN_STRIDE, side // KNOWN_STRIDE), bool)
    found_boxes, found_labels = [np.empty((0, 4), np.float32)], [np.empty(0, np.int64)]
    for x1, y1, x2, y2 in _parts(side, mosaic and rng.random() < config.augment.mosaic, rng):
        image = images[rng.choice(len(images), p=probability)]
        piece, xyxy, label, unknown = _piece(image, (x2 - x1, y2 - y1), config.augment, rng)
        canvas[y1 : y1 + piece.shape[0], x1 : x1 + piece.shape[1]] = piece
        found_boxes.append(boxes.shift(xyxy, (x1, y1)))
        found_labels.append(label)
        cell = slice(y1 // KNOWN_STRIDE, -(-y2 // KNOWN_STRIDE)), slice(x1 // KNOWN_STRIDE, -(-x2 // KNOWN_STRIDE))
        known[:, cell[0], cell[1]] &= image.known[:, None, None]
        for ux1, uy1, ux2, uy2 in (boxes.shift(unknown, (x1, y1)) / KNOWN_STRIDE).astype(int):
            known[:, uy1 : uy2 + 1, ux1 : ux2 + 1] = False
    return TrainingSample(canvas, np.concatenate(found_boxes), np.concatenate(found_labels), known)


def _parts(side: int, mosaic: bool, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    if not mosaic:
        return [(0, 0, side, side)]
    # On the grid of the known classes, so that each entry belongs to one image.
    x, y = (int(side * rng.uniform(0.3, 0.7)) // KNOWN_STRIDE * KNOWN_STRIDE for _ in range(2))
    return [(0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side)]


def _piece(
    image: TrainingImage, size_wh: tuple[int, int], augment: AugmentConfig, rng: np.random.Generator
) -> tuple[RGB, NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """A random piece of an image, at most `size_wh`: pixels, boxes, labels, unknown regions."""
    from blastdet.imaging.io import resize

    low, high = np.log(augment.scale)
    factor = np.exp(rng.uniform(low, high)) * np.exp(rng.uniform(-0.5, 0.5, 2) * augment.aspect_jitter)
    height, width = image.rgb.shape[:2]
    # The window of the image that becomes the piece; cut before resizing, which is the slow step.
    window = np.minimum(np.ceil(np.array(size_wh) / factor), (width, height)).astype(int)
    x, y = (int(rng.integers(0, room + 1)) for room in (width - window[0], height - window[1]))
    out = np.minimum(np.maximum(np.round(window * factor), 1), size_wh).astype(int)
    piece = resize(image.rgb[y : y + window[1], x : x + window[0]], (int(out[0]), int(out[1])))
    real = (out[0] / window[0], out[1] / window[1])
    xyxy, label, unknown = _cut(image, (x, y), real, (int(out[0]), int(out[1])))
    if image.stains is not None and rng.random() < augment.restain:
        piece = restain_randomly(piece, rng, image.stains)
    piece = jitter_stain(piece, augment.stain, rng)
    turned, xyxy, unknown = _turn(piece, [xyxy, unknown], int(rng.integers(8)), size_wh)
    return turned, xyxy, label, unknown


def _cut(
    image: TrainingImage, corner: tuple[int, int], factor: tuple[float, float], size_wh: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    def moved(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        return boxes.scale(boxes.shift(xyxy, (-corner[0], -corner[1])), factor)

    whole = moved(image.boxes_xyxy)
    cut = boxes.clip(whole, size_wh)
    visible = boxes.area(cut) / np.maximum(boxes.area(whole), 1e-6)
    unknown = boxes.clip(
        np.concatenate([moved(image.unknown_xyxy), cut[(visible > 0) & (visible < _MIN_VISIBLE)]]), size_wh
    )
    keep = visible >= _MIN_VISIBLE
    return cut[keep], image.label[keep], unknown[boxes.area(unknown) > 0]


def _turn(
    piece: RGB, sets: list[NDArray[np.float32]], which: int, size_wh: tuple[int, int]
) -> tuple[RGB, NDArray[np.float32], NDArray[np.float32]]:
    """One of the eight flips and quarter turns; quarter turns only where the turned piece still fits."""
    height, width = piece.shape[:2]
    if which & 1:
        piece = piece[:, ::-1]
        sets = [np.stack([width - b[:, 2], b[:, 1], width - b[:, 0], b[:, 3]], 1) for b in sets]
    if which & 2:
        piece = piece[::-1]
        sets = [np.stack([b[:, 0], height - b[:, 3], b[:, 2], height - b[:, 1]], 1) for b in sets]
    if which & 4 and height <= size_wh[0] and width <= size_wh[1]:
        piece = piece.transpose(1, 0, 2)
        sets = [b[:, [1, 0, 3, 2]] for b in sets]
    return piece, sets[0], sets[1]
