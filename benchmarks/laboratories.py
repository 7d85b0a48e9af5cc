"""Train without a laboratory, test on it: white-cell AP50 on BCCD, PBC and the hand-boxed ALL fields in turn.

    python benchmarks/laboratories.py [--epochs 12] [--runs runs/laboratories]

Needs the data sets of BLASTDET_DATA and the synthetic films of `make synth-data`. A training that is done is not done
again; one that was cut short is resumed. Prints a table and writes it beside the runs as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BLASTDET_DATA", REPO / "../shared/data"))
BOXES = REPO / "datasets/all_fields_boxes.json"

LABORATORIES: dict[str, list[str]] = {
    "bccd": ["--data", str(DATA / "bccd"), "--split", "all"],
    "pbc_wbc": ["--data", str(DATA / "pbc_wbc"), "--split", "all"],
    "all_fields": ["--data", str(BOXES), "--images", str(DATA / "all_fields"), "--split", "all"],
}
"""Set that is left out -> what its pictures are measured with; nobody of it was seen in training, so all are used."""


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--runs", type=Path, default=REPO / "runs/laboratories")
    parser.add_argument("--only", choices=LABORATORIES, action="append")
    asked = parser.parse_args()
    rows = [measure(name, asked.epochs, asked.runs) for name in asked.only or LABORATORIES]
    print(f"{'left out':<12}{'smears':>8}{'cells':>8}  white-cell AP50 [95 % interval]")
    for row in rows:
        low, high = row["AP50_ci95"]
        print(f"{row['left_out']:<12}{row['smears']:>8}{row['cells']:>8}  {row['AP50']:.3f} [{low:.3f}, {high:.3f}]")
    (asked.runs / "laboratories.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(name: str, epochs: int, runs: Path) -> dict[str, object]:
    """White-cell AP50 on a laboratory, of a model that saw nothing of it."""
    run = runs / name
    if not (run / "weights/card.json").is_file():
        resume = ["--resume"] if (run / "last.pt").is_file() else []
        settings = [f"epochs={epochs}", f"leave_out=[{name}]", f"name=without-{name}", "epoch_samples=960"]
        words = [word for setting in settings for word in ("--set", setting)]
        blastdet("train", "configs/default.yaml", "--out", str(run), *words, *resume)
    report = run / "report"
    blastdet("evaluate", *LABORATORIES[name], "--weights", str(run / "weights"), "--out", str(report))
    figures = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    return {"left_out": name, **white_cells(figures)}


def white_cells(figures: dict) -> dict[str, object]:  # type: ignore[type-arg]
    """What `blastdet evaluate` says of the class wbc."""
    evaluation = figures["evaluations"][0]
    row = next(row for row in evaluation["average_precision"]["rows"] if row["class"] == "wbc")
    interval = [row["AP50_low"], row["AP50_high"]]
    return {
        "smears": evaluation["data"]["n_smears"],
        "cells": row["n_truth"],
        "AP50": row["AP50"],
        "AP50_ci95": interval,
    }


def blastdet(*words: str) -> None:
    """Run the program, its output shown."""
    subprocess.run([sys.executable, "-m", "blastdet", *words], cwd=REPO, check=True)


if __name__ == "__main__":
    main()
