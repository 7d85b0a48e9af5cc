"""Copy-paste augmentation: white cells of one dataset in images of another, and overlapping red cells.

White cells are rare, and every dataset shows them on its own background only. Pasted cells lie among other red cells,
under other light, and in clumps, which few datasets have. Overlapping red cells are dark and large: in coarse images
they are the most frequent false white cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes
from blastdet.core.types import RGB
from blastdet.imaging.optical_density import background_colour, to_density, to_levels
from blastdet.training.detection.samples import KNOWN_STRIDE, PAD, TrainingImage, TrainingSample

_MOST = 3  # cells pasted onto one sample
_TRIES = 6
_TOUCHING = 0.5  # fraction of cells placed next to a white cell, if there is one
_SOFT_PX = 1.5  # width of the rim over which a pasted cell fades into the image
_MOST_OVERLAP = 0.25  # of the smaller of two white cells; with more, people cannot separate them either
_RED_DYE = (-0.4, 0.4)
_WHITE_DYE = (-0.7, 0.2)  # log factor of density: nuclei of other laboratories are paler than in BCCD and PBC
_SMOOTHED = 0.4  # fraction with smoothed chromatin, as in blasts and coarse images
_MOST_PADDING = 0.1  # of the place: no cell lies on the padding around an image
_HIDDEN = 0.6  # a cell that is covered more than this is not visible


class Donors:
    """Cells that can be cut out of images; an image is drawn with its probability, then one of its cells.

    Parameters
    ----------
    images : sequence of TrainingImage
    probability : float64 (n,)
        Of each image to be drawn.
    labels : sequence of int
        Indices of the classes to paste.
    """

    def __init__(
        self, images: Sequence[TrainingImage], probability: NDArray[np.float64], labels: Sequence[int]
    ) -> None:
        self.images, self.labels = images, np.array(labels)
        self.rows = [_whole(image, self.labels) for image in images]
        chance = probability * [len(rows) > 0 for rows in self.rows]
        self.probability = chance / chance.sum() if chance.any() else None
        self._light: dict[int, NDArray[np.float32]] = {}

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], int]:
        """One cell as optical density above its background (h, w, 3), and its label."""
        index = int(rng.choice(len(self.images), p=self.probability))
        image = self.images[index]
        row = int(rng.choice(self.rows[index]))
        x1, y1, x2, y2 = image.boxes_xyxy[row].round().astype(int)
        if index not in self._light:
            self._light[index] = background_colour(image.rgb)
        density = to_density(image.rgb[y1:y2, x1:x2].astype(np.float32), self._light[index])
        return np.clip(density, 0, None).astype(np.float32), int(image.label[row])


def copy_paste(
    sample: TrainingSample, donors: Donors, scale: tuple[float, float], rng: np.random.Generator
) -> TrainingSample:
    """A sample with one to three more white cells, zoomed by a factor in the range `scale`."""
    if donors.probability is None:
        return sample
    for _ in range(int(rng.integers(1, _MOST + 1))):
        density, label = donors.draw(rng)
        if rng.random() < _SMOOTHED:
            density = cv2.GaussianBlur(density, (0, 0), float(rng.uniform(0.6, 2.5)))
        density = _varied(density, scale, _WHITE_DYE, rng)
        place = _place(sample, density.shape[:2], donors.labels, rng)
        if place is not None:
            sample = _put(sample, density, label, place, _background(sample.rgb, place, density.shape[:2]))
    return sample


def rbc_overlap(
    sample: TrainingSample, donors: Donors, white: Sequence[int], scale: tuple[float, float], rng: np.random.Generator
) -> TrainingSample:
    """A sample with two to four more red cells that overlap; their optical densities add up.

    Parameters
    ----------
    donors : Donors
        Of red cells.
    white : sequence of int
        Indices of the classes that must stay visible.
    """
    if donors.probability is None:
        return sample
    middle = rng.uniform(0.1, 0.9, 2) * sample.rgb.shape[0]
    for _ in range(int(rng.integers(2, 5))):
        density, label = donors.draw(rng)
        density = _varied(density, scale, _RED_DYE, rng)
        size = np.array(density.shape[1::-1])
        x, y = (middle - size / 2).round().astype(int)
        if _is_free(sample, (x, y), density.shape[:2], np.array(white)):
            under = sample.rgb[y : y + size[1], x : x + size[0]].astype(np.float32)
            sample = _put(sample, density, label, (int(x), int(y)), under)
        angle = rng.uniform(0, 2 * np.pi)
        middle = middle + size.mean() * rng.uniform(0.3, 0.8) * np.array([np.cos(angle), np.sin(angle)])
    return sample


def _whole(image: TrainingImage, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of cells that are not cut by the border of their image."""
    xyxy, limit = image.boxes_xyxy, np.array(image.rgb.shape[1::-1])
    whole = (xyxy[:, :2] > 1).all(axis=1) & (xyxy[:, 2:] < limit - 1).all(axis=1)
    large = (xyxy[:, 2:] - xyxy[:, :2]).min(axis=1, initial=np.inf) >= 8
    return np.flatnonzero(whole & large & np.isin(image.label, labels))


