"""The area under the ROC curve, compared with an oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from blastdet.core.statistics import auroc, weighted_auroc


def test_auroc_is_that_of_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 9, 60) / 9, rng.random(60) < 0.4
    weights = rng.integers(0, 3, (5, 60))
    expected = [roc_auc_score(positive, score, sample_weight=row) for row in weights]
    area = weighted_auroc(score, positive)
    np.testing.assert_allclose(area(weights), expected)
    assert area(weights[0]) == pytest.approx(expected[0]) and isinstance(area(weights[0]), float)
    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score))


def test_items_of_one_kind_have_no_auroc():
    assert math.isnan(auroc(np.arange(3.0), np.ones(3, bool)))
