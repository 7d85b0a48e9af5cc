"""What `blastdet adapt` brings on a laboratory that a classifier has not seen: a curve over the number of cells.

    python benchmarks/adaptation.py WEIGHTS CROPS [--cells 0,10,20,50,100] [--seeds 10] [--out curve.json]

WEIGHTS is a classifier that was trained without the laboratory, CROPS the laboratory's folder of `blastdet crops`. By
seed, cells are drawn from a few smears or patients, half of them blasts; the classifier is adapted to them as
`blastdet adapt` does it, and tested on all other smears. Where adapting is refused, the unchanged model is tested. Mean
and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from blastdet.core.card_fields.blast_probability import logit
from blastdet.inference.adaptation.adapted_weights import rejection_rule
from blastdet.inference.adaptation.choosing import EVEN, auroc, choose, figures, refusal
from blastdet.inference.adaptation.fitting import CANDIDATES, LabelledCells
from blastdet.inference.adaptation.reviewed_cells import Reading, read_reviewed
from blastdet.models.classifier import load_classifier
from blastdet.models.detector import load_detector

FIGURES = ("balanced accuracy", "AUROC", "expected by adapt", "unsure", "refused")


def main() -> None:
    """Read, draw, adapt, test, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("crops", type=Path)
    parser.add_argument("--cells", default="0,10,20,50,100")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    classifier = load_classifier(asked.weights)
    cells = read_reviewed(asked.crops, classifier, load_detector("default"), Reading()).cells
    print(f"{len(cells)} cells, {int(cells.is_blast.sum())} blasts, {len(np.unique(cells.smear))} smears")
    print(f"| cells | smears | {' | '.join(FIGURES)} |\n|---|---|{'---|' * len(FIGURES)}")
    table = []
    for n in map(int, asked.cells.split(",")):
        found = [tested(cells, classifier.card, *draw(cells, n, seed)) for seed in range(asked.seeds)]
        columns = {name: np.array([one[name] for one in found if not np.isnan(one[name])]) for name in FIGURES}
        row = {name: [some.mean(), some.std()] if len(some) else None for name, some in columns.items()}
        smears = float(np.mean([one["smears"] for one in found]))
        table.append({"cells": n, "smears": smears, **row})
        shown = ("–" if row[name] is None else "{:.3f} ± {:.3f}".format(*row[name]) for name in FIGURES[:-1])
        print(f"| {n} | {smears:.1f} | {' | '.join(shown)} | {row['refused'][0]:.0%} |", flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def draw(cells: LabelledCells, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `n` reviewed cells, half of them blasts, of as few smears as hold them (three at least); test rows."""
    rng = np.random.default_rng(seed)
    smears = rng.permutation(np.unique(cells.smear))
    for count in range(max(3, n // 10), len(smears)):
        there = np.isin(cells.smear, smears[:count])
        sides = [np.flatnonzero(there & (cells.is_blast == blast)) for blast in (True, False)]
        if min(map(len, sides)) >= n // 2:
            return np.concatenate([rng.permutation(side)[: n // 2] for side in sides]), np.flatnonzero(~there)
    raise SystemExit(f"expected {n} cells in all smears but one, half of them blasts")


def tested(cells: LabelledCells, card, reviewed: np.ndarray, others: np.ndarray) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Figures on the other smears after adapting to the reviewed cells."""
    mine, rest, threshold = cells[reviewed], cells[others], card.thresholds["blast"].value
    candidate, rule, expected, refused = CANDIDATES[0], card.unsure, float("nan"), False
    if len(mine):
        choice = choose(mine)
        metrics = figures(mine, choice, threshold)
        refused = refusal(choice, metrics) is not None
        if not refused:
            candidate, threshold, expected = choice.candidate, EVEN, metrics[0].after
            rule = rejection_rule(mine, choice, card.unsure)
    score = candidate.fit(mine)(rest.logit, rest.features) if len(mine) else rest.logit
    called = score >= logit(threshold)
    unsure = rule.covers(1 / (1 + np.exp(-score)), rest.distance)
    return {
        "balanced accuracy": float((called[rest.is_blast].mean() + 1 - called[~rest.is_blast].mean()) / 2),
        "AUROC": auroc(score, rest.is_blast),
        "expected by adapt": expected,
        "unsure": float(unsure.mean()),
        "refused": float(refused),
        "smears": float(len(np.unique(mine.smear))),
    }


if __name__ == "__main__":
    main()
