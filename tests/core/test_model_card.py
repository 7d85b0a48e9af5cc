"""Weights that are missing, mismatched or tampered with are an error, never a silent fallback."""

from __future__ import annotations

import json

import pytest

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import find_weights, read_card, sha256_of, shipped, write_card
from blastdet.models.detector import load_detector
from blastdet.models.fake_detector import fake_card


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    card = fake_card().model_copy(update={"files": {"model.onnx": sha256_of(tmp_path / "model.onnx")}})
    write_card(card, tmp_path)
    return tmp_path


def test_round_trip(folder):
    card = read_card(folder)
    assert write_card(card, folder).read_text("utf-8") and read_card(folder) == card
    assert not list(folder.glob("*.tmp"))


def test_tampered_file(folder):
    (folder / "model.onnx").write_bytes(b"another model")
    with pytest.raises(WeightsError, match=r"model\.onnx: sha256 \w{12}… found, \w{12}… expected"):
        read_card(folder)


def test_missing_file(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(WeightsError, match=r"model\.onnx: missing"):
        read_card(folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"classes": ["wbc", "tumour"]}, "classes .'tumour'. found"),
        ({"thresholds": {}}, "no threshold for"),
        ({"mpp": -1}, "mpp: Input should be greater than or equal to 0.01"),
        ({"files": {"../../etc/passwd": "0"}}, "missing, although"),
        ({"surprise": 1}, "surprise: Extra inputs"),
    ],
)
def test_a_wrong_card_is_one_line(folder, change, line):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(WeightsError, match=line) as caught:
        read_card(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_broken_card_is_one_line(folder, content):
    (folder / "card.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"card\.json"):
        read_card(folder)


def test_a_file_that_is_no_model(folder):
    with pytest.raises(WeightsError, match=r"model\.onnx: (ONNX Runtime|OpenVINO) cannot load it") as caught:
        load_detector(folder)
    assert "\n" not in str(caught.value)


def test_unknown_name_lists_the_shipped_ones():
    with pytest.raises(WeightsError, match=r"nothing-here: no card\.json found, a weights folder or one of .*default"):
        find_weights("nothing-here")


def test_a_classifier_is_no_detector(folder):
    write_card(read_card(folder).model_copy(update={"task": "classify", "output": "probabilities"}), folder)
    with pytest.raises(WeightsError, match="weights to classify found, to detect expected"):
        load_detector(folder)


def test_shipped_weights_are_what_their_cards_say():
    for card in shipped("weights").glob("*/card.json"):
        read_card(card.parent)
