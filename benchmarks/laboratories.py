"""Leave one laboratory out of training and test on it: white-cell AP50 on BCCD, PBC and the hand-boxed ALL fields.

    python benchmarks/laboratories.py [--epochs 12] [--runs runs/laboratories] [--only NAME] [--restained 60]
    python benchmarks/laboratories.py --detector yolov5n --detector yolov5s --set mpp=0.4 --set crop=128 [--jobs 2]
    python benchmarks/laboratories.py --develop all_fields --set mpp=0.4 --set crop=128 --runs runs/coarser

Needs the datasets in BLASTDET_DATA and the synthetic images of `make films`. Finished trainings and measurements are
kept, and interrupted trainings are resumed. Runs are in RUNS/DETECTOR/LEFT_OUT. Prints a table, and writes it as JSON
to RUNS.

The hand-boxed fields, and all of BCCD and PBC here, are test data: do not choose anything by them. To choose settings,
use `--develop`: it compares the model that left `all_fields` out with the shipped model, which was trained on them, on
160 other fields (none shares a group or cluster with a hand-boxed field). The result is the agreement of two models,
not average precision against labels by people.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from detectors import DETECTORS, figure

REPO = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BLASTDET_DATA", REPO / "../shared/data"))
BOXES = REPO / "datasets/all_fields_boxes.json"
CONFIG = REPO / "configs/default.yaml"
BAR_XY = (188, 193)  # top left corner of the printed scale bar, which extends to the corner of the image

LABORATORIES: dict[str, list[str]] = {
    "bccd": ["--data", str(DATA / "bccd"), "--split", "all"],
    "pbc_wbc": ["--data", str(DATA / "pbc_wbc"), "--split", "all"],
    "all_fields": ["--data", str(BOXES), "--images", str(DATA / "all_fields"), "--split", "all"],
}
"""Dataset that is left out of training -> options of `blastdet evaluate`. All its images are used for testing."""


def main() -> None:
    """Train, evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--runs", type=Path, default=REPO / "runs/laboratories")
    parser.add_argument("--only", choices=LABORATORIES, action="append")
    parser.add_argument("--detector", choices=DETECTORS, action="append", help="see benchmarks/detectors.py; yolov5p2n")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="number of trainings at the same time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--develop", choices=["all_fields"], help="measure agreement with the shipped model instead")
    parser.add_argument("--restained", type=int, default=0, metavar="N", help="also measure on N images, restained")
    asked = parser.parse_args()
    measured_with = {asked.develop: agreed_boxes(asked.runs / "agreed.json")} if asked.develop else LABORATORIES
    names = [name for name in measured_with if name in (asked.only or measured_with)]

    def row(of: tuple[str, str]) -> dict[str, object]:
        detector, name = of
        run = asked.runs / detector / name
        train(name, run, asked.device, [*DETECTORS[detector][1], f"epochs={asked.epochs}", *asked.settings])
        found = white_cells(measure(run, measured_with[name]))
        if asked.restained:
            found["restained"] = restained_figures(name, run, asked.restained)
        return {"detector": detector, "left_out": name, **found}

    with ThreadPoolExecutor(asked.jobs) as pool:
        rows = list(pool.map(row, itertools.product(asked.detector or ["yolov5p2n"], names)))
    what = "AP50-like agreement" if asked.develop else "white-cell AP50"
    print(f"| detector | left out | images | cells | {what} | restained |\n|---|---|---|---|---|---|")
    for entry in rows:
        cells = [DETECTORS[str(entry["detector"])][0], *(str(entry[k]) for k in ("left_out", "smears", "cells"))]
        print(f"| {' | '.join([*cells, figure(entry, 'AP50'), str(entry.get('restained', '–'))])} |")
    table = "agreement.json" if asked.develop else "laboratories.json"
    (asked.runs / table).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def train(name: str, run: Path, device: str, settings: list[str]) -> None:
    """Train the shipped configuration, with fewer samples per epoch, without one laboratory."""
    if (run / "weights/card.json").is_file():
        return
    resume = ["--resume"] if (run / "last.pt").is_file() else []
    short = [f"leave_out=[{name}]", f"name=without-{name}", "epoch_samples=960", *settings]
    words = [word for setting in short for word in ("--set", setting)]
    blastdet("train", str(CONFIG), "--out", str(run.resolve()), "--device", device, *words, *resume)


