"""Accuracy and speed of the shipped configuration over µm/px: python benchmarks/curve.py [--mpp 0.3 0.4 0.55]

Each row is a training of 12 short epochs without the ALL fields. It is evaluated on the validation sets (BCCD and PBC),
on a laboratory that training did not use (agreement on ALL fields outside the test set: see laboratories.py), and by
the time for one BCCD image of 640 x 480 pixels from file to cells. No test data is used.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path

from detectors import figure
from laboratories import DATA, REPO, agreed_boxes, measure, train, white_cells

FIELD_UM = 51.2
"""Side of a training sample in µm: the same field in every row."""


def main() -> None:
    """Train the missing models, and print one row for each µm/px."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mpp", type=float, nargs="+", default=[0.3, 0.4, 0.55])
    parser.add_argument("--runs", type=Path, default=REPO / "runs/curve")
    asked = parser.parse_args()
    rows = {}
    for mpp in asked.mpp:
        run = asked.runs / f"{mpp:g}"
        crop = round(FIELD_UM / mpp / 32) * 32
        train("all_fields", run, "auto", ["epochs=12", f"mpp={mpp}", f"crop={crop}"])
        unseen = white_cells(measure(run, agreed_boxes(asked.runs / "agreed.json")))
        with (run / "metrics.csv").open(encoding="utf-8") as stream:
            best = max((row for row in csv.DictReader(stream) if row["fitness"]), key=lambda row: float(row["fitness"]))
        seen = " | ".join(f"{float(best[f'AP50 {name}']):.3f}" for name in ("wbc", "rbc", "platelet"))
        rows[mpp] = f"{figure(unseen, 'AP50')} | {seen}"
    times = milliseconds([asked.runs / f"{mpp:g}" for mpp in rows])
    print("| µm/px | agreement, ALL fields unseen | wbc | rbc | platelet | ms per image |\n|---|---|---|---|---|---|")
    for (mpp, row), time_ms in zip(rows.items(), times, strict=True):
        print(f"| {mpp:g} | {row} | {time_ms:.0f} |")


def milliseconds(runs: list[Path], n: int = 40) -> list[float]:
    """Median time per BCCD image of each model, without loading; models alternate, so that all share the same load."""
    from blastdet.datasets.formats.registry import read
    from blastdet.inference.model import Options, load

    loaded = [load(run / "weights", "cpu") for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    for sample in list(read(DATA / "bccd", "bccd"))[:n]:
        for models, taken in zip(loaded, times, strict=True):
            start = time.perf_counter()
            models.analyze(sample.path, Options(mpp=sample.mpp))
            taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken[5:]) for taken in times]


if __name__ == "__main__":
    main()
