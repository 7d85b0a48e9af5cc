"""Confusion matrices: optimal pairs, both matchings, and classification figures against scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core.types import CELL_CLASSES, Dataset, Detections
from blastdet.evaluation.confusion import best_pairs, class_figures, confusion, joint_figures
from blastdet.evaluation.reporting.worst_errors import worst_errors
from evaluation.build import cells, dataset, problems

CLASSES = ("blast", "wbc", "rbc")
HALF = dict.fromkeys(CLASSES, 0.5)


def _brute_force(allowed: np.ndarray, gain: np.ndarray) -> tuple[int, float]:
    n, m = allowed.shape
    best = (0, 0.0)
    for columns in permutations([*range(m), *[-1] * n], n):
        pairs = [(i, j) for i, j in enumerate(columns) if j >= 0 and allowed[i, j]]
        best = max(best, (len(pairs), round(sum(gain[p] for p in pairs), 9)))
    return best


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(0, 3))
def test_best_pairs_are_optimal(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    allowed, gain = rng.random((n, m)) < 0.6, rng.random((n, m))
    rows, columns = best_pairs(allowed, gain)
    assert len(set(rows.tolist())) == len(rows) and len(set(columns.tolist())) == len(columns)
    assert allowed[rows, columns].all()
    assert (len(rows), pytest.approx(gain[rows, columns].sum(), abs=1e-6)) == _brute_force(allowed, gain)


def test_two_cells_are_found_where_greedy_finds_one() -> None:
    """The better box fits both cells. If the first cell took it, the other box would have no cell."""
    truth = cells([(0, 0, 100, 100), (30, 0, 130, 100)])
    found = cells([(12, 0, 112, 100, 0.9), (-25, 0, 75, 100, 0.8)])
    matrix = confusion(dataset([truth]), [found], CLASSES, HALF).matrix
    assert matrix[1, 1] == 2 and matrix.sum() == 2


def test_both_matchings_on_one_confused_cell() -> None:
    truth = cells([(0, 0, 10, 10), (50, 50, 60, 60)], [0, 1])
    found = cells([(0, 0, 10, 10, 0.9), (80, 80, 90, 90, 0.9), (50, 50, 60, 60, 0.4)], [1, 2, 1])
    blind = confusion(dataset([truth]), [found], CLASSES, HALF)
    assert blind.matrix.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    aware = confusion(dataset([truth]), [found], CLASSES, HALF, "class-aware")
    assert aware.matrix.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert blind.title == "class-blind matching, IoU ≥ 0.5, score ≥ 0.5"
    uneven = confusion(dataset([truth]), [found], CLASSES, {**HALF, "rbc": 0.95})
    assert uneven.title.endswith("score ≥ blast 0.5, wbc 0.5, rbc 0.95")
    assert uneven.matrix[3].sum() == 0


@settings(max_examples=80, deadline=None)
@given(problems())
def test_every_cell_and_every_box_is_counted_once(problem: tuple[Dataset, list[Detections]]) -> None:
    data, found = problem
    data = Dataset("made", data.root, tuple(replace(s, annotated=CLASSES) for s in data))
    blind, aware = (confusion(data, found, CLASSES, HALF, how) for how in ("class-blind", "class-aware"))
    for result in (blind, aware):
        for sample, part, counts in zip(data, found, result.per_smear, strict=True):
            if sample.truth is None:
                assert not counts.any()
                continue
            kept = sample.truth.label[~sample.truth.ignore] if sample.truth.ignore is not None else sample.truth.label
            assert counts[:-1].sum(axis=1).tolist() == np.bincount(kept, minlength=3)[:3].tolist()
            assert counts[:, :-1].sum() <= (part.score >= 0.5).sum()
    off_diagonal = aware.matrix[:-1, :-1] - np.diag(np.diag(aware.matrix)[:-1])
    assert not off_diagonal.any()
    # Class-blind pairs are as many as can be, so at least as many as pairs within classes.
    assert blind.matrix[:-1, :-1].sum() >= aware.matrix[:-1, :-1].sum()


def test_ignored_and_unknown_are_left_out() -> None:
    truth = cells([(0, 0, 100, 100), (200, 200, 300, 300)], [1, 1], ignore=[True, False])
    found = cells([(20, 20, 40, 40), (500, 500, 520, 520), (200, 200, 300, 300)], [0, 2, 2])
    data = dataset([truth], annotated=("blast", "wbc"))
    matrix = confusion(data, [found], CLASSES, HALF).matrix
    # The smudge hides the first box, the second is of a class that is not annotated, the third is a wrong class.
    assert matrix.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_figures_over_matched_cells_equal_scikit_learn(labels: list[tuple[int, int]]) -> None:
    """If every cell is detected exactly, this is classification."""
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    rows = [(20 * i, 0, 20 * i + 10, 10) for i in range(len(labels))]
    true, predicted = (list(side) for side in zip(*labels, strict=True))
    data = dataset([cells(rows, true)])
    result = confusion(data, [cells(rows, predicted)], CLASSES, HALF)
    assert result.matrix[:-1, :-1].tolist() == confusion_matrix(true, predicted, labels=[0, 1, 2]).tolist()
    p, r, f, _ = precision_recall_fscore_support(true, predicted, labels=[0, 1, 2], zero_division=np.nan)
    for k, name in enumerate(CLASSES):
        values = {figure.name: figure.value for figure in class_figures(result, name, resamples=10)}
        np.testing.assert_allclose([values["precision"], values["sensitivity"]], [p[k], r[k]])
        if true.count(k) and predicted.count(k):
            assert values["F1"] == pytest.approx(f[k])
        others = [t != k for t in true]
        if any(others):
            specificity = sum(t != k and q != k for t, q in labels) / sum(others)
            assert values["specificity over matched cells"] == pytest.approx(specificity)
    joint = {figure.name: figure.value for figure in joint_figures(result, resamples=10)}
    assert joint["classification: correct class among found cells"] == pytest.approx(accuracy_score(true, predicted))


def test_joint_is_localisation_times_classification() -> None:
    truth = cells([(20 * i, 0, 20 * i + 10, 10) for i in range(10)])
    found = cells([(20 * i, 0, 20 * i + 10, 10) for i in range(8)], [1] * 6 + [0] * 2)
    found_share, _, right, joint = joint_figures(confusion(dataset([truth]), [found], CLASSES, HALF), resamples=10)
    assert (found_share.value, right.value, joint.value) == (0.8, 0.75, pytest.approx(0.6))
    assert joint.n == 10


def test_a_proportion_of_one_has_an_interval_with_width() -> None:
    truth = cells([(0, 0, 10, 10)])
    result = confusion(dataset([truth] * 5), [truth] * 5, CLASSES, HALF)
    sensitivity = class_figures(result, "wbc", resamples=50)[0]
    assert sensitivity.value == 1
    assert sensitivity.interval.low == pytest.approx(0.025 ** (1 / 5))  # Clopper-Pearson, 5 of 5
    assert "5 groups" in sensitivity.interval.method


def test_worst_errors_take_turns() -> None:
    truth = cells([(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)], [1, 1, 0])
    found = cells(
        [(0, 0, 10, 10, 0.2), (40, 0, 50, 10, 0.8), (60, 60, 70, 70, 0.9), (80, 80, 90, 90, 0.6)], [1, 1, 2, 2]
    )
    result = confusion(dataset([truth]), [found], CLASSES, HALF)
    errors = worst_errors(dataset([truth]), [found], result)
    assert [(e.kind, e.truth_class, e.found_class, round(e.score, 1)) for e in errors] == [
        ("missed", "wbc", "", 0.0),
        ("false", "", "rbc", 0.9),
        ("wrong class", "blast", "wbc", 0.8),
        ("missed", "wbc", "", 0.2),
        ("false", "", "rbc", 0.6),
    ]
    assert len(worst_errors(dataset([truth]), [found], result, 2)) == 2


def test_classes_are_in_the_order_of_cell_classes() -> None:
    assert CELL_CLASSES[:3] == CLASSES


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_matrix_is_that_of_supervision_where_boxes_meet_in_pairs(rows: list[tuple[int, int, int]]) -> None:
    """Cells far apart, at most one box per cell, and no ignored cells: both conventions agree."""
    places = [(100 * (i % 7), 100 * (i // 7)) for i in range(len(rows))]
    true = [(x, y, x + 40, y + 40) for x, y in places]
    seen = [(place, label, shift) for place, (_, label, shift) in zip(places, rows, strict=True) if label >= 0]
    found = [(x + 3 * shift, y, x + 3 * shift + 40, y + 40) for (x, y), _, shift in seen]  # the widest ones miss
    truth, predicted = [row[0] for row in rows], [label for _, label, _ in seen]
    ours = confusion(dataset([cells(true, truth)]), [cells(found, predicted)], CLASSES, HALF)
    assert ours.matrix.tolist() == _by_supervision(found, predicted, true, truth).tolist()


def test_where_supervision_counts_in_another_way() -> None:
    """supervision takes the best pair first; blastdet matches as many cells as possible."""
    true = [(0, 0, 100, 100), (30, 0, 130, 100)]
    found = [
        (5, 0, 105, 100),
        (-25, 0, 75, 100),
    ]  # one meets both cells, the other only the first
    ours = confusion(dataset([cells(true, [1, 1])]), [cells(found, [1, 1])], CLASSES, HALF).matrix
    assert ours[1, 1] == 2
    assert _by_supervision(found, [1, 1], true, [1, 1])[1, 1] == 1
    # A smudge is ignored here. supervision has no ignored cells, and counts the box as false.
    smudge = cells([(0, 0, 50, 50)], [1], ignore=[True])
    assert confusion(dataset([smudge]), [cells([(0, 0, 50, 50)], [0])], CLASSES, HALF).matrix.sum() == 0
    assert _by_supervision([(0, 0, 50, 50)], [0], [], []).sum() == 1


def _by_supervision(found: list, predicted: list[int], true: list, truth: list[int]) -> np.ndarray:
    """Rows are truth and columns predictions, as in blastdet. The last row and column are false and missed."""
    import supervision as sv
    from supervision.metrics.detection import ConfusionMatrix

    def detections(boxes: list, labels: list[int], **columns: np.ndarray) -> sv.Detections:
        return sv.Detections(np.array(boxes, float).reshape(-1, 4), class_id=np.array(labels, int), **columns)

    matrix = ConfusionMatrix.from_detections(
        predictions=[detections(found, predicted, confidence=np.ones(len(found)))],
        targets=[detections(true, truth)],
        classes=list(CLASSES),
        conf_threshold=0.5,
        iou_threshold=0.5,
    )
    return matrix.matrix.astype(int)
