"""Which change is chosen for laboratories whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import inv, sqrtm

from blastdet.inference.adaptation.choosing import choose, cross_validated, figures, folds_of
from blastdet.inference.adaptation.fitting import (
    CANDIDATES,
    LAST_LAYER,
    OFFSET,
    SCALING,
    SHRINKAGE,
    UNCHANGED,
    Candidate,
    LabelledCells,
    log_losses,
    standardisation,
)


def _cells(logit, is_blast, features=None, smears=5):
    n = len(logit)
    features = np.zeros((n, 0)) if features is None else features
    smear = np.array([f"s{i % smears}" for i in range(n)])
    return LabelledCells(np.asarray(logit, float), features.astype(np.float32), np.ones(n, np.float32), is_blast, smear)


def _laboratory(n=60, seed=0, smears=5):
    """A hidden score (n,) that follows a calibrated model, and truth drawn from it."""
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 4, n)
    return score, rng.random(n) < 1 / (1 + np.exp(-score)), rng


def _balanced_accuracy(logit, is_blast, point=0.0):
    return ((logit[is_blast] >= point).mean() + (logit[~is_blast] < point).mean()) / 2


@pytest.mark.parametrize("seed", range(3))
def test_a_shifted_laboratory_is_mended(seed):
    score, is_blast, _ = _laboratory(seed=seed)
    choice = choose(_cells(score - 8, is_blast))
    assert choice.candidate.method in (OFFSET, SCALING) and not choice.is_blind
    assert _balanced_accuracy(score - 8, is_blast) < 0.65
    assert _balanced_accuracy(choice.logit, is_blast) > 0.8
    head = choice.candidate.fit(_cells(score - 8, is_blast))
    assert 5 < head.offset / head.slope < 11


def test_an_overconfident_model_gets_a_slope():
    score, is_blast, _ = _laboratory(200)
    choice = choose(_cells(score * 5, is_blast))
    assert choice.candidate.method == SCALING
    assert 0.1 < choice.candidate.fit(_cells(score * 5, is_blast)).slope < 0.4


def test_a_model_that_looks_at_the_wrong_thing_gets_a_last_layer():
    score, is_blast, rng = _laboratory(80)
    features = rng.normal(size=(80, 40))
    features[:, 3] = score
    choice = choose(_cells(rng.normal(0, 3, 80), is_blast, features))
    assert choice.candidate.method == LAST_LAYER
    assert _balanced_accuracy(choice.logit, is_blast) > 0.7


@pytest.mark.parametrize("seed", range(5))
def test_a_good_model_stays_as_it_is(seed):
    score, is_blast, rng = _laboratory(seed=seed)
    assert choose(_cells(score, is_blast, rng.normal(size=(60, 40)))).candidate.method == UNCHANGED


def test_labels_that_follow_nothing_are_noticed():
    """But for one in ten, by chance."""
    passed = []
    for seed in range(20):
        score, _, rng = _laboratory(seed=seed)
        choice = choose(_cells(score, rng.random(60) < 0.5, rng.normal(size=(60, 40))))
        passed.append(not choice.is_blind and choice.candidate.method != UNCHANGED)
    assert sum(passed) <= 4


class _Spy(Candidate):
    """Notes the smears that it is fitted to."""

    seen: list[set[str]] = []  # noqa: RUF012

    def fit(self, cells):
        self.seen.append(set(cells.smear.tolist()))
        return super().fit(cells)


def test_each_smear_is_left_out_of_the_fit_that_judges_it():
    score, is_blast, _ = _laboratory()
    cells = _cells(score - 8, is_blast, smears=6)
    folds = folds_of(cells)
    _Spy.seen.clear()
    logit = cross_validated(_Spy(OFFSET), cells, folds)
    names = {f"s{i}" for i in range(6)}
    assert folds.by_smear and folds.description == "leave one smear out"
    assert sorted(map(sorted, _Spy.seen)) == sorted(sorted(names - {one}) for one in names)
    for one in names:
        mine = cells.smear == one
        np.testing.assert_allclose(logit[mine], Candidate(OFFSET).fit(cells[~mine])(cells.logit, cells.features)[mine])


def test_what_only_tells_smears_apart_does_not_count():
    """A feature of each smear that gives the label away within it is of no use on a smear left out."""
    _score, is_blast, rng = _laboratory(80)
    smear = np.arange(80) % 5
    features = np.zeros((80, 5))
    features[np.arange(80), smear] = np.where(is_blast, 5, -5)
    cells = _cells(rng.normal(size=80), is_blast, features)
    last = CANDIDATES[-1]
    assert _balanced_accuracy(last.fit(cells)(cells.logit, cells.features), is_blast) > 0.95
    assert _balanced_accuracy(cross_validated(last, cells, folds_of(cells)), is_blast) < 0.7


def test_many_smears_are_left_out_in_twenty_folds():
    score, is_blast, _ = _laboratory(100)
    cells = _cells(score, is_blast, smears=50)
    folds = folds_of(cells)
    assert folds.by_smear and len(np.unique(folds.fold)) == 20
    assert all(len(np.unique(folds.fold[cells.smear == name])) == 1 for name in np.unique(cells.smear))


def test_one_smear_is_split_into_cells_and_said_so():
    score, is_blast, _ = _laboratory()
    folds = folds_of(_cells(score, is_blast, smears=1))
    assert not folds.by_smear and np.bincount(folds.fold, is_blast).min() >= is_blast.sum() // 5
    assert "one smear" in folds.notes[0]


def test_where_the_smear_tells_the_class_features_are_not_used():
    _score, is_blast, rng = _laboratory(80)
    features = np.where(is_blast[:, None], 3.0, -3.0) + rng.normal(size=(80, 10))
    smear = np.where(is_blast, "patient", "healthy")
    cells = LabelledCells(rng.normal(size=80), features.astype(np.float32), np.ones(80, np.float32), is_blast, smear)
    choice = choose(cells)
    assert choice.candidate.method != LAST_LAYER and LAST_LAYER not in {one.method for one in choice.losses}
    assert "stain could tell them apart" in choice.folds.notes[0]


@pytest.mark.parametrize("candidate", CANDIDATES[1:], ids=lambda one: one.name)
def test_fits_are_minima(candidate):
    """Nothing near a solution has a lower penalised loss; checked for slope and offset, which all candidates have."""
    score, is_blast, rng = _laboratory()
    cells = _cells(score * 2 - 6, is_blast, rng.normal(size=(60, 8)))
    head = candidate.fit(cells)

    def loss(slope, offset):
        logit = head(cells.logit, cells.features) + (slope - head.slope) * cells.logit + offset - head.offset
        prior = {OFFSET: 0, SCALING: 5 * np.log(slope) ** 2, LAST_LAYER: (slope - 1) ** 2}[candidate.method]
        return 60 * cells.weight @ log_losses(logit, is_blast) + prior / 2 + 1e-3 / 2 * offset**2

    steps = [(0, 0.02), (0, -0.02)] + ([] if candidate.method == OFFSET else [(0.02, 0), (-0.02, 0)])
    least = loss(head.slope, head.offset)
    assert all(loss(head.slope + a, head.offset + b) > least for a, b in steps)


def test_the_classes_have_equal_weight():
    score, is_blast, _ = _laboratory(60)
    cells = _cells(score - 3, is_blast)
    rows = np.concatenate([np.arange(60), *[np.flatnonzero(~is_blast)] * 9])  # ten times as many others
    once, often = (Candidate(OFFSET).fit(some).offset for some in (cells, cells[rows]))
    assert abs(once - often) < 0.02


def test_features_are_standardised_by_the_shrunk_spread_within_classes():
    _, is_blast, rng = _laboratory(30)
    features = (rng.normal(size=(30, 50)) @ rng.normal(size=(50, 50))).astype(np.float32)
    cells = _cells(np.zeros(30), is_blast, features)
    centre, axes = standardisation(cells)
    means = np.stack([features[is_blast == k].mean(axis=0, dtype=float) for k in (False, True)])
    apart = features - means[is_blast.astype(int)]
    covariance = apart.T @ apart / 28
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / 50 * np.eye(50)
    np.testing.assert_allclose(centre, means.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(axes, inv(np.real(sqrtm(shrunk))), atol=1e-6)


def test_figures_have_intervals_that_are_never_a_point():
    score, is_blast, _ = _laboratory(40)
    for smears in (1, 8):
        cells = _cells(score, is_blast, smears=smears)
        choice = replace(choose(_cells(score - 8, is_blast)), logit=np.where(is_blast, 5.0, -5.0))
        found = {one.metric: one for one in figures(cells, choice, 0.88)}
        one = found["balanced accuracy"]
        assert one.before == pytest.approx(_balanced_accuracy(score, is_blast, 2.0), abs=1e-2) and one.after == 1
        assert one.ci95_after is not None and one.ci95_after[0] < 0.98 and one.ci95_after[1] > 0.99
        assert one.ci95_before is not None and one.ci95_before[0] < one.before < one.ci95_before[1]
        assert found["Brier score"].after < 0.001
