"""Calibration on clusters left out of training: out-of-fold predictions, what is fitted to them, and their figures.

A model is more certain on the stains that it was trained on than on others. So the same model is trained several times,
each time without one fold of clusters, and the crops of each fold are classified by the model that has seen neither
them nor anything of their groups. Calibration, operating threshold and rejection rule of the final model, which is
trained on all clusters, are fitted to these predictions.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from blastdet.core.errors import ConfigError, differing
from blastdet.core.model_card import (
    Calibration,
    Metric,
    RejectionRule,
    Threshold,
    ValidationCounts,
    read_card,
    write_card,
)
from blastdet.core.types import ERYTHROBLAST
from blastdet.datasets.crop_dataset import CropRow, read_table
from blastdet.evaluation.intervals import group_weights, spread_over_groups
from blastdet.imaging.io import read_image
from blastdet.models.classifier import load_classifier
from blastdet.training.classification import calibration
from blastdet.training.classification.calibration import Floats, class_weights
from blastdet.training.classification.crop_samples import folds, label_of
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import expand, read_any
from blastdet.training.loop.run_folder import CONFIG, WEIGHTS, check_run
from blastdet.training.loop.session import Progress

FOLDS = "folds"
_BATCH = 500
_RESAMPLES = 1000
_OWN = ("name", "fold", "folds", "features", "init", "limits")  # entries in which a model and its folds may differ
_LIMIT = "Its figures on validation crops are optimistic: few clusters, and the best epoch was chosen on them."

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """White cells, each classified by a model whose training has not seen its cluster.

    Parameters
    ----------
    probability : float64 (n,)
        Blast probability as the model gives it.
    is_blast : bool (n,)
    cluster : str (n,)
    fold : int64 (n,)
    is_far : bool (n,)
        Whether the cell is farther from the training data than the rejection rule of its model allows.
    data : str
        What the cells are, for the card.
    """

    probability: Floats
    is_blast: Flags
    cluster: NDArray[np.str_]
    fold: NDArray[np.int64]
    is_far: Flags
    data: str


class CrossFit(BaseModel):
    """Calibration, operating threshold and rejection rule for out-of-fold blast probabilities; counts by cluster."""

    calibration: Calibration
    threshold: Threshold
    unsure: RejectionRule
    trials: tuple[ValidationCounts, ...] = ()

    def classify_cells(self, probability: Floats) -> tuple[Floats, Flags, Flags]:
        """Calibrated probability, whether called a blast, whether in the unsure band; each (n,)."""
        score = self.calibration.apply(probability)
        return score, score >= self.threshold.value, self.unsure.covers(score, np.zeros(len(score)))


def train_classifier(
    config: ClassifyConfig, base: Path, run: Path, device: str, resume: bool, progress: Progress
) -> Path:
    """Train one classifier of crops, of pixels or of features; parameters and errors as `train_network`."""
    if config.features:
        from blastdet.training.classification.sklearn_models import train_on_features

        return train_on_features(config, base, run, device, resume, progress)
    from blastdet.training.classification.cnn import train_network

    return train_network(config, base, run, device, resume, progress)


def train_folds(config: ClassifyConfig, base: Path, run: Path, device: str, progress: Progress) -> tuple[Path, ...]:
    """Train the models of a configuration's ``folds``; finished ones are kept, started ones are resumed.

    Returns
    -------
    tuple of Path
        Their run folders, ``folds/fold-K`` below `run`.
    """
    assert config.folds is not None
    runs = tuple(run / FOLDS / f"fold-{k}" for k in range(config.folds))
    for k, folder in enumerate(runs):
        progress.say(f"fold {k + 1} of {config.folds}: {folder}")
        mine, started = _without_fold(config, base, k), (folder / CONFIG).is_file()
        if started:
            check_run(mine, folder, resume=True)
        if not (folder / WEIGHTS / "card.json").is_file():
            train_classifier(mine, base, folder, device, started, progress)
    return runs


def _without_fold(config: ClassifyConfig, base: Path, k: int) -> ClassifyConfig:
    n, features = config.folds, config.features
    if features and features != "hand-made":
        path = Path(features).parent / FOLDS / f"fold-{k}" / WEIGHTS
        if not (expand(str(path), base) / "card.json").is_file():
            raise ConfigError(
                f"features: {features}: its network has seen all folds; expected one without fold {k} at {path}. "
                f"Train it with folds: {n} first"
            )
        features = str(path)
    changes = {"fold": [k, n], "folds": None, "name": f"{config.name}-fold-{k}", "features": features}
    return ClassifyConfig.model_validate(config.model_dump() | changes)


def predict_out_of_fold(runs: Sequence[Path], base: Path) -> OutOfFold:
    """Classify the crops of each fold by the model that was trained without it.

    Raises `ConfigError` if a run was not trained without a fold, a fold is missing, or the crops show no blast or no
    other white cell.

    Parameters
    ----------
    base : Path
        Folder that paths of their configurations are relative to.
    """
    by_fold = sorted((_fold_of(run), run) for run in runs)
    n = by_fold[0][0][1]
    if [fold for fold, _ in by_fold] != [(k, n) for k in range(n)]:
        given = ", ".join(f"{k} of {of}" for (k, of), _ in by_fold)
        raise ConfigError(f"{runs[0]}: expected runs for folds 0 to {n - 1} of {n}, got {given}")
    parts, names = [], []
    for (k, _), run in by_fold:
        config = read_any(run / CONFIG)
        assert isinstance(config, ClassifyConfig)
        for item in config.data:
            folder = expand(item.path, base)
            rows = [] if folder.name in config.leave_out else _white_cells(folder, k, n)
            if rows:
                names.append(folder.name)
                parts.append(_classified(run / WEIGHTS, folder, rows, k))
    columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    if not columns or not 0 < columns[1].sum() < len(columns[1]):
        raise ConfigError(f"{runs[0].parent}: expected blasts and other white cells with a cluster in the folds")
    blast, is_blast, cluster, fold, far = columns
    return OutOfFold(blast, is_blast, cluster, fold, far, f"crops of {', '.join(dict.fromkeys(names))}")


def _fold_of(run: Path) -> tuple[int, int]:
    config = read_any(run / CONFIG)
    if not isinstance(config, ClassifyConfig) or config.fold is None or "blast" not in config.classes:
        raise ConfigError(f"{run / CONFIG}: expected a classifier of blasts with an entry fold: [k, n]")
    return config.fold


def _white_cells(folder: Path, k: int, n: int) -> list[CropRow]:
    """Blasts and other white cells of a fold; erythroblasts are neither."""
    table = read_table(folder)
    dealt = folds(table, n)
    mine = [row for row in table if row.split != "test" and dealt.get(row.cluster) == k]
    return [row for row in mine if label_of(row, "blast") in ("blast", "wbc") and row.cell_type != ERYTHROBLAST]


def _classified(weights: Path, folder: Path, rows: list[CropRow], k: int) -> tuple[Any, ...]:
    """Columns of `OutOfFold` for the crops of one folder."""
    card = read_card(weights)
    if card.calibration is not None or card.unsure is None:
        raise ConfigError(f"{weights}: expected weights as `blastdet train` leaves them, not calibrated again")
    model = load_classifier(weights, "cpu")
    outputs = [
        model([read_image(folder / row.crop) for row in some], [row.mpp for row in some])
        for some in (rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH))
    ]
    blast = np.concatenate([output.probability[:, card.classes.index("blast")] for output in outputs])
    far = np.concatenate([output.distance for output in outputs]) > card.unsure.distance
    is_blast = np.array([label_of(row, "blast") == "blast" for row in rows])
    clusters = np.array([f"{folder.name}/{row.cluster}" for row in rows])
    return blast.astype(np.float64), is_blast, clusters, np.full(len(rows), k), far


def fit(predicted: OutOfFold) -> CrossFit:
    """What the card of the final model says: fitted to all folds, with counts by cluster that are cross-fitted."""
    _, called, _ = cross_fit(predicted)
    trials = []
    for one in np.unique(predicted.cluster):
        mine, blast = predicted.cluster == one, predicted.is_blast
        trials.append(
            ValidationCounts(
                blasts=int((mine & blast).sum()),
                blasts_called=int((mine & blast & called).sum()),
                others=int((mine & ~blast).sum()),
                others_called=int((mine & ~blast & called).sum()),
            )
        )
    whole = _fit(predicted.probability, predicted.is_blast, predicted.data)
    return whole.model_copy(update={"trials": tuple(trials)})


def cross_fit(predicted: OutOfFold) -> tuple[Floats, Flags, Flags]:
    """Calibrated probability, whether called a blast, whether unsure (n,): each fold by a fit to the other folds."""
    n = len(predicted.fold)
    score, called, unsure = np.empty(n), np.empty(n, bool), np.empty(n, bool)
    for k in np.unique(predicted.fold):
        mine = predicted.fold == k
        rest = predicted.is_blast[~mine]
        if not 0 < rest.sum() < len(rest):
            raise ConfigError(f"fold {k}: expected blasts and other white cells in the other folds; use more folds")
        fitted = _fit(predicted.probability[~mine], rest, predicted.data)
        score[mine], called[mine], unsure[mine] = fitted.classify_cells(predicted.probability[mine])
    return score, called, unsure | predicted.is_far


def _fit(probability: Floats, is_blast: Flags, data: str) -> CrossFit:
    where = f"{len(probability)} {data}, out of fold, by cluster"
    scaling = calibration.platt(probability, is_blast, where)
    score = scaling.apply(probability)
    return CrossFit(
        calibration=scaling,
        threshold=calibration.operating_threshold(score, is_blast, where),
        unsure=calibration.unsure_of(score, is_blast, np.ones(len(score)), where),
    )


def out_of_fold_figures(predicted: OutOfFold) -> dict[str, Any]:
    """Figures of the cross-fitted predictions.

    Returns
    -------
    dict
        Numbers of cells and clusters; ``[value, low, high]`` with 95 % intervals from a bootstrap over clusters for
        AUROC, sensitivity, specificity, precision, F1 and accuracy; single numbers for the others.
    """
    score, called, unsure = cross_fit(predicted)
    truth, raw = predicted.is_blast, predicted.probability
    weight = class_weights(truth.astype(np.int64))
    parts = [predicted.fold == k for k in np.unique(predicted.fold)]
    both = [part for part in parts if 0 < truth[part].sum() < part.sum()]
    return {
        "cells": len(truth),
        "clusters": len(np.unique(predicted.cluster)),
        **figures_with_intervals(score, called, truth, predicted.cluster),
        "AUROC of folds": tuple(calibration.auroc(raw[part], truth[part]) for part in both),
        "specificity at sensitivity 0.95": float((score[~truth] < np.quantile(score[truth], 0.05)).mean()),
        "calibration error": calibration.blast_reliability(score, truth).error,
        "calibration error before": calibration.blast_reliability(raw, truth).error,
        "Brier score": float(weight @ (score - truth) ** 2),
        "Brier score before": float(weight @ (raw - truth) ** 2),
        "unsure": float(unsure.mean()),
        "accuracy without unsure": float((called == truth)[~unsure].mean()) if (~unsure).any() else float("nan"),
    }


def figures_with_intervals(
    score: Floats, called: Flags, truth: Flags, cluster: NDArray[np.str_]
) -> dict[str, list[float]]:
    """``[value, low, high]`` of each figure, with a 95 % interval from a bootstrap over clusters."""
    names, index = np.unique(cluster, return_inverse=True)
    weights = [w for w in group_weights(index, _RESAMPLES) if 0 < w[truth].sum() < w.sum()]
    found = {}
    for name in ("AUROC", "sensitivity", "specificity", "precision", "F1", "accuracy"):
        figure = partial(_figure, name, score, called, truth)
        interval = spread_over_groups([figure(w) for w in weights], len(names), _RESAMPLES)
        found[name] = [figure(np.ones(len(truth))), interval.low, interval.high]
    return found


def _figure(name: str, score: Floats, called: Flags, truth: Flags, w: NDArray[Any]) -> float:
    if name == "AUROC":
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(truth, score, sample_weight=w))
    hits, calls, blasts = w[called & truth].sum(), w[called].sum(), w[truth].sum()
    parts = {
        "sensitivity": (hits, blasts),
        "specificity": (w[~called & ~truth].sum(), w[~truth].sum()),
        "precision": (hits, calls),
        "F1": (2 * hits, calls + blasts),
        "accuracy": (w[called == truth].sum(), w.sum()),
    }
    part, whole = parts[name]
    return float(part / whole) if whole else float("nan")


def check_same_model(run: Path, folds_of_it: Sequence[Path]) -> None:
    """Refuse folds that were trained with other settings than the model that they calibrate.

    Raises `ConfigError`.
    """
    whole = _comparable(run)
    for fold in folds_of_it:
        if other := differing(whole, _comparable(fold)):
            raise ConfigError(f"{fold / CONFIG}: expected the configuration of {run}, differs in {', '.join(other)}")


def _comparable(run: Path) -> dict[str, Any]:
    config = read_any(run / CONFIG).model_dump(mode="json")
    return {key: value for key, value in config.items() if key not in _OWN}


def write_calibrated(weights: Path, folder: Path, predicted: OutOfFold) -> dict[str, Any]:
    """Copy weights to an empty folder, with a card that has the cross-fitted calibration; returns the figures."""
    card, fitted, figures = read_card(weights), fit(predicted), out_of_fold_figures(predicted)
    if "blast" not in card.classes or card.unsure is None:
        raise ConfigError(f"{weights}: expected a classifier of blasts, got classes {list(card.classes)}")
    for name in card.files:
        shutil.copy(weights / name, folder / name)
    changes = {
        "calibration": fitted.calibration,
        "thresholds": {**card.thresholds, "blast": fitted.threshold},
        "unsure": fitted.unsure.model_copy(update={"distance": card.unsure.distance}),
        "trials": fitted.trials,
        "metrics": (*_metrics(figures, predicted), *(one for one in card.metrics if not one.split.startswith("out"))),
        "limits": tuple(dict.fromkeys((*card.limits, _LIMIT))),
    }
    write_card(card.model_copy(update=changes), folder)
    return figures


def _metrics(figures: dict[str, Any], predicted: OutOfFold) -> tuple[Metric, ...]:
    n, rows = len(predicted.fold), []
    for name, value in figures.items():
        if name.endswith(" before") or not isinstance(value, list | float):
            continue
        one, *interval = (round(number, 4) for number in (value if isinstance(value, list) else [value]))
        known = interval and not np.isnan(interval).any()
        ci95 = (interval[0], interval[1]) if known else None
        split = "out of fold, by cluster"
        rows.append(Metric(data=predicted.data, split=split, n_images=n, n_cells=n, metric=name, value=one, ci95=ci95))
    return tuple(rows)
