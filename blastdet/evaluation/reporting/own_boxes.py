"""Boxes of the truth that are the model's own: people confirmed them, and how well boxes fit is then not measured."""

from __future__ import annotations

import numpy as np

from blastdet.core.types import Dataset, Detections
from blastdet.evaluation.predict import Predictions

_SAME_PX = 0.06  # pages round to 0.1 px; people hardly ever draw a box so alike


def own_boxes_note(dataset: Dataset, predictions: Predictions) -> list[str]:
    """A note where people confirmed boxes, or gave them another class, that are those of the model that is measured."""
    pairs = [
        (sample.truth if sample.truth.ignore is None else sample.truth[~sample.truth.ignore], found)
        for sample, found in zip(dataset, predictions.candidates, strict=True)
        if sample.truth is not None and sample.annotated
    ]
    own = sum(_number_of_own(truth, found) for truth, found in pairs)
    n = sum(len(truth) for truth, _ in pairs)
    what = "boxes are the model's own, confirmed by people: how well boxes fit is not measured"
    return [f"{own} of {n} {what}"] if own else []


def _number_of_own(truth: Detections, found: Detections) -> int:
    """How many boxes of people are boxes of the model, but for rounding."""
    if truth.origin is None or not len(found):
        return 0
    boxes = found.boxes_xyxy[np.argsort(found.boxes_xyxy[:, 0], kind="stable")]
    own = 0
    for box in truth.boxes_xyxy[truth.origin == "human"]:  # nearly all boxes differ on the left
        first, end = np.searchsorted(boxes[:, 0], [box[0] - _SAME_PX, box[0] + _SAME_PX], side="left")
        own += bool((np.abs(boxes[first:end] - box).max(axis=1, initial=0) <= _SAME_PX).any())
    return own
