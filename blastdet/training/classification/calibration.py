"""Calibration of a classifier: temperature, operating thresholds, rejection rule, distance from the training data.

All classes have equal weight throughout: nine in ten crops of the ALL fields are blasts, in a clinic few cells may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastdet.core.atomic_io import write_figure
from blastdet.core.card_fields.blast_probability import logit as logit_of
from blastdet.core.model_card import Calibration, RejectionRule, Threshold
from blastdet.evaluation.operating_points import Reliability, reliability_of

SENSITIVITY = 0.95
"""Fraction of blasts at or above the operating threshold, which is the highest possible one."""

FALSE_ERYTHROBLASTS = 0.01
"""Fraction of other white cells that may be called erythroblasts, and so leave the differential, on validation."""

TAIL = 0.025
"""Fraction of blasts below the unsure band, and of other cells above it, on validation."""

FAR = 0.01
"""Fraction of validation cells whose distance from the training data exceeds the limit."""

UNSURE = 0.20
"""Fraction of cells of left-out laboratories, all of equal weight, in the unsure band."""

_DIMENSIONS = 64
_PLATEAU = 0.005  # thresholds that are this close to the best one are as good

Floats = NDArray[np.float64]


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> Floats:
    """Probabilities (n, classes) of logits at a temperature."""
    scaled = logits.astype(np.float64) / temperature
    likelihood = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(likelihood / likelihood.sum(axis=1, keepdims=True))


def figures(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, balanced accuracy and cross-entropy; ``fitness`` is the balanced accuracy less a tenth of the last."""
    right = logits.argmax(axis=1) == truth
    balanced = float(right @ class_weights(truth))
    loss = _cross_entropy(logits, truth, 1.0)
    return {
        "accuracy": float(right.mean()),
        "balanced accuracy": balanced,
        "val_loss": loss,
        "fitness": balanced - loss / 10,
    }


def class_weights(truth: NDArray[np.int64]) -> Floats:
    """Weight of each cell (n,): all classes have the same weight, and the sum is 1."""
    n = np.bincount(truth)
    return np.asarray(1 / (n[truth] * np.count_nonzero(n)))


