"""Train each detector on BCCD with the same settings, evaluate it on the test split, and print one table.

    python benchmarks/detectors.py [--epochs 100] [--only yolov5n] [--runs runs/detectors] [--device auto] [--jobs 1]

Settings are those of configs/bccd-yolov5n.yaml. Only the model differs, and the learning rate of Faster R-CNN. Finished
trainings are kept, and interrupted ones are resumed. Weights are random at the start. Detectors that were not evaluated
before are evaluated on the test split: do not choose anything by the result. `--train-only` trains without evaluation;
validation figures are in the card of each run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BLASTDET_DATA", REPO / "../shared/data")) / "bccd"
CONFIG = "configs/bccd-yolov5n.yaml"

DETECTORS: dict[str, tuple[str, list[str]]] = {
    "yolov5n": ("YOLOv5u-n", ["model=yolov5n"]),
    "yolov5s": ("YOLOv5u-s", ["model=yolov5s"]),
    "yolov4s": ("YOLOv4u-s", ["model=yolov4s"]),
    "yolo26n": ("YOLO26n", ["model=yolo26n"]),
    "fasterrcnn_mobilenet": ("Faster R-CNN, MobileNetV3-FPN", ["model=fasterrcnn_mobilenet", "lr=0.0005"]),
    "fasterrcnn_mobilenet-types": (
        "the same, backbone pretrained on the cell types of PBC",
        ["model=fasterrcnn_mobilenet", "lr=0.0005", f"init={REPO / 'runs/pbc-types/best.pt'}"],
    ),
    "yolov5p2n": ("YOLOv5u-p2n, as shipped", ["model=yolov5p2n"]),
    "yolov5p2n-seed1": ("the same, seed 1", ["model=yolov5p2n", "seed=1"]),
    "yolov5p2n-seed2": ("the same, seed 2", ["model=yolov5p2n", "seed=2"]),
}
"""Name of the run -> name in the table, and its settings."""

CLASSES = ("wbc", "rbc", "platelet")


def main() -> None:
    """Train, evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--only", choices=DETECTORS, action="append")
    parser.add_argument("--runs", type=Path, default=REPO / "runs/detectors")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="number of trainings at the same time")
    parser.add_argument("--train-only", action="store_true", help="do not evaluate on the test split")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    with ThreadPoolExecutor(asked.jobs) as pool:
        settings = [f"epochs={asked.epochs}", *asked.settings]
        list(pool.map(lambda m: train(m, asked.runs.resolve() / m, asked.device, settings), asked.only or DETECTORS))
    if asked.train_only:
        return
    done = [model for model in DETECTORS if (asked.runs / model / "weights/card.json").is_file()]
    rows = [measure(model, asked.runs.resolve() / model) for model in done]
    table = as_markdown(rows)
    print(table)
    (asked.runs / "detectors.md").write_text(table + "\n", encoding="utf-8")
    (asked.runs / "detectors.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def train(name: str, run: Path, device: str, settings: list[str]) -> None:
    """Train one detector, or resume its training. A finished training is kept."""
    if (run / "weights/card.json").is_file():
        return
    resume = ["--resume"] if (run / "last.pt").is_file() else []
    chosen = [f"name=bccd-{name}", *DETECTORS[name][1], *settings]
    words = [word for setting in chosen for word in ("--set", setting)]
    blastdet("train", CONFIG, "--out", str(run), "--device", device, *words, *resume)


def measure(model: str, run: Path) -> dict[str, object]:
    """Test accuracy, size, operations and speed of one trained detector."""
    report = run / "report/metrics.json"
    if not report.is_file():
        words = ["--weights", str(run / "weights"), "--out", str(run / "report"), "--overwrite"]
        blastdet("evaluate", "--data", str(DATA), *words)
    evaluation = json.loads(report.read_text(encoding="utf-8"))["evaluations"][0]
    training = json.loads((run / "weights/card.json").read_text(encoding="utf-8"))["training"]
    return {
        "detector": DETECTORS[model][0],
        "accuracy": evaluation["average_precision"]["rows"],
        "epochs": training["config"]["epochs"],
        "minutes": training["duration_s"] / 60,
        "device": training["device"],
        **size(run),
        "cpu_ms": cpu_ms(run),
    }


def size(run: Path) -> dict[str, float]:
    """Million parameters, and GFLOPs (two for each multiply-add) for a BCCD image at the µm/px of the model."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from blastdet.core.model_card import read_card
    from blastdet.datasets.formats.registry import read
    from blastdet.inference.scale import scaled_size
    from blastdet.models.onnx_detector import padded_size
    from blastdet.training.config_file import read_config
    from blastdet.training.detection.train import build

    card, sample = read_card(run / "weights"), read(DATA).samples[0]
    assert sample.mpp is not None
    width, height = scaled_size(sample.size_wh, sample.mpp, card.mpp, sample.path)
    module = build(read_config(run / "config.yaml")).module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.rand(1, 3, *padded_size((height, width), card.input.stride)))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {"parameters_m": parameters / 1e6, "gflops": counter.get_total_flops() / 1e9}


def cpu_ms(run: Path, n_images: int = 30) -> float:
    """Median milliseconds from the file of a 640 x 480 image to its cells, on the CPU of this machine."""
    from blastdet.datasets.formats.registry import read
    from blastdet.inference.model import Options, load

    models, times = load(run / "weights", "cpu"), []
    for sample in read(DATA).with_split("test").samples[: n_images + 3]:
        start = time.perf_counter()
        models.analyze(sample.path, Options(mpp=sample.mpp))
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])  # without the warm-up


def as_markdown(rows: list[dict]) -> str:  # type: ignore[type-arg]
    """The table of docs/results.md."""
    head = ["detector", *(f"AP50 {name}" for name in CLASSES), "mAP50", "mAP50:95"]
    head += ["parameters", "GFLOPs", "CPU ms", "training"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        by_class = {entry["class"]: entry for entry in row["accuracy"]}
        cells = [figure(by_class[name], "AP50") for name in CLASSES]
        cells += [figure(by_class["all"], "AP50"), figure(by_class["all"], "AP")]
        cells += [f"{row['parameters_m']:.1f} M", f"{row['gflops']:.1f}", f"{row['cpu_ms']:.0f}"]
        cells.append(f"{row['minutes']:.0f} min, {row['epochs']} epochs, {row['device']}")
        lines.append(f"| {' | '.join([row['detector'], *cells])} |")
    return "\n".join(lines)


def figure(row: dict, name: str) -> str:  # type: ignore[type-arg]
    """A value with its interval."""
    return f"{row[name]:.3f} [{row[name + '_low']:.3f}, {row[name + '_high']:.3f}]"


def blastdet(*words: str) -> None:
    """Run blastdet and show its output."""
    subprocess.run([sys.executable, "-m", "blastdet", *words], cwd=REPO, check=True)


if __name__ == "__main__":
    main()
