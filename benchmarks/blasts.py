"""Blast classifiers measured: out-of-fold figures, false blasts of datasets left out of training, negative controls.

    python benchmarks/blasts.py [small handmade-svm ...] [--negative-controls] [--left-out] [--subtypes]
    python benchmarks/blasts.py small --init runs/pbc-types-small/best.pt [--negative-controls]
    python benchmarks/blasts.py --fields          counts on the hand-boxed fields, with the shipped weights

Crops are cut first if they are missing: white cells as weights/default detects them on ALL fields (without the
hand-boxed ones), PBC and BCCD. Names are those of configs/blasts. Each model is trained five times, without one fold of
clusters and everything of their groups. Finished trainings are kept. The product trains, calibrates and publishes with
the same functions: blastdet train configs/blasts/small.yaml --set folds=5.

The label of a cell of the ALL fields is that of its field: weak, and hematogones (benign) are hard for people too.
Negative controls are the same trainings on images without a visible blast: the cell covered by a disc of one size in a
window of one size; an equal window of the same field without a nucleated cell; and six numbers (mean colour, sharpness)
only. What these can distinguish is a shortcut, not a cell.
"""

from __future__ import annotations

import argparse
import json
import os
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
from sklearn.metrics import confusion_matrix

from blastdet.core.model_card import read_card
from blastdet.datasets.cropping.crop_table import CropRow, read_table
from blastdet.datasets.cropping.negative_controls import NEGATIVE_CONTROLS
from blastdet.datasets.formats.registry import read
from blastdet.imaging.io import read_image, write_image
from blastdet.models.classifier import ClassifierOutput, load_classifier, prepare
from blastdet.training.classification.crop_samples import BY_SMEAR, folds, label_of
from blastdet.training.classification.cross_fitting import figures_with_intervals, fit, out_of_fold_figures
from blastdet.training.classification.out_of_fold import OutOfFold, predict_out_of_fold, train_classifier, train_folds
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import read_any
from blastdet.training.loop.session import Progress

REPO = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BLASTDET_DATA", REPO / "../shared/data")).resolve()
CONFIGS = REPO / "configs/blasts"
CROPS = REPO / "runs/crops"
BOXES = REPO / "datasets/all_fields_boxes.json"
BAR_XY = (188, 193)  # top left corner of the printed scale bar of ALL fields, which extends to the corner of the image
SETS: dict[str, tuple[str, list[str]]] = {
    "all_fields": ("all_fields", ["--exclude", str(BOXES), "--mark", f"{BAR_XY[0]},{BAR_XY[1]},224,224"]),
    "pbc": ("pbc_wbc", []),
    "bccd": ("bccd", []),
}
"""Folder of crops -> its dataset, and options of ``blastdet crops``."""

FOLDS = 5
PROGRESS = Progress()
LEFT = {"pbc": ["classes=[blast,wbc]"], "bccd": []}  # only PBC has erythroblasts


