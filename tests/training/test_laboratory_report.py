"""Laboratories left out: calibrated by the others only, and an interval that holds where they differ."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blastdet.core.model_card import ValidationCounts, find_weights, read_card
from blastdet.datasets.cropping.crop_table import read_table
from blastdet.inference.blast_fraction import corrected_fraction
from blastdet.inference.differential import WhiteCells
from blastdet.training.classification.crop_samples import split
from blastdet.training.classification.cross_fitting import counts_by_cluster, cross_fit, fit
from blastdet.training.classification.laboratory_report import by_laboratory, draw_errors, on_validation, surest_errors
from blastdet.training.classification.out_of_fold import TRAINED_ON, OutOfFold, predict_validation
from blastdet.training.config import ClassifyConfig
from blastdet.training.config_file import read_any

SHIFT = {"a": 0.0, "b": -1.0, "c": 1.0, "d": 0.3}


MANY = {f"l{k}": shift for k, shift in enumerate(np.random.default_rng(5).normal(0, 0.8, 10))}


def _laboratories(patients: int = 12, shifts: dict[str, float] = SHIFT) -> OutOfFold:
    """Cells of laboratories; a model is shifted in each, and in each patient a little."""
    rng, parts, cells = np.random.default_rng(0), [], 40
    for number, (name, shift) in enumerate(shifts.items()):
        for patient in range(patients):
            blast = rng.random(cells) < rng.uniform(0.05, 0.9)
            logit = 1.5 * (rng.normal(0, 1, cells) + 2.4 * blast - 1.2 + shift + rng.normal(0, 0.3))
            parts.append(
                (1 / (1 + np.exp(-logit)), blast, [f"{name}/{patient}"] * cells, [number] * cells, [name] * cells)
            )
    p, blast, cluster, fold, laboratory = (np.concatenate(column) for column in zip(*parts, strict=True))
    return OutOfFold(p, blast, cluster, fold, np.zeros(len(p), bool), "crops", laboratory, *np.full((3, len(p)), ""))


def test_laboratories_and_classes_have_the_same_weight() -> None:
    predicted = _laboratories()
    few = predicted.only((predicted.laboratory != "a") | (np.arange(len(predicted.fold)) % 7 == 0))
    for blast in (False, True):
        for name in SHIFT:
            mine = (few.laboratory == name) & (few.is_blast == blast)
            assert few.weight[mine].sum() == pytest.approx(0.5 / 4)


def test_a_laboratory_is_classified_by_what_the_others_taught() -> None:
    predicted = _laboratories()
    _, before, _ = cross_fit(predicted)
    mine = predicted.laboratory == "c"
    changed = replace(predicted, is_blast=np.where(mine, ~predicted.is_blast, predicted.is_blast))
    np.testing.assert_array_equal(cross_fit(changed)[1][mine], before[mine])


def test_the_threshold_is_the_best_for_laboratories_of_equal_weight() -> None:
    predicted = _laboratories()
    fitted = fit(predicted)
    score, called, unsure = fitted.classify_cells(predicted.probability)

    def balanced(called: np.ndarray) -> float:
        return float(predicted.weight @ (called == predicted.is_blast))

    best = max(balanced(score >= t) for t in np.quantile(score, np.linspace(0, 1, 300)))
    assert balanced(called) > best - 0.01
    assert unsure @ predicted.weight == pytest.approx(0.2, abs=0.04)
    assert "laboratories of equal weight" in fitted.threshold.criterion


def test_small_clusters_of_a_laboratory_count_as_one() -> None:
    predicted = _laboratories()
    cluster = predicted.cluster.astype("<U20")
    mine = np.flatnonzero(predicted.laboratory == "d")
    cluster[mine] = [f"d/{i}" for i in mine]
    called = predicted.probability > 0.5
    trials = counts_by_cluster(replace(predicted, cluster=cluster), called)
    of_d = [one for one in trials if one.laboratory == "d"]
    assert len(of_d) == 1 and of_d[0].blasts + of_d[0].others == len(mine)
    assert sum(one.blasts_called + one.others_called for one in trials) == called.sum()


def test_the_interval_holds_in_laboratories_left_out() -> None:
    rows = by_laboratory(_laboratories(10, MANY))
    assert [row.laboratory for row in rows] == list(MANY) and all(row.clusters == 10 for row in rows)
    held, counted, withheld = (sum(row.coverage[i] for row in rows) for i in range(3))
    assert (counted, withheld) == (100, 0) and held >= 90
    assert all(row.auroc and row.auroc[0] > 0.9 for row in rows)


def _trials(laboratories: int, called: int) -> list[ValidationCounts]:
    counts = {"blasts": 50, "blasts_called": called, "others": 50, "others_called": 2}
    return [ValidationCounts(laboratory=f"{called}-{k}", **counts) for k in range(laboratories) for _ in range(5)]


def test_no_cell_called_is_no_certainty_where_a_laboratory_was_missed() -> None:
    """The case of issue I: 0 of 872 cells called, on a stain that one of the left-out laboratories also failed on."""
    _, sure = corrected_fraction(WhiteCells(0, 872, 0, 0), _trials(12, 47))
    _, honest = corrected_fraction(WhiteCells(0, 872, 0, 0), _trials(3, 47) + _trials(1, 2))
    assert sure is None or sure[1] < 0.02
    assert honest is not None and honest[1] > 0.5


def test_few_laboratories_say_little_about_the_next() -> None:
    width = []
    for n in (2, 3, 6, 12):
        _, interval = corrected_fraction(WhiteCells(60, 140, 0, 60), _trials(n, 45))
        assert interval is not None and interval[0] < 0.3 < interval[1]
        width.append(interval[1] - interval[0])
    assert width == sorted(width, reverse=True) and width[0] > 0.8 and width[-1] < 0.35


def test_groups_held_out_for_validation(crops_run: Path, crops_folder: Path) -> None:
    weights = crops_run / "weights"
    (row,) = on_validation(predict_validation(crops_run / "config.yaml", crops_folder, weights), read_card(weights))
    config = read_any(crops_run / "config.yaml")
    assert isinstance(config, ClassifyConfig)
    held = [row for row in split(read_table(crops_folder / "made"), config.val_fraction, config.seed)[1] if row.label]
    assert (row.laboratory, row.cells, row.clusters) == (
        "made, groups held out",
        len(held),
        len({one.cluster for one in held}),
    )
    assert row.balanced_accuracy == 1.0 and row.auroc == (1.0, 1.0, 1.0)  # see test_cnn: it learns these completely


def test_a_laboratory_is_predicted_without_its_groups_held_out_either() -> None:
    """Groups held out of "a" belong to the fold of "a": their labels change nothing for it."""
    predicted = _laboratories()
    held = replace(predicted, laboratory=np.char.add(predicted.laboratory, TRAINED_ON))
    names = [one.name for one in fields(OutOfFold) if one.name != "data"]
    both = {name: np.concatenate([getattr(predicted, name), getattr(held, name)]) for name in names}
    pool = OutOfFold(**both, data="crops")
    before = {row.laboratory: row for row in by_laboratory(pool)}
    mine = pool.laboratory == f"a{TRAINED_ON}"
    after = by_laboratory(replace(pool, is_blast=np.where(mine, ~pool.is_blast, pool.is_blast)))
    assert len(before) == 8 and next(row for row in after if row.laboratory == "a") == before["a"]


def test_types_and_false_blasts_are_those_of_a_table_made_by_hand() -> None:
    """Laboratory "a" labels types; the scores of two of its monocytes are those of blasts."""
    predicted = _laboratories()
    mine = np.flatnonzero((predicted.laboratory == "a") & ~predicted.is_blast)
    kind, answer = np.full(len(predicted.fold), "", "<U12"), np.full(len(predicted.fold), "monocyte", "<U12")
    kind[mine] = "lymphocyte"
    kind[mine[:10]] = "monocyte"
    answer[mine] = "lymphocyte"
    score = np.where(predicted.is_blast, 0.99, 0.01)
    score[mine[:2]] = 0.999
    changed = replace(predicted, probability=score, cell_type=kind, other_type=answer)
    card = read_card(find_weights("differential"))
    row, *others = on_validation(changed, card)
    assert row.false_blasts_of == {"lymphocyte": (0, len(mine) - 10), "monocyte": (2, 10)}
    lymphocytes = len(mine) - 10
    assert row.macro_f1 == pytest.approx((2 * lymphocytes / (2 * lymphocytes + 8) + 0) / 2)
    assert all(np.isnan(one.macro_f1) and not one.false_blasts_of for one in others)


def test_the_surest_errors_are_of_both_kinds_and_drawn(tmp_path: Path) -> None:
    predicted = _laboratories()
    crop = tmp_path / "cell.png"
    Image.new("RGB", (32, 24), (200, 100, 150)).save(crop)
    predicted = replace(predicted, crop=np.full(len(predicted.fold), str(crop)), other_type=predicted.cluster)
    errors = surest_errors(predicted, cross_fit(predicted), most=10)
    assert list(errors) == list(SHIFT)
    for cells in errors.values():
        assert len(cells) == 10
        assert all((cell.label == "blast") != (cell.answer == "blast") for cell in cells)
        missed = [cell.probability for cell in cells if cell.label == "blast"]
        assert missed == sorted(missed)
    assert {cell.answer == "blast" for cell in errors["a"]} == {True, False}
    draw_errors(errors["a"], tmp_path / "sheets/a.png", columns=4)
    with Image.open(tmp_path / "sheets/a.png") as sheet:
        assert sheet.size == (600, 3 * 184)