def best_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """The temperature with the lowest cross-entropy, between 0.05 and 20.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda t: _cross_entropy(logits, truth, float(np.exp(t))), bounds=(-3, 3), method="bounded")
    return float(np.exp(found.x))


def _cross_entropy(logits: NDArray[np.float32], truth: NDArray[np.int64], temperature: float) -> float:
    likely = softmax(logits, temperature)[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(likely, 1e-300)) @ class_weights(truth))


def brier(probability: Floats, truth: NDArray[np.int64]) -> float:
    """Mean squared difference of probabilities (n, classes) and truth, from 0 (best) to 2.

    Source: G. W. Brier, Monthly Weather Review 78 (1950) 1-3.
    """
    apart = probability - np.eye(probability.shape[1])[truth]
    return float((apart**2).sum(axis=1) @ class_weights(truth))


def blast_reliability(probability: Floats, is_blast: NDArray[np.bool_]) -> Reliability:
    """Reliability of blast probabilities (n,); blasts and other cells have the same weight."""
    return reliability_of(probability, is_blast, class_weights(is_blast.astype(np.int64)))


def platt(probability: Floats, is_blast: NDArray[np.bool_], where: str, weight: Floats | None = None) -> Calibration:
    """Slope and offset with the lowest cross-entropy; blasts and other cells have the same weight.

    Parameters
    ----------
    probability : (n,)
        Blast probabilities of cells from clusters that the model was not trained on.
    where : str
        Description of the cells, for the card.
    """
    from scipy.optimize import minimize

    logit, sign = logit_of(probability), np.where(is_blast, -1.0, 1.0)
    weight = class_weights(is_blast.astype(np.int64)) if weight is None else weight

    def cross_entropy(x: Floats) -> float:
        return float(weight @ np.logaddexp(0, sign * (np.exp(x[0]) * logit + x[1])))

    slope, offset = minimize(cross_entropy, [0.0, 0.0]).x
    return Calibration(slope=float(np.exp(slope)), offset=float(offset), chosen_on=where)


def operating_threshold(probability: Floats, is_blast: NDArray[np.bool_], where: str = "validation crops") -> Threshold:
    """The highest threshold that keeps `SENSITIVITY` of the blasts; `where` describes the cells, for the card."""
    value = float(np.quantile(probability[is_blast], 1 - SENSITIVITY, method="lower"))
    return Threshold(
        value=value,
        chosen_on=f"{where}, {int(is_blast.sum())} blasts",
        criterion=f"highest threshold that keeps {SENSITIVITY:.0%} of blasts",
    )


def balanced_threshold(probability: Floats, is_blast: NDArray[np.bool_], weight: Floats, where: str) -> Threshold:
    """The threshold with the highest mean of sensitivity and specificity, each weighted; the middle of a plateau."""
    order = np.argsort(probability, kind="stable")
    blast, other = (np.cumsum((weight * mask)[order]) for mask in (is_blast, ~is_blast))
    balanced = (1 - blast / blast[-1] + other / other[-1]) / 2  # of a threshold just above each score
    good = np.flatnonzero(balanced >= balanced.max() - _PLATEAU)
    middle = good[len(good) // 2]
    value = probability[order[middle : middle + 2]].mean()
    return Threshold(
        value=float(value),
        chosen_on=f"{where}, {int(is_blast.sum())} blasts, {int((~is_blast).sum())} others",
        criterion="highest mean of sensitivity and specificity, laboratories of equal weight",
    )


def band_around(probability: Floats, weight: Floats, threshold: Threshold, distance: Floats) -> RejectionRule:
    """The band around a threshold that holds `UNSURE` of the cells by weight, half of them on either side."""
    order = np.argsort(probability, kind="stable")
    rank = np.cumsum(weight[order]) / weight.sum()
    at = np.interp(threshold.value, probability[order], rank)
    low, high = np.interp(np.clip([at - UNSURE / 2, at + UNSURE / 2], 0, 1), rank, probability[order])
    return RejectionRule(
        low=float(min(low, threshold.value)),
        high=float(max(high, threshold.value)),
        distance=float(np.quantile(distance, 1 - FAR)),
        chosen_on=threshold.chosen_on,
        criterion=f"the {UNSURE:.0%} of cells nearest to the threshold; {FAR:.0%} of cells exceed the distance",
    )


def erythroblast_threshold(probability: Floats, is_other: NDArray[np.bool_]) -> Threshold:
    """The lowest threshold for erythroblast probabilities (n,) that `FALSE_ERYTHROBLASTS` of other cells reach."""
    value = float(np.quantile(probability[is_other], 1 - FALSE_ERYTHROBLASTS, method="higher"))
    return Threshold(
        value=min(np.nextafter(value, 1), 1.0),
        chosen_on=f"validation crops, {int(is_other.sum())} other white cells",
        criterion=f"lowest threshold that at most {FALSE_ERYTHROBLASTS:.0%} of other white cells reach",
    )


def unsure_of(
    probability: Floats, is_blast: NDArray[np.bool_], distance: Floats, where: str = "validation crops"
) -> RejectionRule:
    """The band of blast probabilities, and the distance, for which a prediction counts as unsure.

    The band lies between the probability that few blasts are below and the one that few other cells reach. If classes
    are separated so well that the two do not overlap, the band is empty.
    """
    low = float(np.quantile(probability[is_blast], TAIL, method="lower"))
    high = float(np.quantile(probability[~is_blast], 1 - TAIL, method="higher"))
    return RejectionRule(
        low=low,
        high=max(low, high),
        distance=float(np.quantile(distance, 1 - FAR)),
        chosen_on=f"{where}, {int(is_blast.sum())} blasts, {int((~is_blast).sum())} others",
        criterion=f"{TAIL:.1%} of blasts are below the band, {TAIL:.1%} of others above; "
        f"{FAR:.0%} of cells exceed the distance",
    )


@dataclass(frozen=True, eq=False)
class MahalanobisOOD:
    """Out-of-distribution score: Mahalanobis distance from the nearest class mean, in the features of the last layer.

    Parameters
    ----------
    centre : float32 (features,)
        Subtracted from the features first, against rounding of small differences of large numbers.
    means : float32 (classes, m)
        Class means in whitened axes, relative to the centre.
    axes : float32 (features, m)
        Projects features to axes along which the cells of a class have the same variance.
    """

    centre: NDArray[np.float32]
    means: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32], label: NDArray[np.int64], classes: int) -> MahalanobisOOD:
        """From class means and the pooled within-class scatter, along its 64 axes of largest variance.

        Source: K. Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
        attacks", NeurIPS 2018; restricted to the largest axes, since the others are noise.
        """
        means = np.stack([features[label == k].mean(axis=0, dtype=np.float64) for k in range(classes)])
        apart = features.astype(np.float64) - means[label]
        scale = apart.std(axis=0) + 1e-9  # independent of units
        values, vectors = np.linalg.eigh(np.cov(apart / scale, rowvar=False))
        widest = slice(max(len(values) - _DIMENSIONS, 0), None)
        spread = np.sqrt(values[widest] + 1e-3 * max(values.mean(), 1e-12))
        axes = vectors[:, widest] / scale[:, None] / spread / np.sqrt(len(spread))
        centre = means.mean(axis=0).astype(np.float32)
        return cls(centre, ((means - centre) @ axes).astype(np.float32), axes.astype(np.float32))

    def distance(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distance (n,) of features (n, f) from the nearest class; about 1 for cells like the training data."""
        apart = ((features - self.centre) @ self.axes)[:, None] - self.means
        return np.asarray(np.sqrt((apart**2).sum(axis=2)).min(axis=1), np.float32)


