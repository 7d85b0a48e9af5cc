"""Faster R-CNN from configuration to report: it trains, resumes exactly, and its weights can be used."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from made import kill_after_an_epoch

from blastdet.core.model_card import read_card

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(films, blastdet):
    done = blastdet("train", "rcnn.yaml", "--out", "rcnn")
    assert "export equals torch within 0.0" in done.stdout
    return films / "rcnn"


def test_card_and_detect_and_evaluate(run, films, blastdet):
    card = read_card(run / "weights")
    assert card.output == "boxes" and card.training.config["model"] == "fasterrcnn_mobilenet"
    blastdet("detect", "films/smear_0000.jpg", "--weights", "rcnn/weights", "--mpp", "0.25", "--out", "rcnn-found")
    assert json.loads((films / "rcnn-found/smear_0000.json").read_text())["model"]["name"] == "rcnn"
    words = ["--data", "films/truth.json", "--split", "all", "--weights", "rcnn/weights", "--mpp", "0.25"]
    assert "AP50" in blastdet("evaluate", *words, "--out", "report").stdout


def test_killed_and_resumed_equals_uninterrupted(run, films, blastdet):
    kill_after_an_epoch(films, "rcnn-killed", "rcnn.yaml")
    assert "resuming after epoch 1" in blastdet("train", "rcnn.yaml", "--out", "rcnn-killed", "--resume").stdout
    whole, killed = (torch.load(films / n / "last.pt", weights_only=True) for n in ("rcnn", "rcnn-killed"))
    for part in ("model", "ema"):
        for name, value in whole[part].items():
            torch.testing.assert_close(killed[part][name], value, rtol=0, atol=0, msg=f"{part} {name}")


def test_another_training_starts_from_its_weights(run, blastdet):
    words = ["--set", "epochs=1", "--set", "epoch_samples=2", "--init", "rcnn/best.pt", "--out", "rcnn-again"]
    assert "best.pt: " in blastdet("train", "rcnn.yaml", *words).stdout


def test_int8(run, blastdet):
    out = blastdet("export", "rcnn", "--precision", "int8").stdout
    assert "all AP50" in out and "rcnn/weights-onnx-int8" in out
    blastdet(
        "detect", "films/smear_0000.jpg", "--weights", "rcnn/weights-onnx-int8", "--mpp", "0.25", "--out", "rcnn-found8"
    )


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_openvino(precision, run, films, blastdet):
    out = blastdet("export", "rcnn", "--to", "openvino", "--precision", precision).stdout
    assert "all AP50" in out and ("export equals torch within 0.0" in out) == (precision == "f32")
    words = ["--weights", f"rcnn/weights-openvino-{precision}", "--mpp", "0.25", "--out", f"rcnn-found-{precision}"]
    blastdet("detect", "films/smear_0000.jpg", *words)
    assert json.loads((films / f"rcnn-found-{precision}/smear_0000.json").read_text())["model"]["name"].startswith(
        "rcnn"
    )
