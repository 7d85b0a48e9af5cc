"""Counts, intervals, operating points and the ALL-IDB1 tests against manual calculations and scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core.statistics import clopper_pearson, percentile_interval
from blastdet.core.types import Dataset, Detections
from blastdet.evaluation.allidb_tests import cell_test, image_test, match_points
from blastdet.evaluation.average_precision import average_precision
from blastdet.evaluation.confusion import Figure, confusion
from blastdet.evaluation.counts import (
    agreement,
    bland_altman,
    concordance,
    count_cells,
    coverage,
    fraction_coverage,
    froc,
)
from blastdet.evaluation.evaluate import as_nucleated, by_class_probability
from blastdet.evaluation.intervals import bootstrap_statistic, ratio_interval
from blastdet.evaluation.operating_points import reliability, sweep
from blastdet.evaluation.reporting.text import of_figure
from blastdet.evaluation.subgroups import slices
from evaluation.build import cells, dataset, random_found, random_truth

HALF = {"blast": 0.5, "wbc": 0.5, "rbc": 0.5}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_proportions_equal_scipy(pair: tuple[int, int]) -> None:
    from scipy.stats import binomtest

    expected, interval = binomtest(*pair).proportion_ci(0.95, "exact"), clopper_pearson(*pair)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_trials_no_interval() -> None:
    assert np.isnan(clopper_pearson(0, 0).high)
    assert np.isnan(percentile_interval([np.nan], "x").low)


def test_bootstrap_of_a_mean_has_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 2, 200)
    columns = {"n": np.ones(200), "x": values}
    interval = bootstrap_statistic(columns, lambda s: s["x"] / s["n"], np.arange(200), resamples=4000)
    half = 1.96 * values.std() / np.sqrt(200)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)
    assert interval.method == "bootstrap over 200 groups, 4000 resamples"


def test_images_of_one_group_widen_the_interval() -> None:
    part = np.tile([0, 1], 50)
    alone = ratio_interval(part, np.ones(100), np.arange(100))
    grouped = ratio_interval(np.repeat([0, 1] * 5, 10), np.ones(100), np.repeat(np.arange(10), 10))
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=40))
def test_agreement_by_hand(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(side, float) for side in zip(*pairs, strict=True))
    bias, low, high = bland_altman(x, y)
    assert bias == pytest.approx(np.mean(y - x))
    assert high - low == pytest.approx(2 * 1.96 * np.std(y - x, ddof=1))
    below = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    if below > 1e-6:
        assert concordance(x, y) == pytest.approx(2 * np.cov(x, y, bias=True)[0, 1] / below)
    result = agreement("cells", x, y, np.arange(len(x)), resamples=50)
    assert result.mean_absolute_error == pytest.approx(np.abs(x - y).mean())
    assert result.n == len(x) and result.found_total == y.sum()


def test_concordance_of_equal_counts_is_one_and_of_shifted_ones_is_less() -> None:
    x = np.array([1.0, 5, 9])
    assert concordance(x, x) == pytest.approx(1)
    assert concordance(x, x + 3) < 0.9
    assert np.isnan(concordance([2, 2], [2, 2]))


def test_unknown_counts_are_skipped() -> None:
    result = agreement("cells", [1, np.nan, 3], [1, 2, 3], np.array([0, 1, 2]), resamples=20)
    assert (result.n, result.bias) == (2, 0)


def test_coverage() -> None:
    assert coverage([0, 5, np.nan], [2, 6, 1], [1, 7, 0]) == (1, 2)


def test_white_cells_leave_out_erythroblasts_and_smudges() -> None:
    truth = Detections(
        np.tile([0, 0, 10, 10], (5, 1)),
        label=[0, 1, 1, 1, 2],
        cell_type=["", "lymphocyte", "erythroblast", "", ""],
        ignore=[False, False, False, True, False],
    )
    counts = count_cells(dataset([truth]), [Detections.empty()], HALF)
    assert counts.true["white cells"].tolist() == [2]
    assert counts.true["blast share (%)"].tolist() == [50]
    assert counts.found["white cells"].tolist() == [0]
    assert np.isnan(counts.found["blast share (%)"]).all()
    unknown = count_cells(dataset([truth], annotated=("blast",)), [truth], HALF)
    assert np.isnan(unknown.true["white cells"]).all()


def test_froc_by_hand() -> None:
    truth = cells([(0, 0, 10, 10), (50, 50, 60, 60)], [0, 1])
    found = cells([(0, 0, 10, 10, 0.5), (80, 80, 90, 90, 0.9), (70, 0, 80, 10, 0.5)], 0)
    data = dataset([truth, cells([(0, 0, 10, 10)], 1)])
    curve = froc(data, average_precision(data, [found, Detections.empty()]), "blast")
    assert curve.score.tolist() == [pytest.approx(0.9), 0.5]
    assert curve.sensitivity.tolist() == [0, 1]
    assert curve.false_per_field.tolist() == [0.5, 1]
    assert curve.false_per_100_white.tolist() == [pytest.approx(100 / 3), pytest.approx(200 / 3)]


def test_sweep_and_threshold_by_hand() -> None:
    truth = cells([(0, 0, 10, 10), (20, 0, 30, 10)])
    found = cells([(0, 0, 10, 10, 0.75), (40, 40, 50, 50, 0.5), (20, 0, 30, 10, 0.25)])
    matches = average_precision(dataset([truth]), [found]).table.classes["wbc"]
    curve = sweep(matches)
    assert curve.sensitivity.tolist() == [0.5, 0.5, 1]
    assert curve.precision.tolist() == [1, 0.5, pytest.approx(2 / 3)]
    best = int(curve.f1.argmax())
    assert (curve.score[best], curve.f1[best]) == (0.25, pytest.approx(0.8))
    nothing = average_precision(dataset([truth]), [Detections.empty()]).table.classes["wbc"]
    assert len(sweep(nothing).score) == 0


def test_f1_equals_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(2)
    truth = random_truth(rng, 40, 0)
    matches = average_precision(dataset([truth]), [random_found(rng, truth, 40)]).table.classes["wbc"]
    found, curve = matches.found[0], sweep(matches)
    precision, recall, score = precision_recall_curve(found, matches.score)
    np.testing.assert_allclose(curve.score[::-1], score)
    np.testing.assert_allclose(curve.precision[::-1], precision[:-1])
    np.testing.assert_allclose(curve.sensitivity[::-1] * matches.n_truth.sum() / found.sum(), recall[:-1])


def test_calibration_equals_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(4)
    truth = random_truth(rng, 60, 0)
    found = random_found(rng, truth, 60)
    found = found.with_columns(score=0.06 + 0.93 * rng.random(len(found)))
    matches = average_precision(dataset([truth]), [found]).table.classes["wbc"]
    curve = reliability(matches)
    right, mean = calibration_curve(matches.found[0], matches.score, n_bins=10)
    kept = curve.n > 0
    np.testing.assert_allclose(curve.fraction_right[kept], right)
    np.testing.assert_allclose(curve.mean_score[kept], mean)
    expected = (np.abs(right - mean) * curve.n[kept]).sum() / curve.n.sum()
    assert curve.error == pytest.approx(expected)


def _points(xy: list[tuple[float, float]], label: list[int]) -> Detections:
    return Detections(np.full((len(xy), 4), np.nan), label=label, point_xy=np.array(xy).reshape(-1, 2))


def _leukaemic() -> Dataset:
    """Two images at 0.1 µm/px: blasts at (100, 100) and (300, 300), another white cell at (500, 500); a healthy one."""
    first = _points([(100, 100), (300, 300), (500, 500)], [0, 0, 1])
    data = dataset([first, _points([(200, 200)], [1])], annotated=("blast", "wbc"))
    samples = tuple(replace(s, label=label) for s, label in zip(data, ("all", "healthy"), strict=True))
    return Dataset("look-alike", data.root, samples)


def _square(x: float, y: float, side: float = 120) -> tuple[float, ...]:
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2, 0.9)


def test_cell_test_by_hand() -> None:
    found = cells(
        [_square(110, 90), _square(300, 300), _square(500, 500), _square(800, 800), _square(700, 300)], [0, 1, 0, 0, 1]
    )
    test = cell_test(_leukaemic(), [found, cells([_square(200, 200)], 1)], HALF, resamples=50)
    verdicts = test.verdicts
    assert (verdicts.tp, verdicts.fn, verdicts.tn, verdicts.fp, verdicts.false_blasts) == (1, 1, 1, 2, 1)
    assert verdicts.error == 3
    assert (verdicts.sensitivity_value, verdicts.specificity_value) == (0.5, 0.5)
    assert (test.several, test.wrong_size, test.notes) == (0, 0, ())


def test_without_other_white_cells_negatives_are_unknown() -> None:
    data = _leukaemic()
    blasts = tuple(
        replace(s, annotated=("blast",), truth=s.truth.with_classes("blast")) for s in data if s.truth is not None
    )
    found = cells([_square(100, 100), _square(500, 500)], 0)
    test = cell_test(Dataset("x", data.root, blasts), [found, Detections.empty()], HALF, resamples=50)
    assert (test.verdicts.tn, test.verdicts.error, test.verdicts.false_blasts) == (None, None, 1)
    assert np.isnan(test.verdicts.specificity_value) and np.isnan(test.verdicts.specificity.low)
    assert "only sensitivity and false blasts" in test.notes[0]


def test_boxes_of_impossible_size_match_nothing() -> None:
    found = cells([_square(100, 100, 40), _square(300, 300, 310)], 0)  # 4 µm and 31 µm
    test = cell_test(_leukaemic(), [found, Detections.empty()], HALF, resamples=50)
    assert (test.verdicts.tp, test.verdicts.false_blasts, test.wrong_size) == (0, 2, 2)
    unscaled = Dataset("x", _leukaemic().root, tuple(replace(s, mpp=None) for s in _leukaemic()))
    test = cell_test(unscaled, [found, Detections.empty()], HALF, resamples=50)
    assert test.verdicts.tp == 2
    assert "µm/px unknown for 2 images" in test.notes[0]
    assert cell_test(unscaled, [found, Detections.empty()], HALF, [(0.1, 0.1)] * 2, 50).verdicts.tp == 0


def test_a_box_around_two_cells_matches_one_and_is_listed() -> None:
    points = np.array([(100.0, 100.0), (130.0, 100.0)])
    rows, columns, several = match_points(points, np.array([(50.0, 50.0, 150.0, 150.0)]), np.array([True]))
    assert (rows.tolist(), columns.tolist(), several) == ([0], [0], 1)


def test_nearest_centres_pair() -> None:
    boxes = np.array([(0.0, 0, 100, 100), (20.0, 0, 120, 100)])
    rows, columns, _ = match_points(np.array([(68.0, 50.0), (52.0, 50.0)]), boxes, np.array([True, True]))
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {0: 1, 1: 0}


def test_image_test_and_k() -> None:
    found = [cells([_square(100, 100), _square(300, 300)], 0), cells([_square(200, 200)], 0)]
    one, two = (image_test(_leukaemic(), found, HALF, k, 50) for k in (1, 2))
    assert (one.tp, one.fp, one.tn, one.fn, one.error) == (1, 1, 0, 0, 1)
    assert (two.tp, two.fp, two.tn, two.fn, two.error) == (1, 0, 1, 0, 0)
    assert two.name == "image test, at least 2 blasts"
    unlabelled = Dataset("x", _leukaemic().root, tuple(replace(s, label=None, truth=None) for s in _leukaemic()))
    assert image_test(unlabelled, found, HALF, 1, 50).tp == 0


def test_images_without_label_are_judged_by_their_cells() -> None:
    data = Dataset("x", _leukaemic().root, tuple(replace(s, label=None) for s in _leukaemic()))
    result = image_test(data, [Detections.empty()] * 2, HALF, 1, 50)
    assert (result.fn, result.tn) == (1, 1)


def test_a_second_stage_ranks_by_score_times_probability() -> None:
    found = cells([(0, 0, 10, 10, 0.8), (20, 0, 30, 10, 0.5), (40, 0, 50, 10, 0.9)], [0, 1, 2])
    found = found.with_columns(blast_probability=[0.75, np.nan, np.nan])
    ranked = by_class_probability(found)
    assert sorted(zip(ranked.label.tolist(), ranked.score.round(3).tolist(), strict=True)) == [
        (0, pytest.approx(0.6)),
        (1, pytest.approx(0.2)),
        (1, 0.5),
        (2, pytest.approx(0.9)),
    ]
    assert by_class_probability(ranked.with_columns(blast_probability=None)).label.tolist() == ranked.label.tolist()


def test_blasts_are_white_cells_for_a_detector_of_nucleated_cells() -> None:
    truth = cells([(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)], [0, 1, 2])
    seen = as_nucleated(dataset([truth]))
    assert seen.samples[0].truth is not None and seen.samples[0].truth.label.tolist() == [1, 1, 2]
    assert seen.samples[0].annotated == ("wbc", "rbc") and "any nucleated cell" in seen.notes[-1]
    # Where only blasts are annotated, other nucleated cells may be there: nothing is known of wbc in this sense.
    assert as_nucleated(dataset([truth], annotated=("blast",))).samples[0].annotated == ()
    plain = dataset([truth.with_classes("wbc")], annotated=("wbc",))
    assert as_nucleated(plain) is plain


def test_slices_split_the_cells() -> None:
    boxes = [(0, 0, 40, 40), (30, 30, 70, 70), (500, 500, 600, 600), (800, 800, 900, 900)]
    truth = cells(boxes)
    data = dataset([truth, cells([(500, 500, 540, 540)])])
    found = cells([(*box, 0.9) for box in boxes[1:]])
    result = confusion(data, [found, Detections.empty()], ("wbc",), HALF, "class-aware")
    by_name = {part.slice: (part.n, round(part.sensitivity, 3)) for part in slices(data, result, 50)}
    assert by_name["touching another"] == (2, 0.5) and by_name["alone"] == (3, 0.667)
    assert by_name["at the border"] == (1, 0) and by_name["inside"] == (4, 0.75)
    assert by_name["crowded smear"] == (4, 0.75) and by_name["sparse smear"] == (1, 0)
    assert by_name["under 5 µm"] == (3, 0.333) and by_name["10–15 µm"] == (2, 1)
    assert "15 µm and over" not in by_name


def test_slices_by_class_cluster_and_group() -> None:
    boxes = [(0, 0, 40, 40), (100, 100, 140, 140)]
    data = dataset([cells(boxes)] * 3)
    samples = [replace(s, cluster=c, label="pre", group=None) for s, c in zip(data, "aab", strict=True)]
    data = replace(data, samples=tuple(samples))
    found = [cells([(*box, 0.9) for box in boxes]), cells([(*boxes[0], 0.9)]), Detections.empty()]
    result = confusion(data, found, ("wbc",), HALF, "class-aware")
    by_name = {part.slice: (part.n, part.sensitivity) for part in slices(data, result, 50)}
    assert by_name["cluster a"] == (4, 0.75) and by_name["cluster b"] == (2, 0)
    assert "label pre" not in by_name  # all of them


def test_coverage_of_blast_fraction_intervals() -> None:
    """Ten blasts of twenty cells: all detected, none detected, and all uncertain."""
    boxes = [(50 * i, 0, 50 * i + 40, 40) for i in range(20)]
    label = [0] * 10 + [1] * 10
    data = dataset([cells(boxes).with_columns(label=label)] * 3)
    right = cells([(*box, 0.9) for box in boxes]).with_columns(label=label)
    none = right.with_columns(label=[1] * 20)
    unsure = right.with_columns(unsure=[True] * 20)
    assert fraction_coverage(data, [right, none, unsure], {"blast": 0.5, "wbc": 0.5}) == (1, 3)
    assert fraction_coverage(dataset([cells(boxes)], annotated=("wbc",)), [right], {"blast": 0.5, "wbc": 0.5}) == (0, 0)


def test_one_group_has_no_interval():
    """All resamples of one group are equal. An interval of width zero would look like certainty."""
    columns = {"hits": np.array([3.0, 4.0]), "all": np.array([5.0, 6.0])}
    found = bootstrap_statistic(columns, lambda sums: sums["hits"] / sums["all"], np.array([0, 0]))
    assert np.isnan([found.low, found.high]).all() and "one group" in found.method
    assert np.isnan(ratio_interval([3, 4], [5, 6], np.array([0, 0])).low)


def test_subgroup_of_one_group_has_no_interval_and_says_why() -> None:
    """Three of four cells found, all in one of two groups: every resample that has cells gives 0.75."""
    found = ratio_interval([3, 0], [4, 0], np.array([0, 1]))
    assert np.isnan([found.low, found.high]).all()
    assert of_figure(Figure("sensitivity", 0.75, found, 4)) == "0.750 [one group]"
    two = ratio_interval([3, 1], [4, 4], np.array([0, 1]))
    assert (two.low, two.high) == (0.25, 0.75)
    assert of_figure(Figure("sensitivity", 0.5, two, 8)) == "0.500 [0.250, 0.750]"
