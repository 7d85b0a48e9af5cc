"""Second stage: which cells are blasts, how they are counted, and what is said of their share."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from blastdet.core.constants import CELL_TYPES
from blastdet.core.errors import WeightsError
from blastdet.core.model_card import ValidationCounts
from blastdet.core.types import BLAST, WBC, Dataset, Detections, Sample
from blastdet.datasets.formats.coco_results import read_results
from blastdet.imaging.io import open_smear, write_image
from blastdet.inference.batch import Batch, Output
from blastdet.inference.blast_fraction import (
    BlastFraction,
    combine,
    corrected_fraction,
    count_white_cells,
    fraction_of,
)
from blastdet.inference.differential import WhiteCells
from blastdet.inference.model import Model, Options, _check_pair
from blastdet.inference.outputs.jobs import Job
from blastdet.inference.outputs.printed import describe, run_lines, verbose_totals
from blastdet.inference.second_stage import classify_cells, verdicts
from blastdet.inference.writers import coco_entry, write_coco
from blastdet.models.classifier import ClassifierOutput
from blastdet.models.fake_classifier import FakeClassifier, fake_classifier_card, fake_types_card, type_blue
from blastdet.models.fake_detector import FakeDetector, fake_card

CARD = fake_classifier_card()
TRIALS = CARD.trials


def _smear(folder, colours):
    """A smear of squares of 20 px, 1 µm apart from nothing, in given colours; and their boxes."""
    rgb = np.full((60, 60 * len(colours), 3), 255, np.uint8)
    boxes = []
    for i, colour in enumerate(colours):
        rgb[20:40, 60 * i + 20 : 60 * i + 40] = colour
        boxes.append([60 * i + 20, 20, 60 * i + 40, 40])
    write_image(folder / "smear.png", rgb)
    return folder / "smear.png", np.array(boxes, np.float32)


KINDS = [(230, 0, 0), (20, 0, 0), (115, 0, 0), (240, 255, 0), (10, 0, 250), (200, 0, 0)]
"""A blast, another, one in the unsure band, one far from all, an erythroblast; the last is a red cell's box."""


@pytest.fixture
def judged(tmp_path):
    path, boxes = _smear(tmp_path, KINDS)
    with open_smear(path) as source:
        cells = Detections(boxes, label=[WBC] * 5 + [2], score=[0.9] * 6)
        return classify_cells(source, cells, (0.5, 0.5), FakeClassifier())


def test_labels_follow_the_threshold_and_unsure_is_apart(judged):
    assert judged.label.tolist() == [BLAST, WBC, WBC, BLAST, WBC, 2]
    assert judged.unsure.tolist() == [False, False, True, True, False, False]
    assert judged.unsure_reason.tolist() == ["", "", "between classes", "unlike training", "", ""]
    assert judged.cell_type.tolist() == ["", "", "", "", "erythroblast", ""]
    np.testing.assert_allclose(judged.blast_probability[:5], np.array([c[0] for c in KINDS[:5]]) / 255, atol=0.01)
    assert np.isnan(judged.blast_probability[5])


@pytest.mark.parametrize(("limit", "name"), [(0.9, "erythroblast"), (0.95, "")])
def test_only_a_cell_that_is_surely_an_erythroblast_leaves_the_white_cells(limit, name, tmp_path):
    path, boxes = _smear(tmp_path, [(10, 0, 240)])  # 0.904
    point = CARD.thresholds["blast"].model_copy(update={"value": limit})
    card = CARD.model_copy(update={"thresholds": {**CARD.thresholds, "erythroblast": point}})
    with open_smear(path) as source:
        judged = classify_cells(source, Detections(boxes, label=[WBC], score=[0.9]), (0.5, 0.5), FakeClassifier(card))
    assert judged.cell_type.tolist() == [name] and count_white_cells(judged, card).n == (0 if name else 1)


TYPED = [(230, 0, 0), (20, 0, type_blue("monocyte")), (115, 0, type_blue("monocyte")), (10, 0, type_blue("smudge"))]
TYPED += [(20, 0, type_blue("erythroblast")), (10, 0, type_blue("neutrophil")), (10, 0, type_blue("neutrophil"))]
"""A blast, a monocyte, an unsure cell, a smudge, an erythroblast and a neutrophil; the last is a red cell's box."""


