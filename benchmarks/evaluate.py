"""Our average precision against pycocotools' own evaluate + accumulate: time and peak memory, as ratios.

    python benchmarks/evaluate.py [--images 5000] [--boxes 100]

Each side runs in a process of its own on the same made-up data (three classes, boxes as many as cells, one in ten
false). pycocotools gets its best case: one area range, one maxDets, annotations loaded beforehand and outside the
time. Ours starts from `Detections` and ends with the match table and its curves. The two must agree to the last
digit. Seconds are processor time, for machines are shared.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from blastdet.core.types import Dataset, Detections, Sample
from blastdet.evaluation.average_precision import MAX_DETS, average_precision, coco_sides

CLASSES = ("wbc", "rbc", "platelet")


def make(n_images: int, n_boxes: int, seed: int = 0) -> tuple[Dataset, list[Detections]]:
    """Cells at random places, boxes shaken by a few pixels, a tenth of them elsewhere."""
    rng = np.random.default_rng(seed)
    smears, found = [], []
    for i in range(n_images):
        corner, side = rng.integers(0, 1800, (n_boxes, 2)), rng.integers(30, 110, (n_boxes, 2))
        boxes, label = np.concatenate([corner, corner + side], axis=1), rng.choice([1, 2, 2, 2, 2, 3], n_boxes)
        shaken = boxes + rng.normal(0, 4, boxes.shape)
        away = rng.random(n_boxes) < 0.1
        shaken[away] = np.roll(boxes, 1, axis=0)[away] + 200.0
        shaken = np.clip(shaken, [0, 0, 1, 1], 2000)
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
        truth = Detections(boxes, label=label)
        smears.append(Sample(Path(f"{i}.png"), (2200, 2200), annotated=CLASSES, truth=truth))
        found.append(Detections(shaken, rng.random(n_boxes), label))
    return Dataset("made", Path(), tuple(smears)), found


def run_ours(data: Dataset, found: list[Detections]) -> tuple[float, str]:
    """Processor seconds, and a digest of the curves."""
    start = time.process_time()
    result = average_precision(data, found)
    return time.process_time() - start, _digest(result.precision, result.recall)


def run_pycocotools(data: Dataset, found: list[Detections]) -> tuple[float, str]:
    """Processor seconds of evaluate + accumulate, and a digest of the curves."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(*coco_sides(data, found, CLASSES), "bbox")
        run.params.maxDets = [MAX_DETS]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        start = time.process_time()
        run.evaluate()
        run.accumulate()
        seconds = time.process_time() - start
    return seconds, _digest(run.eval["precision"][:, :, :, 0, 0], run.eval["recall"][:, :, 0, 0])


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def measure(side: str, images: int, boxes: int) -> dict[str, float | str]:
    """Run one side in a fresh process."""
    words = [sys.executable, __file__, "--images", str(images), "--boxes", str(boxes), "--side", side]
    done: dict[str, float | str] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return done


def main() -> None:
    """Measure both sides and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--side", choices=("ours", "pycocotools"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        data = make(asked.images, asked.boxes)
        seconds, digest = (run_ours if asked.side == "ours" else run_pycocotools)(*data)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak, "digest": digest}))
        return
    ours, theirs = (measure(side, asked.images, asked.boxes) for side in ("ours", "pycocotools"))
    print(f"{asked.images} images x {asked.boxes} boxes")
    for name, side in (("ours", ours), ("pycocotools", theirs)):
        print(f"{name:<12} {side['seconds']:8.2f} s   peak {side['peak_mib']:7.0f} MiB")
    print(f"time ratio   {float(ours['seconds']) / float(theirs['seconds']):8.3f}   (1 or less is the aim)")
    print(f"memory ratio {float(ours['peak_mib']) / float(theirs['peak_mib']):8.3f}   (1.5 or less is the aim)")
    print(f"curves equal to the last digit: {ours['digest'] == theirs['digest']}")


if __name__ == "__main__":
    main()