def main() -> None:
    """Cut crops, train, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="some of configs/blasts, without .yaml")
    parser.add_argument("--runs", type=Path, default=REPO / "runs/blasts")
    parser.add_argument("--negative-controls", action="store_true", help="also train on the negative controls")
    parser.add_argument("--left-out", action="store_true", help="false blasts of PBC and of BCCD, left out of training")
    parser.add_argument("--subtypes", action="store_true", help="confusion matrix of benign, early, pre and pro")
    parser.add_argument("--fields", action="store_true", help="counts on the hand-boxed fields, shipped weights")
    parser.add_argument("--image", action="store_true", help="three crops per cell of the confusion matrix")
    parser.add_argument("--init", type=Path, help="starting weights of each, e.g. runs/pbc-types-small/best.pt")
    asked = parser.parse_args()
    if asked.init and asked.left_out:
        parser.error("--left-out: not with --init, whose weights may have seen the dataset that is left out")
    if asked.fields:
        hand_boxed()
        return
    cut(CROPS)
    rows: dict[str, dict[str, Any]] = {}
    settings = [f"init={asked.init.resolve()}"] if asked.init else []
    for name in asked.names:
        runs = asked.runs / (f"{name}-started" if asked.init else name)
        found = out_of_fold(name, runs, CROPS, settings)
        print_row(runs.name, found | cost(runs / "folds/fold-0/weights"), rows)
        for kind in NEGATIVE_CONTROLS if asked.negative_controls else ():
            cut_negative_control(kind, asked.runs)
            row = out_of_fold(name, asked.runs / f"{runs.name}-{kind}", asked.runs / kind, settings)
            print_row(f"{runs.name}, {kind}", row, rows)
        if asked.left_out:
            for left in LEFT:
                false_blasts(left, name, asked.runs / f"{name}-without-{left}")
    if asked.negative_controls:
        print_row("six numbers", six_numbers(), rows)
    if asked.image:
        for name in asked.names:
            confusion_image(asked.runs / (f"{name}-started" if asked.init else name))
    if asked.subtypes:
        subtypes(asked.runs / "subtype")
    if rows:
        kept = asked.runs / "blasts.json"
        before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        kept.write_text(json.dumps(before | rows, indent=1) + "\n", encoding="utf-8")


def cut(crops: Path, how: Sequence[str] = (), names: Sequence[str] = tuple(SETS)) -> None:
    """White cells of datasets, as the shipped detector finds them, or windows of a negative control instead."""
    for name in names:
        source, words = SETS[name]
        if not (crops / name / "crops.csv").is_file():
            always = ["--weights", "default", "--colour", "canonical"]
            blastdet("crops", str(DATA / source), str(crops / name), *always, *words, *how)


def print_row(name: str, row: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """Print a row, and add it to `rows`."""
    rows[name] = row
    print(f"{name}: " + "  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)


def shown(value: object) -> str:
    """A value, a value with its interval, or a list of values."""
    if isinstance(value, list) and len(value) == 3:
        return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
    if isinstance(value, tuple):
        return ", ".join(f"{v:.3f}" for v in value)
    return f"{value:.3f}" if isinstance(value, float) else f"{value}"


def configuration(name: str, runs: Path, crops: Path, settings: Sequence[str]) -> ClassifyConfig:
    """A configuration of configs/blasts on other crops; its feature network, if it has one, is trained first."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    words = [f"data.{i}.path={crops / folder}" for i, folder in enumerate(SETS)]
    if name == "subtype":
        words = words[:1]
    elif not all((crops / folder).is_dir() for folder in SETS):  # only the fields have room for this negative control
        words = [f"data=[{{path: {crops / 'all_fields'}, licence: none}}]", "classes=[blast,wbc]"]
    network = Path(str(content.get("features", "")).removeprefix("runs/blast-")).parts
    if len(network) > 1:
        below = runs.with_name(runs.name.replace(name, network[0]))
        train_folds(
            configuration(network[0], below, crops, [*settings, f"folds={FOLDS}"]), REPO, below, "auto", PROGRESS
        )
        words.append(f"features={below / 'weights'}")
    config = read_any(CONFIGS / f"{name}.yaml", [*words, *settings])
    assert isinstance(config, ClassifyConfig)
    return config


def trained(name: str, run: Path, crops: Path, settings: Sequence[str]) -> Path:
    """Weights of one run, trained unless it is finished."""
    if not (run / "weights/card.json").is_file():
        resume = (run / "config.yaml").is_file()
        train_classifier(configuration(name, run, crops, settings), REPO, run, "auto", resume, PROGRESS)
    return run / "weights"


