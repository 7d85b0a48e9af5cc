"""Is this white cell a blast? Out-of-fold figures, false blasts of laboratories left out, shortcut probes, and weights.

    python benchmarks/blasts.py [small handmade-svm ...] [--probe] [--left-out] [--subtypes] [--runs runs/blasts]
    python benchmarks/blasts.py small --init runs/pbc-types-small/best.pt [--probe] [--ship]
    python benchmarks/blasts.py small --ship      writes weights/blast and names it in the card of weights/default
    python benchmarks/blasts.py --fields          counts on the hand-boxed fields, with what is shipped
    python benchmarks/blasts.py --erythroblasts   who is taken for one among PBC's validation crops

Crops are cut first where they are missing: white cells as weights/default finds them on ALL fields (without the
hand-boxed ones), PBC and BCCD. Names are those of configs/blasts. Each is trained five times, every time without one
fold of clusters and all that shares a group with it. A training that is done is not done again.

The label of a cell of ALL fields is that of its field: weak, and hematogones (benign) are hard for people, too.
Probes are the same trainings on pictures that show no blast: the cell covered by a disc of one size in a window of
one size; an equal window of the same field without a nucleated cell; and six numbers (mean colour, sharpness) alone.
What a probe finds is a shortcut, not a cell.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from pydantic import BaseModel
from sklearn.metrics import confusion_matrix, roc_auc_score

from blastdet.core.model_card import (
    Calibration,
    Metric,
    RejectionRule,
    Threshold,
    ValidationCounts,
    read_card,
    write_card,
)
from blastdet.core.statistics import percentile_interval
from blastdet.datasets.crop_dataset import CropRow, read_table
from blastdet.datasets.formats.registry import read
from blastdet.datasets.negative_controls import NEGATIVE_CONTROLS
from blastdet.evaluation.intervals import group_weights
from blastdet.evaluation.operating_points import reliability_of
from blastdet.imaging.io import read_image, write_image
from blastdet.models.classifier import load_classifier, prepare, red_among_others
from blastdet.training.classification.calibration import class_weights, operating_threshold, platt, unsure_of
from blastdet.training.classification.crop_samples import BY_SMEAR, folds, label_of, split
from blastdet.training.config import ClassifyConfig, read_any

REPO = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BLASTDET_DATA", REPO / "../shared/data")).resolve()
CONFIGS = REPO / "configs/blasts"
CROPS = REPO / "runs/crops"
BOXES = REPO / "datasets/all_fields_boxes.json"
BAR_XY = (188, 193)  # from here on to the corner of ALL fields the scale bar is printed
SETS: dict[str, tuple[str, list[str]]] = {
    "all_fields": ("all_fields", ["--exclude", str(BOXES), "--mark", f"{BAR_XY[0]},{BAR_XY[1]},224,224"]),
    "pbc": ("pbc_wbc", []),
    "bccd": ("bccd", []),
}
"""Folder of crops -> its data set, and words for ``blastdet crops``."""

FOLDS = 5
LEFT = {"pbc": ["classes=[blast,wbc]"], "bccd": []}  # without PBC nobody shows erythroblasts


def main() -> None:
    """Cut, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="some of configs/blasts, without .yaml")
    parser.add_argument("--runs", type=Path, default=REPO / "runs/blasts")
    parser.add_argument("--probe", action="store_true", help="train the shortcut probes of each, too")
    parser.add_argument("--left-out", action="store_true", help="train without PBC, without BCCD: their false blasts")
    parser.add_argument("--subtypes", action="store_true", help="benign, early, pre, pro: the confusion")
    parser.add_argument("--fields", action="store_true", help="counts on the hand-boxed fields, with what is shipped")
    parser.add_argument("--erythroblasts", action="store_true", help="who is taken for one, with what is shipped")
    parser.add_argument("--picture", action="store_true", help="three crops of each confusion cell, in RUNS/NAME")
    parser.add_argument("--init", type=Path, help="starting weights of each, e.g. runs/pbc-types-small/best.pt")
    parser.add_argument("--ship", action="store_true", help="train on all folds and write weights/blast")
    asked = parser.parse_args()
    if asked.init and asked.left_out:
        parser.error("--left-out: without --init, whose weights may have seen the laboratory that is left out")
    if asked.fields:
        hand_boxed()
        return
    cut(CROPS)
    if asked.erythroblasts:
        erythroblasts()
    rows: dict[str, dict[str, Any]] = {}
    settings = [f"init={asked.init.resolve()}"] if asked.init else []
    for name in asked.names:
        runs = asked.runs / (f"{name}-started" if asked.init else name)
        found = out_of_fold(name, runs, CROPS, settings)
        tell(runs.name, found | cost(runs / "fold-0/weights"), rows)
        for kind in NEGATIVE_CONTROLS if asked.probe else ():
            probe(kind, asked.runs)
            row = out_of_fold(name, asked.runs / f"{runs.name}-{kind}", asked.runs / kind, settings)
            tell(f"{runs.name}, {kind}", row, rows)
        if asked.left_out:
            for left in LEFT:
                false_blasts(left, name, asked.runs / f"{name}-without-{left}")
        if asked.ship:
            ship(name, runs, settings, found)
    if asked.probe:
        tell("six numbers", six_numbers(), rows)
    if asked.picture:
        for name in asked.names:
            confusion_picture(asked.runs / (f"{name}-started" if asked.init else name))
    if asked.subtypes:
        subtypes(asked.runs / "subtype")
    if rows:
        kept = asked.runs / "blasts.json"
        before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        kept.write_text(json.dumps(before | rows, indent=1) + "\n", encoding="utf-8")


