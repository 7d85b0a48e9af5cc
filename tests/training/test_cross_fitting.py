"""Calibration on folds left out of training: statistics against oracles, and the commands from crops to weights."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from made import cell_image, run_in_process
from sklearn.metrics import f1_score, roc_auc_score

import blastdet
from blastdet.core.errors import ConfigError
from blastdet.core.model_card import read_card, write_card
from blastdet.models.classifier import load_classifier
from blastdet.training.classification import cross_fitting, out_of_fold
from blastdet.training.classification.cross_fitting import cross_fit, fit, out_of_fold_figures
from blastdet.training.classification.out_of_fold import OutOfFold
from blastdet.training.config import ClassifyConfig
from blastdet.training.loop.run_list import summarise


def _predicted(n=600, shift=0.0, seed=0):
    """Cells of 12 clusters in 3 folds, whose probabilities are too certain and shifted."""
    rng = np.random.default_rng(seed)
    blast = rng.random(n) < 0.4
    logit = 3 * (rng.normal(0, 1, n) + 2 * blast - 1 + shift)
    cluster = np.arange(n) % 12
    names = np.array([f"set/{k}" for k in cluster])
    return OutOfFold(
        1 / (1 + np.exp(-logit)), blast, names, cluster % 3, rng.random(n) < 0.05, "crops of set", *np.full((4, n), "")
    )


def test_each_fold_is_calibrated_by_the_others_only():
    predicted = _predicted()
    score, called, unsure = cross_fit(predicted)
    mine = predicted.fold == 1
    changed = np.where(mine, 1 - predicted.probability, predicted.probability)
    other = cross_fit(replace(predicted, probability=changed))
    fitted = cross_fitting._fit(predicted.only(~mine))
    np.testing.assert_allclose(score[mine], fitted.calibration.apply(predicted.probability[mine]))
    np.testing.assert_allclose(other[0][mine], fitted.calibration.apply(1 - predicted.probability[mine]))
    np.testing.assert_array_equal(called[mine], score[mine] >= fitted.threshold.value)
    assert unsure[predicted.is_far].all()


def test_calibration_lowers_the_error_of_a_shifted_model_and_keeps_its_ranking():
    predicted = _predicted(shift=1.0)
    figures = out_of_fold_figures(predicted)
    assert figures["calibration error"] < figures["calibration error before"] / 2
    assert figures["Brier score"] < figures["Brier score before"]
    score, called, _ = cross_fit(predicted)
    value, low, high = figures["AUROC"]
    assert value == pytest.approx(roc_auc_score(predicted.is_blast, score)) and low < value < high
    assert figures["F1"][0] == pytest.approx(f1_score(predicted.is_blast, called))
    assert figures["sensitivity"][0] == pytest.approx(called[predicted.is_blast].mean())
    assert (figures["cells"], figures["clusters"]) == (600, 12)


def test_counts_by_cluster_add_up():
    predicted = _predicted()
    _, called, _ = cross_fit(predicted)
    trials = fit(predicted).trials
    assert len(trials) == 12 and sum(one.blasts for one in trials) == predicted.is_blast.sum()
    assert sum(one.blasts_called + one.others_called for one in trials) == called.sum()


def test_folds_without_blasts_are_one_line():
    predicted = _predicted()
    one_sided = OutOfFold(
        predicted.probability,
        predicted.fold == 0,
        predicted.cluster,
        predicted.fold,
        predicted.is_far,
        "x",
        *np.full((4, len(predicted.fold)), ""),
    )
    with pytest.raises(ConfigError, match="fold 0: expected blasts and other white cells in the other folds"):
        cross_fit(one_sided)


@pytest.fixture(scope="module")
def run(crops_folder):
    """A run folder with two folds, calibrated at the end."""
    words = ("--set", "folds=2", "--set", "epochs=1", "--out", "folded")
    text = run_in_process(crops_folder, "train", "made.yaml", *words)
    assert "fold 2 of 2" in text and "out of fold, 40 cells of 10 clusters: AUROC" in text
    return crops_folder / "folded"


def test_training_with_folds_leaves_calibrated_weights(run):
    card = read_card(run / "weights")
    assert card.calibration is not None and card.calibration.chosen_on == "40 crops of made, out of fold, by cluster"
    assert len(card.trials) == 10 and sum(one.blasts + one.others for one in card.trials) == 40
    assert card.thresholds["blast"].chosen_on == "40 crops of made, out of fold, by cluster, 20 blasts"
    assert card.metrics[0].split == "out of fold, by cluster" and card.metrics[0].metric == "AUROC"
    assert any(metric.split == "val" for metric in card.metrics)
    fold = read_card(run / "folds/fold-1/weights")
    assert fold.calibration is None and fold.training.config["fold"] == [1, 2]
    crops = [cell_image(kind, np.random.default_rng(1), 60) for kind in ("blast", "wbc")]
    assert load_classifier(run / "weights")(crops, [1 / 3] * 2).probability.shape == (2, 2)


def test_a_run_is_finished_once_it_is_calibrated(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("folds", "*.pt"))
    assert summarise(copy, tmp_path).state == "finished"
    card = read_card(copy / "weights")
    write_card(card.model_copy(update={"calibration": None}), copy / "weights")
    assert summarise(copy, tmp_path).state == "unfinished"
    (copy / "weights/card.json").write_text("{")
    assert summarise(copy, tmp_path).state.startswith("unreadable: ")


def test_the_api_calibrates_again_without_touching_the_run(run, crops_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(crops_folder)
    before = (run / "weights/card.json").read_bytes()
    lines = []
    folds = [run / "folds/fold-1", run / "folds/fold-0"]
    weights = blastdet.calibrate(run, folds, out=tmp_path / "mine", say=lines.append)
    assert weights == tmp_path / "mine" and "out of fold, 40 cells" in lines[0]
    again, first = read_card(weights), read_card(run / "weights")
    assert (again.calibration, again.trials, again.metrics) == (first.calibration, first.trials, first.metrics)
    assert (run / "weights/card.json").read_bytes() == before
    with pytest.raises(ConfigError, match="mine: exists already"):
        blastdet.calibrate(run, out=tmp_path / "mine")


def test_folds_that_do_not_belong_are_one_line(run, crops_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(crops_folder)
    with pytest.raises(ConfigError, match=r"expected runs for folds 0 to 1 of 2, got 0 of 2"):
        blastdet.calibrate(run, [run / "folds/fold-0"], out=tmp_path / "out")
    other = shutil.copytree(run / "folds/fold-1", tmp_path / "other")
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("mpp: 0.5", "mpp: 0.6"))
    with pytest.raises(ConfigError, match="differs in mpp"):
        blastdet.calibrate(run, [run / "folds/fold-0", other], out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"expected a classifier of blasts with an entry fold"):
        blastdet.calibrate(run, [run], out=tmp_path / "out")
    with pytest.raises(ConfigError, match="no folds found"):
        blastdet.calibrate(run / "folds/fold-0", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_finished_run_with_folds_is_resumed_to_the_same_weights(run, crops_folder):
    before = read_card(run / "weights")
    trained = [(run / f"folds/fold-{k}/last.pt").stat().st_mtime_ns for k in range(2)]
    words = ("--set", "folds=2", "--set", "epochs=1", "--out", "folded", "--resume")
    run_in_process(crops_folder, "train", "made.yaml", *words)
    assert [(run / f"folds/fold-{k}/last.pt").stat().st_mtime_ns for k in range(2)] == trained
    after = read_card(run / "weights")
    for name in ("calibration", "thresholds", "unsure", "trials", "metrics"):
        assert getattr(after, name) == getattr(before, name), name


def test_features_of_a_network_that_has_seen_the_fold_are_refused(tmp_path):
    settings = {"task": "classify", "name": "x", "label": "blast", "classes": ["blast", "wbc"]}
    settings |= {"data": [{"path": "made"}], "features": "net/weights", "model": "svm", "folds": 2}
    config = ClassifyConfig.model_validate(settings)
    with pytest.raises(ConfigError, match=r"features: net/weights: its network has seen all folds; .*folds: 2 first"):
        out_of_fold._without_fold(config, tmp_path, 0, 2)
    (tmp_path / "net/folds/fold-0/weights").mkdir(parents=True)
    (tmp_path / "net/folds/fold-0/weights/card.json").write_text("{}")
    assert out_of_fold._without_fold(config, tmp_path, 0, 2).features == "net/folds/fold-0/weights"
