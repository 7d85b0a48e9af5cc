"""Temperature, calibration error, operating threshold, unsure band and distance, each compared with an oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss

from blastdet.training.classification import calibration
from blastdet.training.classification.calibration import MahalanobisOOD


def _drawn(seed: int, n: int = 400, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, n, p=[0.7, 0.2, 0.1][:classes] if classes == 3 else [0.8, 0.2])
    return (rng.normal(0, 1, (n, classes)) + 1.5 * np.eye(classes)[truth]).astype(np.float32), truth


@settings(deadline=None)  # scikit-learn is imported on first use
@given(st.integers(0, 50))
def test_figures_are_those_of_scikit_learn_with_equal_class_weights(seed):
    logits, truth = _drawn(seed)
    weight = calibration.class_weights(truth)
    found = calibration.figures(logits, truth)
    likely = calibration.softmax(logits)
    assert found["balanced accuracy"] == pytest.approx(balanced_accuracy_score(truth, logits.argmax(axis=1)))
    assert found["val_loss"] == pytest.approx(log_loss(truth, likely, sample_weight=weight, labels=[0, 1, 2]))
    expected = brier_score_loss(truth, likely, sample_weight=weight, labels=[0, 1, 2], scale_by_half=False)
    assert calibration.brier(likely, truth) == pytest.approx(expected)


@pytest.mark.parametrize("stretch", [0.25, 1.0, 3.0])
def test_the_temperature_reverts_a_scaling_of_logits(stretch):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (20000, 3))
    likely = calibration.softmax(logits.astype(np.float32))
    truth = np.array([rng.choice(3, p=p) for p in likely])  # logits that are right as they are
    assert calibration.best_temperature((stretch * logits).astype(np.float32), truth) == pytest.approx(stretch, rel=0.1)


def test_correct_probabilities_have_no_calibration_error_and_overconfident_ones_do():
    rng = np.random.default_rng(2)
    p = rng.random(40000)
    blast = rng.random(40000) < p
    assert calibration.blast_reliability(p, blast).error < 0.02
    assert calibration.blast_reliability(np.where(p > 0.5, 1.0, 0.0), blast).error > 0.2


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 50), st.floats(0.3, 2), st.floats(-3, 3))
def test_slope_and_offset_are_those_of_logistic_regression(seed, slope, offset):
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, 600)
    blast = rng.random(600) < 1 / (1 + np.exp(-(slope * logit + offset)))
    blast[:2], blast[2:4] = True, False
    raw = 1 / (1 + np.exp(-logit))
    found = calibration.platt(raw, blast, "cells drawn at random")
    oracle = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    oracle.fit(logit[:, None], blast, sample_weight=600 * calibration.class_weights(blast.astype(int)))
    if oracle.coef_[0, 0] > 0.01:  # ours never reverses the order of cells
        np.testing.assert_allclose(found.apply(raw), oracle.predict_proba(logit[:, None])[:, 1], atol=2e-3)


@given(st.integers(0, 100), st.integers(5, 300))
def test_the_threshold_is_the_highest_that_keeps_the_sensitivity(seed, n):
    rng = np.random.default_rng(seed)
    blast = np.arange(n) % 2 == 0
    p = np.clip(rng.normal(0.4 + 0.3 * blast, 0.2), 0, 1)
    at = calibration.operating_threshold(p, blast).value
    assert (p[blast] >= at).mean() >= calibration.SENSITIVITY
    assert (p[blast] >= np.nextafter(at, 2)).mean() < 1 and (p[blast] > at).mean() <= calibration.SENSITIVITY


@given(st.integers(0, 100))
def test_outside_the_unsure_band_few_are_wrong(seed):
    rng = np.random.default_rng(seed)
    blast = rng.random(500) < 0.5
    p = np.clip(rng.normal(0.4 + 0.3 * blast, 0.15), 0, 1)
    band = calibration.unsure_of(p, blast, rng.random(500))
    assert (p[blast] < band.low).mean() <= calibration.TAIL
    assert (p[~blast] >= band.high).mean() <= calibration.TAIL + 1 / (~blast).sum()
    apart = calibration.unsure_of(np.where(blast, 0.9, 0.1), blast, rng.random(500))
    assert apart.low == apart.high


@pytest.mark.parametrize("n", [1, 50, 99, 1000])
def test_the_erythroblast_threshold_is_the_lowest_with_few_false_positives(n):
    rng = np.random.default_rng(n)
    other, p = rng.random(2 * n) < 0.5, rng.random(2 * n).round(3)
    other[0] = True
    at = calibration.erythroblast_threshold(p, other).value
    assert (p[other] >= at).mean() <= calibration.FALSE_ERYTHROBLASTS
    lower = p[other & (p < at)].max(initial=0)
    assert (p[other] >= lower).mean() > calibration.FALSE_ERYTHROBLASTS


def test_distance_is_that_of_mahalanobis_where_all_axes_are_kept():
    rng = np.random.default_rng(3)
    label = np.arange(600) % 2
    features = (rng.normal(0, [1, 5, 0.5], (600, 3)) + 4 * label[:, None]).astype(np.float32)
    space = MahalanobisOOD.fit(features, label, 2)
    means = np.stack([features[label == k].mean(axis=0) for k in range(2)])
    oracle = EmpiricalCovariance(assume_centered=True).fit(features - means[label])
    expected = np.sqrt(np.stack([oracle.mahalanobis(features - mean) for mean in means]).min(axis=0) / 3)
    np.testing.assert_allclose(space.distance(features), expected, rtol=0.05)
    assert space.distance(features + np.float32([0, 0, 50])).min() > 5 * space.distance(features).max()
