"""Time that the second stage adds to an image of 2592 x 1944 pixels: python benchmarks/second_stage.py [n]

A synthetic image is rendered at 0.1 µm/px and saved as JPEG. Two times are measured in turns, with loaded models: the
first stage from file to boxes, with a given scale; and the second stage on n detected white cells (default 60),
repeated if there are fewer.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from blastdet.imaging.io import open_smear
from blastdet.inference import second_stage
from blastdet.inference.model import Options, load

MPP = (0.1, 0.1)


def main(n: int = 60, rounds: int = 9) -> None:
    """Print both medians and their ratio."""
    both = load("default", "cpu")
    first = load("default", "cpu", second_stage=False)
    assert both.classifier is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smear.jpg"
        words = ["synth", str(path), "--size", "2592x1944", "--mpp", "0.1", "--seed", "3"]
        subprocess.run([sys.executable, "-m", "blastdet", *words], check=True, stdout=subprocess.DEVNULL)
        white = first.analyze(path, Options(mpp=MPP)).detections.with_classes("wbc")
        cells = white[np.arange(n) % len(white)]
        times: list[tuple[float, float]] = []
        for _ in range(rounds):
            start = time.perf_counter()
            first.analyze(path, Options(mpp=MPP))
            between = time.perf_counter()
            with open_smear(path) as image:
                source = first.normalize_stain(image)
                source.read(None, (0.01, 0.01))  # decoded once for both stages in a run
                opened = time.perf_counter()
                second_stage.classify_cells(source, cells, MPP, both.classifier)
            times.append((between - start, time.perf_counter() - opened))
    stage1, stage2 = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"first stage {stage1:.0f} ms, second stage {stage2:.0f} ms for {n} white cells ({len(white)} different ones)"
    )
    print(f"the second stage adds {stage2 / stage1:.0%}")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))
