"""Classifiers of scikit-learn on features: one ONNX file each, which answers as scikit-learn does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from made import cell_image, run_in_process

from blastdet.core.model_card import read_card
from blastdet.models.classifier import load_classifier
from blastdet.training.classification.sklearn_models import MODELS

SETTINGS = ["--set", "epoch_samples=120", "--set", "epochs=1"]


def _predict_probability(weights):
    model, rng = load_classifier(weights), np.random.default_rng(1)
    kinds = ["blast", "wbc"] * 10
    found = model([cell_image(kind, rng, 60) for kind in kinds], [1 / 3] * 20)
    np.testing.assert_allclose(found.probability.sum(axis=1), 1, atol=1e-5)
    assert np.isfinite(found.distance).all()
    return [model.card.classes[i] for i in found.probability.argmax(axis=1)], kinds


@pytest.mark.parametrize("name", MODELS)
def test_every_classifier_learns_from_the_features_of_a_network(name, crops_folder, crops_run):
    words = ["--set", "features=run/weights", "--set", f"model={name}", *SETTINGS]
    text = run_in_process(crops_folder, "train", "made.yaml", "--out", f"net-{name}", *words)
    assert "export equals the model within 0.0" in text
    card = read_card(crops_folder / f"net-{name}/weights")
    assert card.sees == "pixels" and card.unsure is not None and card.training.config["model"] == name
    found, kinds = _predict_probability(crops_folder / f"net-{name}/weights")
    assert found == kinds


@pytest.mark.parametrize(("name", "pca"), [("svm", "null"), ("random_forest", "null"), ("lda", "10")])
def test_hand_made_features_need_no_network(name, pca, crops_folder):
    words = ["--set", "features=hand-made", "--set", f"model={name}", "--set", f"pca={pca}", *SETTINGS]
    run_in_process(crops_folder, "train", "made.yaml", "--out", f"hand-{name}", *words)
    run = crops_folder / f"hand-{name}"
    card = read_card(run / "weights")
    assert card.sees == "hand-made features"
    found, kinds = _predict_probability(run / "weights")
    assert found == kinds
    assert (run / "importance.png").is_file() and (run / "reliability.png").is_file()
    graph = onnx.load(run / "weights/model.onnx").graph
    assert [value.name for value in graph.input] == ["features"]
    assert [value.name for value in graph.output] == ["probability", "distance"]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (["features=run/weights", "model=resnet18"], "model: with features, expected one of ['svm'"),
        (["features=hand-made", "model=svm", "options={nonsense: 1}"], "with options {'nonsense': 1}"),
        (["features=nowhere", "model=svm"], "nowhere: expected a folder with card.json or a shipped model"),
        (["features=default", "model=svm"], "expected the weights of a network that classifies crops"),
        (["features=run/weights", "model=svm", "mpp=0.4"], "got (0.4, 64, 0.7, 'as it is')"),
        (["features=hand-made", "model=random_forest", "epoch_samples=1"], "epoch_samples: too few samples of"),
        (["features=hand-made", "model=k_nearest", "options={metric: chebyshev}"], "model: k_nearest with options"),
        (["features=hand-made", "model=lda", "init=last.pt"], "init: is for networks"),
        (["features=hand-made", "model=lda", "pca=500"], "pca 500"),
    ],
)
def test_bad_settings_are_one_line(setting, line, crops_folder, crops_run):
    words = [word for one in setting for word in ("--set", one)]
    text = run_in_process(crops_folder, "train", "made.yaml", "--out", "bad", *SETTINGS, *words, code=2)
    assert line in text and "Traceback" not in text
