"""Is this white cell a blast? Out-of-fold figures, false blasts of laboratories left out, and shortcut probes.

    python benchmarks/blasts.py [--config configs/blast-small.yaml] [--runs runs/blasts] [--probe] [--set key=value]

Crops are cut first where they are missing (detections of weights/default on ALL fields without the hand-boxed ones; the
boxes of PBC and BCCD). Then one training for each of five folds of clusters, and one without PBC, one without BCCD. A
training that is done is not done again.

The label of a cell of ALL fields is that of its field: weak, and hematogones (benign) are hard for people, too.
Probes are the same trainings on pictures that show no blast: the cell covered by a disc of one size in a window of
one size; an equal window of the same field without a nucleated cell; and six numbers (mean colour, sharpness) alone.
What a probe finds is a shortcut, not a cell.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from sklearn.metrics import roc_auc_score

from blastdet.classifiers import load_classifier, prepare
from blastdet.colour import as_seen
from blastdet.configs import ClassifyConfig, read_any
from blastdet.crop_table import CropRow, read_table
from blastdet.crops import CONTEXT, crop
from blastdet.evaluation.intervals import group_weights, percentile_interval
from blastdet.images import open_smear, read_image, write_image
from blastdet.training.crops import folds, label_of, load_crops

REPO = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BLASTDET_DATA", REPO / "../shared/data")).resolve()
CROPS = REPO / "runs/crops"
SETS: dict[str, tuple[str, list[str]]] = {
    "all_fields": ("all_fields", ["--weights", "default", "--exclude", str(REPO / "datasets/all_fields_boxes.json")]),
    "pbc": ("pbc_wbc", []),
    "bccd": ("bccd", []),
}
"""Folder of crops -> its data set, and words for ``blastdet crops``."""

FOLDS = 5
WINDOW_UM, DISC_UM = 24.0, 20.0
SENSITIVITY = 0.95
PROBES = ("covered", "elsewhere")


def main() -> None:
    """Cut, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=REPO / "configs/blast-small.yaml")
    parser.add_argument("--runs", type=Path, default=REPO / "runs/blasts")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--probe", action="store_true", help="train the shortcut probes, too")
    parser.add_argument("--only-folds", action="store_true", help="no trainings without PBC or BCCD")
    asked = parser.parse_args()
    for name, (source, words) in SETS.items():
        if not (CROPS / name / "crops.csv").is_file():
            blastdet("crops", str(DATA / source), str(CROPS / name), "--colour", "canonical", *words)
    result = {"cell": out_of_fold(asked.config, asked.runs / "cell", CROPS, asked.settings)}
    if asked.probe:
        for kind in PROBES:
            folder = asked.runs / f"crops-{kind}"
            for name, (source, _) in SETS.items():
                variant(CROPS / name, DATA / source, folder / name, kind)
            result[kind] = out_of_fold(asked.config, asked.runs / kind, folder, asked.settings)
        result["six numbers"] = six_numbers()
    for name, row in result.items():
        print(f"{name:<12}" + "  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)
    if not asked.only_folds:
        result["false blasts"] = {
            name: false_blasts(name, asked.config, asked.runs / f"without-{name}", asked.settings)
            for name in ("pbc", "bccd")
        }
        for name, rows in result["false blasts"].items():
            for kind, (count, n) in rows.items():
                print(f"without {name}: {kind or 'white cell':<22}{count:>5} of {n:>4} called blasts ({count / n:.3f})")
    asked.runs.mkdir(parents=True, exist_ok=True)
    (asked.runs / "blasts.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def shown(value: object) -> str:
    """A figure, a figure with its interval, or a list of figures."""
    if isinstance(value, list) and len(value) == 3:
        return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
    return ", ".join(f"{v:.3f}" for v in value) if isinstance(value, (list, tuple)) else f"{value}"


def trained(config: Path, run: Path, crops: Path, settings: list[str]) -> ClassifyConfig:
    """Train unless it is done; the configuration of the run."""
    if not (run / "weights/card.json").is_file():
        places = [f"data.{i}.path={crops / name}" for i, name in enumerate(SETS)]
        words = [word for setting in (*places, *settings) for word in ("--set", setting)]
        resume = ["--resume"] if (run / "last.pt").is_file() else []
        blastdet("train", str(config), "--out", str(run), *words, *resume)
    read = read_any(run / "config.yaml")
    assert isinstance(read, ClassifyConfig)
    return read


def out_of_fold(config: Path, runs: Path, crops: Path, settings: list[str]) -> dict[str, object]:
    """Pooled figures on crops of ALL fields, each judged by the model whose training never saw its cluster."""
    rows = read_table(crops / "all_fields")
    dealt = folds(rows, FOLDS)
    score, called, truth, cluster, single = [], [], [], [], []
    for k in range(FOLDS):
        run = runs / f"fold-{k}"
        used = trained(config, run, crops, [*settings, f"fold=[{k},{FOLDS}]"])
        mine = [row for row in rows if dealt[row.cluster] == k and label_of(row, "blast") in ("blast", "wbc")]
        model = load_classifier(run / "weights", "cpu")
        blast = model.card.classes.index("blast")
        found = model([read_image(crops / "all_fields" / row.crop) for row in mine], [row.mpp for row in mine])[
            :, blast
        ]
        limit = threshold(model, used)
        wanted = np.array([label_of(row, "blast") == "blast" for row in mine])
        single.append(float(roc_auc_score(wanted, found)))
        score.append(found)
        called.append(found >= limit)
        truth.append(wanted)
        cluster += [row.cluster for row in mine]
    score, called, truth = (np.concatenate(part) for part in (score, called, truth))
    return {"cells": len(truth), **pooled(score, called, truth, np.array(cluster)), "AUROC of folds": tuple(single)}


def threshold(model, config: ClassifyConfig) -> float:  # type: ignore[no-untyped-def]
    """The highest probability that keeps the sensitivity wanted on the validation side."""
    val = load_crops(config, REPO).val
    found = model([c.rgb for c in val], [c.mpp for c in val])[:, config.classes.index("blast")]
    blasts = found[[config.classes[c.label] == "blast" for c in val]]
    return float(np.quantile(blasts, 1 - SENSITIVITY))


def pooled(score, called, truth, cluster) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """Figures with 95 % intervals from a bootstrap over clusters."""
    _, index = np.unique(cluster, return_inverse=True)
    weights = [w for w in group_weights(index) if 0 < w[truth].sum() < w.sum()]
    out: dict[str, object] = {}
    for name, figure in FIGURES.items():
        spread = percentile_interval([figure(score, called, truth, w) for w in weights], "bootstrap over clusters")
        out[name] = [figure(score, called, truth, np.ones(len(truth))), spread.low, spread.high]
    return out


def share(what, of, w) -> float:  # type: ignore[no-untyped-def]
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


def false_blasts(name: str, config: Path, run: Path, settings: list[str]) -> dict[str, tuple[int, int]]:
    """Of each cell type of a laboratory left out of training: how many are called blasts, of how many."""
    used = trained(config, run, CROPS, [*settings, f"leave_out=[{name}]", *LEFT[name]])
    model = load_classifier(run / "weights", "cpu")
    rows = read_table(CROPS / name)
    found = model([read_image(CROPS / name / row.crop) for row in rows], [row.mpp for row in rows])
    called = found[:, model.card.classes.index("blast")] >= threshold(model, used)
    kinds = sorted({row.cell_type for row in rows})
    hits = {kind: np.array([row.cell_type == kind for row in rows]) for kind in kinds}
    return {kind: (int(called[mine].sum()), int(mine.sum())) for kind, mine in hits.items()}


LEFT = {"pbc": ["classes=[blast,wbc]"], "bccd": []}  # without PBC nobody shows erythroblasts


def variant(folder: Path, root: Path, out: Path, kind: str) -> None:
    """The same crops, with the cell covered, or from a place in the same picture that holds no nucleated cell."""
    if (out / "crops.csv").is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    rows, kept = read_table(folder), []
    by_source: dict[str, list[CropRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    rng = np.random.default_rng(0)
    for name, mine in by_source.items():
        with as_seen(open_smear(root / name), "canonical") as source:
            mpp = scale_of(root, mine[0])
            for row in mine:
                place = middle(row) if kind == "covered" else free_place(mine, source.size_wh, mpp, rng)
                if place is None:
                    continue
                half = np.array([WINDOW_UM / CONTEXT / 2 / mpp[0], WINDOW_UM / CONTEXT / 2 / mpp[1]])
                rgb = crop(source, (*(place - half), *(place + half)), mpp)
                if kind == "covered":
                    rgb = covered(rgb)
                write_image(out / row.crop, rgb)
                kept.append(replace(row, mpp=min(mpp)))
    lines = [",".join(kept[0].__dataclass_fields__)]
    lines += [",".join(str(value) for value in vars(row).values()) for row in kept]
    (out / "crops.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def scale_of(root: Path, row: CropRow) -> tuple[float, float]:
    """µm/px along x and y; ALL fields are squeezed."""
    return (row.mpp * 4 / 3, row.mpp) if root.name == "all_fields" else (row.mpp, row.mpp)


def middle(row: CropRow):  # type: ignore[no-untyped-def]
    """Middle of a box, (x, y)."""
    return np.array([(row.x1 + row.x2) / 2, (row.y1 + row.y2) / 2])


def covered(rgb):  # type: ignore[no-untyped-def]
    """A disc of one size over the middle."""
    side = len(rgb)
    radius = round(side * DISC_UM / WINDOW_UM / 2)
    return cv2.circle(rgb.copy(), (side // 2, side // 2), radius, (128, 128, 128), cv2.FILLED)


def free_place(rows, size_wh, mpp, rng):  # type: ignore[no-untyped-def]
    """A place whose window touches no cell of the table, or None after some tries."""
    margin = np.array([WINDOW_UM / 2 / mpp[0], WINDOW_UM / 2 / mpp[1]])
    for _ in range(60):
        place = rng.uniform(margin, np.maximum(np.array(size_wh) - margin, margin + 1))
        low, high = place - margin, place + margin
        if not any(r.x1 < high[0] and r.x2 > low[0] and r.y1 < high[1] and r.y2 > low[1] for r in rows):
            return place
    return None


def six_numbers() -> dict[str, object]:
    """Mean colour and sharpness (variance of the Laplacian) of each channel, in a logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = [row for row in read_table(CROPS / "all_fields") if label_of(row, "blast") in ("blast", "wbc")]
    x = np.array([_six(prepare(read_image(CROPS / "all_fields" / row.crop), row.mpp, 0.5, 0.7)) for row in rows])
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
        limit = np.quantile(model.predict_proba(x[train])[truth[train], 1], 1 - SENSITIVITY)
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
