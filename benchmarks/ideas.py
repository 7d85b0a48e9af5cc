"""What each idea brings in a laboratory left out.

    python benchmarks/ideas.py RUNS CONFIG [IDEA,IDEA,… [LABORATORY,… [SEEDS]]]

Every idea is one change of CONFIG (configs/differential.yaml), trained for a few epochs without each laboratory that
has blasts and other cells, with one or more seeds. RUNS/ideas.jsonl gets a line for each training, and trainings that
are there are not repeated. The table shows AUROC of blast: the network's own probability, a feature bank of nearest
neighbours, and features relative to the other cells of the smear.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from blastdet.training.classification.trial import run_trial
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import read_any
from blastdet.training.loop.session import Progress

SHORT = (
    "model=residual-light", "epochs=4", "epoch_samples=6144", "warmup_epochs=0.5",
    "augment.stain=1", "augment.grey=0", "augment.isolate=0.15",
)  # fmt: skip
"""A short training, without what is now in CONFIG because it was of use."""
SHIPPED = ("model=residual-light-instance", "augment.stain=2", "augment.grey=0.3")
IDEAS = {
    "baseline": (),
    "two more convolutions": ("model=residual",),
    "batch norm": ("model=residual-light-batch",),
    "instance norm": ("model=residual-light-instance",),
    "stain x 2": ("augment.stain=2",),
    "grey": ("augment.grey=0.3",),
    "isolated": ("augment.isolate=0.4",),
    "as shipped": SHIPPED,
    "finer: 0.15 µm/px and 128 px": (*SHIPPED, "mpp=0.15", "side=128"),
    "coarser: 0.3 µm/px and 64 px": (*SHIPPED, "mpp=0.3", "side=64"),
    "as shipped + two more convolutions": (*SHIPPED, "model=residual-instance"),
    "EfficientNet-Lite0": ("model=timm/tf_efficientnet_lite0",),
    "EfficientNet-Lite0 from ImageNet": ("model=timm/tf_efficientnet_lite0", "init=${LITE0}"),
    "distilled from two more convolutions": (*SHIPPED, "teacher=as shipped + two more convolutions"),
}
TEACHER = "teacher="
LABORATORIES = ("jhu", "all_fields", "cnmc")


def main(runs: Path, config: Path, ideas: str = "", laboratories: str = "", seeds: int = 1) -> None:
    """Run what is missing, then print the table."""
    log = runs / "ideas.jsonl"
    runs.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for idea in ideas.split(",") if ideas else IDEAS:
            for laboratory in laboratories.split(",") if laboratories else LABORATORIES:
                if (idea, laboratory, seed) not in {key(row) for row in read(log)}:
                    row = trial(runs, config, (idea, laboratory, seed))
                    with log.open("a") as file:
                        print(json.dumps(row), file=file)
    table(read(log))


def trial(runs: Path, config: Path, what: tuple[str, str, int]) -> dict[str, object]:
    """One training."""
    idea, laboratory, seed = what
    words = (f"{TEACHER}{folder_of(runs, word.removeprefix(TEACHER), laboratory, seed)}" if TEACHER in word else word
             for word in IDEAS[idea])  # fmt: skip
    settings = read_any(config, (*SHORT, *words, f"seed={seed}"))
    assert isinstance(settings, ClassifyConfig)
    folder = folder_of(runs, idea, laboratory, seed)
    shutil.rmtree(folder, ignore_errors=True)  # of a trial that was stopped
    done = run_trial(settings, laboratory, Path.cwd(), folder, Progress(say=lambda line: None))
    print(f"{idea}, {laboratory}, seed {seed}: {done.aurocs()}, {done.seconds:.0f} s", flush=True)
    return {"idea": idea, "laboratory": laboratory, "seed": seed, "seconds": round(done.seconds), **done.aurocs()}


def folder_of(runs: Path, idea: str, laboratory: str, seed: int) -> Path:
    """The run folder of a trial."""
    return runs / f"{idea}-{laboratory}-{seed}".replace(" ", "-")


def key(row: dict[str, object]) -> tuple[object, object, object]:
    """What a line of the log is about."""
    return row["idea"], row["laboratory"], row["seed"]


def read(log: Path) -> list[dict[str, object]]:
    """Lines of the log."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def table(rows: list[dict[str, object]]) -> None:
    """Print means over seeds."""
    print("| idea | seeds | " + " | ".join(LABORATORIES) + " | mean | bank | relative | s |\n" + "|---" * 8 + "|")
    for idea in dict.fromkeys(row["idea"] for row in rows):
        mine = [row for row in rows if row["idea"] == idea]
        of = [[row["network"] for row in mine if row["laboratory"] == one] for one in LABORATORIES]
        if not all(of):
            continue
        means = [np.mean(values) for values in of]
        rest = [np.mean([row[name] for row in mine]) for name in ("bank", "relative")]
        cells = [f"{value:.3f}" for value in (*means, np.mean(means), *rest)]
        seconds = np.mean([row["seconds"] for row in mine])
        print(f"| {idea} | {len(of[0])} | " + " | ".join(cells) + f" | {seconds:.0f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5], *map(int, sys.argv[5:6]))
