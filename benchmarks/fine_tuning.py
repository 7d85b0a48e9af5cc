"""A few labelled images of a laboratory: fine-tuned, trained from scratch, and the model as it is.

    blastdet train configs/default.yaml --set "leave_out=[bccd,truth.json]" --set epochs=6 --out runs/without-bccd
    python benchmarks/fine_tuning.py runs/without-bccd/weights [RUNS [IMAGES,IMAGES,… [WAY,WAY,…]]]

START is a detector that was trained without BCCD. It is fine-tuned on 20, 50 and 200 images of BCCD's training split (a
fifth of them to choose the epoch by), as configs/fine-tune.yaml says and with other settings; beside it, the same
network is trained on the same images from random weights, twice as long.
AP50 is that on BCCD's validation split. The test split stays untouched.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

import blastdet
from blastdet.core.types import Dataset

DATA = Path(os.environ.get("BLASTDET_DATA", Path(__file__).resolve().parents[2] / "shared/data"))
BACKBONE = ",".join(f"model.{layer}." for layer in range(9))
WAYS = {
    "fine-tuned": ("configs/fine-tune.yaml", ()),
    "lr 0.0005": ("configs/fine-tune.yaml", ("lr=0.0005",)),
    "lr 0.002": ("configs/fine-tune.yaml", ("lr=0.002",)),
    "backbone frozen": ("configs/fine-tune.yaml", ("lr=0.002", f"freeze=[{BACKBONE}]")),
    "from scratch": ("configs/default.yaml", ("epochs=20", "epoch_samples=480", "val_every=4")),
}


def main(
    start: Path,
    runs: Path = Path("runs/fine-tuning"),
    images: str = "20,50,200",
    ways: str = "fine-tuned,from scratch",
) -> None:
    """Print a Markdown table."""
    data = blastdet.read_dataset(DATA / "bccd")
    print("| images | way | wbc | rbc | platelet | minutes |\n|---|---|---|---|---|---|")
    print(f"| 0 | as it is | {measured(start)} | – |", flush=True)
    for way in ways.split(","):
        config, words = WAYS[way]
        for n in map(int, images.split(",")):
            table = split_of(data, n, runs / f"{n}.csv")
            run = runs / f"{way.replace(' ', '-')}-{n}"
            began = time.monotonic()
            settings = [*words, f"data.0.split={table}", "seed=0" if way == "from scratch" else f"init={start}"]
            done = (run / "weights/card.json").is_file()
            weights = run / "weights" if done else train(config, run, settings)
            took = "–" if done else f"{(time.monotonic() - began) / 60:.1f}"
            print(f"| {n} | {way} | {measured(weights)} | {took} |", flush=True)


def train(config: str, run: Path, settings: list[str]) -> Path:
    """One training on BCCD."""
    options = blastdet.TrainOptions(progress=quiet())
    return blastdet.train(config, out=run, data=DATA / "bccd", set=settings, options=options)


def quiet() -> object:
    """Progress that prints nothing."""
    from blastdet.training.loop.session import Progress

    return Progress(say=lambda line: None)


def split_of(data: Dataset, n: int, path: Path) -> Path:
    """A table of `n` images of the training split, drawn by seed; every fifth is to validate on, the rest to test."""
    names = sorted(sample.path.name for sample in data if sample.split == "train")
    drawn = np.random.default_rng(0).permutation(names)[:n]
    side = {name: "val" if number % 5 == 4 else "train" for number, name in enumerate(drawn)}
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{sample.path.name},{side.get(sample.path.name, 'test')}" for sample in data]
    path.write_text("\n".join(["image,split", *rows]) + "\n", encoding="utf-8")
    return path.resolve()


def measured(weights: Path) -> str:
    """AP50 of each class with its interval, on the validation split."""
    found = blastdet.evaluate(blastdet.read_dataset(DATA / "bccd", split="val"), weights)
    of = {str(row["class"]): row for row in found.summary}
    names = ("wbc", "rbc", "platelet")
    return " | ".join("{AP50:.3f} [{AP50_lower:.3f}, {AP50_upper:.3f}]".format(**of[name]) for name in names)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(Path, sys.argv[2:3]), *sys.argv[3:5])