def cut(crops: Path, how: Sequence[str] = (), names: Sequence[str] = tuple(SETS)) -> None:
    """White cells of data sets, as the shipped detector finds them, or a probe's windows in their place."""
    for name in names:
        source, words = SETS[name]
        if not (crops / name / "crops.csv").is_file():
            always = ["--weights", "default", "--colour", "canonical"]
            blastdet("crops", str(DATA / source), str(crops / name), *always, *words, *how)


def tell(name: str, row: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """Print a row, and keep it."""
    rows[name] = row
    print(f"{name}: " + "  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)


def shown(value: object) -> str:
    """A figure, a figure with its interval, or a list of figures."""
    if isinstance(value, list) and len(value) == 3:
        return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
    if isinstance(value, tuple):
        return ", ".join(f"{v:.3f}" for v in value)
    return f"{value:.3f}" if isinstance(value, float) else f"{value}"


def trained(name: str, run: Path, crops: Path, settings: list[str]) -> Path:
    """Weights of a run, trained unless that is done; a network whose features are looked at is trained first."""
    if not (run / "weights/card.json").is_file():
        config = CONFIGS / f"{name}.yaml"
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        places = [f"data.{i}.path={crops / folder}" for i, folder in enumerate(SETS)]
        if name == "subtype":
            places = places[:1]
        elif not all((crops / folder).is_dir() for folder in SETS):  # a probe that only fields have room for
            places = [f"data=[{{path: {crops / 'all_fields'}, licence: none}}]", "classes=[blast,wbc]"]
        network = Path(str(content.get("features", "")).removeprefix("runs/blast-")).parts
        if len(network) > 1:
            below = run.parents[1] / run.parent.name.replace(name, network[0]) / run.name
            settings = [*settings, f"features={trained(network[0], below, crops, settings)}"]
        words = [word for setting in (*places, *settings) for word in ("--set", setting)]
        resume = ["--resume"] if (run / "last.pt").is_file() else []
        blastdet("train", str(config), "--out", str(run), *words, *resume)
    return run / "weights"


def judged(weights: Path, crops: Path, rows: list[CropRow]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and distances of crops, kept beside the weights."""
    path = weights.parent / "answers.npz"
    if not path.is_file():
        model = load_classifier(weights, "cpu")
        parts = [
            model([read_image(crops / row.crop) for row in some], [row.mpp for row in some])
            for some in (rows[i : i + 500] for i in range(0, len(rows), 500))
        ]
        probability, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
        np.savez(path, probability=probability, distance=distance)
    answers = np.load(path)
    return answers["probability"], answers["distance"]


def out_of_fold(name: str, runs: Path, crops: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Pooled figures on crops of ALL fields, each judged by the model whose training never saw its cluster."""
    rows = [row for row in read_table(crops / "all_fields") if label_of(row, "blast") in ("blast", "wbc")]
    dealt = folds(read_table(crops / "all_fields"), FOLDS)
    columns: list[tuple[np.ndarray, ...]] = []
    for k in range(FOLDS):
        weights = trained(name, runs / f"fold-{k}", crops, [f"fold=[{k},{FOLDS}]", *settings])
        mine = [row for row in rows if dealt[row.cluster] == k]
        probability, distance = judged(weights, crops / "all_fields", mine)
        card = read_card(weights)
        blast = probability[:, card.classes.index("blast")]
        truth = np.array([label_of(row, "blast") == "blast" for row in mine])
        cluster = np.array([row.cluster for row in mine])
        assert card.unsure is not None
        columns.append((blast, truth, cluster, distance > card.unsure.distance, np.full(len(mine), k)))
    raw, truth, cluster, far, fold = (np.concatenate(column) for column in zip(*columns, strict=True))
    score, called, unsure = cross_fitted(raw, truth, fold)
    unsure |= far
    trials = tuple(trial(called[cluster == one], truth[cluster == one]) for one in np.unique(cluster))
    settled = calibrate(raw, truth).model_copy(update={"trials": trials})
    (runs / "settled.json").write_text(settled.model_dump_json(indent=1) + "\n", encoding="utf-8")
    weight = class_weights(truth.astype(np.int64))
    return {
        "cells": len(truth),
        "clusters": len(trials),
        **pooled(score, called, truth, cluster),
        "AUROC of folds": tuple(float(roc_auc_score(column[1], column[0])) for column in columns),
        "specificity at sensitivity 0.95": float((score[~truth] < np.quantile(score[truth], 0.05)).mean()),
        "calibration error": reliability_of(score, truth, weight).error,
        "before": reliability_of(raw, truth, weight).error,
        "Brier": float(weight @ (score - truth) ** 2),
        "before it": float(weight @ (raw - truth) ** 2),
        "unsure": float(unsure.mean()),
        "accuracy of the sure": float((called == truth)[~unsure].mean()),
    }


class CalibrationResult(BaseModel):
    """What out-of-fold answers say of a kind of model: how to read it, and how often it errs, by cluster."""

    calibration: Calibration
    threshold: Threshold
    unsure: RejectionRule
    trials: tuple[ValidationCounts, ...] = ()

    def classify_cells(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Calibrated, called a blast, in the unsure band (n,), by blast probabilities as a model gives them."""
        score = self.calibration.apply(raw)
        return score, score >= self.threshold.value, self.unsure.covers(score, np.zeros(len(raw)))

    @classmethod
    def of(cls, runs: Path) -> CalibrationResult:
        """What `out_of_fold` kept beside the runs."""
        return cls.model_validate_json((runs / "settled.json").read_text(encoding="utf-8"))


def calibrate(raw: np.ndarray, truth: np.ndarray) -> CalibrationResult:
    """Calibration, operating threshold and unsure band by out-of-fold blast probabilities (n,)."""
    where = f"{len(raw)} crops of ALL fields out of fold, by clusters"
    calibration = platt(raw, truth, where)
    score = calibration.apply(raw)
    return CalibrationResult(
        calibration=calibration,
        threshold=operating_threshold(score, truth, where),
        unsure=unsure_of(score, truth, np.ones(len(raw)), where),
    )


def cross_fitted(raw: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated, called, unsure (n,): each fold by what `calibrate` makes of the other folds."""
    score, called, unsure = np.empty(len(raw)), np.empty(len(raw), bool), np.empty(len(raw), bool)
    for k in np.unique(fold):
        mine = fold == k
        score[mine], called[mine], unsure[mine] = calibrate(raw[~mine], truth[~mine]).classify_cells(raw[mine])
    return score, called, unsure


def confusion_picture(runs: Path, n: int = 3) -> None:
    """Crops of ALL fields by the class of their field and by what they are called out of fold, drawn at random."""
    settled = CalibrationResult.of(runs)
    rows = [row for row in read_table(CROPS / "all_fields") if label_of(row, "blast") in ("blast", "wbc")]
    dealt = folds(read_table(CROPS / "all_fields"), FOLDS)
    cells: dict[tuple[str, str], list[CropRow]] = {}
    for k in range(FOLDS):
        weights = runs / f"fold-{k}/weights"
        mine, card = [row for row in rows if dealt[row.cluster] == k], read_card(weights)
        probability, _ = judged(weights, CROPS / "all_fields", mine)
        _, called, unsure = settled.classify_cells(probability[:, card.classes.index("blast")])
        for row, blast, doubt in zip(mine, called, unsure, strict=True):
            answer = "unsure" if doubt else "blast" if blast else "other"
            cells.setdefault((row.smear_label, answer), []).append(row)
    rng, side, gap = np.random.default_rng(0), 96, 14
    canvas = np.full((4 * (side + 2 * gap), 3 * (n * side + gap), 3), 255, np.uint8)
    for i, truth in enumerate(("benign", "early", "pre", "pro")):
        for j, called in enumerate(("other", "unsure", "blast")):
            mine = cells.get((truth, called), [])
            x, y = j * (n * side + gap), i * (side + 2 * gap)
            words = f"{truth} field, called {called}: {len(mine)}"
            cv2.putText(canvas, words, (x + 2, y + gap - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
            for at, index in enumerate(rng.permutation(len(mine))[:n]):
                rgb = read_image(CROPS / "all_fields" / mine[index].crop)
                place = np.s_[y + gap : y + gap + side, x + at * side : x + (at + 1) * side - 2]
                canvas[place] = cv2.resize(rgb, (side - 2, side), interpolation=cv2.INTER_CUBIC)
    write_image(runs / "confusion.png", canvas)
    print(f"wrote {runs / 'confusion.png'}")


def trial(called: np.ndarray, truth: np.ndarray) -> ValidationCounts:
    """Counts of one cluster, for the card."""
    return ValidationCounts(
        blasts=int(truth.sum()),
        blasts_called=int((called & truth).sum()),
        others=int((~truth).sum()),
        others_called=int((called & ~truth).sum()),
    )


def cost(weights: Path) -> dict[str, Any]:
    """Size of a model, and milliseconds a crop in batches of 64, prepared and judged."""
    model = load_classifier(weights, "cpu")
    rgb = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        model([rgb] * 64, [0.375] * 64)
        times.append((time.perf_counter() - start) / 64 * 1000)
    return {"MB": (weights / "model.onnx").stat().st_size / 1e6, "ms a crop": statistics.median(times)}


def pooled(score: np.ndarray, called: np.ndarray, truth: np.ndarray, cluster: np.ndarray) -> dict[str, Any]:
    """Figures with 95 % intervals from a bootstrap over clusters."""
    _, index = np.unique(cluster, return_inverse=True)
    weights = [w for w in group_weights(index) if 0 < w[truth].sum() < w.sum()]
    out: dict[str, Any] = {}
    for name, figure in FIGURES.items():
        spread = percentile_interval([figure(score, called, truth, w) for w in weights], "bootstrap over clusters")
        out[name] = [figure(score, called, truth, np.ones(len(truth))), spread.low, spread.high]
    return out


def share(what: np.ndarray, of: np.ndarray, w: np.ndarray) -> float:
    """Weighted share of `of` that is `what`; no number where there is none."""
    return float(w[what & of].sum() / w[of].sum()) if w[of].sum() else float("nan")


FIGURES = {
    "AUROC": lambda score, called, truth, w: float(roc_auc_score(truth, score, sample_weight=w)),
    "sensitivity": lambda score, called, truth, w: share(called, truth, w),
    "specificity": lambda score, called, truth, w: share(~called, ~truth, w),
    "precision": lambda score, called, truth, w: share(truth, called, w),
    "F1": lambda score, called, truth, w: float(2 * w[called & truth].sum() / (w[called].sum() + w[truth].sum())),
    "accuracy": lambda score, called, truth, w: share(called == truth, np.ones(len(truth), bool), w),
}


def false_blasts(left: str, name: str, run: Path) -> None:
    """Of each cell type of a laboratory left out of training: how many are called blasts, of how many.

    Calibration and threshold are those of five folds that the laboratory was left out of as well.
    """
    settings = [f"leave_out=[{left}]", *LEFT[left]]
    weights = trained(name, run, CROPS, settings)
    out_of_fold(name, run.with_name(f"{run.name}-folds"), CROPS, settings)
    settled = CalibrationResult.of(run.with_name(f"{run.name}-folds"))
    card = read_card(weights)
    rows = [row for row in read_table(CROPS / left) if row.label == "wbc"]
    probability, distance = judged(weights, CROPS / left, rows)
    assert card.unsure is not None
    _, called, unsure = settled.classify_cells(probability[:, card.classes.index("blast")])
    unsure |= distance > card.unsure.distance
    for kind in sorted({row.cell_type for row in rows}):
        mine = np.array([row.cell_type == kind for row in rows])
        n, wrong, sure = int(mine.sum()), int((called & mine).sum()), int((called & ~unsure & mine).sum())
        words = f"{wrong:>5} of {n:>4} called blasts ({wrong / n:.3f}), {sure} of them sure ({sure / n:.3f})"
        print(f"{name} without {left}: {kind or 'white cell':<22}{words}", flush=True)


def subtypes(runs: Path) -> None:
    """Confusion of ALL fields' four classes, out of fold."""
    rows = read_table(CROPS / "all_fields")
    dealt = folds(rows, FOLDS)
    truth: list[str] = []
    found: list[str] = []
    for k in range(FOLDS):
        weights = trained("subtype", runs / f"fold-{k}", CROPS, [f"fold=[{k},{FOLDS}]"])
        mine = [row for row in rows if dealt[row.cluster] == k]
        names = read_card(weights).classes
        found += [names[i] for i in judged(weights, CROPS / "all_fields", mine)[0].argmax(axis=1)]
        truth += [row.smear_label for row in mine]
    names = tuple(name for name in BY_SMEAR if name in set(truth))
    print("field is / cell is called " + "".join(f"{name:>8}" for name in names))
    for name, line in zip(names, confusion_matrix(truth, found, labels=names), strict=True):
        print(f"{name:<26}" + "".join(f"{number:>8}" for number in line))


def ship(name: str, runs: Path, settings: Sequence[str], found: dict[str, Any]) -> None:
    """Train on all folds; write weights/blast with the out-of-fold figures, and name it in the detector's card."""
    weights = trained(name, runs / "all", CROPS, ["name=blast", *settings])
    target = REPO / "weights/blast"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(weights, target)
    settled = CalibrationResult.of(runs)
    limits = (
        "Labels of ALL fields are those of whole fields; hematogones (benign) are hard for people, too.",
        "All blasts it learnt come from one laboratory, and film without any cell tells much of its classes, too.",
        "Figures of its validation crops flatter: few clusters, and its best epoch was chosen on them.",
    )
    out_of_folds = tuple(
        Metric(
            data="crops of ALL fields",
            split="out of fold, by clusters of stain",
            n_images=found["cells"],
            n_cells=found["cells"],
            metric=metric,
            value=round(value[0] if isinstance(value, list) else value, 4),
            ci95=(round(value[1], 4), round(value[2], 4)) if isinstance(value, list) else None,
        )
        for metric, value in found.items()
        if isinstance(value, (list, float)) and metric not in ("before", "before it")
    )
    card = read_card(target)
    assert card.unsure is not None
    settled_by = {
        "calibration": settled.calibration,
        "thresholds": {**card.thresholds, "blast": settled.threshold},
        "unsure": settled.unsure.model_copy(update={"distance": card.unsure.distance}),
        "trials": settled.trials,
    }
    more = {"metrics": (*out_of_folds, *card.metrics), "limits": (*card.limits, *limits)}
    write_card(card.model_copy(update=settled_by | more), target)
    detector = REPO / "weights/default"
    if read_card(detector).second_stage != "blast":
        write_card(read_card(detector).model_copy(update={"second_stage": "blast"}), detector)
    print(f"wrote {target}")


def hand_boxed() -> None:
    """Counts of blasts on the hand-boxed fields, as `blastdet detect` gives them, against the fields' labels."""
    from blastdet.inference.model import Options, load

    models = load("default", "cpu")
    table: dict[str, list[tuple[int, ...]]] = {}
    for sample in read(BOXES, "coco", images=DATA / "all_fields"):
        assert sample.truth is not None and sample.label is not None
        found = models.analyze(sample.path, Options(mpp=sample.mpp)).blasts
        assert found is not None
        cells = int((~sample.truth.ignore).sum()) if sample.truth.ignore is not None else len(sample.truth)
        row = (cells, found.n, found.blasts, found.others, found.unsure, found.called, found.erythroblasts)
        table.setdefault(sample.label, []).append(row)
    print("class   fields  cells boxed  white cells  blasts  others  unsure  called  erythroblasts")
    errors = []
    for name, rows in table.items():
        sums = np.sum(rows, axis=0)
        print(f"{name:<8}{len(rows):>6}" + "".join(f"{number:>9}" for number in sums))
        errors += [(row[5] - (row[0] if BY_SMEAR[name] == "blast" else 0)) for row in rows]
    bias, spread = float(np.mean(errors)), float(np.std(errors, ddof=1))
    low, high = bias - 1.96 * spread, bias + 1.96 * spread
    print(f"called blasts a field less the label's (Bland-Altman): bias {bias:+.2f}, limits {low:+.2f} to {high:+.2f}")


def erythroblasts() -> None:
    """Of each cell type of PBC's validation crops: how many the shipped weights take for erythroblasts."""
    config = read_any(CONFIGS / "small.yaml")
    assert isinstance(config, ClassifyConfig)
    _, rows = split([row for row in read_table(CROPS / "pbc") if row.label == "wbc"], config.val_share, config.seed)
    model = load_classifier("blast", "cpu")
    card = model.card
    found = model([read_image(CROPS / "pbc" / row.crop) for row in rows], [row.mpp for row in rows]).probability
    red = red_among_others(found, card.classes) >= card.thresholds["erythroblast"].value
    red &= found[:, card.classes.index("blast")] < card.thresholds["blast"].value
    for kind in sorted({row.cell_type for row in rows}):
        mine = np.array([row.cell_type == kind for row in rows])
        print(f"{kind:<22}{red[mine].sum():>4} of {mine.sum():>3} taken for erythroblasts")


def probe(kind: str, runs: Path) -> None:
    """Crops of a probe, made where they are missing; elsewhere, pictures of PBC and BCCD have no room for a window."""
    cut(runs / kind, ["--probe", kind], list(SETS) if kind == "covered" else ["all_fields"])


def six_numbers(crops: Path = CROPS) -> dict[str, object]:
    """Mean colour and sharpness (variance of the Laplacian) of each channel, in a logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = [row for row in read_table(crops / "all_fields") if label_of(row, "blast") in ("blast", "wbc")]
    x = np.array([_six(prepare(read_image(crops / "all_fields" / row.crop), row.mpp, 0.5, 0.7)) for row in rows])
    truth = np.array([label_of(row, "blast") == "blast" for row in rows])
    dealt = folds(rows, FOLDS)
    fold = np.array([dealt[row.cluster] for row in rows])
    group = np.array([row.group for row in rows])
    score, called = np.zeros(len(rows)), np.zeros(len(rows), bool)
    for k in range(FOLDS):
        test = fold == k
        train = ~test & ~np.isin(group, group[test])
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced")).fit(x[train], truth[train])
        score[test] = model.predict_proba(x[test])[:, 1]
        limit = np.quantile(model.predict_proba(x[train])[truth[train], 1], 0.05)
        called[test] = score[test] >= limit
    return {"cells": len(rows), **pooled(score, called, truth, np.array([row.cluster for row in rows]))}


def _six(rgb) -> list[float]:  # type: ignore[no-untyped-def]
    sharp = [float(np.log(cv2.Laplacian(rgb[..., c], cv2.CV_32F).var() + 1)) for c in range(3)]
    return [*rgb.reshape(-1, 3).mean(axis=0).tolist(), *sharp]


def blastdet(*words: str) -> None:
    """Run the program, its output shown."""
    subprocess.run([sys.executable, "-m", "blastdet", *words], cwd=REPO, check=True)


if __name__ == "__main__":
    main()
