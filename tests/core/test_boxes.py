"""Box geometry compared with slow, obvious code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core import boxes

BOX = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(0, 40)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def _naive_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union else 0.0


def _naive_suppress(xyxy, score, iou):
    order = sorted(range(len(xyxy)), key=lambda k: (-score[k], xyxy[k][1], xyxy[k][0], xyxy[k][3], xyxy[k][2], k))
    kept = []
    for k in order:
        if all(_naive_iou(xyxy[k], xyxy[other]) <= iou for other in kept):
            kept.append(k)
    return kept


@given(st.lists(BOX, max_size=8), st.lists(BOX, max_size=8))
def test_iou_equals_its_definition(a, b):
    expected = np.array([[_naive_iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
    np.testing.assert_allclose(boxes.iou_matrix(a, b), expected, atol=1e-12)


@pytest.mark.parametrize("opencv_up_to", [0, 1000], ids=["grid", "OpenCV"])
@given(st.lists(st.tuples(BOX, st.integers(1, 4)), max_size=30), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@settings(deadline=None)
def test_suppression_is_greedy(opencv_up_to, rows, iou):
    xyxy, score = [row[0] for row in rows], [row[1] / 4 for row in rows]
    found = boxes.suppress(xyxy, score, iou, opencv_up_to=opencv_up_to)
    assert found.tolist() == _naive_suppress(xyxy, score, iou)


@pytest.mark.parametrize("opencv_up_to", [0, 1000], ids=["grid", "OpenCV"])
def test_boxes_with_exactly_the_limit_of_overlap_and_boxes_without_area_are_kept(opencv_up_to):
    def kept(xyxy, score, iou):
        return sorted(boxes.suppress(xyxy, score, iou, opencv_up_to=opencv_up_to).tolist())

    for n in range(2, 60):
        for k in range(1, n):
            assert kept([[0, 0, n, 1], [0, 0, k, 1]], [0.9, 0.8], k / n) == [0, 1]
            assert kept([[0, 0, n, 1], [0, 0, k, 1]], [0.9, 0.8], 0.999 * k / n) == [0]
    odd = [[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [3, 3, 3, 9], [0, 0, 5, 5], [0, 0, 5, 5]]
    assert kept(odd, [0.5] * 5, 0.5) == [0, 1, 2, 3]


def _pairs(xyxy, **options):
    return list(zip(*(index.tolist() for index in boxes.overlapping_pairs(xyxy, **options)), strict=True))


def test_a_large_set_is_suppressed_as_a_small_one():
    """6,000 boxes: more than OpenCV gets by default."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, 900, (6000, 2))
    xyxy = np.hstack([corner, corner + random.uniform(10, 30, (6000, 2))])
    score = random.random(6000)
    np.testing.assert_array_equal(
        boxes.suppress(xyxy, score, 0.3), boxes.suppress(xyxy, score, 0.3, opencv_up_to=10_000)
    )


@pytest.mark.slow
def test_a_few_large_boxes_are_compared_with_few_pairs():
    random = np.random.default_rng(0)
    corner = random.uniform(0, 6000, (6000, 2))
    xyxy = np.hstack([corner, corner + random.uniform(20, 30, (6000, 2))])
    xyxy[[7, 4000]] = [[100, 100, 4100, 4100], [2000, 0, 2500, 6000]]
    pairs = sum(pair.shape[1] for pair in boxes._grid_pairs(xyxy))
    assert pairs < 6000 * 40  # all pairs: 18 million
    assert set(_pairs(xyxy)) == set(_pairs(xyxy, all_pairs_up_to=10_000))


@given(st.lists(st.tuples(BOX, st.integers(1, 4)), min_size=1, max_size=30, unique=True), st.randoms())
@settings(deadline=None)
def test_suppression_does_not_depend_on_the_order_of_its_input(rows, random):
    shuffled = random.sample(rows, len(rows))
    results = []
    for order in (rows, shuffled):
        xyxy, score = [row[0] for row in order], [row[1] / 4 for row in order]
        results.append([(xyxy[k], score[k]) for k in boxes.suppress(xyxy, score, 0.4)])
    assert results[0] == results[1]


def test_the_grid_finds_the_same_pairs_as_a_comparison_of_all():
    random = np.random.default_rng(0)
    corner = random.uniform(-50, 800, (600, 2))
    xyxy = np.hstack([corner, corner + random.uniform(1, 40, (600, 2))])
    dense = set(_pairs(xyxy, all_pairs_up_to=1000))
    assert len(dense) > 300
    for batch in (70, 1 << 16):
        sparse = _pairs(xyxy, batch=batch)
        assert len(sparse) == len(set(sparse))
        assert set(sparse) == dense


def test_nan_boxes_have_no_overlap():
    assert boxes.pair_iou([[np.nan] * 4], [[0, 0, 1, 1]]).tolist() == [0.0]


def test_clip_scale_shift_squares_and_area():
    np.testing.assert_array_equal(boxes.clip([[-5, -5, 20, 8]], (10, 6)), [[0, 0, 10, 6]])
    np.testing.assert_array_equal(boxes.scale([[1, 2, 3, 4]], (2, 10)), [[2, 20, 6, 40]])
    np.testing.assert_array_equal(boxes.shift([[1, 2, 3, 4]], (1, -1)), [[2, 1, 4, 3]])
    np.testing.assert_array_equal(boxes.squares([[10, 20]], (4, 6)), [[8, 17, 12, 23]])
    np.testing.assert_array_equal(boxes.area([[0, 0, 2, 3], [5, 5, 4, 9]]), [6, 0])
