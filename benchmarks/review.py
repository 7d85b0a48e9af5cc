"""Time to open a review, compared with the import of the same annotations by FiftyOne.

    python benchmarks/review.py [--images 1000] [--cells 50]

Random cells on small images, in a separate database. FiftyOne reads the annotations as COCO with
``fiftyone.Dataset.from_dir``: labels only, without detections, matching, views or evaluation. Prints the seconds of
both, their ratio, and peak memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from blastdet.core.types import Dataset, Detections, Sample
from blastdet.datasets.formats import registry
from blastdet.evaluation.predict import Predictions
from blastdet.imaging.io import write_image

SIZE_WH = (640, 480)
CLASSES = ("blast", "wbc", "rbc", "platelet")


def main() -> None:
    """Make a dataset, load it both ways, and print times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FIFTYONE_DATABASE_DIR"] = str(Path(folder) / "mongo")
        dataset, predictions = made(Path(folder), asked.images, asked.cells)
        registry.write(dataset, Path(folder) / "coco", "coco")
        measure(dataset, predictions, Path(folder) / "coco")


def made(folder: Path, n_images: int, n_cells: int) -> tuple[Dataset, Predictions]:
    """Images with random cells. 90 % are detected, with shifted boxes, and 5 % of those with a random class."""
    rng, samples, found = np.random.default_rng(0), [], []
    for i in range(n_images):
        path = folder / f"{i:05d}.jpg"
        write_image(
            path, rng.integers(0, 255, (SIZE_WH[1] // 8, SIZE_WH[0] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        )
        corner = rng.uniform(0, np.array(SIZE_WH) - 45, (n_cells, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(15, 40, (n_cells, 1))], axis=1)
        label = rng.choice(4, n_cells, p=[0.1, 0.1, 0.6, 0.2])
        truth = Detections(boxes, label=label)
        samples.append(Sample(path, SIZE_WH, (0.2, 0.2), f"g{i // 3}", "test", None, CLASSES, truth))
        kept = rng.random(n_cells) < 0.9
        called = np.where(rng.random(n_cells) < 0.05, rng.integers(0, 4, n_cells), label)[kept]
        moved = boxes[kept] + rng.uniform(-3, 3, (int(kept.sum()), 1))
        score = rng.uniform(0.3, 1, len(called))
        found.append(Detections(moved, label=called, score=score, blast_probability=(called == 0) * 0.9 + 0.05))
    thresholds = dict.fromkeys(CLASSES, 0.3)
    return Dataset("made", folder, tuple(samples)), Predictions("made", tuple(found), thresholds, {"sha256": "made"})


def measure(dataset: Dataset, predictions: Predictions, coco: Path) -> None:
    """Load the dataset both ways, and print one line for each."""
    from blastdet.review.fiftyone_dataset import load
    from blastdet.review.fiftyone_session import started
    from blastdet.review.review import make_review

    begun = time.perf_counter()
    with started(None) as fiftyone:
        opened = time.perf_counter()
        print(f"FiftyOne and its database start in {opened - begun:.1f} s", flush=True)
        names = [
            f"benchmark {side} {os.getpid()}" for side in ("ours", "peer")
        ]  # another process may share the database
        try:
            made = load(fiftyone, names[0], make_review(dataset, predictions), persistent=False)
            ours = time.perf_counter() - opened
            n_ours = sum(made.count(f"{field}.detections") for field in ("truth", "detected", "cells"))
            views = len(made.list_saved_views())
            print(f"blastdet: {len(dataset)} images, {n_ours} labels, {views} views in {ours:.1f} s", flush=True)
            begun = time.perf_counter()
            words = {"data_path": str(coco), "label_field": "truth"}
            words["labels_path"] = str(coco / "annotations/instances_test.json")
            kind = fiftyone.types.COCODetectionDataset
            peer = fiftyone.Dataset.from_dir(dataset_type=kind, name=names[1], label_types="detections", **words)
            theirs, n_theirs = time.perf_counter() - begun, peer.count("truth.detections")
            print(f"from_dir: {len(peer)} images, {n_theirs} labels in {theirs:.1f} s")
            print(f"ratio {ours / theirs:.2f}; per label {ours / n_ours / (theirs / n_theirs):.2f}")
        finally:
            for name in names:
                if fiftyone.dataset_exists(name):
                    fiftyone.delete_dataset(name)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
