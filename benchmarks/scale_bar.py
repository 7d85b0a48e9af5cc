"""Does the burnt-in scale bar of ALL fields give the class of a cell away? Figures of blasts.py with and without it.

    python benchmarks/scale_bar.py [--runs runs/blasts]

After ``benchmarks/blasts.py small --probe``: its answers out of fold, once more for crops and windows that do not touch
the corner of the bar (x from 188, y from 193 px). Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from blasts import (
    CROPS,
    DATA,
    FOLDS,
    REPO,
    WINDOW_UM,
    by_source,
    folds,
    free_place,
    label_of,
    middle,
    pooled,
    read,
    read_table,
    scale_of,
)
from laboratories import BAR_XY

from blastdet.cards import read_card
from blastdet.crop_table import CropRow
from blastdet.crops import window


def main() -> None:
    """Print a line for the classifier and for each probe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=REPO / "runs/blasts")
    runs = parser.parse_args().runs
    root = read(DATA / "all_fields").root
    elsewhere = windows_elsewhere(root)
    tell(runs / "small", CROPS, lambda r: touches(window((r.x1, r.y1, r.x2, r.y2), scale_of(root, r))))
    tell(runs / "small-covered", runs / "covered", lambda row: touches(around(middle(row), scale_of(root, row))))
    tell(runs / "small-elsewhere", runs / "elsewhere", lambda row: touches(elsewhere[row.crop]))


def tell(run: Path, crops: Path, touching: Callable[[CropRow], bool]) -> None:
    """AUROC of the answers out of fold: all, and without what touches the bar."""
    rows = [row for row in read_table(crops / "all_fields") if label_of(row, "blast") in ("blast", "wbc")]
    dealt, columns = folds(read_table(crops / "all_fields"), FOLDS), []
    for k in range(FOLDS):
        mine = [row for row in rows if dealt[row.cluster] == k]
        place = read_card(run / f"fold-{k}/weights").classes.index("blast")
        score = np.load(run / f"fold-{k}/answers.npz")["probability"][:, place]
        truth = np.array([label_of(row, "blast") == "blast" for row in mine])
        columns.append((score, truth, np.array([row.cluster for row in mine]), np.array([touching(r) for r in mine])))
    score, truth, cluster, bar = (np.concatenate(column) for column in zip(*columns, strict=True))
    texts = []
    for kept in (np.ones(len(bar), bool), ~bar):
        figures = pooled(score[kept], score[kept] >= 0.5, truth[kept], cluster[kept])["AUROC"]
        texts.append("{:.3f} [{:.3f}, {:.3f}]".format(*figures))
    print(f"{run.name}: AUROC {texts[0]} of {len(bar)}; without {bar.sum()} that touch the bar {texts[1]}")


def windows_elsewhere(root: Path) -> dict[str, tuple[float, float, float, float]]:
    """Windows of the probe, by crop: drawn once more with its seed."""
    rng, found = np.random.default_rng(0), {}
    for mine in by_source(read_table(CROPS / "all_fields")).values():
        mpp = scale_of(root, mine[0])
        for row in mine:
            place = free_place(mine, (224, 224), mpp, rng)
            if place is not None:
                found[row.crop] = around(place, mpp)
    return found


def around(place: np.ndarray, mpp: tuple[float, float]) -> tuple[float, float, float, float]:
    """The window of a probe, in pixels."""
    x, y = place
    return (
        x - WINDOW_UM / 2 / mpp[0],
        y - WINDOW_UM / 2 / mpp[1],
        x + WINDOW_UM / 2 / mpp[0],
        y + WINDOW_UM / 2 / mpp[1],
    )


def touches(place: tuple[float, float, float, float]) -> bool:
    """Whether a window reaches into the corner of the bar."""
    return place[2] > BAR_XY[0] and place[3] > BAR_XY[1]


if __name__ == "__main__":
    main()
