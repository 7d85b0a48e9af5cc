"""The second stage in laboratories that its training left out: python benchmarks/differential.py RUN [WEIGHTS]

RUN is the folder of `blastdet train configs/differential.yaml --set folds=laboratories --out RUN`: below it lie one
model for each laboratory, trained without it. Threshold, calibration and error rates for a laboratory come from the
others, so nothing is chosen on the laboratory that is tested. Rows "groups held out" are RUN itself on patients and
clusters that it was not trained on. Intervals (95 %) are over patients, subjects or clusters.

The surest errors of each laboratory are drawn in RUN/errors. With WEIGHTS, the calibrated weights of RUN: a second
table for these groups, at the threshold that is shipped (the best epoch was chosen on them).

    python benchmarks/differential.py --held-out configs/differential.yaml weights/differential runs/errors

prints that table alone, for which the crops are enough, and draws the errors. It also measures negative controls: crops
that do not show the cell, with its label. An AUROC of 0.5 shows that nothing but the cell gives the class away.

    blastdet crops $BLASTDET_DATA/jhu_acute runs/controls/covered --weights default --colour canonical \
        --negative-control covered
    blastdet train configs/differential.yaml --data runs/controls/covered --set epochs=6 --out runs/control
    python benchmarks/differential.py --held-out runs/control/config.yaml runs/control/weights
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from blastdet.core.model_card import read_card
from blastdet.training.classification.cross_fitting import cross_fit
from blastdet.training.classification.laboratory_report import (
    ErrorCell,
    Figure,
    LaboratoryFigures,
    by_laboratory,
    draw_errors,
    on_validation,
    surest_errors,
    verdicts_of,
)
from blastdet.training.classification.out_of_fold import FOLDS, predict_to_calibrate, predict_validation
from blastdet.training.loop.run_folder import CONFIG

HEAD = (
    "laboratory", "cells", "blasts", "groups", "AUROC", "sensitivity", "specificity", "balanced accuracy",
    "other cells called blast", "unsure", "unlike training", "calibration error", "macro F1 of types", "interval holds",
)  # fmt: skip


def main(run: Path, weights: Path | None = None) -> None:
    """Print Markdown tables, one row for each laboratory."""
    runs = sorted(path.parent for path in (run / FOLDS).glob("*/config.yaml"))
    predicted = predict_to_calibrate(run, runs, Path.cwd())
    table(by_laboratory(predicted))
    draw(surest_errors(predicted, cross_fit(predicted)), run / "errors")
    if weights:
        held_out(run / CONFIG, weights)


def held_out(config: Path, weights: Path, errors: Path | None = None) -> None:
    """Groups held out of a training, at the threshold of its weights."""
    predicted, card = predict_validation(config, Path.cwd(), weights), read_card(weights)
    table(on_validation(predicted, card))
    if errors:
        draw(surest_errors(predicted, verdicts_of(predicted, card)), errors)


def draw(errors: dict[str, list[ErrorCell]], folder: Path) -> None:
    """A sheet for each laboratory."""
    for name, cells in errors.items():
        if cells:
            draw_errors(cells, folder / f"{name.replace(', ', '-').replace(' ', '-')}.png")


def table(rows: Sequence[LaboratoryFigures]) -> None:
    """Print a table."""
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for row in rows:
        held, counted, withheld = row.coverage
        cells = [
            row.laboratory, row.cells, row.blasts, row.clusters, shown(row.auroc), shown(row.sensitivity),
            shown(row.specificity), f"{row.balanced_accuracy:.2f}", f"{row.false_blasts:.1%}", f"{row.unsure:.1%}",
            f"{row.far:.1%}", f"{row.calibration_error:.2f}", f"{row.macro_f1:.2f}",
            f"{held} of {counted}, {withheld} without",
        ]  # fmt: skip
        print("| " + " | ".join(str(cell).replace("nan%", "–").replace("nan", "–") for cell in cells) + " |")
    print("\nCalled blasts, by type:\n")
    for row in rows:
        if row.false_blasts_of:
            types = ", ".join(f"{name} {k} of {n}" for name, (k, n) in row.false_blasts_of.items())
            print(f"- {row.laboratory}: {types}")
    print(flush=True)


def shown(figure: Figure | None) -> str:
    """A figure with its interval."""
    return "–" if figure is None else "{:.2f} [{:.2f}, {:.2f}]".format(*figure)


if __name__ == "__main__":
    if sys.argv[1] == "--held-out":
        held_out(*map(Path, sys.argv[2:]))
    else:
        main(*map(Path, sys.argv[1:]))
