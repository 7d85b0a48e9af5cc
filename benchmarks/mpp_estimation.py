"""Accuracy of the estimated scale: python benchmarks/mpp_estimation.py [train|val|test|synth|stated] [n] [weights]

With ``stated``: how many of n BCCD images and n full ALL fields are questioned whose scale is stated wrong by a factor.

Without weights, only `segmentation.mpp_estimation` is measured; with weights, all of `--mpp auto`, detector included.

BCCD images are resampled by a random factor of 0.12–1.5 (log-uniform); a third are squeezed 4:3 along one axis, a third
are cropped. Ground truth: the median of the isolated red-cell boxes of the image. Synthetic images: their exact boxes.
The table also lists the score of the best constant guess on the same images. Needs the datasets in BLASTDET_DATA.
"""

from __future__ import annotations

import os
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from blastdet.core import boxes
from blastdet.core.constants import RED_CELL_UM
from blastdet.imaging.io import open_image
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.inference.scale import estimate_scale
from blastdet.models.detector import Detector, load_detector
from blastdet.segmentation import mpp_estimation

ROOT = Path(os.environ.get("BLASTDET_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "bccd/BCCD"
STATED = {"bccd": 0.0714, "all_fields_hires": 0.12}  # µm/px
FACTORS = (0.4, 0.5, 0.7, 1.0, 1.43, 2.0, 2.5)
Case = tuple[str, np.ndarray, tuple[float, float], float]  # kind, image, red cell (x, y) in px, stretch y/x


def red_cell(red: np.ndarray, others: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray | None:
    """Median width and height of the red cells that are not cut by the border or another cell."""
    inside = (red[:, :2] > 2).all(axis=1) & (red[:, 2:] < np.array(size_wh) - 2).all(axis=1)
    every = np.concatenate([red, others])
    touching = boxes.iou_matrix(red, every)
    touching[np.arange(len(red)), np.arange(len(red))] = 0
    isolated = inside & (touching.max(axis=1, initial=0) < 0.06)
    chosen = red[isolated] if isolated.sum() >= 3 else red[inside]
    return np.median(chosen[:, 2:] - chosen[:, :2], axis=0) if len(chosen) >= 3 else None


def bccd(split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images with at least three whole red cells, and the size of those."""
    for name in (ROOT / f"ImageSets/Main/{split}.txt").read_text().split():
        rows: dict[str, list[list[int]]] = {"RBC": [], "WBC": [], "Platelets": []}
        for o in ET.parse(ROOT / f"Annotations/{name}.xml").getroot().iter("object"):
            x1, y1, x2, y2 = (int(v.text) for v in o.find("bndbox"))
            if x2 > x1 and y2 > y1:
                rows[o.findtext("name")].append([x1 - 1, y1 - 1, x2, y2])
        red, white = (np.array(rows[k], float).reshape(-1, 4) for k in ("RBC", "WBC"))
        truth = red_cell(red, white, (640, 480))
        if truth is not None:
            yield cv2.cvtColor(cv2.imread(str(ROOT / f"JPEGImages/{name}.jpg")), cv2.COLOR_BGR2RGB), truth


def resampled(split: str, n: int, rng: np.random.Generator) -> Iterator[Case]:
    samples = list(bccd(split))
    for i in range(n):
        image, truth = samples[i % len(samples)]
        kind = ("plain", "squeezed", "cropped")[i % 3]
        factor = np.exp(rng.uniform(np.log(0.12), np.log(1.5)))
        along_x = factor * (float(rng.choice([0.75, 4 / 3])) if kind == "squeezed" else 1.0)
        size = round(640 * along_x), round(480 * factor)
        scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        if kind == "cropped":
            w, h = (max(int(side * rng.uniform(0.5, 0.9)), 40) for side in size)
            x, y = (int(rng.integers(max(side - part, 0) + 1)) for side, part in zip(size, (w, h), strict=True))
            scaled = np.ascontiguousarray(scaled[y : y + h, x : x + w])
        yield kind, scaled, (truth[0] * size[0] / 640, truth[1] * size[1] / 480), factor / along_x


def synthetic(n: int, rng: np.random.Generator) -> Iterator[Case]:
    from blastdet.synth.render import SynthConfig, render

    for seed in range(n):
        mpp = float(np.exp(rng.uniform(np.log(0.06), np.log(0.45))))
        aspect = float(rng.choice([1.0, 1.0, 4 / 3]))
        palette = ("bccd", "pbc", "all", "chula", "random")[seed % 5]
        size = int(rng.integers(300, 900)), int(rng.integers(300, 700))
        red_cells = float(rng.choice([2000, 6000, 10000]))
        image, _ = render(SynthConfig(size_wh=size, mpp=mpp, aspect=aspect, palette=palette, red_cells=red_cells), seed)
        yield f"palette {palette}", image, (RED_CELL_UM / mpp / aspect, RED_CELL_UM / mpp), aspect


def estimated(image: np.ndarray, detector: Detector) -> tuple[float, float] | None:
    """Scale that `--mpp auto` estimates for an image."""
    return estimate_scale(normalize_stain(open_image(image), detector.card.input.colour), "auto", detector).mpp


def main(source: str, n: int, weights: str | None = None) -> None:
    detector = load_detector(weights) if weights else None
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    kinds, errors, truths, seconds, right_shape = [], [], [], [], []
    for kind, image, truth, stretch in synthetic(n, rng) if source == "synth" else resampled(source, n, rng):
        start = time.process_time()
        mpp = estimated(image, detector) if detector else mpp_estimation.estimate_mpp(image).mpp
        seconds.append(time.process_time() - start)
        size = np.sqrt(truth[0] * truth[1])
        kinds.append(kind)
        truths.append(size)
        errors.append(np.inf if mpp is None else RED_CELL_UM / np.sqrt(mpp[0] * mpp[1]) / size - 1)
        if mpp is not None:
            right_shape.append((max(mpp) > 1.1 * min(mpp)) == (abs(np.log(stretch)) > 0.1))
    report(source, np.array(kinds), np.array(errors), np.array(truths))
    print(
        f"\nsqueeze detected correctly: {np.mean(right_shape):.3f}; CPU seconds: median {np.median(seconds):.3f}, ",
        end="",
    )
    print(f"most {max(seconds):.3f}")


def stated(n: int, weights: str) -> None:
    """How many images are questioned, by what their scale is stated to be."""
    from blastdet.inference.model import Options, load

    model = load(weights, "cpu")
    print("| given / true | " + " | ".join(f"{factor:g}" for factor in FACTORS) + " |")
    for name, mpp in STATED.items():
        files = sorted(path for path in (ROOT.parents[1] / name).rglob("*") if path.suffix in (".jpg", ".png"))
        counts = []
        for factor in FACTORS:
            some = [
                model.analyze(path, Options(mpp=(factor * mpp,) * 2)) for path in files[:: max(len(files) // n, 1)][:n]
            ]
            counts.append(sum(any("Check the scale" in one for one in found.warnings) for found in some))
        print(f"| {name} | " + " | ".join(f"{k} of {len(some)}" for k in counts) + " |", flush=True)


def report(source: str, kinds: np.ndarray, errors: np.ndarray, truths: np.ndarray) -> None:
    guesses = np.exp(np.linspace(np.log(truths.min()), np.log(truths.max()), 200))
    constant = max(float(np.mean(np.abs(guess / truths - 1) <= 0.15)) for guess in guesses)
    known = errors[np.isfinite(errors)]
    print(f"{source}: {len(errors)} images, red cells of {truths.min():.0f} to {truths.max():.0f} px\n")
    print("| images | n | error <= 15 % | median error | bias | no answer |\n|---|---|---|---|---|---|")
    for kind in ("all", *dict.fromkeys(kinds.tolist())):
        e = errors if kind == "all" else errors[kinds == kind]
        some = e[np.isfinite(e)]
        print(f"| {kind} | {len(e)} | {np.mean(np.abs(e) <= 0.15):.3f} | {np.median(np.abs(some)):.3f} ", end="")
        print(f"| {np.median(some):+.3f} | {np.mean(~np.isfinite(e)):.3f} |")
    print(f"| best constant guess | {len(errors)} | {constant:.3f} | | | |")
    print(f"\nof those with an answer: {np.mean(np.abs(known) <= 0.15):.3f} within 15 %")


if __name__ == "__main__":
    source = sys.argv[1] if len(sys.argv) > 1 else "train"
    if source == "stated":
        stated(int(sys.argv[2]), sys.argv[3])
    else:
        main(source, int(sys.argv[2]) if len(sys.argv) > 2 else 200, sys.argv[3] if len(sys.argv) > 3 else None)
