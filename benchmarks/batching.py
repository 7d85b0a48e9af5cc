"""Whether images of several requests should share a call of the detector: python benchmarks/batching.py [--images N]

Images per second of the shipped detector with OpenVINO, as `blastdet.models.openvino_runtime` loads it, with 1, 2, 4
and 8 images in a call, and as many calls at once as it has streams. Sizes are those that the network gets of a field of
640 x 480 pixels and of a tile of a smear. The service runs one image in a call: with a batch, requests would wait for
each other, so it must be clearly faster to be worth it. Needs an idle machine for a minute.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from blastdet.core.model_card import find_weights, read_card
from blastdet.core.parallel import cpu_count
from blastdet.models.onnx_detector import model_file
from blastdet.models.openvino_runtime import compiled_model, n_streams

ROUNDS = 5
BATCHES = (1, 2, 4, 8)


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="of each round")
    asked = parser.parse_args()
    folder = find_weights("default")
    card = read_card(folder)
    compiled = compiled_model(model_file(card, folder, ".onnx"), card.precision)
    print(f"{cpu_count()} cores, {asked.images} images, median of {ROUNDS} rounds\n")
    print("| input | images in a call | images/s | of single images |\n" + "|---" * 4 + "|")
    for height, width in ((128, 160), (640, 640)):
        runs: dict[int, list[float]] = {n: [] for n in BATCHES}
        for _ in range(ROUNDS):
            for n, speeds in runs.items():
                speeds.append(images_per_s(compiled, (n, 3, height, width), max(asked.images // n, 1)))
        for n, speeds in runs.items():
            speed, alone = statistics.median(speeds), statistics.median(runs[1])
            print(f"| {width} x {height} | {n} | {speed:.1f} | {speed / alone:.2f} |", flush=True)


def images_per_s(compiled: Any, shape: tuple[int, ...], n_calls: int) -> float:
    """Speed of so many calls with such an input; the first calls of each request are not counted."""
    from openvino import AsyncInferQueue

    queue, batch = AsyncInferQueue(compiled, n_streams()), np.zeros(shape, np.float32)
    for _ in range(2 * n_streams()):
        queue.start_async({0: batch})
    queue.wait_all()
    start = time.perf_counter()
    for _ in range(n_calls):
        queue.start_async({0: batch})
    queue.wait_all()
    return n_calls * shape[0] / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
