"""Average precision against pycocotools, and the match table against itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
    check_against_pycocotools,
    from_table,
    pycocotools_figures,
)
from blastdet.evaluation.intervals import ap_intervals, bootstrap_ap, group_weights
from blastdet.evaluation.match_table import precision_recall
from blastdet.evaluation.matching import coco_iou, to_xywh
from evaluation.build import cells, dataset, problems, random_found, random_truth


def _scorable(data: Dataset, found: list[Detections]) -> bool:
    truth = {name for sample in data if sample.truth is not None for name in sample.annotated}
    names = {("blast", "wbc", "rbc")[i] for part in found for i in part.label}
    return bool(truth) and (not names or bool(truth & names))


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from([1, 3, 500]))
def test_equals_pycocotools_to_the_last_digit(problem: tuple[Dataset, list[Detections]], max_dets: int) -> None:
    data, found = problem
    if not _scorable(data, found):
        return
    result = average_precision(data, found, max_dets)
    precision, recall = pycocotools_figures(data, found, result.classes, max_dets)
    assert np.array_equal(result.precision, precision, equal_nan=True)
    assert np.array_equal(result.recall, recall, equal_nan=True)


def test_headline_means_are_those_of_pycocotools() -> None:
    """`summarize` itself, with its own mean over thresholds, recall points and classes."""
    from pycocotools.cocoeval import COCOeval, Params

    rng = np.random.default_rng(3)
    truths = [random_truth(rng, 30) for _ in range(5)]
    data, found = dataset(truths), [random_found(rng, truth, 20) for truth in truths]
    result = average_precision(data, found)
    run = COCOeval.__new__(COCOeval)
    run.params = Params("bbox")
    run.params.maxDets = [1, 10, 500]
    filled = [np.full((*shape, 4, 3), -1.0) for shape in (result.precision.shape, result.recall.shape)]
    filled[0][..., 0, 2], filled[1][..., 0, 2] = result.precision, result.recall
    run.eval = {"precision": filled[0], "recall": filled[1]}
    run._summarizeDets = None
    run.summarize()
    figures = result.figures()
    assert [figures["AP50"], figures["AP75"], figures["AR"]] == [run.stats[1], run.stats[2], run.stats[8]]
    assert figures["AP"] == np.mean(result.precision)


def test_over_100_detections_on_one_smear() -> None:
    rng = np.random.default_rng(0)
    truth = random_truth(rng, 300)
    data, found = dataset([truth, truth]), [random_found(rng, truth, 200), Detections.empty()]
    many, few = average_precision(data, found, 500), average_precision(data, found, 100)
    check_against_pycocotools(data, found, many)
    check_against_pycocotools(data, found, few)
    assert many.figures()["AR"] > few.figures()["AR"]


def test_perfect_and_empty() -> None:
    truth = cells([(0, 0, 10, 10), (50, 50, 80, 80)], [1, 2])
    data = dataset([truth])
    assert average_precision(data, [truth]).figures()["AP"] == pytest.approx(1)
    empty = average_precision(data, [Detections.empty()])
    assert empty.figures() == {"AP": 0, "AP50": 0, "AP75": 0, "AR": 0}
    assert np.isnan(empty.figures("blast")["AP"])
    assert empty.n_truth == {"blast": 0, "wbc": 1, "rbc": 1}


def test_a_smudge_hides_every_class() -> None:
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
    assert any("rbc: scored on 1 of 2 smears" in note for note in result.notes)


def test_centroids_without_boxes_are_not_scored() -> None:
    truth = Detections(np.full((1, 4), np.nan), label=[1], point_xy=[(5, 5)])
    result = average_precision(dataset([truth]), [Detections.empty()])
    assert np.isnan(result.figures()["AP"])
    assert any("wbc: scored on 0 of 1" in note for note in result.notes)


def test_a_class_nobody_annotated_is_left_out_and_noted() -> None:
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
    parts = [average_precision(data, found, size_um=limits) for limits in [(0, 5), (5, 1000)]]
    for name, n in whole.n_truth.items():
        assert n == sum(part.n_truth[name] for part in parts)
    everything = average_precision(data, found, size_um=(0, 1000))
    assert np.array_equal(everything.precision, whole.precision, equal_nan=True)


def test_size_counts_only_cells_of_that_size() -> None:
    truth = cells([(0, 0, 50, 50), (100, 100, 300, 300)], 1)  # 5 and 20 µm at 0.1 µm/px
    found = cells([(100, 100, 300, 300, 0.9), (600, 600, 650, 650, 0.8)], 1)
    large = average_precision(dataset([truth]), [found], size_um=(10, 30)).figures("wbc")
    small = average_precision(dataset([truth]), [found], size_um=(0, 10)).figures("wbc")
    assert large["AP"] == pytest.approx(1)
    assert small["AP"] == 0


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        (cells([(0, 0, 10, 10, np.nan)]), "expected a score between 0 and 1, got nan"),
        (cells([(0, 0, 10, 10, 1.5)]), "got 1.5"),
        (cells([(0, np.nan, 10, 10, 0.5)]), "expected a finite box with x1 < x2 and y1 < y2, got (0, nan, 10, 10)"),
        (cells([(10, 0, 10, 10, 0.5)]), "x1 < x2 and y1 < y2, got (10, 0, 10, 10)"),
        (
            cells([(1000, 0, 1010, 10, 0.5)]),
            "within the image of 1000 x 1000 px, got (1000, 0, 1010, 10)",
        ),
    ],
)
def test_bad_predictions_are_one_clear_line(bad: Detections, line: str) -> None:
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


def test_number_of_smears_must_agree() -> None:
    with pytest.raises(FormatError, match="expected predictions for 1 images, got 0"):
        average_precision(dataset([Detections.empty()]), [])


def test_nobody_annotated_anything() -> None:
    with pytest.raises(ConfigError, match="expected at least one annotated image, got none"):
        average_precision(dataset([None]), [Detections.empty()])


@settings(max_examples=60, deadline=None)
@given(problems(), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_weights_are_repeated_smears(problem: tuple[Dataset, list[Detections]], times: list[int]) -> None:
    """A bootstrap by weights equals the evaluation of a data set in which the drawn smears stand several times."""
    data, found = problem
    weight = np.array(times[: len(data)])
    if not _scorable(data, found) or not weight.any():
        return
    # Without ties: the order of equal scores among copies of a smear has no meaning.
    shift = np.cumsum([0, *map(len, found)])
    found = [part.with_columns(score=(np.arange(len(part)) + shift[i]) / 1e4) for i, part in enumerate(found)]
    smears = [sample for sample, w in zip(data, weight, strict=True) for _ in range(w)]
    copies = [part for part, w in zip(found, weight, strict=True) for _ in range(w)]
    repeated = Dataset("made", data.root, tuple(smears))
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


def test_groups_are_drawn_whole() -> None:
    weights = group_weights(np.array([0, 0, 1, 2]), resamples=50)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights[:, 0])) > 1


def test_the_table_alone_gives_the_figures() -> None:
    rng = np.random.default_rng(5)
    truth = random_truth(rng, 40)
    data, found = dataset([truth]), [random_found(rng, truth, 30)]
    result = average_precision(data, found)
    assert np.array_equal(from_table(result.table).precision, result.precision, equal_nan=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_iou_has_the_digits_of_pycocotools(seed: int) -> None:
    from pycocotools import mask

    rng = np.random.default_rng(seed)
    corner = rng.random((2, 15, 2)) * 50
    boxes = np.concatenate([corner, corner + rng.random((2, 15, 2)) * 50], axis=2).astype(np.float32)
    region = rng.random(15) < 0.3
    a, b = to_xywh(boxes[0]), to_xywh(boxes[1])
    assert np.array_equal(coco_iou(a, b, region), mask.iou(a, b, region.astype(np.uint8).tolist()))


@pytest.mark.realdata
def test_a_perfect_detector_on_bccd_as_published(data_dir: Path) -> None:
    """Who finds every white cell is marked down for those that the published labels leave out."""
    repository = Path(__file__).resolve().parents[2]
    published = registry.read(data_dir / "bccd")
    corrected = apply_corrections(published, repository / "datasets" / "bccd_corrections.jsonl").with_split("test")
    perfect = [sample.truth or Detections.empty() for sample in corrected]
    result = average_precision(published.with_split("test"), perfect)
    check_against_pycocotools(published.with_split("test"), perfect, result)
    assert result.n_truth["wbc"] == 71
    assert 0.95 < result.figures("wbc")["AP50"] < 0.98
    assert average_precision(corrected, perfect).figures()["AP"] == pytest.approx(1)
