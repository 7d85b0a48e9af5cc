"""Time and memory of `blastdet detect` over area and over the number of files: python benchmarks/linearity.py

Whole processes. Area: tiled TIFF drawn by code at 0.1 µm/px, 0.3 to 1,000 megapixels. Files: pictures of BCCD, 1 to
1,000 (copies beyond 364), default formats. Prints the slope of each curve in doubly logarithmic axes over its upper
half (1: linear), writes docs/images/linearity.png and runs/bench/linearity.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from speed import BCCD_MPP, DATA, FILM_MPP, REPO, RUNS, child, ours, tiff

PLOT = REPO / "docs/images/linearity.png"


def main() -> None:
    """Measure, plot, print."""
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
        print(f"slope over the upper half, {what}: {slope(points):.2f}")
    draw(curves)


def over_area(folder: Path, megapixels: float) -> tuple[float, float, float]:
    """Megapixels, seconds, MB of one tiled TIFF."""
    path, _ = tiff(megapixels, FILM_MPP)
    return megapixels, *measured(ours(path, FILM_MPP, "json"), folder)


def over_files(folder: Path, number: int) -> tuple[float, float, float]:
    """Files, seconds, MB of a folder of pictures."""
    pictures = folder / f"files-{number}"
    pictures.mkdir()
    for i, path in enumerate(islice(cycle(sorted((DATA / "bccd").rglob("*.jpg"))), number)):
        shutil.copy(path, pictures / f"{i:04d}.jpg")
    return number, *measured(ours(pictures, BCCD_MPP), folder)


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and MB of a whole process."""
    out = folder / "out"
    _, seconds, memory = child([*command, str(out)], folder)
    shutil.rmtree(out)
    return seconds, memory


def slope(points: list[tuple[float, float, float]]) -> float:
    """Exponent of the growth of time over the larger half of the points."""
    n, seconds, _ = np.log(np.array(points[len(points) // 2 :])).T
    return float(np.polyfit(n, seconds, 1)[0])


def draw(curves: dict[str, list[tuple[float, float, float]]]) -> None:
    """Time and memory over area and over files."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex="col", sharey="row", layout="constrained")
    for column, (what, points) in enumerate(curves.items()):
        n, seconds, memory = np.array(points).T
        axes[0, column].loglog(n, seconds, "o-", color="#005ac8", label="measured")
        axes[0, column].loglog(n, seconds[-1] * n / n[-1], ":", color="#808080", label="proportional")
        axes[1, column].semilogx(n, memory, "o-", color="#005ac8")
        axes[1, column].set_xlabel(what)
        axes[1, column].set_ylim(0, 1.15 * max(memory.max(), 1000))
        for row in axes[:, column]:
            row.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds, whole process")
    axes[1, 0].set_ylabel("largest resident set, MB")
    axes[0, 0].set_title("one tiled TIFF at 0.1 µm/px")
    axes[0, 1].set_title("pictures of 640 x 480")
    axes[0, 0].legend()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    main()
