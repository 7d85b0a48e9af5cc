"""Four images of discs with one error of each kind, for the page and for FiftyOne."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from blastdet.core.types import Dataset, Detections, Sample
from blastdet.evaluation.predict import Predictions
from blastdet.imaging.io import write_image

THRESHOLDS = {"blast": 0.5, "wbc": 0.5, "rbc": 0.5}


def grid(n: int) -> np.ndarray:
    corner = np.array([[60 * (i % 5) + 5, 60 * (i // 5) + 5] for i in range(n)], np.float32)
    return np.concatenate([corner, corner + 40], axis=1)


@pytest.fixture
def made(tmp_path):
    """The images and detections of `made_in` in a folder of their own."""
    return made_in(tmp_path)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """As `made`, for tests that write nothing beside the images."""
    return made_in(tmp_path_factory.mktemp("made"))


def made_in(folder):
    """Four images of 20 discs, half of them blasts; detections have one error of each kind."""
    samples, found = [], []
    boxes = grid(20)
    label = np.arange(20) % 2
    for number in range(4):
        rgb = np.full((250, 310, 3), 235 - number, np.uint8)
        for box, k in zip(boxes.astype(int), label, strict=True):
            cv2.circle(rgb, (box[0] + 20, box[1] + 20), 18, ((120, 40, 130), (160, 120, 200))[k], cv2.FILLED)
        write_image(folder / f"s{number}.png", rgb)
        truth = Detections(boxes, label=label)
        sample = Sample(folder / f"s{number}.png", (310, 250), (0.3, 0.3), annotated=("blast", "wbc"), truth=truth)
        samples.append(sample)
        found.append(Detections(boxes, label=label, score=np.full(20, 0.9), blast_probability=1.0 - label * 0.9))
    found[0] = found[0][1:]  # the first cell, a blast, is missed
    extra = Detections([[250, 200, 300, 240]], label=[0], score=[0.8], blast_probability=[0.7])
    found[1] = Detections.concatenate([found[1], extra])
    wrong = found[2].label.copy()
    wrong[1] = 0
    found[2] = found[2].with_columns(label=wrong)
    moved = found[3].boxes_xyxy.copy()
    moved[4] += 6
    found[3] = found[3].with_columns(boxes_xyxy=moved, unsure=np.arange(20) == 7)
    dataset = Dataset("made", folder, tuple(samples))
    return dataset, Predictions("model", tuple(found), THRESHOLDS, {"files": {"model.onnx": "ab" * 32}})