def _varied(
    density: NDArray[np.float32], scale: tuple[float, float], dye: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float32]:
    from blastdet.imaging.io import resize

    factor = np.exp(rng.uniform(*np.log(scale)))
    size = max(round(density.shape[1] * factor), 4), max(round(density.shape[0] * factor), 4)
    # As 8 bits, which `resize` takes: 100 steps per unit of density are finer than a camera's.
    coded = np.clip(density * 100, 0, 255).astype(np.uint8)
    turned = np.rot90(resize(coded, size), int(rng.integers(4)))[:, :: int(rng.choice([-1, 1]))]
    return np.asarray(turned / 100 * np.exp(rng.uniform(*dye) + rng.normal(0, 0.15, 3)), np.float32)


def _place(
    sample: TrainingSample, hw: tuple[int, ...], labels: NDArray[np.int64], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Top left corner for a cell where its class is known and it hides no white cell."""
    side = sample.rgb.shape[0]
    white = sample.boxes_xyxy[np.isin(sample.label, labels)]
    size = np.array([hw[1], hw[0]])
    for _ in range(_TRIES):
        corner = rng.uniform(0, 1, 2) * (side - size)
        if len(white) and rng.random() < _TOUCHING:
            other = white[int(rng.integers(len(white)))]
            angle, apart = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.1) / 2
            distance = (size + other[2:] - other[:2]) * apart
            corner = (other[:2] + other[2:] - size) / 2 + distance * [np.cos(angle), np.sin(angle)]
        x, y = corner.round().astype(int)
        if _is_free(sample, (x, y), hw, labels):
            return int(x), int(y)
    return None


def _is_free(sample: TrainingSample, corner: tuple[int, int], hw: tuple[int, ...], labels: NDArray[np.int64]) -> bool:
    """Whether a cell fits: inside the image, where the classes `labels` are known, and hiding none of their cells."""
    (x, y), (h, w), side = corner, hw, sample.rgb.shape[0]
    if min(x, y) < 0 or x + w > side or y + h > side:
        return False
    if (sample.rgb[y : y + h, x : x + w] == PAD).mean() > _MOST_PADDING:
        return False
    box = np.array([[x, y, x + w, y + h]], np.float32)
    white = sample.boxes_xyxy[np.isin(sample.label, labels)]
    x1, y1, x2, y2 = (box[0] / KNOWN_STRIDE).astype(int)
    known = sample.known[labels, y1 : y2 + 1, x1 : x2 + 1].all()
    return bool(known and _covered(white, box, smaller=True).max(initial=0) <= _MOST_OVERLAP)


def _covered(xyxy: NDArray[np.float32], box: NDArray[np.float32], smaller: bool = False) -> NDArray[np.float64]:
    """Fraction of each box that another box covers; with `smaller`, relative to the smaller of the two."""
    shared = np.minimum(xyxy[:, 2:], box[:, 2:]) - np.maximum(xyxy[:, :2], box[:, :2])
    area = boxes.area(xyxy)
    return np.asarray(np.clip(shared, 0, None).prod(axis=1) / (np.minimum(area, boxes.area(box)) if smaller else area))


def _put(
    sample: TrainingSample,
    density: NDArray[np.float32],
    label: int,
    corner: tuple[int, int],
    light: NDArray[np.float32],
) -> TrainingSample:
    x, y = corner
    h, w = density.shape[:2]
    rgb = sample.rgb.copy()
    rgb[y : y + h, x : x + w] = _blend(rgb[y : y + h, x : x + w], density, light)
    box = np.array([[x, y, x + w, y + h]], np.float32)
    seen = _covered(sample.boxes_xyxy, box) < _HIDDEN
    return replace(
        sample,
        rgb=rgb,
        boxes_xyxy=np.concatenate([sample.boxes_xyxy[seen], box]),
        label=np.append(sample.label[seen], label),
    )


def _background(rgb: RGB, corner: tuple[int, int], hw: tuple[int, ...]) -> NDArray[np.float32]:
    """Colour of the background around a place: the bright end of the colours there."""
    x, y = corner
    margin = max(hw)
    around = rgb[max(y - margin, 0) : y + hw[0] + margin, max(x - margin, 0) : x + hw[1] + margin]
    return np.percentile(around.reshape(-1, 3)[::7], 90, axis=0).astype(np.float32)


def _blend(below: RGB, density: NDArray[np.float32], light: NDArray[np.float32]) -> RGB:
    """A cell inside its ellipse, lit by `light` (3,) or (h, w, 3), fading out at the rim."""
    h, w = below.shape[:2]
    ys, xs = (np.arange(h)[:, None] + 0.5) * 2 / h - 1, (np.arange(w) + 0.5) * 2 / w - 1
    inside = np.clip((1 - np.hypot(xs, ys)) * (h + w) / 4 / _SOFT_PX, 0, 1)[:, :, None]
    cell = to_levels(density, light)
    return np.asarray(np.clip(below * (1 - inside) + cell * inside, 0, 255), np.uint8)
