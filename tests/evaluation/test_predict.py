"""Predictions of a loaded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blastdet.core.types import Dataset, Detections, Sample
from blastdet.evaluation.predict import from_model
from blastdet.imaging.io import write_image
from blastdet.inference.model import Model
from blastdet.models.fake_classifier import FakeClassifier, fake_classifier_card
from blastdet.models.fake_detector import FakeDetector


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Two stages; the second one calls the cell of `image` a blast."""
    card = fake_classifier_card()
    blast = card.thresholds["blast"].model_copy(update={"value": 0.2})
    return Model(FakeDetector(), tmp_path, FakeClassifier(card.model_copy(update={"thresholds": {"blast": blast}})))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    rgb = np.full((120, 160, 3), 255, np.uint8)
    rgb[40:70, 50:80] = (80, 0, 255)
    write_image(tmp_path / "cell.png", rgb)
    return tmp_path / "cell.png"


@pytest.mark.parametrize(("annotated", "label"), [(("wbc",), "wbc"), (("blast", "wbc"), "blast")])
def test_a_loaded_model_runs_its_second_stage_only_on_datasets_with_blasts(
    model: Model, image: Path, annotated: tuple[str, ...], label: str
) -> None:
    """As a model that is given by name: without blasts in the dataset, a cell called blast would count as missed."""
    truth = Detections([[50, 40, 80, 70]])
    dataset = Dataset("one", image.parent, (Sample(image, (160, 120), (0.5, 0.5), annotated=annotated, truth=truth),))
    predictions = from_model(model, dataset)
    counts = predictions.candidates[0].counts()
    assert [name for name, n in counts.items() if n] == [label]
    assert predictions.nucleated == (label == "wbc") and ("blast" in predictions.thresholds) == (label == "blast")