def classified(weights: Path, crops: Path, rows: list[CropRow]) -> ClassifierOutput:
    """Probabilities and distances of crops."""
    model = load_classifier(weights, "cpu")
    parts = [
        model([read_image(crops / row.crop) for row in some], [row.mpp for row in some])
        for some in (rows[i : i + 500] for i in range(0, len(rows), 500))
    ]
    return ClassifierOutput(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def out_of_fold(name: str, runs: Path, crops: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Pooled figures on crops of the ALL fields, each classified by the model that was trained without its cluster."""
    config = configuration(name, runs, crops, [*settings, f"folds={FOLDS}"])
    return out_of_fold_figures(predicted_out_of_fold(config, runs))


def predicted_out_of_fold(config: ClassifyConfig, runs: Path) -> OutOfFold:
    """Out-of-fold predictions of a configuration, whose folds are trained first."""
    return predict_out_of_fold(train_folds(config, REPO, runs, "auto", PROGRESS), REPO)


def confusion_image(runs: Path, n: int = 3) -> None:
    """Crops of the ALL fields by the class of their field and by their out-of-fold class, drawn at random."""
    folders = [runs / "folds" / f"fold-{k}" for k in range(FOLDS)]
    fitted = fit(predict_out_of_fold(folders, REPO))
    rows = [row for row in read_table(CROPS / "all_fields") if label_of(row, "blast") in ("blast", "wbc")]
    dealt = folds(read_table(CROPS / "all_fields"), FOLDS)
    cells: dict[tuple[str, str], list[CropRow]] = {}
    for k, folder in enumerate(folders):
        mine, card = [row for row in rows if dealt[row.cluster] == k], read_card(folder / "weights")
        probability = classified(folder / "weights", CROPS / "all_fields", mine).probability
        _, called, unsure = fitted.classify_cells(probability[:, card.classes.index("blast")].astype(np.float64))
        for row, is_blast, is_unsure in zip(mine, called, unsure, strict=True):
            result = "unsure" if is_unsure else "blast" if is_blast else "other"
            cells.setdefault((row.smear_label, result), []).append(row)
    rng, side, gap = np.random.default_rng(0), 96, 14
    canvas = np.full((4 * (side + 2 * gap), 3 * (n * side + gap), 3), 255, np.uint8)
    for i, truth in enumerate(("benign", "early", "pre", "pro")):
        for j, result in enumerate(("other", "unsure", "blast")):
            mine = cells.get((truth, result), [])
            x, y = j * (n * side + gap), i * (side + 2 * gap)
            words = f"{truth} field, called {result}: {len(mine)}"
            cv2.putText(canvas, words, (x + 2, y + gap - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
            for at, index in enumerate(rng.permutation(len(mine))[:n]):
                rgb = read_image(CROPS / "all_fields" / mine[index].crop)
                place = np.s_[y + gap : y + gap + side, x + at * side : x + (at + 1) * side - 2]
                canvas[place] = cv2.resize(rgb, (side - 2, side), interpolation=cv2.INTER_CUBIC)
    write_image(runs / "confusion.png", canvas)
    print(f"wrote {runs / 'confusion.png'}")


def cost(weights: Path) -> dict[str, Any]:
    """Size of a model, and milliseconds per crop in batches of 64, with preparation."""
    model = load_classifier(weights, "cpu")
    rgb = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        model([rgb] * 64, [0.375] * 64)
        times.append((time.perf_counter() - start) / 64 * 1000)
    return {"MB": (weights / "model.onnx").stat().st_size / 1e6, "ms a crop": statistics.median(times)}


def false_blasts(left: str, name: str, run: Path) -> None:
    """For each cell type of a dataset left out of training: the number of cells, and of those called blasts.

    Calibration and threshold are from five folds without this dataset.
    """
    settings = [f"leave_out=[{left}]", *LEFT[left]]
    weights = trained(name, run, CROPS, settings)
    apart = run.with_name(f"{run.name}-folds")
    fitted = fit(predicted_out_of_fold(configuration(name, apart, CROPS, [*settings, f"folds={FOLDS}"]), apart))
    card = read_card(weights)
    rows = [row for row in read_table(CROPS / left) if row.label == "wbc"]
    probability, distance = classified(weights, CROPS / left, rows)
    assert card.unsure is not None
    _, called, unsure = fitted.classify_cells(probability[:, card.classes.index("blast")].astype(np.float64))
    unsure |= distance > card.unsure.distance
    for kind in sorted({row.cell_type for row in rows}):
        mine = np.array([row.cell_type == kind for row in rows])
        n, wrong, sure = int(mine.sum()), int((called & mine).sum()), int((called & ~unsure & mine).sum())
        words = f"{wrong:>5} of {n:>4} called blasts ({wrong / n:.3f}), {sure} of them sure ({sure / n:.3f})"
        print(f"{name} without {left}: {kind or 'white cell':<22}{words}", flush=True)


def subtypes(runs: Path) -> None:
    """Confusion matrix of the four classes of the ALL fields, out of fold."""
    rows = read_table(CROPS / "all_fields")
    dealt = folds(rows, FOLDS)
    truth: list[str] = []
    found: list[str] = []
    for k in range(FOLDS):
        weights = trained("subtype", runs / f"fold-{k}", CROPS, [f"fold=[{k},{FOLDS}]"])
        mine = [row for row in rows if dealt[row.cluster] == k]
        names = read_card(weights).classes
        found += [names[i] for i in classified(weights, CROPS / "all_fields", mine).probability.argmax(axis=1)]
        truth += [row.smear_label for row in mine]
    names = tuple(name for name in BY_SMEAR if name in set(truth))
    print("field is / cell is called " + "".join(f"{name:>8}" for name in names))
    for name, line in zip(names, confusion_matrix(truth, found, labels=names), strict=True):
        print(f"{name:<26}" + "".join(f"{number:>8}" for number in line))


def hand_boxed() -> None:
    """Counts of blasts on the hand-boxed fields, as `blastdet detect` gives them, and the labels of the fields."""
    from blastdet.inference.model import Options, load

    models = load("default", "cpu")
    table: dict[str, list[tuple[int, ...]]] = {}
    for sample in read(BOXES, "coco", images=DATA / "all_fields"):
        assert sample.truth is not None and sample.label is not None
        found = models.analyze(sample.path, Options(mpp=sample.mpp)).blast_fraction
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
    print(f"called minus annotated blasts per field (Bland-Altman): bias {bias:+.2f}, limits {low:+.2f} to {high:+.2f}")


def cut_negative_control(kind: str, runs: Path) -> None:
    """Cut the crops of a negative control. Images of PBC and BCCD have no room for windows without cells."""
    cut(runs / kind, ["--negative-control", kind], list(SETS) if kind == "covered" else ["all_fields"])


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
    return {"cells": len(rows), **figures_with_intervals(score, called, truth, np.array([row.cluster for row in rows]))}


def _six(rgb) -> list[float]:  # type: ignore[no-untyped-def]
    sharp = [float(np.log(cv2.Laplacian(rgb[..., c], cv2.CV_32F).var() + 1)) for c in range(3)]
    return [*rgb.reshape(-1, 3).mean(axis=0).tolist(), *sharp]


def blastdet(*words: str) -> None:
    """Run blastdet and show its output."""
    subprocess.run([sys.executable, "-m", "blastdet", *words], cwd=REPO, check=True)


if __name__ == "__main__":
    main()
