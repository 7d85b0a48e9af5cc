"""Classical ways to segment white cells, side by side on BCCD: python benchmarks/segmentation.py [train|val|test]

Every method gets the image at 24 px per red cell and returns one box per cell.
Needs the datasets in BLASTDET_DATA, scikit-image and scikit-learn.
"""

from __future__ import annotations

import os
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed
from sklearn.cluster import KMeans

from blastdet.core import boxes
from blastdet.core.constants import RED_CELL_UM
from blastdet.segmentation import nuclei

ROOT = Path(os.environ.get("BLASTDET_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "bccd/BCCD"
MPP = RED_CELL_UM / 105  # BCCD shows a red cell with 105 pixels
SMALLEST = 20 / nuclei.WORK_MPP**2  # 20 µm²: smaller ones are platelets


def cases(split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and their white-cell boxes."""
    found = []
    for name in (ROOT / f"ImageSets/Main/{split}.txt").read_text().split():
        objects = ET.parse(ROOT / f"Annotations/{name}.xml").getroot().iter("object")
        rows = [[int(v.text) for v in o.find("bndbox")] for o in objects if o.findtext("name") == "WBC"]
        truth = np.array(rows, float).reshape(-1, 4) - (1, 1, 0, 0)
        image = cv2.cvtColor(cv2.imread(str(ROOT / f"JPEGImages/{name}.jpg")), cv2.COLOR_BGR2RGB)
        found.append((image, truth))
    return found


def components(mask: np.ndarray) -> np.ndarray:
    """Boxes around the components of a mask, holes and specks removed."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(opened, np.ones((5, 5), np.uint8)))
    rows = [row[:4] for row in stats[1:] if row[4] >= SMALLEST]
    return np.array([[x, y, x + w, y + h] for x, y, w, h in rows], float).reshape(-1, 4)


def saturation(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]


def otsu(image: np.ndarray) -> np.ndarray:
    """Otsu's threshold on saturation."""
    value = saturation(image)
    return components(value > threshold_otsu(value))


def purplest(image: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(float)
    return labels == np.argmin([lab[labels == i][:, 2].mean() if (labels == i).any() else 999 for i in range(k)])


def k_means(image: np.ndarray) -> np.ndarray:
    """Three clusters in Lab; the bluest is the nucleus."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(float)
    labels = KMeans(3, n_init=1, random_state=0).fit_predict(pixels).reshape(image.shape[:2])
    return components(purplest(image, labels, 3))


def fuzzy_c_means(image: np.ndarray) -> np.ndarray:
    """Bezdek's fuzzy c-means (m = 2), three clusters in Lab; the bluest is the nucleus."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(float)
    centres = np.percentile(pixels, [5, 50, 95], axis=0)
    for _ in range(40):
        squared = ((pixels[:, None] - centres) ** 2).sum(axis=2) + 1e-9
        member = 1 / squared / (1 / squared).sum(axis=1, keepdims=True)
        moved = (member**2).T @ pixels / (member**2).sum(axis=0)[:, None]
        if np.abs(moved - centres).max() < 0.1:
            break
        centres = moved
    return components(purplest(image, member.argmax(axis=1).reshape(image.shape[:2]), 3))


def distance_watershed(image: np.ndarray) -> np.ndarray:
    """Otsu on saturation, then the watershed of the distance transform."""
    value = saturation(image)
    mask = cv2.morphologyEx((value > threshold_otsu(value)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    inner = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    markers = np.zeros(mask.shape, int)
    for i, (y, x) in enumerate(peak_local_max(inner, min_distance=10, labels=mask.astype(int))):
        markers[y, x] = i + 1
    labels = watershed(-inner, markers, mask=mask.astype(bool))
    parts = [components(labels == i) for i in range(1, labels.max() + 1)]
    return np.concatenate([np.empty((0, 4)), *parts])


def ours(image: np.ndarray) -> np.ndarray:
    return nuclei.segment_cells(image, (nuclei.WORK_MPP, nuclei.WORK_MPP)).boxes_xyxy


def score(method: Callable[[np.ndarray], np.ndarray], samples: list[tuple[np.ndarray, np.ndarray]]) -> str:
    best: list[float] = []
    hits = found = 0
    times = []
    for image, truth in samples:
        size = round(image.shape[1] * MPP / nuclei.WORK_MPP), round(image.shape[0] * MPP / nuclei.WORK_MPP)
        work = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        start = time.process_time()
        cells = method(work)
        times.append(time.process_time() - start)
        iou = boxes.iou_matrix(cells * (image.shape[1] / size[0]), truth)
        best.extend(iou.max(axis=0, initial=0))
        found += len(cells)
        hits += matches(iou)
    n = len(best)
    return (
        f"{np.median(best):.3f} | {hits / n:.3f} | {(found - hits) / len(samples):.2f} | {1e3 * np.median(times):.0f}"
    )


def matches(iou: np.ndarray) -> int:
    """Pairs at IoU 0.5, best first, each box once."""
    iou, hits = iou.copy(), 0
    while iou.size and iou.max() >= 0.5:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        iou[i], iou[:, j] = 0, 0
        hits += 1
    return hits


def main(split: str) -> None:
    cv2.setNumThreads(1)
    samples = cases(split)
    print(f"BCCD {split}: {len(samples)} images, {sum(len(t) for _, t in samples)} white cells\n")
    print("| unseeded | median IoU | recall at IoU 0.5 | false per image | ms (CPU) |\n|---|---|---|---|---|")
    for name, method in {
        "Otsu (saturation)": otsu,
        "k-means (Lab, k = 3)": k_means,
        "fuzzy c-means (Lab, c = 3, m = 2)": fuzzy_c_means,
        "watershed (Otsu, distance transform)": distance_watershed,
        "blastdet.segmentation.nuclei": ours,
    }.items():
        print(f"| {name} | {score(method, samples)} |", flush=True)
    seeded: list[float] = []
    for image, truth in samples:
        grown = nuclei.nucleated_boxes_from_points(image, (truth[:, :2] + truth[:, 2:]) / 2, (MPP, MPP))
        seeded.extend(boxes.pair_iou(grown, truth))
    above = np.mean(np.array(seeded) > 0.5)
    print(f"\nsegmentation.nuclei seeded with box centres: median IoU {np.median(seeded):.3f}, {above:.1%} above 0.5")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "train")
