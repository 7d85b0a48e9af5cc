"""Images in the run folder: training samples as the model sees them, and its detections on validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from blastdet.core import boxes
from blastdet.core.constants import COLOURS
from blastdet.core.types import CELL_CLASSES, RGB, Dataset, Detections
from blastdet.imaging.io import write_image
from blastdet.training.detection.epoch import Epoch
from blastdet.training.detection.samples import KNOWN_STRIDE, TrainingImage

_EXAMPLES = 6
_EXAMPLE_SIDE = 480  # pixels of the longer side
_HEADLINE = 24


def draw_samples(samples: Epoch, path: Path) -> None:
    """A contact sheet of training samples: boxes in the colours of the overlay, unknown regions darkened."""
    rows, columns, names = 3, 6, samples.config.classes
    canvases = []
    for i in range(rows * columns):
        sample = samples[i]
        known = np.kron(sample.known.all(axis=0), np.ones((KNOWN_STRIDE, KNOWN_STRIDE), bool))
        canvas = np.where(known[:, :, None], sample.rgb, sample.rgb // 2)
        for (x1, y1, x2, y2), label in zip(sample.boxes_xyxy.round().astype(int).tolist(), sample.label, strict=True):
            cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), COLOURS[names[label]], 1)
        canvases.append(canvas)
    sheet = [np.concatenate(canvases[i : i + columns], axis=1) for i in range(0, len(canvases), columns)]
    write_image(path, np.concatenate(sheet))


def draw_examples(
    images: Sequence[TrainingImage],
    dataset: Dataset,
    found: Sequence[Detections],
    thresholds: Mapping[str, float],
    path: Path,
) -> None:
    """Some validation images, one per row: truth on the left, detections at the operating thresholds on the right.

    Parameters
    ----------
    images : sequence of TrainingImage
        The images of `dataset` at the model's µm/px.
    found : sequence of Detections
        In pixels of the full image.
    """
    rows = []
    for i in np.unique(np.linspace(0, len(images) - 1, _EXAMPLES).round().astype(int)):
        smear, cells = dataset.samples[i], found[i]
        truth = smear.truth if smear.truth is not None else Detections.empty()
        above = cells[cells.above_threshold(thresholds)]
        rows.append(np.concatenate([_example(images[i].rgb, side, smear.size_wh) for side in (truth, above)], axis=1))
    height, width = (max(row.shape[axis] for row in rows) for axis in (0, 1))
    sheet = np.full((len(rows), height, width, 3), 255, np.uint8)
    for place, row in zip(sheet, rows, strict=True):
        place[: row.shape[0], : row.shape[1]] = row
    known = [name for name in CELL_CLASSES if name in thresholds]
    write_image(path, np.concatenate([_headline(width, known), sheet.reshape(-1, width, 3)]))


def _headline(width: int, classes: Sequence[str]) -> RGB:
    """A line of text: what the two columns show, and the colours of the classes."""
    canvas = np.full((_HEADLINE, width, 3), 255, np.uint8)
    _write(canvas, "detected, at the operating thresholds", width // 2 + 4, (0, 0, 0))
    x = 4 + _write(canvas, "truth: ", 4, (0, 0, 0))
    for name in classes:
        x += _write(canvas, f"{name} ", x, COLOURS[name])
    return canvas


def _write(canvas: RGB, words: str, x: int, colour: tuple[int, int, int]) -> int:
    """Write words and return their width in pixels."""
    cv2.putText(canvas, words, (x, _HEADLINE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
    return int(cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0])


def _example(rgb: RGB, cells: Detections, size_wh: tuple[int, int]) -> RGB:
    """An image, enlarged, with boxes given in pixels of the full image."""
    factor = _EXAMPLE_SIDE / max(rgb.shape[:2])
    canvas = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    scaled = boxes.scale(cells.boxes_xyxy, (canvas.shape[1] / size_wh[0], canvas.shape[0] / size_wh[1]))
    for (x1, y1, x2, y2), label in zip(np.nan_to_num(scaled).round().astype(int).tolist(), cells.label, strict=True):
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), COLOURS[CELL_CLASSES[label]], 1, cv2.LINE_AA)
    return np.asarray(cv2.copyMakeBorder(canvas, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)), np.uint8)