def _typed(folder, card, colours=TYPED):
    path, boxes = _smear(folder, colours)
    with open_smear(path) as source:
        cells = Detections(boxes, label=[WBC] * (len(colours) - 1) + [2], score=[0.9] * len(colours))
        return classify_cells(source, cells, (0.5, 0.5), FakeClassifier(card))


@pytest.fixture
def typed(tmp_path):
    return _typed(tmp_path, fake_types_card())


def test_certain_cells_that_are_no_blasts_have_a_type(typed):
    assert typed.label.tolist() == [BLAST, WBC, WBC, WBC, WBC, WBC, 2]
    assert typed.cell_type.tolist() == ["", "monocyte", "", "smudge", "erythroblast", "neutrophil", ""]
    np.testing.assert_allclose(typed.type_probability[:6].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(typed.type_probability[:6, 0], typed.blast_probability[:6])
    assert np.isnan(typed.type_probability[6]).all()


def test_a_type_needs_its_threshold_and_old_models_have_no_probabilities_of_types(judged, tmp_path):
    assert judged.type_probability is None
    card = fake_types_card()
    point = card.thresholds["blast"].model_copy(update={"value": 0.95})
    strict = card.model_copy(update={"thresholds": {**card.thresholds, "smudge": point, "neutrophil": point}})
    assert _typed(tmp_path, strict).cell_type.tolist() == ["", "monocyte", "", "", "erythroblast", "", ""]


def test_a_model_of_some_types_leaves_the_others_unknown():
    some = ("blast", "monocyte", "lymphocyte")  # in an order of its own
    card = fake_types_card().model_copy(update={"classes": some})
    found = verdicts(ClassifierOutput(np.array([[0.1, 0.2, 0.7], [0.1, 0.47, 0.43]], np.float32), np.zeros(2)), card)
    assert found.cell_type.tolist() == ["lymphocyte", "monocyte"]
    np.testing.assert_allclose(found.type_probability[0, :3], [0.1, 0.7, 0.2])
    assert np.isnan(found.type_probability[:, 3:]).all() and len(found.type_probability[0]) == len(CELL_TYPES)


def test_json_and_csv_have_the_probability_of_each_type(typed, report):
    _, found = report
    found = replace(found, detections=typed, candidates=typed)
    cells = found.to_dict()["cells"]
    assert cells[1]["type_probability"]["monocyte"] == round(float(typed.type_probability[1, 2]), 4)
    assert list(cells[1]["type_probability"]) == list(CELL_TYPES) and "type_probability" not in cells[6]
    frame = found.to_pandas()
    np.testing.assert_allclose(frame["probability_monocyte"], typed.type_probability[:, 2])
    (row,) = [row for row in coco_entry(found)["annotations"] if row["category_id"] == 3]
    assert row["type_probability"] is None
    assert found.to_geojson()["features"][1]["properties"]["measurements"]["Probability monocyte"] > 0.8


def test_white_cells_add_up_and_erythroblasts_are_apart(judged):
    found = count_white_cells(judged, CARD)
    assert (found.n, found.blasts, found.others, found.unsure, found.erythroblasts) == (4, 1, 1, 2, 1)
    assert found.called == 2
    finding, dependence, advice = found.summary()
    assert finding.startswith(
        "Too few cells for a percentage: 1 of 4 white cells is called a blast; the true share may"
    )
    assert finding.count("95 % CI") == 1
    assert "2 cells are uncertain (1 to 3 blasts of 4 cells with them)" in dependence
    assert advice == "Check the uncertain cells by eye and count 196 more cells for a 200-cell differential."
    assert replace(found, unsure=1).summary()[-1].startswith("Check the uncertain cell by eye and count 197 more")


def test_a_corrected_fraction_that_is_cut_off_is_not_stated():
    counts = {"blasts": 130, "others": 9, "unsure": 34, "called": 150, "interval": (0.68, 0.81)}
    found = BlastFraction(**counts, corrected=1.0, corrected_interval=(0.11, 1.0))
    assert found.summary()[0] == "Blasts: 130 of 173 white cells, 75.1 % (95 % CI 11.0–100.0 %)."
    assert "; 98.0 % when corrected" in replace(found, corrected=0.98).summary()[0]


@pytest.mark.parametrize(
    ("blasts", "n", "said"),
    [
        (0, 10, "Too few cells for a percentage: 0 of 10 white cells are blasts by review; the true share may be "
            "anywhere from 0 to 31 % (95 % CI)."),
        (1, 49, "Too few cells for a percentage: 1 of 49 white cells is a blast by review; the true share may be "
            "anywhere from 0 to 11 % (95 % CI)."),
        (1, 1, "Too few cells for a percentage: 1 of 1 white cell is a blast by review; the true share may be anywhere "
            "from 2 to 100 % (95 % CI)."),
        (0, 1, "Too few cells for a percentage: 0 of 1 white cell is a blast by review; the true share may be anywhere "
            "from 0 to 98 % (95 % CI)."),
        (0, 50, "Blasts: 0 of 50 white cells, 0.0 % (95 % CI 0.0–7.1 %)."),
    ],
)  # fmt: skip
def test_of_few_cells_the_interval_comes_first(blasts: int, n: int, said: str) -> None:
    """Clopper and Pearson: 0 of 10 leaves 30.8 % open, 1 of 49 leaves 0.05 to 10.9 %, 1 of 1 leaves 2.5 to 100 %."""
    white = WhiteCells(blasts, n - blasts, 0, blasts, reviewed=n, reviewed_blasts=blasts)
    finding, coverage, *_ = fraction_of(white, ()).summary()
    assert finding == said
    assert coverage == "Every white cell was reviewed, so the interval covers counting only."


def test_where_error_rates_are_not_known_the_interval_says_that_it_is_of_counting_alone() -> None:
    finding, coverage, *_ = fraction_of(WhiteCells(3, 11, 0, 3), ()).summary()
    assert finding == (
        "Too few cells for a percentage: 3 of 14 white cells are called blasts; counting alone leaves 4 to 51 % open "
        "(95 % CI)."
    )
    assert coverage == "The classifier's errors come on top: how often it errs is not known."
    finding = fraction_of(WhiteCells(3, 97, 0, 3), ()).summary()[0]
    assert finding == "Blasts: 3 of 100 white cells, 3.0 % (95 % CI of counting alone 0.6–8.5 %)."


def test_few_cells_and_no_more_blasts_than_false_positives_explain() -> None:
    found = BlastFraction(blasts=1, others=9, unsure=0, called=1, interval=(0.0025, 0.445), corrected=0.0)
    assert found.summary()[0] == (
        "Too few cells for a percentage: 1 of 10 white cells is called a blast, no more than this classifier's false "
        "positives explain; the true share may be anywhere from 0 to 45 % (95 % CI)."
    )


def test_no_white_cell_is_an_empty_result(tmp_path):
    path, _ = _smear(tmp_path, KINDS[:1])
    classifier = FakeClassifier()
    with open_smear(path) as source:
        cells = classify_cells(source, Detections.empty(), (0.5, 0.5), classifier)
    found = count_white_cells(cells, CARD)
    assert found.n == 0 and found.corrected is None and found.summary() == ["No white cells detected."]
    assert classifier.seen == []


def test_a_cell_of_one_pixel_and_one_at_the_corner_are_judged(tmp_path):
    path, _ = _smear(tmp_path, KINDS)
    with open_smear(path) as source:
        tiny = Detections([[0, 0, 1, 1], [359, 59, 360, 60], [300, 0, 360, 60]])
        assert not np.isnan(classify_cells(source, tiny, (0.5, 0.5), FakeClassifier()).blast_probability).any()


def test_more_cells_than_a_batch_are_judged_alike(tmp_path):
    path, boxes = _smear(tmp_path, KINDS)
    many = Detections(np.tile(boxes[:5], (120, 1)))
    with open_smear(path) as source:
        found = classify_cells(source, many, (0.5, 0.5), FakeClassifier())
    np.testing.assert_array_equal(
        found.blast_probability.reshape(120, 5), np.tile(found.blast_probability[:5], (120, 1))
    )


def test_crops_are_read_no_finer_than_training_saw_them(tmp_path):
    path, boxes = _smear(tmp_path, KINDS)
    classifier = FakeClassifier()
    with open_smear(path) as source:
        classify_cells(source, Detections(boxes), (0.05, 0.1), classifier)  # squeezed, too: 1 µm wide, 2 µm tall
    assert set(classifier.seen) == {(round(2 * 1.3 / 0.25), round(2 * 1.3 / 0.25), 3)}


def _white(called: int, n: int) -> WhiteCells:
    return WhiteCells(blasts=called, others=n - called, unsure=0, called=called)


def test_the_corrected_share_is_that_of_rogan_and_gladen():
    point, (low, high) = corrected_fraction(_white(62, 100), TRIALS)
    assert point == pytest.approx((0.62 - 0.2) / (0.9 - 0.2))
    assert low < point < high
    # every cluster alike: only the cells' own scatter is left, that of a binomial stretched by 1 / (0.9 - 0.2)
    spread = 1.96 * np.sqrt(0.62 * 0.38 / 100) / 0.7
    assert (low, high) == (pytest.approx(point - spread, abs=0.03), pytest.approx(point + spread, abs=0.03))


def test_the_interval_of_the_corrected_share_holds_the_truth():
    """95 of 100 smears of known share, judged by a classifier of known faults that was measured on 20 clusters."""
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(300):
        share, n = rng.uniform(0.2, 0.8), 200
        there = rng.binomial(n, share)
        called = rng.binomial(there, 0.9) + rng.binomial(n - there, 0.15)
        rows = [
            ValidationCounts(
                blasts=40, blasts_called=rng.binomial(40, 0.9), others=40, others_called=rng.binomial(40, 0.15)
            )
            for _ in range(20)
        ]
        _, interval = corrected_fraction(_white(called, n), rows, seed=i)
        inside += interval[0] <= share <= interval[1]
    assert 0.91 <= inside / 300 <= 0.99


@pytest.mark.parametrize("reviewed", ["called", "some", "half"])
def test_the_interval_of_a_smear_that_is_reviewed_in_part_holds_the_truth(reviewed):
    """Whoever confirms only what is called a blast leaves the missed ones: the interval must not close on these."""
    rng = np.random.default_rng(1)
    inside, widths = 0, []
    for _ in range(300):
        share, n = rng.uniform(0.05, 0.8), 200
        is_blast = rng.random(n) < share
        is_called = rng.random(n) < np.where(is_blast, 0.9, 0.15)
        chance = {"called": is_called * 1.0, "some": 0.2 + 0.6 * is_called, "half": np.full(n, 0.5)}[reviewed]
        seen = rng.random(n) < chance
        rows = [
            ValidationCounts(
                blasts=40, blasts_called=rng.binomial(40, 0.9), others=40, others_called=rng.binomial(40, 0.15)
            )
            for _ in range(20)
        ]
        blasts = int((is_blast & seen).sum() + (is_called & ~seen).sum())
        about = {"reviewed": int(seen.sum()), "reviewed_blasts": int((is_blast & seen).sum())}
        found = fraction_of(WhiteCells(blasts, n - blasts, 0, blasts, **about), rows)
        low, high = found.corrected_interval
        inside += low <= share <= high
        widths.append(high - low)
    assert 0.92 <= inside / 300 <= 0.99
    assert np.mean(widths) < 0.16  # 0.18 without review


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_the_first_reviewed_cell_changes_little_and_the_last_leaves_counting(called, rest, seen):
    n = called + rest
    if not n:
        return
    blasts = min(called, seen)
    found = fraction_of(WhiteCells(called, rest, 0, called, reviewed=min(seen, n), reviewed_blasts=blasts), TRIALS)
    if seen >= n:
        assert found.is_reviewed and found.corrected is None
        assert found.printed_interval == found.interval
    elif seen == 0:
        assert (found.corrected, found.corrected_interval) == corrected_fraction(_white(called, n), TRIALS)
    else:
        low, high = found.printed_interval
        assert 0 <= low <= called / n <= high <= 1


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_corrected_share_is_a_share(called, rest):
    point, interval = corrected_fraction(_white(called, called + rest), TRIALS)
    if called + rest == 0:
        assert point is None and interval is None
    elif interval is None:
        assert point == 0
    else:
        assert 0 <= interval[0] <= interval[1] <= 1 and 0 <= point <= 1


def test_no_blast_among_few_cells_is_no_certainty_of_none():
    """A classifier that calls 20 % of the others: none of 14 is fewer than it makes up, none of 2 says nothing."""
    assert corrected_fraction(_white(0, 14), TRIALS) == (0.0, None)
    assert (
        "no more than this classifier's false positives explain" in count_white_cells(_cells(0, 14), CARD).summary()[0]
    )
    point, (low, high) = corrected_fraction(_white(0, 2), TRIALS)
    assert point == low == 0 and high > 0.3


def test_without_trials_or_with_a_useless_classifier_nothing_is_corrected():
    useless = tuple(ValidationCounts(blasts=50, blasts_called=25, others=50, others_called=25) for _ in range(20))
    assert corrected_fraction(_white(5, 10), ()) == (None, None)
    assert corrected_fraction(_white(5, 10), useless) == (None, None)


def test_few_called_cells_are_not_distinguishable_from_none():
    found = count_white_cells(_cells(3, 97), CARD)
    assert found.corrected_interval is None or found.corrected_interval[0] == 0
    assert "for a 200-cell differential" in found.summary()[-1]
    many = count_white_cells(_cells(150, 97), CARD)
    assert many.corrected_interval[0] > 0 and "200-cell" not in " ".join(many.summary())


def _cells(blast: int, other: int) -> Detections:
    n = blast + other
    columns = {"unsure": [False] * n, "cell_type": [""] * n, "blast_probability": [0.9] * blast + [0.1] * other}
    return Detections(np.tile([0.0, 0, 9, 9], (n, 1)), label=[BLAST] * blast + [WBC] * other, **columns)


@pytest.fixture
def report(tmp_path):
    """A whole run: the fake detector finds marks, the classifier reads colours off them."""
    rgb = np.full((200, 300, 3), 255, np.uint8)
    cv2.circle(rgb, (60, 60), 12, (0, 0, 255), cv2.FILLED)  # an erythroblast
    cv2.circle(rgb, (160, 60), 12, (90, 0, 170), cv2.FILLED)  # another white cell
    write_image(tmp_path / "field.png", rgb)
    models = Model(FakeDetector(fake_card(0.5, (256, 256))), tmp_path, FakeClassifier())
    return models, models.analyze(tmp_path / "field.png", Options(mpp=(0.5, 0.5)))


def test_the_run_tells_of_both_stages(report):
    models, found = report
    assert models.classes[0] == "blast" and found.blast_fraction is not None
    second = found.model["second_stage"]
    assert (second["name"], second["thresholds"], second["unsure"]) == ("fake", {"blast": 0.5}, [0.4, 0.6])
    fraction = found.blast_fraction
    assert fraction.n + fraction.erythroblasts == 2
    document = found.to_dict()
    assert document["white_cells"]["n"] == fraction.n
    json.dumps(document, allow_nan=False)
    assert fraction.summary()[0] in describe(found, [])
    assert found.plot().width >= 300


def test_unsure_is_a_category_of_results_and_reads_back(judged, tmp_path, report):
    _, found = report
    path, _ = _smear(tmp_path, KINDS)
    found = replace(found, path=path, size_wh=(360, 60), candidates=judged)
    file = write_coco([coco_entry(replace(found, name="smear.png"))], ("blast", "wbc", "rbc"), tmp_path / "found.json")
    document = json.loads(file.read_text())
    assert [row["name"] for row in document["categories"]] == ["blast", "wbc", "rbc", "unsure"]
    assert [row["category_id"] for row in document["annotations"]] == [1, 2, 5, 5, 2, 3]
    dataset = Dataset("made", tmp_path, (Sample(path, (360, 60)),))
    (again,) = read_results(file, dataset)
    for name in ("label", "unsure", "unsure_reason", "cell_type", "blast_probability", "score"):
        np.testing.assert_array_equal(getattr(again, name), getattr(judged, name), err_msg=name)
    rows = [{**row, "image_id": "smear.png"} for row in document["annotations"]]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    assert read_results(tmp_path / "list.json", dataset)[0].label.tolist() == judged.label.tolist()


@pytest.mark.parametrize(
    ("detector", "classifier", "line"),
    [
        ({}, {"classes": ("lymphocyte", "monocyte"), "thresholds": {}}, "expected the class blast with a threshold"),
        ({}, {"thresholds": {}}, "expected the class blast with a threshold"),
        ({}, {"input": CARD.input.model_copy(update={"colour": "canonical"})}, "got 'canonical'"),
        ({"classes": ("rbc",)}, {}, "expected a detector of wbc"),
        ({}, {"probe": "covered"}, "trained on the negative control 'covered'"),
    ],
)
def test_stages_that_do_not_fit_are_one_line(detector, classifier, line, tmp_path):
    with pytest.raises(WeightsError, match=line):
        _check_pair(fake_card(0.5).model_copy(update=detector), CARD.model_copy(update=classifier), tmp_path)


def test_a_folder_of_an_unknown_stain_has_no_blast_fraction(tmp_path):
    rgb = np.full((100, 300, 3), 255, np.uint8)
    for x in (50, 150, 250):
        cv2.circle(rgb, (x, 50), 12, (0, 60, 255), cv2.FILLED)  # far from all that was learnt
    names = [f"{i}.png" for i in range(4)]  # three white cells each: too few to tell by themselves
    for name in names:
        write_image(tmp_path / name, rgb)
    models = Model(FakeDetector(fake_card(0.5, (256, 256))), tmp_path, FakeClassifier())
    jobs = [Job(tmp_path / name, name) for name in names]
    batch = Batch(jobs, models, Options(mpp=0.5), Output(tmp_path / "out", ("csv", "xlsx")))
    assert not any(outcome.error for outcome in batch)
    totals, files = batch.finish()
    batch.close()
    for lines in (verbose_totals(totals), run_lines(totals, files)):
        said = "".join(lines)
        assert "12 of 12 white cells are unlike the training data" in said, said
        assert "%" not in said.replace("95 % CI", "").replace("         %", "")
    assert run_lines(totals, files)[1].startswith("12 of 12 white cells are unlike")


def test_a_batch_writes_what_both_stages_found(report, tmp_path):
    models, _ = report
    jobs, kinds = [Job(tmp_path / "field.png", "field.png")], ("json", "csv", "coco", "geojson")
    batch = Batch(jobs, models, Options(mpp=0.5), Output(tmp_path / "out", tuple(kinds)))
    assert not any(outcome.error for outcome in batch)
    batch.close()
    table = (tmp_path / "out/field.csv").read_text().splitlines()
    assert "blast_probability,unsure" in table[0]


def test_fields_taken_together_are_the_sums_and_a_strange_stain_is_told():
    found = combine([WhiteCells(3, 10, 1, 4, 1), WhiteCells(0, 4, 2, 1, 0)], CARD)
    assert found.parts == WhiteCells(3, 14, 3, 5, 1) and found.n == 20
    assert found.interval == pytest.approx(tuple(binomtest(3, 20).proportion_ci(method="exact")))
    assert found.warning() is None
    assert "15 of 20" in (combine([WhiteCells(0, 5, 15, 1)], CARD).warning() or "")
    assert combine([WhiteCells(0, 0, 2, 1)], CARD).warning() is None  # of so few, chance


def test_one_definition_of_counts_everywhere(judged, report, tmp_path):
    """Uncertain cells and erythroblasts are neither blasts nor other white cells: in the table, JSON and overlay."""
    _, found = report
    found = replace(found, detections=judged, candidates=judged, blast_fraction=count_white_cells(judged, CARD))
    assert found.counts == {"blast": 1, "wbc": 1, "unsure": 2, "erythroblast": 1, "rbc": 1, "platelet": 0}
    assert found.kinds == ["blast", "wbc", "unsure", "unsure", "erythroblast", "rbc"]
    document = found.to_dict()
    assert document["counts"] == found.counts
    white = document["white_cells"]
    assert (white["blasts"], white["others"], white["unsure"]) == tuple(
        found.counts[k] for k in ("blast", "wbc", "unsure")
    )
    printed = describe(found, [])
    for name, number in (("blast", 1), ("non-blast white cells", 1), ("unsure", 2), ("erythroblast", 1), ("rbc", 1)):
        assert f"  {name:<23}{number:>7}" in printed
    reasons = [cell.get("unsure_reason", "") for cell in document["cells"]]
    assert reasons == found.to_pandas()["unsure_reason"].tolist() == judged.unsure_reason.tolist()
    features = [feature["properties"]["metadata"]["unsure_reason"] for feature in found.to_geojson()["features"]]
    assert features == reasons
    assert [(row.cell_type, row.n) for row in found.differential] == [("blast", 1), ("wbc", 1), ("unsure", 2)]


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_printed_interval_is_never_narrower_than_counting_alone(blast, other):
    found = count_white_cells(_cells(blast, other), CARD)
    if not found.n:
        assert found.summary() == ["No white cells detected."]
        return
    low, high = found.printed_interval
    exact = binomtest(blast, found.n).proportion_ci(method="exact")
    assert low <= exact.low + 1e-9 and high >= exact.high - 1e-9
    assert found.summary()[0].count("95 % CI") == 1
    if found.corrected is not None and found.corrected_interval is not None:
        assert low <= found.corrected <= high