@dataclass(frozen=True, eq=False)
class CalibrationResult:
    """Calibration of a trained model on validation crops.

    Parameters
    ----------
    space : MahalanobisOOD
    temperature : float
    probability : float64 (n, classes)
        Of the validation crops, calibrated.
    distance : float64 (n,)
    truth : int64 (n,)
    """

    space: MahalanobisOOD
    temperature: float
    probability: Floats
    distance: Floats
    truth: NDArray[np.int64]


def calibrate(
    predicted: tuple[NDArray[np.float32], NDArray[np.float32]],
    truth: NDArray[np.int64],
    trained_on: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> CalibrationResult:
    """Temperature and feature space of a trained model.

    Parameters
    ----------
    predicted : (float32 (n, classes), float32 (n, f))
        Logits and features of validation crops.
    truth : int64 (n,)
    trained_on : (float32 (m, f), int64 (m,))
        Features and labels of training crops.
    """
    logits, features = predicted
    space = MahalanobisOOD.fit(*trained_on, logits.shape[1])
    at = best_temperature(logits, truth)
    return CalibrationResult(space, at, softmax(logits, at), space.distance(features).astype(np.float64), truth)


def draw_reliability(curve: Reliability, path: Path) -> None:
    """Reliability diagram; a calibrated model is on the diagonal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    axes.plot(curve.mean_score, curve.fraction_right, marker="o", color="#d51e2d")
    for x, y, n in zip(curve.mean_score, curve.fraction_right, curve.n, strict=True):
        if n:
            axes.annotate(str(n), (x, y), textcoords="offset points", xytext=(5, -9), fontsize=7, color="0.3")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="blast probability", ylabel="fraction of blasts")
    axes.set_title(f"validation, classes of equal weight; calibration error {curve.error:.3f}", fontsize=9)
    write_figure(path, figure, 150)
