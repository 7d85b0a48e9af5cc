"""Calibration on cells left out of training: out-of-fold predictions, what is fitted to them, and their figures.

A model is more certain on the stains that it was trained on than on others. So the same model is trained several times,
each time without one fold of clusters, or without one laboratory, and the crops of each fold are classified by the
model that has seen neither them nor anything of their groups. Calibration, operating threshold and rejection rule of
the final model, which is trained on everything, are fitted to these predictions.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from blastdet.core.errors import ConfigError
from blastdet.core.model_card import (
    Calibration,
    Metric,
    RejectionRule,
    Threshold,
    ValidationCounts,
    read_card,
    write_card,
)
from blastdet.core.statistics import auroc, weighted_auroc
from blastdet.evaluation.intervals import group_weights, spread_over_groups
from blastdet.training.classification import calibration
from blastdet.training.classification.calibration import Floats, class_weights
from blastdet.training.classification.out_of_fold import Flags, OutOfFold

_RESAMPLES = 1000
_FEWEST = 10  # cells of a cluster that stands for a smear
_LIMIT = "Its figures on validation crops are optimistic: few clusters, and the best epoch was chosen on them."


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


def fit(predicted: OutOfFold) -> CrossFit:
    """What the card of the final model says: fitted to all folds, with counts by cluster that are cross-fitted."""
    _, called, _ = cross_fit(predicted)
    return _fit(predicted).model_copy(update={"trials": counts_by_cluster(predicted, called)})


def counts_by_cluster(predicted: OutOfFold, called: Flags) -> tuple[ValidationCounts, ...]:
    """Blasts and other cells of each cluster left out of training, and how many of them are called blasts.

    Of a laboratory, clusters with few cells count as one: their rates alone would say little about a smear. Groups held
    out of laboratories that were trained on are not among them: they say nothing about a laboratory never seen.
    """
    called, predicted = called[predicted.is_left_out], predicted.only(predicted.is_left_out)
    names, index, size = np.unique(predicted.cluster, return_inverse=True, return_counts=True)
    if predicted.by_laboratory:
        names = np.where(size < _FEWEST, "", names)
    cluster = np.char.add(np.char.add(predicted.laboratory, "/"), names[index])
    trials = []
    for one in np.unique(cluster):
        mine, blast = cluster == one, predicted.is_blast
        trials.append(
            ValidationCounts(
                laboratory=str(predicted.laboratory[mine][0]),
                blasts=int((mine & blast).sum()),
                blasts_called=int((mine & blast & called).sum()),
                others=int((mine & ~blast).sum()),
                others_called=int((mine & ~blast & called).sum()),
            )
        )
    return tuple(trials)


def cross_fit(predicted: OutOfFold) -> tuple[Floats, Flags, Flags]:
    """Calibrated probability, whether called a blast, whether unsure (n,): each fold by a fit to the other folds."""
    n = len(predicted.fold)
    score, called, unsure = np.empty(n), np.empty(n, bool), np.empty(n, bool)
    for k in np.unique(predicted.fold):
        mine = predicted.fold == k
        rest = predicted.only(~mine)
        if not 0 < rest.is_blast.sum() < len(rest.fold):
            raise ConfigError(f"fold {k}: expected blasts and other white cells in the other folds; use more folds")
        fitted = _fit(rest)
        score[mine], called[mine], unsure[mine] = fitted.classify_cells(predicted.probability[mine])
    return score, called, unsure | predicted.is_far


def _fit(predicted: OutOfFold) -> CrossFit:
    n, blast = len(predicted.fold), predicted.is_blast
    where = f"{n} {predicted.data}, out of fold, by {'laboratory' if predicted.by_laboratory else 'cluster'}"
    scaling = calibration.platt(predicted.probability, blast, where, predicted.weight)
    score = scaling.apply(predicted.probability)
    if predicted.by_laboratory:
        threshold = calibration.balanced_threshold(score, blast, predicted.weight, where)
        unsure = calibration.band_around(score, predicted.weight, threshold, np.ones(n))
    else:
        threshold = calibration.operating_threshold(score, blast, where)
        unsure = calibration.unsure_of(score, blast, np.ones(n), where)
    return CrossFit(calibration=scaling, threshold=threshold, unsure=unsure)


def out_of_fold_figures(predicted: OutOfFold) -> dict[str, Any]:
    """Figures of the cross-fitted predictions for what was left out of training.

    Returns
    -------
    dict
        Numbers of cells and clusters; ``[value, low, high]`` with 95 % intervals from a bootstrap over clusters for
        AUROC, sensitivity, specificity, precision, F1 and accuracy; single numbers for the others.
    """
    left = predicted.is_left_out
    score, called, unsure = cross_fit(predicted)
    score, called, unsure, predicted = score[left], called[left], unsure[left], predicted.only(left)
    truth, raw = predicted.is_blast, predicted.probability
    weight = class_weights(truth.astype(np.int64))
    parts = [predicted.fold == k for k in np.unique(predicted.fold)]
    both = [part for part in parts if 0 < truth[part].sum() < part.sum()]
    return {
        "cells": len(truth),
        "clusters": len(np.unique(predicted.cluster)),
        **figures_with_intervals(score, called, truth, predicted.cluster),
        "AUROC of folds": tuple(auroc(raw[part], truth[part]) for part in both),
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
        figure = weighted_auroc(score, truth) if name == "AUROC" else partial(_figure, name, called, truth)
        interval = spread_over_groups([figure(w) for w in weights], len(names), _RESAMPLES)
        found[name] = [figure(np.ones(len(truth))), interval.low, interval.high]
    return found


def _figure(name: str, called: Flags, truth: Flags, w: NDArray[Any]) -> float:
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
    predicted = predicted.only(predicted.is_left_out)
    n, rows = len(predicted.fold), []
    for name, value in figures.items():
        if name.endswith(" before") or not isinstance(value, list | float):
            continue
        one, *interval = (round(number, 4) for number in (value if isinstance(value, list) else [value]))
        known = interval and not np.isnan(interval).any()
        ci95 = (interval[0], interval[1]) if known else None
        split = f"out of fold, by {'laboratory' if predicted.by_laboratory else 'cluster'}"
        rows.append(Metric(data=predicted.data, split=split, n_images=n, n_cells=n, metric=name, value=one, ci95=ci95))
    return tuple(rows)
