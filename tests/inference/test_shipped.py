"""The weights that are shipped: both stages fit, say what they promise, and do not mind the microscope's resolution."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from blastdet.core.errors import WeightsError
from blastdet.core.model_card import find_weights, read_card, write_card
from blastdet.datasets.formats.registry import read
from blastdet.imaging.cell_crops import crop
from blastdet.imaging.io import open_smear
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.inference.model import load
from blastdet.models.classifier import load_classifier

COARSE = (0.5, 0.375)
"""µm/px of ALL fields along x and y, the coarsest images in the training of the classifier."""


def _taken_down(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """A crop as the camera of ALL fields would have shown it: fewer pixels along x than along y, and JPEG."""
    size = [max(round(len(rgb) * mpp / side), 1) for side in COARSE]
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    coded = cv2.imdecode(cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)
    return cv2.resize(np.ascontiguousarray(coded[..., ::-1]), [max(size)] * 2, interpolation=cv2.INTER_LINEAR)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["pbc_wbc", "bccd"])
def test_blurred_does_not_mean_blast(name, data_dir):
    """The same cells, sharp and taken down to the pixels that all blasts of the training were seen in."""
    model = load_classifier("differential", "cpu")
    blast = model.card.classes.index("blast")
    sharp, coarse, scales = [], [], []
    for sample in list(read(data_dir / name))[::25][:60]:
        assert sample.truth is not None and sample.mpp is not None
        white = sample.truth.with_classes("wbc")
        if len(white):
            with normalize_stain(open_smear(sample.path), "canonical") as source:
                sharp.append(crop(source, tuple(white.boxes_xyxy[0].tolist()), sample.mpp))
            scales.append(min(sample.mpp))
            coarse.append(_taken_down(sharp[-1], scales[-1]))
    before = model(sharp, scales).probability[:, blast]
    after = model(coarse, [COARSE[1]] * len(coarse)).probability[:, blast]
    assert len(before) >= 14 and np.median(np.abs(before - after)) < 0.1


def test_the_detector_names_a_second_stage_that_fits():
    models = load("default", "cpu")
    assert models.classifier is not None and models.classes[0] == "blast"
    card = models.classifier.card
    assert card.unsure is not None and len(card.trials) > 30
    assert load("default", "cpu", second_stage=False).classes == ("wbc", "rbc", "platelet")


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped detector that tests may modify."""
    return shutil.copytree(find_weights("default"), tmp_path / "mine")


def test_a_second_stage_may_lie_beside_the_detector(folder):
    shutil.copytree(find_weights("differential"), folder.parent / "mine-too")
    write_card(read_card(folder).model_copy(update={"second_stage": "mine-too"}), folder)
    assert load(folder, "cpu").classifier is not None


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nowhere", "nowhere: expected a folder with card.json or a shipped model"),
        ("default", "expected a model with task classify, got task detect"),
    ],
)
def test_an_invalid_second_stage_gives_a_one_line_error(folder, name, line):
    write_card(read_card(folder).model_copy(update={"second_stage": name}), folder)
    with pytest.raises(WeightsError, match=f"cannot load the second stage: .*{line}"):
        load(folder, "cpu")


def test_a_modified_second_stage_raises_an_error(folder):
    other = shutil.copytree(find_weights("differential"), folder.parent / "mine-too")
    write_card(read_card(folder).model_copy(update={"second_stage": "mine-too"}), folder)
    with (other / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(WeightsError, match="sha256"):
        load(folder, "cpu")


def test_cards_say_what_they_must():
    for name in ("default", "differential"):
        text = (find_weights(name) / "card.json").read_text(encoding="utf-8")
        assert "Research Use Only" in json.loads(text)["intended_use"]


def test_weights_that_changed_on_disk_are_loaded_anew(tmp_path):
    for name in ("default", "differential"):
        shutil.copytree(find_weights(name), tmp_path / name)
    first = load(tmp_path / "default", "cpu")
    assert load(tmp_path / "default", "cpu") is first
    card = read_card(tmp_path / "differential")
    points = {name: point.model_copy(update={"value": 0.75}) for name, point in card.thresholds.items()}
    write_card(card.model_copy(update={"thresholds": points}), tmp_path / "differential")
    again = load(tmp_path / "default", "cpu")
    assert again is not first and again.classifier.card.thresholds["blast"].value == 0.75
