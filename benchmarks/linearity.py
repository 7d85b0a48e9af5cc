"""Time and memory of `blastdet detect` over area and over the number of files: python benchmarks/linearity.py

Times are of whole processes. Area: synthetic tiled TIFF at 0.1 µm/px, 0.3 to 1,000 megapixels. Files: images of BCCD, 1
to 1,000 (copies beyond 364), default formats. Prints a straight line fitted to each curve and the largest deviation
from it. Writes runs/bench/linearity.png and .json. Needs BCCD (BLASTDET_DATA/bccd). Renders synthetic slides first (10
minutes).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from speed import BCCD_MPP, DATA, FILM_MPP, RUNS, child, ours, tiff

PLOT = RUNS / "linearity.png"


def main() -> None:
    """Measure, plot, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--areas", type=float, nargs="+", default=[0.3, 1, 3, 10, 30, 100, 300, 1000])
    parser.add_argument("--files", type=int, nargs="+", default=[1, 3, 10, 30, 100, 300, 1000])
    asked = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        curves = {
            "megapixels": [over_area(Path(folder), area) for area in asked.areas],
            "files": [over_files(Path(folder), number) for number in asked.files],
        }
    (RUNS / "linearity.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    print("| what | n | s | MB |\n|---|---|---|---|")
    for what, points in curves.items():
        for n, seconds, memory in points:
            print(f"| {what} | {n:g} | {seconds:.2f} | {memory:.0f} |")
        start, each, off = line(points)
        print(f"{what}: {start:.2f} s and {each:.4f} s each; largest deviation {off:.0%}")
    draw(curves)


def over_area(folder: Path, megapixels: float) -> tuple[float, float, float]:
    """Megapixels, seconds, MB of one tiled TIFF."""
    path, _ = tiff(megapixels, FILM_MPP)
    return megapixels, *measured(ours(path, FILM_MPP, "json"), folder)


def over_files(folder: Path, number: int) -> tuple[float, float, float]:
    """Files, seconds, MB of a folder of images."""
    images = folder / f"files-{number}"
    images.mkdir()
    for i, path in enumerate(islice(cycle(sorted((DATA / "bccd").rglob("*.jpg"))), number)):
        shutil.copy(path, images / f"{i:04d}.jpg")
    return number, *measured(ours(images, BCCD_MPP), folder)


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and MB of a whole process."""
    out = folder / "out"
    _, seconds, memory = child([*command, str(out)], folder)
    shutil.rmtree(out)
    return seconds, memory


def line(points: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Intercept and slope in seconds of a fitted line, and the largest relative deviation from it."""
    n, seconds, _ = np.array(points).T
    each, start = np.polyfit(n, seconds, 1, w=1 / seconds)
    return float(start), float(each), float(np.abs((start + each * n) / seconds - 1).max())


def draw(curves: dict[str, list[tuple[float, float, float]]]) -> None:
    """Time and memory over area and over files."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex="col", sharey="row", layout="constrained")
    for column, (what, points) in enumerate(curves.items()):
        n, seconds, memory = np.array(points).T
        axes[0, column].loglog(n, seconds, "o-", color="#005ac8", label="measured")
        start, each, _ = line(points)
        label = f"{start:.2g} s + {1000 * each:.0f} ms each"
        axes[0, column].loglog(n, start + each * n, ":", color="#808080", label=label)
        axes[0, column].legend()
        axes[1, column].semilogx(n, memory, "o-", color="#005ac8")
        axes[1, column].set_xlabel(what)
        axes[1, column].set_ylim(0, 1.15 * max(memory.max(), 1000))
        for row in axes[:, column]:
            row.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds, whole process")
    axes[1, 0].set_ylabel("largest resident set, MB")
    axes[0, 0].set_title("one tiled TIFF at 0.1 µm/px")
    axes[0, 1].set_title("images of 640 x 480")
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    main()
