"""Match table and average precision against plain pycocotools (evaluate + accumulate): ratios of time and peak memory.

    python benchmarks/evaluate.py [--images 5000] [--boxes 100]

Each side runs in its own process on the same generated data (three classes, as many boxes as cells, one in ten false).
pycocotools gets its best case: one area range, one maxDets, annotations loaded beforehand and not timed. The other side
starts from `Detections` and ends with the match table and its curves. Both must agree to 1e-12. Seconds are processor
time, because machines are shared.
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
from blastdet.evaluation.average_precision import average_precision
from blastdet.evaluation.match_table import coco_eval

CLASSES = ("wbc", "rbc", "platelet")


def make(n_images: int, n_boxes: int, seed: int = 0) -> tuple[Dataset, list[Detections]]:
    """Cells at random places; detections are shifted by a few pixels, a tenth of them far away."""
    rng = np.random.default_rng(seed)
    samples, found = [], []
    for i in range(n_images):
        corner, side = rng.integers(0, 1800, (n_boxes, 2)), rng.integers(30, 110, (n_boxes, 2))
        boxes, label = np.concatenate([corner, corner + side], axis=1), rng.choice([1, 2, 2, 2, 2, 3], n_boxes)
        shaken = boxes + rng.normal(0, 4, boxes.shape)
        away = rng.random(n_boxes) < 0.1
        shaken[away] = np.roll(boxes, 1, axis=0)[away] + 200.0
        shaken = np.clip(shaken, [0, 0, 1, 1], 2000)
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
        truth = Detections(boxes, label=label)
        samples.append(Sample(Path(f"{i}.png"), (2200, 2200), annotated=CLASSES, truth=truth))
        found.append(Detections(shaken, rng.random(n_boxes), label))
    return Dataset("made", Path(), tuple(samples)), found


def run_blastdet(data: Dataset, found: list[Detections]) -> tuple[float, str]:
    """Processor seconds, and a digest of the curves."""
    start = time.process_time()
    result = average_precision(data, found)
    return time.process_time() - start, _digest(result.precision, result.recall)


def run_pycocotools(data: Dataset, found: list[Detections]) -> tuple[float, str]:
    """Processor seconds of evaluate + accumulate, and a digest of the curves."""
    with contextlib.redirect_stdout(io.StringIO()):
        run = coco_eval(data, found, CLASSES)
        start = time.process_time()
        run.evaluate()
        run.accumulate()
        seconds = time.process_time() - start
    return seconds, _digest(run.eval["precision"][:, :, :, 0, 0], run.eval["recall"][:, :, 0, 0])


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(array.round(12).tobytes() for array in arrays)).hexdigest()


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
    parser.add_argument("--side", choices=("blastdet", "pycocotools"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        data = make(args.images, args.boxes)
        seconds, digest = (run_blastdet if args.side == "blastdet" else run_pycocotools)(*data)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak, "digest": digest}))
        return
    mine, theirs = (measure(side, args.images, args.boxes) for side in ("blastdet", "pycocotools"))
    print(f"{args.images} images x {args.boxes} boxes")
    for name, side in (("blastdet", mine), ("pycocotools", theirs)):
        print(f"{name:<12} {side['seconds']:8.2f} s   peak {side['peak_mib']:7.0f} MiB")
    print(f"time ratio   {float(mine['seconds']) / float(theirs['seconds']):8.3f}")
    print(f"memory ratio {float(mine['peak_mib']) / float(theirs['peak_mib']):8.3f}")
    print(f"curves equal to 1e-12: {mine['digest'] == theirs['digest']}")


if __name__ == "__main__":
    main()
