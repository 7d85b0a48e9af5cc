"""Average precision against pycocotools, and the match table against itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blastdet.core.errors import ConfigError, FormatError
from blastdet.core.types import Dataset, Detections
from blastdet.datasets.apply_corrections import apply_corrections
from blastdet.datasets.formats import registry
from blastdet.evaluation.average_precision import (
    average_precision,
    average_precision_by_size,
    from_table,
)
from blastdet.evaluation.intervals import ONE_GROUP, ap_intervals, bootstrap_ap, group_weights
from blastdet.evaluation.match_table import coco_eval, precision_recall
from evaluation.build import cells, dataset, problems, random_found, random_truth


def _scorable(data: Dataset, found: list[Detections]) -> bool:
    truth = {name for sample in data if sample.truth is not None for name in sample.annotated}
    names = {("blast", "wbc", "rbc")[i] for part in found for i in part.label}
    return bool(truth) and (not names or bool(truth & names))


def _by_pycocotools(data: Dataset, found: list[Detections], classes: tuple[str, ...], max_dets: int) -> Any:
    """COCOeval with its own parameters, accumulation and summary; its size ranges are not used."""
    run = coco_eval(data, found, classes, max_dets)
    run.params.maxDets, run.params.areaRngLbl = [1, 10, max_dets], ["all", "small", "medium", "large"]
    run.params.areaRng = [run.params.areaRng[0]] * 4
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


@settings(max_examples=100, deadline=None)
@given(problems(), st.sampled_from([11, 500]))
def test_equals_pycocotools(problem: tuple[Dataset, list[Detections]], max_dets: int) -> None:
    """Curves and summary are those of COCOeval, with ties, crowds, and images without cells or detections."""
    data, found = problem
    if not _scorable(data, found):
        return
    result = average_precision(data, found, max_dets)
    run = _by_pycocotools(data, found, result.classes, max_dets)
    precision, recall = run.eval["precision"][:, :, :, 0, 2], run.eval["recall"][:, :, 0, 2]
    np.testing.assert_allclose(np.nan_to_num(result.precision, nan=-1), precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.nan_to_num(result.recall, nan=-1), recall, rtol=0, atol=1e-12)
    figures = [result.figures()[name] for name in ("AP50", "AP75", "AR")]
    np.testing.assert_allclose(np.nan_to_num(figures, nan=-1), run.stats[[1, 2, 8]], rtol=0, atol=1e-12)
    overall = precision[precision > -1].mean() if (precision > -1).any() else np.nan  # stats[0] is that of maxDets 100
    np.testing.assert_allclose(result.figures()["AP"], overall, rtol=0, atol=1e-12)


def test_a_match_at_exactly_the_threshold_counts() -> None:
    """An IoU of exactly 0.5 is a match at 0.5, as in COCO; one of slightly less is not."""
    truth = cells([(0, 0, 100, 100)])
    half, less = cells([(0, 0, 100, 50, 0.9)]), cells([(0, 0, 100, 49.9, 0.9)])
    assert average_precision(dataset([truth]), [half]).figures("wbc")["AP50"] == pytest.approx(1)
    assert average_precision(dataset([truth]), [less]).figures("wbc")["AP50"] == 0


def test_over_100_detections_in_one_image() -> None:
    rng = np.random.default_rng(0)
    truth = random_truth(rng, 300)
    data, found = dataset([truth, truth]), [random_found(rng, truth, 200), Detections.empty()]
    many, few = average_precision(data, found, 500), average_precision(data, found, 100)
    assert many.figures()["AR"] > few.figures()["AR"]


def test_perfect_and_empty() -> None:
    truth = cells([(0, 0, 10, 10), (50, 50, 80, 80)], [1, 2])
    data = dataset([truth])
    assert average_precision(data, [truth]).figures()["AP"] == pytest.approx(1)
    empty = average_precision(data, [Detections.empty()])
    assert empty.figures() == {"AP": 0, "AP50": 0, "AP75": 0, "AR": 0}
    assert np.isnan(empty.figures("blast")["AP"])
    assert empty.n_truth == {"blast": 0, "wbc": 1, "rbc": 1}


def test_an_ignored_region_hides_every_class() -> None:
    truth = cells([(0, 0, 100, 100), (200, 200, 300, 300)], [1, 1], ignore=[True, False])
    found = cells([(10, 10, 40, 40, 0.9), (50, 50, 90, 90, 0.8), (200, 200, 300, 300, 0.7)], [0, 1, 1])
    result = average_precision(dataset([truth]), [found])
    assert result.figures("wbc")["AP50"] == pytest.approx(1)
    assert not result.table.classes["blast"].found.any()
    assert result.table.classes["blast"].ignored.all()


def test_a_class_is_not_scored_where_it_is_unknown() -> None:
    truth = cells([(0, 0, 10, 10)], 1)
    known, unknown = dataset([truth]).samples[0], replace(dataset([truth]).samples[0], annotated=("wbc",))
    data = Dataset("two", known.path.parent, (known, unknown))
    false_red = cells([(0, 0, 10, 10, 0.9), (500, 500, 520, 520, 0.9)], [1, 2])
    result = average_precision(data, [Detections.empty(), false_red])
    assert len(result.table.classes["rbc"].score) == 0
    assert any("rbc: evaluated on the 1 of 2 images that annotate it" in note for note in result.notes)


def test_centroids_without_boxes_are_not_scored() -> None:
    truth = Detections(np.full((1, 4), np.nan), label=[1], point_xy=[(5, 5)])
    result = average_precision(dataset([truth]), [Detections.empty()])
    assert np.isnan(result.figures()["AP"])
    assert any("wbc: evaluated on the 0 of 1 images" in note for note in result.notes)


def test_a_class_without_annotations_is_left_out_and_noted() -> None:
    truth = cells([(0, 0, 10, 10)], 1)
    found = cells([(0, 0, 10, 10), (0, 0, 10, 10)], [1, 3])
    result = average_precision(dataset([truth]), [found], source="a.json")
    assert result.classes == ("blast", "wbc", "rbc")
    assert "platelet: detected but not annotated in made, left out" in result.notes
    assert "blast: annotated but never detected by a.json, AP is 0" in result.notes


@settings(max_examples=40, deadline=None)
@given(problems())
def test_cell_sizes_partition_the_truth(problem: tuple[Dataset, list[Detections]]) -> None:
    data, found = problem
    if not _scorable(data, found):
        return
    whole = average_precision(data, found)
    parts = average_precision_by_size(data, found, [(0, 5), (5, 1000)]).values()
    for name, n in whole.n_truth.items():
        assert n == sum(part.n_truth[name] for part in parts)
    everything = average_precision_by_size(data, found, [(0, 1000)])[0, 1000]
    assert np.array_equal(everything.precision, whole.precision, equal_nan=True)


def test_size_counts_only_cells_of_that_size() -> None:
    truth = cells([(0, 0, 50, 50), (100, 100, 300, 300)], 1)  # 5 and 20 µm at 0.1 µm/px
    found = cells([(100, 100, 300, 300, 0.9), (600, 600, 650, 650, 0.8)], 1)
    by_size = average_precision_by_size(dataset([truth]), [found], [(10, 30), (0, 10)])
    large, small = (result.figures("wbc") for result in by_size.values())
    assert large["AP"] == pytest.approx(1)
    assert small["AP"] == 0


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        (cells([(np.nan, np.nan, np.nan, np.nan, 0.5)]), "expected a finite box, got (nan, nan, nan, nan)"),
        (
            cells([(1000, 0, 1010, 10, 0.5)]),
            "within the image of 1000 x 1000 px, got (1000, 0, 1010, 10)",
        ),
    ],
)
def test_bad_predictions_give_a_one_line_error(bad: Detections, line: str) -> None:
    with pytest.raises(FormatError) as error:
        average_precision(dataset([cells([(0, 0, 9, 9)])]), [bad], source="x.json")
    assert str(error.value).startswith("x.json: s000.png: ")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_without_overlap_list_both_sides() -> None:
    with pytest.raises(
        ConfigError, match=r"no class in common with made. Predicted: platelet. Annotated: blast, wbc, rbc"
    ):
        average_precision(dataset([cells([(0, 0, 9, 9)])]), [cells([(0, 0, 9, 9)], 3)], source="x.json")


def test_number_of_images_must_agree() -> None:
    with pytest.raises(FormatError, match="expected predictions for 1 images, got 0"):
        average_precision(dataset([Detections.empty()]), [])


def test_a_dataset_without_annotations_is_an_error() -> None:
    with pytest.raises(ConfigError, match="expected at least one annotated image, got none"):
        average_precision(dataset([None]), [Detections.empty()])


@settings(max_examples=60, deadline=None)
@given(problems(), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_weights_equal_repeated_images(problem: tuple[Dataset, list[Detections]], times: list[int]) -> None:
    """A bootstrap by weights equals the evaluation of a dataset in which the drawn images are repeated."""
    data, found = problem
    weight = np.array(times[: len(data)])
    if not _scorable(data, found) or not weight.any():
        return
    # Without ties, because the order of equal scores among copies of an image is arbitrary.
    shift = np.cumsum([0, *map(len, found)])
    found = [part.with_columns(score=(np.arange(len(part)) + shift[i]) / 1e4) for i, part in enumerate(found)]
    samples = [sample for sample, w in zip(data, weight, strict=True) for _ in range(w)]
    copies = [part for part, w in zip(found, weight, strict=True) for _ in range(w)]
    repeated = Dataset("made", data.root, tuple(samples))
    if not _scorable(repeated, copies):
        return
    expected = average_precision(repeated, copies)
    for name, matches in average_precision(data, found).table.classes.items():
        if name in expected.classes:
            precision, recall = precision_recall(matches, weight)
            k = expected.classes.index(name)
            np.testing.assert_allclose(precision, expected.precision[:, :, k], rtol=0, atol=1e-12)
            np.testing.assert_allclose(recall, expected.recall[:, k], rtol=0, atol=1e-12)


def test_bootstrap_brackets_the_figure_and_repeats() -> None:
    rng = np.random.default_rng(1)
    truths = [random_truth(rng, 10, 0) for _ in range(20)]
    data, found = dataset(truths), [random_found(rng, truth, 3) for truth in truths]
    result = average_precision(data, found)
    intervals = ap_intervals(result.table, resamples=200)
    for name in result.classes:
        assert intervals[name]["AP50"].low <= result.figures(name)["AP50"] <= intervals[name]["AP50"].high
    assert intervals["all"]["AP"].low < result.figures()["AP"] < intervals["all"]["AP"].high
    assert intervals == ap_intervals(result.table, resamples=200)
    once = bootstrap_ap(result.table, np.ones((1, len(data)), np.int64))
    assert once["all"]["AP"][0] == pytest.approx(result.figures()["AP"], abs=1e-12)


def test_an_image_without_cells_makes_no_interval_of_the_other() -> None:
    """Two groups, of which one has neither cells nor detections: all resamples with the other are equal."""
    found = Detections([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8], label=[1, 1])
    data = dataset([found[:1], Detections.empty()])
    result = average_precision(data, [found, Detections.empty()])
    assert result.table.n_groups == 2 and result.table.n_groups_with("wbc") == result.table.n_groups_with("all") == 1
    assert ap_intervals(result.table)["wbc"]["AP50"].method == ONE_GROUP


def test_groups_are_drawn_whole() -> None:
    weights = group_weights(np.array([0, 0, 1, 2]), resamples=50)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights[:, 0])) > 1


def test_figures_follow_from_the_table_alone() -> None:
    rng = np.random.default_rng(5)
    truth = random_truth(rng, 40)
    data, found = dataset([truth]), [random_found(rng, truth, 30)]
    result = average_precision(data, found)
    assert np.array_equal(from_table(result.table).precision, result.precision, equal_nan=True)


@pytest.mark.realdata
def test_a_perfect_detector_on_bccd_as_published(data_dir: Path) -> None:
    """A detector that finds every white cell loses precision on the cells that the published labels leave out."""
    repository = Path(__file__).resolve().parents[2]
    published = registry.read(data_dir / "bccd")
    corrected = apply_corrections(published, repository / "datasets" / "bccd_corrections.jsonl").with_split("test")
    perfect = [sample.truth or Detections.empty() for sample in corrected]
    result = average_precision(published.with_split("test"), perfect)
    assert result.n_truth["wbc"] == 71
    assert 0.95 < result.figures("wbc")["AP50"] < 0.98
    assert average_precision(corrected, perfect).figures()["AP"] == pytest.approx(1)
