"""Stain normalization and masking for the second stage, measured on cells and on negative controls.

    python benchmarks/treatments.py [NAME ...] [--runs runs/treatments] [--model small]

Needs the crops of ``benchmarks/blasts.py``. For each treatment there are five trainings on cells, on windows of the
same fields without a nucleated cell, and on six numbers of the cell. What the windows predict comes from slide and
background. A treatment that helps keeps the AUROC of cells and lowers the other two.

- ``reinhard``: mean and spread of a crop in Lab matched to those of the average crop (E. Reinhard et al., "Color
  transfer between images", IEEE CG&A 2001).
- ``macenko``: two stain vectors and their amounts matched to those of the average crop (M. Macenko et al., "A
  method for normalizing histology slides for quantitative analysis", ISBI 2009).
- ``jitter``: stain jitter 1.0 in training instead of 0.4.
- ``masked``: only the ellipse in the box of the cell is shown, on grey background.
- ``masked-jitter``, ``masked-reinhard``: combinations.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from blasts import CROPS, REPO, SETS, cut_negative_control, out_of_fold, print_row, six_numbers

from blastdet.core.types import RGB
from blastdet.datasets.cropping.crop_table import TABLE, CropRow, read_table
from blastdet.imaging.cell_crops import CONTEXT
from blastdet.imaging.io import read_image, write_image
from blastdet.training.classification.crop_samples import PAD

Change = Callable[[RGB, CropRow, bool], RGB]
"""A crop, its row, and whether it is a window of a negative control -> the crop that the classifier sees."""

_RIM = 1.1  # boxes are tight, and cells are not exact ellipses
_MAX_OD = 2.5


def main() -> None:
    """Treat the crops, train, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(TREATMENTS)}; default: all")
    parser.add_argument("--runs", type=Path, default=REPO / "runs/treatments")
    parser.add_argument("--model", default="small", help="one of configs/blasts")
    asked = parser.parse_args()
    runs = asked.runs.resolve()
    cut_negative_control("elsewhere", runs)
    for name in asked.names or TREATMENTS:
        treatment = TREATMENTS[name]
        rows: dict[str, dict[str, Any]] = {}
        cells, windows = CROPS, runs / "elsewhere"
        if treatment.change:
            cells, windows = runs / name / "crops", runs / name / "windows"
            treat(CROPS, cells, treatment.change, is_window=False)
            treat(runs / "elsewhere", windows, treatment.change, is_window=True)
        for kind, crops in (("cell", cells), ("window", windows)):
            run = runs / name / f"{asked.model}-{kind}"
            print_row(f"{name}, {kind}", out_of_fold(asked.model, run, crops, treatment.settings), rows)
        print_row(f"{name}, six numbers", six_numbers(cells), rows)
        (runs / name / f"{asked.model}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def treat(folder: Path, out: Path, change: Change, is_window: bool) -> None:
    """Write treated copies of crops, unless they exist."""
    for name in SETS:
        if not (folder / name / TABLE).is_file() or (out / name / TABLE).is_file():
            continue
        (out / name).mkdir(parents=True, exist_ok=True)
        for row in read_table(folder / name):
            write_image(out / name / row.crop, change(read_image(folder / name / row.crop), row, is_window))
        for file in ("crops.json", TABLE):
            shutil.copy(folder / name / file, out / name / file)


def reinhard(rgb: RGB, row: CropRow, is_window: bool) -> RGB:
    """Mean and standard deviation of the three Lab channels set to those of the average crop."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    mean, spread = lab.mean(axis=(0, 1)), lab.std(axis=(0, 1)) + 1e-3
    wanted = average_crop()
    lab = (lab - mean) / spread * wanted.lab_spread + wanted.lab_mean
    return np.asarray(cv2.cvtColor(np.clip(lab, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB))


def macenko(rgb: RGB, row: CropRow, is_window: bool) -> RGB:
    """Stain vectors and their amounts set to those of the average crop; a crop without stain is not changed."""
    density = optical_density(rgb)
    stains = stain_vectors(density)
    if stains is None:
        return rgb
    wanted = average_crop()
    amounts = amounts_of(density, stains)
    amounts *= (wanted.most / np.maximum(np.percentile(amounts, 99, axis=1), 1e-3))[:, None]
    back = 256 * np.exp(-np.clip(wanted.stains @ amounts, 0, _MAX_OD)) - 1
    return np.clip(back.T.reshape(rgb.shape), 0, 255).astype(np.uint8)


def masked(rgb: RGB, row: CropRow, is_window: bool) -> RGB:
    """The ellipse in the box of the cell, on grey background. In a window, the largest possible ellipse."""
    side = len(rgb)
    wh = np.array([1.0, 1.0])
    if not is_window:
        aspect = (
            4 / 3 if row.smear_label else 1.0
        )  # only ALL fields have a class, and they have pixels that are not square
        wh = np.array([(row.x2 - row.x1) * aspect, row.y2 - row.y1])
    axes = np.minimum(side * _RIM / CONTEXT * wh / wh.max() / 2, side / 2)
    ys, xs = (np.mgrid[:side, :side] + 0.5 - side / 2) / axes[::-1, None, None]
    return np.where((xs**2 + ys**2 <= 1)[..., None], rgb, np.uint8(PAD))


@dataclass(frozen=True)
class AverageCrop:
    """Colours that treated crops are matched to."""

    lab_mean: np.ndarray
    lab_spread: np.ndarray
    stains: np.ndarray
    most: np.ndarray


@cache
def average_crop(n: int = 300) -> AverageCrop:
    """Means over equally many crops of each dataset; labels are not used."""
    rng = np.random.default_rng(0)
    lab, stains, most = [], [], []
    for name in SETS:
        rows = read_table(CROPS / name)
        for i in rng.permutation(len(rows))[:n]:
            rgb = read_image(CROPS / name / rows[i].crop)
            values = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float64)
            lab.append((values.mean(axis=0), values.std(axis=0)))
            density = optical_density(rgb)
            found = stain_vectors(density)
            if found is not None:
                stains.append(found)
                most.append(np.percentile(amounts_of(density, found), 99, axis=1))
    mean, spread = np.mean(lab, axis=0)
    vectors = np.mean(stains, axis=0)
    return AverageCrop(mean, spread, vectors / np.linalg.norm(vectors, axis=0), np.mean(most, axis=0))


def optical_density(rgb: RGB) -> np.ndarray:
    """Optical density (pixels, 3)."""
    return -np.log((rgb.reshape(-1, 3).astype(np.float64) + 1) / 256)


def stain_vectors(density: np.ndarray) -> np.ndarray | None:
    """Two unit vectors (3, 2) of optical density, the redder stain first; None if fewer than 30 pixels are stained."""
    stained = density[(density > 0.15).all(axis=1)]
    if len(stained) < 30:
        return None
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    angle = np.arctan2(*(stained @ plane)[:, ::-1].T)
    low, high = np.percentile(angle, (1, 99))
    pair = np.stack([plane @ (np.cos(a), np.sin(a)) for a in (low, high)], axis=1)
    pair = np.maximum(pair, 1e-3)
    pair /= np.linalg.norm(pair, axis=0)
    return pair if pair[0, 0] < pair[0, 1] else pair[:, ::-1]


def amounts_of(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Amount of each stain (2, pixels)."""
    return np.maximum(np.linalg.lstsq(stains, density.T, rcond=None)[0], 0)


def both(first: Change, second: Change) -> Change:
    """One change after the other."""
    return lambda rgb, row, is_window: second(first(rgb, row, is_window), row, is_window)


@dataclass(frozen=True)
class Treatment:
    """A change of the crops, and training settings."""

    change: Change | None = None
    settings: tuple[str, ...] = ()


_JITTER = ("augment.stain=1.0",)
TREATMENTS = {
    "none": Treatment(),
    "masked": Treatment(masked),
    "jitter": Treatment(None, _JITTER),
    "reinhard": Treatment(reinhard),
    "macenko": Treatment(macenko),
    "masked-jitter": Treatment(masked, _JITTER),
    "masked-reinhard": Treatment(both(reinhard, masked)),
}


if __name__ == "__main__":
    main()
