"""Weights that are missing, mismatched or modified give an error, never a silent fallback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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


def test_modified_file(folder):
    (folder / "model.onnx").write_bytes(b"another model")
    with pytest.raises(WeightsError, match=r"model\.onnx: expected sha256 \w{12}… as in card\.json, got \w{12}…"):
        read_card(folder)


def test_missing_file(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(WeightsError, match=r"model\.onnx: listed in card\.json, but missing"):
        read_card(folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"classes": ["wbc", "tumour"]}, "card: expected classes among blast, wbc, rbc, platelet, got 'tumour'"),
        ({"classes": []}, "expected one or more different classes"),
        ({"thresholds": {}}, "expected a threshold for every class, got none for wbc, rbc, platelet"),
        ({"mpp": -1}, "mpp: Input should be greater than or equal to 0.01"),
        ({"files": {"../../etc/passwd": "0"}}, "listed in card.json, but missing"),
        ({"output": "probabilities"}, "output: expected yolo or boxes for task detect, got probabilities"),
        ({"input": {"wh": [16, 640]}}, r"input\.wh: expected at least the stride, 32, got \(16, 640\)"),
        ({"input": {"wh": [64, 64], "std": [0, 1, 1]}}, r"input\.std: expected values other than 0"),
        (
            {"calibration": {"slope": 1, "offset": 0, "chosen_on": "val"}},
            "calibration: expected .* got classes wbc, rbc",
        ),
        (
            {"task": "classify", "output": "probabilities", "second_stage": "blast"},
            "second_stage: expected a detector without the class blast, got task classify with classes wbc, rbc",
        ),
        ({"surprise": 1}, "surprise: Extra inputs"),
    ],
)
def test_an_invalid_card_gives_a_one_line_error(folder, change, line):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(WeightsError, match=line) as caught:
        read_card(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_card_gives_a_one_line_error(folder, content):
    (folder / "card.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"card\.json"):
        read_card(folder)


def test_a_file_that_is_not_a_model(folder):
    with pytest.raises(WeightsError, match=r"model\.onnx: .*(cannot load it|expected an ONNX model)") as caught:
        load_detector(folder)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_shipped_models():
    with pytest.raises(
        WeightsError, match=r"nothing-here: expected a folder with card\.json or a shipped model \(.*default"
    ):
        find_weights("nothing-here")


def test_a_classifier_is_not_accepted_as_a_detector(folder):
    write_card(read_card(folder).model_copy(update={"task": "classify", "output": "probabilities"}), folder)
    with pytest.raises(WeightsError, match="expected a model with task detect, got task classify"):
        load_detector(folder)


def test_shipped_weights_match_their_cards():
    for card in shipped("weights").glob("*/card.json"):
        read_card(card.parent)


def test_a_card_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    folder = shutil.copytree(find_weights("default"), tmp_path / "weights")
    (folder / "card.json").write_bytes(b"\xef\xbb\xbf" + (folder / "card.json").read_bytes())
    assert read_card(folder) == read_card(find_weights("default"))