def measure(run: Path, data: list[str]) -> dict:  # type: ignore[type-arg]
    """Contents of the ``metrics.json`` that `blastdet evaluate` writes for the model of a run."""
    report = run / "report"
    if not (report / "metrics.json").is_file():
        blastdet("evaluate", *data, "--weights", str(run / "weights"), "--out", str(report), "--overwrite")
    return json.loads((report / "metrics.json").read_text(encoding="utf-8"))


def white_cells(figures: dict) -> dict[str, object]:  # type: ignore[type-arg]
    """Number of images and cells, and AP50 of the class wbc."""
    evaluation = figures["evaluations"][0]
    row = next(row for row in evaluation["average_precision"]["rows"] if row["class"] == "wbc")
    found = {name: row[name] for name in ("AP50", "AP50_low", "AP50_high")}
    return {"smears": evaluation["data"]["n_smears"], "cells": row["n_truth"], **found}


def restained_figures(name: str, run: Path, n: int) -> str:
    """AP50 and precision on `n` images of a laboratory, by stain of the red cells; see benchmarks/restained.py."""
    from restained import drawn, laboratories
    from restained import measure as by_stain

    rows = by_stain(run / "weights", drawn(laboratories()[name], n), run / "restained")
    return "; ".join(f"{row['stain']} {row['AP50']:.3f}, {row['precision']:.3f}" for row in rows)


def agreed_boxes(path: Path, per_class: int = 40, sure: float = 0.55) -> list[str]:
    """White cells that the shipped model detects on fields that are not hand-boxed, as options for a COCO file.

    Cells with a low score, at the border, or under the scale bar are ignored (``iscrowd``).
    """
    if not path.is_file():
        from blastdet.datasets.formats.registry import read
        from blastdet.datasets.splits import without
        from blastdet.inference.model import Options, load

        dataset = without(read(DATA / "all_fields", "all_fields"), BOXES)
        models = load("default", second_stage=False)  # which would turn cells into another class
        images, annotations = [], []
        for number, sample in enumerate(_one_a_group(dataset, per_class)):
            width, height = sample.size_wh
            cells = models.analyze(sample.path, Options(mpp=sample.mpp, min_score=0.1)).candidates.with_classes("wbc")
            named = {"file_name": dataset.file_name(sample), "group": sample.group, "annotated": ["wbc"]}
            images.append({"id": number, "width": width, "height": height, "mpp": list(sample.mpp), **named})
            for (x1, y1, x2, y2), score in zip(cells.boxes_xyxy.tolist(), cells.score, strict=True):
                cut = min(x1, y1) <= 1 or x2 >= width - 1 or y2 >= height - 1 or (x2 > BAR_XY[0] and y2 > BAR_XY[1])
                row = {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": int(cut or score < sure),
                }
                annotations.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
        document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "wbc"}]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document), encoding="utf-8")
    return ["--data", str(path), "--images", str(DATA / "all_fields"), "--split", "all"]


def _one_a_group(dataset, per_class: int):  # type: ignore[no-untyped-def]
    """One image of each of `per_class` random groups of each class, with a fixed seed."""
    groups: dict[str, dict[str, object]] = {}
    for sample in dataset:
        groups.setdefault(sample.label, {}).setdefault(str(sample.group), sample)
    rng = np.random.default_rng(5)
    for label in sorted(groups):
        names = sorted(groups[label])
        yield from (groups[label][names[i]] for i in rng.permutation(len(names))[:per_class])


def blastdet(*words: str) -> None:
    """Run blastdet and show its output."""
    subprocess.run([sys.executable, "-m", "blastdet", *words], cwd=REPO, check=True)


if __name__ == "__main__":
    main()
