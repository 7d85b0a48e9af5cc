"""AP50 of white cells with the tiling of blastdet and with SAHI: same weights, same downsampled pixels.

    python benchmarks/tiling.py [--films 10]

Images: the test split of BCCD in mosaics of 4 x 4 (the seams cut no labelled cell, but show half cells), and synthetic
images of 2592 x 1944. SAHI gets each image at the µm/px of the model, with slices of 512 pixels, an overlap of 0.2, and
the shipped weights in a model of ultralytics (see speed.py, which also installs SAHI).

Needs BCCD (BLASTDET_DATA/bccd). This evaluates on the test split of BCCD: do not choose anything by the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from speed import BCCD_MPP, DATA, FILM_MPP, MODEL, MODEL_MPP, PEERS, RUNS, SCRIPTS, child, install

from blastdet.datasets.formats.registry import read
from blastdet.imaging.io import read_image, write_image

SIDE = 4  # images along each side of a mosaic
CATEGORIES = [{"id": 1, "name": "wbc"}, {"id": 2, "name": "rbc"}, {"id": 3, "name": "platelet"}]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=10, help="number of synthetic images")
    asked = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    install()
    sets = {
        "BCCD test, mosaics": (mosaics(RUNS / "mosaics"), BCCD_MPP),
        "synthetic images": (films(RUNS / "films", asked.films), FILM_MPP),
    }
    kept: dict[str, Any] = {}
    print("| images | cells | blastdet | SAHI | seconds of SAHI |\n|---|---|---|---|---|")
    for name, (truth, mpp) in sets.items():
        mine, (theirs, seconds) = ours(truth, mpp), sahi(truth, mpp)
        rows = white_cells(truth, mine, theirs)
        kept[name] = {"blastdet": rows[0], "sahi": rows[1], "sahi_seconds": seconds}
        figures = [f"{row['AP50']:.3f} [{row['AP50_low']:.3f}, {row['AP50_high']:.3f}]" for row in rows]
        print(f"| {name} | {rows[0]['n_truth']} | {' | '.join(figures)} | {seconds:.0f} |")
    (RUNS / "tiling.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def mosaics(folder: Path) -> Path:
    """The test split of BCCD, sixteen images in each mosaic; returns the COCO file."""
    samples = list(read(DATA / "bccd").with_split("test").samples)
    width, height = samples[0].size_wh
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    folder.mkdir(exist_ok=True)
    for start in range(0, len(samples), SIDE * SIDE):
        some = samples[start : start + SIDE * SIDE]
        rows = -(-len(some) // SIDE)
        canvas = np.full((rows * height, SIDE * width, 3), 235, np.uint8)
        number = len(images) + 1
        for place, sample in enumerate(some):
            x, y = place % SIDE * width, place // SIDE * height
            canvas[y : y + height, x : x + width] = read_image(sample.path)
            assert sample.truth is not None
            for (x1, y1, x2, y2), label in zip(sample.truth.boxes_xyxy.tolist(), sample.truth.label, strict=True):
                row = {"id": len(boxes) + 1, "image_id": number, "category_id": int(label), "iscrowd": 0}
                boxes.append({**row, "bbox": [x1 + x, y1 + y, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
        name = f"mosaic-{number}.png"
        write_image(folder / name, canvas)
        images.append({"id": number, "file_name": name, "width": canvas.shape[1], "height": canvas.shape[0]})
    document = {"images": images, "annotations": boxes, "categories": CATEGORIES}
    (folder / "truth.json").write_text(json.dumps(document), encoding="utf-8")
    return folder / "truth.json"


def films(folder: Path, n: int) -> Path:
    """Synthetic images, with their truth as COCO."""
    if not folder.is_dir():
        words = ["synth", str(folder), "--size", "2592x1944", "--mpp", f"{FILM_MPP}", "--n", f"{n}", "--seed", "21"]
        blastdet(*words, "--palette", "random", "--vary")
    return detector_only(folder / "truth.json")


def ours(truth: Path, mpp: float) -> Path:
    """COCO file of the detections of blastdet."""
    out = truth.parent.with_name(f"{truth.parent.name}-blastdet")
    words = ["--mpp", f"{mpp}", "--format", "coco", "--min-score", "0.01", "--device", "cpu"]
    paths = [str(truth.parent / image["file_name"]) for image in listed(truth)]
    blastdet("detect", *paths, "--out", str(out), *words)
    return detector_only(out / "detections.coco.json")


def detector_only(file: Path) -> Path:
    """A COCO file without the classes of the second stage: blasts and uncertain cells become white cells."""
    document = json.loads(file.read_text(encoding="utf-8"))
    names = {row["id"]: row["name"] for row in document["categories"]}
    ids = {row["name"]: row["id"] for row in CATEGORIES} | {"blast": 1, "unsure": 1}
    annotations = [{**row, "category_id": ids[names[row["category_id"]]]} for row in document["annotations"]]
    target = file.with_name("white-cells.json")
    target.write_text(json.dumps({**document, "annotations": annotations, "categories": CATEGORIES}), encoding="utf-8")
    return target


def sahi(truth: Path, mpp: float) -> tuple[Path, float]:
    """COCO results of SAHI, and its seconds."""
    jobs = [
        {"image_id": image["id"], "path": str(truth.parent / image["file_name"]), "scale": mpp / MODEL_MPP}
        for image in listed(truth)
    ]
    asked, answer = truth.with_name("sahi-jobs.json"), truth.with_name("sahi.json")
    asked.write_text(json.dumps(jobs), encoding="utf-8")
    command = [str(PEERS / "bin/python"), str(SCRIPTS / "sahi_boxes.py"), str(MODEL), str(asked)]
    printed, seconds, _ = child(command, truth.parent)
    rows = [{"id": i, **row} for i, row in enumerate(json.loads(printed.splitlines()[-1]), start=1)]
    document = {"images": listed(truth), "annotations": rows, "categories": CATEGORIES}
    answer.write_text(json.dumps(document), encoding="utf-8")
    return answer, seconds


def listed(truth: Path) -> list[dict[str, Any]]:
    """Images of a COCO file."""
    images: list[dict[str, Any]] = json.loads(truth.read_text(encoding="utf-8"))["images"]
    return images


def white_cells(truth: Path, *detections: Path) -> list[dict[str, Any]]:
    """Average precision of the class wbc from `blastdet evaluate`, for each file of detections."""
    report = truth.parent / "report"
    words = [word for file in detections for word in ("--detections", str(file))]
    blastdet("evaluate", "--data", str(truth), "--split", "all", *words, "--out", str(report), "--overwrite")
    evaluations = json.loads((report / "metrics.json").read_text(encoding="utf-8"))["evaluations"]
    return [
        next(row for row in evaluation["average_precision"]["rows"] if row["class"] == "wbc")
        for evaluation in evaluations
    ]


def blastdet(*words: str) -> None:
    """Run blastdet without showing its output."""
    subprocess.run([sys.executable, "-m", "blastdet", *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
