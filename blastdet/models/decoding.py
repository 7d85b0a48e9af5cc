"""Decoding of raw model outputs to `Detections`: one function for each kind of output (`Card.output`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blastdet.core import boxes
from blastdet.core.model_card import Card
from blastdet.core.types import Detections
from blastdet.models.detector import SCORE_FLOOR

Raw = NDArray[np.float32]


def decode(prediction: Raw, hw: tuple[int, ...], card: Card) -> Detections:
    """Decode the raw output of one image.

    Parameters
    ----------
    prediction : float32
        See `decode_yolo` and `decode_boxes`.
    hw : (int, int)
        Height and width of the image before padding; boxes are clipped to it.
    card : Card
        Its `output` selects the format.

    Returns
    -------
    Detections
        In pixels of the image, after non-maximum suppression, with scores from `SCORE_FLOOR`.
    """
    return {"yolo": decode_yolo, "boxes": decode_boxes}[card.output](prediction, hw, card)


def decode_yolo(prediction: Raw, hw: tuple[int, ...], card: Card) -> Detections:
    """Decode the raw output of a YOLO head.

    `prediction` is float32 (4 + k, anchors): centre x, centre y, width and height in input pixels, then the probability
    of each of k classes.

    Examples
    --------
    >>> from blastdet.models.fake_detector import fake_card
    >>> column = np.array([[50, 40, 20, 10, 0.9, 0.1, 0.0]], np.float32).T
    >>> decode_yolo(column, (100, 100), fake_card()).boxes_xyxy.tolist()
    [[40.0, 35.0, 60.0, 45.0]]
    """
    few = prediction[:, prediction[4:].max(axis=0) >= SCORE_FLOOR]  # a few of thousands of anchors
    cx, cy, w, h = few[:4]
    corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
    return decode_boxes(np.concatenate([corners, few[4:].T], axis=1), hw, card)


def decode_boxes(prediction: Raw, hw: tuple[int, ...], card: Card) -> Detections:
    """Decode boxes without non-maximum suppression applied.

    `prediction` is float32 (n, 4 + k): left, top, right and bottom in input pixels, then the probability of each of k
    classes.

    Examples
    --------
    >>> from blastdet.models.fake_detector import fake_card
    >>> rows = np.array([[40, 35, 60, 45, 0.9, 0.1, 0.0], [41, 35, 60, 45, 0.8, 0.1, 0.0]], np.float32)
    >>> decode_boxes(rows, (100, 100), fake_card()).boxes_xyxy.tolist()
    [[40.0, 35.0, 60.0, 45.0]]
    """
    rows = prediction[prediction[:, 4:].max(axis=1, initial=0) >= SCORE_FLOOR]
    xyxy = boxes.clip(rows[:, :4], (hw[1], hw[0]))
    inside = boxes.area(xyxy) > 0
    probability = rows[inside, 4:]
    label = np.asarray(card.labels)[probability.argmax(axis=1)]
    found = Detections(xyxy[inside], np.minimum(probability.max(axis=1, initial=0), 1), label)
    return found[boxes.suppress(found.boxes_xyxy, found.score, card.suppression_iou)].sorted()
